// Transposed 2-D convolution with integer weights, gathered: every output pixel visits the taps
// that reach it.
//
// acc[n, oh, ow, o] = sum over kh, kw, c of (w[o, kh, kw, c] - zero_w) * (x[n, ih, iw, c] - zero_x)
// over the taps with ih * stride_h = oh + pad_top - kh * dilation_h for a row ih of the image, and
// iw likewise. What becomes of acc, the stored types and WIDE: see weights.cl.
//
// Columns that are stride_w apart (a phase) are reached by the same taps, from neighbouring pixels
// of x: a work-item computes P of them times one vector of output channels.
//
// Global size (phases * tiles, N * OH, groups * ceil(OC / groups / VEC)).
//
// P:      output pixels of a work-item, 1 to 8.
// VEC:    4, 8 or 16 output channels.
// ZERO_X: T_uint8 only, defined where zero_x is not 0. Pixels of a tile that lie outside the image
//         read zero_x; what it adds to all sums alike is subtracted in the end.
// DOT_...: see dot.cl.

#include "weights.cl"
#include "dot.cl"

#ifndef P
#define P 4
#endif
#define BLOCK 16  // output channels of a block of weights, see Layout.oc16 in the schema

// A word of weights per lane is an int of WORD neighbouring input channels; X is a word of x.
#ifdef W_int16
#define WORD 2
#define CHANNEL(w, k) ((w) << (16 - 16 * (k)) >> 16)
#else
#define WORD 4
#define CHANNEL(w, k) ((w) << (24 - 8 * (k)) >> 24)
#endif
#ifdef INTEGERS
#ifdef T_uint8
#define X int
#define WIDENED(w) (w)
#define DOT(acc, x, w) mac4(acc, x, w)
#define EVERY 0x01010101  // one in every channel
#define LOAD_X(p) as_int(vload4(0, p))
#elif defined(W_int16)
#define X int
#define WIDENED(w) (w)
#define DOT(acc, x, w) mac2(acc, x, w)
#define LOAD_X(p) as_int(vload2(0, p))
#else
#define X int2
#define WIDENED(w) pairs(w)
#define DOT(acc, x, w) mac2(mac2(acc, (x).s0, (w).low), (x).s1, (w).high)
#define LOAD_X(p) as_int2(vload4(0, p))
#endif

// The first n < WORD channels of a word, the others 0: more may lie past the end of the tensor.
X part_of_word(__global const S *p, const int n) {
    S part[WORD];
    for (int k = 0; k < WORD; k++)
        part[k] = k < n ? p[k] : 0;
    return LOAD_X(part);
}

// All pixels get their word of x, READ(p), times a word of weights.
#ifdef WIDE
#define DOT_ADD(p, x, w) ADD(acc[p], DOT((I)(0), x, w))
#else
#define DOT_ADD(p, x, w) acc[p] = DOT(acc[p], x, w)
#endif
#ifdef ZERO_X
#define ADD_WEIGHTS(w) sum_w = DOT(sum_w, EVERY, w);
#else
#define ADD_WEIGHTS(w)
#endif
#define STEP(READ)                                                                                 \
    {                                                                                              \
        const I word = BITS(int, wp);                                                              \
        wp += step;                                                                                \
        ADD_WEIGHTS(word)                                                                          \
        _Pragma("unroll") for (int p = 0; p < P; p++)                                              \
            DOT_ADD(p, READ(p), WIDENED(word));                                                    \
    }
#endif

#ifdef ZERO_W
int sum_of(__global const S *p, const int n) {
    int sum = 0;
    for (int c = 0; c < n; c++)
        sum += p[c];
    return sum;
}
#endif

// One value per channel; the first n < VEC of them lie in the tensor.
#define DEFINE_CHANNELS(name, type, vector, convert)                                               \
    vector name(__global const type *p, const int n) {                                             \
        if (n >= VEC)                                                                              \
            return convert(BITS(type, p));                                                         \
        type part[VEC];                                                                            \
        for (int k = 0; k < VEC; k++)                                                              \
            part[k] = k < n ? p[k] : 0;                                                            \
        return convert(BITS(type, part));                                                          \
    }
DEFINE_CHANNELS(int_channels, int, I, )
DEFINE_CHANNELS(char_channels, char, I, TO(int))
DEFINE_CHANNELS(float_channels, float, R, )

// x [N, H, W, C]; w [groups][blocks][KH][KW][words][block width][WORD]; bias [OC] int32 (WIDE
//   [2, OC]) or, for weights only, fp32; m0 [OC] int32, or the fp32 scales; t [OC] int8;
//   y [N, OH, OW, OC]. A bias whose flag is 0 is not read.
// image: H, W, C, C / groups, OH, OW, OC / groups, groups
// rows, columns: kernel, stride, dilation, pad before; of columns then phases, tiles per phase;
//                of rows then 1 for a bias; the rest unused
// zeros: zero_x, zero_w, unused
// ends: zero point, least and largest value of y, unused
__kernel void conv_transpose2d_integer(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(m0), TENSOR(t),
                                       TENSOR(y), const int8 image, const int8 rows,
                                       const int8 columns, const int4 zeros, const int4 ends,
                                       const float alpha, const float beta) {
    const int height = image.s0, width = image.s1, channels = image.s2, in_c = image.s3;
    const int out_h = image.s4, out_w = image.s5, out_c = image.s6, row_c = out_c * image.s7;
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
    const int lanes = min(VEC, out_c - c), first = group * out_c + c;

    SUM start = no_sum();
#ifdef INTEGERS
    if (rows.s4) {
        __global const int *given = AT(const int, bias) + first;
#ifdef WIDE
        start.hi = int_channels(given, lanes);
        start.lo = int_channels(given + row_c, lanes);
#else
        start = int_channels(given, lanes);
#endif
    }
#endif
    SUM acc[P];
    #pragma unroll
    for (int p = 0; p < P; p++)
        acc[p] = start;
#ifdef ZERO_X
    I sum_w = (I)(0);  // of the weights of all taps
#endif
#ifdef ZERO_W
    int sum_x[P], visited = 0;  // sums of x of all taps, products of every output
    for (int p = 0; p < P; p++)
        sum_x[p] = 0;
#endif

    const int words = (in_c + WORD - 1) / WORD, whole = in_c / WORD;
    __global const S *image_x = AT(const S, x) + n * height * width * channels + group * in_c;
    __global const int *block_w = AT(const int, w)
        + (group * out_c + block) * rows.s0 * columns.s0 * words + c - block;
    for (int kh = 0; kh < rows.s0; kh++) {
        const int down = oh + rows.s3 - kh * rows.s2, ih = down / stride_h;
        if (down < 0 || down % stride_h != 0 || ih >= height)
            continue;
        for (int kw = 0; kw < columns.s0; kw++) {
            const int right = phase + columns.s3 - kw * columns.s2;
            const int iw = right / stride_w + from;
            if (right % stride_w != 0 || iw + P <= 0 || iw >= width)
                continue;
            __global const int *wp = block_w + (kh * columns.s0 + kw) * words * step;
            __global const S *row_x = image_x + ih * width * channels;
            // A pixel outside the image is read from the border, and masked.
            __global const S *xp[P];
            int mask[P];
            #pragma unroll
            for (int p = 0; p < P; p++) {
                mask[p] = iw + p >= 0 && iw + p < width ? -1 : 0;
                xp[p] = row_x + clamp(iw + p, 0, width - 1) * channels;
            }
#ifdef INTEGERS
            const bool inside = iw >= 0 && iw + P <= width;
#ifdef ZERO_X
            const int zero_word = zeros.s0 * EVERY;
#define MASKED(word, p) (((word) & mask[p]) | (zero_word & ~mask[p]))
#else
#define MASKED(word, p) ((word) & mask[p])
#endif
#define READ(p) LOAD_X(xp[p] + i * WORD)
#define READ_MASKED(p) MASKED(LOAD_X(xp[p] + i * WORD), p)
#define READ_PART(p) MASKED(part_of_word(xp[p] + whole * WORD, in_c - whole * WORD), p)
            if (inside)
                for (int i = 0; i < whole; i++)
                    STEP(READ)
            else
                for (int i = 0; i < whole; i++)
                    STEP(READ_MASKED)
            if (whole < words)
                STEP(READ_PART)
#ifdef ZERO_W
            visited += in_c;
            for (int p = 0; p < P; p++)
                sum_x[p] += mask[p] ? sum_of(xp[p], in_c) : zeros.s0 * in_c;
#endif
#else
            for (int i = 0; i < words; i++) {
                const I word = BITS(int, wp);
                wp += step;
                for (int k = 0; k < WORD && i * WORD + k < in_c; k++) {
                    const F weights = TO(float)(CHANNEL(word, k));
                    #pragma unroll
                    for (int p = 0; p < P; p++) {
                        const float value = LOAD(i * WORD + k, xp[p]);
                        WEIGH(acc[p], (F)(as_float(as_int(value) & mask[p])), weights);
                    }
                }
            }
#endif
        }
    }

#ifdef QUANTIZED
    const I scale = int_channels(AT(const int, m0) + first, lanes);
    const I shift = char_channels(AT(const char, t) + first, lanes);
#else
    const R scale = float_channels(AT(const float, m0) + first, lanes);
#endif
#ifndef INTEGERS
    R offset = (R)(0);
    if (rows.s4)
        offset = float_channels(AT(const float, bias) + first, lanes);
#endif
    __global O *yp = AT(O, y) + ((n * out_h + oh) * out_w + phase) * row_c + first;
    #pragma unroll
    for (int p = 0; p < P; p++) {
        // sum of (w - zero_w) (x - zero_x) over what was visited
#ifdef ZERO_X
        acc[p] -= zeros.s0 * sum_w;
#endif
#ifdef ZERO_W
        acc[p] -= zeros.s1 * (sum_x[p] - zeros.s0 * visited);
#endif
        if (p < pixels) {
            __global O *to = yp + (from + p) * stride_w * row_c;
#if defined(QUANTIZED)
            const OF value = finish(acc[p], scale, shift, ends);
#elif defined(INTEGERS)
            const OF value = finish(acc[p], scale, alpha, beta);
#else
            const OF value = finish(acc[p], scale, offset, (R)(0), alpha, beta);
#endif
            if (lanes == VEC) {
                STOREV(value, to);
            } else {
                OE part[VEC];
                SPILL(value, part);
                for (int k = 0; k < lanes; k++)
                    STORE(part[k], k, to);
            }
        }
    }
}
