// Gate, up and SwiGLU of bf16 matrices for Hopper in one kernel: y [m, f] = silu(a gate^T) (a up^T), a [m, k], gate and
// up [f, k], sums in f32. What is before SwiGLU is written only where the way back needs it.
//
// A tile of 128 rows has 128 columns of gate and the same 128 of up, side by side in the sums of a thread. One group of
// warps copies tiles into a ring in shared memory (TMA), two multiply (wgmma), 64 rows each. Nothing but the ring holds
// these two together. Blocks stay and take tiles in a fixed order, and every sum is made in one order, so results repeat
// bit by bit.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Rows of a tile, columns of gate in it, steps of the ring, and buffers of a group for what it writes.
constexpr int ROWS = 128, COLUMNS = 128, STEPS = 4, BUFFERS = 2;
// Of a step in shared memory (a, then gate, then up), and of a buffer (64 rows and columns).
constexpr int BYTES_A = ROWS * 128, BYTES_B = COLUMNS * 128, BYTES = BYTES_A + 2 * BYTES_B, BYTES_OUT = 64 * 128;
// Rows of tiles that blocks go down before they take the next column.
constexpr int GROUP = 16;

// KEEP: gate and up themselves go to `kept`, for the way back.
template <bool KEEP>
DEVICE void gated_product(const TensorMap* a, const TensorMap* gate, const TensorMap* up, const TensorMap* y,
                          const TensorMap* kept_gate, const TensorMap* kept_up, int m, int f, int k) {
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 out = base + STEPS * BYTES, full = out + 2 * BUFFERS * BYTES_OUT, empty = full + 8 * STEPS;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 8);
        }
        barriers_made();
    }
    __syncthreads();
    int columns = (f + COLUMNS - 1) / COLUMNS, rows = (m + ROWS - 1) / ROWS;
    int tiles = rows * columns, steps = (k + 63) / 64;
    u32 at = 0;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 parity = 1;
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                int row, column;
                place<GROUP>(t, rows, columns, row, column);
                for (int step = 0; step < steps; step++) {
                    u32 to = base + at * BYTES, bar = full + 8 * at;
                    barrier_wait(empty + 8 * at, parity);
                    barrier_expect(bar, BYTES);
                    load_box(to, a, bar, step * 64, row * ROWS);
                    load_box(to + BYTES_A, gate, bar, step * 64, column * COLUMNS);
                    load_box(to + BYTES_A + BYTES_B, up, bar, step * 64, column * COLUMNS);
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1, writes = 0;
    u32 mine = out + me * BUFFERS * BYTES_OUT, parity = 0, last = 0;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        int row, column;
        place<GROUP>(t, rows, columns, row, column);
        // Gates in the first half, ups in the second.
        float d[COLUMNS];
        #pragma unroll
        for (int i = 0; i < COLUMNS; i++) d[i] = 0.f;
        pin(d);
        for (int step = 0; step < steps; step++) {
            barrier_wait(full + 8 * at, parity);
            u64 of_a = descriptor(base + at * BYTES + 64 * 128 * me);
            u64 of_b = descriptor(base + at * BYTES + BYTES_A);
            multiply_fence();
            #pragma unroll
            for (int u = 0; u < 4; u++) multiply(d, of_a + 2 * u, of_b + 2 * u);
            multiply_commit();
            if (step) {
                multiply_wait<1>();
                if (lane == 0) barrier_arrive(empty + 8 * last);
            }
            last = at;
            if (++at == STEPS) at = 0, parity ^= 1;
        }
        multiply_wait<0>();
        pin(d);
        if (lane == 0) barrier_arrive(empty + 8 * last);

        // Out in boxes of 64 columns: gate and up, where they are kept, and what comes of them.
        #pragma unroll
        for (int q = 0; q < COLUMNS / 64; q++) {
            #pragma unroll
            for (int which = KEEP ? 0 : 2; which < 3; which++) {
                u32 box = mine + writes % BUFFERS * BYTES_OUT;
                writes++;
                if (warp == 0 && lane == 0) stores_read<BUFFERS - 1>();
                group_barrier(1 + me);
                #pragma unroll
                for (int j = 0; j < 8; j += 2) {
                    u32 v[4];
                    #pragma unroll
                    for (int h = 0; h < 4; h++) {
                        float* g = d + 32 * q + 4 * j + 2 * h;
                        float* u = g + COLUMNS / 2;
                        v[h] = which == 0 ? pack2(g[0], g[1]) : which == 1 ? pack2(u[0], u[1])
                            : pack2(g[0] * logistic(g[0]) * u[0], g[1] * logistic(g[1]) * u[1]);
                    }
                    // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                    int r = 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                    store_matrices(box + r * 128 + unit * 16, v[0], v[1], v[2], v[3]);
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                group_barrier(1 + me);
                if (warp == 0 && lane == 0) {
                    const TensorMap* to = which == 0 ? kept_gate : which == 1 ? kept_up : y;
                    store_box(to, box, column * COLUMNS + 64 * q, row * ROWS + 64 * me);
                }
            }
        }
    }
    if (warp == 0 && lane == 0) stores_read<0>();
}

#define GATED_PRODUCT(name, keep) \
    KERNEL __launch_bounds__(384, 1) name( \
        const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap gate, \
        const __grid_constant__ TensorMap up, const __grid_constant__ TensorMap y, \
        const __grid_constant__ TensorMap kept_gate, const __grid_constant__ TensorMap kept_up, \
        int m, int f, int k) { \
        gated_product<keep>(&a, &gate, &up, &y, &kept_gate, &kept_up, m, f, k); \
    }
GATED_PRODUCT(product_swiglu, false)
GATED_PRODUCT(product_swiglu_kept, true)
#endif
