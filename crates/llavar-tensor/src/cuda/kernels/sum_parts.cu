// The last step of reductions over rows, many with one launch.

// out = beta out + sum over parts of part [parts, n]. A column belongs to `groups` warps, a power of two; `first` is
// the first of the blocks that work on it.
struct Sum {
    const float* part;
    void* out;
    i64 n;
    int parts, groups, first, is_bf16;
    float beta;
    int unused;
};
struct Sums {
    Sum of[48];
};

template <typename G> DEVICE void add_to(G* out, float s, float beta) {
    if (beta != 0.f) s += beta * to_float(*out);
    store(out, s);
}

// A block has 32 warps, each with 32 columns; each group adds every so-manieth part of its columns, then the groups
// are added in order: the order of additions depends on the number of parts alone.
KERNEL sum_parts(const Sums sums, int count) {
    __shared__ float group_sums[32][32];
    int at = 0;
    #pragma unroll
    for (int step = 32; step; step >>= 1)
        if (at + step < count && sums.of[at + step].first <= (int)blockIdx.x) at += step;
    const Sum& sum = sums.of[at];
    const float* part = sum.part;
    i64 n = sum.n;
    int parts = sum.parts, groups = sum.groups;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = warp & (groups - 1);
    i64 c = ((blockIdx.x - sum.first) * (i64)(32 / groups) + warp / groups) * 32 + lane;
    float s = 0;
    if (c < n)
        #pragma unroll 4
        for (int p = group; p < parts; p += groups) s += part[p * n + c];
    group_sums[warp][lane] = s;
    __syncthreads();
    if (group == 0 && c < n) {
        for (int g = 1; g < groups; g++) s += group_sums[warp + g][lane];
        if (sum.is_bf16)
            add_to((bf16*)sum.out + c, s, sum.beta);
        else
            add_to((float*)sum.out + c, s, sum.beta);
    }
}
