// Mean over the tokens of a picture and the gated sum of the MR-Adapter; blockIdx.z is the picture.

// part [gridDim.y, batch, c] = scale * sums over a block's tokens of x [batch, n, c]. Threads of a block:
// `lanes` runs of V channels side by side, times blockDim.x / lanes tokens.
template <int V>
DEVICE void mean_parts(const T* __restrict__ x, float* __restrict__ part, int n, int c, int lanes, float scale) {
    __shared__ float sums[V][256];
    int channel = (blockIdx.x * lanes + threadIdx.x % lanes) * V, groups = blockDim.x / lanes;
    bool inside = channel < c;
    float sum[V];
    #pragma unroll
    for (int j = 0; j < V; j++) sum[j] = 0;
    if (inside)
        #pragma unroll 4
        for (int t = blockIdx.y * groups + threadIdx.x / lanes; t < n; t += gridDim.y * groups) {
            float v[V];
            load_run(x + (blockIdx.z * (i64)n + t) * c + channel, v);
            #pragma unroll
            for (int j = 0; j < V; j++) sum[j] += v[j];
        }
    #pragma unroll
    for (int j = 0; j < V; j++) sums[j][threadIdx.x] = sum[j];
    __syncthreads();
    if (threadIdx.x < lanes && inside) {
        for (int g = 1; g < groups; g++)
            #pragma unroll
            for (int j = 0; j < V; j++) sum[j] += sums[j][g * lanes + threadIdx.x];
        float* to = part + (blockIdx.y * (i64)gridDim.z + blockIdx.z) * c + channel;
        #pragma unroll
        for (int j = 0; j < V; j++) to[j] = scale * sum[j];
    }
}
KERNEL mean_parts_1(const T* x, float* part, int n, int c, int lanes, float scale) {
    mean_parts<1>(x, part, n, c, lanes, scale);
}
KERNEL mean_parts_8(const T* x, float* part, int n, int c, int lanes, float scale) {
    mean_parts<8>(x, part, n, c, lanes, scale);
}

// dx[b, t] = scale dy[b] for every token t.
template <int V> DEVICE void spread(const T* __restrict__ dy, T* __restrict__ dx, int n, int c, int lanes, float scale) {
    int channel = (blockIdx.x * lanes + threadIdx.x % lanes) * V, groups = blockDim.x / lanes;
    if (channel >= c) return;
    float v[V];
    load_run(dy + blockIdx.z * (i64)c + channel, v);
    #pragma unroll
    for (int j = 0; j < V; j++) v[j] *= scale;
    for (int t = blockIdx.y * groups + threadIdx.x / lanes; t < n; t += gridDim.y * groups)
        store_run(dx + (blockIdx.z * (i64)n + t) * c + channel, v);
}
KERNEL spread_1(const T* dy, T* dx, int n, int c, int lanes, float scale) { spread<1>(dy, dx, n, c, lanes, scale); }
KERNEL spread_8(const T* dy, T* dx, int n, int c, int lanes, float scale) { spread<8>(dy, dx, n, c, lanes, scale); }

// y[b] = u[b] + tanh(logit[b]) h[b]; n elements a picture.
template <int V>
DEVICE void gated_add(const T* __restrict__ u, const T* __restrict__ h, const T* __restrict__ logit, T* __restrict__ y, i64 n) {
    float gate = tanhf(to_float(logit[blockIdx.z]));
    i64 start = blockIdx.z * n;
    EACH(i, n / V) {
        float a[V], b[V];
        load_run(u + start + i * V, a);
        load_run(h + start + i * V, b);
        #pragma unroll
        for (int j = 0; j < V; j++) a[j] = fmaf(gate, b[j], a[j]);
        store_run(y + start + i * V, a);
    }
}
KERNEL gated_add_1(const T* u, const T* h, const T* logit, T* y, i64 n) { gated_add<1>(u, h, logit, y, n); }
KERNEL gated_add_8(const T* u, const T* h, const T* logit, T* y, i64 n) { gated_add<8>(u, h, logit, y, n); }

// dh[b] = tanh(logit[b]) dy[b] (unless null); part [batch, gridDim.x] = a block's part of sum(dy h) (unless null).
template <int V>
DEVICE void gated_back(const T* __restrict__ dy, const T* __restrict__ h, const T* __restrict__ logit, T* __restrict__ dh,
                       float* __restrict__ part, i64 n) {
    float gate = tanhf(to_float(logit[blockIdx.z])), sum = 0;
    i64 start = blockIdx.z * n;
    EACH(i, n / V) {
        float g[V], b[V];
        load_run(dy + start + i * V, g);
        if (part) {
            load_run(h + start + i * V, b);
            #pragma unroll
            for (int j = 0; j < V; j++) sum = fmaf(g[j], b[j], sum);
        }
        if (dh) {
            #pragma unroll
            for (int j = 0; j < V; j++) g[j] *= gate;
            store_run(dh + start + i * V, g);
        }
    }
    if (!part) return;
    sum = block_sum(sum);
    if (threadIdx.x == 0) part[blockIdx.z * (i64)gridDim.x + blockIdx.x] = sum;
}
KERNEL gated_back_1(const T* dy, const T* h, const T* logit, T* dh, float* part, i64 n) {
    gated_back<1>(dy, h, logit, dh, part, n);
}
KERNEL gated_back_8(const T* dy, const T* h, const T* logit, T* dh, float* part, i64 n) {
    gated_back<8>(dy, h, logit, dh, part, n);
}

// d logit[b] = (1 - tanh(logit[b])^2) sum over parts of part[b]; a block a picture.
KERNEL gate_slope(const float* part, const T* logit, T* dlogit, int parts) {
    float sum = 0;
    for (int p = threadIdx.x; p < parts; p += blockDim.x) sum += part[blockIdx.x * (i64)parts + p];
    sum = block_sum(sum);
    float gate = tanhf(to_float(logit[blockIdx.x]));
    if (threadIdx.x == 0) store(dlogit + blockIdx.x, (1.f - gate * gate) * sum);
}
