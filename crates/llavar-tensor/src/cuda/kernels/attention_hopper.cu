// Attention for Hopper: o = softmax(scale q k^T) v within samples, causal or not, and the logarithm of each row's sum.
//
// One group of warps copies (a tile of 192 queries, blocks of 64 keys and of their values in a ring), three have 64
// queries each. Probabilities go from accumulators into the next product; while the softmax of a block is worked on, the
// values of the one before are weighed, and other groups multiply.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Groups that multiply, their queries, entries of the ring.
constexpr int GROUPS = 3, ROWS = GROUPS * BLOCK, BYTES_ROWS = ROWS * HEAD * 2, ENTRIES = HEAD == 128 ? 4 : 8;

KERNEL __launch_bounds__(128 * (GROUPS + 1), 1) attention_hopper(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, T* o,
    float* lse, const int* plan, const int4* tiles, int heads, int group, int padded, float scale, int causal) {
    extern __shared__ char memory[];
    u32 of_q = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    u32 stage = of_q + BYTES_ROWS, entries = stage + BYTES_ROWS;
    Ring<ENTRIES, 4 * GROUPS> ring(entries + ENTRIES * BYTES_BLOCK);
    Ring<1, 4 * GROUPS> tile_ring(ring.empty + 8 * ENTRIES);
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    int role = __shfl_sync(FULL, threadIdx.x >> 7, 0);
    if (threadIdx.x == 0) {
        ring.make();
        tile_ring.make();
        barriers_made();
    }
    __syncthreads();
    int begin = plan[blockIdx.x], end = plan[blockIdx.x + 1];
    // Entries of the ring since the start: keys of block j and their values are at + 2 j and one more.
    u32 at = 0, turn = 0;

    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(32));
        if (threadIdx.x == 0) {
            for (int i = begin; i < end; i++, turn++) {
                int item = plan[i], head = item % heads;
                int4 tile = tiles[item / heads];
                load_tokens(of_q, &q, tile_ring.fill(turn, BYTES_ROWS), tile.x, head);
                for (int j = 0, blocks = blocks_of<ROWS>(tile, causal); j < 2 * blocks; j++, at++) {
                    u32 bar = ring.fill(at, BYTES_BLOCK), to = entries + at % ENTRIES * BYTES_BLOCK;
                    load_tokens(to, j & 1 ? &v : &k, bar, tile.y + j / 2 * BLOCK, head / group);
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(160));
    int me = role - 1;
    u32 mine = stage + me * BYTES_BLOCK;
    int item = begin < end ? plan[begin] : 0;
    int4 tile = tiles[item / heads];
    for (int i = begin; i < end; i++, turn++) {
        // Of the next one, on their way meanwhile.
        int coming = plan[min(i + 1, end - 1)];
        int4 next = tiles[coming / heads];
        int head = item % heads, blocks = blocks_of<ROWS>(tile, causal), first = tile.x + BLOCK * me;
        // Keys that the last of these queries sees end with its own block; none where no query is left.
        int seen = first >= tile.z ? 0 : causal ? (first - tile.y) / BLOCK + 1 : blocks;
        tile_ring.arrived(turn);
#if HEAD < 128
        u32 queries[STEPS][4];
        rows_of_tile<ROWS>(queries, of_q, BLOCK * me + 16 * warp);
        __syncwarp();
        tile_ring.release(turn);
#else
        u64 queries = describe(of_q + BLOCK * LINE * me, 16);
#endif
        // Rows lane / 4 and eight more: largest score, sum of what this lane has, what sums so far are scaled by.
        float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, before[2], out[HEAD / 2], s[32];
        u32 p[4][4];
        #pragma unroll
        for (int c = 0; c < HEAD / 2; c++) out[c] = 0.f;
        auto of_keys = [&](u32 n) {
            ring.arrived(n);
            pin(s);
            multiply_fence();
            all_scores<ROWS>(s, queries, entries + n % ENTRIES * BYTES_BLOCK);
            multiply_commit();
        };
        auto of_values = [&](u32 n) {
            ring.arrived(n);
            pin(out);
            multiply_fence();
            weigh_all(out, p, entries + n % ENTRIES * BYTES_BLOCK);
            multiply_commit();
        };
        // The last block has the mask.
        auto mask = [&] { mask_block(s, causal, tile.z - tile.y - (seen - 1) * BLOCK); };
        auto softmax = [&] {
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
        };
        if (seen) {
            of_keys(at);
            multiply_wait<0>();
            pin(s);
            ring.release(at);
            if (seen == 1) mask();
            softmax();
            pack_scores(p, s);
            for (int j = 1; j < seen; j++) {
                u32 n = at + 2 * j;
                of_keys(n);
                of_values(n - 1);
                multiply_wait<1>();
                pin(s);
                ring.release(n);
                if (j + 1 == seen) mask();
                softmax();
                multiply_wait<0>();
                pin(out);
                ring.release(n - 1);
                pack_scores(p, s);
                #pragma unroll
                for (int c = 0; c < HEAD / 2; c++) out[c] *= before[c / 2 % 2];
            }
            of_values(at + 2 * seen - 1);
            multiply_wait<0>();
            pin(out);
            ring.release(at + 2 * seen - 1);
        }
#if HEAD == 128
        tile_ring.release(turn);
#endif
        // What other groups alone see.
        for (int n = 2 * seen; n < 2 * blocks; n++) {
            ring.arrived(at + n);
            ring.release(at + n);
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
