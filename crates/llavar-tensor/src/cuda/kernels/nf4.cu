// Weights of 4 bits to activations' type: codes as nf4.rs has them, eight elements a thread.

__constant__ float CODES[16] = {
    -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f};

template <typename S> DEVICE void decode(const u32* codes, S scale_of, T* out, i64 n) {
    __shared__ float values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = CODES[threadIdx.x];
    __syncthreads();
    EACH(w, (n + 7) / 8) {
        u32 word = codes[w];
        i64 at = w * 8;
        float scale = scale_of(at / 64), v[8];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 byte = word >> (8 * (i / 2));
            v[i] = scale * values[i % 2 ? byte & 15 : byte >> 4 & 15];
        }
        if (at + 8 <= n && aligned8(out)) store8(out + at, v);
        else for (int i = 0; i < 8 && at + i < n; i++) store(out + at + i, v[i]);
    }
}

struct Plain {
    const float* scales;
    DEVICE float operator()(i64 block) const { return scales[block]; }
};
struct Double {
    const u8* codes;
    const float* groups;
    const float* map;
    float mean;
    // Two roundings, as on the CPU, where a fused operation would have one.
    DEVICE float operator()(i64 block) const {
        return __fadd_rn(__fmul_rn(map[codes[block]], groups[block / 256]), mean);
    }
};

KERNEL nf4_plain(const u32* codes, const float* scales, T* out, i64 n) {
    decode(codes, Plain{scales}, out, n);
}
KERNEL nf4_double(const u32* codes, const u8* scales, const float* groups, const float* map, float mean, T* out,
                  i64 n) {
    decode(codes, Double{scales, groups, map, mean}, out, n);
}
