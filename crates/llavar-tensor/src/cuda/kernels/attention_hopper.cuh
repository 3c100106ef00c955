// What attention on Hopper is made of, for heads of HEAD = 64, 96 or 128 elements in bf16: tiles and blocks of tokens of
// one head, fetched by the copy unit, and products of four warps with 64 tokens of a tile each.
//
// A token's heads lie in its row, W elements (a line) of one head behind the other: a tile in shared memory is HEAD / W
// boxes, each with a line for every token, swizzled over the length of a line.
//
// Blocks stay. `plan` lists the items (a tile of a head) of each block: entries plan[b] to plan[b + 1] of itself. A tile
// is int4 {first token, first and end of its sample, place of the sample in statistics}; statistics of rows have room for
// whole blocks of 64 tokens of every sample, [heads, padded].
//
// The last block of a sample may hold tokens of the next one. They have no weight, which finite values leave it at.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Elements and bytes of a line, lines of a token, steps of 16 elements.
constexpr int W = HEAD % 64 == 0 ? 64 : 32, LINE = 2 * W, LINES = HEAD / W, STEPS = HEAD / 16;
// Tokens of a tile of the backward pass and of a block that a tile meets; bytes of a block.
constexpr int TILE = 128, BLOCK = 64, BYTES_BLOCK = BLOCK * HEAD * 2;

// Place of the sixteen bytes `unit` of a token in boxes of `TOKENS` tokens.
template <int TOKENS> DEVICE u32 spot(int token, int unit) {
    constexpr int UNITS = LINE / 16;
    int swizzle = UNITS == 8 ? token & 7 : token >> 1 & 3;
    return unit / UNITS * (TOKENS * LINE) + token * LINE + ((unit % UNITS ^ swizzle) << 4);
}

// What wgmma is told of a box: eight tokens to the next eight, swizzle over a line; `apart` from one box to the next
// where the columns of a product lie side by side.
DEVICE u64 describe(u32 at, u32 apart) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)(apart >> 4) << 16 | (u64)(8 * LINE >> 4) << 32 |
           (u64)(LINE == 128 ? 1 : 2) << 62;
}
// Step s along a head, and along tokens, of such a description in boxes of `TOKENS` tokens.
template <int TOKENS> DEVICE u64 along_head(int s) {
    return (u64)(16 * s / W * (TOKENS * LINE) + 16 * s % W * 2 >> 4);
}
DEVICE u64 along_tokens(int s) { return (u64)(16 * LINE >> 4) * s; }

#define A4(a) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
#define D32(d) R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24)

// s [64, 64] (+)= a [64, 16] b, b [64, 16] with rows along memory; a in shared memory or in registers.
DEVICE void scores(float (&d)[32], u64 a, u64 b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0; }" : D32(d) : "l"(a), "l"(b), "r"(add));
}
DEVICE void scores(float (&d)[32], const u32 (&a)[4], u64 b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 0; }" : D32(d) : A4(a), "l"(b), "r"(add));
}
// o [64, HEAD] += a [64, 16] b, b [16, HEAD] with its columns side by side.
DEVICE void weigh(float (&d)[HEAD / 2], const u32 (&a)[4], u64 b) {
#if HEAD == 64
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;" : D32(d) : A4(a), "l"(b));
#elif HEAD == 96
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "{%48, %49, %50, %51}, %52, 1, 1, 1, 1;" : D32(d), R8(d, 32), R8(d, 40) : A4(a), "l"(b));
#else
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
        : D32(d), R8(d, 32), R8(d, 40), R8(d, 48), R8(d, 56) : A4(a), "l"(b));
#endif
}

// s = a b^T of 64 tokens each, a in registers, or the description of its rows in boxes of `TOKENS`.
template <int TOKENS = TILE> DEVICE void all_scores(float (&d)[32], const u32 (&a)[STEPS][4], u32 b) {
    u64 of_b = describe(b, 16);
    #pragma unroll
    for (int s = 0; s < STEPS; s++) scores(d, a[s], of_b + along_head<BLOCK>(s), s);
}
template <int TOKENS = TILE> DEVICE void all_scores(float (&d)[32], u64 a, u32 b) {
    u64 of_b = describe(b, 16);
    #pragma unroll
    for (int s = 0; s < STEPS; s++) scores(d, a + along_head<TOKENS>(s), of_b + along_head<BLOCK>(s), s);
}
// o += a b of 64 tokens each.
DEVICE void weigh_all(float (&d)[HEAD / 2], const u32 (&a)[4][4], u32 b) {
    u64 of_b = describe(b, BLOCK * LINE);
    #pragma unroll
    for (int s = 0; s < 4; s++) weigh(d, a[s], of_b + along_tokens(s));
}

// Rows of a warp out of a tile as wgmma takes them from registers.
template <int TOKENS = TILE> DEVICE void rows_of_tile(u32 (&to)[STEPS][4], u32 tile, int row) {
    int lane = threadIdx.x & 31;
    #pragma unroll
    for (int s = 0; s < STEPS; s++) load_matrices(to[s], tile + spot<TOKENS>(row + (lane & 15), 2 * s + (lane >> 4)));
}

// Accumulators in bf16, as the first operand of the next product.
DEVICE void pack_scores(u32 (&to)[4][4], const float (&from)[32]) {
    #pragma unroll
    for (int i = 0; i < 16; i++) to[i / 4][i % 4] = pack2(from[2 * i], from[2 * i + 1]);
}

// Entries of shared memory that the group of warps that copies fills and `WARPS` others empty, numbered from the start on.
template <int ENTRIES, int WARPS> struct Ring {
    u32 full, empty;

    DEVICE explicit Ring(u32 barriers) : full(barriers), empty(barriers + 8 * ENTRIES) {}
    DEVICE void make() {
        for (int s = 0; s < ENTRIES; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, WARPS);
        }
    }
    // Waits until entry n is empty; gives the barrier that takes so many bytes for it.
    DEVICE u32 fill(u32 n, u32 bytes) {
        u32 s = n % ENTRIES, bar = full + 8 * s;
        barrier_wait(empty + 8 * s, n / ENTRIES & 1 ^ 1);
        barrier_expect(bar, bytes);
        return bar;
    }
    DEVICE void arrived(u32 n) { barrier_wait(full + 8 * (n % ENTRIES), n / ENTRIES & 1); }
    DEVICE void release(u32 n) {
        if ((threadIdx.x & 31) == 0) barrier_arrive(empty + 8 * (n % ENTRIES));
    }
};

// Takes out of a block of scores the keys behind a query (where `causal`: query r has the place of key r), or those from
// `left` on.
DEVICE void mask_block(float (&s)[32], int causal, int left) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        int last = (causal ? 16 * warp + lane / 4 + 8 * h : left - 1) - 2 * (lane & 3);
        #pragma unroll
        for (int c = 2 * h; c < 32; c += 4) {
            if (2 * c - 4 * h > last) s[c] = -INFINITY;
            if (2 * c - 4 * h + 1 > last) s[c + 1] = -INFINITY;
        }
    }
}

// Blocks of keys that the queries of a tile of `TOKENS` see.
template <int TOKENS> DEVICE int blocks_of(int4 tile, int causal) {
    int seen = causal ? min(tile.x - tile.y + TOKENS, tile.z - tile.y) : tile.z - tile.y;
    return (seen + BLOCK - 1) / BLOCK;
}

// A tile or a block of one head into shared memory.
DEVICE void load_tokens(u32 to, const TensorMap* map, u32 at, int token, int head) {
    load_box(to, map, at, 0, token, head * LINES);
}

// Sixteen rows of a warp by way of its part of boxes in shared memory, those before `end`, to rows of the
// card's memory `stride` elements apart.
template <int TOKENS = BLOCK>
DEVICE void store_rows(T* to, i64 stride, const float (&d)[HEAD / 2], float near, float far, u32 stage, int first,
                       int end) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3;
    __syncwarp();
    #pragma unroll
    for (int j = 0; j < HEAD / 8; j += 2) {
        const float* v = d + 4 * j;
        store_matrices(stage + spot<TOKENS>(16 * warp + (lane & 15), j + (lane >> 4)), pack2(v[0] * near, v[1] * near),
            pack2(v[2] * far, v[3] * far), pack2(v[4] * near, v[5] * near), pack2(v[6] * far, v[7] * far));
    }
    __syncwarp();
    #pragma unroll
    for (int i = lane; i < 2 * HEAD; i += 32) {
        int row = 16 * warp + i / (HEAD / 8), unit = i % (HEAD / 8);
        uint4 value;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(stage + spot<TOKENS>(row, unit)) : "memory");
        if (first + row < end) *(uint4*)(to + row * stride + unit * 8) = value;
    }
}

// Gradients of heads that were turned by the angles of their positions, back to those of what they were before: table
// [2, positions, HEAD / 2], cosines and sines. Nothing to do where there is no table.
DEVICE void turn_back(float (&d)[HEAD / 2], const float* table, i64 entries, const int (&at)[2]) {
    if (!table) return;
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const float* angles = table + (i64)at[h] * (HEAD / 2) + 2 * (threadIdx.x & 3);
        #pragma unroll
        for (int j = 0; j < HEAD / 16; j++) {
            float2 cosine = *(const float2*)(angles + 8 * j), sine = *(const float2*)(angles + entries + 8 * j);
            float &a = d[4 * j + 2 * h], &b = d[4 * j + 2 * h + HEAD / 4];
            float &c = d[4 * j + 2 * h + 1], &e = d[4 * j + 2 * h + 1 + HEAD / 4];
            float x = a, y = c;
            a = fmaf(x, cosine.x, b * sine.x);
            b = fmaf(b, cosine.x, -x * sine.x);
            c = fmaf(y, cosine.y, e * sine.y);
            e = fmaf(e, cosine.y, -y * sine.y);
        }
    }
}

// Positions of a lane's two tokens of 64, asked for long before they are needed; tokens behind the sample count as its
// last.
DEVICE void positions_of(int (&at)[2], const float* table, const int* positions, int first, int end) {
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        int token = first + 16 * (threadIdx.x >> 5 & 3) + (threadIdx.x & 31) / 4 + 8 * h;
        at[h] = table ? positions[min(token, end - 1)] : 0;
    }
}
#endif
