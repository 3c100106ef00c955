// The most likely id of each row of logits, and its log-probability.

#define THREADS 256
#define WARPS (THREADS / 32)
#define PARTS 32
#define NO_ID 0x7fffffff

// Of equal logits the lower id wins; NaN never does.
DEVICE void take_better(float& z, int& id, float other_z, int other_id) {
    if (other_z > z || (other_z == z && other_id < id)) {
        z = other_z;
        id = other_id;
    }
}
DEVICE void warp_best(float& z, int& id) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) {
        const float other_z = __shfl_xor_sync(FULL, z, o);
        const int other_id = __shfl_xor_sync(FULL, id, o);
        take_better(z, id, other_z, other_id);
    }
}

// logits [rows, vocab], ids from `limit` on cannot be. Block (p, row) looks at one of PARTS runs of ids; the block
// that ends last for a row merges the runs, in order. picks [rows, 2]: id and log-probability. Where `ids` is
// given, the row's next step reads the id at the next position.
KERNEL __launch_bounds__(THREADS) pick(const float* logits, int vocab, int limit, float* parts, int* counters,
    float* picks, int* ids, int* positions) {
    __shared__ float best_z[WARPS];
    __shared__ int best_id[WARPS], is_last;
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, row = blockIdx.y;
    const float* from = logits + (i64)row * vocab;
    const int each = (limit + PARTS - 1) / PARTS, start = blockIdx.x * each, end = min(start + each, limit);
    let_next_start();
    await_previous();
    float z = -INFINITY;
    int id = NO_ID;
    for (int i = start + t; i < end; i += THREADS) {
        const float x = fresh(from + i);
        if (x > z) {
            z = x;
            id = i;
        }
    }
    warp_best(z, id);
    if (lane == 0) {
        best_z[warp] = z;
        best_id[warp] = id;
    }
    __syncthreads();
    #pragma unroll
    for (int w = 0; w < WARPS; w++) take_better(z, id, best_z[w], best_id[w]);
    float sum = 0;
    if (id != NO_ID)
        for (int i = start + t; i < end; i += THREADS) sum += expf(fresh(from + i) - z);
    sum = block_sum(sum);
    float* mine = parts + ((i64)row * PARTS + blockIdx.x) * 3;
    if (t == 0) {
        mine[0] = z;
        mine[1] = __int_as_float(id);
        mine[2] = sum;
        __threadfence();
        is_last = atomicAdd(counters + row, 1) == PARTS - 1;
    }
    __syncthreads();
    if (!is_last || warp != 0) return;
    __threadfence();
    mine = parts + ((i64)row * PARTS + lane) * 3;
    const float own = fresh(mine);
    float top = own;
    id = __float_as_int(fresh(mine + 1));
    const bool any = id != NO_ID;
    warp_best(top, id);
    const float all = warp_sum(any ? fresh(mine + 2) * expf(own - top) : 0.f);
    if (lane == 0) {
        if (id == NO_ID) id = 0;
        picks[2 * row] = (float)id;
        picks[2 * row + 1] = -logf(all);
        counters[row] = 0;
        if (ids) {
            ids[row] = id;
            if (positions[row] >= 0) positions[row] += 1;
        }
    }
}
