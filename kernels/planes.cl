// Layers over bit planes by decoding: words of planes become bytes in registers, whose products
// with activations the integer dot product sums. Convolutions; dense layers are those of one tap.
//
// acc = sum over taps and channels of q_t[o, k] * (x_k - zero_x), see edgerun/ops/planes.py for
// q_t; y by planes_end.cl; x by planes_rows.cl, whose row `outside` is read for taps outside the
// image. Arguments and their shapes: planes_head.cl.
//
// t, how many planes count, is read from `used`; planes behind are not read. Of the planes every
// work-item transposes 8 x 8 bits into bytes, the most significant plane on top: q_t times
// 2^(8 - t), a power of two that the sums lose again.
//
// A work-item computes P pixels times VEC output channels, for `tiles` times P pixels one after the
// other. Global size (ceil(out_c / VEC), ceil(pixels / (P * tiles)), groups).
//
// T_uint8, T_int16: x. O_uint8, O_int16, O_fp32, O_fp16: y.
// P: 1 and up; P vectors of accumulators, 8 of weights and some more should fit into the registers.
// VEC: 4, 8 or 16.
// SIGNS_MAGNITUDE, SIGNS_PAIRS, SIGNS_POWERS: how planes hold signs; else two's complement. Of
//    magnitudes at most 7 planes beside the sign, of pairs at most 7.
// CENTRE: x has a zero point, or is int16: it is stored with an offset, which costs the sum of q_t.
// DOT_...: see dot.cl.

#include "dot.cl"
#include "planes_head.cl"

typedef GLUE(uint, VEC) UV32;
#include "powers.cl"
#ifdef T_int16
#define UNITS 16
#else
#define UNITS 8
#endif
// Sums that do not wait for each other.
#if P == 1
#define CHAINS 4
#elif P < 4
#define CHAINS 2
#else
#define CHAINS 1
#endif
#if defined(SIGNS_MAGNITUDE) || defined(SIGNS_POWERS)
#define TOP 7  // bits of a byte
#define FIRST 1  // plane
#elif defined(SIGNS_PAIRS)
#define TOP 7
#define FIRST 0
#else
#define TOP 8
#define FIRST 0
#endif

// Bit j of every byte of r[i] becomes bit i of that byte of r[j].
#define SWAP(i, j, s, mask)                                                                        \
    {                                                                                              \
        const UV32 a = r[i], b = r[j];                                                             \
        r[i] = (a & (mask)) | ((b << (s)) & ~(mask));                                              \
        r[j] = ((a >> (s)) & (mask)) | (b & ~(mask));                                              \
    }
#define TRANSPOSE                                                                                  \
    SWAP(0, 1, 1u, 0x55555555u) SWAP(2, 3, 1u, 0x55555555u)                                        \
    SWAP(4, 5, 1u, 0x55555555u) SWAP(6, 7, 1u, 0x55555555u)                                        \
    SWAP(0, 2, 2u, 0x33333333u) SWAP(1, 3, 2u, 0x33333333u)                                        \
    SWAP(4, 6, 2u, 0x33333333u) SWAP(5, 7, 2u, 0x33333333u)                                        \
    SWAP(0, 4, 4u, 0x0F0F0F0Fu) SWAP(1, 5, 4u, 0x0F0F0F0Fu)                                        \
    SWAP(2, 6, 4u, 0x0F0F0F0Fu) SWAP(3, 7, 4u, 0x0F0F0F0Fu)

// The bytes of a word of every lane's weights, 8 b + j in byte b of q[j], from at most n planes. A
// plane that does not count is 0; more than half of n planes count.
#define LOAD_PLANE(i) VLOAD(plane[i] + word)
#ifdef SIGNS_POWERS
#define PLANE_OR_0(i, n, load) ((i) < (n) ? (load) : (UV32)(0))
#else
#define PLANE_OR_0(i, n, load) ((i) < (n) && ((i) <= (n) / 2 || (i) < counted) ? (load) : (UV32)(0))
#endif
#if defined(SIGNS_PAIRS) || defined(SIGNS_MAGNITUDE) || defined(SIGNS_POWERS)
#if defined(SIGNS_POWERS)
#define POSITIVE(i) (power_of(e, 6 - (i)) & ~sign)
#define NEGATIVE(i) (power_of(e, 6 - (i)) & sign)
#define SIGN                                                                                       \
    const UV32 sign = LOAD_PLANE(0);                                                               \
    EXPONENT(e, plane, word, t, planes)
#elif defined(SIGNS_PAIRS)
#define POSITIVE(i) LOAD_PLANE(2 * (i))
#define NEGATIVE(i) LOAD_PLANE(2 * (i) + 1)
#define SIGN
#else
#define POSITIVE(i) (LOAD_PLANE((i) + 1) & ~sign)
#define NEGATIVE(i) (LOAD_PLANE((i) + 1) & sign)
#define SIGN const UV32 sign = LOAD_PLANE(0);
#endif
#define DECODE(n)                                                                                  \
    {                                                                                              \
        SIGN                                                                                       \
        UV32 r[8];                                                                                 \
        _Pragma("unroll") for (int i = 0; i < 8; i++)                                              \
            r[(14 - i) & 7] = PLANE_OR_0(i, n, POSITIVE(i));                                       \
        TRANSPOSE                                                                                  \
        _Pragma("unroll") for (int i = 0; i < 8; i++) q[i] = r[i] | 0x80808080u;                   \
        _Pragma("unroll") for (int i = 0; i < 8; i++)                                              \
            r[(14 - i) & 7] = PLANE_OR_0(i, n, NEGATIVE(i));                                       \
        TRANSPOSE                                                                                  \
        _Pragma("unroll") for (int i = 0; i < 8; i++) q[i] = (q[i] - r[i]) ^ 0x80808080u;          \
    }
#else
#define DECODE(n)                                                                                  \
    {                                                                                              \
        UV32 r[8];                                                                                 \
        _Pragma("unroll") for (int i = 0; i < 8; i++)                                              \
            r[7 - i] = PLANE_OR_0(i, n, LOAD_PLANE(i));                                            \
        TRANSPOSE                                                                                  \
        _Pragma("unroll") for (int i = 0; i < 8; i++) q[i] = r[i];                                 \
    }
#endif

#define MAC(acc, x, w) mac4(acc, x, GLUE(as_int, VEC)(w))
#ifdef T_int16
#define MAC_HIGH_OF(high) high[p] = MAC(high[p], xp[p][c * UNITS + 8 + j], q[j]);
#else
#define MAC_HIGH_OF(high)
#endif
#ifdef CENTRE
#define MAC_ONES_OF(ones)                                                                          \
    _Pragma("unroll") for (int j = 0; j < 8; j++) ones = MAC(ones, 0x01010101, q[j]);
#else
#define MAC_ONES_OF(ones)
#endif
#ifdef SIGNS_POWERS  // 2^7, which no byte holds with both signs, apart
#define MAC_TOP                                                                                    \
    {                                                                                              \
        const UV32 sign = LOAD_PLANE(0);                                                           \
        EXPONENT(e, plane, word, t, planes)                                                        \
        const UV32 top_bits = power_of(e, 7), plus = top_bits & ~sign, minus = top_bits & sign;    \
        _Pragma("unroll") for (int j = 0; j < 8; j++)                                              \
            q[j] = ((plus >> (uint)j & 0x01010101u | 0x80808080u)                                  \
                    - (minus >> (uint)j & 0x01010101u)) ^ 0x80808080u;                             \
        MAC_ONES_OF(ones_top)                                                                      \
        _Pragma("unroll") for (int p = 0; p < P; p++)                                              \
            _Pragma("unroll") for (int j = 0; j < 8; j++) {                                        \
                acc_top[p] = MAC(acc_top[p], xp[p][c * UNITS + j], q[j]);                          \
                MAC_HIGH_OF(high_top)                                                              \
            }                                                                                      \
    }
#else
#define MAC_TOP
#endif
// The words of one run of channels, of which at most the first n planes count.
#define RUN(n)                                                                                     \
        for (int c = 0; c < words; c++, word += step) {                                            \
            UV32 q[8];                                                                             \
            DECODE(n)                                                                              \
            MAC_ONES_OF(ones)                                                                      \
            _Pragma("unroll") for (int p = 0; p < P; p++)                                          \
                _Pragma("unroll") for (int j = 0; j < 8; j++) {                                    \
                    acc[p][j % CHAINS] = MAC(acc[p][j % CHAINS], xp[p][c * UNITS + j], q[j]);      \
                    MAC_HIGH_OF(high)                                                              \
                }                                                                                  \
            MAC_TOP                                                                                \
        }

// The hint is that of conv_integer.cl.
__attribute__((vec_type_hint(float16)))
__kernel void planes(PARAMETERS) {
    PLACE_ITEM
    const int counted = max(t - FIRST, 0);  // planes beside a sign
    for (; pixel < end; pixel += P) {
        PLACE_TILE
        I acc[P][CHAINS];
        int sum[P];
        #pragma unroll
        for (int p = 0; p < P; p++) {
            sum[p] = 0;
            #pragma unroll
            for (int j = 0; j < CHAINS; j++)
                acc[p][j] = (I)(0);
        }
#ifdef T_int16
        I high[P];
        #pragma unroll
        for (int p = 0; p < P; p++)
            high[p] = (I)(0);
#endif
#ifdef CENTRE
        I ones = (I)(0);
#endif
#ifdef SIGNS_POWERS
        I acc_top[P], high_top[P], ones_top = (I)(0);
        #pragma unroll
        for (int p = 0; p < P; p++)
            acc_top[p] = high_top[p] = (I)(0);
#endif
        int word = start;
        for (int ky = 0; ky < kernel_h; ky++) {
            for (int kx = 0; kx < kernel_w; kx++) {
                PLACE_TAP
                #pragma unroll
                for (int p = 0; p < P; p++)
                    sum[p] += xp[p][words * UNITS];
#ifdef SIGNS_POWERS
                if (counted > 0) {
                    RUN(TOP)
                }
#else
                if (counted > 4) {
                    RUN(TOP)
                } else if (counted > 2) {
                    RUN(4)
                } else if (counted == 2) {
                    RUN(2)
                } else if (counted == 1) {
                    RUN(1)
                }
#endif
            }
        }
        const int count = min(P, end - pixel);
        #pragma unroll
        for (int p = 0; p < P; p++) {
            I low = acc[p][0];
            #pragma unroll
            for (int j = 1; j < CHAINS; j++)
                low += acc[p][j];
            I upper = (I)(0), total = (I)(0);
#ifdef T_int16
            upper = high[p];
#endif
#ifdef CENTRE
            total = ones;
#endif
#ifdef SIGNS_POWERS
            low += acc_top[p] * 128;
            upper += high_top[p] * 128;
            total += ones_top * 128;
#else
            low >>= TOP - counted;
            upper >>= TOP - counted;
            total >>= TOP - counted;
#endif
#ifdef T_int16
            upper -= total * 128;
#else
            low -= total * zero_x;
#endif
            const OF result = result_of(number_of(upper, low), convert_float(sum[p]), a, b, from,
                                        (int4)(zero_y, least, most, 0), alpha, beta);
            if (p < count)
                store_channels(result, lanes, AT(O, y) + (first_y + pixel + p) * row_y
                                              + group * out_c + first);
        }
        NEXT_TILE
    }
}
