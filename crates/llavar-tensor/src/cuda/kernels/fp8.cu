// FP8 copies of a tensor: as it lies and transposed, under one scale (fp8.rs has the formats).

// scale[1] = bits of the largest magnitude, which is 0 before. As integers, so that NaN counts as the largest,
// and the order in which blocks arrive does not matter. n is a multiple of 8.
KERNEL fp8_largest(const T* x, u32* scale, i64 n) {
    __shared__ u32 part[8];
    u32 most = 0;
    EACH(i, n / 8) {
        float v[8];
        load8(x + i * 8, v);
        #pragma unroll
        for (int j = 0; j < 8; j++) most = max(most, __float_as_uint(v[j]) & 0x7fffffffu);
    }
    #pragma unroll
    for (int o = 16; o; o >>= 1) most = max(most, __shfl_xor_sync(FULL, most, o));
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = most;
    __syncthreads();
    if (threadIdx.x == 0) {
        #pragma unroll
        for (int w = 1; w < 8; w++) most = max(most, part[w]);
        atomicMax(scale + 1, most);
    }
}

DEVICE float power_of_two(int e) { return __uint_as_float((u32)(127 + e) << 23); }

// Exponent of the scale: the largest magnitude comes into the topmost binade, which ends at 1.75 * 2^top.
DEVICE int shift(u32 largest, int top) {
    if (largest == 0 || largest >= 0x7f800000u) return 0;
    int binade = (int)(largest >> 23) - 127;
    int e = top - binade - ((largest & 0x7fffffu) > 0x600000u);
    return min(max(e, -126), 126);
}

// Four values, the first in the lowest byte. Only cards from 8.9 on have the conversion; others are never asked.
DEVICE u32 pack4(const float* v, int wide) {
#if __CUDA_ARCH__ >= 890
    u16 a, b;
    if (wide) {
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(a) : "f"(v[1]), "f"(v[0]));
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(b) : "f"(v[3]), "f"(v[2]));
    } else {
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(a) : "f"(v[1]), "f"(v[0]));
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(b) : "f"(v[3]), "f"(v[2]));
    }
    return (u32)a | (u32)b << 16;
#else
    return 0;
#endif
}

// Of x [rows, columns]: plain [rows, columns] and transposed [columns, padded], each where it is given, with
// zeros behind the last row; and scale[0], by which a product with them is multiplied. Columns and padded are
// multiples of 16. One block a tile of 128 x 128, 256 threads. wide: e5m2, else e4m3.
KERNEL fp8_copies(const T* x, u8* plain, u8* transposed, float* scale, int rows, int columns, int padded, int wide) {
    // Four columns a word. The word's place is turned with the group of 16 rows, so that both sides of the
    // transposition meet no bank twice.
    __shared__ __align__(8) u32 tile[128 * 32];
    u32 largest = __float_as_uint(scale[1]);
    int e = shift(largest, wide ? 15 : 8);
    float factor = power_of_two(e);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        // What is not finite makes products NaN, as it would in bf16.
        scale[0] = largest < 0x7f800000u ? power_of_two(-e) : __uint_as_float(0x7fc00000u);
    }
    int row0 = blockIdx.y * 128, column0 = blockIdx.x * 128;
    int j = threadIdx.x & 15, column = column0 + j * 8;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        int r = i * 16 + (threadIdx.x >> 4), row = row0 + r;
        uint2 bytes = make_uint2(0, 0);
        if (row < rows && column < columns) {
            i64 at = (i64)row * columns + column;
            float v[8];
            load8(x + at, v);
            #pragma unroll
            for (int l = 0; l < 8; l++) v[l] *= factor;
            bytes = make_uint2(pack4(v, wide), pack4(v + 4, wide));
            if (plain) *(uint2*)(plain + at) = bytes;
        }
        *(uint2*)(tile + r * 32 + (2 * j ^ 4 * (r >> 4))) = bytes;
    }
    if (!transposed) return;
    __syncthreads();
    int lane = threadIdx.x & 31;
    int group = lane & 7, word = (threadIdx.x >> 5) * 4 + (lane >> 3);
    column = column0 + word * 4;
    int first = row0 + group * 16;
    if (column >= columns || first >= padded) return;
    u32 out[4][4];
    #pragma unroll
    for (int q = 0; q < 4; q++) {
        u32 w[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) w[i] = tile[(group * 16 + q * 4 + i) * 32 + (word ^ 4 * group)];
        u32 a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140);
        u32 c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
        out[0][q] = __byte_perm(a, b, 0x5410);
        out[1][q] = __byte_perm(a, b, 0x7632);
        out[2][q] = __byte_perm(c, d, 0x5410);
        out[3][q] = __byte_perm(c, d, 0x7632);
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 bytes = make_uint4(out[i][0], out[i][1], out[i][2], out[i][3]);
        *(uint4*)(transposed + (i64)(column + i) * padded + first) = bytes;
    }
}
