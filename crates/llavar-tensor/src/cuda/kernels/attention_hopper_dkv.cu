// Gradients of keys and values for Hopper: with p and ds as in `attention_hopper_dq.cu`, dv = p^T dO, dk = scale ds^T q,
// over all query heads that share a key head, in one order.
//
// 128 keys a tile, two groups of warps with 64 each, blocks of 64 queries in a ring. Scores are made turned, k q^T and
// v dO^T, so that their accumulators are first operands of the next products as they are.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Entries of queries, output gradients, logarithms and deltas of a block; each begins at a multiple of 1,024.
constexpr int ENTRIES = HEAD == 128 ? 2 : 4, ROWS = 4 * BLOCK, ENTRY = 2 * BYTES_BLOCK + 2 * ROWS + 512;
constexpr int BYTES_TILE = TILE * HEAD * 2;

DEVICE void load_bytes(u32 to, const float* from, u32 at, u32 bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :: "r"(to), "l"(from), "r"(bytes), "r"(at) : "memory");
}

KERNEL __launch_bounds__(384, 1) attention_hopper_dkv(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    const __grid_constant__ TensorMap dout, T* dk, T* dv, i64 stride, const float* lse, const float* delta,
    const float* table, const int* positions, i64 entries, const int* plan, const int4* tiles, int kv_heads, int group,
    int padded, float scale, int causal) {
    extern __shared__ char memory[];
    u32 own = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u, blocks_at = own + 4 * BYTES_TILE;
    Ring<ENTRIES, 8> ring(blocks_at + ENTRIES * ENTRY);
    Ring<2, 8> tiles_of_own(ring.empty + 8 * ENTRIES);
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        ring.make();
        tiles_of_own.make();
        barriers_made();
    }
    __syncthreads();
    int begin = plan[blockIdx.x], end = plan[blockIdx.x + 1];
    u32 at = 0, turn = 0;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            for (int i = begin; i < end; i++, turn++) {
                int item = plan[i], head = item % kv_heads;
                int4 tile = tiles[item / kv_heads];
                u32 bar = tiles_of_own.fill(turn, 2 * BYTES_TILE), to = own + turn % 2 * 2 * BYTES_TILE;
                load_tokens(to, &k, bar, tile.x, head);
                load_tokens(to + BYTES_TILE, &v, bar, tile.x, head);
                for (int h = head * group; h < (head + 1) * group; h++) {
                    i64 row = (i64)h * padded + tile.w;
                    for (int from = causal ? tile.x - tile.y : 0; from < tile.z - tile.y; from += BLOCK, at++) {
                        u32 bar = ring.fill(at, 2 * BYTES_BLOCK + 2 * ROWS), to = blocks_at + at % ENTRIES * ENTRY;
                        load_tokens(to, &q, bar, tile.y + from, h);
                        load_tokens(to + BYTES_BLOCK, &dout, bar, tile.y + from, h);
                        load_bytes(to + 2 * BYTES_BLOCK, lse + row + from, bar, ROWS);
                        load_bytes(to + 2 * BYTES_BLOCK + ROWS, delta + row + from, bar, ROWS);
                    }
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1;
    float in_powers = scale * 1.44269504f;
    int item = begin < end ? plan[begin] : 0;
    int4 tile = tiles[item / kv_heads];
    for (int i = begin; i < end; i++, turn++) {
        // Of the next one, on their way meanwhile.
        int coming = plan[min(i + 1, end - 1)];
        int4 next = tiles[coming / kv_heads];
        int head = item % kv_heads, first = tile.x + BLOCK * me;
        // Blocks of queries of each head, and those in front of this group's keys.
        int start = causal ? tile.x - tile.y : 0, blocks = (tile.z - tile.y - start + BLOCK - 1) / BLOCK;
        int unseen = first >= tile.z ? blocks : causal ? me : 0;
        u32 keys = own + turn % 2 * 2 * BYTES_TILE, values = keys + BYTES_TILE;
        int at_positions[2];
        positions_of(at_positions, table, positions, first, tile.z);
        tiles_of_own.arrived(turn);
        u64 of_k = describe(keys + BLOCK * LINE * me, 16), of_v = describe(values + BLOCK * LINE * me, 16);
        float dkeys[HEAD / 2], dvalues[HEAD / 2], s[32], dp[32];
        u32 p[4][4], ds[4][4];
        #pragma unroll
        for (int c = 0; c < HEAD / 2; c++) dkeys[c] = dvalues[c] = 0.f;
        auto of_pair = [&](u32 n) {
            u32 entry = blocks_at + n % ENTRIES * ENTRY;
            ring.arrived(n);
            pin(s);
            pin(dp);
            multiply_fence();
            all_scores(s, of_k, entry);
            multiply_commit();
            all_scores(dp, of_v, entry + BYTES_BLOCK);
            multiply_commit();
        };
        auto of_values = [&](u32 n) {
            pin(dvalues);
            multiply_fence();
            weigh_all(dvalues, p, blocks_at + n % ENTRIES * ENTRY + BYTES_BLOCK);
            multiply_commit();
        };
        auto of_keys = [&](u32 n) {
            pin(dkeys);
            multiply_fence();
            weigh_all(dkeys, ds, blocks_at + n % ENTRIES * ENTRY);
            multiply_commit();
        };
        auto two = [&](u32 at, float& x, float& y) {
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(at + 8 * (lane & 3)) : "memory");
        };
        auto powers = [&](u32 n, bool diagonal) {
            u32 rows = blocks_at + n % ENTRIES * ENTRY + 2 * BYTES_BLOCK;
            #pragma unroll
            for (int c = 0; c < 32; c += 4) {
                float x, y;
                two(rows + 8 * c, x, y);
                s[c] = fast_exp2(fmaf(s[c], in_powers, -x));
                s[c + 1] = fast_exp2(fmaf(s[c + 1], in_powers, -y));
                s[c + 2] = fast_exp2(fmaf(s[c + 2], in_powers, -x));
                s[c + 3] = fast_exp2(fmaf(s[c + 3], in_powers, -y));
            }
            // Queries in front of a key.
            if (diagonal) {
                #pragma unroll
                for (int c = 0; c < 32; c++) {
                    int query = 8 * (c / 4) + 2 * (lane & 3) + c % 2, key = 16 * warp + lane / 4 + 8 * (c / 2 % 2);
                    if (query < key) s[c] = 0.f;
                }
            }
        };
        auto slopes = [&](u32 n) {
            u32 rows = blocks_at + n % ENTRIES * ENTRY + 2 * BYTES_BLOCK + ROWS;
            #pragma unroll
            for (int c = 0; c < 32; c += 4) {
                float x, y;
                two(rows + 8 * c, x, y);
                dp[c] = s[c] * (dp[c] - x);
                dp[c + 1] = s[c + 1] * (dp[c + 1] - y);
                dp[c + 2] = s[c + 2] * (dp[c + 2] - x);
                dp[c + 3] = s[c + 3] * (dp[c + 3] - y);
            }
        };
        for (int h = 0; h < group; h++) {
            for (int j = 0; j < unseen; j++, at++) {
                ring.arrived(at);
                ring.release(at);
            }
            for (int j = unseen; j < blocks; j++, at++) {
                of_pair(at);
                multiply_wait<1>();
                pin(s);
                if (j > unseen) ring.release(at - 1);
                powers(at, causal && j == unseen);
                pack_scores(p, s);
                of_values(at);
                multiply_wait<1>();
                pin(dp);
                slopes(at);
                pack_scores(ds, dp);
                of_keys(at);
            }
            multiply_wait<0>();
            pin(dkeys);
            pin(dvalues);
            if (unseen < blocks) ring.release(at - 1);
        }
        // This group's own keys and values are read no more: gradients leave by their place.
        group_barrier(1 + me);
        i64 to = first * stride + head * HEAD;
        store_rows<TILE>(dv + to, stride, dvalues, 1.f, 1.f, values + BLOCK * LINE * me, first, tile.z);
        turn_back(dkeys, table, entries, at_positions);
        store_rows<TILE>(dk + to, stride, dkeys, scale, scale, keys + BLOCK * LINE * me, first, tile.z);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        tiles_of_own.release(turn);
        item = coming;
        tile = next;
    }
}
#endif
