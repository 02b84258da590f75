// Softmax of uint8 integers over the middle axis of x [outer, n, inner] -> y of the same shape:
//   e_k = t[max_j(x_j) - x_k], y_k = clamp(round(e_k / sum_j(e_j) steps) + zero)
//
// t [256] int32, at most 2^24: exp(-d scale) for a difference d of integers, in steps of 2^-k. Sums
// are exact; the quotient and its product with `steps`, 1 / scale of y, are rounded to fp32.
// low, high: those of y less the zero point.
// Global size (inner, outer, 1). y may be x.
//
// T_uint8, O_<dtype>: stored types of x and, where it is another one, of y.

// a / b rounded to nearest, given 1 / b rounded to nearest (Markstein 1990).
float quotient(const float a, const float b, const float inverse) {
    float q = a * inverse;
    q = fma(fma(-q, b, a), inverse, q);
    return fma(fma(-q, b, a), inverse, q);
}

__kernel void softmax_integer(TENSOR(x), TENSOR(t), TENSOR(y), const int n, const int inner,
                              const float steps, const int zero, const float low,
                              const float high) {
    const int start = get_global_id(1) * n * inner + get_global_id(0);
    __global const uchar *xp = AT(const uchar, x) + start;
    __global const int *e = AT(const int, t);
    __global O *yp = AT(O, y) + start;
    int top = 0;
    for (int k = 0; k < n; k++) top = max(top, (int)xp[k * inner]);
    uint sum = 0;
    for (int k = 0; k < n; k++) sum += (uint)e[top - xp[k * inner]];
    const float all = (float)max(sum, 1u);
    float inverse = 1.0f / all;  // within a few units of the last place, then to nearest
    inverse = fma(fma(-all, inverse, 1.0f), inverse, inverse);
    inverse = fma(fma(-all, inverse, 1.0f), inverse, inverse);
    for (int k = 0; k < n; k++) {
        const float share = quotient((float)e[top - xp[k * inner]], all, inverse);
        STORE((OE)(int)fmin(fmax(rint(share * steps), low), high) + zero, k * inner, yp);
    }
}
