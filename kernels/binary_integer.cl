// Binary ops over quantized integers with broadcasting; a, b [...] -> y [dims].
//
// a' and b' are a and b less their zero points, R(v, m) = requantize(v, m.m0, m.t) of integer.cl.
// y = clamp(zero + ...) of
//   sum:                  (a' ma + b' mb + 2^(k-1)) >> k
//   scaled_sum:           R(R(a' 2^shift, ma) +- R(b' 2^shift, mb), my)
//   squared_difference:   R((R(a' 2^shift, ma) - R(b' 2^shift, mb))^2, my)
//   product:              R(a' b', m)
//   prelu:                a' < 0 ? R(a' b', m) : R(a', ma)
//   extreme:              the smaller or the larger of R(a', ma) and R(b', mb)
//
// y is row-major, its rows row_y elements apart; a and b are walked with the strides sa and sb
// (elements; 0 repeats; 0 or 1 along axis 7). Axes before the first are 1. A work-item computes
// `run` indices of axis 7 for `rows` of axis 6: global size (ceil(dims_7 / run),
// ceil(dims_6 / rows), product of dims_0 .. dims_5).
// work: run, rows, and the least and largest y. dims_7 is at least VEC.
//
// T_<dtype>, O_<dtype>: stored types of a and b and, where it is another one, of y.
// ROUND_TWICE: see integer.cl.

#include "integer.cl"
#include "outer.cl"

#define TO_I LANED(convert_int)
#define TO_OF LANED(GLUE(convert_, OE))
#define OPERANDS                                                                        \
    TENSOR(a), TENSOR(b), TENSOR(y), const int8 dims, const int8 sa, const int8 sb,     \
    const int row_y, const int4 work
#define R(v, m0, t) requantizev((v), (I)(m0), (I)(t))

// VEC elements from p on, or one that repeats
I operand(const int step, __global const S *p) {
    return step ? TO_I(LOADV(p)) : (I)((int)LOAD(0, p));
}
I part(const int n, const int step, __global const S *p) {
    return step ? TO_I(load_some(n, p)) : (I)((int)LOAD(0, p));
}

// y = clamp(RESULT) over the elements of a work-item, RESULT an expression of the I `a` and `b`.
// The last vector of a row ends where the row does and is read before the others are written, so
// that y may be a or b.
#define FOR_ALL(RESULT)                                                                    \
    const int i0 = get_global_id(0) * work.s0, j0 = get_global_id(1) * work.s1;            \
    const int n = min(work.s0, dims.s7 - i0), rows = min(work.s1, dims.s6 - j0);           \
    const int row = get_global_id(2), whole = n / VEC * VEC;                               \
    const int2 at = outer(row, dims, sa, sb);                                              \
    __global const S *ap = AT(const S, a) + at.s0 + i0 * sa.s7 + j0 * sa.s6;               \
    __global const S *bp = AT(const S, b) + at.s1 + i0 * sb.s7 + j0 * sb.s6;               \
    __global O *yp = AT(O, y) + (row * dims.s6 + j0) * row_y + i0;                         \
    for (int j = 0; j < rows; j++, ap += sa.s6, bp += sb.s6, yp += row_y) {                \
        OF last;                                                                           \
        if (whole < n) {                                                                   \
            const int from = max(0, n - VEC);                                              \
            const I a = whole ? operand(sa.s7, ap + from * sa.s7) : part(n, sa.s7, ap);    \
            const I b = whole ? operand(sb.s7, bp + from * sb.s7) : part(n, sb.s7, bp);    \
            last = TO_OF(saturate(RESULT, (I)(work.s2), (I)(work.s3)));                    \
        }                                                                                  \
        for (int i = 0; i < whole; i += VEC) {                                             \
            const I a = operand(sa.s7, ap + i * sa.s7), b = operand(sb.s7, bp + i * sb.s7); \
            STOREV(TO_OF(saturate(RESULT, (I)(work.s2), (I)(work.s3))), yp + i);           \
        }                                                                                  \
        if (whole && whole < n) STOREV(last, yp + n - VEC);                                \
        else if (whole < n) store_some(last, n, yp);                                       \
    }

// m: ma, mb, 2^(k-1) less what the zero points add, k
__kernel void sum(OPERANDS, const int4 m, const int zero) {
    FOR_ALL(((a * m.s0 + b * m.s1 + m.s2) >> m.s3) + zero)
}

// ma: zero, m0, t, sign of b; mb: zero, m0, t, shift; my: zero, m0, t
__kernel void scaled_sum(OPERANDS, const int4 ma, const int4 mb, const int4 my) {
    FOR_ALL(R(R((a - ma.s0) * (1 << mb.s3), ma.s1, ma.s2)
              + ma.s3 * R((b - mb.s0) * (1 << mb.s3), mb.s1, mb.s2), my.s1, my.s2) + my.s0)
}

I square(const I v) { return v * v; }

// as scaled_sum
__kernel void squared_difference(OPERANDS, const int4 ma, const int4 mb, const int4 my) {
    FOR_ALL(R(square(R((a - ma.s0) * (1 << mb.s3), ma.s1, ma.s2)
                     - R((b - mb.s0) * (1 << mb.s3), mb.s1, mb.s2)), my.s1, my.s2) + my.s0)
}

// zeros: of a, b, y; m: m0, t
__kernel void product(OPERANDS, const int4 zeros, const int4 m) {
    FOR_ALL(R((a - zeros.s0) * (b - zeros.s1), m.s0, m.s1) + zeros.s2)
}

// zeros: of a, b, y; m: m0, t of ma, then of m
__kernel void prelu(OPERANDS, const int4 zeros, const int4 m) {
    FOR_ALL((a < zeros.s0 ? R((a - zeros.s0) * (b - zeros.s1), m.s2, m.s3)
                          : R(a - zeros.s0, m.s0, m.s1)) + zeros.s2)
}

// ma: zero, m0, t, whether the larger is wanted; mb: zero, m0, t
__kernel void extreme(OPERANDS, const int4 ma, const int4 mb, const int zero) {
    FOR_ALL((ma.s3 ? max(R(a - ma.s0, ma.s1, ma.s2), R(b - mb.s0, mb.s1, mb.s2))
                   : min(R(a - ma.s0, ma.s1, ma.s2), R(b - mb.s0, mb.s1, mb.s2))) + zero)
}
