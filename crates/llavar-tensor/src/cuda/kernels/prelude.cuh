// In front of every source. T is the type of activations and weights of this compilation: float, or bf16
// stored as 16 bits. All arithmetic is in f32. No headers are included, so that NVRTC alone suffices.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
#define FULL 0xffffffffu
#define INFINITY __int_as_float(0x7f800000)

struct bf16 { u16 bits; };

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Two floats to two bf16 (round to nearest even), the first in the low half.
DEVICE u32 pack2(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
DEVICE float low_half(u32 x) { return __uint_as_float(x << 16); }
DEVICE float high_half(u32 x) { return __uint_as_float(x & 0xffff0000u); }

DEVICE void store(float* p, float x) { *p = x; }
DEVICE void store(bf16* p, float x) {
    u16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    p->bits = r;
}

#if T_IS_BF16
typedef bf16 T;
#else
typedef float T;
#endif

// Eight elements at once; p is aligned to 16 bytes.
DEVICE void load8(const float* p, float (&v)[8]) {
    float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
    v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
    v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
}
DEVICE void load8(const bf16* p, float (&v)[8]) {
    uint4 a = *(const uint4*)p;
    v[0] = low_half(a.x); v[1] = high_half(a.x); v[2] = low_half(a.y); v[3] = high_half(a.y);
    v[4] = low_half(a.z); v[5] = high_half(a.z); v[6] = low_half(a.w); v[7] = high_half(a.w);
}
DEVICE void store8(float* p, const float (&v)[8]) {
    *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4*)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
DEVICE void store8(bf16* p, const float (&v)[8]) {
    *(uint4*)p = make_uint4(pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
}

// The same for kernels that are written once for runs of eight elements and of one (odd sizes).
template <typename E> DEVICE void load_run(const E* p, float (&v)[8]) { load8(p, v); }
template <typename E> DEVICE void load_run(const E* p, float (&v)[1]) { v[0] = to_float(*p); }
template <typename E> DEVICE void store_run(E* p, const float (&v)[8]) { store8(p, v); }
template <typename E> DEVICE void store_run(E* p, const float (&v)[1]) { store(p, v[0]); }

// Whether a pointer allows accesses of eight elements.
template <typename E> DEVICE bool aligned8(const E* p) { return ((u64)p & (sizeof(E) == 2 ? 15 : 15)) == 0; }

DEVICE float warp_sum(float v) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}
DEVICE float warp_max(float v) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
    return v;
}

// Sum over the block in a fixed order; every thread gets it. Blocks of whole warps, at most 1024 threads.
DEVICE float block_sum(float v) {
    __shared__ float part[33];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float t = warp_sum(lane < warps ? part[lane] : 0.f);
        if (lane == 0) part[32] = t;
    }
    __syncthreads();
    return part[32];
}
DEVICE float block_max(float v) {
    __shared__ float part[33];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        float t = warp_max(lane < warps ? part[lane] : -INFINITY);
        if (lane == 0) part[32] = t;
    }
    __syncthreads();
    return part[32];
}

// Loop of a thread over n items in strides of the grid.
#define EACH(i, n) \
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)

DEVICE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
