// Rotary position embedding, rotate-half form, between a row of heads side by side and tensors of query, key
// and value heads: whole [tokens, (heads + 2 kv) 2 half], q [tokens, heads, 2 half], k and v
// [tokens, kv, 2 half]. Values are copied. Forward reads `whole`; backward writes it, rotates the other way
// and takes a tensor that is null as zeros. table [2, positions, half]: cosines, then sines.
//
// A block a token. Thread (j, part) of [threads / parts, parts] rotates the elements W part .. W part + W of
// the halves of the heads j, j + threads / parts, .. and so needs its cosines and sines once. The launch has
// threads = parts * (heads side by side), parts = half / W.

template <int W, bool BACK>
DEVICE void rotate(T* whole, T* q, T* k, T* v, const float* table, const int* positions, i64 entries, int heads,
                   int kv, int half, int parts) {
    i64 token = blockIdx.x;
    int dim = 2 * half, all = heads + 2 * kv;
    whole += token * all * dim;
    if (q) q += token * heads * dim;
    if (k) k += token * kv * dim;
    if (v) v += token * kv * dim;
    const float* angles = table + (i64)positions[token] * half;
    int beside = max(1, (int)blockDim.x / parts);
    // One round where there are at most as many parts as threads, as always with vectors.
    for (int part = threadIdx.x % parts; part < parts; part += blockDim.x) {
        int at = part * W;
        float cosine[W], sine[W];
        load_run(angles + at, cosine);
        load_run(angles + entries + at, sine);
        for (int head = threadIdx.x / parts; head < all; head += beside) {
            T* far = head < heads        ? (q ? q + (i64)head * dim : q)
                     : head < heads + kv ? (k ? k + (i64)(head - heads) * dim : k)
                                         : (v ? v + (i64)(head - heads - kv) * dim : v);
            T* near = whole + (i64)head * dim;
            const T* from = BACK ? far : near;
            T* to = BACK ? near : far;
            float a[W], b[W], c[W], d[W];
            #pragma unroll
            for (int i = 0; i < W; i++) a[i] = b[i] = 0.f;
            if (from) {
                load_run(from + at, a);
                load_run(from + half + at, b);
            }
            bool copied = head >= heads + kv;
            #pragma unroll
            for (int i = 0; i < W; i++) {
                float s = BACK ? -sine[i] : sine[i];
                c[i] = copied ? a[i] : a[i] * cosine[i] - b[i] * s;
                d[i] = copied ? b[i] : b[i] * cosine[i] + a[i] * s;
            }
            store_run(to + at, c);
            store_run(to + half + at, d);
        }
    }
}

KERNEL split_8(T* whole, T* q, T* k, T* v, const float* table, const int* positions, i64 entries, int heads, int kv,
               int half, int parts) {
    rotate<8, false>(whole, q, k, v, table, positions, entries, heads, kv, half, parts);
}
KERNEL split_1(T* whole, T* q, T* k, T* v, const float* table, const int* positions, i64 entries, int heads, int kv,
               int half, int parts) {
    rotate<1, false>(whole, q, k, v, table, positions, entries, heads, kv, half, parts);
}
KERNEL merge_8(T* whole, T* q, T* k, T* v, const float* table, const int* positions, i64 entries, int heads, int kv,
               int half, int parts) {
    rotate<8, true>(whole, q, k, v, table, positions, entries, heads, kv, half, parts);
}
KERNEL merge_1(T* whole, T* q, T* k, T* v, const float* table, const int* positions, i64 entries, int heads, int kv,
               int half, int parts) {
    rotate<1, true>(whole, q, k, v, table, positions, entries, heads, kv, half, parts);
}

// Turns the first `turned` of `all` heads of every row where they lie, by the angles times sign. Blocks and threads
// as above, with `turned` heads side by side.
template <int W>
DEVICE void turn(T* rows, const float* table, const int* positions, i64 entries, int turned, int all, int half,
                 int parts, float sign) {
    T* row = rows + blockIdx.x * (i64)all * 2 * half;
    const float* angles = table + (i64)positions[blockIdx.x] * half;
    int beside = max(1, (int)blockDim.x / parts);
    for (int part = threadIdx.x % parts; part < parts; part += blockDim.x) {
        int at = part * W;
        float cosine[W], sine[W];
        load_run(angles + at, cosine);
        load_run(angles + entries + at, sine);
        for (int head = threadIdx.x / parts; head < turned; head += beside) {
            T* near = row + (i64)head * 2 * half + at;
            float a[W], b[W], c[W], d[W];
            load_run(near, a);
            load_run(near + half, b);
            #pragma unroll
            for (int i = 0; i < W; i++) {
                float s = sign * sine[i];
                c[i] = a[i] * cosine[i] - b[i] * s;
                d[i] = b[i] * cosine[i] + a[i] * s;
            }
            store_run(near, c);
            store_run(near + half, d);
        }
    }
}

KERNEL turn_8(T* rows, const float* table, const int* positions, i64 entries, int turned, int all, int half, int parts,
              float sign) {
    turn<8>(rows, table, positions, entries, turned, all, half, parts, sign);
}
KERNEL turn_1(T* rows, const float* table, const int* positions, i64 entries, int turned, int all, int half, int parts,
              float sign) {
    turn<1>(rows, table, positions, entries, turned, all, half, parts, sign);
}
