// A block a unit: for so few rows that the card holds a block for every unit.
//
// The block's threads share a chunk. All of its keys and values are under way at once, in registers, before the kernel
// in front has ended.
#if T_IS_BF16
#define UNIT_THREADS (WIDTH <= 4 ? 128 : 256)

template <int NV> DEVICE void attend_by_units(const Step& a) {
    constexpr int DIM = 32 * NV, N = UNIT_THREADS, KEYS = 4 * CHUNK / N, VALUES = CHUNK / 8;
    __shared__ __align__(16) float groups[8][DIM];
    __shared__ float q_of[DIM], score[CHUNK];
    __shared__ uint4 new_k[4 * NV], new_v[4 * NV];
    const int t = threadIdx.x, lane = t & 31, quarter = t & 3, key_of = t >> 2;
    const int dim = a.dim, vectors = dim / 8, token = a.kv_heads * dim, head = blockIdx.x, b = blockIdx.z;
    // Threads beyond the eight groups have no values.
    const int group = t / vectors & 7, column = t % vectors;
    const bool has_values = t < 8 * vectors;
    T* out = a.out + ((i64)b * a.heads + head) * dim;
    let_next_start();
    const Place at(a);
    if (is_idle(a, at, out, dim)) return;
    int chunk = at.chunk_of(at.unit0);
    const int chunk_end = at.chunk_end();
    const i64 start = (i64)a.slots[b] * a.capacity * token + head * dim;
    const T *keys = a.k_cache + start + quarter * 8, *values = a.v_cache + start + column * 8;
    uint4 k[KEYS][NV], v[VALUES];
    auto ask = [&]() {
        #pragma unroll
        for (int i = 0; i < KEYS; i++) {
            const int j = chunk * CHUNK + key_of + i * (N / 4);
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                const bool inside = at.is_cached(j) && quarter + 4 * n < vectors;
                k[i][n] = inside ? stream16(keys + (i64)j * token + 32 * n) : make_uint4(0, 0, 0, 0);
            }
        }
        #pragma unroll
        for (int m = 0; m < VALUES; m++) {
            const int j = chunk * CHUNK + m * 8 + group;
            v[m] = at.is_cached(j) && has_values ? stream16(values + (i64)j * token) : make_uint4(0, 0, 0, 0);
        }
    };
    ask();
    rotate(a, at, start + (i64)at.pos * token, q_of, (T*)new_k, (T*)new_v);
    const Query<NV> q(q_of, quarter, vectors);
    Sums<1> unit;
    while (true) {
        #pragma unroll
        for (int i = 0; i < KEYS; i++) {
            const int key = key_of + i * (N / 4), j = chunk * CHUNK + key;
            if (j == at.pos)
                #pragma unroll
                for (int n = 0; n < NV; n++)
                    k[i][n] = quarter + 4 * n < vectors ? new_k[quarter + 4 * n] : make_uint4(0, 0, 0, 0);
            const float x = joined_score(q.times(k[i], 1), a.scale);
            if (quarter == 0) score[key] = j >= at.first && j <= at.pos ? x : -INFINITY;
        }
        __syncthreads();
        // Every warp by itself.
        const int own = quarter * 8 + (lane >> 2);
        float s[2] = {score[own], score[own + 32]}, sum[8];
        const Softmax softmax(s);
        #pragma unroll
        for (int e = 0; e < 8; e++) sum[e] = 0;
        #pragma unroll
        for (int m = 0; m < VALUES; m++) {
            if (chunk * CHUNK + m * 8 + group == at.pos) v[m] = new_v[column];
            add_value(exponential(s, m, group), v[m], sum);
        }
        if (has_values) {
            float4* to = (float4*)&groups[group][column * 8];
            to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
            to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
        }
        __syncthreads();
        const int d = min(t, dim - 1);
        const float of[1] = {((groups[0][d] + groups[4][d]) + (groups[2][d] + groups[6][d])) +
                             ((groups[1][d] + groups[5][d]) + (groups[3][d] + groups[7][d]))};
        unit.add(softmax.top, softmax.mass, of);
        if (++chunk == chunk_end) break;
        // A barrier stands between these reads and the next writes: that of the scores.
        ask();
    }
    Sums<1> strands[STRANDS];
    if (at.has_all()) strands[0].add(unit.top, unit.mass, unit.of);
    else {
        const i64 first = ((i64)b * a.heads + head) * a.most_units;
        if (t < dim) a.part_out[(first + at.unit0) * dim + t] = unit.of[0];
        if (t == 0) a.part_stats[first + at.unit0] = make_float2(unit.top, unit.mass);
        if (!ends_last(a, at)) return;
        const int d = min(t, dim - 1);
        const float *stats = (const float*)(a.part_stats + first), *parts = a.part_out + first * dim + d;
        // Under way together.
        constexpr int AT_ONCE = 8;
        for (int u = 0; u < at.units; u += AT_ONCE) {
            float top[AT_ONCE], mass[AT_ONCE], of[AT_ONCE][1];
            #pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const i64 from = min(u + i, at.units - 1);
                top[i] = fresh(stats + 2 * from);
                mass[i] = fresh(stats + 2 * from + 1);
                of[i][0] = fresh(parts + from * dim);
            }
            #pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (u + i < at.units) strands[i % STRANDS].add(top[i], mass[i], of[i]);
        }
    }
    Sums<1> all;
    #pragma unroll
    for (int w = 0; w < STRANDS; w++)
        if (w < at.units) all.add(strands[w].top, strands[w].mass, strands[w].of);
    if (t < dim) store(out + t, all.of[0] / all.mass);
}

KERNEL __launch_bounds__(UNIT_THREADS) attend_own_units(STEP_PARAMETERS) { attend_by_units<WIDTH>(STEP); }
#endif
