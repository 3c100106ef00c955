// What the kernels of attention of a decoding step share: one query a sequence over its cached keys and values, with
// the rotation of both and the append in front.
//
// A block takes heads of one sequence and a run of units. A unit is a chunk of 64 keys, counted from the sequence's
// start, or several in long texts; it is summed up by itself and then joined to others in an order of the units alone,
// by the block that has them all, or else by the one that ends last for its heads. So sums have the same order whatever
// else is in the batch, however large the cache is and however long the runs are.

#define CHUNK 64
#define MAX_UNITS 128

struct Step {
    const T *q, *k, *v;              // rows of the projections, not rotated
    int q_stride, kv_stride;
    T *k_cache, *v_cache;            // [slots * capacity, kv_heads, dim]
    const float *cos0, *sin0;        // [positions, dim / 2]
    const float *cos1, *sin1;        // for texts of more than `switch_at` tokens
    int switch_at;
    const int *positions, *slots;    // of each row; position -1: out of use
    int heads, kv_heads, dim, capacity, window;
    float scale;
    int most_units;                  // of a sequence
    float* part_out;                 // [rows, heads, most_units, dim]
    float2* part_stats;              // [rows, heads, most_units]: largest score, sum of exponentials
    int* counters;                   // [rows, gridDim.x], zero between kernels
    T* out;                          // [rows, heads, dim]
};

// As the host passes a step.
#define STEP_PARAMETERS \
    const T *q, const T *k, const T *v, int q_stride, int kv_stride, T *k_cache, T *v_cache, const float *cos0, \
    const float *sin0, const float *cos1, const float *sin1, int switch_at, const int *positions, const int *slots, \
    int heads, int kv_heads, int dim, int capacity, int window, float scale, int most_units, float *part_out, \
    float2 *part_stats, int *counters, T *out
#define STEP \
    Step{q, k, v, q_stride, kv_stride, k_cache, v_cache, cos0, sin0, cos1, sin1, switch_at, positions, slots, heads, \
         kv_heads, dim, capacity, window, scale, most_units, part_out, part_stats, counters, out}

// Where a block stands in its sequence.
struct Place {
    int pos, first, chunk0, chunks, each, units, run, unit0;
    DEVICE explicit Place(const Step& a) {
        // Nobody changes positions within a step before its last kernel.
        pos = a.positions[blockIdx.z];
        first = a.window >= 0 && pos > a.window ? pos - a.window : 0;
        chunk0 = first / CHUNK;
        chunks = pos / CHUNK - chunk0 + 1;
        each = (chunks + MAX_UNITS - 1) / MAX_UNITS;
        units = (chunks + each - 1) / each;
        // The blocks of a sequence share its units evenly, however long it is.
        run = (units + gridDim.y - 1) / gridDim.y;
        unit0 = blockIdx.y * run;
    }
    DEVICE int chunk_of(int unit) const { return chunk0 + min(unit * each, chunks); }
    DEVICE int chunk_end() const { return chunk_of(unit0 + run); }
    DEVICE bool has_all() const { return units <= run; }
    DEVICE bool has_newest(int chunk) const { return chunk == pos / CHUNK; }
    // The newest key and value are not in the cache yet.
    DEVICE bool is_cached(int j) const { return j >= first && j < pos; }
};

// Whether the block has nothing to do: there are more blocks than units, or the row is out of use and its `size`
// outputs are zero.
DEVICE bool is_idle(const Step& a, const Place& at, T* out, int size) {
    const bool is_out = at.pos < 0 || at.pos >= a.capacity;
    if (!is_out && at.unit0 < at.units) return false;
    await_previous();
    if (is_out && blockIdx.y == 0)
        for (int i = threadIdx.x; i < size; i += blockDim.x) store(out + i, 0.f);
    return true;
}

// Whether the block ends last of those that share its heads, so that it sees what all of them have written.
DEVICE bool ends_last(const Step& a, const Place& at) {
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    int* counter = a.counters + blockIdx.z * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1) == (at.units + at.run - 1) / at.run - 1;
        if (is_last) *counter = 0;
    }
    __syncthreads();
    if (is_last) __threadfence();
    return is_last;
}

// How sums up to here fade and those of a unit count when the two are joined.
struct Joint { float top, fade, gain; };
DEVICE Joint join(float top_before, float top) {
    const float now = fmaxf(top_before, top);
    return {now, expf(top_before - now), expf(top - now)};
}
DEVICE float joined(float before, float fade, float x, float gain) { return __fmaf_rn(before, fade, __fmul_rn(x, gain)); }
