// Pooling of NHWC images.
//
// y[n, oh, ow, c] = ACTIVATE(max or average over the taps (kh, kw) that lie inside the image of
//                            x[n, oh * stride - pad + kh * dilation, ...w..., c])
//
// x [N, H, W, C], y [N, OH, OW, C]
// Global size (channel vectors that work at once, ceil(OW / run), N * OH); a work-item takes `run`
// neighbouring columns and every get_global_size(0)-th vector of VEC channels, VEC <= C. The last
// vector ends at the last channel, so two work-items may write the same values there.
//
// AVERAGE: the average instead of the maximum.
// TAPS: 0, or the width of the window, for windows whose columns all lie inside the image.
// T_uint8, T_int16: x and y are quantized, on the same grid for a maximum; instead of ACTIVATE the
// result is clamped.

#if defined(T_uint8) || defined(T_int16)
#define INTEGER
#include "integer.cl"
#define LARGER max
#define LEAST (-32768)
#else
#define LARGER fmax
#define LEAST (-INFINITY)
#endif
#ifndef TAPS
#define TAPS 0
#endif
#ifdef AVERAGE
#define START 0
#define JOIN(a, b) ((a) + (b))
#else
#define START LEAST
#define JOIN(a, b) LARGER((a), (b))
#endif

#if defined(INTEGER) && defined(AVERAGE)
#if VEC == 1
#define I_OF (int)
#define F_OF (float)
#else
#define I_OF GLUE(convert_int, VEC)
#define F_OF GLUE(convert_float, VEC)
#endif

// a / c, halves away from 0. The estimate misses by 1 at most, where the quotient is below 2^17.
I divide(const I a, const int c) {
    const I n = (a < 0 ? -a : a) + c / 2;
    I q = I_OF(F_OF(n) * (1.0f / (float)c));
    const I left = n - q * c;
    q = left < 0 ? q - 1 : left >= c ? q + 1 : q;
    return a < 0 ? -q : q;
}

// a / c, halves away from 0, or so that the result plus `base` is even.
I mean(const I a, const int c, const int even, const int base) {
    const I q = divide(a, c), left = a - q * c;
    const I odd = ((left == c - left) | (left == -c - left)) ? (q + base) & even : (I)(0);
    return left < 0 ? q - odd : q + odd;
}
#endif

// First tap at or behind the image's first row, for a window that starts at row `start`.
int first_tap(const int start, const int dilation) {
    return start < 0 ? (dilation - 1 - start) / dilation : 0;
}

// Number of taps of the window before row `end`, at most `kernel_size`.
int taps_before(const int start, const int end, const int kernel_size, const int dilation) {
    return start < end ? min(kernel_size, (end - 1 - start) / dilation + 1) : 0;
}

// image: N, H, W, C, OH, OW, run, 0
// rows, columns: kernel, stride, dilation, pad before, first row (column) that the divisor of an
//                average does not count, or -1 if it counts the taps inside the image; of rows the
//                elements from a pixel of x to the next, and of y; unused
// steps: zero point of x; m0, t of what a step of x is in steps of y, times 2^bits, or if x and y
//        have one grid 1 to round halves to even, 0; bits; zero point, least, largest integer of y;
//        the integer that an average of one grid rounds halves away from. A maximum needs the
//        bounds only.
__kernel void pool2d(TENSOR(x), TENSOR(y), const int8 image, const int8 rows, const int8 columns,
#ifdef INTEGER
                     const int8 steps) {
#else
                     const float alpha, const float beta) {
#endif
    const int height = image.s1, width = image.s2, channels = image.s3;
    const int out_w = image.s5, run = image.s6, row_x = rows.s5, row_y = rows.s6;
    const int n = get_global_id(2) / image.s4, oh = get_global_id(2) % image.s4;
    const int first = get_global_id(1) * run, last = min(first + run, out_w);
    const int row = oh * rows.s1 - rows.s3;
    const int kh0 = first_tap(row, rows.s2);
    const int kh1 = taps_before(row, height, rows.s0, rows.s2);
    const int counted_h = rows.s4 < 0 ? kh1 - kh0 : taps_before(row, rows.s4, rows.s0, rows.s2);
    __global const S *image_x = AT(const S, x) + n * height * width * row_x;
    __global S *yp = AT(S, y) + (get_global_id(2) * out_w + first) * row_y;
    for (int ow = first; ow < last; ow++, yp += row_y) {
        const int column = ow * columns.s1 - columns.s3;
        const int kw0 = first_tap(column, columns.s2);
        const int kw1 = taps_before(column, width, columns.s0, columns.s2);
        const int counted_w = columns.s4 < 0
            ? kw1 - kw0 : taps_before(column, columns.s4, columns.s0, columns.s2);
        const int step = columns.s2 * row_x;
        for (int i = get_global_id(0) * VEC; i < channels; i += get_global_size(0) * VEC) {
            const int c = min(i, channels - VEC);
            F result = (F)(START);
            __global const S *line = image_x + c
                + ((row + kh0 * rows.s2) * width + column + kw0 * columns.s2) * row_x;
            for (int kh = kh0; kh < kh1; kh++, line += rows.s2 * width * row_x) {
                __global const S *xp = line;
                F part = (F)(START);  // a row at a time: long sums stay exact to more digits
#if TAPS > 0
                if (kw1 - kw0 == TAPS) {
                    #pragma unroll
                    for (int kw = 0; kw < TAPS; kw++, xp += step) part = JOIN(part, LOADV(xp));
                } else
#endif
                for (int kw = kw0; kw < kw1; kw++, xp += step) part = JOIN(part, LOADV(xp));
                result = JOIN(result, part);
            }
#if defined(INTEGER)
#ifdef AVERAGE
            const int counted = max(counted_h, 1) * max(counted_w, 1);
            const int taps = max(kh1 - kh0, 0) * max(kw1 - kw0, 0);
            if (steps.s2)
                result = steps.s4 + divide(requantizev(result - taps * steps.s0, (I)(steps.s1),
                                                       (I)(steps.s2)), counted << steps.s3);
            else
                result = steps.s7 + mean(result + (counted - taps) * steps.s0
                                         - counted * steps.s7, counted, steps.s1, steps.s7);
#endif
            STOREV(saturate(result, (I)(steps.s5), (I)(steps.s6)), yp + c);
#else
#ifdef AVERAGE
            result /= (float)max(counted_h, 1) * (float)max(counted_w, 1);
#endif
            const F x = result;
            STOREV(ACTIVATE(x), yp + c);
#endif
        }
    }
}
