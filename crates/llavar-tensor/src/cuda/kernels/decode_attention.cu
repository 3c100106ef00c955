// One query a sequence over its cached keys and values: rotation, append to the cache, attention, merge.
//
// A block takes one key head, up to GQ of the query heads that share it, and a run of keys of one sequence. Runs
// are made of chunks of 64 keys counted from the sequence's start, so that sums have the same order whatever else
// is in the batch and however large the cache is. The block that ends last for its heads merges the runs, in order.

#define CHUNK 64
#define THREADS 128
#define MAX_PARTS 128

struct Step {
    const T *q, *k, *v;              // rows of the projections, not rotated
    int q_stride, kv_stride;
    T *k_cache, *v_cache;            // [slots * capacity, kv_heads, dim]
    const float *cos0, *sin0;        // [positions, dim / 2]
    const float *cos1, *sin1;        // for texts of more than `switch_at` tokens
    int switch_at;
    const int *positions, *slots;    // of each row; position -1: out of use
    int heads, kv_heads, dim, capacity, window;
    float scale;
    float* part_out;                 // [rows, heads, gridDim.y, dim]
    float2* part_stats;              // [rows, heads, gridDim.y]: largest score, sum of exponentials
    int* counters;                   // [rows, gridDim.x], zero between kernels
    T* out;                          // [rows, heads, dim]
};

// Compiled for one WIDTH, which is the NV here. NV: vectors of eight of a head that each of four threads has, dim <= 32 NV.
template <int NV, int GQ> DEVICE void attend(const Step& a) {
    constexpr int DIM = 32 * NV;
    // Value vectors of a thread in a chunk: THREADS / (dim / 8) keys are read at a time.
    constexpr int VALUES = NV == 1 ? 2 : NV == 2 ? 4 : NV == 3 ? 7 : NV == 4 ? 8 : 16;
    __shared__ float sq[GQ][DIM], new_k[DIM], new_v[DIM], score[GQ][CHUNK];
    __shared__ float largest[GQ], total[GQ], factor[GQ];
    __shared__ float rows_of[GQ][THREADS * 8];
    __shared__ float weight[GQ][MAX_PARTS];
    __shared__ int is_last;
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, b = blockIdx.z, part = blockIdx.y;
    const int dim = a.dim, half = dim / 2, group = a.heads / a.kv_heads, subs = gridDim.x / a.kv_heads;
    const int kv = blockIdx.x / subs, first_q = blockIdx.x % subs * GQ, count = min(GQ, group - first_q);
    const int head0 = kv * group + first_q;
    T* out = a.out + ((i64)b * a.heads + head0) * dim;
    let_next_start();
    // Nobody changes positions within a step before its last kernel.
    const int pos = a.positions[b];
    if (pos < 0 || pos >= a.capacity) {
        await_previous();
        if (part == 0)
            for (int i = t; i < count * dim; i += THREADS) store(out + i, 0.f);
        return;
    }
    const int first = a.window >= 0 && pos > a.window ? pos - a.window : 0;
    const int chunk0 = first / CHUNK, chunks = pos / CHUNK - chunk0 + 1;
    const int each = (chunks + MAX_PARTS - 1) / MAX_PARTS, parts = (chunks + each - 1) / each;
    if (part >= parts) {
        await_previous();
        return;
    }
    int chunk = chunk0 + part * each;
    const int chunk_end = min(chunk + each, chunk0 + chunks);

    const i64 token = (i64)a.kv_heads * dim, start = (i64)a.slots[b] * a.capacity * token + kv * dim;
    const T *keys = a.k_cache + start, *values = a.v_cache + start;
    const int vectors = dim / 8, quarter = t & 3, key_of = t >> 2;
    const int column = t % vectors, line = t / vectors, lines = THREADS / vectors;
    Eight ks[2][NV], vs[VALUES];
    // The newest key and value are not in the cache yet.
    auto load = [&]() {
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const int j = chunk * CHUNK + key_of + 32 * i;
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                const int c = quarter + 4 * n;
                ks[i][n] = j >= first && j < pos && c < vectors ? stream8(keys + j * token + c * 8) : eight_zeros();
            }
        }
        #pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int key = line + i * lines, j = chunk * CHUNK + key;
            const bool inside = line < lines && key < CHUNK && j >= first && j < pos;
            vs[i] = inside ? stream8(values + j * token + column * 8) : eight_zeros();
        }
    };
    load();
    const bool is_long = pos + 1 > a.switch_at;
    const float* cosine = (is_long ? a.cos1 : a.cos0) + (i64)pos * half;
    const float* sine = (is_long ? a.sin1 : a.sin0) + (i64)pos * half;
    await_previous();

    for (int i = t; i < GQ * half; i += THREADS) {
        const int h = i / half, d = i % half;
        float x = 0, y = 0;
        if (h < count) {
            const T* from = a.q + (i64)b * a.q_stride + (i64)(head0 + h) * dim;
            x = fresh(from + d);
            y = fresh(from + d + half);
        }
        sq[h][d] = rounded(x * cosine[d] - y * sine[d]);
        sq[h][d + half] = rounded(y * cosine[d] + x * sine[d]);
    }
    if (chunk_end == chunk0 + chunks) {
        const T* from_k = a.k + (i64)b * a.kv_stride + kv * dim;
        const T* from_v = a.v + (i64)b * a.kv_stride + kv * dim;
        const i64 to = start + pos * token;
        for (int d = t; d < half; d += THREADS) {
            const float x = fresh(from_k + d), y = fresh(from_k + d + half);
            new_k[d] = rounded(x * cosine[d] - y * sine[d]);
            new_k[d + half] = rounded(y * cosine[d] + x * sine[d]);
            if (first_q == 0) {
                store(a.k_cache + to + d, new_k[d]);
                store(a.k_cache + to + d + half, new_k[d + half]);
            }
        }
        for (int d = t; d < dim; d += THREADS) {
            new_v[d] = fresh(from_v + d);
            if (first_q == 0) store(a.v_cache + to + d, new_v[d]);
        }
    }
    if (t < GQ) {
        largest[t] = -INFINITY;
        total[t] = 0;
    }
    float acc[GQ][8];
    #pragma unroll
    for (int h = 0; h < GQ; h++)
        #pragma unroll
        for (int e = 0; e < 8; e++) acc[h][e] = 0;
    __syncthreads();

    while (true) {
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const int key = key_of + 32 * i, j = chunk * CHUNK + key;
            float s[GQ];
            #pragma unroll
            for (int h = 0; h < GQ; h++) s[h] = 0;
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                const int c = quarter + 4 * n;
                if (c < vectors) {
                    float v[8];
                    widen(ks[i][n], v);
                    if (j == pos)
                        #pragma unroll
                        for (int e = 0; e < 8; e++) v[e] = new_k[c * 8 + e];
                    #pragma unroll
                    for (int h = 0; h < GQ; h++)
                        #pragma unroll
                        for (int e = 0; e < 8; e++) s[h] = fmaf(sq[h][c * 8 + e], v[e], s[h]);
                }
            }
            #pragma unroll
            for (int h = 0; h < GQ; h++) {
                s[h] += __shfl_xor_sync(FULL, s[h], 1);
                s[h] += __shfl_xor_sync(FULL, s[h], 2);
                if (quarter == 0) score[h][key] = j >= first && j <= pos ? s[h] * a.scale : -INFINITY;
            }
        }
        __syncthreads();
        // Every chunk of a run has a key that is seen, so that the largest score is a number.
        for (int h = warp; h < GQ; h += THREADS / 32) {
            const float x = score[h][lane], y = score[h][lane + 32], before = largest[h];
            const float top = fmaxf(before, warp_max(fmaxf(x, y)));
            const float ex = expf(x - top), ey = expf(y - top), sum = warp_sum(ex + ey);
            score[h][lane] = ex;
            score[h][lane + 32] = ey;
            if (lane == 0) {
                const float f = expf(before - top);
                factor[h] = f;
                total[h] = total[h] * f + sum;
                largest[h] = top;
            }
        }
        __syncthreads();
        #pragma unroll
        for (int h = 0; h < GQ; h++)
            #pragma unroll
            for (int e = 0; e < 8; e++) acc[h][e] *= factor[h];
        #pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int key = line + i * lines;
            if (line < lines && key < CHUNK) {
                float v[8];
                widen(vs[i], v);
                if (chunk * CHUNK + key == pos)
                    #pragma unroll
                    for (int e = 0; e < 8; e++) v[e] = new_v[column * 8 + e];
                #pragma unroll
                for (int h = 0; h < GQ; h++) {
                    const float p = score[h][key];
                    #pragma unroll
                    for (int e = 0; e < 8; e++) acc[h][e] = fmaf(p, v[e], acc[h][e]);
                }
            }
        }
        if (++chunk == chunk_end) break;
        load();
        __syncthreads();
    }
    if (line < lines)
        #pragma unroll
        for (int h = 0; h < GQ; h++)
            #pragma unroll
            for (int e = 0; e < 8; e++) rows_of[h][line * dim + column * 8 + e] = acc[h][e];
    __syncthreads();

    const i64 first_part = ((i64)b * a.heads + head0) * gridDim.y;
    for (int i = t; i < count * dim; i += THREADS) {
        const int h = i / dim, d = i % dim;
        float sum = 0;
        for (int r = 0; r < lines; r++) sum += rows_of[h][r * dim + d];
        if (parts == 1) store(out + i, sum / total[h]);
        else a.part_out[(first_part + h * gridDim.y + part) * dim + d] = sum;
    }
    if (parts == 1) return;
    if (t < count) a.part_stats[first_part + t * gridDim.y + part] = make_float2(largest[t], total[t]);
    __threadfence();
    __syncthreads();
    int* counter = a.counters + b * gridDim.x + blockIdx.x;
    if (t == 0) is_last = atomicAdd(counter, 1) == parts - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int h = warp; h < count; h += THREADS / 32) {
        const float* stats = (const float*)(a.part_stats + first_part + h * gridDim.y);
        float top = -INFINITY, sum = 0;
        for (int p = lane; p < parts; p += 32) top = fmaxf(top, fresh(stats + 2 * p));
        top = warp_max(top);
        for (int p = lane; p < parts; p += 32) {
            const float w = expf(fresh(stats + 2 * p) - top);
            weight[h][p] = w;
            sum += w * fresh(stats + 2 * p + 1);
        }
        sum = warp_sum(sum);
        for (int p = lane; p < parts; p += 32) weight[h][p] /= sum;
    }
    __syncthreads();
    for (int i = t; i < count * dim; i += THREADS) {
        const int h = i / dim, d = i % dim;
        const float* from = a.part_out + (first_part + h * gridDim.y) * dim + d;
        float sum = 0;
        #pragma unroll 4
        for (int p = 0; p < parts; p++) sum += weight[h][p] * fresh(from + (i64)p * dim);
        store(out + i, sum);
    }
    if (t == 0) *counter = 0;
}

#define ATTEND(GQ) \
    KERNEL __launch_bounds__(THREADS) attend_##GQ(const T* q, const T* k, const T* v, int q_stride, \
        int kv_stride, T* k_cache, T* v_cache, const float* cos0, const float* sin0, const float* cos1, \
        const float* sin1, int switch_at, const int* positions, const int* slots, int heads, int kv_heads, int dim, \
        int capacity, int window, float scale, float* part_out, float2* part_stats, int* counters, T* out) { \
        attend<WIDTH, GQ>(Step{q, k, v, q_stride, kv_stride, k_cache, v_cache, cos0, sin0, cos1, sin1, switch_at, \
            positions, slots, heads, kv_heads, dim, capacity, window, scale, part_out, part_stats, counters, out}); \
    }
ATTEND(1)
ATTEND(2)
ATTEND(4)
