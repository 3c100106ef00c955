// Rows of one tensor to rows of another, in units of U.
template <typename U>
DEVICE void copy_row(const U* from, U* to, i64 units) {
    for (i64 i = threadIdx.x; i < units; i += blockDim.x) to[i] = from[i];
}

// to[to_rows[i]] = from[from_rows[i]] for i < gridDim.x; without a list, row i. No row is written twice.
KERNEL copy_rows(const u16* from, const int* from_rows, u16* to, const int* to_rows, i64 width) {
    const i64 i = blockIdx.x;
    from += (from_rows ? from_rows[i] : i) * width;
    to += (to_rows ? to_rows[i] : i) * width;
    if (aligned8((const bf16*)from) && aligned8((const bf16*)to) && width % 8 == 0)
        copy_row((const uint4*)from, (uint4*)to, width / 8);
    else
        copy_row(from, to, width);
}
