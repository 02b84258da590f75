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
// broadcasts words of WORD neighbouring input channels. Global size (ceil(out_c / (NV * VEC)),
// ceil(pixels / P), groups).
//
// T_uint8, T_int16: x. O_uint8, O_int16, O_fp32, O_fp16: y.
// W_int16: w is int16 [..][ceil(in_c / 2)][block width][2] (layout oc16x2), x then too; without it
//          int8 [..][ceil(in_c / 4)][block width][4] (oc16x4).
// P, NV:   1 and up; P * NV vectors of accumulators (WIDE: three times that) should fit into the
//          registers. VEC: 4, 8 or 16.
// WIDE:    T_int16 only. Sums of up to 48 bits in two ints: bias is then [2][groups * out_c], the
//          high parts before the low 16 bits. Needs weights above -32768, t > 17, rounding once.
// ZERO_W:  T_uint8 only. Weights have a zero point.
// ROUND_TWICE: see integer.cl.
// DOT_VNNI, DOT_KHR: see dot.cl; the latter T_uint8 only.
// DOT_FLOAT: T_uint8 only. By fp32 multiply-adds, exactly: up to 512 products of 255 * 128 stay
//          below 2^24. PIECE words of each pixel are widened into private memory before they are
//          used.

#include "integer.cl"
#include "dot.cl"
#include "pixels.cl"

// One word of weights per lane, as an int. A word of x is as many channels.
#ifdef W_int16
#define WORD 2
#else
#define WORD 4
#endif

// Accumulators hold LIMIT words before they must be added to the totals, checked every PIECE words.
#if defined(DOT_FLOAT)
typedef GLUE(float, VEC) A;
#define PIECE 8
#define LIMIT 128
#elif defined(WIDE)
typedef I A;
#ifdef W_int16
#define PIECE 1  // 2 * 32768 * 32767 < 2^31
#define LIMIT 1
#else
#define PIECE 16  // 508 * 32768 * 128 < 2^31
#define LIMIT 127
#endif
#else
typedef I A;
#endif

#ifdef WIDE
#define TOTALS I high[P][NV]; UI low[P][NV];
#define FLUSH(p, v) \
    high[p][v] += acc[p][v] >> 16, low[p][v] += AS_UI(acc[p][v] & 0xFFFF), acc[p][v] = (A)(0)
#elif defined(DOT_FLOAT)
#define TOTALS I total[P][NV];
#define FLUSH(p, v) total[p][v] += GLUE(convert_int, VEC)(acc[p][v]), acc[p][v] = (A)(0)
#else
#define TOTALS
#endif

// MAC(acc, x, w): acc + the dot product of a word of x with one of every lane's weights.
#if defined(DOT_FLOAT)
#define BYTE(w, k) GLUE(convert_float, VEC)((w) << (24 - 8 * (k)) >> 24)
#elif defined(T_int16) && !defined(W_int16)
typedef int2 X;
typedef PAIRS W;
#define LOAD_X(p) as_int2(vload4(0, p))
#define SPLIT(w) pairs(w)
#define MAC(acc, x, w) mac2(mac2(acc, (x).s0, (w).low), (x).s1, (w).high)
#else
typedef int X;
typedef I W;
#define LOAD_X(p) as_int(GLUE(vload, WORD)(0, p))
#define SPLIT(w) (w)
#ifdef T_int16
#define MAC(acc, x, w) mac2(acc, x, w)
#else
#define MAC(acc, x, w) mac4(acc, x, w)
#endif
#endif

// One step of the inner loop: every accumulator gets the word READ(p) of its pixel times its
// weights.
#ifdef DOT_FLOAT
#define STEP(READ)                                                                                 \
    {                                                                                              \
        I weights[NV];                                                                             \
        _Pragma("unroll") for (int v = 0; v < NV; v++) {                                           \
            weights[v] = VLOAD(wp[v]);                                                             \
            wp[v] += step[v];                                                                      \
        }                                                                                          \
        _Pragma("unroll") for (int k = 0; k < WORD; k++) {                                         \
            A byte[NV];                                                                            \
            _Pragma("unroll") for (int v = 0; v < NV; v++) byte[v] = BYTE(weights[v], k);          \
            _Pragma("unroll") for (int p = 0; p < P; p++)                                          \
                _Pragma("unroll") for (int v = 0; v < NV; v++)                                     \
                    acc[p][v] = fma((A)(READ(p)), byte[v], acc[p][v]);                             \
        }                                                                                          \
    }
#else
#define STEP(READ)                                                                                 \
    {                                                                                              \
        W weights[NV];                                                                             \
        _Pragma("unroll") for (int v = 0; v < NV; v++) {                                           \
            weights[v] = SPLIT(VLOAD(wp[v]));                                                      \
            wp[v] += step[v];                                                                      \
        }                                                                                          \
        _Pragma("unroll") for (int p = 0; p < P; p++) {                                            \
            const X word = READ(p);                                                                \
            _Pragma("unroll") for (int v = 0; v < NV; v++)                                         \
                acc[p][v] = MAC(acc[p][v], word, weights[v]);                                      \
        }                                                                                          \
    }

// The first n < WORD channels of a word, the others 0: what may lie at the end of the tensor.
X part_of_word(__global const S *p, const int n) {
    S part[WORD];
    for (int k = 0; k < WORD; k++)
        part[k] = k < n ? p[k] : 0;
    return LOAD_X(part);
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

#ifdef WIDE
// floor((acc * m0 + 2^(t-1)) / 2^t) of acc = high * 2^16 + low, low below 2^16, t > 17: with
// q = floor(low * m0 / 2^16) that is floor((high * m0 + q + 2^(t-17)) / 2^(t-16)).
int requantize_wide(const int high, const uint low, const int m0, const int t) {
    const uint part = (uint)high * (uint)m0, q = mul_hi(low << 16, (uint)m0), shift = t - 16;
    const uint half_low = shift > 32 ? 0 : 1u << (shift - 1);
    const uint half_high = shift > 32 ? 1u << (shift - 33) : 0;
    const uint sum = part + q, lo = sum + half_low;
    const int hi = (int)((uint)mul_hi(high, m0) + (sum < part) + (lo < sum) + half_high);
    return shift >= 32 ? hi >> (shift - 32) : (int)((uint)hi << (32 - shift) | lo >> shift);
}
#endif

// x [n, height, width, channels]; w [groups][blocks][kernel_h][kernel_w][words][block width][WORD];
// bias [groups * out_c]; zeros [in_c filled up to words]; m0, t [groups * out_c];
// y [pixels = n * out_h * out_w, groups * out_c]. in_c and out_c are per group. bias is not read if
// its flag is 0, zeros only where a tap lies outside the image. elements: of x.
__kernel void conv2d_integer(
        TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(zeros), TENSOR(m0), TENSOR(t), TENSOR(y),
        const int has_bias, const int elements, const int pixels,
        const int height, const int width, const int channels, const int in_c,
        const int out_h, const int out_w, const int out_c, const int kernel_h, const int kernel_w,
        const int stride_h, const int stride_w, const int dilation_h, const int dilation_w,
        const int pad_top, const int pad_left, const int zero_w, const int zero_y,
        const int least, const int most, const float alpha, const float beta) {
    const int first = get_global_id(0) * (NV * VEC), pixel = get_global_id(1) * P;
    const int group = get_global_id(2), row_c = get_global_size(2) * out_c;
    const int words = (in_c + WORD - 1) / WORD;

    A acc[P][NV];
    TOTALS
    __global const int *wp[NV];
    int step[NV];
    #pragma unroll
    for (int v = 0; v < NV; v++) {
        // Vectors past the last channel repeat the last vector, and are not stored.
        const int c = min(first + v * VEC, (out_c - 1) / VEC * VEC), block = c / BLOCK * BLOCK;
        step[v] = min(BLOCK, out_c - block);
        wp[v] = AT(const int, w) + (group * out_c + block) * kernel_h * kernel_w * words
            + c - block;
        I start = (I)(0);
        __global const int *from = AT(const int, bias) + group * out_c + c;
        if (has_bias)
            start = load_channels(from, out_c - c);
#ifdef WIDE
        I start_low = (I)(0);
        if (has_bias)
            start_low = load_channels(from + row_c, out_c - c);
#endif
        #pragma unroll
        for (int p = 0; p < P; p++) {
#if defined(WIDE)
            high[p][v] = start;
            low[p][v] = AS_UI(start_low);
            acc[p][v] = (A)(0);
#elif defined(DOT_FLOAT)
            total[p][v] = start;
            acc[p][v] = (A)(0);
#else
            acc[p][v] = start;
#endif
        }
    }

    int image[P];
    PLACE_PIXELS(image, 0, WORD)
#ifdef ZERO_W
    int sum_x[P];
    #pragma unroll
    for (int p = 0; p < P; p++)
        sum_x[p] = 0;
#endif

#ifdef PIECE
    int held = 0;  // words in acc since it was last added to the totals
#endif
    for (int ky = 0; ky < kernel_h; ky++) {
        bool inside = runs_on;
        #pragma unroll
        for (int p = 0; p < P; p++)
            inside = inside && (uint)(top[p] + ky * dilation_h) < (uint)height;
        const int runs = inside ? 1 : kernel_w, length = inside ? kernel_w * in_c : in_c;
        for (int run = 0; run < runs; run++) {
            __global const S *xp[P];
            // The last word may lie across the end of x, where a part of it must be read.
            bool whole = length % WORD == 0;
            if (!whole) {
                whole = true;
                #pragma unroll
                for (int p = 0; p < P; p++) {
                    const int iy = top[p] + ky * dilation_h, ix = left[p] + run * dilation_w;
                    whole = whole && ((uint)iy >= (uint)height || (uint)ix >= (uint)width
                        || image[p] + (iy * width + ix) * channels + words * WORD <= elements);
                }
            }
            #pragma unroll
            for (int p = 0; p < P; p++) {
                const int iy = top[p] + ky * dilation_h, ix = left[p] + run * dilation_w;
                xp[p] = (uint)iy < (uint)height && (uint)ix < (uint)width
                    ? AT(const S, x) + image[p] + (iy * width + ix) * channels
                    : AT(const S, zeros);
#ifdef ZERO_W
                sum_x[p] += sum_of(xp[p], length);
#endif
            }
            const int n = whole ? (length + WORD - 1) / WORD : length / WORD;
#if defined(DOT_FLOAT)
            for (int from = 0; from < length; from += PIECE * WORD) {
                float piece[P][PIECE * WORD];
                const int n = min(PIECE * WORD, length - from);
                #pragma unroll
                for (int p = 0; p < P; p++) {
                    int c = 0;
                    for (; c + 16 <= n; c += 16)
                        vstore16(convert_float16(vload16(0, xp[p] + from + c)), 0, piece[p] + c);
                    for (; c < n; c++)
                        piece[p][c] = xp[p][from + c];
                    for (; c % WORD; c++)
                        piece[p][c] = 0;
                }
#define WIDENED(p) piece[p][c + k]
                for (int c = 0; c < n; c += WORD)
                    STEP(WIDENED)
#elif defined(PIECE)
            for (int from = 0; from < (length + WORD - 1) / WORD; from += PIECE) {
#define WHOLE(p) LOAD_X(xp[p] + c * WORD)
#define PART(p) part_of_word(xp[p] + n * WORD, length - n * WORD)
                for (int c = from; c < min(from + PIECE, n); c++)
                    STEP(WHOLE)
                if (!whole && from + PIECE > n)
                    STEP(PART)
#else
#define WHOLE(p) LOAD_X(xp[p] + c * WORD)
#define PART(p) part_of_word(xp[p] + n * WORD, length - n * WORD)
            for (int c = 0; c < n; c++)
                STEP(WHOLE)
            if (!whole)
                STEP(PART)
#endif
#ifdef PIECE
                held += PIECE;
                if (held > LIMIT - PIECE) {
                    held = 0;
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        #pragma unroll
                        for (int v = 0; v < NV; v++)
                            FLUSH(p, v);
                }
            }
#endif
        }
    }

    // Copies that are indexed at run time, so that acc itself can stay in registers.
    I result[P][NV];
#ifdef WIDE
    I result_low[P][NV];
#endif
    #pragma unroll
    for (int p = 0; p < P; p++)
        #pragma unroll
        for (int v = 0; v < NV; v++) {
#if defined(WIDE)
            FLUSH(p, v);
            result[p][v] = high[p][v] + AS_I(low[p][v] >> 16);
            result_low[p][v] = AS_I(low[p][v] & 0xFFFF);
#elif defined(DOT_FLOAT)
            FLUSH(p, v);
            result[p][v] = total[p][v];
#else
            result[p][v] = acc[p][v];
#endif
#ifdef ZERO_W
            result[p][v] -= zero_w * sum_x[p];
#endif
        }
    const int count = min(P, pixels - pixel);
    #pragma unroll
    for (int v = 0; v < NV; v++) {
        const int c = first + v * VEC, lanes = out_c - c, channel = group * out_c + c;
        if (lanes <= 0)
            break;
        const I multiplier = load_channels(AT(const int, m0) + channel, lanes);
#if !defined(O_fp32) && !defined(O_fp16)
        int shifts[VEC];
        for (int k = 0; k < VEC; k++)
            shifts[k] = k < lanes ? AT(const char, t)[channel + k] : 1;
        const I shift = VLOAD(shifts);
#endif
        for (int p = 0; p < count; p++) {
            __global O *yp = AT(O, y) + (pixel + p) * row_c + channel;
            const I sum = result[p][v];
#if defined(O_fp32) || defined(O_fp16)
#ifdef WIDE
            // one rounding: the high part is below 2^24
            OF value = fma(GLUE(convert_float, VEC)(sum), (OF)(65536.0f),
                           GLUE(convert_float, VEC)(result_low[p][v]));
#else
            OF value = GLUE(convert_float, VEC)(sum);
#endif
            value = value * GLUE(as_float, VEC)(multiplier);
            value = ACTIVATE(value);
#else
#ifdef WIDE
            int parts[4][VEC];
            SPILL(sum, parts[0]);
            SPILL(result_low[p][v], parts[1]);
            SPILL(multiplier, parts[2]);
            SPILL(shift, parts[3]);
            for (int k = 0; k < VEC; k++)
                parts[0][k] = requantize_wide(parts[0][k], parts[1][k], parts[2][k], parts[3][k]);
            OF value = VLOAD(parts[0]);
#else
            OF value = requantizev(sum, multiplier, shift);
#endif
            value = saturate(value + zero_y, (OF)(least), (OF)(most));
#endif
            if (lanes >= VEC) {
                STOREV(value, yp);
            } else {
                OE part[VEC];
                SPILL(value, part);
                for (int k = 0; k < lanes; k++)
                    STORE(part[k], k, yp);
            }
        }
    }
}
