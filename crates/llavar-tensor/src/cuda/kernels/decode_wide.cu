// Products of up to 16 rows with a weight on tensor cores, with what stands around them in a decoding step.
//
// One block a multiprocessor. Its warps share the elements of a weight row among themselves and read tiles of
// eight rows one behind the other, so that many bytes are under way at any time and the first of them before the
// kernel in front has ended; x lies in shared memory, normed, and meets every tile from there. Lane 4 g + t has
// eight elements of row g of the tile, and the same eight of the rows g and g + 8 of x: the order of the elements
// is not that of the instruction, but the same for both, and a sum does not mind.
#define WARPS 16
#define THREADS (32 * WARPS)
// Vectors of eight elements in a line of 128 bytes; a lane has two of each line that its warp reads.
#define LINE 8
// Vectors between rows of x in shared memory, beyond the row itself: neighbours lie in other banks.
#define GAP 4
// Vectors of x that a lane has under way.
#define FILL 12
// Tiles of a pair of blocks that share a weight row.
#define PAIR_TILES 16

#if T_IS_BF16
// Two blocks that can write to each other's shared memory.
DEVICE int rank_in_pair() {
    int r = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
    return r;
}
DEVICE void arrive_in_pair() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
DEVICE void await_pair() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// To the place of `p` in the shared memory of the block of this rank.
DEVICE void store_in_pair(float* p, int rank, float v) {
#if __CUDA_ARCH__ >= 900
    u32 a;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(shared_address(p)), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(a), "f"(v) : "memory");
#endif
}

// y [rows, n] = f(x [rows, k]) w^T, f the RMS norm with weight `gain` where there is one. GATED:
// y = silu(f(x) w0^T) * (f(x) w1^T). With `add`, y is added to. Up to 8 S rows; DEPTH lines of a warp are under
// way. PAIR: two blocks take half of k each, for a k whose x has no room in one.
template <int S, bool GATED, bool PAIR, int DEPTH, typename O>
DEVICE void wide(const T* x, const T* gain, float eps, Rows w, int rows, int n, int k, O* y, int add) {
    constexpr int OUT = 64 * S, SIDES = GATED ? 2 : 1, FILLERS = WARPS / (8 * S), SUMMERS = OUT / 32;
    extern __shared__ uint4 shared[];
    __shared__ float part[2][SIDES][WARPS][OUT], squares[WARPS];
    __shared__ float sums[PAIR ? 2 : 1][PAIR ? PAIR_TILES / 2 : 1][PAIR ? OUT : 1];
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
    const int vectors = k / 8, all_lines = (vectors + LINE - 1) / LINE, rank = PAIR ? rank_in_pair() : 0;
    const int most_lines = PAIR ? (all_lines + 1) / 2 : all_lines;
    const int line0 = rank * most_lines, lines = min(most_lines, all_lines - line0);
    const int stride = most_lines * LINE + GAP, tiles = (n + 7) / 8;
    const int first = PAIR ? blockIdx.x / 2 : blockIdx.x, step = PAIR ? gridDim.x / 2 : gridDim.x;
    const int own = first < tiles ? (tiles - 1 - first) / step + 1 : 0;
    // Lines of a warp in a row of the weight, and in all.
    const int each = (most_lines + WARPS - 1) / WARPS, total = own * SIDES * each;
    uint4 *sx = shared, *ring = sx + 8 * S * stride, *sgain = ring + 2 * DEPTH * THREADS;
    ring += thread;
    let_next_start();
    if (PAIR) arrive_in_pair();

    // What is asked for next.
    int asked = 0, ask_slot = 0, ask_line = 0, ask_side = 0, ask_tile = first;
    auto row_of = [&](int tile, int side) {
        const int r = min(tile * 8 + g, n - 1);
        return GATED ? (side ? w.w1 : w.w0) + (i64)r * k : w.at(r, k);
    };
    const T* ask_row = row_of(first, 0);
    auto ask = [&]() {
        if (asked < total) {
            const int line = warp + ask_line * WARPS, v = (line0 + line) * LINE + t;
            uint4* to = ring + ask_slot * 2 * THREADS;
            start_copy16(to, ask_row + v * 8, line < lines && v < vectors);
            start_copy16(to + THREADS, ask_row + (v + 4) * 8, line < lines && v + 4 < vectors);
            if (++ask_line == each) {
                ask_line = 0;
                if (++ask_side == SIDES) {
                    ask_side = 0;
                    ask_tile += step;
                }
                ask_row = row_of(ask_tile, ask_side);
            }
            asked++;
        }
        // A group each time, so that the count of those under way is always the same.
        end_copies();
        ask_slot = ask_slot + 1 == DEPTH ? 0 : ask_slot + 1;
    };
    #pragma unroll
    for (int i = 0; i < DEPTH; i++) ask();
    if (gain)
        for (int i = thread; i < vectors; i += THREADS) sgain[i] = stream16(gain + i * 8);
    await_previous();

    const int row = warp % (8 * S), filler = warp / (8 * S) * 32 + lane;
    const int here = min(vectors - line0 * LINE, lines * LINE);
    uint4* sx_row = sx + row * stride;
    {
        const T* from = x + (i64)row * k + line0 * LINE * 8;
        float sum = 0;
        for (int i0 = filler; i0 < most_lines * LINE; i0 += 32 * FILLERS * FILL) {
            Eight e[FILL];
            #pragma unroll
            for (int j = 0; j < FILL; j++) {
                const int i = i0 + 32 * FILLERS * j;
                e[j] = row < rows && i < here ? fresh8(from + i * 8) : eight_zeros();
            }
            #pragma unroll
            for (int j = 0; j < FILL; j++) {
                const int i = i0 + 32 * FILLERS * j;
                if (i < most_lines * LINE) sx_row[i] = e[j].part[0];
                float v[8];
                widen(e[j], v);
                #pragma unroll
                for (int c = 0; c < 8; c++) sum = fmaf(v[c], v[c], sum);
            }
        }
        if (gain) {
            sum = warp_sum(sum);
            if (lane == 0) squares[warp] = sum;
            __syncthreads();
            sum = 0;
            #pragma unroll
            for (int i = 0; i < FILLERS; i++) sum += squares[row + 8 * S * i];
            const float inverse = rsqrtf(sum / k + eps);
            for (int i = filler; i < here; i += 32 * FILLERS) {
                float v[8], m[8];
                widen(Eight{{sx_row[i]}}, v);
                widen(Eight{{sgain[i]}}, m);
                #pragma unroll
                for (int c = 0; c < 8; c++) v[c] = v[c] * inverse * m[c];
                sx_row[i] = narrow(v).part[0];
            }
        }
    }
    __syncthreads();
    if (PAIR) await_pair();

    int slot = 0;
    for (int i = 0, tile = first; i < own; i++, tile += step) {
        // Warps take turns at the sums; lane and warp of an output.
        const bool sums_up = warp / SUMMERS == i % (WARPS / SUMMERS);
        const int out = warp % SUMMERS * 32 + lane, to_row = out / 8, column = tile * 8 + out % 8;
        const bool is_out = sums_up && to_row < rows && column < n;
        O* to = y + (i64)to_row * n + column;
        float old = 0;
        if (!PAIR && add && is_out) old = fresh(to);
        #pragma unroll
        for (int side = 0; side < SIDES; side++) {
            float acc[4] = {0, 0, 0, 0};
            for (int l = 0; l < each; l++) {
                const int line = warp + l * WARPS;
                await_copies_but<DEPTH - 1>();
                if (line < lines) {
                    const uint4* from = sx + g * stride + line * LINE + t;
                    #pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const uint4 b = ring[(slot * 2 + h) * THREADS], low = from[4 * h];
                        uint4 high = make_uint4(0, 0, 0, 0);
                        if (S == 2) high = from[8 * stride + 4 * h];
                        multiply(acc, low.x, high.x, low.y, high.y, b.x, b.y);
                        multiply(acc, low.z, high.z, low.w, high.w, b.z, b.w);
                    }
                }
                ask();
                slot = slot + 1 == DEPTH ? 0 : slot + 1;
            }
            float* mine = part[i % 2][side][warp] + 2 * lane;
            *(float2*)mine = make_float2(acc[0], acc[1]);
            if (S == 2) *(float2*)(mine + OUT / 2) = make_float2(acc[2], acc[3]);
        }
        // The buffer of the tile before is free behind this: who summed it up has come here.
        __syncthreads();
        if (sums_up) {
            float v = 0, up = 0;
            #pragma unroll
            for (int p = 0; p < WARPS; p++) {
                v += part[i % 2][0][p][out];
                if (GATED) up += part[i % 2][SIDES - 1][p][out];
            }
            if (GATED) v = v * sigmoid(v) * up;
            if (PAIR) store_in_pair(&sums[rank][i / 2][out], i % 2, v);
            else if (is_out) store(to, v + old);
        }
    }
    if (PAIR) {
        // Tiles go to the two blocks by turns.
        float old[2] = {0, 0};
        auto place = [&](int at, O*& to) {
            const int i = 2 * (at / OUT) + rank, out = at % OUT, to_row = out / 8;
            const int column = (first + i * step) * 8 + out % 8;
            to = y + (i64)to_row * n + column;
            return i < own && to_row < rows && column < n;
        };
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            O* to;
            if (place(thread + j * THREADS, to) && add) old[j] = fresh(to);
        }
        arrive_in_pair();
        await_pair();
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            const int at = thread + j * THREADS;
            O* to;
            if (place(at, to)) store(to, sums[0][at / OUT][at % OUT] + sums[1][at / OUT][at % OUT] + old[j]);
        }
    }
}

#if __CUDA_ARCH__ >= 900
#define IN_PAIRS __cluster_dims__(2, 1, 1)
#else
#define IN_PAIRS
#endif
#define PARAMETERS(O) const T* x, const T* gain, float eps, const T* w0, const T* w1, const T* w2, int end0, \
        int end1, int rows, int n, int k, O* y, int add
#define ARGUMENTS x, gain, eps, Rows{w0, w1, w2, end0, end1}, rows, n, k, y, add
#define WIDE(name, S, gated, DEPTH, O) \
    KERNEL __launch_bounds__(THREADS, 1) name(PARAMETERS(O)) { wide<S, gated, false, DEPTH, O>(ARGUMENTS); }
#define WIDE_PAIR(name, S, O) \
    KERNEL IN_PAIRS __launch_bounds__(THREADS, 1) name(PARAMETERS(O)) { wide<S, false, true, 4, O>(ARGUMENTS); }
WIDE(wide_8, 1, false, 4, T)
WIDE(wide_8_logits, 1, false, 4, float)
WIDE(wide_8_gated, 1, true, 4, T)
WIDE_PAIR(wide_8_pair, 1, T)
WIDE_PAIR(wide_8_pair_logits, 1, float)
WIDE(wide_16, 2, false, 4, T)
WIDE(wide_16_logits, 2, false, 4, float)
WIDE(wide_16_gated, 2, true, 4, T)
WIDE(wide_16_gated_3, 2, true, 3, T)
WIDE_PAIR(wide_16_pair, 2, T)
WIDE_PAIR(wide_16_pair_logits, 2, float)
#endif
