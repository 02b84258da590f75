// What kernels with integer weights share; a family includes it with #include "weights.cl".
//
// Forms, by the stored types of the activations x (T_), the weights w (W_) and the result y (O_):
//   integers            T_uint8 or T_int16, W_int8 or W_int16, O_uint8 or O_int16:
//                       y = saturate(requantize(acc, m0[o], t[o]) + zero, low, high)
//   integers to floats  the same x and w, O_fp32 or O_fp16: y = ACTIVATE(acc * scale[o])
//   weights only        T_fp32 or T_fp16, W_int8 or W_int16: y = ACTIVATE(acc * scale[o] + bias[o]
//                       + residual)
// where acc is the sum of the products of x and w; over integers it starts at the bias.
//
// ZERO_W: only with T_uint8. The weights have a zero point.
// WIDE: only with T_int16. acc may exceed 32 bits: it is kept as hi * 2^16 + lo, and so is the
//       bias (two rows). lo stays below 2^32 if there are at most 65000 products.
//
//   BITS(type, p)         VEC elements of a type at p
//   TO(type)              converts a vector to one of another type
//   R                     VEC floats
//   W, WLOAD(p)           stored type of the weights; VEC of them as F
//   INTEGERS, QUANTIZED   defined where x, or y, is an integer
//   SUM                   VEC sums; no_sum() is 0
//   WEIGH(sum, x, w)      add x * w, each an F
//   ADD(sum, v)           integers: add v, an I
//   bias_sum(p, row)      integers: the bias at p, where sums start; `row` elements from hi to lo
//   finish(..)            the result as OF. Arguments: the sums; if QUANTIZED m0 and t as I and the
//                         ends (zero, low, high, unused); else the scales, for weights only also
//                         bias and residual, all as R, and alpha, beta

#include "integer.cl"

#if defined(W_int16)
typedef short W;
#else
typedef char W;
#endif
#if VEC == 1
#define BITS(type, p) (*(p))
#define TO(type) GLUE(convert_, type)
typedef float R;
#else
#define BITS(type, p) GLUE(vload, VEC)(0, p)
#define TO(type) GLUE(GLUE(convert_, type), VEC)
typedef GLUE(float, VEC) R;
#endif
#if defined(T_uint8) || defined(T_int16)
#define INTEGERS
#endif
#if defined(O_uint8) || defined(O_int16)
#define QUANTIZED
#endif

#if !defined(INTEGERS)
#define WLOAD(p) TO(float)(BITS(W, p))
typedef F SUM;
#define WEIGH(sum, x, w) sum = fma((x), (w), sum)
SUM no_sum(void) { return (F)(0); }
#elif !defined(WIDE)
#define WLOAD(p) TO(int)(BITS(W, p))
typedef I SUM;
#define ADD(sum, v) sum += (v)
#define WEIGH(sum, x, w) ADD(sum, (x) * (w))
SUM no_sum(void) { return (I)(0); }
SUM bias_sum(__global const int *p, const int row) { return BITS(int, p); }
#else
#define WLOAD(p) TO(int)(BITS(W, p))
typedef struct { I hi, lo; } SUM;
#define ADD(sum, v) { const I part = (v); sum.hi += part >> 16; sum.lo += part & 0xFFFF; }
#define WEIGH(sum, x, w) ADD(sum, (x) * (w))
SUM no_sum(void) {
    SUM sum;
    sum.hi = sum.lo = (I)(0);
    return sum;
}
SUM bias_sum(__global const int *p, const int row) {
    SUM sum;
    sum.hi = BITS(int, p);
    sum.lo = BITS(int, p + row);
    return sum;
}
#endif

#if !defined(INTEGERS)
OF finish(const SUM sum, const R scale, const R bias, const R residual, const float alpha,
          const float beta) {
    const R x = fma(sum, scale, bias) + residual;
    return ACTIVATE(x);
}
#elif !defined(QUANTIZED)
OF finish(const SUM sum, const R scale, const float alpha, const float beta) {
#ifdef WIDE
    const R whole = fma(TO(float)(sum.hi + AS_SIGNED(AS_UNSIGNED(sum.lo) >> 16)), (R)(65536.0f),
                        TO(float)(sum.lo & 0xFFFF));
#else
    const R whole = TO(float)(sum);
#endif
    const R x = whole * scale;
    return ACTIVATE(x);
}
#else
OF finish(const SUM sum, const I m0, const I t, const int4 ends) {
#ifdef WIDE
    const I steps = requantizev_wide(sum.hi, sum.lo, m0, t);
#else
    const I steps = steps_of(sum, m0, t);
#endif
    return saturate(steps + ends.s0, ends.s1, ends.s2);
}
#endif
