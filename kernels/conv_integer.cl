// Direct 2-D convolution of integers, without workspace, also used for dense layers.
//
// acc = bias[o] + sum over ky, kx, c of (w[o, ky, kx, c] - zero_w)
//                     * x[n, oy * stride_h - pad_top + ky * dilation_h,
//                            ox * stride_w - pad_left + kx * dilation_w, group(o) * in_c + c]
// y[n, oy, ox, o] = saturate(requantize(acc, m0[o], t[o]) + zero_y, low, high)    integer y
//                 = ACTIVATE(acc * m0[o]), m0 fp32, t not read                    real y
// where x outside the image is what the row `zeros` holds: the zero point of x, whose share of the
// sum is folded into the bias.
//
// A work-item computes P pixels times NV vectors of VEC output channels: it streams weights and
// broadcasts words of WORD neighbouring input channels, for `tiles` times P pixels one after the
// other. Global size (ceil(out_c / (NV * VEC)), ceil(pixels / (P * tiles)), groups).
//
// T_uint8, T_int16: x. O_uint8, O_int16, O_fp32, O_fp16: y.
// W_int16: w is int16 [..][ceil(in_c / 2)][block width][2] (layout oc16x2), x then too; without it
//          int8 [..][ceil(in_c / 4)][block width][4] (oc16x4).
// P, NV:   1 and up; P * NV vectors of accumulators should fit into the registers. VEC: 4, 8 or 16.
// WIDE:    T_int16 only. Sums of up to 48 bits in two ints: bias is then [2][groups * out_c], the
//          high parts before the low 16 bits. Needs weights above -32768, t > 17, rounding once.
// ZERO_W:  T_uint8 only. Weights have a zero point.
// POINTWISE: one tap, strides of 1, no padding, and whole words of input channels: the pixels of x
//          lie as those of y, and nowhere else.
// ROUND_TWICE: see integer.cl.
// DOT_VNNI, DOT_KHR: see dot.cl; the latter T_uint8 only.
// DOT_MADD: by products of int16, whose neighbours are added: a pattern in which compilers for x86
//          see one instruction. Needs vectors of 4 * VEC elements, which clang has up to 32, so VEC
//          is 8 at most without W_int16.
// DOT_FLOAT: T_uint8 only. By fp32 multiply-adds, exactly: up to 512 products of 255 * 128 stay
//          below 2^24. PIECE words of each pixel are widened into private memory first.

#include "integer.cl"
#include "dot.cl"
#include "pixels.cl"

// One word of weights per lane, as an int. A word of x is as many channels.
#ifdef W_int16
#define WORD 2
#else
#define WORD 4
#endif
#define PIECE 8
#ifdef POINTWISE
#define TAPS 1
#else
#define TAPS (kernel_h * kernel_w)
#endif

// A: accumulators. TAKE(sum): what they hold, as I. X: a word of x; W: one of every lane's weights.
// MAC(acc, x, w): acc + the dot products of the two.
#if defined(DOT_FLOAT)
typedef GLUE(float, VEC) A;
#define TAKE(sum) GLUE(convert_int, VEC)(sum)
#define BYTE(w, k) GLUE(convert_float, VEC)((w) << (24 - 8 * (k)) >> 24)
#elif defined(DOT_MADD)
#define VECTOR(type, n) type __attribute__((ext_vector_type(n)))
#ifdef W_int16  // 2 * VEC products, a sum per lane
#define PAIRS_OF_SUMS VEC
#define TAKE(sum) (sum)
typedef VECTOR(short, 2 * VEC) W;
typedef VECTOR(short, 2 * VEC) LOOSE __attribute__((aligned(2)));
#define LOADW(p) (*(__global const LOOSE *)(p))
#else  // 4 * VEC products, two sums per lane
#define PAIRS_OF_SUMS (2 * VEC)
#define TAKE(sum) ((sum).even + (sum).odd)
typedef VECTOR(char, 4 * VEC) BYTES __attribute__((aligned(1)));
typedef VECTOR(short, 4 * VEC) W;
#define LOADW(p) __builtin_convertvector(*(__global const BYTES *)(p), W)
#endif
typedef VECTOR(int, PAIRS_OF_SUMS) A;
typedef VECTOR(short, 2 * PAIRS_OF_SUMS) X;
typedef VECTOR(int, 2 * PAIRS_OF_SUMS) PRODUCTS;
A MAC(const A acc, const X x, const X w) {
    const PRODUCTS product = __builtin_convertvector(x, PRODUCTS)
        * __builtin_convertvector(w, PRODUCTS);
    return acc + (product.even + product.odd);
}
#else
#define TAKE(sum) (sum)
typedef I A;
#if defined(T_int16) && !defined(W_int16)
typedef int2 X;
typedef PAIRS W;
#define LOAD_X(p) as_int2(vload4(0, p))
#define LOADW(p) pairs(VLOAD(p))
#define MAC(acc, x, w) mac2(mac2(acc, (x).s0, (w).low), (x).s1, (w).high)
#else
typedef int X;
typedef I W;
#define LOAD_X(p) as_int(GLUE(vload, WORD)(0, p))
#define LOADW(p) VLOAD(p)
#ifdef T_int16
#define MAC(acc, x, w) mac2(acc, x, w)
#else
#define MAC(acc, x, w) mac4(acc, x, w)
#endif
#endif
#endif

// Accumulators hold the products of `chunk` words; then they are added to the totals. Of WIDE sums
// the low 16 bits stay where they are.
#ifdef WIDE
typedef A TOTAL;
#define FLUSH(p, v) total[p][v] += acc[p][v] >> 16, acc[p][v] &= 0xFFFF
#elif defined(DOT_FLOAT)
typedef I TOTAL;
#define FLUSH(p, v) total[p][v] += TAKE(acc[p][v]), acc[p][v] = (A)(0)
#endif
#ifdef FLUSH
#define EACH_FLUSHED                                                                               \
    _Pragma("unroll") for (int p = 0; p < P; p++)                                                  \
        _Pragma("unroll") for (int v = 0; v < NV; v++)                                             \
            FLUSH(p, v);
// Makes room for at least n words, n no more than chunk.
#define MAKE_ROOM(n)                                                                               \
    if (held + (n) > chunk) {                                                                      \
        held = 0;                                                                                  \
        EACH_FLUSHED                                                                               \
    }
#else
#define MAKE_ROOM(n)
#endif

#ifdef DOT_MADD
// The word at p in all lanes. A compiler that sees them equal splits up the products before it sees
// what they are a part of: `hidden`, all 0, keeps that from it.
#if WORD == 2
#define SPREAD4(p) ((short4)(vload2(0, p), vload2(0, p)))
#else
#define SPREAD4(p) convert_short4(vload4(0, p))
#endif
#define SPREAD8(p) ((short8)(SPREAD4(p), SPREAD4(p)))
#define SPREAD16(p) ((short16)(SPREAD8(p), SPREAD8(p)))
#if WORD == 2 && VEC == 4
#define SPREAD SPREAD8
#elif WORD == 2 && VEC == 8 || WORD == 4 && VEC == 4
#define SPREAD SPREAD16
#else
#define SPREAD(p) join(SPREAD16(p))
X join(const short16 part) {
    X both;
    both.lo = both.hi = part;
    return both;
}
#endif
#define LOAD_X(p) (SPREAD(p) ^ hidden)
#endif

// One step of the inner loop: every accumulator gets the word READ(p) of its pixel times its
// weights.
#define LOAD_WEIGHTS(type, load)                                                                   \
    type weights[NV];                                                                              \
    _Pragma("unroll") for (int v = 0; v < NV; v++) {                                               \
        weights[v] = load(wp[v]);                                                                  \
        wp[v] += step[v];                                                                          \
    }
#ifdef DOT_FLOAT
#define STEP(READ)                                                                                 \
    {                                                                                              \
        LOAD_WEIGHTS(I, VLOAD)                                                                     \
        _Pragma("unroll") for (int k = 0; k < WORD; k++) {                                         \
            A byte[NV];                                                                            \
            _Pragma("unroll") for (int v = 0; v < NV; v++) byte[v] = BYTE(weights[v], k);          \
            _Pragma("unroll") for (int p = 0; p < P; p++)                                          \
                _Pragma("unroll") for (int v = 0; v < NV; v++)                                     \
                    acc[p][v] = fma((A)(READ(p)[k]), byte[v], acc[p][v]);                          \
        }                                                                                          \
    }
#else
#define STEP(READ)                                                                                 \
    {                                                                                              \
        LOAD_WEIGHTS(W, LOADW)                                                                     \
        _Pragma("unroll") for (int p = 0; p < P; p++) {                                            \
            const X word = LOAD_X(READ(p));                                                        \
            _Pragma("unroll") for (int v = 0; v < NV; v++)                                         \
                acc[p][v] = MAC(acc[p][v], word, weights[v]);                                      \
        }                                                                                          \
    }
#endif

// A compiler that knows how an offset goes on adds to every pointer, where few of them fit into
// registers, instead of to the offset.
#if defined(DOT_VNNI) && P > 8
#define HIDE(offset) __asm__("" : "+r"(offset));
#else
#define HIDE(offset)
#endif

#ifdef DOT_FLOAT
// The first `words` words of x, `advance` elements apart, as fp32; with advance == WORD no more
// than n channels are read, the rest is 0.
void widen(__global const S *x, const int words, const int advance, const int n, float *out) {
    int c = 0;
    if (advance != WORD) {
        for (; c < words; c++)
            vstore4(convert_float4(vload4(0, x + c * advance)), c, out);
        return;
    }
    for (; c + 16 <= n; c += 16)
        vstore16(convert_float16(vload16(0, x + c)), 0, out + c);
    for (; c + 4 <= n; c += 4)
        vstore4(convert_float4(vload4(0, x + c)), 0, out + c);
    for (; c < words * WORD; c++)
        out[c] = c < n ? x[c] : 0;
}
#endif

// The lanes of one value per channel; n of them lie in the tensor, the others are 0.
I load_channels(__global const int *p, const int n) {
    if (n >= VEC)
        return VLOAD(p);
    int part[VEC];
    for (int k = 0; k < VEC; k++)
        part[k] = k < n ? p[k] : 0;
    return VLOAD(part);
}

// The same of shifts; the others are 33.
I load_shifts(__global const char *p, const int n) {
    if (n >= VEC)
        return GLUE(convert_int, VEC)(VLOAD(p));
    int part[VEC];
    for (int k = 0; k < VEC; k++)
        part[k] = k < n ? p[k] : 33;
    return VLOAD(part);
}

#ifdef ZERO_W
int sum_of(__global const uchar *p, const int n) {
    int16 sums = (int16)(0);
    int c = 0, sum = 0;
    for (; c + 16 <= n; c += 16)
        sums += convert_int16(vload16(0, p + c));
    for (; c < n; c++)
        sum += p[c];
    const int8 s8 = sums.lo + sums.hi;
    const int4 s4 = s8.lo + s8.hi;
    return sum + s4.s0 + s4.s1 + s4.s2 + s4.s3;
}
#endif

// x [n, height, width], pixels `channels` elements apart;
// w [groups][blocks][kernel_h][kernel_w][words][block width][WORD];
// bias [groups * out_c]; zeros [in_c filled up to words]; m0, t [groups * out_c];
// y [pixels = n * out_h * out_w, groups * out_c], pixels row_y elements apart. in_c and out_c are
// per group. bias is not read if its flag is 0, zeros only where a tap lies outside the image.
// elements: from the first to the last of x. chunk: words whose sums fit into accumulators that
// have totals beside them; PIECE or more with DOT_FLOAT.
// The hint says that work-items are vectors already: Intel's CPU runtime would make more of them,
// which takes it four times as long.
__attribute__((vec_type_hint(float16)))
__kernel void conv2d_integer(
        TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(zeros), TENSOR(m0), TENSOR(t), TENSOR(y),
        const int has_bias, const int elements, const int row_y, const int pixels, const int tiles,
        const int chunk, const int height, const int width, const int channels, const int in_c,
        const int out_h, const int out_w, const int out_c, const int kernel_h, const int kernel_w,
        const int stride_h, const int stride_w, const int dilation_h, const int dilation_w,
        const int pad_top, const int pad_left, const int zero_w, const int zero_y,
        const int least, const int most, const float alpha, const float beta) {
    const int first = get_global_id(0) * (NV * VEC), group = get_global_id(2);
    const int words = (in_c + WORD - 1) / WORD;
    __global const int *w_first[NV];
    int step[NV];
    #pragma unroll
    for (int v = 0; v < NV; v++) {
        // Vectors past the last channel repeat the last vector, and are not stored.
        const int c = min(first + v * VEC, (out_c - 1) / VEC * VEC), block = c / BLOCK * BLOCK;
        step[v] = min(BLOCK, out_c - block);
        w_first[v] = AT(const int, w) + (group * out_c + block) * TAPS * words + c - block;
    }
#ifdef DOT_MADD
    const X hidden = LOADW(w_first[0]) >> (X)(15) & (X)((short)(pixels >> 31));
#endif
    __global const S *image = AT(const S, x) + group * in_c;

    int pixel = get_global_id(1) * (tiles * P);
    const int end = pixel + min(tiles * P, pixels - pixel);
#ifndef POINTWISE
    const bool joined = dilation_w == 1 && channels == in_c && in_c % WORD == 0;
    int ox = pixel % out_w, oy = pixel / out_w % out_h, n = pixel / out_w / out_h;
#endif
    for (; pixel < end; pixel += P) {
#ifdef POINTWISE
        // Pixels past the last one repeat it, and are not stored.
        int at[P];
        #pragma unroll
        for (int p = 0; p < P; p++)
            at[p] = min(pixel + p, pixels - 1) * channels;
#else
        PLACE_TILE
        int last_at = at[0];
        #pragma unroll
        for (int p = 1; p < P; p++)
            last_at = max(last_at, at[p]);
#endif

        A acc[P][NV];
#ifdef FLUSH
        TOTAL total[P][NV];
        int held = 0;  // words in acc since it was last added to the totals
#endif
        __global const int *wp[NV];
        #pragma unroll
        for (int v = 0; v < NV; v++) {
            wp[v] = w_first[v];
            #pragma unroll
            for (int p = 0; p < P; p++) {
                acc[p][v] = (A)(0);
#ifdef FLUSH
                total[p][v] = (TOTAL)(0);
#endif
            }
        }
#ifdef ZERO_W
        int sum_x[P];
        #pragma unroll
        for (int p = 0; p < P; p++)
            sum_x[p] = 0;
#endif

#ifdef POINTWISE
        {
            const int runs = 1, length = in_c, advance = WORD;
#else
        for (int ky = 0; ky < kernel_h; ky++) {
            const int down = ky * dilation_h;
            // Rows of taps lie in the image, and whole words at their last taps in the tensor.
            const bool rows_inside = first_top + down >= 0 && last_top + down < height
                && (in_c % WORD == 0 || group * in_c + last_at + (down * width + across) * channels
                                            + words * WORD <= elements);
            const bool inside = rows_inside && columns_inside;
            // What follows one another: the taps of the row as one run of channels; taps of one
            // word, `advance` elements apart; or the channels of one tap.
            int runs = kernel_w, length = in_c, advance = WORD;
            if (inside && joined) {
                runs = 1;
                length = kernel_w * in_c;
#ifndef ZERO_W
            } else if (inside && words == 1) {
                runs = 1;
                length = kernel_w * WORD;
                advance = dilation_w * channels;
#endif
            }
#endif
            for (int run = 0; run < runs; run++) {
                __global const S *xp[P];
                // The last word may lie across the end of x, where a part of it must be read.
                bool whole = true;
#ifdef POINTWISE
                #pragma unroll
                for (int p = 0; p < P; p++)
                    xp[p] = image + at[p];
#else
                const int right = run * dilation_w, to_tap = (down * width + right) * channels;
                #pragma unroll
                for (int p = 0; p < P; p++)
                    xp[p] = image + to_tap + at[p];
                if (!(rows_inside && first_left + right >= 0 && last_left + right < width)) {
                    #pragma unroll
                    for (int p = 0; p < P; p++) {
                        const bool there = (uint)(top[p] + down) < (uint)height
                            && (uint)(left[p] + right) < (uint)width;
                        whole = whole && (!there || in_c % WORD == 0
                            || group * in_c + to_tap + at[p] + words * WORD <= elements);
                        xp[p] = there ? xp[p] : AT(const S, zeros);
                    }
                }
#endif
#ifdef ZERO_W
                #pragma unroll
                for (int p = 0; p < P; p++)
                    sum_x[p] += sum_of(xp[p], length);
#endif
                const int whole_words = whole ? (length + WORD - 1) / WORD : length / WORD;
#ifdef DOT_FLOAT
                for (int from = 0; from * WORD < length; from += PIECE) {
                    float piece[P][PIECE * WORD];
                    const int some = min(PIECE, (length + WORD - 1) / WORD - from);
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        widen(xp[p] + from * advance, some, advance,
                              min(some * WORD, length - from * WORD), piece[p]);
                    MAKE_ROOM(some)
#ifdef FLUSH
                    held += some;
#endif
#define FROM_PIECE(p) (piece[p] + c * WORD)
                    for (int c = 0; c < some; c++)
                        STEP(FROM_PIECE)
                }
#else
#define WHOLE(p) (xp[p] + from)
                int c = 0, from = 0;
                while (c < whole_words) {
                    int to = whole_words;
                    MAKE_ROOM(1)
#ifdef FLUSH
                    to = min(whole_words, c + chunk - held);
                    held += to - c;
#endif
                    for (; c < to; c++, from += advance) {
                        HIDE(from)
                        STEP(WHOLE)
                    }
                }
                if (!whole) {
                    S part[P][WORD];
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        for (int k = 0; k < WORD; k++)
                            part[p][k] = c * WORD + k < length ? xp[p][c * WORD + k] : 0;
                    MAKE_ROOM(1)
#ifdef FLUSH
                    held++;
#endif
#define PART(p) (part[p])
                    STEP(PART)
                }
#endif
            }
        }

        const int count = min(P, end - pixel);
        #pragma unroll
        for (int v = 0; v < NV; v++) {
            const int c = first + v * VEC, lanes = out_c - c, channel = group * out_c + c;
            __global O *yp = AT(O, y) + pixel * row_y + channel;
            if (lanes > 0) {
                const I multiplier = load_channels(AT(const int, m0) + channel, lanes);
#if !defined(O_fp32) && !defined(O_fp16)
                const I shift = load_shifts(AT(const char, t) + channel, lanes);
#endif
                I from = (I)(0);
                if (has_bias)
                    from = load_channels(AT(const int, bias) + channel, lanes);
#ifdef WIDE
                I from_low = (I)(0);
                if (has_bias)
                    from_low = load_channels(
                        AT(const int, bias) + (int)get_global_size(2) * out_c + channel, lanes);
#endif
                OF result[P];
                #pragma unroll
                for (int p = 0; p < P; p++) {
#if defined(WIDE)
                    const A upper = total[p][v] + (acc[p][v] >> 16), lower = acc[p][v] & 0xFFFF;
                    const I sum = from + TAKE(upper), low = from_low + TAKE(lower);
#elif defined(DOT_FLOAT)
                    I sum = from + total[p][v] + TAKE(acc[p][v]);
#else
                    I sum = from + TAKE(acc[p][v]);
#endif
#ifdef ZERO_W
                    sum -= zero_w * sum_x[p];
#endif
#if defined(O_fp32) || defined(O_fp16)
#ifdef WIDE
                    // one rounding: the high part is below 2^24
                    OF value = fma(GLUE(convert_float, VEC)(sum + (low >> 16)), (OF)(65536.0f),
                                   GLUE(convert_float, VEC)(low & 0xFFFF));
#else
                    OF value = GLUE(convert_float, VEC)(sum);
#endif
                    value = value * GLUE(as_float, VEC)(multiplier);
                    result[p] = ACTIVATE(value);
#else
#ifdef WIDE
                    const OF value = requantizev_wide(sum, low, multiplier, shift);
#else
                    const OF value = steps_of(sum, multiplier, shift);
#endif
                    result[p] = saturate(value + zero_y, (OF)(least), (OF)(most));
#endif
                }
                if (lanes >= VEC && count == P) {
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        STOREV(result[p], yp + p * row_y);
                } else if (lanes >= VEC) {
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        if (p < count)
                            STOREV(result[p], yp + p * row_y);
                } else {
                    OE part[P][VEC];
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        SPILL(result[p], part[p]);
                    for (int p = 0; p < count; p++)
                        for (int k = 0; k < lanes; k++)
                            STORE(part[p][k], k, yp + p * row_y);
                }
            }
        }
#ifndef POINTWISE
        NEXT_TILE
#endif
    }
}
