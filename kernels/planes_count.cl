// Layers over bit planes by counting: bits that a word of weights and a word of one bit of every
// activation have in common. For memory-bound layers where no instruction sums products of bytes.
//
// acc = sum over taps and channels of q_t[o, k] * (x_k - zero_x)
//     = sum over planes i and bits j of 2^i * 2^j * popcount(plane i & bit j of x - zero_x)
// where planes and bits of a sign count negative; see edgerun/ops/planes.py for q_t; y by
// planes_end.cl; x by planes_rows.cl (BITS), whose row `outside` is read for taps outside the
// image. Arguments and their shapes: planes_head.cl.
//
// t, how many planes count, is read from `used`; planes behind are not read. A work-item computes P
// pixels times VEC output channels, plane by plane, for `tiles` times P pixels one after the other.
// Global size (ceil(out_c / VEC), ceil(pixels / (P * tiles)), groups).
//
// T_uint8, T_int16: x. O_uint8, O_int16, O_fp32, O_fp16: y.
// P: 1 and up; P times 8 (16 for int16) vectors of counts should fit into the registers.
// VEC: 4, 8 or 16.
// SIGNS_MAGNITUDE, SIGNS_PAIRS, SIGNS_POWERS: how planes hold signs; else two's complement.
// SIGNED: T_uint8 only: x - zero_x has 9 bits.
// COUNT_VPOPCNT: x86 with AVX-512 VPOPCNTDQ and VL, by a compiler that takes assembly.

#include "planes_head.cl"
#include "popcount.cl"
#include "powers.cl"

#if defined(T_int16)
#define UNITS 16
#elif defined(SIGNED)
#define UNITS 9
#else
#define UNITS 8
#endif
// Passes over the weights: one per plane; of magnitudes two, of all elements and of negative ones.
#if defined(SIGNS_POWERS)
#define PASSES(t) ((t) > 1 ? 16 : 0)
#define PLANE(pass) 0
#define IS_NEXT(pass) ((pass) % 2 == 0)
#define FACTOR(pass) ((pass) % 2 == 0 ? 1 : -2)
#elif defined(SIGNS_MAGNITUDE)
#define PASSES(t) (2 * max((t) - 1, 0))
#define PLANE(pass) (1 + (pass) / 2)
#define IS_NEXT(pass) ((pass) % 2 == 0)
#define FACTOR(pass) ((pass) % 2 == 0 ? 1 : -2)
#elif defined(SIGNS_PAIRS)
#define PASSES(t) (2 * (t))
#define PLANE(pass) (pass)
#define IS_NEXT(pass) ((pass) % 2 == 0)
#define FACTOR(pass) ((pass) % 2 == 0 ? 1 : -1)
#else
#define PASSES(t) (t)
#define PLANE(pass) (pass)
#define IS_NEXT(pass) true
#define FACTOR(pass) ((pass) == 0 ? -1 : 1)
#endif

// The hint is that of conv_integer.cl.
__attribute__((vec_type_hint(float16)))
__kernel void planes_count(PARAMETERS) {
    PLACE_ITEM
    for (; pixel < end; pixel += P) {
        PLACE_TILE
        I low[P], high[P];
        int sum[P];
        #pragma unroll
        for (int p = 0; p < P; p++) {
            low[p] = high[p] = (I)(0);
            sum[p] = 0;
        }
        // one pass at least, for the sums
        for (int pass = 0; pass < max(PASSES(t), 1); pass++) {
            __global const uint *w = plane[PLANE(pass)] + start;
#ifdef SIGNS_POWERS
            int at_word = start;
#endif
#ifdef SIGNS_MAGNITUDE
            __global const uint *mask = pass % 2 == 0 ? w : plane[0] + start;
#endif
            UV32 count[P][UNITS];
            #pragma unroll
            for (int p = 0; p < P; p++)
                #pragma unroll
                for (int j = 0; j < UNITS; j++)
                    count[p][j] = (UV32)(0);
            for (int ky = 0; ky < kernel_h; ky++) {
                for (int kx = 0; kx < kernel_w; kx++) {
                    PLACE_TAP
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        sum[p] += pass == 0 ? xp[p][words * UNITS] : 0;
                    for (int c = 0; c < (PASSES(t) > 0 ? words : 0); c++) {
#if defined(SIGNS_POWERS)
                        EXPONENT(e, plane, at_word, t, planes)
                        const UV32 every = power_of(e, 7 - pass / 2);
                        const UV32 word = pass % 2 == 0 ? every : every & VLOAD(w);
                        at_word += step;
#elif defined(SIGNS_MAGNITUDE)
                        const UV32 word = VLOAD(w) & VLOAD(mask);
                        mask += step;
#else
                        const UV32 word = VLOAD(w);
#endif
                        w += step;
                        #pragma unroll
                        for (int p = 0; p < P; p++)
                            #pragma unroll
                            for (int j = 0; j < UNITS; j++)
                                count[p][j] += bits_in(word & (uint)xp[p][c * UNITS + j]);
                    }
                }
            }
            #pragma unroll
            for (int p = 0; p < P; p++) {
                I part = GLUE(as_int, VEC)(count[p][7]), upper = (I)(0);
                #pragma unroll
                for (int j = 6; j >= 0; j--)
                    part = part * 2 + GLUE(as_int, VEC)(count[p][j]);
#ifdef T_int16
                upper = -GLUE(as_int, VEC)(count[p][15]);
                #pragma unroll
                for (int j = 14; j >= 8; j--)
                    upper = upper * 2 + GLUE(as_int, VEC)(count[p][j]);
#elif defined(SIGNED)
                part -= GLUE(as_int, VEC)(count[p][8]) * 256;
#endif
                const int twice = IS_NEXT(pass) ? 2 : 1;
                low[p] = low[p] * twice + part * FACTOR(pass);
                high[p] = high[p] * twice + upper * FACTOR(pass);
            }
        }
        const int some = min(P, end - pixel);
        #pragma unroll
        for (int p = 0; p < P; p++) {
            const OF result = result_of(number_of(high[p], low[p]), convert_float(sum[p]), a, b,
                                        from, (int4)(zero_y, least, most, 0), alpha, beta);
            if (p < some)
                store_channels(result, lanes, AT(O, y) + (first_y + pixel + p) * row_y
                                              + group * out_c + first);
        }
        NEXT_TILE
    }
}
