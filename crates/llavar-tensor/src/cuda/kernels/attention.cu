// Attention for any head size up to 256, any mask and both types: a warp a query (or a key), running
// softmax over chunks of 32 keys, one key a lane. `seen` gives for every query the run of keys that it
// sees, for every key the run of queries that see it, so that no mask arithmetic is left here.

#define WARPS 8
#define MOST 256           // largest head size
#define COLUMNS (MOST / 32)

// Dot product of a row in shared memory with one in global memory.
DEVICE float dot(const float* a, const T* b, int d, bool wide) {
    float s = 0.f;
    if (wide) {
        for (int i = 0; i < d; i += 8) {
            float v[8];
            load8(b + i, v);
            #pragma unroll
            for (int j = 0; j < 8; j++) s = fmaf(a[i + j], v[j], s);
        }
    } else {
        for (int i = 0; i < d; i++) s = fmaf(a[i], to_float(b[i]), s);
    }
    return s;
}

// o and lse of one query a warp. Grid: (query blocks, heads).
KERNEL attention_forward(const T* q, const T* k, const T* v, T* o, float* lse, const int* seen,
                         int tokens, int heads, int kv_heads, int d, float scale, int wide) {
    __shared__ float rows[WARPS][MOST];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    i64 t = (i64)blockIdx.x * WARPS + warp;
    int h = blockIdx.y, hk = h / (heads / kv_heads);
    if (t >= tokens) return;
    float* row = rows[warp];
    const T* from = q + (t * heads + h) * d;
    for (int i = lane; i < d; i += 32) row[i] = to_float(from[i]);
    __syncwarp();
    float most = -INFINITY, sum = 0.f, acc[COLUMNS];
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++) acc[c] = 0.f;
    int begin = seen[2 * t], end = seen[2 * t + 1];
    for (int base = begin; base < end; base += 32) {
        int key = base + lane;
        float s = -INFINITY;
        if (key < end) s = scale * dot(row, k + ((i64)key * kv_heads + hk) * d, d, wide);
        float now = fmaxf(most, warp_max(s));
        // The first key of a chunk is always seen, so `now` is finite.
        float p = key < end ? expf(s - now) : 0.f, old = expf(most - now);
        sum = sum * old + warp_sum(p);
        most = now;
        #pragma unroll
        for (int c = 0; c < COLUMNS; c++) acc[c] *= old;
        int count = end - base < 32 ? end - base : 32;
        for (int j = 0; j < count; j++) {
            float pj = __shfl_sync(FULL, p, j);
            const T* value = v + ((i64)(base + j) * kv_heads + hk) * d;
            #pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                if (c * 32 + lane < d) acc[c] = fmaf(pj, to_float(value[c * 32 + lane]), acc[c]);
        }
    }
    float inverse = sum > 0.f ? 1.f / sum : 0.f;
    T* to = o + (t * heads + h) * d;
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c * 32 + lane < d) store(to + c * 32 + lane, acc[c] * inverse);
    if (lane == 0) lse[t * heads + h] = sum > 0.f ? most + logf(sum) : -INFINITY;
}

// delta [tokens, heads] = sum over d of o dO; one row a warp.
KERNEL attention_delta(const T* o, const T* dout, float* delta, i64 rows, int d) {
    i64 r = (i64)blockIdx.x * WARPS + (threadIdx.x >> 5);
    int lane = threadIdx.x & 31;
    if (r >= rows) return;
    float s = 0.f;
    for (int i = lane; i < d; i += 32) s = fmaf(to_float(o[r * d + i]), to_float(dout[r * d + i]), s);
    s = warp_sum(s);
    if (lane == 0) delta[r] = s;
}

// dq of one query a warp. Grid: (query blocks, heads).
KERNEL attention_dq(const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq,
                    const int* seen, int tokens, int heads, int kv_heads, int d, float scale, int wide) {
    __shared__ float q_rows[WARPS][MOST], d_rows[WARPS][MOST];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    i64 t = (i64)blockIdx.x * WARPS + warp;
    int h = blockIdx.y, hk = h / (heads / kv_heads);
    if (t >= tokens) return;
    i64 at = t * heads + h;
    for (int i = lane; i < d; i += 32) {
        q_rows[warp][i] = to_float(q[at * d + i]);
        d_rows[warp][i] = to_float(dout[at * d + i]);
    }
    __syncwarp();
    float l = lse[at], de = delta[at], acc[COLUMNS];
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++) acc[c] = 0.f;
    int begin = seen[2 * t], end = seen[2 * t + 1];
    for (int base = begin; base < end; base += 32) {
        int key = base + lane;
        float ds = 0.f;
        if (key < end) {
            i64 row = ((i64)key * kv_heads + hk) * d;
            float p = expf(scale * dot(q_rows[warp], k + row, d, wide) - l);
            ds = scale * p * (dot(d_rows[warp], v + row, d, wide) - de);
        }
        int count = end - base < 32 ? end - base : 32;
        for (int j = 0; j < count; j++) {
            float dj = __shfl_sync(FULL, ds, j);
            const T* from = k + ((i64)(base + j) * kv_heads + hk) * d;
            #pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                if (c * 32 + lane < d) acc[c] = fmaf(dj, to_float(from[c * 32 + lane]), acc[c]);
        }
    }
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c * 32 + lane < d) store(dq + at * d + c * 32 + lane, acc[c]);
}

// dk and dv of one key a warp, over all query heads of its group in order. Grid: (key blocks, key heads).
KERNEL attention_dkv(const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dk,
                     T* dv, const int* seen_by, int keys, int heads, int kv_heads, int d, float scale, int wide) {
    __shared__ float k_rows[WARPS][MOST], v_rows[WARPS][MOST];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    i64 s = (i64)blockIdx.x * WARPS + warp;
    int hk = blockIdx.y, group = heads / kv_heads;
    if (s >= keys) return;
    i64 at = s * kv_heads + hk;
    for (int i = lane; i < d; i += 32) {
        k_rows[warp][i] = to_float(k[at * d + i]);
        v_rows[warp][i] = to_float(v[at * d + i]);
    }
    __syncwarp();
    float ak[COLUMNS], av[COLUMNS];
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++) ak[c] = av[c] = 0.f;
    int begin = seen_by[2 * s], end = seen_by[2 * s + 1];
    for (int h = hk * group; h < (hk + 1) * group; h++)
        for (int base = begin; base < end; base += 32) {
            int t = base + lane;
            float p = 0.f, ds = 0.f;
            if (t < end) {
                i64 row = (i64)t * heads + h;
                p = expf(scale * dot(k_rows[warp], q + row * d, d, wide) - lse[row]);
                ds = scale * p * (dot(v_rows[warp], dout + row * d, d, wide) - delta[row]);
            }
            int count = end - base < 32 ? end - base : 32;
            for (int j = 0; j < count; j++) {
                float pj = __shfl_sync(FULL, p, j), dj = __shfl_sync(FULL, ds, j);
                i64 row = ((i64)(base + j) * heads + h) * d;
                #pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    if (c * 32 + lane < d) {
                        av[c] = fmaf(pj, to_float(dout[row + c * 32 + lane]), av[c]);
                        ak[c] = fmaf(dj, to_float(q[row + c * 32 + lane]), ak[c]);
                    }
            }
        }
    #pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        if (c * 32 + lane < d) {
            store(dk + at * d + c * 32 + lane, ak[c]);
            store(dv + at * d + c * 32 + lane, av[c]);
        }
}
