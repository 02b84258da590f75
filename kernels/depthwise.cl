// Depthwise 2-D convolution: every output channel reads one input channel.
//
// y[n, oy, ox, o] = ACTIVATE(bias[o] + residual[n, oy, ox, o]
//                   + sum over ky, kx of w[ky, kx, o]
//                     * x[n, oy * stride_h - pad_top + ky * dilation_h,
//                            ox * stride_w - pad_left + kx * dilation_w, o / multiplier])
// where x outside the image is 0.
//
// A work-item computes P neighbouring pixels of a row times `run` output channels, VEC at a time.
// Global size (ceil(out_c / run), ceil(out_w / P), n * out_h). The last vector of channels is
// shifted back so that it ends at out_c: elements may be computed twice, so y must not share bytes
// with the residual.
//
// P:   1 and up.
// VEC: 1, 2, 4, 8 or 16 channels, at most out_c.
// MULTIPLIED: defined where multiplier is not 1.

#ifndef P
#define P 4
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

// x [n, height, width, out_c / multiplier]; w [kernel_h, kernel_w, out_c]; bias [out_c] fp32;
// residual, y [n, out_h, out_w, out_c]. A bias or residual whose flag is 0 is not read.
__kernel void depthwise(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(residual), TENSOR(y),
                        const int has_bias, const int has_residual, const int run,
                        const int height, const int width, const int out_h, const int out_w,
                        const int out_c, const int multiplier,
                        const int kernel_h, const int kernel_w,
                        const int stride_h, const int stride_w,
                        const int dilation_h, const int dilation_w, const int pad_top,
                        const int pad_left, const float alpha, const float beta) {
    const int first = get_global_id(0) * run, last = min(first + run, out_c);
    const int ox = get_global_id(1) * P, row = get_global_id(2), n = row / out_h;
    const int top = (row - n * out_h) * stride_h - pad_top, left = ox * stride_w - pad_left;
    const int in_c = out_c / multiplier, count = min(P, out_w - ox);
    const bool wide = count == P && left >= 0
        && left + (P - 1) * stride_w + (kernel_w - 1) * dilation_w < width;

    for (int at = first; at < last; at += VEC) {
        const int c = min(at, out_c - VEC), from = c / multiplier, phase = c - from * multiplier;
        F acc[P];
        const F start = has_bias ? VLOAD(AT(const float, bias) + c) : (F)(0);
        #pragma unroll
        for (int p = 0; p < P; p++)
            acc[p] = start;

        for (int ky = 0; ky < kernel_h; ky++) {
            const int iy = top + ky * dilation_h;
            if ((uint)iy >= (uint)height)
                continue;
            __global const S *line = AT(const S, x) + (n * height + iy) * width * in_c + from;
            __global const S *wp = AT(const S, w) + ky * kernel_w * out_c + c;
            for (int kx = 0; kx < kernel_w; kx++) {
                const F weight = LOADV(wp + kx * out_c);
                const int ix = left + kx * dilation_w;
                if (wide) {
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        acc[p] = fma(load_x(line + (ix + p * stride_w) * in_c, multiplier, phase),
                                     weight, acc[p]);
                } else {
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        if (p < count && (uint)(ix + p * stride_w) < (uint)width)
                            acc[p] = fma(
                                load_x(line + (ix + p * stride_w) * in_c, multiplier, phase),
                                weight, acc[p]);
                }
            }
        }

        #pragma unroll
        for (int p = 0; p < P; p++)
            if (p < count) {
                const int to = (row * out_w + ox + p) * out_c + c;
                F x = acc[p];
                if (has_residual)
                    x += LOADV(AT(const S, residual) + to);
                STOREV(ACTIVATE(x), AT(O, y) + to);
            }
    }
}
