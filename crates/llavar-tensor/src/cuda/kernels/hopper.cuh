// What products of our own on Hopper are made of: barriers in shared memory, the copy unit (TMA), products of four
// warps together (wgmma).
//
// Rows of a product's tile in shared memory are lines of 128 bytes (64 elements) in the 128 B swizzle: sixteen-byte unit
// u of row r lies at u ^ (r % 8).

#if T_IS_BF16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

// As the driver encodes it.
struct alignas(64) TensorMap { u64 words[16]; };

DEVICE void barrier_init(u32 at, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(at), "r"(count) : "memory");
}
// Lets the copy unit see barriers that were initialised.
DEVICE void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives and says how many bytes are on their way.
DEVICE void barrier_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(at), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(at) : "memory");
}
// Arrives at the barrier that another block of the cluster has at this place.
DEVICE void barrier_arrive_in(u32 block, u32 at) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;"
        " mbarrier.arrive.shared::cluster.b64 _, [there]; }" :: "r"(at), "r"(block) : "memory");
}
DEVICE u32 rank_in_cluster() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// All threads of the cluster.
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");
}
DEVICE bool barrier_passed(u32 at, u32 parity) {
    u32 passed;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
        " selp.u32 %0, 1, 0, p; }" : "=r"(passed) : "r"(at), "r"(parity) : "memory");
    return passed;
}
// Waits for the end of the phase of this parity.
DEVICE void barrier_wait(u32 at, u32 parity) {
    while (!barrier_passed(at, parity)) {}
}

// A box of a matrix into shared memory, x along its rows; `at` takes the bytes.
DEVICE void load_box(u32 to, const TensorMap* map, u32 at, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        :: "r"(to), "l"(map), "r"(at), "r"(x), "r"(y) : "memory");
}
// The same into both blocks of a cluster of two, at the same place and for the same barrier in each.
DEVICE void load_box_for_both(u32 to, const TensorMap* map, u32 at, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;"
        :: "r"(to), "l"(map), "r"(at), "r"(x), "r"(y), "h"((u16)3) : "memory");
}
// The same of a tensor of three axes, and of four.
DEVICE void load_box(u32 to, const TensorMap* map, u32 at, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
        :: "r"(to), "l"(map), "r"(at), "r"(x), "r"(y), "r"(z) : "memory");
}
DEVICE void load_box(u32 to, const TensorMap* map, u32 at, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
        :: "r"(to), "l"(map), "r"(at), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}
DEVICE void store_box(const TensorMap* map, u32 from, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
        " cp.async.bulk.commit_group;"
        :: "l"(map), "r"(from), "r"(x), "r"(y) : "memory");
}
// Waits until shared memory of all but the last `LEFT` stores has been read.
template <int LEFT> DEVICE void stores_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" :: "n"(LEFT) : "memory");
}

// Four 8 x 8 matrices as they lie in a warp's accumulators; each lane names a row of one.
DEVICE void store_matrices(u32 at, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
        :: "r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Back from there.
DEVICE void load_matrices(u32 (&m)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
}

// The 128 threads of a group; id 0 is the whole block's.
DEVICE void group_barrier(int id) { asm volatile("bar.sync %0, 128;" :: "r"(id) : "memory"); }

// What wgmma is told of a matrix: address, 1,024 bytes from eight rows to the next, 128 B swizzle.
DEVICE u64 descriptor(u32 at) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
// The same of a matrix whose columns lie side by side, in boxes of 64 that are so many bytes apart.
DEVICE u64 descriptor_of_columns(u32 at, u32 apart) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)(apart >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
DEVICE void multiply_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> DEVICE void multiply_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
}
// Keeps the compiler from moving accumulators across.
template <int COUNT> DEVICE void pin(float (&d)[COUNT]) {
    #pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}

#define R8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
    "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

// d [64, n] += a [64, 16] b, by the four warps of a group together: `multiply` has b [n, 16] as a layer's weight lies,
// `multiply_columns` b [16, n] with its columns side by side, `multiply_of_columns` a [16, 64] too; n is 128 or 256. The
// last numbers of the instruction say which.
#define MULTIPLY_128(name, turned) \
DEVICE void name(float (&d)[64], u64 a, u64 b) { \
    asm volatile( \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
        "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, " \
        "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
        "%56, %57, %58, %59, %60, %61, %62, %63}, " \
        "%64, %65, 1, 1, 1, " turned ";" \
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40), R8(d, 48), R8(d, 56) \
        : "l"(a), "l"(b)); \
}
#define MULTIPLY_256(name, turned) \
DEVICE void name(float (&d)[128], u64 a, u64 b) { \
    asm volatile( \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
        "%128, %129, 1, 1, 1, " turned ";" \
        : R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24), R8(d, 32), R8(d, 40), R8(d, 48), R8(d, 56), R8(d, 64), \
          R8(d, 72), R8(d, 80), R8(d, 88), R8(d, 96), R8(d, 104), R8(d, 112), R8(d, 120) \
        : "l"(a), "l"(b)); \
}
MULTIPLY_128(multiply, "0, 0")
MULTIPLY_128(multiply_columns, "0, 1")
MULTIPLY_256(multiply, "0, 0")
MULTIPLY_256(multiply_columns, "0, 1")
MULTIPLY_256(multiply_of_columns, "1, 1")

// One of several, by value.
template <typename P, int COUNT> DEVICE P pick(P const (&all)[COUNT], int which) {
    P p = all[0];
    #pragma unroll
    for (int i = 1; i < COUNT; i++) p = which == i ? all[i] : p;
    return p;
}

// Place of tile t. Groups of GROUP rows of tiles; within a group down the rows first, so that blocks that run at one
// time share tiles of a and of b in L2.
template <int GROUP> DEVICE void place(int t, int rows, int columns, int& row, int& column) {
    int each = GROUP * columns, g = t / each, first = g * GROUP, size = min(GROUP, rows - first);
    t -= g * each;
    column = t / size;
    row = first + t - column * size;
}
#endif

