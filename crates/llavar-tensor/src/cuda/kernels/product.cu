// Products of bf16 matrices for Hopper with the activation behind them inside, or several with one a in one launch:
// c [m, n] = f(a [m, k] b [n, k]^T + bias [n]), sums in f32, f sees them before they are rounded.
//
// One warp group copies tiles of a and b into a ring in shared memory (TMA), two groups multiply (wgmma), each a tile of
// its own: while one multiplies, the other applies f and writes, so that the tensor cores never wait for an
// epilogue. Blocks stay and take tiles in a fixed order, and every sum is made in one order, so results repeat
// bit by bit.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile is 128 x 128, two products of 64 rows; steps of the ring, and buffers of a group for what it writes.
constexpr int ROWS = 128, COLUMNS = 128, STEPS = 5, BUFFERS = 2;
// Of a step in shared memory (a, then b), and of a buffer (64 columns).
constexpr int BYTES_A = ROWS * 128, BYTES = BYTES_A + COLUMNS * 128, BYTES_OUT = ROWS * 128;
// Rows of tiles that blocks go down before they take the next column.
constexpr int GROUP = 8;

struct Same {
    static DEVICE float value(float x) { return x; }
};

// COUNT products: their columns lie side by side. KEEP: the sums themselves go to `kept`, for the way back. A bias
// may be null.
template <typename F, bool KEEP, int COUNT>
DEVICE void product(const TensorMap* a, const TensorMap* const (&bs)[COUNT], const TensorMap* const (&cs)[COUNT],
                    const TensorMap* kept, const bf16* const (&biases)[COUNT], int m, int n, int k) {
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 out = base + STEPS * BYTES, full = out + 2 * BUFFERS * BYTES_OUT;
    u32 empty = full + 8 * STEPS, turn = empty + 8 * STEPS;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 4);
        }
        barrier_init(turn, 4);
        barrier_init(turn + 8, 4);
        barriers_made();
    }
    __syncthreads();
    int each = (n + COLUMNS - 1) / COLUMNS, columns = COUNT * each;
    int rows = (m + ROWS - 1) / ROWS;
    int tiles = rows * columns, steps = (k + 63) / 64;
    int first = blockIdx.x, stride = gridDim.x;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 at = 0, parity = 1;
            for (int t = first; t < tiles; t += stride) {
                int row, column;
                place<GROUP>(t, rows, columns, row, column);
                const TensorMap* b = pick(bs, column / each);
                row *= ROWS;
                column = column % each * COLUMNS;
                for (int step = 0; step < steps; step++) {
                    u32 to = base + at * BYTES, bar = full + 8 * at;
                    barrier_wait(empty + 8 * at, parity);
                    barrier_expect(bar, BYTES);
                    load_box(to, a, bar, step * 64, row);
                    to += BYTES_A;
                    load_box(to, b, bar, step * 64, column);
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
        int me = role - 1;
        u32 mine = out + me * BUFFERS * BYTES_OUT;
        int writes = 0, turns = 0;
        u32 loaded = me * steps;
        for (int t = first + me * stride; t < tiles; t += 2 * stride) {
            int row, column;
            place<GROUP>(t, rows, columns, row, column);
            const TensorMap* c = pick(cs, column / each);
            const bf16* bias = pick(biases, column / each);
            row *= ROWS;
            column = column % each * COLUMNS;

            // Sums begin with the bias; it is read while the other group multiplies.
            float d[2][COLUMNS / 2];
            int x = column + 2 * (lane & 3);
            #pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                u32 v = bias && x + 8 * j < n ? *(const u32*)(bias + x + 8 * j) : 0;
                #pragma unroll
                for (int i = 0; i < 2; i++) {
                    #pragma unroll
                    for (int h = 0; h < 2; h++) {
                        d[i][4 * j + 2 * h] = low_half(v);
                        d[i][4 * j + 2 * h + 1] = high_half(v);
                    }
                }
            }
            // The first group's first turn has come.
            if (me + turns > 0) barrier_wait(turn + 8 * me, (turns - 1 + me) & 1);
            turns++;
            #pragma unroll
            for (int i = 0; i < 2; i++) pin(d[i]);
            for (int step = 0; step < steps; step++) {
                u32 at = (loaded + step) % STEPS, parity = (loaded + step) / STEPS & 1;
                barrier_wait(full + 8 * at, parity);
                u64 of_a = descriptor(base + at * BYTES);
                u64 of_b = descriptor(base + at * BYTES + BYTES_A);
                multiply_fence();
                #pragma unroll
                for (int u = 0; u < 4; u++) {
                    #pragma unroll
                    for (int i = 0; i < 2; i++) multiply(d[i], of_a + 512 * i + 2 * u, of_b + 2 * u);
                }
                multiply_commit();
                if (step) {
                    multiply_wait<1>();
                    u32 done = empty + 8 * ((loaded + step - 1) % STEPS);
                    if (lane == 0) barrier_arrive(done);
                }
            }
            if (lane == 0) barrier_arrive(turn + 8 * (me ^ 1));
            multiply_wait<0>();
            #pragma unroll
            for (int i = 0; i < 2; i++) pin(d[i]);
            if (lane == 0) barrier_arrive(empty + 8 * ((loaded + steps - 1) % STEPS));
            loaded += 2 * steps;

            // Out in boxes of 64 columns: before f, where it is kept, and after.
            #pragma unroll
            for (int q = 0; q < COLUMNS / 64; q++) {
                #pragma unroll
                for (int after = KEEP ? 0 : 1; after < 2; after++) {
                    u32 box = mine + writes % BUFFERS * BYTES_OUT;
                    writes++;
                    if (warp == 0 && lane == 0) stores_read<BUFFERS - 1>();
                    group_barrier(1 + me);
                    #pragma unroll
                    for (int i = 0; i < 2; i++) {
                        #pragma unroll
                        for (int j = 0; j < 8; j += 2) {
                            u32 v[4];
                            #pragma unroll
                            for (int h = 0; h < 4; h++) {
                                float p = d[i][32 * q + 4 * j + 2 * h], r = d[i][32 * q + 4 * j + 2 * h + 1];
                                v[h] = after ? pack2(F::value(p), F::value(r)) : pack2(p, r);
                            }
                            // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                            int r = 64 * i + 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                            store_matrices(box + r * 128 + unit * 16, v[0], v[1], v[2], v[3]);
                        }
                    }
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    group_barrier(1 + me);
                    if (warp == 0 && lane == 0) store_box(after ? c : kept, box, column + 64 * q, row);
                }
            }
        }
        if (warp == 0 && lane == 0) stores_read<0>();
    }
}

#define PRODUCT(name, F, keep) \
    KERNEL __launch_bounds__(384, 1) name( \
        const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, \
        const __grid_constant__ TensorMap c, const __grid_constant__ TensorMap kept, \
        const bf16* bias, int m, int n, int k) { \
        product<F, keep, 1>(&a, {&b}, {&c}, &kept, {bias}, m, n, k); \
    }
PRODUCT(product_gelu, ShortGelu, false)
PRODUCT(product_gelu_kept, ShortGelu, true)
PRODUCT(product_quick_gelu, QuickGelu, false)
PRODUCT(product_quick_gelu_kept, QuickGelu, true)

KERNEL __launch_bounds__(384, 1) product_three(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b0, const __grid_constant__ TensorMap b1,
    const __grid_constant__ TensorMap b2, const __grid_constant__ TensorMap c0, const __grid_constant__ TensorMap c1,
    const __grid_constant__ TensorMap c2, const bf16* bias0, const bf16* bias1, const bf16* bias2, int m, int n,
    int k) {
    product<Same, false, 3>(&a, {&b0, &b1, &b2}, {&c0, &c1, &c2}, nullptr, {bias0, bias1, bias2}, m, n, k);
}
#endif
