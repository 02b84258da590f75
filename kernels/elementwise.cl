// Elementwise ops.
//
// unary:  y[j, i] = EXPRESSION(x[j, i]), run * each of them by a work-item: global size
//         (ceil(n / run), ceil(rows / each), 1)
// binary: y[o, j, i] = ACTIVATE(BINARY(a, b)), run * rows of them by a work-item: global size
//         (ceil(dims_7 / run), ceil(dims_6 / rows), product of dims_0 .. dims_5)
//
// EXPRESSION: C expression of x, alpha, beta (unary), over E or its vectors.
// BINARY:     C expression of a and b.
// O_fp32, O_fp16: y has another stored type than x, a and b.
// OUT_bool:   y is bool, EXPRESSION a comparison.
// PAST_CACHES: see stream.cl; y is larger than the caches, and rows of it are whole vectors.
// y may be one of the inputs: what is read after a part of y was written is read at its own place.

#include "stream.cl"
#include "outer.cl"

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
#define PUTV(v, p) STREAM(v, p)
#define PUT(v, p) STORE(v, 0, p)
#define RESULT(type) activate_##type(BINARY, alpha, beta)
#endif

F activate_F(const F x, const float alpha, const float beta) { return ACTIVATE(x); }
E activate_E(const E x, const float alpha, const float beta) { return ACTIVATE(x); }

// x, y [rows, n]; lines: rows, each, and the elements from a row of x to the next, and of y
__kernel void unary(TENSOR(x), TENSOR(y), const int n, const int run, const int4 lines,
                    const float alpha, const float beta) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    const int j0 = get_global_id(1) * lines.s1, j1 = min(j0 + lines.s1, lines.s0);
    __global const S *xp = AT(const S, x) + j0 * lines.s2;
    __global Y *yp = AT(Y, y) + j0 * lines.s3;
    for (int j = j0; j < j1; j++, xp += lines.s2, yp += lines.s3) {
        int i = start;
        for (; i + VEC <= stop; i += VEC) {
            const F x = LOADV(xp + i);
            PUTV(EXPRESSION, yp + i);
        }
        for (; i < stop; i++) {
            const E x = LOAD(i, xp);
            PUT(EXPRESSION, yp + i);
        }
    }
}

#define PERIOD 48  // longest row of b that is repeated in private memory

// y [dims], row-major, its rows work.s3 elements apart; a and b are walked with the strides sa and
// sb (elements; 0 repeats).
// Axis 7 is the inner one; axes before the first are 1.
// work: run, rows, 1 if run is all of axis 7, at most PERIOD, a contiguous along axes 6 and 7, and
//       b contiguous along axis 7 and repeated along axis 6, y dense; elements from a row of y
//       to the next
__kernel void binary(TENSOR(a), TENSOR(b), TENSOR(y), const int8 dims, const int8 sa, const int8 sb,
                     const int4 work, const float alpha, const float beta) {
    const int i0 = get_global_id(0) * work.s0, j0 = get_global_id(1) * work.s1;
    const int n = min(work.s0, dims.s7 - i0), rows = min(work.s1, dims.s6 - j0);
    const int row = get_global_id(2);
    const int2 at = outer(row, dims, sa, sb);
    __global const S *ap = AT(const S, a) + at.s0 + i0 * sa.s7 + j0 * sa.s6;
    __global const S *bp = AT(const S, b) + at.s1 + i0 * sb.s7 + j0 * sb.s6;
    __global Y *yp = AT(Y, y) + (row * dims.s6 + j0) * work.s3 + i0;
    if (work.s2) {
        E pattern[PERIOD + VEC];
        for (int k = 0; k < n; k++) pattern[k] = LOAD(k, bp);
        for (int k = n; k < n + VEC; k++) pattern[k] = pattern[k - n];
        const int all = n * rows, step = VEC % n;
        int phase = 0, i = 0;
        for (; i + VEC <= all; i += VEC) {
            const F a = LOADV(ap + i), b = FILL(pattern + phase);
            PUTV(RESULT(F), yp + i);
            phase += step;
            phase -= phase >= n ? n : 0;
        }
        for (; i < all; i++, phase++) {
            const E a = LOAD(i, ap), b = pattern[phase];
            PUT(RESULT(E), yp + i);
        }
        return;
    }
    const int whole = sa.s7 < 2 && sb.s7 < 2 ? n / VEC * VEC : 0, tail = whole ? n - VEC : 0;
    for (int j = 0; j < rows; j++, ap += sa.s6, bp += sb.s6, yp += work.s3) {
        if (whole) {
            const F a1 = sa.s7 ? LOADV(ap + tail) : (F)(LOAD(0, ap));
            const F b1 = sb.s7 ? LOADV(bp + tail) : (F)(LOAD(0, bp));
            for (int i = 0; i < whole; i += VEC) {
                const F a = sa.s7 ? LOADV(ap + i) : a1, b = sb.s7 ? LOADV(bp + i) : b1;
                PUTV(RESULT(F), yp + i);
            }
            if (whole < n) {
                const F a = a1, b = b1;
                PUTV(RESULT(F), yp + tail);
            }
        } else {
            for (int i = 0; i < n; i++) {
                const E a = LOAD(i * sa.s7, ap), b = LOAD(i * sb.s7, bp);
                PUT(RESULT(E), yp + i);
            }
        }
    }
}
