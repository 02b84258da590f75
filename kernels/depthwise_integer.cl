// Depthwise 2-D convolution with integer weights: every output channel reads one input channel.
//
// acc[n, oy, ox, o] = sum over ky, kx of (w[ky, kx, o] - zero_w)
//                     * x[n, oy * stride_h - pad_top + ky * dilation_h,
//                            ox * stride_w - pad_left + kx * dilation_w, o / multiplier]
// where x outside the image is zero_x, which stands for the real number 0. What becomes of acc, the
// stored types and WIDE: see weights.cl.
//
// A work-item computes P pixels of a row, `apart` columns from one to the next, in `lines` rows
// times `run` output channels, VEC at a time. Global size (ceil(out_c / run),
// apart * ceil(ceil(out_w / apart) / P), n * ceil(out_h / lines)). The last vector of channels is
// shifted back so that it ends at out_c: elements may be computed twice, so y must not share bytes
// with the residual.
//
// P:   1 and up.
// VEC: 1, 2, 4, 8 or 16 channels, at most out_c.
// MULTIPLIED: defined where multiplier is not 1.
// ZERO_W: defined where zero_w is not 0.
// TAPS: 0, or the width of the kernel: a row of x is then loaded once for all of its taps. Only
//       where apart * stride_w = STRIDE * dilation_w; without TAPS apart is 1.
// STRIDE: 1 and up, see TAPS.
// DOT_VNNI: x86 with AVX-512 VNNI and VL, by a compiler that takes assembly; integers only, not
//       WIDE, TAPS above 0, VEC 4 and up. Neighbouring pixels are packed into words: with UPRIGHT
//       those of a column, else, where STRIDE is 1, those of a row.
// UPRIGHT: the height of the kernel, 1 to 4, with T_uint8 only.

#include "weights.cl"

#ifndef P
#define P 4
#endif
#ifndef TAPS
#define TAPS 0
#endif
#ifndef STRIDE
#define STRIDE 1
#endif
#define SPAN ((P - 1) * STRIDE + TAPS)  // pixels of a row of x for all taps

// Input channels of VEC output channels; `phase` is the first output channel modulo the multiplier.
#ifdef MULTIPLIED
F load_x(__global const S *p, const int multiplier, const int phase) {
    E lanes[VEC];
    for (int k = 0; k < VEC; k++)
        lanes[k] = LOAD((phase + k) / multiplier, p);
    return BITS(E, lanes);
}
#else
#define load_x(p, multiplier, phase) LOADV(p)
#endif

#ifdef ZERO_W
#define WEIGHTS(p) (WLOAD(p) - zero_w)
#else
#define WEIGHTS(p) WLOAD(p)
#endif

#ifdef DOT_VNNI
#ifdef T_uint8
#define WORD 4  // elements of a word
#define DOT "vpdpbusd %2, %1, %0"
#else
#define WORD 2
#define DOT "vpdpwssd %2, %1, %0"
#endif
#define WORDS ((TAPS + WORD - 1) / WORD)
#define ELEMENT (32 / WORD)  // bits
#define MASK ((1 << ELEMENT) - 1)
#define ONES(taps) ((taps) < WORD ? 0x01010101 & ((1 << (taps) * ELEMENT) - 1) : 0x01010101)
I dot_of(I acc, const I x, const I w) {
    __asm__(DOT : "+v"(acc) : "v"(x), "v"(w));
    return acc;
}
#endif

// Output column at which a tile of `size`, `apart` from each other, starts.
int start_of(const int tile, const int size, const int apart) {
    return tile / apart * size * apart + tile % apart;
}

// x [n, height, width, out_c / multiplier]; w [kernel_h, kernel_w, out_c]; bias [out_c] int32 (WIDE
//   [2, out_c]) or, for weights only, fp32; residual, y [n, out_h, out_w, out_c]; m0 [out_c] int32,
//   or the fp32 scales; t [out_c] int8. A bias or residual whose flag is 0 is not read.
// image: height, width, out_h, out_w, out_c, multiplier, run, 1 for a bias + 2 for a residual
// pitches: elements from a pixel of x, of residual, of y to the next; unused
// rows, columns: kernel, stride, dilation, pad before
// zeros: zero_x, zero_w, apart, lines
// ends: zero point, least and largest value of y, unused
__kernel void depthwise_integer(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(residual), TENSOR(m0),
                                TENSOR(t), TENSOR(y), const int8 image, const int4 rows,
                                const int4 columns, const int4 pitches,
                                const int4 zeros, const int4 ends,
                                const float alpha, const float beta) {
    const int height = image.s0, width = image.s1, out_h = image.s2, out_w = image.s3;
    const int out_c = image.s4, multiplier = image.s5, run = image.s6, given = image.s7;
    const int first = get_global_id(0) * run, last = min(first + run, out_c);
    const int apart = zeros.s2, ox = start_of(get_global_id(1), P, apart);
    const int lines = zeros.s3, parts = (out_h + lines - 1) / lines;
    const int n = (int)get_global_id(2) / parts, first_oy = (get_global_id(2) - n * parts) * lines;
    const int end_oy = min(first_oy + lines, out_h);
    if (ox >= out_w) return;  // the last tile of some phases of `apart`
    const int left = ox * columns.s1 - columns.s3;
    const int row_x = pitches.s0, count = min(P, (out_w - 1 - ox) / apart + 1);
    const bool wide = count == P && left >= 0
        && left + (P - 1) * apart * columns.s1 + (columns.s0 - 1) * columns.s2 < width;
    const F outside = (F)(zeros.s0), zero_w = (F)(zeros.s1);

    for (int at = first; at < last; at += VEC) {
        const int c = min(at, out_c - VEC), from = c / multiplier, phase = c - from * multiplier;
        SUM start = no_sum();
#ifdef INTEGERS
        if (given & 1)
            start = bias_sum(AT(const int, bias) + c, out_c);
#endif
#ifdef QUANTIZED
        const I scale = BITS(int, AT(const int, m0) + c);
        const I shift = TO(int)(BITS(char, AT(const char, t) + c));
#else
        const R scale = BITS(float, AT(const float, m0) + c);
#endif
#ifndef INTEGERS
        const R offset = given & 1 ? BITS(float, AT(const float, bias) + c) : (R)(0);
#endif
#if defined(DOT_VNNI) && defined(UPRIGHT)
        // A word holds the pixels of a column, above the first one in its lowest byte.
        UI weight[TAPS], word[SPAN];
        #pragma unroll
        for (int kx = 0; kx < TAPS; kx++)
            weight[kx] = (UI)(0);
        #pragma unroll
        for (int ky = 0; ky < UPRIGHT; ky++) {
            __global const W *wp = AT(const W, w) + ky * TAPS * out_c + c;
            #pragma unroll
            for (int kx = 0; kx < TAPS; kx++, wp += out_c)
                weight[kx] |= (AS_UI(WLOAD(wp)) & MASK) << (ky * ELEMENT);
        }
        #pragma unroll
        for (int i = 0; i < SPAN; i++)
            word[i] = (UI)(0);
        // Rows of x that the line above has read already.
        const int shared = rows.s2 == 1 ? max(UPRIGHT - rows.s1, 0) : 0;
#endif
        for (int oy = first_oy; oy < end_oy; oy++) {
            const int top = oy * rows.s1 - rows.s3;
            SUM acc[P];
            #pragma unroll
            for (int p = 0; p < P; p++)
                acc[p] = start;

#if defined(DOT_VNNI) && defined(UPRIGHT)
            const int known = oy == first_oy ? 0 : shared;
            #pragma unroll
            for (int i = 0; i < SPAN; i++)
                word[i] = known ? word[i] >> (UI)((UPRIGHT - known) * ELEMENT) : (UI)(0);
            #pragma unroll
            for (int ky = 0; ky < UPRIGHT; ky++) {
                if (ky < known)
                    continue;
                const int iy = top + ky * rows.s2, step = columns.s2 * row_x;
                const bool inside = (uint)iy < (uint)height;
                __global const S *xp = AT(const S, x) + from
                    + ((n * height + iy) * width + left) * row_x;
                if (inside && wide) {
                    #pragma unroll
                    for (int i = 0; i < SPAN; i++, xp += step)
                        word[i] |= AS_UI(load_x(xp, multiplier, phase)) << (ky * ELEMENT);
                } else {
                    int ix = left;
                    #pragma unroll
                    for (int i = 0; i < SPAN; i++, xp += step, ix += columns.s2) {
                        const F pixel = inside && (uint)ix < (uint)width
                            ? load_x(xp, multiplier, phase) : outside;
                        word[i] |= AS_UI(pixel) << (ky * ELEMENT);
                    }
                }
            }
            #pragma unroll
            for (int p = 0; p < P; p++) {
                #pragma unroll
                for (int kx = 0; kx < TAPS; kx++)
                    acc[p] = dot_of(acc[p], AS_I(word[p * STRIDE + kx]), AS_I(weight[kx]));
            }
#ifdef ZERO_W
            I total[SPAN];
            #pragma unroll
            for (int i = 0; i < SPAN; i++)
                total[i] = dot_of((I)(0), AS_I(word[i]), (I)(ONES(UPRIGHT)));
            #pragma unroll
            for (int p = 0; p < P; p++) {
                I all = total[p * STRIDE];
                #pragma unroll
                for (int kx = 1; kx < TAPS; kx++)
                    all += total[p * STRIDE + kx];
                acc[p] -= zero_w * all;
            }
#endif
#else
            for (int ky = 0; ky < rows.s0; ky++) {
                const int iy = top + ky * rows.s2;
                const bool inside = (uint)iy < (uint)height;
                if (!inside && zeros.s0 == 0)
                    continue;
                __global const S *line = AT(const S, x) + (n * height + iy) * width * row_x + from;
                __global const W *wp = AT(const W, w) + ky * columns.s0 * out_c + c;
#if defined(DOT_VNNI)
                UI weight[WORDS], word = (UI)(0);
                #pragma unroll
                for (int k = 0; k < WORDS; k++) {
                    weight[k] = (UI)(0);
                    #pragma unroll
                    for (int e = 0; e < WORD && k * WORD + e < TAPS; e++)
                        weight[k] |= (AS_UI(WLOAD(wp + (k * WORD + e) * out_c)) & MASK)
                            << (e * ELEMENT);
                }
                // After pixel i, word holds the pixels from i - WORD + 1 to i.
                #pragma unroll
                for (int i = 0; i < P + WORDS * WORD - 1; i++) {
                    const int ix = left + i;
                    F pixel = outside;
                    if (i < P + TAPS - 1 && inside && (wide || (uint)ix < (uint)width))
                        pixel = load_x(line + ix * row_x, multiplier, phase);
                    word = word >> ELEMENT | AS_UI(pixel) << (32 - ELEMENT);
                    #pragma unroll
                    for (int k = 0; k < WORDS; k++) {
                        const int p = i - (k + 1) * WORD + 1;
                        if (p >= 0 && p < P) {
                            acc[p] = dot_of(acc[p], AS_I(word), AS_I(weight[k]));
#ifdef ZERO_W
                            acc[p] -= zero_w
                                * dot_of((I)(0), AS_I(word), (I)(ONES(TAPS - k * WORD)));
#endif
                        }
                    }
                }
#elif TAPS > 0
                F weight[TAPS];
                #pragma unroll
                for (int kx = 0; kx < TAPS; kx++)
                    weight[kx] = WEIGHTS(wp + kx * out_c);
                #pragma unroll
                for (int i = 0; i < SPAN; i++) {
                    const int ix = left + i * columns.s2;
                    const F pixel = inside && (wide || (uint)ix < (uint)width)
                        ? load_x(line + ix * row_x, multiplier, phase) : outside;
                    #pragma unroll
                    for (int kx = 0; kx < TAPS; kx++)
                        if (i >= kx && (i - kx) % STRIDE == 0 && (i - kx) / STRIDE < P)
                            WEIGH(acc[(i - kx) / STRIDE], pixel, weight[kx]);
                }
#else
                for (int kx = 0; kx < columns.s0; kx++) {
                    const F weight = WEIGHTS(wp + kx * out_c);
                    const int ix = left + kx * columns.s2;
                    #pragma unroll
                    for (int p = 0; p < P; p++) {
                        const int px = ix + p * columns.s1;
                        const F pixel = inside && (wide || (uint)px < (uint)width)
                            ? load_x(line + px * row_x, multiplier, phase) : outside;
                        WEIGH(acc[p], pixel, weight);
                    }
                }
#endif
            }

#endif

#if defined(INTEGERS)
            // All results before the first store: what they share is then computed once.
            OF result[P];
            #pragma unroll
            for (int p = 0; p < P; p++)
#if defined(QUANTIZED)
                result[p] = finish(acc[p], scale, shift, ends);
#else
                result[p] = finish(acc[p], scale, alpha, beta);
#endif
#endif
            #pragma unroll
            for (int p = 0; p < P; p++)
                if (p < count) {
                    const int to = (n * out_h + oy) * out_w + ox + p * apart;
                    __global O *yp = AT(O, y) + to * pitches.s2 + c;
#if defined(INTEGERS)
                    STOREV(result[p], yp);
#else
                    const R more = given & 2
                        ? LOADV(AT(const S, residual) + to * pitches.s1 + c) : (R)(0);
                    STOREV(finish(acc[p], scale, offset, more, alpha, beta), yp);
#endif
                }
        }
    }
}
