// Tensor-core building blocks: products of 16 x 16 and 16 x 8 in bf16 with f32 sums, and copies to shared
// memory that run beside the arithmetic. Shared by every kernel that multiplies tiles of its own.
//
// Lane l of a warp holds, of a 16 x 8 result, (row l / 4, columns 2 (l % 4) and one more) and the same eight
// rows below.

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&m)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}
// The same, each matrix transposed.
DEVICE void load_matrices_turned(u32 (&m)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)) : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8].
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts a copy of 16 bytes to shared memory; zeros where not `inside`, and nothing is read then.
DEVICE void start_copy16(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
// Until the copies that this thread has started are done; others see them behind a barrier.
DEVICE void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Ends a group of copies; waits for all groups but the last ones.
DEVICE void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LAST> DEVICE void await_copies_but() { asm volatile("cp.async.wait_group %0;" ::"n"(LAST) : "memory"); }

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
