// Products of a few rows with a weight, and what stands between them in a decoding step.

#define THREADS 256
#define WARPS (THREADS / 32)
// Vectors of eight that a lane has under way in each weight row.
#if T_IS_BF16
#define AHEAD 4
#else
#define AHEAD 1
#endif
// Lane steps that rows of x are filled up to; a multiple of AHEAD.
#define STEPS 4
// Vectors of the norm's weight that a thread keeps: k <= 8 * GAINS * THREADS.
#define GAINS 4

DEVICE Eight weights_at(const T* row, int vector, int vectors) {
    return vector < vectors ? stream8(row + (i64)vector * 8) : eight_zeros();
}

// y [B, n] = f(x [B, k]) w^T, f the RMS norm with weight `gain` where there is one. GATED:
// y = silu(f(x) w0^T) * (f(x) w1^T). With `add`, y is added to.
//
// A warp owns R rows of the weight (GATED: R rows of each matrix) and streams them with 16-byte loads; x lies
// in shared memory. The first loads of the weight are under way before the kernel in front has ended.
template <int B, int R, bool GATED, typename O>
DEVICE void product(const T* x, const T* gain, float eps, Rows w, int n, int k, O* y, int add) {
    constexpr int Q = GATED ? 2 * R : R;
    extern __shared__ uint4 shared[];
    __shared__ float squares[B][WARPS];
    Eight* sx = (Eight*)shared;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int vectors = k / 8, steps = (vectors + 31) / 32, padded = (steps + STEPS - 1) / STEPS * STEPS * 32;
    const int first = (blockIdx.x * WARPS + warp) * R;
    let_next_start();

    const T* row[Q];
    #pragma unroll
    for (int q = 0; q < Q; q++) {
        int r = min(first + q % R, n - 1);
        row[q] = GATED && q >= R ? w.w1 + (i64)r * k : w.at(r, k);
    }
    Eight a[AHEAD][Q];
    #pragma unroll
    for (int u = 0; u < AHEAD; u++)
        #pragma unroll
        for (int q = 0; q < Q; q++) a[u][q] = weights_at(row[q], u * 32 + lane, vectors);
    Eight g[GAINS];
    if (gain)
        #pragma unroll
        for (int c = 0; c < GAINS; c++) g[c] = weights_at(gain, c * THREADS + threadIdx.x, vectors);

    await_previous();
    float old[B][R];
    #pragma unroll
    for (int b = 0; b < B; b++)
        #pragma unroll
        for (int r = 0; r < R; r++) old[b][r] = add ? fresh(y + (i64)b * n + min(first + r, n - 1)) : 0.f;
    #pragma unroll
    for (int b = 0; b < B; b++) {
        float sum = 0;
        for (int i = threadIdx.x; i < padded; i += THREADS) {
            Eight e = i < vectors ? fresh8(x + (i64)b * k + i * 8) : eight_zeros();
            sx[b * padded + i] = e;
            if (gain) {
                float v[8];
                widen(e, v);
                #pragma unroll
                for (int j = 0; j < 8; j++) sum = fmaf(v[j], v[j], sum);
            }
        }
        if (gain) {
            sum = warp_sum(sum);
            if (lane == 0) squares[b][warp] = sum;
        }
    }
    if (gain) {
        __syncthreads();
        #pragma unroll
        for (int b = 0; b < B; b++) {
            float sum = 0;
            #pragma unroll
            for (int i = 0; i < WARPS; i++) sum += squares[b][i];
            const float inverse = rsqrtf(sum / k + eps);
            // Each thread turns the very vectors that it has written.
            #pragma unroll
            for (int c = 0; c < GAINS; c++) {
                const int i = c * THREADS + threadIdx.x;
                if (i < vectors) {
                    float v[8], m[8];
                    widen(sx[b * padded + i], v);
                    widen(g[c], m);
                    #pragma unroll
                    for (int j = 0; j < 8; j++) v[j] = v[j] * inverse * m[j];
                    sx[b * padded + i] = narrow(v);
                }
            }
        }
    }
    __syncthreads();

    float acc[B][Q];
    #pragma unroll
    for (int b = 0; b < B; b++)
        #pragma unroll
        for (int q = 0; q < Q; q++) acc[b][q] = 0;
    for (int s = 0; s < steps; s += AHEAD) {
        Eight next[AHEAD][Q];
        #pragma unroll
        for (int u = 0; u < AHEAD; u++)
            #pragma unroll
            for (int q = 0; q < Q; q++) next[u][q] = weights_at(row[q], (s + AHEAD + u) * 32 + lane, vectors);
        #pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            float wide[Q][8];
            #pragma unroll
            for (int q = 0; q < Q; q++) widen(a[u][q], wide[q]);
            #pragma unroll
            for (int b = 0; b < B; b++) {
                float v[8];
                widen(sx[b * padded + (s + u) * 32 + lane], v);
                #pragma unroll
                for (int q = 0; q < Q; q++)
                    #pragma unroll
                    for (int j = 0; j < 8; j++) acc[b][q] = fmaf(wide[q][j], v[j], acc[b][q]);
            }
        }
        #pragma unroll
        for (int u = 0; u < AHEAD; u++)
            #pragma unroll
            for (int q = 0; q < Q; q++) a[u][q] = next[u][q];
    }
    #pragma unroll
    for (int b = 0; b < B; b++)
        #pragma unroll
        for (int q = 0; q < Q; q++) acc[b][q] = warp_sum(acc[b][q]);
    if (lane == 0)
        #pragma unroll
        for (int b = 0; b < B; b++)
            #pragma unroll
            for (int r = 0; r < R; r++)
                if (first + r < n) {
                    float v = acc[b][r];
                    if (GATED) v = v * sigmoid(v) * acc[b][Q - R + r];
                    store(y + (i64)b * n + first + r, v + old[b][r]);
                }
}

#define PRODUCTS(B, R) \
    KERNEL __launch_bounds__(THREADS) product_##B(const T* x, const T* gain, float eps, const T* w0, const T* w1, \
        const T* w2, int end0, int end1, int, int n, int k, T* y, int add) { \
        product<B, R, false>(x, gain, eps, Rows{w0, w1, w2, end0, end1}, n, k, y, add); \
    } \
    KERNEL __launch_bounds__(THREADS) logits_##B(const T* x, const T* gain, float eps, const T* w0, const T* w1, \
        const T* w2, int end0, int end1, int, int n, int k, float* y, int add) { \
        product<B, R, false>(x, gain, eps, Rows{w0, w1, w2, end0, end1}, n, k, y, add); \
    } \
    KERNEL __launch_bounds__(THREADS) gated_##B(const T* x, const T* gain, float eps, const T* w0, const T* w1, \
        const T* w2, int end0, int end1, int, int n, int k, T* y, int add) { \
        product<B, 1, true>(x, gain, eps, Rows{w0, w1, w2, end0, end1}, n, k, y, add); \
    }
PRODUCTS(1, 1)
PRODUCTS(2, 2)
PRODUCTS(3, 2)
PRODUCTS(4, 2)

#if T_IS_BF16
// Steps of 32 elements that a warp has under way.
#define DEPTH 3
// Tiles of 16 weight rows of a warp.
#define TILES 2

// As `product`, for up to 8 S rows of x, on tensor cores. A block takes 32 rows of the weight (GATED: 16 of each
// matrix), its warps every eighth step of 32 elements each, so that together they read 512 bytes of a row at a
// time. Lane 4 g + t has eight elements of the rows g and g + 8 of a tile, and the same eight of the row g of x:
// the order of the elements is not that of the instruction, but the same for both, and a sum does not mind.
// The norm's weight meets x here; its root, one number a row of x, comes at the end.
template <int S, bool GATED, typename O>
DEVICE void tiles(const T* x, const T* gain, float eps, Rows w, int rows, int n, int k, O* y, int add) {
    constexpr int OWN = GATED ? 16 : 16 * TILES;
    __shared__ float part[WARPS][16 * TILES][8 * S + 1], squares[WARPS][8 * S];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const int vectors = k / 8, steps = (vectors + 3) / 4, first = blockIdx.x * OWN;
    let_next_start();

    const T* row[TILES][2];
    #pragma unroll
    for (int q = 0; q < TILES; q++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = min(first + (GATED ? 0 : 16 * q) + g + 8 * h, n - 1);
            row[q][h] = GATED && q == 1 ? w.w1 + (i64)r * k : w.at(r, k);
        }
    uint4 a[DEPTH][TILES][2];
    auto ask = [&](int u, int step) {
        #pragma unroll
        for (int q = 0; q < TILES; q++)
            #pragma unroll
            for (int h = 0; h < 2; h++) a[u][q][h] = weights_at(row[q][h], step * 4 + t, vectors).part[0];
    };
    #pragma unroll
    for (int u = 0; u < DEPTH; u++) ask(u, warp + u * WARPS);
    await_previous();

    const T* in[S];
    #pragma unroll
    for (int i = 0; i < S; i++) in[i] = x + (i64)min(8 * i + g, rows - 1) * k;
    float acc[S][TILES][4], square[S];
    #pragma unroll
    for (int i = 0; i < S; i++) {
        square[i] = 0;
        #pragma unroll
        for (int q = 0; q < TILES; q++)
            #pragma unroll
            for (int j = 0; j < 4; j++) acc[i][q][j] = 0;
    }
    Eight b[S];
    auto ask_x = [&](int step) {
        const int v = step * 4 + t;
        #pragma unroll
        for (int i = 0; i < S; i++) b[i] = v < vectors ? fresh8(in[i] + v * 8) : eight_zeros();
    };
    ask_x(warp);
    for (int step = warp; step < steps; step += WARPS * DEPTH) {
        #pragma unroll
        for (int u = 0; u < DEPTH; u++) {
            const int now = step + u * WARPS, v = now * 4 + t;
            if (now >= steps) break;
            Eight own[S];
            #pragma unroll
            for (int i = 0; i < S; i++) own[i] = b[i];
            ask_x(now + WARPS);
            if (gain && v < vectors) {
                float m[8];
                load8(gain + v * 8, m);
                #pragma unroll
                for (int i = 0; i < S; i++) {
                    float e[8];
                    widen(own[i], e);
                    #pragma unroll
                    for (int j = 0; j < 8; j++) {
                        square[i] = fmaf(e[j], e[j], square[i]);
                        e[j] *= m[j];
                    }
                    own[i] = narrow(e);
                }
            }
            #pragma unroll
            for (int q = 0; q < TILES; q++) {
                const uint4 low = a[u][q][0], high = a[u][q][1];
                #pragma unroll
                for (int i = 0; i < S; i++) {
                    const uint4 e = own[i].part[0];
                    multiply(acc[i][q], low.x, high.x, low.y, high.y, e.x, e.y);
                    multiply(acc[i][q], low.z, high.z, low.w, high.w, e.z, e.w);
                }
            }
            ask(u, now + DEPTH * WARPS);
        }
    }
    // Lane 4 g + t has the rows g and g + 8 of a tile for the rows 2 t and 2 t + 1 of x.
    #pragma unroll
    for (int i = 0; i < S; i++) {
        #pragma unroll
        for (int q = 0; q < TILES; q++)
            #pragma unroll
            for (int j = 0; j < 4; j++) part[warp][16 * q + g + 8 * (j / 2)][8 * i + 2 * t + j % 2] = acc[i][q][j];
        square[i] += __shfl_xor_sync(FULL, square[i], 1);
        square[i] += __shfl_xor_sync(FULL, square[i], 2);
        if (t == 0) squares[warp][8 * i + g] = square[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < OWN * rows; i += THREADS) {
        const int r = i % OWN, s = i / OWN;
        if (first + r >= n) continue;
        float v = 0, up = 0, sum = 0;
        #pragma unroll
        for (int p = 0; p < WARPS; p++) {
            v += part[p][r][s];
            if (GATED) up += part[p][16 + r][s];
            sum += squares[p][s];
        }
        const float inverse = gain ? rsqrtf(sum / k + eps) : 1.f;
        v *= inverse;
        if (GATED) v = v * sigmoid(v) * up * inverse;
        O* to = y + (i64)s * n + first + r;
        store(to, add ? v + fresh(to) : v);
    }
}

#define TILED(name, gated, O) \
    KERNEL __launch_bounds__(THREADS, 2) name(const T* x, const T* gain, float eps, const T* w0, const T* w1, \
        const T* w2, int end0, int end1, int rows, int n, int k, O* y, int add) { \
        tiles<1, gated>(x, gain, eps, Rows{w0, w1, w2, end0, end1}, rows, n, k, y, add); \
    }
TILED(tiled, false, T)
TILED(tiled_logits, false, float)
TILED(tiled_gated, true, T)
#endif

// x [rows, d] = table [vocab, d] at the ids; a block a row. An id outside the table (a row out of use) reads row 0.
KERNEL embed_rows(const T* table, const int* ids, int vocab, T* x, int d) {
    let_next_start();
    await_previous();
    int id = ids[blockIdx.x];
    if (id < 0 || id >= vocab) id = 0;
    const T* from = table + (i64)id * d;
    T* to = x + (i64)blockIdx.x * d;
    for (int i = threadIdx.x; i < d / 8; i += blockDim.x) {
        float v[8];
        load8(from + i * 8, v);
        store8(to + i * 8, v);
    }
}

// y [rows, k] = RMS norm of x; a block a row.
KERNEL norm_rows(const T* x, const T* gain, float eps, T* y, int k) {
    const T* from = x + (i64)blockIdx.x * k;
    T* to = y + (i64)blockIdx.x * k;
    let_next_start();
    await_previous();
    float sum = 0;
    for (int i = threadIdx.x; i < k / 8; i += blockDim.x) {
        float v[8];
        widen(fresh8(from + i * 8), v);
        #pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(v[j], v[j], sum);
    }
    const float inverse = rsqrtf(block_sum(sum) / k + eps);
    for (int i = threadIdx.x; i < k / 8; i += blockDim.x) {
        float v[8], g[8];
        widen(fresh8(from + i * 8), v);
        load8(gain + i * 8, g);
        #pragma unroll
        for (int j = 0; j < 8; j++) v[j] = v[j] * inverse * g[j];
        store8(to + i * 8, v);
    }
}

// y [rows, n] = silu(gate) * up, whose rows lie `stride` apart.
KERNEL gate_rows(const T* gate, const T* up, i64 stride, T* y, i64 rows, i64 n) {
    let_next_start();
    await_previous();
    EACH(i, rows * (n / 8)) {
        i64 r = i / (n / 8), c = i % (n / 8) * 8;
        float g[8], u[8];
        widen(fresh8(gate + r * stride + c), g);
        widen(fresh8(up + r * stride + c), u);
        #pragma unroll
        for (int j = 0; j < 8; j++) g[j] = g[j] * sigmoid(g[j]) * u[j];
        store8(y + r * n + c, g);
    }
}
