// Depthwise convolution of [N, H, W, C] with one k x k filter a channel, stride 1, zero padding.
//
// 7 x 7 with C a multiple of 8: a block stays with 64 channels and walks through tiles of the images, which it takes
// into shared memory with their halo; while it works on one, the next is on its way where there is room for two. A
// lane has two channels, a warp whole rows. Everything that is read from shared memory is used for many products in
// registers, because the products themselves are what these kernels are bound by.
// Other sizes: one thread an output.

#if T_IS_BF16
typedef u32 Pair;
DEVICE float2 unpack(Pair p) { return make_float2(low_half(p), high_half(p)); }
DEVICE Pair pair(float2 v) { return pack2(v.x, v.y); }
#define CONV_WARPS 16
#define GRAD_WARPS 12
#else
typedef float2 Pair;
DEVICE float2 unpack(Pair p) { return p; }
DEVICE Pair pair(float2 v) { return v; }
#define CONV_WARPS 8
#define GRAD_WARPS 6
#endif

#define WIDTH 16              // pixels of a tile's row
#define SPAN (WIDTH + 6)      // the same with halo
#define CONV_ROWS CONV_WARPS  // a warp makes half of two rows
#define GRAD_ROWS GRAD_WARPS

DEVICE float2 fma2(float2 a, float2 b, float2 c) { return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)); }
DEVICE float2 add2(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// The images in tiles of so many rows and of WIDTH columns; tile t begins at pixel (top, left) of image n.
struct Tiles {
    int across, down, total;
    int n, top, left;
    DEVICE Tiles(int N, int H, int W, int rows) {
        across = (W + WIDTH - 1) / WIDTH;
        down = (H + rows - 1) / rows;
        total = N * down * across;
    }
    DEVICE void find(int t, int rows) {
        n = t / (down * across);
        top = t / across % down * rows;
        left = t % across * WIDTH;
    }
};

// Starts copying ROWS x COLUMNS pixels x 64 channels from pixel (top, left) of image n on; zeros outside. A thread
// takes the same 16 bytes of every so-manieth pixel.
template <int ROWS, int COLUMNS, int THREADS>
DEVICE void load_tile(Pair* tile, const T* x, i64 n, int top, int left, int H, int W, int C, int c0) {
    constexpr int each = 16 / sizeof(T), chunks = 64 / each, step = THREADS / chunks;
    int c = c0 + threadIdx.x % chunks * each;
    bool has_channel = c < C;
    const T* image = x + n * H * W * C + c;
    u32 to = (u32)__cvta_generic_to_shared(tile) + threadIdx.x * 16;
    #pragma unroll 1
    for (int pixel = threadIdx.x / chunks; pixel < ROWS * COLUMNS; pixel += step, to += THREADS * 16) {
        int h = top + pixel / COLUMNS, w = left + pixel % COLUMNS;
        bool inside = has_channel && (unsigned)h < (unsigned)H && (unsigned)w < (unsigned)W;
        const T* from = inside ? image + (i64)(h * W + w) * C : x;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0));
    }
}
DEVICE void wait_for_tiles() {
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
    __syncthreads();
}

// Adds a row of 14 pixels times the filter row at `taps` to eight pixels of the upper output row, times the one before
// it to those of the lower.
template <bool UPPER, bool LOWER>
DEVICE void meet(const Pair* in, const float2* taps, float2 (&upper)[8], float2 (&lower)[8]) {
    float2 v[14];
    #pragma unroll
    for (int j = 0; j < 14; j++) v[j] = unpack(in[j * 32]);
    #pragma unroll
    for (int k = 0; k < 7; k++) {
        if (UPPER) {
            float2 tap = taps[k * 32];
            #pragma unroll
            for (int j = 0; j < 8; j++) upper[j] = fma2(v[j + k], tap, upper[j]);
        }
        if (LOWER) {
            float2 tap = taps[(k - 7) * 32];
            #pragma unroll
            for (int j = 0; j < 8; j++) lower[j] = fma2(v[j + k], tap, lower[j]);
        }
    }
}

// y = bias + correlation of x with w [C, 49], turned by 180 degrees for the gradient of the input; bias may be
// null. Grid: blocks that share the tiles of N images, groups of 64 channels; shared memory for `buffers` (1 or 2)
// tiles. A warp makes eight pixels of two rows: every input row that it reads serves both.
KERNEL __launch_bounds__(32 * CONV_WARPS, 1)
conv7(const T* x, const T* w, const T* bias, T* y, int N, int H, int W, int C, int turned, int buffers) {
    extern __shared__ uint4 memory[];
    constexpr int TILE = (CONV_ROWS + 6) * SPAN * 32;
    float2* filter = (float2*)memory;
    Pair *tile = (Pair*)(filter + 49 * 32), *other = tile + (buffers - 1) * TILE;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c0 = blockIdx.y * 64, c = c0 + lane * 2;
    int row = warp & ~1, column = (warp & 1) * 8;
    bool inside = c < C;
    Tiles tiles(N, H, W, CONV_ROWS), ahead = tiles;
    int t = blockIdx.x;
    if (t >= tiles.total) return;
    ahead.find(t, CONV_ROWS);
    load_tile<CONV_ROWS + 6, SPAN, 32 * CONV_WARPS>(tile, x, ahead.n, ahead.top - 3, ahead.left - 3, H, W, C, c0);
    // The filters of the channels lie one behind the other: they are read as they lie, and laid down as pairs of
    // channels once all have taken theirs.
    T* raw = (T*)filter;
    for (int i = threadIdx.x; i < min(64, C - c0) * 49; i += 32 * CONV_WARPS) raw[i] = w[c0 * 49 + i];
    float2 start = make_float2(0, 0);
    if (bias && inside) start = make_float2(to_float(bias[c]), to_float(bias[c + 1]));
    __syncthreads();
    constexpr int MINE = (49 + CONV_WARPS - 1) / CONV_WARPS;
    float2 mine[MINE];
    #pragma unroll
    for (int i = 0; i < MINE; i++) {
        int tap = min(warp + i * CONV_WARPS, 48), from = lane * 98 + (turned ? 48 - tap : tap);
        mine[i] = inside ? make_float2(to_float(raw[from]), to_float(raw[from + 49])) : make_float2(0, 0);
    }
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < MINE; i++)
        if (warp + i * CONV_WARPS < 49) filter[(warp + i * CONV_WARPS) * 32 + lane] = mine[i];
    #pragma unroll 1
    while (true) {
        // Behind the barrier nobody reads the other buffer any more.
        wait_for_tiles();
        tiles.find(t, CONV_ROWS);
        t += gridDim.x;
        bool more = t < tiles.total;
        ahead.find(t, CONV_ROWS);
        if (more && buffers > 1)
            load_tile<CONV_ROWS + 6, SPAN, 32 * CONV_WARPS>(other, x, ahead.n, ahead.top - 3, ahead.left - 3, H, W, C, c0);
        int h = tiles.top + row, left = tiles.left + column;
        if (h < H && left < W) {
            float2 upper[8], lower[8];
            #pragma unroll
            for (int j = 0; j < 8; j++) upper[j] = lower[j] = start;
            const Pair* in = tile + (row * SPAN + column) * 32 + lane;
            // Input row i meets filter row i for the upper output row and i - 1 for the lower one. The loop stays a
            // loop: unrolled it is too long for the nearest instruction cache.
            meet<true, false>(in, filter + lane, upper, lower);
            #pragma unroll 1
            for (int i = 1; i < 7; i++) meet<true, true>(in + i * (SPAN * 32), filter + i * (7 * 32) + lane, upper, lower);
            meet<false, true>(in + 7 * (SPAN * 32), filter + 7 * (7 * 32) + lane, upper, lower);
            if (inside) {
                T* out = y + (((i64)tiles.n * H + h) * W + left) * C + c;
                #pragma unroll
                for (int j = 0; j < 8; j++)
                    if (left + j < W) {
                        *(Pair*)(out + (i64)j * C) = pair(upper[j]);
                        if (h + 1 < H) *(Pair*)(out + ((i64)W + j) * C) = pair(lower[j]);
                    }
            }
        }
        if (!more) break;
        if (buffers == 1) {
            __syncthreads();
            load_tile<CONV_ROWS + 6, SPAN, 32 * CONV_WARPS>(tile, x, ahead.n, ahead.top - 3, ahead.left - 3, H, W, C, c0);
        } else {
            Pair* swap = tile;
            tile = other;
            other = swap;
        }
    }
}

// part [gridDim.x, 50, C]: gradients of the 49 filter taps and of the bias over the tiles that a block walks
// through, blockIdx.x, blockIdx.x + gridDim.x, .. of N images; blockIdx.y: 64 channels; shared memory for `buffers`
// tiles of x and dy. A warp takes a row of dy and keeps all 50 sums; the warps' sums are added in order at the end.
KERNEL __launch_bounds__(32 * GRAD_WARPS, 1)
conv7_weight_grad(const T* x, const T* dy, float* part, int N, int H, int W, int C, int buffers) {
    extern __shared__ uint4 memory[];
    constexpr int TILE = (GRAD_ROWS + 6) * SPAN * 32, BOTH = TILE + GRAD_ROWS * WIDTH * 32;
    Pair *tile = (Pair*)memory, *other = tile + (buffers - 1) * BOTH;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c0 = blockIdx.y * 64, c = c0 + lane * 2;
    Tiles tiles(N, H, W, GRAD_ROWS), ahead = tiles;
    auto load = [&](int t, Pair* to) {
        ahead.find(t, GRAD_ROWS);
        load_tile<GRAD_ROWS + 6, SPAN, 32 * GRAD_WARPS>(to, x, ahead.n, ahead.top - 3, ahead.left - 3, H, W, C, c0);
        load_tile<GRAD_ROWS, WIDTH, 32 * GRAD_WARPS>(to + TILE, dy, ahead.n, ahead.top, ahead.left, H, W, C, c0);
    };
    float2 acc[49], bias = make_float2(0, 0);
    #pragma unroll
    for (int t = 0; t < 49; t++) acc[t] = make_float2(0, 0);
    int t = blockIdx.x;
    if (t < tiles.total) load(t, tile);
    #pragma unroll 1
    while (t < tiles.total) {
        wait_for_tiles();
        tiles.find(t, GRAD_ROWS);
        t += gridDim.x;
        if (t < tiles.total && buffers > 1) load(t, other);
        #pragma unroll 1
        for (int left = 0; left < WIDTH; left += 8) {
            if (tiles.top + warp >= H || tiles.left + left >= W) continue;
            const Pair* grad = tile + TILE + (warp * WIDTH + left) * 32 + lane;
            float2 d[8];
            #pragma unroll
            for (int j = 0; j < 8; j++) {
                d[j] = unpack(grad[j * 32]);
                bias = add2(bias, d[j]);
            }
            #pragma unroll
            for (int i = 0; i < 7; i++) {
                const Pair* in = tile + ((warp + i) * SPAN + left) * 32 + lane;
                float2 v[14];
                #pragma unroll
                for (int j = 0; j < 14; j++) v[j] = unpack(in[j * 32]);
                #pragma unroll
                for (int k = 0; k < 7; k++)
                    #pragma unroll
                    for (int j = 0; j < 8; j++) acc[i * 7 + k] = fma2(v[j + k], d[j], acc[i * 7 + k]);
            }
        }
        if (buffers == 1) {
            __syncthreads();
            if (t < tiles.total) load(t, tile);
        } else {
            Pair* swap = tile;
            tile = other;
            other = swap;
        }
    }
    float2* sums = (float2*)memory;
    for (int w = 0; w < GRAD_WARPS; w++) {
        __syncthreads();
        if (warp != w) continue;
        #pragma unroll
        for (int t = 0; t < 50; t++) {
            float2 mine = t < 49 ? acc[t < 49 ? t : 0] : bias;
            sums[t * 32 + lane] = w == 0 ? mine : add2(sums[t * 32 + lane], mine);
        }
    }
    __syncthreads();
    if (c >= C) return;
    for (int t = warp; t < 50; t += GRAD_WARPS) *(float2*)(part + (blockIdx.x * 50ll + t) * C + c) = sums[t * 32 + lane];
}

// Filters [C, taps] as f32 [taps, C] for filters of any size; turned as above.
KERNEL pack_filter(const T* w, float* packed, int taps, int C, int turned) {
    EACH(i, (i64)taps * C) {
        int t = i / C;
        i64 c = i % C;
        packed[i] = to_float(w[c * taps + (turned ? taps - 1 - t : t)]);
    }
}

// Any odd k: one thread an output; w [k k, C] in f32, bias may be null.
KERNEL conv_any(const T* x, const float* w, const T* bias, T* y, i64 numel, int H, int W, int C, int k) {
    EACH(i, numel) {
        int c = i % C;
        i64 pixel = i / C, image_row = pixel / W;
        int px = pixel % W, py = image_row % H;
        float sum = bias ? to_float(bias[c]) : 0.f;
        for (int ky = 0; ky < k; ky++) {
            int dy = ky - k / 2;
            if (py + dy < 0 || py + dy >= H) continue;
            for (int kx = 0; kx < k; kx++) {
                int dx = kx - k / 2;
                if (px + dx < 0 || px + dx >= W) continue;
                sum = fmaf(to_float(x[i + ((i64)dy * W + dx) * C]), w[(ky * k + kx) * (i64)C + c], sum);
            }
        }
        store(y + i, sum);
    }
}

// part [gridDim.z, k k + 1, C] as above; a block of 8 warps has 32 channels and one tap (blockIdx.y, the last one
// is the bias) and takes every so-manieth pixel.
KERNEL any_weight_grad(const T* x, const T* dy, float* part, i64 pixels, int H, int W, int C, int k) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tap = blockIdx.y, c = blockIdx.x * 32 + lane;
    bool is_bias = tap == k * k;
    int oy = is_bias ? 0 : tap / k - k / 2, ox = is_bias ? 0 : tap % k - k / 2;
    float sum = 0;
    if (c < C)
        for (i64 p = blockIdx.z * 8ll + warp; p < pixels; p += gridDim.z * 8ll) {
            int px = p % W + ox, py = p / W % H + oy;
            if (px < 0 || px >= W || py < 0 || py >= H) continue;
            float g = to_float(dy[p * C + c]);
            sum += is_bias ? g : g * to_float(x[(p + (i64)oy * W + ox) * C + c]);
        }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp || c >= C) return;
    for (int g = 1; g < 8; g++) sum += sums[g][lane];
    part[(blockIdx.z * (i64)gridDim.y + tap) * C + c] = sum;
}

// out[c, t] = beta out[c, t] + sum over parts of part[part, first + t, c] of part [parts, total, C]; t in
// 0..gridDim.y. A block has 32 channels and 8 groups of parts.
template <typename G>
DEVICE void finish(const float* part, G* out, int parts, int total, int first, int C, float beta) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x & 31, group = threadIdx.x >> 5, c = blockIdx.x * 32 + lane, t = blockIdx.y;
    float sum = 0;
    if (c < C)
        #pragma unroll 4
        for (int p = group; p < parts; p += 8) sum += part[((i64)p * total + first + t) * C + c];
    sums[group][lane] = sum;
    __syncthreads();
    if (group || c >= C) return;
    for (int g = 1; g < 8; g++) sum += sums[g][lane];
    out += c * (i64)gridDim.y + t;
    store(out, beta != 0.f ? sum + beta * to_float(*out) : sum);
}
KERNEL finish_f32(const float* part, float* out, int parts, int total, int first, int C, float beta) {
    finish(part, out, parts, total, first, C, beta);
}
KERNEL finish_bf16(const float* part, bf16* out, int parts, int total, int first, int C, float beta) {
    finish(part, out, parts, total, first, C, beta);
}
