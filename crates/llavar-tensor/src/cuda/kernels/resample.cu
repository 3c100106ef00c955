// One axis of a resizing: y [outer, outputs, inner] = taps x [outer, inputs, inner]. Output i is the sum of
// weights[first[i]..first[i + 1]] times inputs from start[i] on; index = start [outputs], first [outputs + 1].
// Threads of a block: `lanes` runs of V elements of `inner` side by side, times blockDim.x / lanes rows.
template <int V, typename A, typename B>
DEVICE void apply(const A* __restrict__ x, const int* __restrict__ index, const float* __restrict__ weights,
                  B* __restrict__ y, i64 rows, int inputs, int outputs, i64 inner, int lanes) {
    i64 column = (blockIdx.x * (i64)lanes + threadIdx.x % lanes) * V;
    int groups = blockDim.x / lanes;
    if (column >= inner) return;
    const int* first = index + outputs;
    for (i64 r = blockIdx.y * (i64)groups + threadIdx.x / lanes; r < rows; r += (i64)gridDim.y * groups) {
        i64 o = r / outputs;
        int i = r - o * outputs, end = first[i + 1];
        const A* from = x + (o * inputs + index[i]) * inner + column;
        float sum[V];
        #pragma unroll
        for (int j = 0; j < V; j++) sum[j] = 0;
        #pragma unroll 2
        for (int tap = first[i]; tap < end; tap++, from += inner) {
            float v[V], weight = weights[tap];
            load_run(from, v);
            #pragma unroll
            for (int j = 0; j < V; j++) sum[j] = fmaf(weight, v[j], sum[j]);
        }
        store_run(y + r * inner + column, sum);
    }
}
// Between the two axes values stay f32: `open` leaves them so, `close` comes back, `whole` is for one axis alone.
#define APPLY(NAME, A, B, V) \
    KERNEL NAME##_##V(const A* x, const int* index, const float* weights, B* y, i64 rows, int inputs, int outputs, \
                      i64 inner, int lanes) { \
        apply<V, A, B>(x, index, weights, y, rows, inputs, outputs, inner, lanes); \
    }
APPLY(open, T, float, 1) APPLY(open, T, float, 8)
APPLY(close, float, T, 1) APPLY(close, float, T, 8)
APPLY(whole, T, T, 1) APPLY(whole, T, T, 8)
