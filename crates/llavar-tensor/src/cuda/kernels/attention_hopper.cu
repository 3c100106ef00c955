// Attention for Hopper: o = softmax(scale q k^T) v within samples, causal or not, and the logarithm of each row's sum.
//
// One group of warps copies (a tile of 128 queries, blocks of 64 keys and of their values in a ring), two have 64
// queries each. Queries stay in registers, probabilities go from accumulators into the next product; scores of the next
// block are made while the softmax of this one is worked on.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int RING = 8;

KERNEL __launch_bounds__(384, 1) attention_hopper(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, T* o,
    float* lse, const int* plan, const int4* tiles, int heads, int group, int padded, float scale, int causal) {
    extern __shared__ char memory[];
    u32 of_q = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 stage = of_q + BYTES_TILE, ring = stage + BYTES_TILE, full = ring + RING * BYTES_BLOCK;
    u32 empty = full + 8 * RING, q_full = empty + 8 * RING, q_empty = q_full + 8;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < RING; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 8);
        }
        barrier_init(q_full, 1);
        barrier_init(q_empty, 8);
        barriers_made();
    }
    __syncthreads();
    int begin = plan[blockIdx.x], end = plan[blockIdx.x + 1];
    // Entries of the ring since the start: keys of block j and their values are at + 2 j and one more.
    u32 at = 0, turn = 0;
    auto blocks_of = [&](int4 tile) {
        int seen = causal ? min(tile.x - tile.y + TILE, tile.z - tile.y) : tile.z - tile.y;
        return (seen + BLOCK - 1) / BLOCK;
    };

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(40));
        if (threadIdx.x == 0) {
            for (int i = begin; i < end; i++, turn ^= 1) {
                int item = plan[i], head = item % heads;
                int4 tile = tiles[item / heads];
                barrier_wait(q_empty, turn ^ 1);
                barrier_expect(q_full, BYTES_TILE);
                load_tokens(of_q, &q, q_full, tile.x, head);
                for (int j = 0, blocks = blocks_of(tile); j < 2 * blocks; j++, at++) {
                    u32 s = at % RING, bar = full + 8 * s;
                    barrier_wait(empty + 8 * s, at / RING & 1 ^ 1);
                    barrier_expect(bar, BYTES_BLOCK);
                    load_tokens(ring + s * BYTES_BLOCK, j & 1 ? &v : &k, bar, tile.y + j / 2 * BLOCK, head / group);
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(232));
    int me = role - 1;
    u32 mine = stage + me * BYTES_BLOCK;
    auto arrived = [&](u32 n) { barrier_wait(full + 8 * (n % RING), n / RING & 1); };
    auto release = [&](u32 n) { if (lane == 0) barrier_arrive(empty + 8 * (n % RING)); };
    int item = begin < end ? plan[begin] : 0;
    int4 tile = tiles[item / heads];
    for (int i = begin; i < end; i++, turn ^= 1) {
        // Of the next one, on their way meanwhile.
        int coming = plan[min(i + 1, end - 1)];
        int4 next = tiles[coming / heads];
        int head = item % heads, blocks = blocks_of(tile), first = tile.x + BLOCK * me;
        // Keys that the last of these queries sees end with its own block; none where no query is left.
        int seen = first >= tile.z ? 0 : causal ? (first - tile.y) / BLOCK + 1 : blocks;
        u32 queries[STEPS][4];
        barrier_wait(q_full, turn);
        rows_of_tile(queries, of_q, BLOCK * me + 16 * warp);
        if (lane == 0) barrier_arrive(q_empty);
        // Rows lane / 4 and eight more: largest score, sum of what this lane has.
        float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
        float out[HEAD / 2], even[32], odd[32];
        #pragma unroll
        for (int c = 0; c < HEAD / 2; c++) out[c] = 0.f;
        auto of_keys = [&](float (&s)[32], u32 n) {
            arrived(n);
            pin(s);
            multiply_fence();
            all_scores(s, queries, ring + n % RING * BYTES_BLOCK);
            multiply_commit();
        };
        // Probabilities from scores, into the sums of values behind those that are under way.
        auto weigh_values = [&](float (&s)[32], u32 n, bool last) {
            u32 p[4][4];
            float before[2];
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                float now = most[h];
                #pragma unroll
                for (int c = 2 * h; c < 32; c += 4) now = fmaxf(now, fmaxf(s[c], s[c + 1]));
                now = fmaxf(now, __shfl_xor_sync(FULL, now, 1));
                now = fmaxf(now, __shfl_xor_sync(FULL, now, 2));
                before[h] = fast_exp2((most[h] - now) * scale);
                most[h] = now;
                float offset = -now * scale, total = 0.f;
                #pragma unroll
                for (int c = 2 * h; c < 32; c += 4) {
                    s[c] = fast_exp2(fmaf(s[c], scale, offset));
                    s[c + 1] = fast_exp2(fmaf(s[c + 1], scale, offset));
                    total += s[c] + s[c + 1];
                }
                sum[h] = fmaf(sum[h], before[h], total);
            }
            pack_scores(p, s);
            if (last) multiply_wait<0>(); else multiply_wait<1>();
            pin(out);
            if (n > at + 1) release(n - 2);
            #pragma unroll
            for (int c = 0; c < HEAD / 2; c++) out[c] *= before[c / 2 % 2];
            arrived(n);
            pin(out);
            multiply_fence();
            weigh_all(out, p, ring + n % RING * BYTES_BLOCK);
            multiply_commit();
        };
        auto block = [&](float (&s)[32], float (&next)[32], int j) {
            u32 n = at + 2 * j;
            of_keys(next, n + 2);
            weigh_values(s, n + 1, false);
            multiply_wait<1>();
            pin(next);
            release(n + 2);
        };
        // It has the mask: keys behind a query, or behind the sample. Row r of the block is query r of it.
        auto last_block = [&](float (&s)[32], int j) {
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                int last = causal ? 16 * warp + lane / 4 + 8 * h : tile.z - tile.y - j * BLOCK - 1;
                last -= 2 * (lane & 3);
                #pragma unroll
                for (int c = 2 * h; c < 32; c += 4) {
                    if (2 * c - 4 * h > last) s[c] = -INFINITY;
                    if (2 * c - 4 * h + 1 > last) s[c + 1] = -INFINITY;
                }
            }
            weigh_values(s, at + 2 * j + 1, true);
            multiply_wait<0>();
            pin(out);
            release(at + 2 * j + 1);
        };
        if (seen) {
            of_keys(even, at);
            multiply_wait<0>();
            pin(even);
            release(at);
            int j = 0;
            for (; j + 2 < seen; j += 2) {
                block(even, odd, j);
                block(odd, even, j + 1);
            }
            if (j + 1 < seen) {
                block(even, odd, j);
                last_block(odd, j + 1);
            } else {
                last_block(even, j);
            }
        }
        // What the other group alone sees.
        for (int n = 2 * seen; n < 2 * blocks; n++) {
            arrived(at + n);
            release(at + n);
        }
        at += 2 * blocks;
        float scales[2];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[h] + __shfl_xor_sync(FULL, sum[h], 1);
            total += __shfl_xor_sync(FULL, total, 2);
            scales[h] = 1.f / total;
            int row = 16 * warp + lane / 4 + 8 * h;
            // Rows behind the sample have no part in any sum of the backward pass.
            i64 place = (i64)head * padded + tile.w + (first - tile.y) + row;
            if (seen && lane % 4 == 0)
                lse[place] = first + row < tile.z ? fmaf(most[h], scale, __log2f(total)) : INFINITY;
        }
        store_rows(o + ((i64)first * heads + head) * HEAD, (i64)heads * HEAD, out, scales[0], scales[1], mine, first, tile.z);
        item = coming;
        tile = next;
    }
}
#endif
