// SwiGLU over rows of gate and up, which lie `stride` elements apart: 2 f where both halves of a row are side
// by side, f where they are tensors of their own. blockIdx.y walks over rows, blockIdx.x over their columns.

// By the special function units: relative error below 2^-20 where the result matters.
DEVICE float logistic(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

DEVICE float value(float gate, float up) { return gate * logistic(gate) * up; }

// dy to (d gate, d up)
DEVICE float2 slopes(float gate, float up, float dy) {
    float s = logistic(gate);
    return make_float2(dy * up * s * fmaf(gate, 1.f - s, 1.f), dy * gate * s);
}

// Columns that are read eight at a time: none where a row does not start on 16 bytes.
DEVICE i64 vectors_of(i64 f, i64 stride, i64 rows, bool aligned) {
    return aligned && (rows == 1 || (f % 8 == 0 && stride % 8 == 0)) ? f / 8 : 0;
}

// y [rows, f] = silu(gate) up
KERNEL swiglu(const T* gate, const T* up, T* y, i64 rows, i64 f, i64 stride) {
    i64 vectors = vectors_of(f, stride, rows, aligned8(gate) && aligned8(up) && aligned8(y));
    i64 first = blockIdx.x * (i64)blockDim.x + threadIdx.x, step = (i64)gridDim.x * blockDim.x;
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const T *g = gate + row * stride, *u = up + row * stride;
        T* out = y + row * f;
        for (i64 i = first; i < vectors; i += step) {
            float a[8], b[8];
            load8(g + i * 8, a);
            load8(u + i * 8, b);
            #pragma unroll
            for (int j = 0; j < 8; j++) a[j] = value(a[j], b[j]);
            store8(out + i * 8, a);
        }
        for (i64 i = vectors * 8 + first; i < f; i += step) store(out + i, value(to_float(g[i]), to_float(u[i])));
    }
}

// d gate and d up lie as gate and up do.
KERNEL swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, i64 rows, i64 f, i64 stride) {
    bool aligned = aligned8(gate) && aligned8(up) && aligned8(dy) && aligned8(dgate) && aligned8(dup);
    i64 vectors = vectors_of(f, stride, rows, aligned);
    i64 first = blockIdx.x * (i64)blockDim.x + threadIdx.x, step = (i64)gridDim.x * blockDim.x;
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
        const T *g = gate + row * stride, *u = up + row * stride, *in = dy + row * f;
        T *dg = dgate + row * stride, *du = dup + row * stride;
        for (i64 i = first; i < vectors; i += step) {
            float a[8], b[8], d[8];
            load8(g + i * 8, a);
            load8(u + i * 8, b);
            load8(in + i * 8, d);
            #pragma unroll
            for (int j = 0; j < 8; j++) {
                float2 s = slopes(a[j], b[j], d[j]);
                a[j] = s.x;
                b[j] = s.y;
            }
            store8(dg + i * 8, a);
            store8(du + i * 8, b);
        }
        for (i64 i = vectors * 8 + first; i < f; i += step) {
            float2 s = slopes(to_float(g[i]), to_float(u[i]), to_float(in[i]));
            store(dg + i, s.x);
            store(du + i, s.y);
        }
    }
}
