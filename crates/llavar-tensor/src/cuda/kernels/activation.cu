// Element-wise activations.

// y = f(x)
template <typename F> DEVICE void forward(const T* x, T* y, i64 n) {
    i64 vectors = aligned8(x) && aligned8(y) ? n / 8 : 0;
    EACH(i, vectors) {
        float v[8];
        load8(x + i * 8, v);
        #pragma unroll
        for (int j = 0; j < 8; j++) v[j] = F::value(v[j]);
        store8(y + i * 8, v);
    }
    EACH(i, n - vectors * 8) {
        i64 at = vectors * 8 + i;
        store(y + at, F::value(to_float(x[at])));
    }
}

// dx = dy f'(x); dx may be dy.
template <typename F> DEVICE void backward(const T* x, const T* dy, T* dx, i64 n) {
    i64 vectors = aligned8(x) && aligned8(dy) && aligned8(dx) ? n / 8 : 0;
    EACH(i, vectors) {
        float v[8], g[8];
        load8(x + i * 8, v);
        load8(dy + i * 8, g);
        #pragma unroll
        for (int j = 0; j < 8; j++) g[j] *= F::slope(v[j]);
        store8(dx + i * 8, g);
    }
    EACH(i, n - vectors * 8) {
        i64 at = vectors * 8 + i;
        store(dx + at, to_float(dy[at]) * F::slope(to_float(x[at])));
    }
}

// dx = dx f'(x) and its sums over runs of rows, part [gridDim.y, n]; blocks as those of column_parts_8 (n a multiple of
// 8, both aligned).
template <typename F> DEVICE void backward_sums(const T* x, T* dx, float* part, i64 rows, i64 n, i64 rows_each) {
    __shared__ __align__(16) float sums[8][256];
    int run = threadIdx.x & 31, lane = threadIdx.x >> 5;
    i64 c = (blockIdx.x * 32ll + run) * 8;
    i64 r = blockIdx.y * rows_each, end = r + rows_each < rows ? r + rows_each : rows;
    float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (c < n)
        #pragma unroll 2
        for (r += lane; r < end; r += 8) {
            float v[8], g[8];
            load8(x + r * n + c, v);
            load8(dx + r * n + c, g);
            #pragma unroll
            for (int j = 0; j < 8; j++) s[j] += g[j] *= F::slope(v[j]);
            store8(dx + r * n + c, g);
        }
    store8(&sums[lane][run * 8], s);
    __syncthreads();
    c = blockIdx.x * 256ll + threadIdx.x;
    float sum = 0;
    #pragma unroll
    for (int w = 0; w < 8; w++) sum += sums[w][threadIdx.x];
    if (c < n) part[blockIdx.y * n + c] = sum;
}

KERNEL gelu(const T* x, T* y, i64 n) { forward<Gelu>(x, y, n); }
KERNEL gelu_backward(const T* x, const T* dy, T* dx, i64 n) { backward<Gelu>(x, dy, dx, n); }
KERNEL quick_gelu(const T* x, T* y, i64 n) { forward<QuickGelu>(x, y, n); }
KERNEL quick_gelu_backward(const T* x, const T* dy, T* dx, i64 n) { backward<QuickGelu>(x, dy, dx, n); }
KERNEL gelu_backward_sums(const T* x, T* dx, float* part, i64 rows, i64 n, i64 each) {
    backward_sums<Gelu>(x, dx, part, rows, n, each);
}
KERNEL quick_gelu_backward_sums(const T* x, T* dx, float* part, i64 rows, i64 n, i64 each) {
    backward_sums<QuickGelu>(x, dx, part, rows, n, each);
}
