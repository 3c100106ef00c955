// What follows the convolution of a ConvNeXt block, for rows of 192 elements, in one kernel for Hopper, bf16:
// y = x + GELU(norm(v) w1^T + b1) w2^T + b2, norm a layer norm over a row. The hidden layer is never written.
//
// One group of warps copies weights into a ring in shared memory (TMA), two multiply (wgmma), 64 rows each, a chunk of
// the hidden layer after the other: what the first product leaves in registers is the first operand of the second. While
// one group applies the GELU, the other multiplies. Blocks stay and take tiles in a fixed order, and every sum is made in
// one order, so results repeat bit by bit.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Width of the rows, rows of a group, columns of the hidden layer of a chunk.
constexpr int WIDTH = 192, ROWS = 64, CHUNK = 96;
// 64 rows of 64 columns in shared memory, and a tile of rows.
constexpr int BOX = ROWS * 128, BOXES = WIDTH / 64, TILE = BOXES * BOX;
// A step of the ring is 96 rows of w1 by 64 columns, or 192 rows of w2 by 32 columns; a chunk takes three of each.
constexpr int STEPS = 11, BYTES = CHUNK * 128, PARTS = 3;
// Boxes of a group for what it writes.
constexpr int BUFFERS = 2;

// d [64, 96] += a [64, 16] b [96, 16]^T.
DEVICE void multiply_96(float (&d)[48], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "%48, %49, 1, 1, 1, 0, 0;"
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40) : "l"(a), "l"(b));
}
// d [64, 192] += a [64, 16] b [192, 16]^T, a in registers.
DEVICE void multiply_192(float (&d)[96], const u32 (&a)[4], u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "{%96, %97, %98, %99}, %100, 1, 1, 1, 0;"
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40),
          R8(d, 48), R8(d, 56), R8(d, 64), R8(d, 72), R8(d, 80), R8(d, 88)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// What wgmma is told of lines of 64 bytes, in their swizzle.
DEVICE u64 descriptor_of_32(u32 at) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(512 >> 4) << 32 | (u64)2 << 62;
}

// Layer norm of a tile in place, two threads a row.
DEVICE void norm_tile(char* tile, const bf16* weight, const bf16* bias, float eps) {
    int thread = threadIdx.x & 127, r = thread >> 1, half = thread & 1;
    uint4 u[4 * BOXES];
    float sum = 0.f;
    #pragma unroll
    for (int i = 0; i < 4 * BOXES; i++) {
        u[i] = *(uint4*)(tile + i / 4 * BOX + r * 128 + ((4 * half + i % 4 ^ r & 7) << 4));
        float v[8];
        load8((const bf16*)&u[i], v);
        #pragma unroll
        for (int j = 0; j < 8; j++) sum += v[j];
    }
    sum += __shfl_xor_sync(FULL, sum, 1);
    float mean = sum * (1.f / WIDTH), squares = 0.f;
    #pragma unroll
    for (int i = 0; i < 4 * BOXES; i++) {
        float v[8];
        load8((const bf16*)&u[i], v);
        #pragma unroll
        for (int j = 0; j < 8; j++) squares += (v[j] - mean) * (v[j] - mean);
    }
    squares += __shfl_xor_sync(FULL, squares, 1);
    float scale = rsqrtf(squares * (1.f / WIDTH) + eps);
    #pragma unroll
    for (int i = 0; i < 4 * BOXES; i++) {
        float v[8], w[8], b[8];
        load8((const bf16*)&u[i], v);
        load8(weight + i / 4 * 64 + (4 * half + i % 4) * 8, w);
        load8(bias + i / 4 * 64 + (4 * half + i % 4) * 8, b);
        #pragma unroll
        for (int j = 0; j < 8; j++) v[j] = (v[j] - mean) * scale * w[j] + b[j];
        store8((bf16*)(tile + i / 4 * BOX + r * 128 + ((4 * half + i % 4 ^ r & 7) << 4)), v);
    }
}

// Accumulators begin with a bias.
template <int COUNT> DEVICE void begin(float (&d)[COUNT], const bf16* bias) {
    int x = 2 * (threadIdx.x & 3);
    #pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
        u32 v = *(const u32*)(bias + 8 * j + x);
        d[4 * j] = d[4 * j + 2] = low_half(v);
        d[4 * j + 1] = d[4 * j + 3] = high_half(v);
    }
}

// Steps of the ring, for one who takes all in their order.
struct Steps {
    u32 base, full, empty, at, parity;

    DEVICE void next() { if (++at == STEPS) at = 0, parity ^= 1; }
    DEVICE u32 arrived() {
        barrier_wait(full + 8 * at, parity);
        return base + at * BYTES;
    }
    // Lets go of so many steps from one on.
    DEVICE void release(u32 first, int count) {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            for (int i = 0; i < count; i++) {
                u32 s = first + i;
                barrier_arrive(empty + 8 * (s < STEPS ? s : s - STEPS));
            }
        }
        __syncwarp();
    }
};

KERNEL __launch_bounds__(384, 1) convnext_mlp(
    const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap w1, const __grid_constant__ TensorMap w2,
    const __grid_constant__ TensorMap y, const bf16* x, const bf16* norm_weight, const bf16* norm_bias, const bf16* b1,
    const bf16* b2, float eps, int rows, int hidden) {
    extern __shared__ char memory[];
    u32 start = (u32)__cvta_generic_to_shared(memory), base = (start + 1023) & ~1023u;
    u32 ring = base + 2 * TILE, out = ring + STEPS * BYTES, full = out + 2 * BUFFERS * BOX;
    u32 empty = full + 8 * STEPS, arrived = empty + 8 * STEPS;
    bf16* vectors = (bf16*)(memory + (arrived + 16 - start));
    bf16 *of_norm = vectors, *of_norm_bias = vectors + WIDTH, *of_b2 = vectors + 2 * WIDTH, *of_b1 = vectors + 3 * WIDTH;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    // The same in all threads of a group, and known to be so.
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    for (int i = threadIdx.x; i < WIDTH; i += 384) {
        of_norm[i] = norm_weight[i];
        of_norm_bias[i] = norm_bias[i];
        of_b2[i] = b2[i];
    }
    for (int i = threadIdx.x; i < hidden; i += 384) of_b1[i] = b1[i];
    if (threadIdx.x == 0) {
        for (int s = 0; s < STEPS; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 8);
        }
        barrier_init(arrived, 1);
        barrier_init(arrived + 8, 1);
        barriers_made();
    }
    __syncthreads();
    int tiles = (rows + 2 * ROWS - 1) / (2 * ROWS), chunks = hidden / CHUNK;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            u32 at = 0, parity = 1;
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                for (int chunk = 0; chunk < chunks; chunk++) {
                    for (int p = 0; p < 2 * PARTS; p++) {
                        u32 to = ring + at * BYTES, bar = full + 8 * at;
                        barrier_wait(empty + 8 * at, parity);
                        barrier_expect(bar, BYTES);
                        if (p < PARTS) load_box(to, &w1, bar, 64 * p, chunk * CHUNK);
                        else load_box(to, &w2, bar, chunk * CHUNK + 32 * (p - PARTS), 0);
                        if (++at == STEPS) at = 0, parity ^= 1;
                    }
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
        int me = role - 1, writes = 0, turns = 0;
        bool leads = warp == 0 && lane == 0;
        u32 tile = base + me * TILE, mine = out + me * BUFFERS * BOX;
        Steps steps = {ring, full, empty, 0, 0};
        auto fetch = [&](int row) {
            if (leads) {
                barrier_expect(arrived + 8 * me, TILE);
                for (int b = 0; b < BOXES; b++) load_box(tile + b * BOX, &v, arrived + 8 * me, 64 * b, row);
            }
            __syncwarp();
        };
        if (blockIdx.x < tiles) fetch((2 * blockIdx.x + me) * ROWS);
        for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
            int row = (2 * t + me) * ROWS;
            barrier_wait(arrived + 8 * me, turns++ & 1);
            norm_tile(memory + (tile - start), of_norm, of_norm_bias, eps);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_barrier(1 + me);

            float o[WIDTH / 2], h[CHUNK / 2];
            u32 a[CHUNK / 16][4];
            auto first = [&](int chunk) {
                begin(h, of_b1 + chunk * CHUNK);
                pin(h);
                multiply_fence();
                #pragma unroll
                for (int p = 0; p < PARTS; p++) {
                    u64 of_a = descriptor(tile + p * BOX), of_b = descriptor(steps.arrived());
                    #pragma unroll
                    for (int u = 0; u < 4; u++) multiply_96(h, of_a + 2 * u, of_b + 2 * u);
                    steps.next();
                }
                multiply_commit();
            };
            begin(o, of_b2);
            pin(o);
            u32 held = steps.at;
            first(0);
            multiply_wait<0>();
            pin(h);
            steps.release(held, PARTS);
            #pragma unroll 1
            for (int chunk = 0; chunk < chunks; chunk++) {
                #pragma unroll
                for (int i = 0; i < CHUNK / 4; i++)
                    a[i / 4][i % 4] = pack2(ShortGelu::value(h[2 * i]), ShortGelu::value(h[2 * i + 1]));
                held = steps.at;
                pin(o);
                multiply_fence();
                #pragma unroll
                for (int p = 0; p < PARTS; p++) {
                    u64 of_b = descriptor_of_32(steps.arrived());
                    #pragma unroll
                    for (int u = 0; u < 2; u++) multiply_192(o, a[2 * p + u], of_b + 2 * u);
                    steps.next();
                }
                multiply_commit();
                if (chunk + 1 < chunks) {
                    u32 later = steps.at;
                    first(chunk + 1);
                    multiply_wait<1>();
                    steps.release(held, PARTS);
                    multiply_wait<0>();
                    pin(o);
                    pin(h);
                    steps.release(later, PARTS);
                }
            }
            // Nothing reads the tile any more.
            int next = t + gridDim.x;
            group_barrier(1 + me);
            if (next < tiles) fetch((2 * next + me) * ROWS);
            u32 r[WIDTH / 4];
            #pragma unroll
            for (int i = 0; i < WIDTH / 4; i++) {
                int at = row + 16 * warp + (lane >> 2) + 8 * (i & 1);
                r[i] = at < rows ? *(const u32*)(x + (i64)at * WIDTH + 8 * (i >> 1) + 2 * (lane & 3)) : 0;
            }
            multiply_wait<0>();
            pin(o);
            steps.release(held, PARTS);

            // Out in boxes of 64 columns.
            #pragma unroll
            for (int q = 0; q < BOXES; q++) {
                u32 box = mine + writes % BUFFERS * BOX;
                writes++;
                if (leads) stores_read<BUFFERS - 1>();
                __syncwarp();
                group_barrier(1 + me);
                #pragma unroll
                for (int j = 0; j < 8; j += 2) {
                    u32 p[4];
                    #pragma unroll
                    for (int i = 0; i < 4; i++) {
                        u32 old = r[16 * q + 2 * j + i];
                        const float* d = o + 32 * q + 4 * j + 2 * i;
                        p[i] = pack2(d[0] + low_half(old), d[1] + high_half(old));
                    }
                    // Matrices: rows 0 to 7 and 8 to 15 of eight columns, then of the next eight.
                    int to = 16 * warp + (lane & 15), unit = (j + (lane >> 4)) ^ (lane & 7);
                    store_matrices(box + to * 128 + unit * 16, p[0], p[1], p[2], p[3]);
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                group_barrier(1 + me);
                if (leads) store_box(&y, box, 64 * q, row);
                __syncwarp();
            }
        }
        if (leads) stores_read<0>();
    }
}
#endif
