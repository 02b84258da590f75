// Where a matrix of a batch lies; kernels include it with #include "batch.cl".

// Offset of a batch index in an operand: batch axes dims, row-major, elements per step of each (0
// repeats); axes before the first are 1.
int batch_offset(const int batch, const int8 dims, const int8 step) {
    int d[8], s[8], at = 0, rest = batch;
    vstore8(dims, 0, d);
    vstore8(step, 0, s);
    for (int axis = 7; axis >= 0 && rest > 0; axis--) {
        at += rest % d[axis] * s[axis];
        rest /= d[axis];
    }
    return at;
}
