// Patches of P x P pixels as rows of C P P elements, and back. A patch row of the image is the same run of
// elements on both sides, permuted in itself:
//   plain  [ky][pixel x][c]      (P image rows, W C elements apart)
//   packed [patch][c][ky][kx]    (C P P elements a patch)
// A block takes up to `group` neighbouring patches of a patch row through shared memory, so that both
// sides are read and written in order. P = 0 in a template: the size comes at run time.

struct Tile {
    int patches;   // patches of this tile
    i64 plain;     // first element of the tile in its first image row
    i64 packed;    // first element of the tile among the patches
};

// blockIdx.x = (patch row) tiles + tile
DEVICE Tile tile_of(int grid_w, int group, int tiles, int p, int c) {
    int row = blockIdx.x / tiles, first = blockIdx.x % tiles * group;
    i64 start = (i64)row * p * grid_w * p * c;
    Tile t;
    t.patches = min(group, grid_w - first);
    t.plain = start + (i64)first * p * c;
    t.packed = start + (i64)first * p * p * c;
    return t;
}

// One word of padding behind every 16, so that a stride of many words meets different banks.
DEVICE int padded(int i) { return i + i / (64 / (int)sizeof(T)) * (4 / (int)sizeof(T)); }

// V = 8: group P C and W C are multiples of 8 and the addresses aligned; else V = 1.
template <int P, int V>
DEVICE void pack(const T* __restrict__ x, T* __restrict__ y, int grid_w, int c, int group, int tiles, int patch) {
    extern __shared__ uint4 memory[];
    T* tile = (T*)memory;
    const int p = P ? P : patch;
    Tile t = tile_of(grid_w, group, tiles, p, c);
    int length = t.patches * p * c;
    i64 stride = (i64)grid_w * p * c;
    for (int i = threadIdx.x * V; i < length * p; i += blockDim.x * V) {
        const T* from = x + t.plain + i / length * stride + i % length;
        if (V == 8) {
            #pragma unroll
            for (int j = 0; j < (int)sizeof(T) / 2; j++) ((uint4*)(tile + i))[j] = ((const uint4*)from)[j];
        } else {
            tile[i] = *from;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x * V; i < length * p; i += blockDim.x * V) {
        // Element i of the packed tile: patch, channel, ky, kx.
        int kx = i % p, q = i / p, ky = q % p, ch = q / p, g = ch / c;
        ch -= g * c;
        float v[V];
        if (V == 8 && P == 2 && c % 2 == 0) {
            // Two neighbouring channels, four pixels each.
            #pragma unroll
            for (int j = 0; j < V; j++) v[j] = to_float(tile[j / 2 % 2 * length + (g * 2 + j % 2) * c + ch + j / 4]);
        } else {
            #pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] = to_float(tile[ky * length + (g * p + kx) * c + ch]);
                if (++kx == p) {
                    kx = 0;
                    if (++ky == p) {
                        ky = 0;
                        if (++ch == c) { ch = 0; g++; }
                    }
                }
            }
        }
        store_run(y + t.packed + i, v);
    }
}

template <int P, int V>
DEVICE void unpack(const T* __restrict__ y, T* __restrict__ x, int grid_w, int c, int group, int tiles, int patch) {
    extern __shared__ uint4 memory[];
    T* tile = (T*)memory;
    const int p = P ? P : patch;
    Tile t = tile_of(grid_w, group, tiles, p, c);
    int length = t.patches * p * c;
    i64 stride = (i64)grid_w * p * c;
    for (int i = threadIdx.x * V; i < length * p; i += blockDim.x * V) {
        if (V == 8) {
            // Four bytes at a time: padding moves a run off its alignment, but never inside a word.
            constexpr int each = 4 / sizeof(T);
            uint4 in[sizeof(T) / 2];
            #pragma unroll
            for (int j = 0; j < (int)sizeof(T) / 2; j++) in[j] = ((const uint4*)(y + t.packed + i))[j];
            #pragma unroll
            for (int j = 0; j < 8 / each; j++) *(u32*)(tile + padded(i + j * each)) = ((const u32*)in)[j];
        } else {
            tile[padded(i)] = y[t.packed + i];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x * V; i < length * p; i += blockDim.x * V) {
        // Element i of the plain tile: ky, pixel, channel.
        int ky = i / length, within = i % length, px = within / c, ch = within % c, g = px / p, kx = px - g * p;
        float v[V];
        if (V == 8 && c % 8 == 0) {
            int from = ((g * c + ch) * p + ky) * p + kx;
            #pragma unroll
            for (int j = 0; j < V; j++) v[j] = to_float(tile[padded(from + j * p * p)]);
        } else {
            #pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] = to_float(tile[padded(((g * c + ch) * p + ky) * p + kx)]);
                if (++ch == c) {
                    ch = 0;
                    if (++kx == p) { kx = 0; g++; }
                }
            }
        }
        store_run(x + t.plain + ky * stride + within, v);
    }
}

#define BOTH(P, V) \
    KERNEL pack_##P##_##V(const T* x, T* y, int grid_w, int c, int group, int tiles, int patch) { \
        pack<P, V>(x, y, grid_w, c, group, tiles, patch); \
    } \
    KERNEL unpack_##P##_##V(const T* y, T* x, int grid_w, int c, int group, int tiles, int patch) { \
        unpack<P, V>(y, x, grid_w, c, group, tiles, patch); \
    }
BOTH(2, 1) BOTH(2, 8) BOTH(4, 1) BOTH(4, 8) BOTH(14, 1) BOTH(14, 8) BOTH(0, 1) BOTH(0, 8)

// For patches that do not fit in shared memory: element by element in the order of the patches.
template <bool FORWARD> DEVICE void permute(const T* from, T* to, i64 n, int grid_w, int c, int p) {
    EACH(i, n) {
        i64 kx = i % p, q = i / p, ky = q % p;
        q /= p;
        i64 ch = q % c, patch = q / c, row = patch / grid_w, g = patch % grid_w;
        i64 plain = ((row * p + ky) * grid_w + g) * p * c + kx * c + ch;
        if (FORWARD) to[i] = from[plain]; else to[plain] = from[i];
    }
}
KERNEL pack_any(const T* x, T* y, i64 n, int grid_w, int c, int p) { permute<true>(x, y, n, grid_w, c, p); }
KERNEL unpack_any(const T* y, T* x, i64 n, int grid_w, int c, int p) { permute<false>(y, x, n, grid_w, c, p); }
