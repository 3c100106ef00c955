// Attention without gradients on tensor cores: 64 queries of one head a block, keys from anywhere.
//
// A tile of queries meets the keys of its runs, 64 at a time, with a running softmax in f32. The runs lie
// behind one another as if they were one, so that short ones fill blocks together. Which query sees which of
// these keys is one range a key: queries seen_by[key].x .. seen_by[key].y. Blocks of keys that the whole tile
// sees have no mask.
//
// Grid: (tiles, query heads). Copies run beside the products: values come while scores are formed, the next
// keys while values are added up.

#if T_IS_BF16

#define TILE 64            // queries of a tile, and keys of a block
#define THREADS 128        // a warp has 16 queries

// Element where a vector of eight of a row begins in a tile of D wide rows; vectors are permuted so that eight
// rows of one column lie in different banks.
template <int D> DEVICE int vector_at(int row, int vector) {
    const int turn = D % 64 == 0 ? row & 7 : row >> 1 & 3;
    return (row * (D / 8) + (vector ^ turn)) * 8;
}

// Rows of one head; -1 gives zeros.
template <int D> DEVICE void start_rows(T* to, const T* from, const int* rows, i64 stride) {
    #pragma unroll
    for (int i = 0; i < TILE * (D / 8) / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x, r = at / (D / 8), c = at % (D / 8), row = rows[r];
        start_copy16(to + vector_at<D>(r, c), from + (row < 0 ? 0 : row * stride) + c * 8, row >= 0);
    }
}

// tiles: first query, end, first run, end of the runs. runs: first key, end.
template <int D> DEVICE void attend_tile(const T* q, const T* k, const T* v, T* o, const int4* tiles,
                                         const int2* runs, const int2* seen_by, int heads, int kv_heads, float scale) {
    __shared__ uint4 key_space[TILE * D / 8], value_space[TILE * D / 8];
    __shared__ int rows_of[2][TILE];
    __shared__ int2 seen[2][TILE];
    T *keys = (T*)key_space, *values = (T*)value_space;
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, head = blockIdx.y, kv = head / (heads / kv_heads);
    const int4 tile = tiles[blockIdx.x];
    const int first = tile.x, end = tile.y;
    const i64 q_stride = (i64)heads * D, kv_stride = (i64)kv_heads * D;
    q += (i64)head * D;
    k += (i64)kv * D;
    v += (i64)kv * D;

    int count = 0;
    for (int r = tile.z; r < tile.w; r++) count += runs[r].y - runs[r].x;
    const int blocks = (count + TILE - 1) / TILE;
    // The keys of the next block; whether the whole tile sees this thread's.
    int run = tile.z, offset = t;
    auto next = [&](int buffer) -> bool {
        if (t >= TILE) return true;
        while (run < tile.w && offset >= runs[run].y - runs[run].x) {
            offset -= runs[run].y - runs[run].x;
            run++;
        }
        const int key = run < tile.w ? runs[run].x + offset : -1;
        const int2 by = key < 0 ? make_int2(0, 0) : seen_by[key];
        rows_of[buffer][t] = key;
        seen[buffer][t] = by;
        offset += TILE;
        return by.x <= first && by.y >= end;
    };

    // Queries come through the space of the keys and stay in registers.
    if (t < TILE) rows_of[1][t] = first + t < end ? first + t : -1;
    bool all = next(0);
    __syncthreads();
    start_rows<D>(keys, q, rows_of[1], q_stride);
    await_copies();
    all = __syncthreads_and(all);
    u32 query[D / 16][4];
    const int a_row = warp * 16 + (lane & 15), a_vector = lane >> 4;
    #pragma unroll
    for (int i = 0; i < D / 16; i++) load_matrices(query[i], keys + vector_at<D>(a_row, 2 * i + a_vector));
    __syncthreads();
    if (blocks > 0) start_rows<D>(keys, k, rows_of[0], kv_stride);

    float acc[D / 8][4], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
    #pragma unroll
    for (int n = 0; n < D / 8; n++)
        #pragma unroll
        for (int e = 0; e < 4; e++) acc[n][e] = 0.f;
    const int row0 = first + warp * 16 + lane / 4;          // this thread's queries: row0 and row0 + 8
    const float by_two = scale * 1.44269504088896340736f;   // for powers of two
    for (int block = 0; block < blocks; block++) {
        const int buffer = block & 1;
        await_copies();
        __syncthreads();                                    // the keys are here, the values' space is free
        start_rows<D>(values, v, rows_of[buffer], kv_stride);
        float s[TILE / 8][4];
        #pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            #pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = 0.f;
        #pragma unroll
        for (int i = 0; i < D / 16; i++)
            #pragma unroll
            for (int n = 0; n < TILE / 16; n++) {
                u32 b[4];
                const int row = n * 16 + (lane & 7) + (lane >> 4) * 8, vector = 2 * i + (lane >> 3 & 1);
                load_matrices(b, keys + vector_at<D>(row, vector));
                multiply_add(s[2 * n], query[i], b[0], b[1]);
                multiply_add(s[2 * n + 1], query[i], b[2], b[3]);
            }
        #pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            #pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] *= by_two;
        if (!all)
            #pragma unroll
            for (int n = 0; n < TILE / 8; n++)
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int2 by = seen[buffer][n * 8 + 2 * (lane & 3) + (e & 1)];
                    const int row = row0 + (e >> 1) * 8;
                    if (row < by.x || row >= by.y) s[n][e] = -INFINITY;
                }
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = most[half];
            #pragma unroll
            for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
            const float base = top == -INFINITY ? 0.f : top, old = exp2_fast(most[half] - base);
            most[half] = top;
            float own = 0.f;
            #pragma unroll
            for (int n = 0; n < TILE / 8; n++)
                #pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[n][e] = exp2_fast(s[n][e] - base);
                    own += s[n][e];
                }
            sum[half] = sum[half] * old + own;
            #pragma unroll
            for (int n = 0; n < D / 8; n++) {
                acc[n][2 * half] *= old;
                acc[n][2 * half + 1] *= old;
            }
        }
        const bool more = block + 1 < blocks, own = more ? next(buffer ^ 1) : true;
        await_copies();
        all = __syncthreads_and(own);                       // the values are here, the keys' space is free
        if (more) start_rows<D>(keys, k, rows_of[buffer ^ 1], kv_stride);
        #pragma unroll
        for (int i = 0; i < TILE / 16; i++) {
            const float *x = s[2 * i], *y = s[2 * i + 1];
            const u32 p[4] = {pack2(x[0], x[1]), pack2(x[2], x[3]), pack2(y[0], y[1]), pack2(y[2], y[3])};
            #pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 b[4];
                load_matrices_turned(b, values + vector_at<D>(i * 16 + (lane & 15), 2 * n + (lane >> 4)));
                multiply_add(acc[2 * n], p, b[0], b[1]);
                multiply_add(acc[2 * n + 1], p, b[2], b[3]);
            }
        }
    }

    // Out through the space of the keys, a warp its own rows. A query that sees nothing gives zeros.
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float all_of = sum[half];
        all_of += __shfl_xor_sync(FULL, all_of, 1);
        all_of += __shfl_xor_sync(FULL, all_of, 2);
        const float inverse = all_of > 0.f ? 1.f / all_of : 0.f;
        const int row = warp * 16 + lane / 4 + half * 8;
        #pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(u32*)(keys + vector_at<D>(row, n) + 2 * (lane & 3)) =
                pack2(acc[n][2 * half] * inverse, acc[n][2 * half + 1] * inverse);
    }
    __syncwarp();
    #pragma unroll
    for (int i = 0; i < 16 * (D / 8) / 32; i++) {
        const int at = i * 32 + lane, r = warp * 16 + at / (D / 8), c = at % (D / 8);
        if (first + r < end)
            *(uint4*)(o + (first + r) * q_stride + (i64)head * D + c * 8) = *(const uint4*)(keys + vector_at<D>(r, c));
    }
}

#define ATTEND_TILE(D) \
    KERNEL __launch_bounds__(THREADS) attend_tile_##D(const T* q, const T* k, const T* v, T* o, const int4* tiles, \
        const int2* runs, const int2* seen_by, int heads, int kv_heads, float scale) { \
        attend_tile<D>(q, k, v, o, tiles, runs, seen_by, heads, kv_heads, scale); \
    }
ATTEND_TILE(64)
ATTEND_TILE(96)
ATTEND_TILE(128)

#endif
