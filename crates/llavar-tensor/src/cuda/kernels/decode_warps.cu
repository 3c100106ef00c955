// A block of two warps for a run of units, each of which goes its own way over the keys: one strand a warp where the
// block has the whole text.
//
// Lane 4 g + i has part i of every eighth key from g on, so that a score is joined by two shuffles. What a lane asks
// for only it reads, from a ring in shared memory whose slots are asked for again as soon as they are read: no
// barrier stands in the loop.
#if T_IS_BF16
// Keys or values of a group of lanes in a step, and steps of a warp under way: 24 KiB of heads of 96.
#define STEP_KEYS 4
#define AHEAD 4

// As `start_copy16`; L2 fetches lines of 128 bytes.
DEVICE void start_copy16_of_line(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// What a warp asks for: steps over the keys of its chunks, then over their values.
template <int NV> struct Ring {
    static constexpr int STEPS = CHUNK / (8 * STEP_KEYS), SLOT = STEP_KEYS * NV * 32, SIZE = AHEAD * SLOT;
    const Place& at;
    const T *keys, *values, *from;
    uint4 *first, *slot;
    int token, group, quarter, vectors, chunk, unit, end, j, step;
    bool is_values;
    DEVICE Ring(const Place& at, const T* keys, const T* values, uint4* first, int token, int vectors, int unit)
        : at(at), keys(keys), values(values), first(first), slot(first), token(token),
          group((threadIdx.x & 31) >> 2), quarter(threadIdx.x & 3), vectors(vectors), unit(unit),
          end(at.chunk_end()), step(0), is_values(false) {
        chunk = unit < at.unit0 + at.run ? at.chunk_of(unit) : end;
        begin();
        #pragma unroll 1
        for (int i = 0; i < AHEAD; i++) ask();
    }
    DEVICE void begin() {
        j = chunk * CHUNK + group;
        from = (is_values ? values : keys) + (i64)j * token;
    }
    // Into the slot of the oldest step, which has been read.
    DEVICE void ask() {
        if (chunk < end) {
            #pragma unroll
            for (int r = 0; r < STEP_KEYS; r++) {
                #pragma unroll
                for (int n = 0; n < NV; n++)
                    start_copy16_of_line(slot + (r * NV + n) * 32, from + n * 32,
                                         at.is_cached(j) && quarter + 4 * n < vectors);
                j += 8;
                from += 8 * token;
            }
            if (++step == STEPS) {
                step = 0;
                if (is_values && ++chunk == at.chunk_of(unit + 1)) {
                    unit += STRANDS;
                    chunk = unit < at.unit0 + at.run ? at.chunk_of(unit) : end;
                }
                is_values = !is_values;
                begin();
            }
        }
        // A group each time, so that the count of those under way is always the same.
        end_copies();
        slot = slot + SLOT == first + SIZE ? first : slot + SLOT;
    }
    // Its r-th vectors begin at [r * NV * 32].
    DEVICE const uint4* oldest() const {
        await_copies_but<AHEAD - 1>();
        return slot;
    }
};

template <int NV> DEVICE void attend_by_warps(const Step& a) {
    typedef Ring<NV> Steps;
    constexpr int W = STRANDS, DIM = 32 * NV;
    extern __shared__ uint4 shared[];
    __shared__ float q_of[DIM], strand_of[W][DIM], strand_top[W], strand_mass[W];
    __shared__ uint4 new_k[4 * NV], new_v[4 * NV];
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, group = lane >> 2, quarter = lane & 3;
    const int dim = a.dim, vectors = dim / 8, token = a.kv_heads * dim, head = blockIdx.x, b = blockIdx.z;
    T* out = a.out + ((i64)b * a.heads + head) * dim;
    let_next_start();
    const Place at(a);
    if (is_idle(a, at, out, dim)) return;
    const i64 start = (i64)a.slots[b] * a.capacity * token + head * dim;
    Steps steps(at, a.k_cache + start + quarter * 8, a.v_cache + start + quarter * 8,
                shared + warp * Steps::SIZE + lane, token, vectors, at.unit0 + warp);
    rotate(a, at, start + (i64)at.pos * token, q_of, (T*)new_k, (T*)new_v);
    const Query<NV> q(q_of, quarter, vectors);
    const int newest = at.pos % CHUNK / 8;
    const bool has_newest = group == at.pos % 8;
    // Of each vector a lane keeps the sum of element `group`.
    const int own = quarter * 8 + group;
    const i64 first_unit = ((i64)b * a.heads + head) * a.most_units;
    Sums<NV> strand, unit;

    #pragma unroll 1
    for (int u = at.unit0 + warp; u < min(at.unit0 + at.run, at.units); u += W) {
        unit.clear();
        #pragma unroll 1
        for (int chunk = at.chunk_of(u); chunk < at.chunk_of(u + 1); chunk++) {
            float s[2] = {-INFINITY, -INFINITY};
            // The group's eight keys: each of its four lanes has two.
            auto take = [&](float score, int m, bool is_seen) {
                const bool takes = (m & 3) == quarter && is_seen;
                s[0] = takes && m < 4 ? score : s[0];
                s[1] = takes && m >= 4 ? score : s[1];
            };
            #pragma unroll 1
            for (int i = 0; i < Steps::STEPS; i++) {
                const uint4* key = steps.oldest();
                float x[STEP_KEYS];
                #pragma unroll
                for (int r = 0; r < STEP_KEYS; r++) x[r] = q.times(key + r * NV * 32, 32);
                steps.ask();
                #pragma unroll
                for (int r = 0; r < STEP_KEYS; r++) {
                    const int m = i * STEP_KEYS + r;
                    take(joined_score(x[r], a.scale), m, at.is_cached(chunk * CHUNK + m * 8 + group));
                }
            }
            if (at.has_newest(chunk)) {
                uint4 key[NV];
                #pragma unroll
                for (int n = 0; n < NV; n++)
                    key[n] = quarter + 4 * n < vectors ? new_k[quarter + 4 * n] : make_uint4(0, 0, 0, 0);
                take(joined_score(q.times(key, 1), a.scale), newest, has_newest);
            }
            const Softmax softmax(s);
            float sum[NV][8];
            #pragma unroll
            for (int n = 0; n < NV; n++)
                #pragma unroll
                for (int e = 0; e < 8; e++) sum[n][e] = 0;
            #pragma unroll 1
            for (int i = 0; i < Steps::STEPS; i++) {
                const uint4* value = steps.oldest();
                #pragma unroll
                for (int r = 0; r < STEP_KEYS; r++) {
                    const float p = exponential(s, i * STEP_KEYS + r, group);
                    #pragma unroll
                    for (int n = 0; n < NV; n++) add_value(p, value[(r * NV + n) * 32], sum[n]);
                }
                steps.ask();
            }
            if (at.has_newest(chunk)) {
                const float p = exponential(s, newest, group);
                if (has_newest)
                    #pragma unroll
                    for (int n = 0; n < NV; n++) add_value(p, new_v[quarter + 4 * n], sum[n]);
            }
            // The eight groups in pairs, each of which keeps half of the elements.
            float of[NV];
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                float four[4], two[2];
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float low = sum[n][e], high = sum[n][e + 4];
                    four[e] = (lane & 16 ? high : low) + __shfl_xor_sync(FULL, lane & 16 ? low : high, 16);
                }
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float low = four[e], high = four[e + 2];
                    two[e] = (lane & 8 ? high : low) + __shfl_xor_sync(FULL, lane & 8 ? low : high, 8);
                }
                of[n] = (lane & 4 ? two[1] : two[0]) + __shfl_xor_sync(FULL, lane & 4 ? two[0] : two[1], 4);
            }
            unit.add(softmax.top, softmax.mass, of);
        }
        if (at.has_all()) strand.add(unit.top, unit.mass, unit.of);
        else {
            #pragma unroll
            for (int n = 0; n < NV; n++)
                if (own + 32 * n < dim) a.part_out[(first_unit + u) * dim + own + 32 * n] = unit.of[n];
            if (lane == 0) a.part_stats[first_unit + u] = make_float2(unit.top, unit.mass);
        }
    }
    if (!at.has_all()) {
        if (!ends_last(a, at)) return;
        #pragma unroll 2
        for (int u = warp; u < at.units; u += W) {
            const float* stats = (const float*)(a.part_stats + first_unit + u);
            #pragma unroll
            for (int n = 0; n < NV; n++)
                unit.of[n] = own + 32 * n < dim ? fresh(a.part_out + (first_unit + u) * dim + own + 32 * n) : 0.f;
            strand.add(fresh(stats), fresh(stats + 1), unit.of);
        }
    }
    #pragma unroll
    for (int n = 0; n < NV; n++) strand_of[warp][own + 32 * n] = strand.of[n];
    if (lane == 0) {
        strand_top[warp] = strand.top;
        strand_mass[warp] = strand.mass;
    }
    __syncthreads();
    for (int d = t; d < dim; d += 32 * W) {
        Sums<1> all;
        #pragma unroll
        for (int w = 0; w < W; w++)
            if (w < at.units) {
                const float of[1] = {strand_of[w][d]};
                all.add(strand_top[w], strand_mass[w], of);
            }
        store(out + d, all.of[0] / all.mass);
    }
}

// As many blocks of a multiprocessor as leave registers to the kernel behind.
#define BLOCKS (WIDTH <= 3 ? 8 : WIDTH == 4 ? 6 : 2)
KERNEL __launch_bounds__(32 * STRANDS, BLOCKS) attend_own_runs(STEP_PARAMETERS) { attend_by_warps<WIDTH>(STEP); }
#endif
