// out [c, k] = gamma [c] w [c, k], and out_bias = gamma bias; one block a row.
KERNEL scale_weight(const T* w, const T* bias, const T* gamma, T* out, T* out_bias, int k) {
    i64 row = blockIdx.x;
    float g = to_float(gamma[row]);
    const T* from = w + row * k;
    T* to = out + row * k;
    if (k % 8 == 0 && aligned8(w) && aligned8(out)) {
        for (int i = threadIdx.x * 8; i < k; i += blockDim.x * 8) {
            float v[8];
            load8(from + i, v);
            #pragma unroll
            for (int j = 0; j < 8; j++) v[j] *= g;
            store8(to + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < k; i += blockDim.x) store(to + i, g * to_float(from[i]));
    }
    if (threadIdx.x == 0) store(out_bias + row, g * to_float(bias[row]));
}

// From product = dy^T h [c, k] and sums = sum of dy [c], one block a row: dw = beta dw + gamma product
// (where dw is given), d_gamma = product . w + bias sums, d_bias = gamma sums.
template <typename G>
DEVICE void finish(const float* product, const float* sums, const T* w, const T* bias, const T* gamma,
                   G* dw, float beta, float* d_gamma, float* d_bias, int k) {
    i64 row = blockIdx.x;
    float g = to_float(gamma[row]), along = 0.f;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float p = product[row * k + i];
        along += p * to_float(w[row * k + i]);
        if (dw) {
            float d = g * p;
            if (beta != 0.f) d += beta * to_float(dw[row * k + i]);
            store(dw + row * k + i, d);
        }
    }
    along = block_sum(along);
    if (threadIdx.x == 0) {
        d_gamma[row] = along + to_float(bias[row]) * sums[row];
        d_bias[row] = g * sums[row];
    }
}
KERNEL layer_scale_gradients_f32(const float* product, const float* sums, const T* w, const T* bias, const T* gamma,
                                 float* dw, float beta, float* d_gamma, float* d_bias, int k) {
    finish(product, sums, w, bias, gamma, dw, beta, d_gamma, d_bias, k);
}
KERNEL layer_scale_gradients_bf16(const float* product, const float* sums, const T* w, const T* bias, const T* gamma,
                                  bf16* dw, float beta, float* d_gamma, float* d_bias, int k) {
    finish(product, sums, w, bias, gamma, dw, beta, d_gamma, d_bias, k);
}
