// What kernels over eight axes share; included with #include "outer.cl".

// Where the axes 0 .. 5 of two tensors with the strides sa and sb lead with the row-major index
// `row` over them.
int2 outer(int row, const int8 dims, const int8 sa, const int8 sb) {
    int d[8], pa[8], pb[8];
    int2 at = (int2)(0, 0);
    vstore8(dims, 0, d);
    vstore8(sa, 0, pa);
    vstore8(sb, 0, pb);
    for (int axis = 5; axis >= 0 && row > 0; axis--) {
        const int index = row % d[axis];
        row /= d[axis];
        at += index * (int2)(pa[axis], pb[axis]);
    }
    return at;
}
