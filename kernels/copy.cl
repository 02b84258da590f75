// Strided copies: y[y0 + sum_k i_k sy_k] = x[x0 + sum_k i_k sx_k] for all 0 <= i_k < dims_k, k < 8.
//
// x, y:        any tensors of SIZE bytes an element; elements are moved, never interpreted
// dims:        axis 7 is the inner one of y; axes before the first are 1
// sx, sy:      elements per step of each axis; 0 repeats, negative runs backwards
//
// copy:        any strides
// transpose:   x is contiguous along axis 6, y along axis 7
// A work-item moves `run` indices of axis 7 for `rows` of axis 6:
// global size (ceil(dims_7 / run), ceil(dims_6 / rows), product of dims_0 .. dims_5)
//
// concat:      rows of up to four tensors, one after the other: row j of x_k, of widths_k elements,
//              to y[first + j step + (sum of the widths before)]; a work-item moves `run` elements
//              of each x_k in `each` rows: global size (ceil(widest / run), ceil(rows / each), 1)
// interleave:  y[2 i] = a[i], y[2 i + 1] = b[i] for i < n, `run` of them by a work-item: global
//              size (ceil(n / run), 1, 1)
//
// SIZE: bytes of an element: 1, 2 or 4. VEC: elements moved at once: 4, 8 or 16.

#include "outer.cl"

#define V4 GLUE(U, 4)
#if VEC == 16
#define HALF_LOAD vload8
#elif VEC == 8
#define HALF_LOAD vload4
#else
#define HALF_LOAD vload2
#endif

__kernel void copy(TENSOR(x), TENSOR(y), const int8 dims, const int8 sx, const int8 sy,
                   const int x0, const int y0, const int run, const int rows) {
    const int i0 = get_global_id(0) * run, j0 = get_global_id(1) * rows;
    const int n = min(run, dims.s7 - i0), m = min(rows, dims.s6 - j0);
    const int2 at = outer(get_global_id(2), dims, sx, sy);
    __global const U *xp = AT(const U, x) + x0 + at.s0 + i0 * sx.s7 + j0 * sx.s6;
    __global U *yp = AT(U, y) + y0 + at.s1 + i0 * sy.s7 + j0 * sy.s6;
    for (int j = 0; j < m; j++, xp += sx.s6, yp += sy.s6) {
        int i = 0;
        if (sy.s7 == 1 && sx.s7 == 1)
            for (; i + VEC <= n; i += VEC) USTORE(ULOAD(0, xp + i), 0, yp + i);
        else if (sy.s7 == 1 && sx.s7 == 0)
            for (; i + VEC <= n; i += VEC) USTORE((UV)(*xp), 0, yp + i);
        for (; i < n; i++) yp[i * sy.s7] = xp[i * sx.s7];
    }
}

// n contiguous elements; the last vector ends with them, and moves some of them twice.
APART
void move(__global const U *from, __global U *to, const int n) {
    int i = 0;
    for (; i + VEC <= n; i += VEC) USTORE(ULOAD(0, from + i), 0, to + i);
    if (i < n && n >= VEC) USTORE(ULOAD(0, from + n - VEC), 0, to + n - VEC);
    else for (; i < n; i++) to[i] = from[i];
}

// work: rows, run, each, step
__kernel void concat(TENSOR(a), TENSOR(b), TENSOR(c), TENSOR(d), TENSOR(y), const int4 widths,
                     const int4 work, const int first) {
    const int i0 = get_global_id(0) * work.s1, j0 = get_global_id(1) * work.s2;
    const int j1 = min(j0 + work.s2, work.s0);
    const int4 n = clamp(widths - i0, 0, work.s1);
    __global const U *ap = AT(const U, a) + j0 * widths.s0 + i0;
    __global const U *bp = AT(const U, b) + j0 * widths.s1 + i0;
    __global const U *cp = AT(const U, c) + j0 * widths.s2 + i0;
    __global const U *dp = AT(const U, d) + j0 * widths.s3 + i0;
    __global U *yp = AT(U, y) + first + j0 * work.s3 + i0;
    const int to_c = widths.s0 + widths.s1, to_d = to_c + widths.s2;
    for (int j = j0; j < j1; j++, yp += work.s3) {
        move(ap, yp, n.s0);
        move(bp, yp + widths.s0, n.s1);
        if (n.s2) move(cp, yp + to_c, n.s2);
        if (n.s3) move(dp, yp + to_d, n.s3);
        ap += widths.s0;
        bp += widths.s1;
        cp += widths.s2;
        dp += widths.s3;
    }
}

__kernel void interleave(TENSOR(a), TENSOR(b), TENSOR(y), const int n, const int run) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    __global const U *ap = AT(const U, a), *bp = AT(const U, b);
    __global U *yp = AT(U, y);
    int i = start;
    for (; i + VEC / 2 <= stop; i += VEC / 2) {
        UV v;
        v.even = HALF_LOAD(0, ap + i);
        v.odd = HALF_LOAD(0, bp + i);
        USTORE(v, 0, yp + 2 * i);
    }
    for (; i < stop; i++) {
        yp[2 * i] = ap[i];
        yp[2 * i + 1] = bp[i];
    }
}

__kernel void transpose(TENSOR(x), TENSOR(y), const int8 dims, const int8 sx, const int8 sy,
                        const int x0, const int y0, const int run, const int rows) {
    const int i0 = get_global_id(0) * run, j0 = get_global_id(1) * rows;
    const int n = min(run, dims.s7 - i0), m = min(rows, dims.s6 - j0);
    const int2 at = outer(get_global_id(2), dims, sx, sy);
    const int step_x = sx.s7, step_y = sy.s6;
    __global const U *xp = AT(const U, x) + x0 + at.s0 + i0 * step_x + j0;
    __global U *yp = AT(U, y) + y0 + at.s1 + i0 + j0 * step_y;
    const int n4 = n & ~3, m4 = m & ~3;
    for (int i = 0; i < n4; i += 4)
        for (int j = 0; j < m4; j += 4) {
            __global const U *from = xp + i * step_x + j;
            __global U *to = yp + j * step_y + i;
            const V4 a = vload4(0, from), b = vload4(0, from + step_x);
            const V4 c = vload4(0, from + 2 * step_x), d = vload4(0, from + 3 * step_x);
            vstore4((V4)(a.s0, b.s0, c.s0, d.s0), 0, to);
            vstore4((V4)(a.s1, b.s1, c.s1, d.s1), 0, to + step_y);
            vstore4((V4)(a.s2, b.s2, c.s2, d.s2), 0, to + 2 * step_y);
            vstore4((V4)(a.s3, b.s3, c.s3, d.s3), 0, to + 3 * step_y);
        }
    for (int j = 0; j < m4; j++)
        for (int i = n4; i < n; i++) yp[j * step_y + i] = xp[i * step_x + j];
    for (int j = m4; j < m; j++)
        for (int i = 0; i < n; i++) yp[j * step_y + i] = xp[i * step_x + j];
}
