// Weights as values, slices of the first axis, sums that repeat one side, and rows side by side.

// out = beta out + x
template <int V, typename G> DEVICE void accumulate(const T* x, G* out, i64 n, float beta) {
    EACH(i, n / V) {
        float v[V];
        load_run(x + i * V, v);
        if (beta != 0.f) {
            float old[V];
            load_run(out + i * V, old);
            #pragma unroll
            for (int j = 0; j < V; j++) v[j] += beta * old[j];
        }
        store_run(out + i * V, v);
    }
}
KERNEL accumulate_f32_1(const T* x, float* out, i64 n, float beta) { accumulate<1>(x, out, n, beta); }
KERNEL accumulate_f32_8(const T* x, float* out, i64 n, float beta) { accumulate<8>(x, out, n, beta); }
KERNEL accumulate_bf16_1(const T* x, bf16* out, i64 n, float beta) { accumulate<1>(x, out, n, beta); }
KERNEL accumulate_bf16_8(const T* x, bf16* out, i64 n, float beta) { accumulate<8>(x, out, n, beta); }

// out [n] = dy [len] at first.., zero elsewhere. V = 8: n, first and len are multiples of 8.
template <int V> DEVICE void place(const T* dy, T* out, i64 n, i64 first, i64 len) {
    EACH(i, n / V) {
        float v[V];
        i64 at = i * V - first;
        if (at >= 0 && at < len) {
            load_run(dy + at, v);
        } else {
            #pragma unroll
            for (int j = 0; j < V; j++) v[j] = 0;
        }
        store_run(out + i * V, v);
    }
}
KERNEL place_1(const T* dy, T* out, i64 n, i64 first, i64 len) { place<1>(dy, out, n, first, len); }
KERNEL place_8(const T* dy, T* out, i64 n, i64 first, i64 len) { place<8>(dy, out, n, first, len); }

// out[b] = x[b] + y; each entry has n elements; blockIdx.y walks over b.
template <int V>
DEVICE void add_broadcast(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ out, int batch, i64 n) {
    EACH(i, n / V) {
        float b[V];
        load_run(y + i * V, b);
        for (int e = blockIdx.y; e < batch; e += gridDim.y) {
            i64 at = e * n + i * V;
            float a[V];
            load_run(x + at, a);
            #pragma unroll
            for (int j = 0; j < V; j++) a[j] += b[j];
            store_run(out + at, a);
        }
    }
}
KERNEL add_broadcast_1(const T* x, const T* y, T* out, int batch, i64 n) { add_broadcast<1>(x, y, out, batch, n); }
KERNEL add_broadcast_8(const T* x, const T* y, T* out, int batch, i64 n) { add_broadcast<8>(x, y, out, batch, n); }

// Rows of a [rows, m] and b [rows, n] side by side in `both` [rows, m + n]; a warp takes a row. JOIN: both = a, b;
// else a, b = both, where a side that is null is left out.
template <int V, bool JOIN>
DEVICE void beside(T* __restrict__ a, T* __restrict__ b, T* __restrict__ both, i64 rows, int m, int n) {
    int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    for (i64 r = blockIdx.x * (i64)warps + (threadIdx.x >> 5); r < rows; r += (i64)gridDim.x * warps)
        #pragma unroll 4
        for (int i = lane * V; i < m + n; i += 32 * V) {
            T *part = i < m ? a : b, *whole = both + r * (m + n) + i;
            if (!part) continue;
            part += i < m ? r * m + i : r * n + i - m;
            float v[V];
            if (JOIN) {
                load_run(part, v);
                store_run(whole, v);
            } else {
                load_run(whole, v);
                store_run(part, v);
            }
        }
}
KERNEL join_1(T* a, T* b, T* both, i64 rows, int m, int n) { beside<1, true>(a, b, both, rows, m, n); }
KERNEL join_8(T* a, T* b, T* both, i64 rows, int m, int n) { beside<8, true>(a, b, both, rows, m, n); }
KERNEL split_1(T* a, T* b, T* both, i64 rows, int m, int n) { beside<1, false>(a, b, both, rows, m, n); }
KERNEL split_8(T* a, T* b, T* both, i64 rows, int m, int n) { beside<8, false>(a, b, both, rows, m, n); }
