// Bits of real numbers: bit c % 32 of word c / 32 of y is 1 where x >= 0; those past the last
// channel are 0.
//
// T_fp32, T_fp16: x. A work-item does `run` rows. Global size (ceil(rows / run)).

// x [rows, n], `channels` elements apart; y [rows][ceil(n / 32)].
__kernel void binarize(TENSOR(x), TENSOR(y), const int run, const int rows, const int n,
                       const int channels) {
    const int words = (n + 31) / 32;
    for (int row = get_global_id(0) * run; row < min((int)get_global_id(0) * run + run, rows);
         row++) {
        __global const S *from = AT(const S, x) + row * channels;
        __global uint *to = AT(uint, y) + row * words;
        for (int w = 0; w < words; w++) {
            const int some = min(32, n - 32 * w);
            int8 bits = (int8)(0);
            int k = 0;
            uint word = 0;
            for (; k + 8 <= some; k += 8)
                bits |= (LOAD8(0, from + 32 * w + k) >= 0.0f ? (int8)(1) : (int8)(0)) << k;
            for (; k < some; k++)
                word |= (uint)(LOAD(32 * w + k, from) >= 0.0f) << k;
            bits <<= (int8)(0, 1, 2, 3, 4, 5, 6, 7);
            const int4 half_of = bits.lo | bits.hi;
            to[w] = word | as_uint(half_of.s0 | half_of.s1 | half_of.s2 | half_of.s3);
        }
    }
}
