// Picking elements of SIZE bytes; they are moved, never interpreted.
//
// gather:  y[o, m, i] = x[o, index_m, i], x [outer, n, inner], indices int32 [count],
//          y [outer, count, inner]; a negative index counts from the end, and an index outside is
//          clamped, so that nothing outside x is read
//          global size (ceil(inner / run), ceil(count / picks), outer)
// where:   y = condition ? a : b over dims, walked with the strides sc, sa, sb (elements; 0
//          repeats); condition bool, y row-major
//          global size (ceil(dims_7 / run), product of dims_0 .. dims_6)
//
// SIZE: bytes of an element: 1, 2 or 4. VEC: elements moved at once: 4, 8 or 16.

__kernel void gather(TENSOR(x), TENSOR(indices), TENSOR(y), const int n, const int inner,
                     const int count, const int run, const int picks) {
    const int i0 = get_global_id(0) * run, length = min(run, inner - i0);
    const int m0 = get_global_id(1) * picks, m1 = min(m0 + picks, count);
    const int outer = get_global_id(2);
    __global const U *xp = AT(const U, x) + outer * n * inner + i0;
    __global U *yp = AT(U, y) + outer * count * inner + i0;
    __global const int *index = AT(const int, indices);
    for (int m = m0; m < m1; m++) {
        const int k = index[m];
        __global const U *from = xp + clamp(k < 0 ? k + n : k, 0, n - 1) * inner;
        __global U *to = yp + m * inner;
        int i = 0;
        for (; i + VEC <= length; i += VEC) USTORE(ULOAD(0, from + i), 0, to + i);
        for (; i < length; i++) to[i] = from[i];
    }
}

__kernel void where(TENSOR(condition), TENSOR(a), TENSOR(b), TENSOR(y), const int8 dims,
                    const int8 sc, const int8 sa, const int8 sb, const int run) {
    int d[8], pc[8], pa[8], pb[8];
    vstore8(dims, 0, d);
    vstore8(sc, 0, pc);
    vstore8(sa, 0, pa);
    vstore8(sb, 0, pb);
    int at_c = 0, at_a = 0, at_b = 0, rest = get_global_id(1);
    for (int axis = 6; axis >= 0 && rest > 0; axis--) {
        const int k = rest % d[axis];
        rest /= d[axis];
        at_c += k * pc[axis];
        at_a += k * pa[axis];
        at_b += k * pb[axis];
    }
    const int i0 = get_global_id(0) * run, i1 = min(i0 + run, dims.s7);
    __global const uchar *cp = AT(const uchar, condition) + at_c;
    __global const U *ap = AT(const U, a) + at_a;
    __global const U *bp = AT(const U, b) + at_b;
    __global U *yp = AT(U, y) + get_global_id(1) * dims.s7;
    for (int i = i0; i < i1; i++) yp[i] = cp[i * sc.s7] ? ap[i * sa.s7] : bp[i * sb.s7];
}
