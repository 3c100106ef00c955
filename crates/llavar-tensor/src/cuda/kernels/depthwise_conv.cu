// Depthwise convolution of [N, H, W, C] with one k x k filter a channel, stride 1, zero padding.
//
// 7 x 7 with C a multiple of 8: a block takes a tile of an image with its halo and 64 channels into shared
// memory; a lane has two channels, a warp whole rows. Everything that is read from shared memory is used for
// many products in registers, because the products themselves are what these kernels are bound by.
// Other sizes: one thread an output.

#if T_IS_BF16
typedef u32 Pair;
DEVICE float2 unpack(Pair p) { return make_float2(low_half(p), high_half(p)); }
DEVICE Pair pair(float2 v) { return pack2(v.x, v.y); }
#define CONV_WARPS 8
#define GRAD_ROWS 12
#else
typedef float2 Pair;
DEVICE float2 unpack(Pair p) { return p; }
DEVICE Pair pair(float2 v) { return v; }
#define CONV_WARPS 4
#define GRAD_ROWS 6
#endif

#define WIDTH 16              // pixels of a tile's row
#define SPAN (WIDTH + 6)      // the same with halo
#define CONV_ROWS (2 * CONV_WARPS)
#define GRAD_WARPS 6

DEVICE float2 fma2(float2 a, float2 b, float2 c) { return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)); }
DEVICE float2 add2(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// Starts copying ROWS x COLUMNS pixels x 64 channels from pixel (top, left) of image n on; zeros outside.
template <int ROWS, int COLUMNS>
DEVICE void load_tile(Pair* tile, const T* x, i64 n, int top, int left, int H, int W, int C, int c0) {
    constexpr int each = 16 / sizeof(T), chunks = 64 / each;
    u32 to = (u32)__cvta_generic_to_shared(tile);
    for (int i = threadIdx.x; i < ROWS * COLUMNS * chunks; i += blockDim.x) {
        int pixel = i / chunks, h = top + pixel / COLUMNS, w = left + pixel % COLUMNS, c = c0 + i % chunks * each;
        bool inside = h >= 0 && h < H && w >= 0 && w < W && c < C;
        const T* from = inside ? x + ((n * H + h) * W + w) * C + c : x;
        int bytes = inside ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + i * 16), "l"(from), "r"(bytes));
    }
}
DEVICE void wait_for_tiles() {
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
    __syncthreads();
}

// y = bias + correlation of x with w [C, 49], turned by 180 degrees for the gradient of the input; bias may be
// null. Grid: tiles, groups of 64 channels, images. A warp makes two rows of the tile, eight pixels of both at a
// time: every input row that it reads serves both.
KERNEL __launch_bounds__(32 * CONV_WARPS, 2)
conv7(const T* x, const T* w, const T* bias, T* y, int H, int W, int C, int turned) {
    extern __shared__ uint4 memory[];
    Pair* tile = (Pair*)memory;
    float2* filter = (float2*)(tile + (CONV_ROWS + 6) * SPAN * 32);
    int across = (W + WIDTH - 1) / WIDTH, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int h0 = blockIdx.x / across * CONV_ROWS, w0 = blockIdx.x % across * WIDTH, c0 = blockIdx.y * 64, c = c0 + lane * 2;
    bool inside = c < C;
    i64 n = blockIdx.z;
    load_tile<CONV_ROWS + 6, SPAN>(tile, x, n, h0 - 3, w0 - 3, H, W, C, c0);
    // The filters of the channels lie one behind the other: they are read as they lie, and laid down as pairs of
    // channels once all have taken theirs.
    T* raw = (T*)filter;
    for (int i = threadIdx.x; i < min(64, C - c0) * 49; i += 32 * CONV_WARPS) raw[i] = w[c0 * 49 + i];
    float2 start = make_float2(0, 0);
    if (bias && inside) start = make_float2(to_float(bias[c]), to_float(bias[c + 1]));
    wait_for_tiles();
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
    __syncthreads();
    int row = warp * 2;
    #pragma unroll 1
    for (int left = 0; left < WIDTH; left += 8) {
        if (h0 + row >= H || w0 + left >= W) break;
        float2 upper[8], lower[8], before[7];
        #pragma unroll
        for (int j = 0; j < 8; j++) upper[j] = lower[j] = start;
        #pragma unroll
        for (int k = 0; k < 7; k++) before[k] = make_float2(0, 0);
        // Input row i meets filter row i for the upper output row and i - 1 for the lower one.
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            const Pair* in = tile + ((row + i) * SPAN + left) * 32 + lane;
            float2 v[14], now[7];
            #pragma unroll
            for (int j = 0; j < 14; j++) v[j] = unpack(in[j * 32]);
            if (i < 7) {
                #pragma unroll
                for (int k = 0; k < 7; k++) {
                    now[k] = filter[(i * 7 + k) * 32 + lane];
                    #pragma unroll
                    for (int j = 0; j < 8; j++) upper[j] = fma2(v[j + k], now[k], upper[j]);
                }
            }
            if (i > 0) {
                #pragma unroll
                for (int k = 0; k < 7; k++)
                    #pragma unroll
                    for (int j = 0; j < 8; j++) lower[j] = fma2(v[j + k], before[k], lower[j]);
            }
            if (i < 7) {
                #pragma unroll
                for (int k = 0; k < 7; k++) before[k] = now[k];
            }
        }
        if (!inside) continue;
        T* out = y + ((n * H + h0 + row) * W + w0 + left) * C + c;
        #pragma unroll
        for (int j = 0; j < 8; j++)
            if (w0 + left + j < W) {
                *(Pair*)(out + (i64)j * C) = pair(upper[j]);
                if (h0 + row + 1 < H) *(Pair*)(out + ((i64)W + j) * C) = pair(lower[j]);
            }
    }
}

// part [gridDim.x, 50, C]: gradients of the 49 filter taps and of the bias over the tiles that a block walks
// through, blockIdx.x, blockIdx.x + gridDim.x, .. of N images; blockIdx.y: 64 channels. A warp takes every
// sixth row of dy and keeps all 50 sums; the warps' sums are added in order at the end.
KERNEL __launch_bounds__(32 * GRAD_WARPS, 2)
conv7_weight_grad(const T* x, const T* dy, float* part, int N, int H, int W, int C) {
    extern __shared__ uint4 memory[];
    Pair *tile = (Pair*)memory, *grad = tile + (GRAD_ROWS + 6) * SPAN * 32;
    int across = (W + WIDTH - 1) / WIDTH, down = (H + GRAD_ROWS - 1) / GRAD_ROWS;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c0 = blockIdx.y * 64, c = c0 + lane * 2;
    float2 acc[49], bias = make_float2(0, 0);
    #pragma unroll
    for (int t = 0; t < 49; t++) acc[t] = make_float2(0, 0);
    for (int t = blockIdx.x; t < N * down * across; t += gridDim.x) {
        int n = t / (down * across), h0 = t / across % down * GRAD_ROWS, w0 = t % across * WIDTH;
        __syncthreads();
        load_tile<GRAD_ROWS + 6, SPAN>(tile, x, n, h0 - 3, w0 - 3, H, W, C, c0);
        load_tile<GRAD_ROWS, WIDTH>(grad, dy, n, h0, w0, H, W, C, c0);
        wait_for_tiles();
        #pragma unroll 1
        for (int step = 0; step < GRAD_ROWS / GRAD_WARPS * 2; step++) {
            int r = warp + step / 2 * GRAD_WARPS, left = step % 2 * 8;
            if (h0 + r >= H || w0 + left >= W) continue;
            float2 d[8];
            #pragma unroll
            for (int j = 0; j < 8; j++) {
                d[j] = unpack(grad[(r * WIDTH + left + j) * 32 + lane]);
                bias = add2(bias, d[j]);
            }
            #pragma unroll
            for (int i = 0; i < 7; i++) {
                const Pair* in = tile + ((r + i) * SPAN + left) * 32 + lane;
                float2 v[14];
                #pragma unroll
                for (int j = 0; j < 14; j++) v[j] = unpack(in[j * 32]);
                #pragma unroll
                for (int k = 0; k < 7; k++)
                    #pragma unroll
                    for (int j = 0; j < 8; j++) acc[i * 7 + k] = fma2(v[j + k], d[j], acc[i * 7 + k]);
            }
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
