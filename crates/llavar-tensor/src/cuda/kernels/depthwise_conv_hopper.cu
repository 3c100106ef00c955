// Depthwise 7 x 7 convolution of [N, H, W, C] in bf16 by the tensor cores, stride 1, zero padding; C a multiple of 8.
//
// Of one channel and one row of its filter, eight outputs in a row are sixteen pixels times a 16 x 8 matrix that has
// the seven taps along its diagonals. A warp keeps these matrices of its four channels in registers. Products want the
// pixels of a channel side by side, and memory has the channels of a pixel so: a tile is turned in shared memory.
// A block stays with its channels and walks through tiles of 16 x 16 pixels; while it works on one, the copy unit
// fetches the next, which leaves the ways to shared memory to the warps. What is not finite reaches a few outputs more
// than its filter does: it meets zeros beside the diagonals.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIDE 16             // rows and columns of a tile
#define SPAN (SIDE + 6)     // the same with halo
#define CHANNELS 32         // of a block
#define WARPS (CHANNELS / 4)
#define ALIGNMENT 512       // of what the swizzle sees
#define LINE 12             // words of a row of a plane: 24 pixels, of which the last two are 0
#define PLANE 268           // words of a channel's plane; so many that eight planes begin in different banks

struct Memory {
    uint4 arriving[SPAN * SPAN * 4];        // [pixel, 8 channels]
    u32 planes[CHANNELS * PLANE];           // [channel, row, 2 pixels]
    u32 out[SIDE * SIDE * CHANNELS / 2];    // [pixel, 2 channels]
    u64 arrived;                            // the copy unit's barrier
};
// Where eight channels of a pixel of the halo'd tile lie: those of eight pixels in a row in different banks.
DEVICE int arriving_place(int pixel, int eight) { return pixel * 4 + (eight ^ (pixel >> 1 & 3)); }
// Where eight channels of a pixel of the tile lie, and what the order of their pairs is turned by.
DEVICE int out_place(int row, int column, int eight) { return ((row * SIDE + (column ^ (row >> 2 & 1))) * 4 + (eight ^ (row & 3))) * 4; }
DEVICE int out_order(int column) { return column >> 1 & 3; }

DEVICE u32 add_pairs(u32 a, u32 b) { return pack2(low_half(a) + low_half(b), high_half(a) + high_half(b)); }

// A walk through the tiles of all images in steps of the grid; a tile begins at pixel (top, left) of image n. Divisions
// are for its start alone.
struct Walk {
    int n, top, left, step_n, step_top, step_left, end_top, end_left;
    DEVICE Walk(int H, int W) {
        int across = (W + SIDE - 1) / SIDE, down = (H + SIDE - 1) / SIDE;
        end_top = down * SIDE;
        end_left = across * SIDE;
        left = blockIdx.x % across * SIDE;
        top = blockIdx.x / across % down * SIDE;
        n = blockIdx.x / across / down;
        step_left = gridDim.x % across * SIDE;
        step_top = gridDim.x / across % down * SIDE;
        step_n = gridDim.x / across / down;
    }
    DEVICE void step() {
        left += step_left;
        top += step_top;
        n += step_n;
        if (left >= end_left) {
            left -= end_left;
            top += SIDE;
        }
        if (top >= end_top) {
            top -= end_top;
            n++;
        }
    }
};

// Starts copying a tile with its halo; zeros outside of the image. The copy unit's 64 B swizzle is that of
// `arriving_place`.
DEVICE void start_tile(Memory& m, const TensorMap* x, const Walk& at, int c0) {
    u32 barrier = shared_address(&m.arrived);
    barrier_expect(barrier, sizeof(m.arriving));
    load_box(shared_address(m.arriving), x, barrier, c0, at.left - 3, at.top - 3, at.n);
}

// y = added + bias + correlation of x with w [C, 49], turned by 180 degrees for the gradient of the input; bias and
// added may be null. x by its map, boxes of SPAN x SPAN pixels x CHANNELS. Grid: blocks that share the tiles of N images, groups of
// CHANNELS channels.
KERNEL __launch_bounds__(32 * WARPS, 2)
conv7_hopper(const __grid_constant__ TensorMap x, const bf16* w, const bf16* bias, const bf16* added, bf16* y, int N, int H, int W, int C, int turned) {
    extern __shared__ char memory[];
    Memory& m = *(Memory*)(memory + (-shared_address(memory) & (ALIGNMENT - 1)));
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c0 = blockIdx.y * CHANNELS;
    Walk next(H, W);
    if (next.n >= N) return;
    u32 barrier = shared_address(&m.arrived), parity = 0;
    if (threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barriers_made();
        start_tile(m, &x, next, c0);
    }

    // The matrices: lane l has rows 2 (l % 4), the next one, and the same 8 below, of column l / 4.
    const unsigned short* taps = (const unsigned short*)m.planes;
    for (int i = threadIdx.x; i < CHANNELS * 49 / 8; i += 32 * WARPS)
        ((uint4*)m.planes)[i] = i * 8 < (C - c0) * 49 ? ((const uint4*)(w + c0 * 49))[i] : make_uint4(0, 0, 0, 0);
    __syncthreads();
    u32 band[4][7][2];
    float start[4];
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        int c = warp * 4 + k;
        start[k] = bias && c0 + c < C ? to_float(bias[c0 + c]) : 0.f;
        #pragma unroll
        for (int i = 0; i < 7; i++)
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                u32 v[2];
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    int tap = 2 * (lane % 4) + e + 8 * half - lane / 4, at = i * 7 + tap;
                    v[e] = tap >= 0 && tap < 7 ? taps[c * 49 + (turned ? 48 - at : at)] : 0;
                }
                band[k][i][half] = v[0] | v[1] << 16;
            }
    }
    // The filters have been read.
    __syncthreads();
    #pragma unroll 1
    while (next.n < N) {
        int n = next.n, top = next.top, left = next.left;
        next.step();
        barrier_wait(barrier, parity);
        parity ^= 1;
        // Nobody reads the planes: the barrier in front of the writing is behind all products. A warp turns whole rows.
        #pragma unroll 1
        for (int row = warp; row < SPAN; row += WARPS) {
            u32 lines[3][4];
            #pragma unroll
            for (int block = 0; block < 3; block++) {
                int pixel = row * SPAN + min(block * 8 + lane % 8, SPAN - 1);
                load_matrices_turned(lines[block], &m.arriving[arriving_place(pixel, lane / 8)]);
            }
            u32* to = m.planes + lane / 4 * PLANE + row * LINE + lane % 4;
            #pragma unroll
            for (int block = 0; block < 3; block++)
                #pragma unroll
                for (int k = 0; k < 4; k++) to[k * 8 * PLANE + block * 4] = block == 2 && lane % 4 == 3 ? 0 : lines[block][k];
        }
        __syncthreads();
        if (threadIdx.x == 0 && next.n < N) start_tile(m, &x, next, c0);
        #pragma unroll
        for (int k = 0; k < 4; k += 2) {
            // Lane l names row l % 8 of matrix l / 8: rows and eight rows below, of the first eight pixels and of the
            // second; the third eight of two filter rows at a time (of a row behind the plane in the end, not used).
            const u32* rows = m.planes + (warp * 4 + k) * PLANE + (lane & 15) * LINE + (lane >> 4) * 4;
            const u32* third = m.planes + (warp * 4 + k) * PLANE + ((lane & 15) + (lane >> 4)) * LINE + 8;
            float sums[2][2][4];
            u32 last[2][4];
            #pragma unroll
            for (int j = 0; j < 2; j++)
                #pragma unroll
                for (int half = 0; half < 2; half++)
                    #pragma unroll
                    for (int e = 0; e < 4; e++) sums[j][half][e] = start[k + j];
            #pragma unroll
            for (int i = 0; i < 7; i++)
                #pragma unroll
                for (int j = 0; j < 2; j++) {
                    u32 a[4];
                    load_matrices(a, rows + j * PLANE + i * LINE);
                    if (i % 2 == 0) load_matrices(last[j], third + j * PLANE + i * LINE);
                    u32 b[4] = {a[2], a[3], last[j][i % 2 * 2], last[j][i % 2 * 2 + 1]};
                    multiply_add(sums[j][0], a, band[k + j][i][0], band[k + j][i][1]);
                    multiply_add(sums[j][1], b, band[k + j][i][0], band[k + j][i][1]);
                }
            #pragma unroll
            for (int half = 0; half < 2; half++)
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    int row = lane / 4 + e / 2 * 8, column = half * 8 + 2 * (lane % 4) + e % 2, pair = warp * 2 + k / 2;
                    m.out[out_place(row, column, pair / 4) + (pair % 4 ^ out_order(column))] = pack2(sums[0][half][e], sums[1][half][e]);
                }
        }
        __syncthreads();
        int eight = threadIdx.x % 4, column = threadIdx.x / 4 % SIDE, first = threadIdx.x / 64;
        i64 place = (((i64)n * H + top + first) * W + left + column) * C + c0 + eight * 8;
        bool inside = left + column < W && c0 + eight * 8 < C;
        uint4 other[SIDE / (WARPS / 2)];
        if (added)
            #pragma unroll
            for (int k = 0; k < SIDE / (WARPS / 2); k++)
                if (inside && top + first + k * (WARPS / 2) < H) other[k] = *(const uint4*)(added + place + (i64)(k * (WARPS / 2) * W) * C);
        #pragma unroll
        for (int k = 0; k < SIDE / (WARPS / 2); k++) {
            int row = first + k * (WARPS / 2);
            uint4 q = *(uint4*)&m.out[out_place(row, column, eight)];
            if (out_order(column) & 1) q = make_uint4(q.y, q.x, q.w, q.z);
            if (out_order(column) & 2) q = make_uint4(q.z, q.w, q.x, q.y);
            if (added) {
                q = make_uint4(add_pairs(q.x, other[k].x), add_pairs(q.y, other[k].y),
                               add_pairs(q.z, other[k].z), add_pairs(q.w, other[k].w));
            }
            if (inside && top + row < H) *(uint4*)(y + place + (i64)(k * (WARPS / 2) * W) * C) = q;
        }
    }
}

#endif
