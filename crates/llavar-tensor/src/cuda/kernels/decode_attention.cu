// Attention of a decoding step where several query heads share keys, and in f32.
//
// A block takes one key head, up to GQ of the query heads that share it, and a run of units of one sequence, which are
// joined one after the other.
#define THREADS 128

// Vectors of eight that a thread has asked for and not used: keys, then values of a chunk. They wait in registers.
template <int KEYS, int VALUES, bool STAGED> struct Ahead {
    Eight keys[KEYS], values[VALUES];
    DEVICE Ahead(uint4*, int, int) {}
    DEVICE void turn() {}
    DEVICE void ask_key(int i, const T* from, bool inside) { keys[i] = inside ? stream8(from) : eight_zeros(); }
    DEVICE void ask_value(int i, const T* from, bool inside) { values[i] = inside ? stream8(from) : eight_zeros(); }
    DEVICE void end_group() {}
    DEVICE void await_keys() {}
    DEVICE void await_values() {}
    DEVICE const Eight& key(int i) const { return keys[i]; }
    DEVICE const Eight& value(int i) const { return values[i]; }
};
#if T_IS_BF16
// The same for two chunks in shared memory, one of them under way while the other is used. Only the thread that
// asks for a vector reads it, so no barrier is needed.
template <int KEYS, int VALUES> struct Ahead<KEYS, VALUES, true> {
    uint4* slots;
    int stage, own_values, line_size, now;
    DEVICE Ahead(uint4* shared, int vectors, int lines)
        : slots(shared + threadIdx.x), stage(KEYS * THREADS + CHUNK * vectors), own_values(KEYS * THREADS),
          line_size(lines * vectors), now(0) {}
    // What is asked for from here on goes to the other half; what is read comes from this one.
    DEVICE void turn() { now ^= 1; }
    DEVICE void ask_key(int i, const T* from, bool inside) {
        start_copy16(slots + (now ^ 1) * stage + i * THREADS, from, inside);
    }
    DEVICE void ask_value(int i, const T* from, bool inside) {
        start_copy16(slots + (now ^ 1) * stage + own_values + i * line_size, from, inside);
    }
    DEVICE void end_group() { end_copies(); }
    // Behind the keys come their values and the next chunk's two groups.
    DEVICE void await_keys() { await_copies_but<3>(); }
    DEVICE void await_values() { await_copies_but<2>(); }
    DEVICE Eight key(int i) const { return Eight{{slots[now * stage + i * THREADS]}}; }
    DEVICE Eight value(int i) const { return Eight{{slots[now * stage + own_values + i * line_size]}}; }
};
#endif

// Compiled for one WIDTH, which is the NV here. NV: vectors of eight of a head that each of four threads has, dim <= 32 NV.
template <int NV, int GQ, bool STAGED> DEVICE void attend(const Step& a) {
    constexpr int DIM = 32 * NV;
    // Value vectors of a thread in a chunk: THREADS / (dim / 8) keys are read at a time.
    constexpr int VALUES = NV == 1 ? 2 : NV == 2 ? 4 : NV == 3 ? 7 : NV == 4 ? 8 : 16;
    // Outputs of a thread.
    constexpr int OWN = (GQ * DIM + THREADS - 1) / THREADS;
    extern __shared__ uint4 shared[];
    __shared__ __align__(16) float sq[GQ][DIM], rows_of[GQ][THREADS * 8];
    __shared__ float new_k[DIM], new_v[DIM], score[GQ][CHUNK];
    __shared__ float largest[GQ], total[GQ], factor[GQ];
    // Of the units up to here, joined: largest score, sum of exponentials; and how the last one was joined.
    __shared__ float top[GQ], mass[GQ], fade[GQ], gain[GQ];
    __shared__ float fades[GQ][MAX_UNITS], gains[GQ][MAX_UNITS], masses[GQ][MAX_UNITS];
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, b = blockIdx.z;
    const int dim = a.dim, half = dim / 2, group = a.heads / a.kv_heads, subs = gridDim.x / a.kv_heads;
    const int kv = blockIdx.x / subs, first_q = blockIdx.x % subs * GQ, count = min(GQ, group - first_q);
    const int head0 = kv * group + first_q;
    T* out = a.out + ((i64)b * a.heads + head0) * dim;
    let_next_start();
    const Place at(a);
    if (is_idle(a, at, out, count * dim)) return;
    const int pos = at.pos, first = at.first, each = at.each, units = at.units;
    const bool is_whole = at.has_all();
    int unit = at.unit0, chunk = at.chunk_of(unit);
    const int chunk_end = at.chunk_end();

    const i64 token = (i64)a.kv_heads * dim, start = (i64)a.slots[b] * a.capacity * token + kv * dim;
    const T *keys = a.k_cache + start, *values = a.v_cache + start;
    const int vectors = dim / 8, quarter = t & 3, key_of = t >> 2;
    const int column = t % vectors, line = t / vectors, lines = THREADS / vectors;
    Ahead<2 * NV, VALUES, STAGED> ahead(shared, vectors, lines);
    // The newest key and value are not in the cache yet.
    auto ask = [&](int chunk) {
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const int j = chunk * CHUNK + key_of + 32 * i;
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                const int c = quarter + 4 * n;
                const bool inside = j >= first && j < pos && c < vectors;
                ahead.ask_key(i * NV + n, inside ? keys + j * token + c * 8 : keys, inside);
            }
        }
        ahead.end_group();
        #pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int key = line + i * lines, j = chunk * CHUNK + key;
            const bool inside = line < lines && key < CHUNK && j >= first && j < pos;
            if (!STAGED || (line < lines && key < CHUNK))
                ahead.ask_value(i, inside ? values + j * token + column * 8 : values, inside);
        }
        ahead.end_group();
    };
    ask(chunk);
    const bool is_long = pos + 1 > a.switch_at;
    const float* cosine = (is_long ? a.cos1 : a.cos0) + (i64)pos * half;
    const float* sine = (is_long ? a.sin1 : a.sin0) + (i64)pos * half;
    await_previous();

    for (int i = t; i < GQ * half; i += THREADS) {
        const int h = i / half, d = i % half;
        float x = 0, y = 0;
        if (h < count) {
            const T* from = a.q + (i64)b * a.q_stride + (i64)(head0 + h) * dim;
            x = fresh(from + d);
            y = fresh(from + d + half);
        }
        sq[h][d] = rounded(x * cosine[d] - y * sine[d]);
        sq[h][d + half] = rounded(y * cosine[d] + x * sine[d]);
    }
    if (at.has_newest(chunk_end - 1)) {
        const T* from_k = a.k + (i64)b * a.kv_stride + kv * dim;
        const T* from_v = a.v + (i64)b * a.kv_stride + kv * dim;
        const i64 to = start + pos * token;
        for (int d = t; d < half; d += THREADS) {
            const float x = fresh(from_k + d), y = fresh(from_k + d + half);
            new_k[d] = rounded(x * cosine[d] - y * sine[d]);
            new_k[d + half] = rounded(y * cosine[d] + x * sine[d]);
            if (first_q == 0) {
                store(a.k_cache + to + d, new_k[d]);
                store(a.k_cache + to + d + half, new_k[d + half]);
            }
        }
        for (int d = t; d < dim; d += THREADS) {
            new_v[d] = fresh(from_v + d);
            if (first_q == 0) store(a.v_cache + to + d, new_v[d]);
        }
    }
    if (t < GQ) {
        total[t] = mass[t] = 0;
        top[t] = -INFINITY;
    }
    float acc[GQ][8], own[OWN];
    #pragma unroll
    for (int h = 0; h < GQ; h++)
        #pragma unroll
        for (int e = 0; e < 8; e++) acc[h][e] = 0;
    #pragma unroll
    for (int n = 0; n < OWN; n++) own[n] = 0;
    const i64 first_unit = ((i64)b * a.heads + head0) * a.most_units;
    __syncthreads();

    for (int in_unit = 0;; in_unit++) {
        if (in_unit == each) in_unit = 0;
        const bool is_first = in_unit == 0, is_end = in_unit + 1 == each || chunk + 1 == chunk_end;
        ahead.turn();
        if (STAGED) {
            if (chunk + 1 < chunk_end) ask(chunk + 1);
            else {
                ahead.end_group();
                ahead.end_group();
            }
        }
        ahead.await_keys();
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            const int key = key_of + 32 * i, j = chunk * CHUNK + key;
            float s[GQ];
            #pragma unroll
            for (int h = 0; h < GQ; h++) s[h] = 0;
            #pragma unroll
            for (int n = 0; n < NV; n++) {
                const int c = quarter + 4 * n;
                if (c < vectors) {
                    float v[8];
                    widen(ahead.key(i * NV + n), v);
                    if (j == pos)
                        #pragma unroll
                        for (int e = 0; e < 8; e++) v[e] = new_k[c * 8 + e];
                    #pragma unroll
                    for (int h = 0; h < GQ; h++)
                        #pragma unroll
                        for (int e = 0; e < 8; e++) s[h] = fmaf(sq[h][c * 8 + e], v[e], s[h]);
                }
            }
            #pragma unroll
            for (int h = 0; h < GQ; h++) {
                s[h] += __shfl_xor_sync(FULL, s[h], 1);
                s[h] += __shfl_xor_sync(FULL, s[h], 2);
                if (quarter == 0) score[h][key] = j >= first && j <= pos ? s[h] * a.scale : -INFINITY;
            }
        }
        __syncthreads();
        // Every chunk has a key that is seen, so that the largest score is a number.
        for (int h = warp; h < GQ; h += THREADS / 32) {
            const float x = score[h][lane], y = score[h][lane + 32], before = is_first ? -INFINITY : largest[h];
            const float most = fmaxf(before, warp_max(fmaxf(x, y)));
            const float ex = expf(x - most), ey = expf(y - most), sum = warp_sum(ex + ey);
            score[h][lane] = ex;
            score[h][lane + 32] = ey;
            if (lane == 0) {
                const float f = expf(before - most), all = __fmaf_rn(total[h], f, sum);
                factor[h] = f;
                total[h] = all;
                largest[h] = most;
                if (is_end && is_whole) {
                    const Joint joint = join(top[h], most);
                    mass[h] = joined(mass[h], joint.fade, all, joint.gain);
                    top[h] = joint.top;
                    fade[h] = joint.fade;
                    gain[h] = joint.gain;
                }
            }
        }
        __syncthreads();
        #pragma unroll
        for (int h = 0; h < GQ; h++)
            #pragma unroll
            for (int e = 0; e < 8; e++) acc[h][e] = is_first ? 0.f : acc[h][e] * factor[h];
        ahead.await_values();
        #pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int key = line + i * lines;
            if (line < lines && key < CHUNK) {
                float v[8];
                widen(ahead.value(i), v);
                if (chunk * CHUNK + key == pos)
                    #pragma unroll
                    for (int e = 0; e < 8; e++) v[e] = new_v[column * 8 + e];
                #pragma unroll
                for (int h = 0; h < GQ; h++) {
                    const float p = score[h][key];
                    #pragma unroll
                    for (int e = 0; e < 8; e++) acc[h][e] = fmaf(p, v[e], acc[h][e]);
                }
            }
        }
        if (is_end) {
            if (line < lines)
                #pragma unroll
                for (int h = 0; h < GQ; h++) {
                    float4* to = (float4*)&rows_of[h][line * dim + column * 8];
                    to[0] = make_float4(acc[h][0], acc[h][1], acc[h][2], acc[h][3]);
                    to[1] = make_float4(acc[h][4], acc[h][5], acc[h][6], acc[h][7]);
                }
            __syncthreads();
            #pragma unroll
            for (int n = 0; n < OWN; n++) {
                const int i = t + n * THREADS, h = GQ == 1 ? 0 : i / dim, d = GQ == 1 ? i : i % dim;
                if (i < count * dim) {
                    float sum = 0;
                    for (int r = 0; r < lines; r++) sum += rows_of[h][r * dim + d];
                    if (is_whole) own[n] = joined(own[n], fade[h], sum, gain[h]);
                    else a.part_out[(first_unit + h * a.most_units + unit) * dim + d] = sum;
                }
            }
            if (!is_whole && t < count)
                a.part_stats[first_unit + t * a.most_units + unit] = make_float2(largest[t], total[t]);
            unit++;
        }
        if (++chunk == chunk_end) break;
        if (!STAGED) ask(chunk);
        // Scores and sums are read no more.
        if (!is_end) __syncthreads();
    }
    if (is_whole) {
        #pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int i = t + n * THREADS;
            if (i < count * dim) store(out + i, own[n] / mass[GQ == 1 ? 0 : i / dim]);
        }
        return;
    }
    if (!ends_last(a, at)) return;
    for (int h = warp; h < count; h += THREADS / 32) {
        const float* stats = (const float*)(a.part_stats + first_unit + h * a.most_units);
        float before = -INFINITY;
        for (int u0 = 0; u0 < units; u0 += 32) {
            const int u = u0 + lane;
            const float most = u < units ? fresh(stats + 2 * u) : -INFINITY;
            // The largest score up to each unit.
            float upto = fmaxf(before, most);
            #pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const float other = __shfl_up_sync(FULL, upto, step);
                if (lane >= step) upto = fmaxf(upto, other);
            }
            const float left = __shfl_up_sync(FULL, upto, 1);
            if (u < units) {
                const Joint joint = join(lane ? left : before, most);
                fades[h][u] = joint.fade;
                gains[h][u] = joint.gain;
                masses[h][u] = fresh(stats + 2 * u + 1);
            }
            before = __shfl_sync(FULL, upto, 31);
        }
    }
    __syncthreads();
    for (int i = t; i < count * dim; i += THREADS) {
        const int h = i / dim, d = i % dim;
        const float* from = a.part_out + (first_unit + h * a.most_units) * dim + d;
        float sum = 0, all = 0;
        #pragma unroll 4
        for (int u = 0; u < units; u++) {
            const float fade = fades[h][u], gain = gains[h][u];
            all = joined(all, fade, masses[h][u], gain);
            sum = joined(sum, fade, fresh(from + (i64)u * dim), gain);
        }
        store(out + i, sum / all);
    }
}

#define ATTEND(name, GQ, staged) \
    KERNEL __launch_bounds__(THREADS) name(STEP_PARAMETERS) { attend<WIDTH, GQ, staged>(STEP); }
#if !T_IS_BF16
ATTEND(attend_1, 1, false)
#endif
ATTEND(attend_2, 2, false)
ATTEND(attend_4, 4, false)
#if T_IS_BF16
ATTEND(attend_runs_2, 2, true)
ATTEND(attend_runs_4, 4, true)
#endif
