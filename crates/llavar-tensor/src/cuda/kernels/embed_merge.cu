// Rows of two tables in a given order, and the sum of rows that belong to the same id.

// out[t] = table[source[t]] where source[t] >= 0, else features[-1 - source[t]]; rows of d elements.
template <int V>
DEVICE void gather(const T* __restrict__ table, const T* __restrict__ features, const int* __restrict__ source,
                   T* __restrict__ out, i64 rows, int d) {
    for (i64 t = blockIdx.x; t < rows; t += gridDim.x) {
        int s = source[t];
        const T* from = s >= 0 ? table + s * (i64)d : features + (-1 - s) * (i64)d;
        for (int i = threadIdx.x * V; i < d; i += blockDim.x * V) {
            float v[V];
            load_run(from + i, v);
            store_run(out + t * d + i, v);
        }
    }
}
KERNEL gather_1(const T* table, const T* features, const int* source, T* out, i64 rows, int d) {
    gather<1>(table, features, source, out, rows, d);
}
KERNEL gather_8(const T* table, const T* features, const int* source, T* out, i64 rows, int d) {
    gather<8>(table, features, source, out, rows, d);
}

// grad[id[u]] = beta grad[id[u]] + sum of dy[order[i]] for i in first[u]..first[u + 1], for every u in
// 0..distinct. `index` = id [distinct], first [distinct + 1], order [..]. A block (4 warps) has one id and 32
// runs of V columns; warp w adds rows w, w + 4, ..; the warps' sums are added in order.
template <int V, typename G>
DEVICE void add_rows(const T* __restrict__ dy, const int* __restrict__ index, G* grad, int distinct, int d, float beta) {
    __shared__ float sums[4][V][32];
    int u = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int column = (blockIdx.y * 32 + lane) * V;
    bool inside = column < d;
    const int *first = index + distinct, *order = first + distinct + 1;
    float s[V];
    #pragma unroll
    for (int j = 0; j < V; j++) s[j] = 0;
    if (inside) {
        int end = first[u + 1];
        #pragma unroll 4
        for (int i = first[u] + warp; i < end; i += 4) {
            float v[V];
            load_run(dy + order[i] * (i64)d + column, v);
            #pragma unroll
            for (int j = 0; j < V; j++) s[j] += v[j];
        }
    }
    #pragma unroll
    for (int j = 0; j < V; j++) sums[warp][j][lane] = s[j];
    __syncthreads();
    if (warp == 0 && inside) {
        G* to = grad + index[u] * (i64)d + column;
        #pragma unroll
        for (int j = 0; j < V; j++) s[j] = s[j] + sums[1][j][lane] + sums[2][j][lane] + sums[3][j][lane];
        if (beta != 0.f) {
            float old[V];
            load_run(to, old);
            #pragma unroll
            for (int j = 0; j < V; j++) s[j] += beta * old[j];
        }
        store_run(to, s);
    }
}
#define ADD_ROWS(V, NAME, G) \
    KERNEL add_rows_##NAME##_##V(const T* dy, const int* index, G* grad, int distinct, int d, float beta) { \
        add_rows<V, G>(dy, index, grad, distinct, d, beta); \
    }
ADD_ROWS(1, f32, float) ADD_ROWS(8, f32, float) ADD_ROWS(1, bf16, bf16) ADD_ROWS(8, bf16, bf16)
