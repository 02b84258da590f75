// Transposed 2-D convolution, gathered: every output pixel visits the taps that reach it.
//
// y[n, oh, ow, o] = ACTIVATE(bias[o] + sum over kh, kw, c of w[o, kh, kw, c] * x[n, ih, iw, c])
// over the taps with ih * stride_h = oh + pad_top - kh * dilation_h for a row ih of the image, and
// iw likewise.
//
// Columns that are stride_w apart (a phase) are reached by the same taps, from neighbouring pixels
// of x: a work-item computes P of them times one vector of output channels.
//
// x [N, H, W, C], w [groups][blocks][KH][KW][C / groups][block width], bias [OC] fp32,
// y [N, OH, OW, OC]
// Global size (phases * tiles, N * OH, groups * ceil(OC / groups / VEC)).
//
// O_fp32, O_fp16: y has another stored type than x and w.
// P:     output pixels of a work-item, 1 to 8.
// VEC:   4, 8 or 16 output channels.
// CHUNK: a multiple of 8. If defined, CHUNK channels of each pixel are copied into private memory
//        before they are used, where they are fp16 (which CPUs widen one by one otherwise) or some
//        pixels lie outside the image.

#ifndef P
#define P 4
#endif
#define BLOCK 16  // output channels of a block of weights, see Layout.oc16 in the schema

F activated(const F x, const float alpha, const float beta) { return ACTIVATE(x); }

// One step of the inner loop: every pixel gets channel value X(p) times its weights.
#define STEP(X)                                                                                    \
    {                                                                                              \
        const F weights = LOADV(wp);                                                               \
        wp += step;                                                                                \
        _Pragma("unroll") for (int p = 0; p < P; p++)                                              \
            acc[p] = fma((F)(X(p)), weights, acc[p]);                                              \
    }

// image: H, W, C, C / groups, OH, OW, OC / groups, groups
// rows, columns: kernel, stride, dilation, pad before; of columns then phases, tiles per phase;
//                the rest unused
__kernel void conv_transpose2d(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(y), const int has_bias,
                               const int8 image, const int8 rows, const int8 columns,
                               const float alpha, const float beta) {
    const int height = image.s0, width = image.s1, channels = image.s2, in_c = image.s3;
    const int out_h = image.s4, out_w = image.s5, out_c = image.s6;
    const int stride_h = rows.s1, stride_w = columns.s1, tiles = columns.s5;
    const int phase = get_global_id(0) / tiles;
    int from = get_global_id(0) % tiles * P;
    const int n = get_global_id(1) / out_h, oh = get_global_id(1) % out_h;
    const int vectors = (out_c + VEC - 1) / VEC;
    const int group = get_global_id(2) / vectors, c = get_global_id(2) % vectors * VEC;
    const int block = c / BLOCK * BLOCK, step = min(BLOCK, out_c - block);
    const int in_phase = (out_w - phase + stride_w - 1) / stride_w;
    if (from >= in_phase)
        return;
    // The last tile ends at the last pixel, and computes some of its neighbour's again.
    from = max(0, min(from, in_phase - P));
    const int pixels = min(P, in_phase);
    const int lanes = min(VEC, out_c - c);

    float start[VEC];
    for (int k = 0; k < VEC; k++)
        start[k] = has_bias && k < lanes ? AT(const float, bias)[group * out_c + c + k] : 0.0f;
    F acc[P];
    #pragma unroll
    for (int p = 0; p < P; p++)
        acc[p] = GLUE(vload, VEC)(0, start);

    __global const S *image_x = AT(const S, x) + n * height * width * channels + group * in_c;
    __global const S *block_w = AT(const S, w)
        + (group * out_c + block) * rows.s0 * columns.s0 * in_c + c - block;
    for (int kh = 0; kh < rows.s0; kh++) {
        const int down = oh + rows.s3 - kh * rows.s2, ih = down / stride_h;
        if (down < 0 || down % stride_h != 0 || ih >= height)
            continue;
        for (int kw = 0; kw < columns.s0; kw++) {
            const int right = phase + columns.s3 - kw * columns.s2;
            const int iw = right / stride_w + from;
            if (right % stride_w != 0 || iw + P <= 0 || iw >= width)
                continue;
            __global const S *wp = block_w + (kh * columns.s0 + kw) * in_c * step;
            __global const S *row_x = image_x + ih * width * channels;
#if !defined(CHUNK) || !defined(T_fp16)
            if (iw >= 0 && iw + P <= width) {
                __global const S *xp = row_x + iw * channels;
#define STORED(p) LOAD(i + p * channels, xp)
                for (int i = 0; i < in_c; i++)
                    STEP(STORED)
                continue;
            }
#endif
#ifdef CHUNK
            for (int first = 0; first < in_c; first += CHUNK) {
                float chunk[P][CHUNK];
                const int count = min(CHUNK, in_c - first);
                for (int p = 0; p < P; p++) {
                    const int inside = iw + p >= 0 && iw + p < width ? count : 0;
                    const int column = clamp(iw + p, 0, width - 1);
                    __global const S *pixel = row_x + column * channels + first;
                    int i = 0;
                    for (; i + 8 <= inside; i += 8)
                        vstore8(LOAD8(0, pixel + i), 0, chunk[p] + i);
                    for (; i < inside; i++)
                        chunk[p][i] = LOAD(i, pixel);
                    for (; i < count; i++)
                        chunk[p][i] = 0.0f;
                }
#define WIDENED(p) chunk[p][i]
                for (int i = 0; i < count; i++)
                    STEP(WIDENED)
            }
#else
            __global const S *xp[P];
            int mask[P];
            #pragma unroll
            for (int p = 0; p < P; p++) {
                mask[p] = iw + p >= 0 && iw + p < width ? -1 : 0;
                xp[p] = row_x + clamp(iw + p, 0, width - 1) * channels;
            }
#define STORED_OR_0(p) as_float(as_int((float)LOAD(i, xp[p])) & mask[p])
            for (int i = 0; i < in_c; i++)
                STEP(STORED_OR_0)
#endif
        }
    }

    const int row_c = out_c * image.s7;
    __global O *yp = AT(O, y) + ((n * out_h + oh) * out_w + phase) * row_c + group * out_c + c;
    #pragma unroll
    for (int p = 0; p < P; p++) {
        if (p < pixels) {
            __global O *to = yp + (from + p) * stride_w * row_c;
            const F value = activated(acc[p], alpha, beta);
            if (lanes == VEC) {
                STOREV(value, to);
            } else {
                float part[VEC];
                GLUE(vstore, VEC)(value, 0, part);
                for (int k = 0; k < lanes; k++)
                    STORE(part[k], k, to);
            }
        }
    }
}
