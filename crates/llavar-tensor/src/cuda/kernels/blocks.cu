// Copies of blocks with a stride on either side, in units of 16 or of 2 bytes.

template <typename U>
DEVICE void copy_blocks(const U* x, U* y, i64 count, i64 width, i64 x_stride, i64 y_stride) {
    EACH(i, count * width) {
        i64 block = i / width, at = i - block * width;
        y[block * y_stride + at] = x[block * x_stride + at];
    }
}
KERNEL copy_blocks_16(const uint4* x, uint4* y, i64 count, i64 width, i64 x_stride, i64 y_stride) {
    copy_blocks(x, y, count, width, x_stride, y_stride);
}
KERNEL copy_blocks_2(const u16* x, u16* y, i64 count, i64 width, i64 x_stride, i64 y_stride) {
    copy_blocks(x, y, count, width, x_stride, y_stride);
}
