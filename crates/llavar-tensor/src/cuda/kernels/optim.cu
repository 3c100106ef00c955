// AdamW and the gradient norm. T is the type of the gradient here; weights and moments have types of their
// own. The formulas stand in optim/adamw.rs, the random bits in optim/rounding.rs.

// Scalars of one step; cuda/ops/optim.rs reads them by position.
struct Step {
    float norm, scale, skipped;     // skipped: 1 where nothing is updated
    float inv_correction1;          // 1 / (1 - beta1^updates)
    float inv_root;                 // 1 / sqrt(1 - beta2^updates)
    u32 updates_low, updates_high;
    float spikes;                   // 1: the loss is beyond its limit, 2: the norm, 3: both
};

// Sum over the block in a fixed order, valid in thread 0. Blocks of whole warps.
DEVICE double block_sum_f64(double v) {
    __shared__ double part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    #pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    v = 0;
    if (threadIdx.x == 0)
        for (int w = 0; w < warps; w++) v += part[w];
    return v;
}

// A gradient in the list of norm_parts, or sums of squares in that of sum_squares.
struct Listed { u64 address, n, slot; };

// part[i] = sum of squares of the i-th run of `each` elements (a multiple of 8) of all listed gradients, whose
// runs are counted through. One block a run. Eight squares are added up in f32, everything else in f64.
KERNEL norm_parts(const Listed* list, int count, double* part, i64 each) {
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (list[middle].slot <= blockIdx.x) low = middle; else high = middle - 1;
    }
    const T* g = (const T*)list[low].address;
    i64 n = list[low].n, first = (blockIdx.x - (i64)list[low].slot) * each;
    i64 end = first + each < n ? first + each : n;
    i64 vectors = aligned8(g) ? first + (end - first) / 8 * 8 : first;
    double s = 0;
    #pragma unroll 4
    for (i64 i = first + threadIdx.x * 8; i < vectors; i += blockDim.x * 8) {
        float x[8], q = 0;
        load8(g + i, x);
        #pragma unroll
        for (int j = 0; j < 8; j++) q = fmaf(x[j], x[j], q);
        s += q;
    }
    for (i64 i = vectors + threadIdx.x; i < end; i += blockDim.x) {
        float x = to_float(g[i]);
        s += x * x;
    }
    s = block_sum_f64(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}

// part[slot] = sum of the n listed sums. One block an entry.
KERNEL sum_squares(const Listed* list, double* part) {
    const double* sums = (const double*)list[blockIdx.x].address;
    double s = 0;
    #pragma unroll 4
    for (i64 i = threadIdx.x; i < (i64)list[blockIdx.x].n; i += blockDim.x) s += sums[i];
    s = block_sum_f64(s);
    if (threadIdx.x == 0) part[list[blockIdx.x].slot] = s;
}

// Norm from its parts, and what follows from it. One block. The loss of the step is the sum of the products of
// pairs of losses; beyond a limit nothing is updated where skip is set.
KERNEL begin_step(const double* part, Step* step, i64 parts, float max_norm, float beta1, float beta2,
                  const float* losses, i64 pairs, float loss_limit, float norm_limit, int skip) {
    double s = 0;
    #pragma unroll 4
    for (i64 i = threadIdx.x; i < parts; i += blockDim.x) s += part[i];
    s = block_sum_f64(s);
    if (threadIdx.x != 0) return;
    float norm = (float)sqrt(s);
    bool finite = norm < INFINITY;  // false for NaN too
    double loss = 0;
    for (i64 i = 0; i < pairs; i++) loss += (double)losses[2 * i] * (double)losses[2 * i + 1];
    int spikes = finite ? (loss > loss_limit ? 1 : 0) + (norm > norm_limit ? 2 : 0) : 0;
    bool skipped = !finite || (skip && spikes);
    step->norm = norm;
    step->skipped = skipped ? 1.f : 0.f;
    step->spikes = (float)spikes;
    if (skipped) return;
    u64 updates = ((u64)step->updates_high << 32 | step->updates_low) + 1;
    step->updates_low = (u32)updates;
    step->updates_high = (u32)(updates >> 32);
    step->scale = max_norm > 0.f ? fminf(max_norm / (norm + 1e-6f), 1.f) : 1.f;
    step->inv_correction1 = (float)(1. / (1. - pow((double)beta1, (double)updates)));
    step->inv_root = (float)(1. / sqrt(1. - pow((double)beta2, (double)updates)));
}

// K elements from index i on; a run that is not whole (the end of the tensor, or memory without alignment)
// goes one by one, and what lies beyond n reads as 0.
DEVICE void load_run(const float* p, float (&x)[4]) {
    float4 a = *(const float4*)p;
    x[0] = a.x; x[1] = a.y; x[2] = a.z; x[3] = a.w;
}
DEVICE void load_run(const bf16* p, float (&x)[4]) {
    uint2 a = *(const uint2*)p;
    x[0] = low_half(a.x); x[1] = high_half(a.x); x[2] = low_half(a.y); x[3] = high_half(a.y);
}
DEVICE void store_run(float* p, const float (&x)[4]) { *(float4*)p = make_float4(x[0], x[1], x[2], x[3]); }
DEVICE void store_run(bf16* p, const float (&x)[4]) { *(uint2*)p = make_uint2(pack2(x[0], x[1]), pack2(x[2], x[3])); }

template <int K, typename E> DEVICE void fetch(const E* p, i64 i, i64 n, bool whole, float (&x)[K]) {
    if (whole) {
        load_run(p + i, x);
    } else {
        #pragma unroll
        for (int j = 0; j < K; j++) x[j] = i + j < n ? to_float(p[i + j]) : 0.f;
    }
}
template <int K, typename E> DEVICE void put(E* p, i64 i, i64 n, bool whole, const float (&x)[K]) {
    if (whole) {
        store_run(p + i, x);
    } else {
        #pragma unroll
        for (int j = 0; j < K; j++)
            if (i + j < n) store(p + i + j, x[j]);
    }
}

struct Factors { float beta1, beta2, eps, scale, step_size, inv_root, keep; };

DEVICE Factors factors(const Step& s, float lr, float keep, float beta1, float beta2, float eps) {
    return {beta1, beta2, eps, s.scale, lr * s.inv_correction1, s.inv_root, keep};
}

DEVICE void advance(const Factors& f, float& p, float g, float& m, float& v) {
    g *= f.scale;
    m = fmaf(f.beta1, m, (1.f - f.beta1) * g);
    v = fmaf(f.beta2, v, (1.f - f.beta2) * g * g);
    p = p * f.keep - f.step_size * m / (sqrtf(v) * f.inv_root + f.eps);
}

// As above with division and root to 2 units of f32, which bf16 does not show: the arithmetic of 14 bytes
// an element would else cost as much as the memory.
DEVICE void advance_fast(const Factors& f, float& p, float g, float& m, float& v) {
    float root;
    g *= f.scale;
    m = fmaf(f.beta1, m, (1.f - f.beta1) * g);
    v = fmaf(f.beta2, v, (1.f - f.beta2) * g * g);
    asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(v));
    p = p * f.keep - __fdividef(f.step_size * m, fmaf(root, f.inv_root, f.eps));
}

// A weight in the list of an update: p is the weight or its f32 master, w the rounded weight beside a master, or null;
// g, m and v as long as p; which of the rates are its own, and the key of its random bits.
struct Weight { u64 p, w, g, m, v; i64 n; u64 rates, key; };
// Learning rates and what weight decay leaves of a weight, of as many kinds of weights.
struct Rates { float lr[16], keep[16]; };

// What a block updates: some run of one of `count` weights, whose blocks are counted through; `list` begins with the
// first block of each, which all threads look at together: a search would wait for one read after the other.
DEVICE Weight find(const u32* list, int count, i64& block) {
    int found = 0;
    for (int i = threadIdx.x; i - (int)threadIdx.x < count; i += blockDim.x)
        found += __syncthreads_count(i < count && list[i] <= blockIdx.x);
    found--;
    block = blockIdx.x - list[found];
    return ((const Weight*)(list + (count + 3) / 4 * 4))[found];
}

// One run of 4 elements a thread: many small blocks reach a higher bandwidth than a loop.
KERNEL __launch_bounds__(256, 5) adamw_f32(const u32* list, int count, const Step* step, const __grid_constant__ Rates rates,
                                           float beta1, float beta2, float eps) {
    i64 i;
    Weight weight = find(list, count, i);
    i = (i * blockDim.x + threadIdx.x) * 4;
    i64 n = weight.n;
    if (i >= n) return;
    float *p = (float*)weight.p, *m = (float*)weight.m, *v = (float*)weight.v;
    bf16* w = (bf16*)weight.w;
    const T* g = (const T*)weight.g;
    bool whole = i + 4 <= n && ((weight.p | weight.w | weight.g | weight.m | weight.v) & 15) == 0;
    float P[4], G[4], M[4], V[4];
    fetch(g, i, n, whole, G);
    fetch(p, i, n, whole, P);
    fetch(m, i, n, whole, M);
    fetch(v, i, n, whole, V);
    if (step->skipped != 0.f) return;
    Factors f = factors(*step, rates.lr[weight.rates], rates.keep[weight.rates], beta1, beta2, eps);
    #pragma unroll
    for (int j = 0; j < 4; j++) advance(f, P[j], G[j], M[j], V[j]);
    put(p, i, n, whole, P);
    put(m, i, n, whole, M);
    put(v, i, n, whole, V);
    if (w) put(w, i, n, whole, P);
}

// average += rate (value - average), unless nothing was updated. T is the type of the value.
KERNEL moving_average(float* average, const T* value, const Step* step, i64 n, float rate) {
    i64 i = (blockIdx.x * (i64)blockDim.x + threadIdx.x) * 4;
    if (i >= n || step->skipped != 0.f) return;
    bool whole = i + 4 <= n && (((u64)average | (u64)value) & 15) == 0;
    float A[4], V[4];
    fetch(average, i, n, whole, A);
    fetch(value, i, n, whole, V);
    #pragma unroll
    for (int j = 0; j < 4; j++) A[j] = fmaf(rate, V[j] - A[j], A[j]);
    put(average, i, n, whole, A);
}

DEVICE u32 mix(u32 x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

// x rounded up or down to a bf16 by 16 random bits; infinities and NaN stay. The result is exact in bf16, so
// that storing it rounds nothing.
DEVICE float stochastic(float x, u32 random) {
    u32 bits = __float_as_uint(x), carry = (bits & 0x7f800000u) == 0x7f800000u ? 0 : random & 0xffffu;
    return __uint_as_float((bits + carry) & 0xffff0000u);
}

// All of bf16 (the gradient is T); runs of 8 elements.
KERNEL __launch_bounds__(256, 4) adamw_pure(const u32* list, int count, const Step* step, const __grid_constant__ Rates rates,
                                            float beta1, float beta2, float eps) {
    i64 i;
    Weight weight = find(list, count, i);
    i = (i * blockDim.x + threadIdx.x) * 8;
    i64 n = weight.n;
    if (i >= n) return;
    bf16 *p = (bf16*)weight.p, *m = (bf16*)weight.m, *v = (bf16*)weight.v;
    const T* g = (const T*)weight.g;
    bool whole = i + 8 <= n && ((weight.p | weight.g | weight.m | weight.v) & 15) == 0;
    float P[8], G[8], M[8], V[8];
    fetch(g, i, n, whole, G);
    fetch(p, i, n, whole, P);
    fetch(m, i, n, whole, M);
    fetch(v, i, n, whole, V);
    if (step->skipped != 0.f) return;
    Factors f = factors(*step, rates.lr[weight.rates], rates.keep[weight.rates], beta1, beta2, eps);
    u64 key = weight.key;
    u32 stream = mix(mix((u32)key ^ step->updates_low) ^ (u32)(key >> 32) ^ step->updates_high);
    u64 run = i / 8;
    u32 base = mix(mix((u32)run ^ (u32)(run >> 32) * 0x9e3779b9u) ^ stream);
    #pragma unroll
    for (int j = 0; j < 8; j++) {
        u32 random = base + j * 0x9e3779b9u;
        random = (random ^ random >> 16) * 0x7feb352du;
        random ^= random >> 15;
        advance_fast(f, P[j], G[j], M[j], V[j]);
        P[j] = stochastic(P[j], random);
        V[j] = stochastic(V[j], random >> 16);
    }
    put(p, i, n, whole, P);
    put(m, i, n, whole, M);
    put(v, i, n, whole, V);
}
