// y[i_0 .. i_7] = x[at_0 .. at_7], at_k = source(i_k - before_k); the fill value if any is outside.
//
// x, y:          any tensors of SIZE bytes an element, row-major
// dims, sizes:   elements per axis of y and of x; axis 7 is the inner one
// before:        elements of y in front of x along each axis
// mode:          0 constant, 1 reflect, 2 edge, 3 wrap, 4 symmetric
// fill:          bits of the constant, in the low SIZE bytes
// global size (ceil(dims_7 / run), ceil(dims_6 / rows), product of dims_0 .. dims_5)
//
// SIZE: bytes of an element: 1, 2 or 4. VEC: elements moved at once: 4, 8 or 16.

// Index into an axis of n elements for the index i relative to its start; -1: the constant.
int source(const int i, const int n, const int mode) {
    if (i >= 0 && i < n) return i;
    switch (mode) {
        case 1: return i < 0 ? -i : n - 1 - (i - (n - 1));
        case 2: return i < 0 ? 0 : n - 1;
        case 3: return i < 0 ? n - 1 - (-1 - i) % n : i % n;
        case 4: return i < 0 ? -1 - i : n - 1 - (i - n);
        default: return -1;
    }
}

__kernel void pad(TENSOR(x), TENSOR(y), const int8 dims, const int8 sizes, const int8 before,
                  const int mode, const uint fill, const int run, const int rows) {
    int d[8], n[8], b[8];
    vstore8(dims, 0, d);
    vstore8(sizes, 0, n);
    vstore8(before, 0, b);
    const int i0 = get_global_id(0) * run, i1 = min(i0 + run, dims.s7);
    const int j0 = get_global_id(1) * rows, j1 = min(j0 + rows, dims.s6);
    int outer = 0, step = n[6], rest = get_global_id(2), inside = 1;
    for (int axis = 5; axis >= 0; axis--) {
        const int at = source(rest % d[axis] - b[axis], n[axis], mode);
        inside &= at >= 0;
        outer += at * step;
        step *= n[axis];
        rest /= d[axis];
    }
    const int size = sizes.s7, shift = before.s7;
    __global const U *xp = AT(const U, x);
    __global U *yp = AT(U, y) + (get_global_id(2) * dims.s6 + j0) * dims.s7;
    for (int j = j0; j < j1; j++, yp += dims.s7) {
        const int row = source(j - before.s6, sizes.s6, mode);
        int i = i0;
        if (inside && row >= 0) {
            __global const U *from = xp + (outer + row) * size;
            const int middle = min(i1, shift + size);
            for (; i < min(i1, shift); i++) {
                const int at = source(i - shift, size, mode);
                yp[i] = at < 0 ? (U)fill : from[at];
            }
            for (; i + VEC <= middle; i += VEC) USTORE(ULOAD(0, from + (i - shift)), 0, yp + i);
            for (; i < middle; i++) yp[i] = from[i - shift];
            for (; mode != 0 && i < i1; i++) yp[i] = from[source(i - shift, size, mode)];
        }
        for (; i + VEC <= i1; i += VEC) USTORE((UV)((U)fill), 0, yp + i);
        for (; i < i1; i++) yp[i] = (U)fill;
    }
}
