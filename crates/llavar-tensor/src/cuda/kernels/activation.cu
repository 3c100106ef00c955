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

KERNEL gelu(const T* x, T* y, i64 n) { forward<Gelu>(x, y, n); }
KERNEL gelu_backward(const T* x, const T* dy, T* dx, i64 n) { backward<Gelu>(x, dy, dx, n); }
KERNEL quick_gelu(const T* x, T* y, i64 n) { forward<QuickGelu>(x, y, n); }
KERNEL quick_gelu_backward(const T* x, const T* dy, T* dx, i64 n) { backward<QuickGelu>(x, dy, dx, n); }
