// Copies with conversion, sums, and the first step of sums over rows.

template <typename A, typename B> DEVICE void convert(const A* x, B* y, i64 n) {
    EACH(i, n) store(y + i, to_float(x[i]));
}
KERNEL cast_f32_bf16(const float* x, bf16* y, i64 n) { convert(x, y, n); }
KERNEL cast_bf16_f32(const bf16* x, float* y, i64 n) { convert(x, y, n); }

// y += x
KERNEL add_assign(T* y, const T* x, i64 n) {
    if (aligned8(y) && aligned8(x)) {
        EACH(i, n / 8) {
            float a[8], b[8];
            load8(y + i * 8, a);
            load8(x + i * 8, b);
            #pragma unroll
            for (int j = 0; j < 8; j++) a[j] += b[j];
            store8(y + i * 8, a);
        }
        if (blockIdx.x == 0)
            for (i64 i = n / 8 * 8 + threadIdx.x; i < n; i += blockDim.x) store(y + i, to_float(y[i]) + to_float(x[i]));
    } else {
        EACH(i, n) store(y + i, to_float(y[i]) + to_float(x[i]));
    }
}

// y = a + b
KERNEL add(const T* a, const T* b, T* y, i64 n) {
    if (aligned8(y) && aligned8(a) && aligned8(b)) {
        EACH(i, n / 8) {
            float u[8], v[8];
            load8(a + i * 8, u);
            load8(b + i * 8, v);
            #pragma unroll
            for (int j = 0; j < 8; j++) u[j] += v[j];
            store8(y + i * 8, u);
        }
        if (blockIdx.x == 0)
            for (i64 i = n / 8 * 8 + threadIdx.x; i < n; i += blockDim.x) store(y + i, to_float(a[i]) + to_float(b[i]));
    } else {
        EACH(i, n) store(y + i, to_float(a[i]) + to_float(b[i]));
    }
}

// Sums over runs of rows of x [rows, n]: part [gridDim.y, n]; a block adds 256 columns.
KERNEL column_parts(const T* x, float* part, i64 rows, i64 n, i64 rows_each) {
    i64 c = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    if (c >= n) return;
    i64 r = blockIdx.y * rows_each, end = r + rows_each < rows ? r + rows_each : rows;
    float s[4] = {0, 0, 0, 0};
    for (; r + 4 <= end; r += 4)
        #pragma unroll
        for (int j = 0; j < 4; j++) s[j] += to_float(x[(r + j) * n + c]);
    for (; r < end; r++) s[0] += to_float(x[r * n + c]);
    part[blockIdx.y * n + c] = (s[0] + s[1]) + (s[2] + s[3]);
}

// The same by runs of eight columns (n a multiple of 8, x aligned): every eighth row of the run to a warp, then the
// eight sums of a column in order.
KERNEL column_parts_8(const T* x, float* part, i64 rows, i64 n, i64 rows_each) {
    __shared__ __align__(16) float sums[8][256];
    int run = threadIdx.x & 31, lane = threadIdx.x >> 5;
    i64 c = (blockIdx.x * 32ll + run) * 8;
    i64 r = blockIdx.y * rows_each, end = r + rows_each < rows ? r + rows_each : rows;
    float s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (c < n)
        #pragma unroll 4
        for (r += lane; r < end; r += 8) {
            float v[8];
            load8(x + r * n + c, v);
            #pragma unroll
            for (int j = 0; j < 8; j++) s[j] += v[j];
        }
    store8(&sums[lane][run * 8], s);
    __syncthreads();
    c = blockIdx.x * 256ll + threadIdx.x;
    float sum = 0;
    #pragma unroll
    for (int w = 0; w < 8; w++) sum += sums[w][threadIdx.x];
    if (c < n) part[blockIdx.y * n + c] = sum;
}
