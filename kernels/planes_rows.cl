// What kernels over bit planes read of activations: every row of x as words of 32 elements, in an
// order that suits the decoder (planes.cl) or the counter (planes_count.cl), and the row's sum.
//
// A segment is one row of one group: `words` times UNITS ints, then one int, the sum over k of
// x_k - zero. Of each word of 32 elements x_0 .. x_31, those past the last of the row as if they
// were the zero point:
//   decoder, T_uint8: int j holds x_j, x_8+j, x_16+j, x_24+j, a byte each
//   decoder, T_int16: the same of the low bytes of x + 32768, then of the high ones
//   BITS:             int j holds bit j of x - zero of all 32; of T_int16 16 bits, of T_uint8 8, or
//                     with SIGNED the 9 bits of differences from a zero point that is not 0
// A row of zeros (of zero points) may follow the last one, for taps outside the image.
//
// UNITS: ints of a word, 8, 9 or 16 as said.
// PATCHES: a row is what one output pixel sees, its taps one after the other; without it, a pixel
//          of x.

#ifndef UNITS
#define UNITS 8
#endif

// Bit j of all bytes b of w_i becomes bit i of byte b of w_j, for the words w_0 .. w_7.
#define LOWER(a, b, s, mask) (((a) & (mask)) | (((b) << (s)) & ~(mask)))
#define UPPER(a, b, s, mask) ((((a) >> (s)) & (mask)) | ((b) & ~(mask)))
uint8 transposed(const uint8 w) {
    const uint4 a = w.even, b = w.odd;  // rows 0 2 4 6, and 1 3 5 7
    const uint4 even = LOWER(a, b, 1, 0x55555555u), odd = UPPER(a, b, 1, 0x55555555u);
    const uint4 c = (uint4)(even.even, odd.even), d = (uint4)(even.odd, odd.odd);  // 0 4 1 5, +2
    const uint4 near = LOWER(c, d, 2, 0x33333333u), far = UPPER(c, d, 2, 0x33333333u);
    const uint4 e = (uint4)(near.even, far.even), f = (uint4)(near.odd, far.odd);  // 0 1 2 3, +4
    return (uint8)(LOWER(e, f, 4, 0x0F0F0F0Fu), UPPER(e, f, 4, 0x0F0F0F0Fu));
}

// One byte each of four runs of eight elements.
uint8 interleaved(const uint8 a, const uint8 b, const uint8 c, const uint8 d) {
    return a | b << 8 | c << 16 | d << 24;
}

// Writes one word of 32 elements; returns the sums of what was read, in eight parts.
int8 put(const S *part, const int zero, __global uint *out) {
    const int8 a = convert_int8(vload8(0, part)), b = convert_int8(vload8(1, part)),
        c = convert_int8(vload8(2, part)), d = convert_int8(vload8(3, part));
    const int8 sum = a + b + c + d;
#ifdef BITS
#define SHIFTED(v) as_uint8((v) - zero)
#elif defined(T_int16)
#define SHIFTED(v) as_uint8((v) + 32768)
#else
#define SHIFTED(v) as_uint8(v)
#endif
    const uint8 p = SHIFTED(a), q = SHIFTED(b), r = SHIFTED(c), s = SHIFTED(d);
    const uint8 low = interleaved(p & 255u, q & 255u, r & 255u, s & 255u);
#ifdef BITS
#define ORDER(words) transposed(words)
#else
#define ORDER(words) (words)
#endif
    vstore8(ORDER(low), 0, out);
#ifdef T_int16
    vstore8(ORDER(interleaved(p >> 8 & 255u, q >> 8 & 255u, r >> 8 & 255u, s >> 8 & 255u)), 1,
            out);
#elif defined(SIGNED)
    const uint8 one = interleaved(p >> 31, q >> 31, r >> 31, s >> 31)
        << (uint8)(0, 1, 2, 3, 4, 5, 6, 7);
    const uint4 two = one.lo | one.hi;
    out[8] = two.s0 | two.s1 | two.s2 | two.s3;
#endif
    return sum;
}

// Copies n elements, or as many times `value` if x is not `there`.
void copy_some(__global const S *x, const int n, const bool there, const S value, S *part) {
    int k = 0;
    if (!there) {
        for (; k < n; k++)
            part[k] = value;
        return;
    }
    for (; k + 8 <= n; k += 8)
        vstore8(vload8(0, x + k), 0, part + k);
    for (; k < n; k++)
        part[k] = x[k];
}

// Takes n elements into `part`, which is written whenever it is full.
#define TAKE(x, n, there)                                                                          \
    for (int taken = 0; taken < (n);) {                                                            \
        const int some = min(32 - filled, (n) - taken);                                            \
        copy_some((x) + taken, some, there, (S)(zero), part + filled);                             \
        taken += some;                                                                             \
        filled += some;                                                                            \
        if (filled == 32) {                                                                        \
            sum += put(part, zero, out) - zero * 4;                                                \
            out += UNITS;                                                                          \
            filled = 0;                                                                            \
        }                                                                                          \
    }

// x [n, height, width], pixels `channels` elements apart, in groups of in_c; rows [count or one
// more][groups][words * UNITS + 1]. A work-item does `run` rows of one group. `first`: the first
// row's number; `count`: rows, behind which those of zeros follow.
// Global size (ceil(rows / run), groups).
__kernel void planes_rows(TENSOR(x), TENSOR(rows), const int run, const int first, const int count,
                          const int all, const int words, const int zero, const int height,
                          const int width, const int channels, const int in_c, const int out_h,
                          const int out_w, const int kernel_h, const int kernel_w,
                          const int stride_h, const int stride_w, const int dilation_h,
                          const int dilation_w, const int pad_top, const int pad_left) {
    const int group = get_global_id(1), groups = get_global_size(1), from = get_global_id(0) * run;
    const int segment = words * UNITS + 1;
    __global const S *image = AT(const S, x) + group * in_c;
    for (int row = from; row < min(from + run, all); row++) {
        __global uint *out = AT(uint, rows) + (row * groups + group) * segment;
        __global int *end = (__global int *)out + segment - 1;
        S part[32];
        int8 sum = (int8)(0);
        int filled = 0;
#ifdef PATCHES
        const int pixel = first + row, ox = pixel % out_w, oy = pixel / out_w % out_h;
        const int n = pixel / out_w / out_h;
        const int top = oy * stride_h - pad_top, left = ox * stride_w - pad_left;
        // the taps of a row lie side by side, and in the image
        const bool joined = dilation_w == 1 && channels == in_c && left >= 0
            && left + kernel_w <= width;
        const int runs = joined ? 1 : kernel_w, length = joined ? kernel_w * in_c : in_c;
        for (int ky = 0; ky < kernel_h; ky++) {
            const int down = top + ky * dilation_h;
            for (int kx = 0; kx < runs; kx++) {
                const int right = left + kx * dilation_w;
                const bool there = (uint)down < (uint)height && (uint)right < (uint)width;
                TAKE(image + (there ? ((n * height + down) * width + right) * channels : 0), length,
                     there)
            }
        }
#else
        TAKE(image + (row < count ? row : 0) * channels, in_c, row < count)
#endif
        if (filled > 0) {
            const int rest = 32 - filled;
            TAKE(image, rest, false)
        }
        const int4 s4 = sum.lo + sum.hi;
        *end = s4.s0 + s4.s1 + s4.s2 + s4.s3;
    }
}
