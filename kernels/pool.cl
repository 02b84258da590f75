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

#ifdef AVERAGE
#define START 0.0f
#else
#define START (-INFINITY)
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
//                average does not count, or -1 if it counts the taps inside the image; three unused
__kernel void pool2d(TENSOR(x), TENSOR(y), const int8 image, const int8 rows, const int8 columns,
                     const float alpha, const float beta) {
    const int height = image.s1, width = image.s2, channels = image.s3;
    const int out_w = image.s5, run = image.s6;
    const int n = get_global_id(2) / image.s4, oh = get_global_id(2) % image.s4;
    const int first = get_global_id(1) * run, last = min(first + run, out_w);
    const int row = oh * rows.s1 - rows.s3;
    const int kh0 = first_tap(row, rows.s2);
    const int kh1 = taps_before(row, height, rows.s0, rows.s2);
    const int counted_h = rows.s4 < 0 ? kh1 - kh0 : taps_before(row, rows.s4, rows.s0, rows.s2);
    __global const S *image_x = AT(const S, x) + n * height * width * channels;
    __global S *yp = AT(S, y) + (get_global_id(2) * out_w + first) * channels;
    for (int ow = first; ow < last; ow++, yp += channels) {
        const int column = ow * columns.s1 - columns.s3;
        const int kw0 = first_tap(column, columns.s2);
        const int kw1 = taps_before(column, width, columns.s0, columns.s2);
        const int counted_w = columns.s4 < 0
            ? kw1 - kw0 : taps_before(column, columns.s4, columns.s0, columns.s2);
        const int step = columns.s2 * channels;
        for (int i = get_global_id(0) * VEC; i < channels; i += get_global_size(0) * VEC) {
            const int c = min(i, channels - VEC);
            F result = (F)(START);
            for (int kh = kh0; kh < kh1; kh++) {
                __global const S *xp = image_x + c
                    + ((row + kh * rows.s2) * width + column + kw0 * columns.s2) * channels;
                F part = (F)(START);  // a row at a time: long sums stay exact to more digits
                for (int kw = kw0; kw < kw1; kw++, xp += step) {
#ifdef AVERAGE
                    part += LOADV(xp);
#else
                    part = fmax(part, LOADV(xp));
#endif
                }
#ifdef AVERAGE
                result += part;
#else
                result = fmax(result, part);
#endif
            }
#ifdef AVERAGE
            result /= (float)max(counted_h, 1) * (float)max(counted_w, 1);
#endif
            const F x = result;
            STOREV(ACTIVATE(x), yp + c);
        }
    }
}
