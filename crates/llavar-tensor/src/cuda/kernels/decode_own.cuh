// Attention of a decoding step for query heads that have keys of their own, bf16: what its two kernels share.
//
// A unit (see decode_attention.cuh) is summed up by itself. In each of its chunks the eight values that a group of
// lanes has are added up one after the other, then the eight groups in pairs. Units u, u + 2, u + 4, ... are a
// strand: they are joined one after the other, then the two strands are. Both kernels keep to this order, so that
// no bit depends on which of them runs, on how many blocks share a text, or on the rest of the batch.
#if T_IS_BF16
#define STRANDS 2

// Awaits the kernel in front. The query, rotated, and where it is for the block the newest key and value, which go to
// the cache too, `row` elements from its start.
DEVICE void rotate(const Step& a, const Place& at, i64 row, float* q, T* new_k, T* new_v) {
    const int half = a.dim / 2, head = blockIdx.x, t = threadIdx.x;
    const bool is_long = at.pos + 1 > a.switch_at;
    const float* cosine = (is_long ? a.cos1 : a.cos0) + (i64)at.pos * half;
    const float* sine = (is_long ? a.sin1 : a.sin0) + (i64)at.pos * half;
    const float cosine_t = t < half ? cosine[t] : 0.f, sine_t = t < half ? sine[t] : 0.f;
    await_previous();
    const T* from_q = a.q + (i64)blockIdx.z * a.q_stride + head * a.dim;
    const T* from_k = a.k + (i64)blockIdx.z * a.kv_stride + head * a.dim;
    const T* from_v = a.v + (i64)blockIdx.z * a.kv_stride + head * a.dim;
    const bool is_last = at.has_newest(at.chunk_end() - 1);
    for (int d = t; d < half; d += blockDim.x) {
        const float c = d == t ? cosine_t : cosine[d], s = d == t ? sine_t : sine[d];
        const float x = fresh(from_q + d), y = fresh(from_q + d + half);
        float kx = 0, ky = 0, vx = 0, vy = 0;
        if (is_last) {
            kx = fresh(from_k + d);
            ky = fresh(from_k + d + half);
            vx = fresh(from_v + d);
            vy = fresh(from_v + d + half);
        }
        q[d] = rounded(__fmaf_rn(x, c, -__fmul_rn(y, s)));
        q[d + half] = rounded(__fmaf_rn(y, c, __fmul_rn(x, s)));
        if (is_last) {
            store(new_k + d, __fmaf_rn(kx, c, -__fmul_rn(ky, s)));
            store(new_k + d + half, __fmaf_rn(ky, c, __fmul_rn(kx, s)));
            store(new_v + d, vx);
            store(new_v + d + half, vy);
            a.k_cache[row + d] = new_k[d];
            a.k_cache[row + d + half] = new_k[d + half];
            a.v_cache[row + d] = new_v[d];
            a.v_cache[row + d + half] = new_v[d + half];
        }
    }
    __syncthreads();
}

// A lane's share of a query, vectors `quarter` + 4 n, and its part of the product with a key.
template <int NV> struct Query {
    float v[NV][8];
    DEVICE Query(const float* from, int quarter, int vectors) {
        #pragma unroll
        for (int n = 0; n < NV; n++)
            #pragma unroll
            for (int e = 0; e < 8; e++)
                v[n][e] = quarter + 4 * n < vectors ? from[(quarter + 4 * n) * 8 + e] : 0.f;
    }
    // Zeros where the key has no such vector.
    DEVICE float times(const uint4* key, int stride) const {
        float part[NV];
        #pragma unroll
        for (int n = 0; n < NV; n++) {
            float k[8];
            part[n] = 0;
            widen(Eight{{key[n * stride]}}, k);
            #pragma unroll
            for (int e = 0; e < 8; e++) part[n] = fmaf(v[n][e], k[e], part[n]);
        }
        #pragma unroll
        for (int n = 1; n < NV; n++) part[0] += part[n];
        return part[0];
    }
};
// The score of a key whose parts four lanes have.
DEVICE float joined_score(float x, float scale) {
    x += __shfl_xor_sync(FULL, x, 1);
    x += __shfl_xor_sync(FULL, x, 2);
    return __fmul_rn(x, scale);
}
DEVICE void add_value(float p, uint4 value, float (&sum)[8]) {
    float v[8];
    widen(Eight{{value}}, v);
    #pragma unroll
    for (int e = 0; e < 8; e++) sum[e] = fmaf(p, v[e], sum[e]);
}

// Keys of a chunk that lane 4 g + i has: i * 8 + g and that + 32. Scores become exponentials.
struct Softmax {
    float top, mass;
    DEVICE explicit Softmax(float (&s)[2]) {
        // Every chunk has a key that is seen, so that the largest score is a number.
        top = warp_max(fmaxf(s[0], s[1]));
        s[0] = expf(s[0] - top);
        s[1] = expf(s[1] - top);
        mass = warp_sum(__fadd_rn(s[0], s[1]));
    }
};
// The exponential of key m * 8 + group of the chunk.
DEVICE float exponential(const float (&s)[2], int m, int group) {
    return __shfl_sync(FULL, m < 4 ? s[0] : s[1], 4 * group + (m & 3));
}

// Sums up to here: the largest score, the sum of exponentials, and that of values.
template <int N> struct Sums {
    float top, mass, of[N];
    DEVICE Sums() { clear(); }
    DEVICE void clear() {
        top = -INFINITY;
        mass = 0;
        #pragma unroll
        for (int n = 0; n < N; n++) of[n] = 0;
    }
    DEVICE void add(float other_top, float other_mass, const float (&other)[N]) {
        const Joint joint = join(top, other_top);
        top = joint.top;
        mass = joined(mass, joint.fade, other_mass, joint.gain);
        #pragma unroll
        for (int n = 0; n < N; n++) of[n] = joined(of[n], joint.fade, other[n], joint.gain);
    }
};
#endif
