// Residual with layer scale. Threads of a block: `lanes` runs of V channels side by side, times
// blockDim.x / lanes rows; a thread keeps its channels.

// y = x + gamma h
template <int V>
DEVICE void scale_add(const T* __restrict__ x, const T* __restrict__ h, const T* __restrict__ gamma, T* __restrict__ y,
                      i64 rows, int c, int lanes) {
    int channel = (blockIdx.x * lanes + threadIdx.x % lanes) * V, groups = blockDim.x / lanes;
    if (channel >= c) return;
    float scale[V];
    load_run(gamma + channel, scale);
    for (i64 r = blockIdx.y * (i64)groups + threadIdx.x / lanes; r < rows; r += (i64)gridDim.y * groups) {
        float a[V], b[V];
        load_run(x + r * c + channel, a);
        load_run(h + r * c + channel, b);
        #pragma unroll
        for (int j = 0; j < V; j++) a[j] = fmaf(scale[j], b[j], a[j]);
        store_run(y + r * c + channel, a);
    }
}
KERNEL scale_add_1(const T* x, const T* h, const T* gamma, T* y, i64 rows, int c, int lanes) {
    scale_add<1>(x, h, gamma, y, rows, c, lanes);
}
KERNEL scale_add_8(const T* x, const T* h, const T* gamma, T* y, i64 rows, int c, int lanes) {
    scale_add<8>(x, h, gamma, y, rows, c, lanes);
}

// dh = gamma dy (unless null); part [gridDim.y, c] = sums of dy h over the rows of a block (unless null).
template <int V>
DEVICE void scale_back(const T* __restrict__ dy, const T* __restrict__ h, const T* __restrict__ gamma,
                       T* __restrict__ dh, float* __restrict__ part, i64 rows, int c, int lanes) {
    __shared__ float sums[V][256];
    int channel = (blockIdx.x * lanes + threadIdx.x % lanes) * V, groups = blockDim.x / lanes;
    bool inside = channel < c;
    float scale[V], sum[V];
    #pragma unroll
    for (int j = 0; j < V; j++) sum[j] = 0;
    if (inside) {
        load_run(gamma + channel, scale);
        for (i64 r = blockIdx.y * (i64)groups + threadIdx.x / lanes; r < rows; r += (i64)gridDim.y * groups) {
            float g[V], b[V];
            load_run(dy + r * c + channel, g);
            if (part) {
                load_run(h + r * c + channel, b);
                #pragma unroll
                for (int j = 0; j < V; j++) sum[j] = fmaf(g[j], b[j], sum[j]);
            }
            if (dh) {
                #pragma unroll
                for (int j = 0; j < V; j++) g[j] *= scale[j];
                store_run(dh + r * c + channel, g);
            }
        }
    }
    if (!part) return;
    #pragma unroll
    for (int j = 0; j < V; j++) sums[j][threadIdx.x] = sum[j];
    __syncthreads();
    if (threadIdx.x < lanes && inside) {
        for (int g = 1; g < groups; g++)
            #pragma unroll
            for (int j = 0; j < V; j++) sum[j] += sums[j][g * lanes + threadIdx.x];
        #pragma unroll
        for (int j = 0; j < V; j++) part[blockIdx.y * (i64)c + channel + j] = sum[j];
    }
}
KERNEL scale_back_1(const T* dy, const T* h, const T* gamma, T* dh, float* part, i64 rows, int c, int lanes) {
    scale_back<1>(dy, h, gamma, dh, part, rows, c, lanes);
}
KERNEL scale_back_8(const T* dy, const T* h, const T* gamma, T* dh, float* part, i64 rows, int c, int lanes) {
    scale_back<8>(dy, h, gamma, dh, part, rows, c, lanes);
}
