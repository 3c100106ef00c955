// RMS norm and layer norm over rows of x [rows, c]. Both are one kernel: CENTRED subtracts the mean and
// adds a bias.
//
// Where rows are whole vectors of eight elements, a group of G threads holds a row in registers, V vectors a
// thread, so that everything is read and written once. Thread t of a group has the vectors t, t + G, ..
// Any other row goes the general way: a block a row, which it reads again from the cache.

// Eight elements as they lie in memory: half the registers of eight floats in bf16.
template <typename E> struct Eight;
template <> struct Eight<float> {
    float4 a, b;
    DEVICE void read(const float* p) { a = *(const float4*)p; b = *(const float4*)(p + 4); }
    DEVICE void clear() { a = b = make_float4(0.f, 0.f, 0.f, 0.f); }
    DEVICE void to(float (&v)[8]) const {
        v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
        v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
    }
};
template <> struct Eight<bf16> {
    uint4 a;
    DEVICE void read(const bf16* p) { a = *(const uint4*)p; }
    DEVICE void clear() { a = make_uint4(0, 0, 0, 0); }
    DEVICE void to(float (&v)[8]) const {
        v[0] = low_half(a.x); v[1] = high_half(a.x); v[2] = low_half(a.y); v[3] = high_half(a.y);
        v[4] = low_half(a.z); v[5] = high_half(a.z); v[6] = low_half(a.w); v[7] = high_half(a.w);
    }
};

#define THREADS 256

// Sums over a group of G threads in a fixed order; groups of one block do not wait for each other. A group
// calls it with turn = 0, 1, 0, 1, ..: the barrier of one call orders the reads of the last one before the
// writes of the next one, which go to the same place.
template <int G> DEVICE float2 group_sum(float2 v, int turn) {
    v.x = warp_sum(v.x);
    v.y = warp_sum(v.y);
    if constexpr (G > 32) {
        __shared__ float2 part[2][THREADS / 32];
        int warp = threadIdx.x / 32, group = threadIdx.x / G;
        if (threadIdx.x % 32 == 0) part[turn][warp] = v;
        // Barrier 0 is __syncthreads.
        asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(G) : "memory");
        v = make_float2(0.f, 0.f);
        #pragma unroll
        for (int i = 0; i < G / 32; i++) {
            float2 p = part[turn][group * (G / 32) + i];
            v.x += p.x;
            v.y += p.y;
        }
    }
    return v;
}

// y [rows, c]; stats [rows, 2] mean and 1/std if CENTRED, else [rows] 1/rms. THREADS / G rows a block.
template <bool CENTRED, int G, int V>
DEVICE void forward(const T* x, const T* w, const T* b, T* y, float* stats, i64 rows, int c, float eps) {
    int t = threadIdx.x % G, vectors = c / 8;
    i64 row = blockIdx.x * (i64)(THREADS / G) + threadIdx.x / G;
    if (row >= rows) return; // a whole group
    x += row * c;
    y += row * c;
    float v[V][8], scale = 1.f / c, mean = 0.f;
    #pragma unroll
    for (int i = 0; i < V; i++) {
        int at = t + i * G;
        #pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = 0.f;
        if (at < vectors) load8(x + at * 8, v[i]);
    }
    if (CENTRED) {
        float s = 0.f;
        #pragma unroll
        for (int i = 0; i < V; i++)
            #pragma unroll
            for (int j = 0; j < 8; j++) s += v[i][j];
        mean = group_sum<G>(make_float2(s, 0.f), 0).x * scale;
        #pragma unroll
        for (int i = 0; i < V; i++)
            #pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] = t + i * G < vectors ? v[i][j] - mean : 0.f;
    }
    float s = 0.f;
    #pragma unroll
    for (int i = 0; i < V; i++)
        #pragma unroll
        for (int j = 0; j < 8; j++) s += v[i][j] * v[i][j];
    float r = rsqrtf(group_sum<G>(make_float2(s, 0.f), 1).x * scale + eps);
    #pragma unroll
    for (int i = 0; i < V; i++) {
        int at = t + i * G;
        if (at >= vectors) continue;
        float g[8], o[8];
        load8(w + at * 8, g);
        if (CENTRED) load8(b + at * 8, o);
        #pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = CENTRED ? v[i][j] * r * g[j] + o[j] : v[i][j] * r * g[j];
        store8(y + at * 8, v[i]);
    }
    if (t == 0) {
        if (CENTRED) ((float2*)stats)[row] = make_float2(mean, r);
        else stats[row] = r;
    }
}

// dx [rows, c] unless null, added to what `arrived` holds unless that is null (it may be dx); dw (and db if CENTRED)
// [gridDim.x, c] unless null: the sums over the rows of each block, to be added by the caller. Group k of all groups of
// the grid takes the rows k, k + groups, ..
template <bool CENTRED, int G, int V>
DEVICE void backward(const T* x, const T* w, const T* dy, const float* stats, T* dx, const T* arrived, float* dw,
                     float* db, i64 rows, int c) {
    // The next row is on its way while this one is computed, where the registers hold both.
    constexpr bool AHEAD = sizeof(T) == 2 && V <= 3;
    // What has arrived is asked for before the sums of its row, where they hold that too.
    constexpr bool EARLY = sizeof(T) == 2 && (!CENTRED || V <= 2);
    constexpr int GROUPS = THREADS / G;
    int t = threadIdx.x % G, group = threadIdx.x / G, vectors = c / 8, turn = 0;
    i64 stride = (i64)gridDim.x * GROUPS, row = blockIdx.x * (i64)GROUPS + group;
    float scale = 1.f / c, sum_w[V][8], sum_b[CENTRED ? V : 1][8];
    Eight<T> in[V], grad[V], next_in[V], next_grad[V], there[V];
    float2 stat = make_float2(0.f, 0.f), next_stat = stat;
    #pragma unroll
    for (int i = 0; i < V; i++) {
        in[i].clear();
        grad[i].clear();
        next_in[i].clear();
        next_grad[i].clear();
        #pragma unroll
        for (int j = 0; j < 8; j++) sum_w[i][j] = 0.f;
        if (CENTRED)
            #pragma unroll
            for (int j = 0; j < 8; j++) sum_b[CENTRED ? i : 0][j] = 0.f;
    }
    // Vectors beyond the row are neither read nor used.
    auto read = [&](i64 row, Eight<T>(&in)[V], Eight<T>(&grad)[V], float2& stat) {
        #pragma unroll
        for (int i = 0; i < V; i++) {
            int at = t + i * G;
            if (at < vectors) {
                in[i].read(x + row * c + at * 8);
                grad[i].read(dy + row * c + at * 8);
            }
        }
        stat = CENTRED ? ((const float2*)stats)[row] : make_float2(0.f, stats[row]);
    };
    if (AHEAD && row < rows) read(row, in, grad, stat);
    #pragma unroll 1
    for (; row < rows; row += stride) {
        if (AHEAD) {
            if (row + stride < rows) read(row + stride, next_in, next_grad, next_stat);
        } else {
            read(row, in, grad, stat);
        }
        if (EARLY && arrived) {
            #pragma unroll
            for (int i = 0; i < V; i++)
                if (t + i * G < vectors) there[i].read(arrived + row * c + (t + i * G) * 8);
        }
        float mean = stat.x, r = stat.y;
        float2 s = make_float2(0.f, 0.f);
        #pragma unroll
        for (int i = 0; i < V; i++) {
            int at = t + i * G;
            if (at >= vectors) continue;
            float h[8], g[8], k[8];
            in[i].to(h);
            grad[i].to(g);
            load8(w + at * 8, k);
            #pragma unroll
            for (int j = 0; j < 8; j++) {
                h[j] = (h[j] - mean) * r;
                sum_w[i][j] += g[j] * h[j];
                if (CENTRED) sum_b[CENTRED ? i : 0][j] += g[j];
                g[j] *= k[j];
                if (CENTRED) s.x += g[j];
                s.y += g[j] * h[j];
            }
        }
        if (dx) {
            s = group_sum<G>(s, turn);
            turn ^= 1;
            s.x *= scale;
            s.y *= scale;
            #pragma unroll
            for (int i = 0; i < V; i++) {
                int at = t + i * G;
                if (at >= vectors) continue;
                float h[8], g[8], k[8];
                in[i].to(h);
                grad[i].to(g);
                load8(w + at * 8, k);
                #pragma unroll
                for (int j = 0; j < 8; j++) g[j] = r * (g[j] * k[j] - s.x - (h[j] - mean) * r * s.y);
                if (arrived) {
                    if (EARLY) there[i].to(k); else load8(arrived + row * c + at * 8, k);
                    #pragma unroll
                    for (int j = 0; j < 8; j++) g[j] += k[j];
                }
                store8(dx + row * c + at * 8, g);
            }
        }
        if (AHEAD) {
            #pragma unroll
            for (int i = 0; i < V; i++) {
                in[i] = next_in[i];
                grad[i] = next_grad[i];
            }
            stat = next_stat;
        }
    }
    // The groups of a block add their sums one after the other, straight into the block's part.
    if (!dw) return;
    for (int k = 0; k < GROUPS; k++) {
        if (group == k) {
            #pragma unroll
            for (int i = 0; i < V; i++) {
                int at = t + i * G;
                if (at >= vectors) continue;
                i64 to = blockIdx.x * (i64)c + at * 8;
                float old[8];
                if (k > 0) {
                    load8(dw + to, old);
                    #pragma unroll
                    for (int j = 0; j < 8; j++) sum_w[i][j] += old[j];
                }
                store8(dw + to, sum_w[i]);
                if (CENTRED) {
                    if (k > 0) {
                        load8(db + to, old);
                        #pragma unroll
                        for (int j = 0; j < 8; j++) sum_b[CENTRED ? i : 0][j] += old[j];
                    }
                    store8(db + to, sum_b[CENTRED ? i : 0]);
                }
            }
        }
        __syncthreads();
    }
}

// Any width and address: a block a row.
template <bool CENTRED>
DEVICE void forward_any(const T* x, const T* w, const T* b, T* y, float* stats, i64 rows, int c, float eps) {
    i64 row = blockIdx.x;
    x += row * c;
    y += row * c;
    float mean = 0.f, s = 0.f;
    if (CENTRED) {
        for (int j = threadIdx.x; j < c; j += THREADS) s += to_float(x[j]);
        mean = block_sum(s) / c;
        s = 0.f;
    }
    for (int j = threadIdx.x; j < c; j += THREADS) {
        float d = to_float(x[j]) - mean;
        s += d * d;
    }
    float r = rsqrtf(block_sum(s) / c + eps);
    for (int j = threadIdx.x; j < c; j += THREADS) {
        float h = (to_float(x[j]) - mean) * r * to_float(w[j]);
        store(y + j, CENTRED ? h + to_float(b[j]) : h);
    }
    if (threadIdx.x == 0) {
        if (CENTRED) ((float2*)stats)[row] = make_float2(mean, r);
        else stats[row] = r;
    }
}

// Any width and address: block k takes the rows k, k + gridDim.x, ..; a thread always has the same columns
// and adds to them in the block's part. The grid has at most as many blocks as there are rows.
template <bool CENTRED>
DEVICE void backward_any(const T* x, const T* w, const T* dy, const float* stats, T* dx, const T* arrived, float* dw,
                         float* db, i64 rows, int c) {
    if (dw) dw += blockIdx.x * (i64)c;
    if (db) db += blockIdx.x * (i64)c;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *in = x + row * c, *grad = dy + row * c;
        float2 stat = CENTRED ? ((const float2*)stats)[row] : make_float2(0.f, stats[row]);
        float mean = stat.x, r = stat.y, sum = 0.f, dot = 0.f;
        bool first = row == blockIdx.x;
        for (int j = threadIdx.x; j < c; j += THREADS) {
            float h = (to_float(in[j]) - mean) * r, g = to_float(grad[j]);
            if (dw) dw[j] = first ? g * h : dw[j] + g * h;
            if (db) db[j] = first ? g : db[j] + g;
            g *= to_float(w[j]);
            sum += g;
            dot += g * h;
        }
        if (!dx) continue;
        sum = CENTRED ? block_sum(sum) / c : 0.f;
        dot = block_sum(dot) / c;
        for (int j = threadIdx.x; j < c; j += THREADS) {
            float h = (to_float(in[j]) - mean) * r;
            float g = r * (to_float(grad[j]) * to_float(w[j]) - sum - h * dot);
            store(dx + row * c + j, arrived ? g + to_float(arrived[row * c + j]) : g);
        }
    }
}

#define BOUNDS extern "C" __global__ void __launch_bounds__(THREADS, 2)
#define NORM(name, FORWARD_G, FORWARD_V, G, V)                                                                 \
    BOUNDS rms_forward_##name(const T* x, const T* w, T* y, float* stats, i64 rows, int c, float eps) {        \
        forward<false, FORWARD_G, FORWARD_V>(x, w, nullptr, y, stats, rows, c, eps);                           \
    }                                                                                                          \
    BOUNDS layer_forward_##name(const T* x, const T* w, const T* b, T* y, float* stats, i64 rows, int c,       \
                                float eps) {                                                                   \
        forward<true, FORWARD_G, FORWARD_V>(x, w, b, y, stats, rows, c, eps);                                  \
    }                                                                                                          \
    BOUNDS rms_backward_##name(const T* x, const T* w, const T* dy, const float* stats, T* dx,                 \
                               const T* arrived, float* dw, i64 rows, int c) {                                 \
        backward<false, G, V>(x, w, dy, stats, dx, arrived, dw, nullptr, rows, c);                             \
    }                                                                                                          \
    BOUNDS layer_backward_##name(const T* x, const T* w, const T* dy, const float* stats, T* dx,               \
                                 const T* arrived, float* dw, float* db, i64 rows, int c) {                    \
        backward<true, G, V>(x, w, dy, stats, dx, arrived, dw, db, rows, c);                                   \
    }
// Rows of up to so many elements. At most 128 registers, so that two blocks share a multiprocessor. One warp a row has
// no barrier to wait for; on the way back the sums of gradients would take a warp too many registers from 768 on.
NORM(256, 32, 1, 32, 1)
NORM(512, 32, 2, 32, 2)
NORM(768, 32, 3, 64, 2)
NORM(1024, 32, 4, 64, 2)
NORM(1536, 64, 3, 64, 3)
NORM(2048, 128, 2, 128, 2)
NORM(3072, 128, 3, 128, 3)
NORM(4096, 256, 2, 256, 2)
NORM(6144, 256, 3, 256, 3)
NORM(8192, 256, 4, 256, 4)

BOUNDS rms_forward_any(const T* x, const T* w, T* y, float* stats, i64 rows, int c, float eps) {
    forward_any<false>(x, w, nullptr, y, stats, rows, c, eps);
}
BOUNDS layer_forward_any(const T* x, const T* w, const T* b, T* y, float* stats, i64 rows, int c, float eps) {
    forward_any<true>(x, w, b, y, stats, rows, c, eps);
}
BOUNDS rms_backward_any(const T* x, const T* w, const T* dy, const float* stats, T* dx, const T* arrived, float* dw,
                        i64 rows, int c) {
    backward_any<false>(x, w, dy, stats, dx, arrived, dw, nullptr, rows, c);
}
BOUNDS layer_backward_any(const T* x, const T* w, const T* dy, const float* stats, T* dx, const T* arrived, float* dw,
                          float* db, i64 rows, int c) {
    backward_any<true>(x, w, dy, stats, dx, arrived, dw, db, rows, c);
}
