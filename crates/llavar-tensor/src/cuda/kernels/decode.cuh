// Shared by the kernels of a decoding step.
//
// The kernels of one step may overlap (programmatic dependent launch): each starts while the one before it
// ends, asks for what nobody writes during the step (weights, past keys and values), and calls
// `await_previous` before it touches anything else. What an earlier kernel of the step wrote is read with
// `fresh`, from L2: L1 may still hold what was there before.

DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until everything that came before this kernel is done and visible.
DEVICE void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE float fresh(const float* p) {
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}
DEVICE float fresh(const bf16* p) {
    u16 v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return __uint_as_float((u32)v << 16);
}

DEVICE uint4 stream16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
DEVICE uint4 fresh16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

// Eight elements as they lie in memory; addresses are multiples of 16 bytes.
struct Eight { uint4 part[sizeof(T) / 2]; };

DEVICE Eight eight_zeros() {
    Eight e;
    #pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) e.part[i] = make_uint4(0, 0, 0, 0);
    return e;
}
// Read once by the whole grid and written by nobody during the step.
DEVICE Eight stream8(const T* p) {
    Eight e;
    #pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) e.part[i] = stream16((const uint4*)p + i);
    return e;
}
DEVICE Eight fresh8(const T* p) {
    Eight e;
    #pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) e.part[i] = fresh16((const uint4*)p + i);
    return e;
}
DEVICE void widen(const Eight& e, float (&v)[8]) {
#if T_IS_BF16
    const uint4 a = e.part[0];
    v[0] = low_half(a.x); v[1] = high_half(a.x); v[2] = low_half(a.y); v[3] = high_half(a.y);
    v[4] = low_half(a.z); v[5] = high_half(a.z); v[6] = low_half(a.w); v[7] = high_half(a.w);
#else
    const uint4 a = e.part[0], b = e.part[1];
    v[0] = __uint_as_float(a.x); v[1] = __uint_as_float(a.y); v[2] = __uint_as_float(a.z); v[3] = __uint_as_float(a.w);
    v[4] = __uint_as_float(b.x); v[5] = __uint_as_float(b.y); v[6] = __uint_as_float(b.z); v[7] = __uint_as_float(b.w);
#endif
}
DEVICE Eight narrow(const float (&v)[8]) {
    Eight e;
#if T_IS_BF16
    e.part[0] = make_uint4(pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
#else
    e.part[0] = make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
    e.part[1] = make_uint4(__float_as_uint(v[4]), __float_as_uint(v[5]), __float_as_uint(v[6]), __float_as_uint(v[7]));
#endif
    return e;
}

// As it would come back from memory.
DEVICE float rounded(float x) {
#if T_IS_BF16
    return low_half(pack2(x, 0.f));
#else
    return x;
#endif
}

// Weight rows that lie in up to three matrices, one behind the other.
struct Rows {
    const T *w0, *w1, *w2;
    int end0, end1;
    DEVICE const T* at(int r, int k) const {
        if (r < end0) return w0 + (i64)r * k;
        if (r < end1) return w1 + (i64)(r - end0) * k;
        return w2 + (i64)(r - end1) * k;
    }
};

#if T_IS_BF16
// c [16, 8] += a [16, 16] b [16, 8] on tensor cores; a lane gives pairs of elements.
DEVICE void multiply(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif
