// Conversions to, from and between quantized integers, x [n] -> y [n].
//
// quantize:    y = clamp(round(x / scale) + zero), halves to even, NaN as 0
// dequantize:  y = scale (x - zero)
// rescale:     y = clamp(requantize(x - zero_x, m0, t) + zero_y, low, high), see integer.cl
// leaky_relu:  the same, with the multiplier n0, s where x < zero_x
// rescale_rows: as rescale, rows of x that lie apart in y
// interleave:  as rescale, a [n] and b [n] to the even and odd elements of y [2 n]; VEC 2 and up
//
// A work-item converts `run` elements, whole vectors: global size (ceil(n / run), 1, 1).
// Every vector is read before it is written.
//
// T_<dtype>, O_<dtype>: stored types of x and, where it is another one, of y.
// ROUND_TWICE: see integer.cl.

#include "integer.cl"

typedef LANED(float) R;
#define TO_R LANED(convert_float)
#define TO_I LANED(convert_int)
#define TO_OF LANED(GLUE(convert_, OE))

// y = STEP, an expression of the F `v`, over the elements of a work-item
#define CONVERT_RUN(STEP)                                                     \
    const int start = get_global_id(0) * run, stop = min(start + run, n);     \
    __global const S *xp = AT(const S, x);                                    \
    __global O *yp = AT(O, y);                                                \
    int i = start;                                                            \
    for (; i + VEC <= stop; i += VEC) {                                       \
        const F v = LOADV(xp + i);                                            \
        STOREV(STEP, yp + i);                                                 \
    }                                                                         \
    if (i < stop) {                                                           \
        const F v = load_some(stop - i, xp + i);                              \
        store_some(STEP, stop - i, yp + i);                                   \
    }

#ifdef O_int32
#define BOUNDED(q, low, high) GLUE(LANED(convert_int), _sat)(q)
#else
#define BOUNDED(q, low, high) TO_I(fmin(fmax((q), (R)(low)), (R)(high)))
#endif

// round(x / scale) between low and high, where scale = divisor / factor, factor a power of two, and
// inverse = 1 / divisor rounded to nearest. Two steps of refinement make the quotient the correctly
// rounded one (Markstein 1990); they would make NaN of infinities, which saturate.
I steps(const R v, const float factor, const float divisor, const float inverse, const float low,
        const float high) {
    const R x = v * factor;
    R q = x * inverse;
    q = fma(fma(-q, (R)(divisor), x), (R)(inverse), q);
    q = fma(fma(-q, (R)(divisor), x), (R)(inverse), q);
    q = rint(fabs(x) < (R)(0x1p100f) ? q : x);
    q = isnan(x) ? (R)(0.0f) : q;
    return BOUNDED(q, low, high);
}

// low and high are those of y less its zero point; int32 has the zero point 0, and its own bounds
__kernel void quantize(TENSOR(x), TENSOR(y), const int n, const int run, const float factor,
                       const float divisor, const float inverse, const float low,
                       const float high, const int zero) {
    CONVERT_RUN(TO_OF(steps(TO_R(v), factor, divisor, inverse, low, high) + zero))
}

__kernel void dequantize(TENSOR(x), TENSOR(y), const int n, const int run, const float scale,
                         const int zero) {
    CONVERT_RUN(TO_OF(TO_R(TO_I(v) - zero) * scale))
}

__kernel void rescale(TENSOR(x), TENSOR(y), const int n, const int run, const int zero_x,
                      const int zero_y, const int m0, const int t, const int low,
                      const int high) {
    CONVERT_RUN(TO_OF(saturate(steps_of(TO_I(v) - zero_x, (I)(m0), (I)(t)) + zero_y, (I)(low),
                               (I)(high))))
}

__kernel void leaky_relu(TENSOR(x), TENSOR(y), const int n, const int run, const int zero_x,
                         const int zero_y, const int m0, const int t, const int low,
                         const int high, const int n0, const int s) {
    CONVERT_RUN(TO_OF(saturate(
        (TO_I(v) < zero_x ? steps_of(TO_I(v) - zero_x, (I)(n0), (I)(s))
                          : steps_of(TO_I(v) - zero_x, (I)(m0), (I)(t))) + zero_y,
        (I)(low), (I)(high))))
}

// x [rows, width], rows row_x apart -> y[first + row step + k]; size: width, rows, and the elements
// and rows that a work-item brings over: global size (ceil(width / size.s2),
// ceil(rows / size.s3), 1)
__kernel void rescale_rows(TENSOR(x), TENSOR(y), const int4 size, const int row_x, const int first,
                           const int step, const int zero_x, const int zero_y, const int m0,
                           const int t, const int low, const int high) {
    const int from = get_global_id(0) * size.s2, n = min(size.s2, size.s0 - from);
    const int row = get_global_id(1) * size.s3, rows = min(size.s3, size.s1 - row);
    __global const S *xp = AT(const S, x) + row * row_x + from;
    __global O *yp = AT(O, y) + first + row * step + from;
    for (int j = 0; j < rows; j++, xp += row_x, yp += step)
        for (int i = 0; i < n; i += VEC) {
            const int some = n - i < VEC;
            const I v = some ? TO_I(load_some(n - i, xp + i)) : TO_I(LOADV(xp + i));
            const OF y = TO_OF(saturate(steps_of(v - zero_x, (I)(m0), (I)(t)) + zero_y, (I)(low),
                                        (I)(high)));
            if (some) store_some(y, n - i, yp + i);
            else STOREV(y, yp + i);
        }
}

// ma, mb: zero, m0, t, unused; ends: zero of y, low, high, unused
#if VEC > 1
__kernel void interleave(TENSOR(a), TENSOR(b), TENSOR(y), const int n, const int run, const int4 ma,
                         const int4 mb, const int4 ends) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    __global const S *ap = AT(const S, a), *bp = AT(const S, b);
    __global O *yp = AT(O, y);
    int i = start;
    for (; i < stop; i += VEC) {
        const int some = stop - i < VEC;
        const I v = some ? TO_I(load_some(stop - i, ap + i)) : TO_I(LOADV(ap + i));
        const I w = some ? TO_I(load_some(stop - i, bp + i)) : TO_I(LOADV(bp + i));
        const I p = saturate(steps_of(v - ma.s0, (I)(ma.s1), (I)(ma.s2)) + ends.s0, (I)(ends.s1),
                             (I)(ends.s2));
        const I q = saturate(steps_of(w - mb.s0, (I)(mb.s1), (I)(mb.s2)) + ends.s0, (I)(ends.s1),
                             (I)(ends.s2));
        I low, high;
        low.even = p.lo;
        low.odd = q.lo;
        high.even = p.hi;
        high.odd = q.hi;
        if (some) {
            const int left = 2 * (stop - i);
            store_some(TO_OF(low), min(left, VEC), yp + 2 * i);
            store_some(TO_OF(high), max(left - VEC, 0), yp + 2 * i + VEC);
        } else {
            STOREV(TO_OF(low), yp + 2 * i);
            STOREV(TO_OF(high), yp + 2 * i + VEC);
        }
    }
}
#endif
