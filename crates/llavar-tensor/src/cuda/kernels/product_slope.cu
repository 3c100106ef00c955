// The gradient before an activation in one kernel for Hopper, bf16: (a [m, k] b [k, n]) f'(x [m, n]), where a is the
// gradient behind a linear layer and b its weight as it lies, so that the gradient between the two is never written.
//
// As `product.cu`: one warp group copies, two multiply a tile each and take turns. What the slope is taken at lies in
// the buffers that results leave from, read while the other group multiplies. Every sum is made in one order.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile is 128 x 128, two products of 64 rows; steps of the ring, and buffers of a group.
constexpr int ROWS = 128, COLUMNS = 128, STEPS = 4, BUFFERS = 2;
// Of a step in shared memory (a, then two boxes of 64 columns of b), of such a box, and of a buffer (64 columns).
constexpr int BYTES_A = ROWS * 128, BYTES_B = 64 * 128, BYTES = BYTES_A + 2 * BYTES_B, BYTES_OUT = ROWS * 128;
// Pairs of blocks have neighbouring rows of tiles and the same columns; each fetches half of b for both, because tiles
// of this size ask more of L2 than it gives.
constexpr int PAIR = 2;

// Pairs of rows of tiles that blocks go down before they take the next column.
constexpr int GROUP = 4;

// x: what slopes are taken at, y: where gradients go. Sums over the 128 rows of a tile go to part [rows of tiles, n],
// which may be null.
template <typename F>
DEVICE void product(const TensorMap* a, const TensorMap* b, const TensorMap* x, const TensorMap* y, float* part, int m,
                    int n, int k) {
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 out = base + STEPS * BYTES, full = out + 2 * BUFFERS * BYTES_OUT;
    u32 empty = full + 8 * STEPS, turn = empty + 8 * STEPS, there = turn + 16;
    __shared__ float sums[2][4][COLUMNS];
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 4 * PAIR);
        }
        for (int group = 0; group < 2; group++) {
            barrier_init(turn + 8 * group, 4);
            barrier_init(there + 8 * group, 1);
        }
        barriers_made();
    }
    u32 rank = rank_in_cluster();
    cluster_barrier();
    int columns = (n + COLUMNS - 1) / COLUMNS, rows = (m + PAIR * ROWS - 1) / (PAIR * ROWS);
    int tiles = rows * columns, steps = (k + 63) / 64;
    int first = blockIdx.x / PAIR, stride = gridDim.x / PAIR;
    // Lets a step be filled again, by both blocks.
    auto release = [&](u32 step) {
        if (lane) return;
        barrier_arrive(empty + 8 * step);
        barrier_arrive_in(rank ^ 1, empty + 8 * step);
    };

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 at = 0, parity = 1;
            for (int t = first; t < tiles; t += stride) {
                int row, column;
                place<GROUP>(t, rows, columns, row, column);
                row = (row * PAIR + rank) * ROWS;
                column *= COLUMNS;
                for (int step = 0; step < steps; step++) {
                    u32 to = base + at * BYTES, bar = full + 8 * at;
                    barrier_wait(empty + 8 * at, parity);
                    barrier_expect(bar, BYTES);
                    load_box(to, a, bar, step * 64, row);
                    to += BYTES_A;
                    load_box_for_both(to + rank * BYTES_B, b, bar, column + 64 * rank, step * 64);
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
        // Nobody leaves while another block still writes here.
        cluster_barrier();
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1;
    bool leads = warp == 0 && lane == 0;
    u32 mine = out + me * BUFFERS * BYTES_OUT, arrived = there + 8 * me;
    int turns = 0;
    u32 loaded = me * steps, phase = 0;
    for (int t = first + me * stride; t < tiles; t += 2 * stride) {
        int row, column;
        place<GROUP>(t, rows, columns, row, column);
        int tile_row = row * PAIR + rank;
        row = tile_row * ROWS;
        column *= COLUMNS;
        // x comes into the buffers once nothing leaves from them.
        if (leads) {
            stores_read<0>();
            barrier_expect(arrived, BUFFERS * BYTES_OUT);
            for (int q = 0; q < BUFFERS; q++) load_box(mine + q * BYTES_OUT, x, arrived, column + 64 * q, row);
        }

        float d[2][COLUMNS / 2];
        #pragma unroll
        for (int i = 0; i < 2; i++)
            #pragma unroll
            for (int j = 0; j < COLUMNS / 2; j++) d[i][j] = 0.f;
        // The first group's first turn has come.
        if (me + turns > 0) barrier_wait(turn + 8 * me, (turns - 1 + me) & 1);
        turns++;
        #pragma unroll
        for (int i = 0; i < 2; i++) pin(d[i]);
        for (int step = 0; step < steps; step++) {
            u32 at = (loaded + step) % STEPS, parity = (loaded + step) / STEPS & 1;
            barrier_wait(full + 8 * at, parity);
            u64 of_a = descriptor(base + at * BYTES);
            u64 of_b = descriptor_of_columns(base + at * BYTES + BYTES_A, BYTES_B);
            multiply_fence();
            #pragma unroll
            for (int u = 0; u < 4; u++) {
                #pragma unroll
                for (int i = 0; i < 2; i++) multiply_columns(d[i], of_a + 512 * i + 2 * u, of_b + 128 * u);
            }
            multiply_commit();
            if (step) {
                multiply_wait<1>();
                release((loaded + step - 1) % STEPS);
            }
        }
        if (lane == 0) barrier_arrive(turn + 8 * (me ^ 1));
        multiply_wait<0>();
        #pragma unroll
        for (int i = 0; i < 2; i++) pin(d[i]);
        release((loaded + steps - 1) % STEPS);
        loaded += 2 * steps;

        barrier_wait(arrived, phase);
        phase ^= 1;
        #pragma unroll
        for (int q = 0; q < COLUMNS / 64; q++) {
            u32 box = mine + q * BYTES_OUT;
            #pragma unroll
            for (int j = 0; j < 8; j += 2) {
                float column_sums[4] = {0, 0, 0, 0};
                #pragma unroll
                for (int i = 0; i < 2; i++) {
                    // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                    int r = 64 * i + 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                    u32 at = box + r * 128 + unit * 16, v[4];
                    load_matrices(v, at);
                    #pragma unroll
                    for (int h = 0; h < 4; h++) {
                        float p = d[i][32 * q + 4 * j + 2 * h], s = d[i][32 * q + 4 * j + 2 * h + 1];
                        p *= F::slope(low_half(v[h]));
                        s *= F::slope(high_half(v[h]));
                        v[h] = pack2(p, s);
                        column_sums[h / 2 * 2] += p;
                        column_sums[h / 2 * 2 + 1] += s;
                    }
                    store_matrices(at, v[0], v[1], v[2], v[3]);
                }
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    float total = column_sums[e];
                    #pragma unroll
                    for (int o = 4; o < 32; o *= 2) total += __shfl_xor_sync(FULL, total, o);
                    if (lane < 4) sums[me][warp][64 * q + 8 * (j + e / 2) + 2 * lane + e % 2] = total;
                }
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_barrier(1 + me);
            if (leads) store_box(y, box, column + 64 * q, row);
            int c = threadIdx.x & 127;
            if (part && c / 64 == q && column + c < n && row < m) {
                float total = sums[me][0][c];
                #pragma unroll
                for (int w = 1; w < 4; w++) total += sums[me][w][c];
                part[(i64)tile_row * n + column + c] = total;
            }
        }
    }
    if (leads) stores_read<0>();
    cluster_barrier();
}

#define SLOPE(name, F) \
    KERNEL __cluster_dims__(PAIR, 1, 1) __launch_bounds__(384, 1) name( \
        const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, \
        const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap y, float* part, int m, int n, int k) { \
        product<F>(&a, &b, &x, &y, part, m, n, k); \
    }
SLOPE(product_gelu_slope, Gelu)
SLOPE(product_quick_gelu_slope, QuickGelu)
#endif
