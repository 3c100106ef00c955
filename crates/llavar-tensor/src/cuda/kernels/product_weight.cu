// Gradients of weights in one kernel for Hopper, bf16: dw [n, k] = dy [m, n]^T x [m, k], or added to dw, of one layer or
// of several that read one x, each with sums of the squares of what is written, so that the norm of gradients need not
// read them again, and with db [n], the sums over rows of dy.
//
// One group of warps copies tiles into a ring in shared memory (TMA), two multiply (wgmma), 64 rows of dw each. Nothing
// but the ring holds these two together. Blocks stay and take tiles in a fixed order, and every sum is made in one order,
// so results repeat bit by bit.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile is 128 x 256; steps of the ring, and buffers of a group for what it writes.
constexpr int ROWS = 128, COLUMNS = 256, STEPS = 4, BUFFERS = 2;
// A box of 64 x 64 in shared memory; of a step two of dy, then four of x.
constexpr int BOX = 64 * 128, BYTES_A = ROWS / 64 * BOX, BYTES = BYTES_A + COLUMNS / 64 * BOX;
// Eight rows of ones.
constexpr int BYTES_ONES = 8 * 128;
// Rows of tiles that blocks go down before they take the next column.
constexpr int GROUP = 16;

// Of a layer: squares [tiles, 8] of each warp that multiplies, in f64; 32 of a thread are added up in f32. db may be null.
// Bits of `added`: what dw and what db are added to is kept.
struct Layer {
    bf16* db;
    double* squares;
    i64 added;
};

// s [64, 8] += a [16, 64]^T, each column, times a matrix of ones.
DEVICE void add_rows(float (&s)[4], u64 a, u64 ones) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 1, 0;"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]) : "l"(a), "l"(ones));
}

// Where steps lie and who waits for them, and the next step of one who multiplies.
struct Ring { u32 base, full, empty, ones, at, parity; };

// d [64, 256] += dy^T x of a tile's steps, s += dy^T times ones.
template <bool SUMS> DEVICE void multiply_tile(float (&d)[COLUMNS / 2], float (&s)[4], Ring& ring, int steps, int me) {
    int lane = threadIdx.x & 31;
    u32 last = 0;
    for (int step = 0; step < steps; step++) {
        barrier_wait(ring.full + 8 * ring.at, ring.parity);
        u32 from = ring.base + ring.at * BYTES;
        u64 of_a = descriptor_of_columns(from + me * BOX, BOX), of_b = descriptor_of_columns(from + BYTES_A, BOX);
        multiply_fence();
        #pragma unroll
        for (int u = 0; u < 4; u++) {
            multiply_of_columns(d, of_a + 128 * u, of_b + 128 * u);
            if (SUMS) add_rows(s, of_a + 128 * u, descriptor(ring.ones));
        }
        multiply_commit();
        if (step) {
            multiply_wait<1>();
            if (lane == 0) barrier_arrive(ring.empty + 8 * last);
        }
        last = ring.at;
        if (++ring.at == STEPS) ring.at = 0, ring.parity ^= 1;
    }
    multiply_wait<0>();
    if (lane == 0) barrier_arrive(ring.empty + 8 * last);
}

template <int COUNT>
DEVICE void product(const TensorMap* const (&dys)[COUNT], const TensorMap* x, const TensorMap* const (&dws)[COUNT],
                    const Layer (&layers)[COUNT], int m, int n, int k) {
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 out = base + STEPS * BYTES, ones = out + 2 * BUFFERS * BOX, full = ones + BYTES_ONES;
    u32 empty = full + 8 * STEPS, there = empty + 8 * STEPS;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x < BYTES_ONES / 4) {
        asm volatile("st.shared.u32 [%0], %1;" :: "r"(ones + 4 * threadIdx.x), "r"(pack2(1.f, 1.f)) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 8);
        }
        for (int b = 0; b < 2 * BUFFERS; b++) barrier_init(there + 8 * b, 1);
        barriers_made();
    }
    __syncthreads();
    int columns = (k + COLUMNS - 1) / COLUMNS, each = (n + ROWS - 1) / ROWS, rows = COUNT * each;
    int tiles = rows * columns, steps = (m + 63) / 64;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 at = 0, parity = 1;
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                int row, column;
                place<GROUP>(t, rows, columns, row, column);
                const TensorMap* dy = pick(dys, row / each);
                row = row % each * ROWS;
                for (int step = 0; step < steps; step++) {
                    u32 to = base + at * BYTES, bar = full + 8 * at;
                    barrier_wait(empty + 8 * at, parity);
                    barrier_expect(bar, BYTES);
                    for (int i = 0; i < ROWS; i += 64, to += BOX) load_box(to, dy, bar, row + i, step * 64);
                    for (int i = 0; i < COLUMNS; i += 64, to += BOX) load_box(to, x, bar, column * COLUMNS + i, step * 64);
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1;
    bool leads = warp == 0 && lane == 0;
    u32 mine = out + me * BUFFERS * BOX, arrived = there + 8 * me * BUFFERS;
    Ring ring = {base, full, empty, ones, 0, 0};
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        int row, column;
        place<GROUP>(t, rows, columns, row, column);
        const TensorMap* dw = pick(dws, row / each);
        Layer layer = pick(layers, row / each);
        int tile = row % each * columns + column;
        row = row % each * ROWS + 64 * me;
        bool added = layer.added & 1, sums = column == 0 && layer.db;
        column *= COLUMNS;
        // What is added to comes into a buffer once nothing leaves from it.
        auto fetch = [&](int q) {
            u32 bar = arrived + 8 * (q % BUFFERS);
            barrier_expect(bar, BOX);
            load_box(mine + q % BUFFERS * BOX, dw, bar, column + 64 * q, row);
        };
        if (leads && added) {
            stores_read<0>();
            for (int q = 0; q < BUFFERS; q++) fetch(q);
        }
        // Here and below: what is for whole warps needs them together, which the compiler does not always see to.
        __syncwarp();
        float d[COLUMNS / 2], s[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int i = 0; i < COLUMNS / 2; i++) d[i] = 0.f;
        pin(d);
        pin(s);
        if (sums) multiply_tile<true>(d, s, ring, steps, me); else multiply_tile<false>(d, s, ring, steps, me);
        pin(d);
        pin(s);

        // All columns of the sums are alike.
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            int r = row + 16 * warp + lane / 4 + 8 * i;
            if (!sums || lane % 4 || r >= n) continue;
            store(layer.db + r, s[2 * i] + (layer.added & 2 ? to_float(layer.db[r]) : 0.f));
        }
        __syncwarp();

        // Out in boxes of 64 columns.
        double total = 0;
        #pragma unroll
        for (int q = 0; q < COLUMNS / 64; q++) {
            u32 box = mine + q % BUFFERS * BOX;
            if (added) {
                // A barrier has as many phases a tile as its buffer has boxes, which is two.
                barrier_wait(arrived + 8 * (q % BUFFERS), q / BUFFERS & 1);
            } else {
                if (leads) stores_read<BUFFERS - 1>();
                group_barrier(1 + me);
            }
            float sum = 0;
            #pragma unroll
            for (int j = 0; j < 8; j += 2) {
                float* p = d + 32 * q + 4 * j;
                // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                int r = 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                u32 place = box + r * 128 + unit * 16, v[4] = {0, 0, 0, 0};
                if (added) load_matrices(v, place);
                #pragma unroll
                for (int h = 0; h < 4; h++) {
                    v[h] = pack2(p[2 * h] + low_half(v[h]), p[2 * h + 1] + high_half(v[h]));
                    sum = fmaf(low_half(v[h]), low_half(v[h]), sum);
                    sum = fmaf(high_half(v[h]), high_half(v[h]), sum);
                }
                store_matrices(place, v[0], v[1], v[2], v[3]);
            }
            total += sum;
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_barrier(1 + me);
            if (leads) {
                store_box(dw, box, column + 64 * q, row);
                if (added && q + BUFFERS < COLUMNS / 64) {
                    stores_read<0>();
                    fetch(q + BUFFERS);
                }
            }
            __syncwarp();
        }
        #pragma unroll
        for (int o = 16; o; o >>= 1) total += __shfl_xor_sync(FULL, total, o);
        if (lane == 0) layer.squares[8 * (i64)tile + 4 * me + warp] = total;
    }
    if (leads) stores_read<0>();
}

KERNEL __launch_bounds__(384, 1) product_weight(
    const __grid_constant__ TensorMap dy, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dw,
    bf16* db, double* squares, i64 added, int m, int n, int k) {
    Layer layer = {db, squares, added};
    product<1>({&dy}, &x, {&dw}, {layer}, m, n, k);
}

KERNEL __launch_bounds__(384, 1) product_weights(
    const __grid_constant__ TensorMap dy0, const __grid_constant__ TensorMap dy1, const __grid_constant__ TensorMap dy2,
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dw0, const __grid_constant__ TensorMap dw1,
    const __grid_constant__ TensorMap dw2, bf16* db0, bf16* db1, bf16* db2, double* squares0, double* squares1,
    double* squares2, i64 added0, i64 added1, i64 added2, int m, int n, int k) {
    Layer layers[3] = {{db0, squares0, added0}, {db1, squares1, added1}, {db2, squares2, added2}};
    product<3>({&dy0, &dy1, &dy2}, &x, {&dw0, &dw1, &dw2}, layers, m, n, k);
}
#endif
