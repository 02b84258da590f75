// Elementwise ops.
//
// unary:  y[i] = EXPRESSION(x[i])                 global size (ceil(n / VEC))
// binary: y[o, i] = ACTIVATE(BINARY(a, b))    global size (ceil(inner / VEC), outer)
//
// EXPRESSION: C expression of x, alpha, beta (unary), over E or its vectors.
// BINARY:     C expression of a and b.
// O_fp32, O_fp16: y has another stored type than x, a and b.
// OUT_bool:   y is bool, EXPRESSION a comparison.
// Both loops end with single elements, so that y may be one of the inputs.

#ifdef OUT_bool
#define DEFAULT(p, q) (p == q)
#else
#define DEFAULT(p, q) (p)
#endif
#ifndef EXPRESSION
#define EXPRESSION DEFAULT(x, x)
#endif
#ifndef BINARY
#define BINARY DEFAULT(a, b)
#endif

#ifdef OUT_bool
typedef uchar Y;
#if VEC == 1
#define PUTV(v, p) (*(p) = (uchar)((v) & 1))
#else
#define PUTV(v, p) GLUE(vstore, VEC)(GLUE(convert_uchar, VEC)((v) & 1), 0, p)
#endif
#define PUT(v, p) (*(p) = (uchar)((v) & 1))
#define RESULT(type) BINARY
#else
typedef O Y;
#define PUTV(v, p) STOREV(v, p)
#define PUT(v, p) STORE(v, 0, p)
#define RESULT(type) activate_##type(BINARY, alpha, beta)
#endif

F activate_F(const F x, const float alpha, const float beta) { return ACTIVATE(x); }
E activate_E(const E x, const float alpha, const float beta) { return ACTIVATE(x); }

// x [n], y [n]
__kernel void unary(TENSOR(x), TENSOR(y), const int n, const float alpha, const float beta) {
    const int i = get_global_id(0) * VEC;
    __global const S *xp = AT(const S, x) + i;
    __global Y *yp = AT(Y, y) + i;
    if (i + VEC <= n) {
        const F x = LOADV(xp);
        PUTV(EXPRESSION, yp);
    } else {
        for (int k = 0; k < n - i; k++) {
            const E x = LOAD(k, xp);
            PUT(EXPRESSION, yp + k);
        }
    }
}

// y [dims], row-major; a and b are walked with the strides sa and sb (elements; 0 repeats).
// Axis 7 is the inner one; axes before the first are 1.
__kernel void binary(TENSOR(a), TENSOR(b), TENSOR(y), const int8 dims, const int8 sa, const int8 sb,
                     const float alpha, const float beta) {
    const int inner = dims.s7, i = get_global_id(0) * VEC, row = get_global_id(1);
    int d[8], pa[8], pb[8];
    vstore8(dims, 0, d);
    vstore8(sa, 0, pa);
    vstore8(sb, 0, pb);
    int at_a = i * sa.s7, at_b = i * sb.s7, rest = row;
    for (int axis = 6; axis >= 0 && rest > 0; axis--) {
        const int index = rest % d[axis];
        rest /= d[axis];
        at_a += index * pa[axis];
        at_b += index * pb[axis];
    }
    __global const S *ap = AT(const S, a) + at_a;
    __global const S *bp = AT(const S, b) + at_b;
    __global Y *yp = AT(Y, y) + row * inner + i;
    if (i + VEC <= inner && sa.s7 < 2 && sb.s7 < 2) {
        const F a = sa.s7 ? LOADV(ap) : (F)(LOAD(0, ap));
        const F b = sb.s7 ? LOADV(bp) : (F)(LOAD(0, bp));
        PUTV(RESULT(F), yp);
    } else {
        const int n = min(VEC, inner - i);
        for (int k = 0; k < n; k++) {
            const E a = LOAD(k * sa.s7, ap), b = LOAD(k * sb.s7, bp);
            PUT(RESULT(E), yp + k);
        }
    }
}
