// Gradients of the 7 x 7 filters and of the bias by the tensor cores.
//
// Of one channel, sixteen rows of x times eight rows of dy, which begin three rows further down and are moved by s
// columns, are a 16 x 8 product whose k runs along the columns: its entry (a, c) belongs to row a - c and column 6 - s
// of the filter. Seven such products, each with sums of its own, make all 49 taps. Sums stay in registers until the
// last tile; then those of the same a - c are added, in order.
// Nothing is turned: a lane reads four channels of a pixel as they lie, and makes the pairs of pixels that products
// want of two such reads. Which pixel is which k is free as long as x and dy agree; a lane takes neighbours, because
// then it has six of the eight pixels of dy that the next two of x meet.
//
// A block stays with its channels and walks through tiles, of which the next two are on their way. Two pixels meet in
// the tile that has the row of dy's and the column of x's: x has its halo above and below, dy to the left and right.
// What is not finite in x meets zeros beside the image, and in dy those that keep the biases of two channels apart: it
// gives NaN there too.

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GRAD_ROWS 16        // of dy, two groups of eight: the lower and the upper half of k
#define GRAD_COLUMNS 24     // of x: of four lanes, three pairs of pixels each
#define GRAD_STAGES 3       // tiles that have arrived or are on their way
// Pixels of a row as it arrives, one more than needed: of an odd number, so that rows begin in different banks.
#define X_LINE (GRAD_COLUMNS + 1)
#define DY_LINE (GRAD_COLUMNS + 7)
#define GRAD_PAIRS (GRAD_COLUMNS / 8)
#define X_PIXELS ((GRAD_ROWS + 6) * X_LINE)
#define DY_PIXELS (GRAD_ROWS * DY_LINE)
#define PRODUCT (16 * 8 + 2) // words from a product to the next, so many that they begin in different banks

// [pixel, 8 channels] as `arriving_place` has it. Of 24 rows of x that lanes read, the last two are what lies behind:
// they are in entries (14, c) and (15, c) alone, which belong to no tap.
struct GradTile {
    alignas(ALIGNMENT) uint4 x[X_PIXELS * 4];
    alignas(ALIGNMENT) uint4 dy[DY_PIXELS * 4];
};
struct GradMemory {
    GradTile tiles[GRAD_STAGES];
    // Barriers of the copy unit, and of the warps that are done with a tile.
    u64 arrived[GRAD_STAGES], done[GRAD_STAGES];
};
// The same memory in the end.
struct GradSums {
    float products[WARPS][7 * PRODUCT]; // of a channel at a time
    float out[50][CHANNELS + 1];
};
static_assert(sizeof(GradSums) <= sizeof(GradMemory), "the sums take the place of the tiles");

// Starts copying tile t with its halos; zeros outside of the image.
DEVICE void start_grad_tile(GradMemory& m, const TensorMap* x, const TensorMap* dy, int t, int across, int down, int c0,
                            int stage) {
    int left = t % across * GRAD_COLUMNS, top = t / across % down * GRAD_ROWS, n = t / across / down;
    u32 barrier = shared_address(&m.arrived[stage]);
    barrier_expect(barrier, (X_PIXELS + DY_PIXELS) * CHANNELS * 2);
    load_box(shared_address(m.tiles[stage].x), x, barrier, c0, left, top - 3, n);
    load_box(shared_address(m.tiles[stage].dy), dy, barrier, c0, left - 3, top, n);
}

// Of four channels of two pixels, the two pixels of each channel.
DEVICE void pair_pixels(u32 (&to)[4], uint2 first, uint2 second) {
    to[0] = __byte_perm(first.x, second.x, 0x5410);
    to[1] = __byte_perm(first.x, second.x, 0x7632);
    to[2] = __byte_perm(first.y, second.y, 0x5410);
    to[3] = __byte_perm(first.y, second.y, 0x7632);
}

// part [gridDim.x, 50, C]: gradients of the 49 filter taps and of the bias over the tiles that a block walks through,
// blockIdx.x, blockIdx.x + gridDim.x, .. of N images; blockIdx.y: CHANNELS channels. x and dy by their maps, boxes of
// (GRAD_ROWS + 6) x X_LINE and GRAD_ROWS x DY_LINE pixels x CHANNELS.
KERNEL __launch_bounds__(32 * WARPS, 1)
conv7_weight_grad_hopper(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, float* part, int N,
                         int H, int W, int C) {
    extern __shared__ char memory[];
    char* aligned = memory + (-shared_address(memory) & (ALIGNMENT - 1));
    GradMemory& m = *(GradMemory*)aligned;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c0 = blockIdx.y * CHANNELS;
    int across = (W + GRAD_COLUMNS - 1) / GRAD_COLUMNS, down = (H + GRAD_ROWS - 1) / GRAD_ROWS;
    int tiles = N * across * down;
    if (threadIdx.x == 0) {
        #pragma unroll
        for (int stage = 0; stage < GRAD_STAGES; stage++) {
            barrier_init(shared_address(&m.arrived[stage]), 1);
            barrier_init(shared_address(&m.done[stage]), WARPS);
        }
        barriers_made();
        for (int stage = 0; stage < GRAD_STAGES; stage++) {
            int t = blockIdx.x + stage * gridDim.x;
            if (t < tiles) start_grad_tile(m, &x, &dy, t, across, down, c0, stage);
        }
    }
    __syncthreads();

    // Bytes from a tile's begin to the lane's pixels: it has row lane / 4 of every eight, and of those the pixels from
    // 6 (lane % 4) on. Eight rows or eight pixels further the order of channels is the same again.
    int row = lane / 4, column = lane % 4 * (2 * GRAD_PAIRS);
    int x_place[2 * GRAD_PAIRS], dy_place[8];
    #pragma unroll
    for (int p = 0; p < 2 * GRAD_PAIRS; p++)
        x_place[p] = arriving_place(row * X_LINE + column + p, warp / 2) * 16 + warp % 2 * 8;
    #pragma unroll
    for (int p = 0; p < 8; p++)
        dy_place[p] = arriving_place(row * DY_LINE + column + p, warp / 2) * 16 + warp % 2 * 8;

    float sums[4][7][4], bias[2][4];
    #pragma unroll
    for (int e = 0; e < 4; e++) {
        #pragma unroll
        for (int k = 0; k < 4; k++)
            #pragma unroll
            for (int s = 0; s < 7; s++) sums[k][s][e] = 0.f;
        bias[0][e] = bias[1][e] = 0.f;
    }
    // Ones in the first eight rows or in the others add up one channel beside another.
    u32 ones[2][4];
    #pragma unroll
    for (int k = 0; k < 2; k++)
        #pragma unroll
        for (int e = 0; e < 4; e++) {
            ones[k][e] = e % 2 == k ? 0x3f803f80 : 0;
            // Or else they are made anew for every product.
            asm volatile("" : "+r"(ones[k][e]));
        }
    int stage = 0;
    u32 parity = 0;
    #pragma unroll 1
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        barrier_wait(shared_address(&m.arrived[stage]), parity);
        // The first lane of all may have been away for the next tile.
        __syncwarp();
        const char *xs = (const char*)m.tiles[stage].x, *dys = (const char*)m.tiles[stage].dy;
        // Pixels p and p + 1 of dy, of both groups of rows and of four channels, at p % 7; the last pixel so far.
        u32 pairs[7][2][4];
        uint2 last[2];
        #pragma unroll
        for (int g = 0; g < 2; g++) last[g] = *(const uint2*)(dys + dy_place[0] + g * (8 * DY_LINE * CHANNELS * 2));
        #pragma unroll
        for (int step = 0; step < GRAD_PAIRS; step++) {
            // Eight rows of x each; the middle ones are below the first group and beside the second.
            u32 rows[3][4];
            #pragma unroll
            for (int b = 0; b < 3; b++) {
                const char* from = xs + b * (8 * X_LINE * CHANNELS * 2);
                uint2 first = *(const uint2*)(from + x_place[2 * step]);
                pair_pixels(rows[b], first, *(const uint2*)(from + x_place[2 * step + 1]));
            }
            #pragma unroll
            for (int s = 0; s < 7; s++) {
                int p = 2 * step + s;
                u32 (&dy_pair)[2][4] = pairs[p % 7];
                if (step == 0 || s >= 5) {
                    #pragma unroll
                    for (int g = 0; g < 2; g++) {
                        int further = (p + 1) / 8 * 8 + g * (8 * DY_LINE);
                        uint2 next = *(const uint2*)(dys + dy_place[(p + 1) % 8] + further * (CHANNELS * 2));
                        pair_pixels(dy_pair[g], last[g], next);
                        last[g] = next;
                    }
                }
                #pragma unroll
                for (int k = 0; k < 4; k++) {
                    u32 a[4] = {rows[0][k], rows[1][k], rows[1][k], rows[2][k]};
                    multiply_add(sums[k][s], a, dy_pair[0][k], dy_pair[1][k]);
                }
                // Not moved against x: every pixel of dy once.
                if (s == 3) {
                    #pragma unroll
                    for (int k = 0; k < 4; k++) multiply_add(bias[k / 2], ones[k % 2], dy_pair[0][k], dy_pair[1][k]);
                }
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(shared_address(&m.done[stage]));
        int next = t + GRAD_STAGES * gridDim.x;
        if (threadIdx.x == 0 && next < tiles) {
            barrier_wait(shared_address(&m.done[stage]), parity);
            start_grad_tile(m, &x, &dy, next, across, down, c0, stage);
        }
        if (++stage == GRAD_STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }

    // No tile is read any more, and none is on its way.
    __syncthreads();
    GradSums& end = *(GradSums*)aligned;
    float* products = end.products[warp];
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        #pragma unroll
        for (int s = 0; s < 7; s++)
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                float* to = products + s * PRODUCT + (row + half * 8) * 8 + lane % 4 * 2;
                *(float2*)to = make_float2(sums[k][s][half * 2], sums[k][s][half * 2 + 1]);
            }
        float b = bias[k / 2][k % 2 * 2] + bias[k / 2][k % 2 * 2 + 1];
        b += __shfl_xor_sync(FULL, b, 1);
        b += __shfl_xor_sync(FULL, b, 2);
        if (lane == 0) end.out[49][warp * 4 + k] = b;
        __syncwarp();
        // Four rows of taps at a time: five would meet in the banks.
        if (lane < 28)
            #pragma unroll
            for (int tap = lane; tap < 49; tap += 28) {
                const float* from = products + (6 - tap % 7) * PRODUCT + tap / 7 * 8;
                float sum = 0.f;
                #pragma unroll
                for (int c = 0; c < 8; c++) sum += from[c * 9];
                end.out[tap][warp * 4 + k] = sum;
            }
        __syncwarp();
    }
    __syncthreads();
    if (c0 + lane < C)
        for (int tap = warp; tap < 50; tap += WARPS)
            part[(blockIdx.x * 50ll + tap) * C + c0 + lane] = end.out[tap][lane];
}
#endif
