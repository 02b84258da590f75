// Depthwise 2-D convolution: every output channel reads one input channel.
//
// y[n, oy, ox, o] = ACTIVATE(bias[o] + residual[n, oy, ox, o]
//                   + sum over ky, kx of w[ky, kx, o]
//                     * x[n, oy * stride_h - pad_top + ky * dilation_h,
//                            ox * stride_w - pad_left + kx * dilation_w, o / multiplier])
// where x outside the image is 0.
//
// A work-item computes ROWS rows of P pixels times `run` output channels, VEC at a time. Its pixels
// are apart.s0 rows and apart.s1 columns from each other. Global size (ceil(out_c / run),
// tiles of columns, n * tiles of rows), where the tiles of an axis of out_size are
// apart * ceil(ceil(out_size / apart) / tile). The last vector of channels is shifted back so that
// it ends at out_c: elements may be computed twice, so y must not share bytes with the residual.
//
// P, ROWS: 1 and up; ROWS above 1 only with TAPS, and apart.s0 * stride_h = STRIDE * dilation_h.
// VEC:     1, 2, 4, 8 or 16 channels, at most out_c.
// TAPS:    0, or the width of the kernel: a pixel of x is then loaded once for all of its taps,
//          also of other rows. Only where apart.s1 * stride_w = STRIDE * dilation_w.
// STRIDE:  1 and up, see TAPS.
// MULTIPLIED: defined where multiplier is not 1.

#ifndef P
#define P 4
#endif
#ifndef ROWS
#define ROWS 1
#endif
#ifndef TAPS
#define TAPS 0
#endif
#ifndef STRIDE
#define STRIDE 1
#endif
#if VEC == 1
#define VLOAD(p) (*(p))
#else
#define VLOAD(p) GLUE(vload, VEC)(0, p)
#endif

// Input channels of VEC output channels; `phase` is the first output channel modulo the multiplier.
#ifdef MULTIPLIED
F load_x(__global const S *p, const int multiplier, const int phase) {
    float lanes[VEC];
    for (int k = 0; k < VEC; k++)
        lanes[k] = LOAD((phase + k) / multiplier, p);
    return VLOAD(lanes);
}
#else
#define load_x(p, multiplier, phase) LOADV(p)
#endif

// The sums over one row of x, whose pixels for this work-item start at `xp` in column `left`.
// INSIDE is whether the pixel in column `ix` exists. It is row `ky` of the kernel for the first row
// of y.
#if TAPS > 0
#define COLUMNS ((P - 1) * STRIDE + TAPS)
#define ADD_ROW(INSIDE)                                                                       \
    {                                                                                         \
        F pixel[COLUMNS];                                                                     \
        int ix = left;                                                                        \
        _Pragma("unroll")                                                                     \
        for (int i = 0; i < COLUMNS; i++, ix += dilation_w, xp += step)                       \
            pixel[i] = INSIDE ? load_x(xp, multiplier, phase) : (F)(0);                       \
        _Pragma("unroll")                                                                     \
        for (int r = 0; r < ROWS; r++) {                                                      \
            if (ROWS > 1 && (uint)(ky - r * STRIDE) >= (uint)kernel_h) continue;              \
            __global const S *wp = weights + (ky - r * STRIDE) * kernel_w * out_c;            \
            _Pragma("unroll")                                                                 \
            for (int kx = 0; kx < TAPS; kx++, wp += out_c) {                                  \
                const F weight = LOADV(wp);                                                   \
                _Pragma("unroll")                                                             \
                for (int p = 0; p < P; p++)                                                   \
                    acc[r * P + p] = fma(pixel[p * STRIDE + kx], weight, acc[r * P + p]);     \
            }                                                                                 \
        }                                                                                     \
    }
#else
#define ADD_ROW(INSIDE)                                                                       \
    {                                                                                         \
        __global const S *wp = weights + ky * kernel_w * out_c;                               \
        for (int kx = 0; kx < kernel_w; kx++, wp += out_c, xp += step) {                      \
            const F weight = LOADV(wp);                                                       \
            __global const S *from = xp;                                                      \
            int ix = left + kx * dilation_w;                                                  \
            _Pragma("unroll")                                                                 \
            for (int p = 0; p < P; p++, ix += spacing, from += jump)                          \
                if (INSIDE) acc[p] = fma(load_x(from, multiplier, phase), weight, acc[p]);    \
        }                                                                                     \
    }
#endif

// Output index at which a tile of `size`, `apart` from each other, starts.
int start_of(const int tile, const int size, const int apart) {
    return tile / apart * size * apart + tile % apart;
}

// x [n, height, width, out_c / multiplier]; w [kernel_h, kernel_w, out_c]; bias [out_c] fp32;
// residual, y [n, out_h, out_w, out_c]. Pixels of x, residual and y lie row_x, row_residual and
// row_y elements apart. A bias whose flag is 0 is not read, nor a residual if row_residual is 0.
__kernel void depthwise(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(residual), TENSOR(y),
                        const int has_bias, const int row_x, const int row_residual,
                        const int row_y, const int run, const int tiles, const int4 apart,
                        const int height, const int width, const int out_h, const int out_w,
                        const int out_c, const int multiplier,
                        const int kernel_h, const int kernel_w,
                        const int stride_h, const int stride_w,
                        const int dilation_h, const int dilation_w, const int pad_top,
                        const int pad_left, const float alpha, const float beta) {
    const int first = get_global_id(0) * run, last = min(first + run, out_c);
    const int n = get_global_id(2) / tiles;
    const int ox = start_of(get_global_id(1), P, apart.s1);
    const int oy = start_of(get_global_id(2) - n * tiles, ROWS, apart.s0);
    if (oy >= out_h || ox >= out_w) return;  // the last tile of some phases of `apart`
    const int top = oy * stride_h - pad_top, left = ox * stride_w - pad_left;
    const int step = dilation_w * row_x;
    const int spacing = apart.s1 * stride_w, jump = spacing * row_x;
    const int count = min(P, (out_w - 1 - ox) / apart.s1 + 1);
    const int rows = min(ROWS, (out_h - 1 - oy) / apart.s0 + 1);
    const bool wide = count == P && left >= 0
        && left + (P - 1) * spacing + (kernel_w - 1) * dilation_w < width;
    // rows of the kernel, and more of them for further rows of y, that meet the image
    const int ky0 = top < 0 ? (dilation_h - 1 - top) / dilation_h : 0;
    const int ky1 = top < height
        ? min((rows - 1) * STRIDE + kernel_h, (height - 1 - top) / dilation_h + 1) : 0;

    for (int at = first; at < last; at += VEC) {
        const int c = min(at, out_c - VEC), from = c / multiplier, phase = c - from * multiplier;
        F acc[ROWS * P];
        const F start = has_bias ? VLOAD(AT(const float, bias) + c) : (F)(0);
        #pragma unroll
        for (int p = 0; p < ROWS * P; p++)
            acc[p] = start;

        __global const S *line = AT(const S, x) + from
            + ((n * height + top + ky0 * dilation_h) * width + left) * row_x;
        __global const S *weights = AT(const S, w) + c;
        for (int ky = ky0; ky < ky1; ky++, line += dilation_h * width * row_x) {
            __global const S *xp = line;
            if (wide)
                ADD_ROW(true)
            else
                ADD_ROW((uint)ix < (uint)width)
        }

        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int to = (n * out_h + oy + r * apart.s0) * out_w + ox;
            __global const S *more = AT(const S, residual) + to * row_residual + c;
            __global O *yp = AT(O, y) + to * row_y + c;
            #pragma unroll
            for (int p = 0; p < P; p++)
                if (r < rows && p < count) {
                    F x = acc[r * P + p];
                    if (row_residual)
                        x += LOADV(more + p * apart.s1 * row_residual);
                    STOREV(ACTIVATE(x), yp + p * apart.s1 * row_y);
                }
        }
    }
}
