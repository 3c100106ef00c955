// Gradients of gate and up in one kernel for Hopper, bf16: p = a [m, k] b [k, f], where a is the gradient behind the
// linear layer that follows SwiGLU and b its weight as it lies; then those of silu(gate) up, so that p itself is never
// written.
//
// As `product_swiglu.cu`: one group of warps copies tiles of 128 rows and 256 columns, two multiply 64 rows each. Gate
// and up lie in the buffers that their gradients leave from; those of the first columns are fetched while the product
// runs, the others while columns before them are worked on. Every sum is made in one order.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Rows and columns of a tile, steps of the ring, and pairs of buffers of a group.
constexpr int ROWS = 128, COLUMNS = 256, STEPS = 3, PAIRS = 2;
// Of a step in shared memory (a, then boxes of 64 columns of b), of such a box, and of a buffer (64 rows and columns).
constexpr int BYTES_A = ROWS * 128, BYTES_B = 64 * 128, BYTES = BYTES_A + COLUMNS / 64 * BYTES_B, BYTES_OUT = 64 * 128;
// Rows of tiles that blocks go down before they take the next column.
constexpr int GROUP = 16;

// Gradients of gate g and up u.
DEVICE void slopes(float p, float g, float u, float& dg, float& du) {
    float s = logistic(g);
    du = p * g * s;
    dg = p * u * s * fmaf(g, 1.f - s, 1.f);
}

KERNEL __launch_bounds__(384, 1) product_swiglu_slope(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap gate,
    const __grid_constant__ TensorMap up, const __grid_constant__ TensorMap dgate, const __grid_constant__ TensorMap dup,
    int m, int f, int k) {
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 out = base + STEPS * BYTES, full = out + 2 * PAIRS * 2 * BYTES_OUT, empty = full + 8 * STEPS;
    u32 there = empty + 8 * STEPS;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 8);
        }
        for (int p = 0; p < 2 * PAIRS; p++) barrier_init(there + 8 * p, 1);
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
                    load_box(to, &a, bar, step * 64, row * ROWS);
                    #pragma unroll
                    for (int q = 0; q < COLUMNS / 64; q++)
                        load_box(to + BYTES_A + q * BYTES_B, &b, bar, column * COLUMNS + 64 * q, step * 64);
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1;
    bool leads = warp == 0 && lane == 0;
    u32 mine = out + me * PAIRS * 2 * BYTES_OUT, arrived = there + 8 * PAIRS * me;
    u32 parity = 0, last = 0, phases = 0;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        int row, column;
        place<GROUP>(t, rows, columns, row, column);
        row = row * ROWS + 64 * me;
        column *= COLUMNS;
        // 64 columns of gate and of up, once nothing of its own is read from the buffers any more.
        auto fetch = [&](int q) {
            u32 to = mine + q % PAIRS * 2 * BYTES_OUT, bar = arrived + 8 * (q % PAIRS);
            barrier_expect(bar, 2 * BYTES_OUT);
            load_box(to, &gate, bar, column + 64 * q, row);
            load_box(to + BYTES_OUT, &up, bar, column + 64 * q, row);
        };
        if (leads) {
            stores_read<0>();
            #pragma unroll
            for (int q = 0; q < PAIRS; q++) fetch(q);
        }
        float d[COLUMNS / 2];
        #pragma unroll
        for (int i = 0; i < COLUMNS / 2; i++) d[i] = 0.f;
        pin(d);
        for (int step = 0; step < steps; step++) {
            barrier_wait(full + 8 * at, parity);
            u64 of_a = descriptor(base + at * BYTES + 64 * 128 * me);
            u64 of_b = descriptor_of_columns(base + at * BYTES + BYTES_A, BYTES_B);
            multiply_fence();
            #pragma unroll
            for (int u = 0; u < 4; u++) multiply_columns(d, of_a + 2 * u, of_b + 128 * u);
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

        #pragma unroll
        for (int q = 0; q < COLUMNS / 64; q++) {
            barrier_wait(arrived + 8 * (q % PAIRS), phases >> (q % PAIRS) & 1);
            phases ^= 1u << (q % PAIRS);
            u32 box = mine + q % PAIRS * 2 * BYTES_OUT;
            #pragma unroll
            for (int j = 0; j < 8; j += 2) {
                // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                int r = 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                u32 spot = box + r * 128 + unit * 16, v[4], w[4];
                load_matrices(v, spot);
                load_matrices(w, spot + BYTES_OUT);
                #pragma unroll
                for (int h = 0; h < 4; h++) {
                    const float* p = d + 32 * q + 4 * j + 2 * h;
                    float g0, g1, u0, u1;
                    slopes(p[0], low_half(v[h]), low_half(w[h]), g0, u0);
                    slopes(p[1], high_half(v[h]), high_half(w[h]), g1, u1);
                    v[h] = pack2(g0, g1);
                    w[h] = pack2(u0, u1);
                }
                store_matrices(spot, v[0], v[1], v[2], v[3]);
                store_matrices(spot + BYTES_OUT, w[0], w[1], w[2], w[3]);
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_barrier(1 + me);
            if (leads) {
                store_box(&dgate, box, column + 64 * q, row);
                store_box(&dup, box + BYTES_OUT, column + 64 * q, row);
                if (q + PAIRS < COLUMNS / 64) {
                    stores_read<0>();
                    fetch(q + PAIRS);
                }
            }
        }
    }
    if (leads) stores_read<0>();
}
#endif
