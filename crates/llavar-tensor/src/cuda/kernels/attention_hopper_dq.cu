// Gradient of queries for Hopper: with p = exp(scale q k^T - lse) and delta = sum of o dO of a row,
// ds = p (dO v^T - delta), dq = scale ds k; and delta for the kernel of dk and dv behind it.
//
// As `attention_hopper.cu`, with two groups of warps and 128 queries a tile; queries and output gradients stay in
// registers.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Pairs of a block of keys and one of values.
constexpr int ENTRIES = HEAD == 128 ? 2 : 4, PAIR = 2 * BYTES_BLOCK, BYTES_TILE = TILE * HEAD * 2;
// Registers of a thread that copies, and of one that multiplies: heads of 128 need all there are.
constexpr int FEW = HEAD == 128 ? 24 : 40, MANY = HEAD == 128 ? 240 : 232;

KERNEL __launch_bounds__(384, 1) attention_hopper_dq(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    const __grid_constant__ TensorMap o, const __grid_constant__ TensorMap dout, T* dq, i64 stride, const float* lse,
    float* delta, const float* table, const int* positions, i64 entries, const int* plan, const int4* tiles, int heads,
    int group, int padded, float scale, int causal) {
    extern __shared__ char memory[];
    u32 of_q = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u, of_d = of_q + BYTES_TILE, of_o = of_d + BYTES_TILE;
    u32 stage = of_o + BYTES_TILE, pairs = stage + BYTES_TILE;
    Ring<ENTRIES, 8> ring(pairs + ENTRIES * PAIR);
    Ring<1, 8> tile_ring(ring.empty + 8 * ENTRIES);
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        ring.make();
        tile_ring.make();
        barriers_made();
    }
    __syncthreads();
    int begin = plan[blockIdx.x], end = plan[blockIdx.x + 1];
    u32 at = 0, turn = 0;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(FEW));
        if (threadIdx.x == 0) {
            for (int i = begin; i < end; i++, turn++) {
                int item = plan[i], head = item % heads;
                int4 tile = tiles[item / heads];
                u32 bar = tile_ring.fill(turn, 3 * BYTES_TILE);
                load_tokens(of_q, &q, bar, tile.x, head);
                load_tokens(of_d, &dout, bar, tile.x, head);
                load_tokens(of_o, &o, bar, tile.x, head);
                for (int j = 0, blocks = blocks_of<TILE>(tile, causal); j < blocks; j++, at++) {
                    u32 bar = ring.fill(at, PAIR), to = pairs + at % ENTRIES * PAIR;
                    load_tokens(to, &k, bar, tile.y + j * BLOCK, head / group);
                    load_tokens(to + BYTES_BLOCK, &v, bar, tile.y + j * BLOCK, head / group);
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(MANY));
    int me = role - 1;
    u32 mine = stage + me * BYTES_BLOCK;
    float in_powers = scale * 1.44269504f;
    int item = begin < end ? plan[begin] : 0;
    int4 tile = tiles[item / heads];
    for (int i = begin; i < end; i++, turn++) {
        // Of the next one, on their way meanwhile.
        int coming = plan[min(i + 1, end - 1)];
        int4 next = tiles[coming / heads];
        int head = item % heads, blocks = blocks_of<TILE>(tile, causal), first = tile.x + BLOCK * me;
        int seen = first >= tile.z ? 0 : causal ? (first - tile.y) / BLOCK + 1 : blocks;
        i64 place = (i64)head * padded + tile.w + (first - tile.y) + 16 * warp + lane / 4;
        float of_row[2] = {0.f, 0.f}, logs[2];
        #pragma unroll
        for (int h = 0; h < 2; h++) logs[h] = seen ? -lse[place + 8 * h] : 0.f;
        int at_positions[2];
        positions_of(at_positions, table, positions, first, tile.z);
        tile_ring.arrived(turn);
        #pragma unroll
        for (int s = 0; s < STEPS; s++) {
            u32 x[4], y[4], at = spot<TILE>(BLOCK * me + 16 * warp + (lane & 15), 2 * s + (lane >> 4));
            load_matrices(x, of_o + at);
            load_matrices(y, of_d + at);
            #pragma unroll
            for (int c = 0; c < 4; c++)
                of_row[c % 2] = fmaf(low_half(x[c]), low_half(y[c]), fmaf(high_half(x[c]), high_half(y[c]), of_row[c % 2]));
        }
        u32 queries[STEPS][4], douts[STEPS][4], ds[4][4];
        rows_of_tile(queries, of_q, BLOCK * me + 16 * warp);
        rows_of_tile(douts, of_d, BLOCK * me + 16 * warp);
        __syncwarp();
        tile_ring.release(turn);
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            of_row[h] += __shfl_xor_sync(FULL, of_row[h], 1);
            of_row[h] += __shfl_xor_sync(FULL, of_row[h], 2);
            int row = 16 * warp + lane / 4 + 8 * h;
            if (seen && lane % 4 == 0) delta[place + 8 * h] = first + row < tile.z ? of_row[h] : 0.f;
        }
        float sum[HEAD / 2], s[32], dp[32];
        #pragma unroll
        for (int c = 0; c < HEAD / 2; c++) sum[c] = 0.f;
        auto of_pair = [&](u32 n) {
            ring.arrived(n);
            pin(s);
            pin(dp);
            multiply_fence();
            all_scores(s, queries, pairs + n % ENTRIES * PAIR);
            multiply_commit();
            all_scores(dp, douts, pairs + n % ENTRIES * PAIR + BYTES_BLOCK);
            multiply_commit();
        };
        auto of_keys = [&](u32 n) {
            pin(sum);
            multiply_fence();
            weigh_all(sum, ds, pairs + n % ENTRIES * PAIR);
            multiply_commit();
        };
        auto mask = [&] { mask_block(s, causal, tile.z - tile.y - (seen - 1) * BLOCK); };
        auto powers = [&] {
            #pragma unroll
            for (int c = 0; c < 32; c++) s[c] = fast_exp2(fmaf(s[c], in_powers, logs[c / 2 % 2]));
        };
        auto slopes = [&] {
            #pragma unroll
            for (int c = 0; c < 32; c++) s[c] *= dp[c] - of_row[c / 2 % 2];
        };
        if (seen) {
            of_pair(at);
            multiply_wait<1>();
            pin(s);
            if (seen == 1) mask();
            powers();
            multiply_wait<0>();
            pin(dp);
            slopes();
            pack_scores(ds, s);
            for (int j = 1; j < seen; j++) {
                of_pair(at + j);
                of_keys(at + j - 1);
                multiply_wait<2>();
                pin(s);
                if (j + 1 == seen) mask();
                powers();
                multiply_wait<1>();
                pin(dp);
                slopes();
                multiply_wait<0>();
                pin(sum);
                ring.release(at + j - 1);
                pack_scores(ds, s);
            }
            of_keys(at + seen - 1);
            multiply_wait<0>();
            pin(sum);
            ring.release(at + seen - 1);
        }
        // What the other group alone sees.
        for (int n = seen; n < blocks; n++) {
            ring.arrived(at + n);
            ring.release(at + n);
        }
        at += blocks;
        turn_back(sum, table, entries, at_positions);
        store_rows(dq + first * stride + head * HEAD, stride, sum, scale, scale, mine, first, tile.z);
        item = coming;
        tile = next;
    }
}
#endif
