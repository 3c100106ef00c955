// Bytes of RGB pictures to the values of a table of 3 x 256 levels.

// Four pixels a thread: three words of bytes. rgb has room for whole words.
KERNEL pixels(const u32* rgb, const float* levels, T* out, i64 n) {
    __shared__ float table[768];
    for (int i = threadIdx.x; i < 768; i += blockDim.x) table[i] = levels[i];
    __syncthreads();
    EACH(i, (n + 11) / 12) {
        i64 first = i * 12;
        #pragma unroll
        for (int w = 0; w < 3; w++) {
            if (first + w * 4 >= n) break;
            u32 word = rgb[i * 3 + w];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                i64 at = first + w * 4 + j;
                if (at < n) store(out + at, table[(w * 4 + j) % 3 * 256 + (word >> (8 * j) & 255)]);
            }
        }
    }
}
