// Products of bf16 matrices for Hopper in tiles that fill the card: c [m, n] = a b^T + bias [n] + r, a [m, k], sums in f32;
// b is [n, k], or [k, n] for the gradient of a layer's input. bias and r may be missing, r may be c.
//
// A tile is 256 columns by 144 or 200 rows: 4,608 rows by 1,024 columns are 128 of the first, one round, 6,400 by 3,072
// are 384 of the second, which are 97 % of three rounds. The weights are the first operand, so that a thread's sums lie
// along rows of c. One group of warps copies tiles into a ring in shared memory (TMA), two multiply (wgmma), 128 columns
// each; r comes into the ring behind the last step, and c leaves from there. Blocks stay and take tiles in a fixed order,
// and every sum is made in one order, so results repeat bit by bit.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Columns of a tile, bytes of its weights in a step, and where weights are [k, n] of 64 columns of them.
constexpr int COLUMNS = 256, BYTES_B = COLUMNS * 128, BOX_B = 64 * 128;

// d [64, rows] += a [64, 16] b [rows, 16]^T, or with a [16, 64], its columns side by side.
#define R4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MULTIPLY_144(name, turned) \
DEVICE void name(float (&d)[72], u64 a, u64 b) { \
    asm volatile( \
        "wgmma.mma_async.sync.aligned.m64n144k16.f32.bf16.bf16 " \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
        "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
        "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
        "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, " \
        "%66, %67, %68, %69, %70, %71}, %72, %73, 1, 1, 1, " turned ";" \
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40), R8(d, 48), R8(d, 56), R8(d, 64) \
        : "l"(a), "l"(b)); \
}
#define MULTIPLY_200(name, turned) \
DEVICE void name(float (&d)[100], u64 a, u64 b) { \
    asm volatile( \
        "wgmma.mma_async.sync.aligned.m64n200k16.f32.bf16.bf16 " \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
        "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, " \
        "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
        "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, " \
        "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, " \
        "%98, %99}, %100, %101, 1, 1, 1, " turned ";" \
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40), R8(d, 48), R8(d, 56), R8(d, 64), \
          R8(d, 72), R8(d, 80), R8(d, 88), R4(d, 96) \
        : "l"(a), "l"(b)); \
}
MULTIPLY_144(multiply, "0, 0")
MULTIPLY_144(multiply_turned, "1, 0")
MULTIPLY_200(multiply, "0, 0")
MULTIPLY_200(multiply_turned, "1, 0")

// Matrices as they lie in a warp's accumulators, rows and columns exchanged.
DEVICE void store_turned(u32 at, const u32 (&m)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
        :: "r"(at), "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3]) : "memory");
}
DEVICE void store_turned(u32 at, const u32 (&m)[2]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
        :: "r"(at), "r"(m[0]), "r"(m[1]) : "memory");
}
DEVICE void load_turned(u32 (&m)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
}
DEVICE void load_turned(u32 (&m)[2], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
        : "=r"(m[0]), "=r"(m[1]) : "r"(at) : "memory");
}

// Sums of COUNT matrices to where c leaves from, and where r has come: columns 0 to 7 and 8 to 15 of eight rows, then of
// the next eight.
template <int COUNT> DEVICE void finish(const float* sums, u32 box, int row, const float (&bias)[2], bool added) {
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    int to = row + (COUNT == 4 ? 8 * (lane >> 4) : 0) + (lane & 7), unit = (2 * warp + (lane >> 3 & 1)) ^ (lane & 7);
    u32 spot = box + to * 128 + unit * 16, v[COUNT] = {};
    if (added) load_turned(v, spot);
    #pragma unroll
    for (int h = 0; h < COUNT; h++) {
        const float* p = sums + 2 * h;
        v[h] = pack2(p[0] + bias[h & 1] + low_half(v[h]), p[1] + bias[h & 1] + high_half(v[h]));
    }
    store_turned(spot, v);
}

// ROWS of a tile; COLUMNWISE: b is [k, n].
template <int ROWS, bool COLUMNWISE>
DEVICE void product(const TensorMap* a, const TensorMap* b, const TensorMap* r, const TensorMap* c, const bf16* bias,
                    int added, int m, int n, int k) {
    // Steps of the ring, and rows of tiles that blocks go down before they take the next column.
    constexpr int STEPS = ROWS == 144 ? 4 : 3, GROUP = ROWS == 144 ? 8 : 11;
    // Of a step the weights, then a; of what a group writes 64 columns.
    constexpr int BYTES = BYTES_B + ROWS * 128, BOX = ROWS * 128;
    extern __shared__ char memory[];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 full = base + STEPS * BYTES, empty = full + 8 * STEPS;
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
    int rows = (m + ROWS - 1) / ROWS, columns = (n + COLUMNS - 1) / COLUMNS, tiles = rows * columns;
    int steps = (k + 63) / 64;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 at = 0, parity = 1;
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                int row, column;
                place<GROUP>(t, rows, columns, row, column);
                row *= ROWS;
                column *= COLUMNS;
                // Behind the last step two entries of the ring for c, one for each group.
                for (int step = 0; step < steps + 2; step++) {
                    u32 to = base + at * BYTES, bar = full + 8 * at;
                    barrier_wait(empty + 8 * at, parity);
                    if (step < steps) {
                        barrier_expect(bar, BYTES);
                        if (COLUMNWISE) {
                            for (int i = 0; i < COLUMNS / 64; i++)
                                load_box(to + i * BOX_B, b, bar, column + 64 * i, step * 64);
                        } else {
                            load_box(to, b, bar, step * 64, column);
                        }
                        load_box(to + BYTES_B, a, bar, step * 64, row);
                    } else if (added) {
                        barrier_expect(bar, 2 * BOX);
                        for (int i = 0; i < 2; i++)
                            load_box(to + i * BOX, r, bar, column + 128 * (step - steps) + 64 * i, row);
                    } else {
                        barrier_arrive(bar);
                    }
                    if (++at == STEPS) at = 0, parity ^= 1;
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
        int me = role - 1;
        bool leads = warp == 0 && lane == 0;
        u32 at = 0, parity = 0;
        for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
            int row, column;
            place<GROUP>(t, rows, columns, row, column);
            row *= ROWS;
            column = column * COLUMNS + 128 * me;

            // The bias comes at the end: with sums that begin with it the compiler waits for each product.
            float d[2][ROWS / 2], more[2][2];
            #pragma unroll
            for (int i = 0; i < 2; i++) {
                #pragma unroll
                for (int h = 0; h < 2; h++) {
                    int x = column + 64 * i + 16 * warp + (lane >> 2) + 8 * h;
                    more[i][h] = bias && x < n ? to_float(bias[x]) : 0.f;
                }
            }
            #pragma unroll
            for (int i = 0; i < 2; i++)
                #pragma unroll
                for (int j = 0; j < ROWS / 2; j++) d[i][j] = 0.f;
            __syncwarp();
            #pragma unroll
            for (int i = 0; i < 2; i++) pin(d[i]);
            u32 last = 0;
            for (int step = 0; step < steps; step++) {
                barrier_wait(full + 8 * at, parity);
                u32 from = base + at * BYTES;
                u64 of_a = descriptor(from + BYTES_B);
                from += me * (BYTES_B / 2);
                u64 of_b = COLUMNWISE ? descriptor_of_columns(from, BOX_B) : descriptor(from);
                multiply_fence();
                #pragma unroll
                for (int u = 0; u < 4; u++) {
                    #pragma unroll
                    for (int i = 0; i < 2; i++) {
                        if (COLUMNWISE) multiply_turned(d[i], of_b + 512 * i + 128 * u, of_a + 2 * u);
                        else multiply(d[i], of_b + 512 * i + 2 * u, of_a + 2 * u);
                    }
                }
                multiply_commit();
                if (step) {
                    multiply_wait<1>();
                    if (lane == 0) barrier_arrive(empty + 8 * last);
                }
                last = at;
                if (++at == STEPS) at = 0, parity ^= 1;
            }
            multiply_wait<0>();
            #pragma unroll
            for (int i = 0; i < 2; i++) pin(d[i]);
            if (lane == 0) barrier_arrive(empty + 8 * last);
            __syncwarp();

            u32 behind = at + 1 == STEPS ? 0 : at + 1, of_behind = behind ? parity : parity ^ 1;
            u32 mine = me ? behind : at, other = me ? at : behind;
            barrier_wait(full + 8 * mine, me ? of_behind : parity);
            #pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 box = base + mine * BYTES + i * BOX;
                #pragma unroll
                for (int j = 0; j + 1 < ROWS / 8; j += 2) finish<4>(d[i] + 4 * j, box, 8 * j, more[i], added);
                if (ROWS % 16) finish<2>(d[i] + ROWS / 2 - 4, box, ROWS - 8, more[i], added);
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                group_barrier(1 + me);
                if (leads) store_box(c, box, column + 64 * i, row);
                __syncwarp();
            }
            if (leads) stores_read<0>();
            __syncwarp();
            group_barrier(1 + me);
            if (lane == 0) barrier_arrive(empty + 8 * mine);
            // The other group's entry is let go of once it is one: before, its barrier still counts who has read the step
            // that lay there, and would take this for the other group's word.
            barrier_wait(full + 8 * other, me ? parity : of_behind);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + 8 * other);
            __syncwarp();
            for (int i = 0; i < 2; i++) if (++at == STEPS) at = 0, parity ^= 1;
        }
    }
}

#define PRODUCT(name, ROWS, COLUMNWISE) \
    KERNEL __launch_bounds__(384, 1) name( \
        const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, \
        const __grid_constant__ TensorMap r, const __grid_constant__ TensorMap c, \
        const bf16* bias, int added, int m, int n, int k) { \
        product<ROWS, COLUMNWISE>(&a, &b, &r, &c, bias, added, m, n, k); \
    }
PRODUCT(product_wide_144, 144, false)
PRODUCT(product_wide_144_columnwise, 144, true)
PRODUCT(product_wide_200, 200, false)
PRODUCT(product_wide_200_columnwise, 200, true)
#endif
