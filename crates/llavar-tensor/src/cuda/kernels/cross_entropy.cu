// Cross-entropy over rows of f32 logits, and rows picked out of a stream.

// to [i] = from [rows[i]], d elements each; one block a row.
KERNEL gather_rows(const T* from, const int* rows, T* to, int d) {
    const T* a = from + (i64)rows[blockIdx.x] * d;
    T* b = to + (i64)blockIdx.x * d;
    if (d % 8 == 0 && aligned8(from) && aligned8(to)) {
        for (int i = threadIdx.x * 8; i < d; i += blockDim.x * 8) {
            float v[8];
            load8(a + i, v);
            store8(b + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < d; i += blockDim.x) b[i] = a[i];
    }
}

// to [rows[i]] = from [i]; the rows differ.
KERNEL scatter_rows(const T* from, const int* rows, T* to, int d) {
    const T* a = from + (i64)blockIdx.x * d;
    T* b = to + (i64)rows[blockIdx.x] * d;
    if (d % 8 == 0 && aligned8(from) && aligned8(to)) {
        for (int i = threadIdx.x * 8; i < d; i += blockDim.x * 8) {
            float v[8];
            load8(a + i, v);
            store8(b + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < d; i += blockDim.x) b[i] = a[i];
    }
}

// lse [row] = ln sum e^z, loss [row] = lse - z[label], and the loss at its place in the stream; one block a
// row, a running maximum in every thread.
KERNEL row_losses(const float* logits, const int* labels, const int* rows, float* lse, float* loss, float* per_token,
                  int v) {
    const float* z = logits + (i64)blockIdx.x * v;
    float most = -INFINITY, sum = 0.f;
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        float x = z[i];
        if (x > most) {
            sum = sum * expf(most - x) + 1.f;
            most = x;
        } else {
            // Also where x is NaN: the loss is to be NaN, not a plausible number.
            sum += x == -INFINITY ? 0.f : expf(x - most);
        }
    }
    float all = block_max(most);
    sum = block_sum(most == -INFINITY ? sum : sum * expf(most - all));
    if (threadIdx.x == 0) {
        float l = all + logf(sum);
        float here = l - z[labels[blockIdx.x]];
        lse[blockIdx.x] = l;
        loss[blockIdx.x] = here;
        per_token[rows[blockIdx.x]] = here;
    }
}

// out = sum of x in a fixed order, in double; one block.
KERNEL total(const float* x, float* out, int n) {
    __shared__ double part[1024];
    double s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += x[i];
    part[threadIdx.x] = s;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) *out = (float)part[0];
}

// d [row] = scale (softmax(z) - onehot); one block a row.
KERNEL logit_gradients(const float* logits, const int* labels, const float* lse, const float* scale, T* d, int v) {
    i64 row = blockIdx.x;
    const float* z = logits + row * v;
    T* to = d + row * v;
    float l = lse[row], s = *scale;
    int label = labels[row];
    for (int i = threadIdx.x; i < v; i += blockDim.x) store(to + i, s * (expf(z[i] - l) - (i == label ? 1.f : 0.f)));
}
