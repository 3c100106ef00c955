// What adapters need beside products: dropout, scaling, norms of rows, rows scaled to a magnitude.

DEVICE u64 mix(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// out = x factor, or 0 where the hash of key and place is below the threshold; ops/lora/dropout.rs has the same.
KERNEL dropout(const T* x, T* out, i64 n, i64 key, i64 threshold, float factor) {
    EACH(i, n) {
        u32 hash = (u32)(mix((u64)key + (u64)(i + 1) * 0x9e3779b97f4a7c15ull) >> 32);
        store(out + i, (i64)hash < threshold ? 0.f : factor * to_float(x[i]));
    }
}

KERNEL scale(T* x, i64 n, float factor) {
    EACH(i, n) store(x + i, factor * to_float(x[i]));
}

// norm [n] of the rows of w + s b a: sqrt(|w|^2 + 2 s b.p + s^2 b.q), with p = w a^T and q = b a a^T [n, r];
// one block a row.
KERNEL row_norms(const T* w, const T* b, const float* p, const float* q, float* norm, int k, int r, float s) {
    i64 row = blockIdx.x;
    float sum = 0.f;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float v = to_float(w[row * k + i]);
        sum += v * v;
    }
    for (int i = threadIdx.x; i < r; i += blockDim.x) {
        i64 at = row * r + i;
        sum += to_float(b[at]) * (2.f * s * p[at] + s * s * q[at]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) norm[row] = sqrtf(fmaxf(sum, 0.f));
}

// out = m / norm z (+ bias) (+ residual), columns of n.
KERNEL scale_to(const T* z, const T* m, const float* norm, const T* bias, const T* residual, T* out, i64 total, int n) {
    EACH(i, total) {
        int c = i % n;
        float v = to_float(m[c]) / fmaxf(norm[c], 1.1754944e-38f) * to_float(z[i]);
        if (bias) v += to_float(bias[c]);
        if (residual) v += to_float(residual[i]);
        store(out + i, v);
    }
}

// dz = m / norm dy, and slope = dy z / norm, whose sums over the rows are the gradient of m.
KERNEL scale_to_backward(const T* dy, const T* z, const T* m, const float* norm, T* dz, T* slope, i64 total, int n) {
    EACH(i, total) {
        int c = i % n;
        float g = to_float(dy[i]) / fmaxf(norm[c], 1.1754944e-38f);
        store(dz + i, to_float(m[c]) * g);
        store(slope + i, to_float(z[i]) * g);
    }
}
