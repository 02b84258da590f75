// Softmax of uint8 integers over the middle axis of x [outer, n, inner] -> y of the same shape:
//   e_k = t[max_j(x_j) - x_k], y_k = clamp(round(e_k / sum_j(e_j) steps) + zero)
//
// t [256] int32, at most 2^24: exp(-d scale) for a difference d of integers, in steps of 2^-k. Sums
// are exact; the quotient and its product with `steps`, 1 / scale of y, are rounded to fp32.
// low, high: those of y less the zero point.
//
// rows:     inner = 1, n >= VEC, whole vectors   global size (outer, 1, 1)
// columns:  one row at a time                    global size (inner, outer, 1)
//
// Everything that is read late is read again before it is written, so that y may be x.
//
// T_uint8, O_<dtype>: stored types of x and, where it is another one, of y.

typedef LANED(float) R;
#define TO_I LANED(convert_int)
#define TO_OF LANED(GLUE(convert_, OE))
DEFINE_FOLD(highest, int, max(a, b))

// 1 / b, to nearest: what the device gives, within a few units of the last place, refined twice.
float inverse_of(const float b) {
    float inverse = 1.0f / b;
    inverse = fma(fma(-b, inverse, 1.0f), inverse, inverse);
    return fma(fma(-b, inverse, 1.0f), inverse, inverse);
}

// The integers of e / all, the quotient to nearest (Markstein 1990).
#define DEFINE_SHARE(name, type, to_int)                                                        \
    type##_INT name(const type e, const float all, const float inverse, const float steps,      \
                    const int zero, const float low, const float high) {                        \
        type q = e * inverse;                                                                   \
        q = fma(fma(-q, (type)(all), e), (type)(inverse), q);                                   \
        q = fma(fma(-q, (type)(all), e), (type)(inverse), q);                                   \
        return to_int(fmin(fmax(rint(q * steps), (type)(low)), (type)(high))) + zero;           \
    }
#define R_INT I
#define float_INT int
DEFINE_SHARE(shares, R, TO_I)
DEFINE_SHARE(share, float, convert_int)

// The entries of VEC integers below the highest.
R looked_up(const I v, const int top, __global const int *e) {
    int index[VEC];
    float entry[VEC];
    SPILL(v, index);
    for (int k = 0; k < VEC; k++) entry[k] = (float)e[top - index[k]];
    return FILL(entry);
}

__kernel void rows(TENSOR(x), TENSOR(t), TENSOR(y), const int n, const float steps, const int zero,
                   const float low, const float high) {
    __global const uchar *xp = AT(const uchar, x) + get_global_id(0) * n;
    __global const int *e = AT(const int, t);
    __global O *yp = AT(O, y) + get_global_id(0) * n;
    const int whole = n / VEC * VEC;
    const I last = TO_I(LOADV((__global const S *)xp + n - VEC));
    I most = last;
    for (int k = 0; k < whole; k += VEC) most = max(most, TO_I(LOADV((__global const S *)xp + k)));
    const int top = highest(most);
    uint sum = 0;
    for (int k = 0; k < n; k++) sum += (uint)e[top - xp[k]];
    const float all = (float)max(sum, 1u), inverse = inverse_of(all);
    for (int k = 0; k < whole; k += VEC)
        STOREV(TO_OF(shares(looked_up(TO_I(LOADV((__global const S *)xp + k)), top, e), all,
                            inverse, steps, zero, low, high)), yp + k);
    if (whole < n)
        STOREV(TO_OF(shares(looked_up(last, top, e), all, inverse, steps, zero, low, high)),
               yp + n - VEC);
}

__kernel void columns(TENSOR(x), TENSOR(t), TENSOR(y), const int n, const int inner,
                      const float steps, const int zero, const float low, const float high) {
    const int start = get_global_id(1) * n * inner + get_global_id(0);
    __global const uchar *xp = AT(const uchar, x) + start;
    __global const int *e = AT(const int, t);
    __global O *yp = AT(O, y) + start;
    int top = 0;
    for (int k = 0; k < n; k++) top = max(top, (int)xp[k * inner]);
    uint sum = 0;
    for (int k = 0; k < n; k++) sum += (uint)e[top - xp[k * inner]];
    const float all = (float)max(sum, 1u), inverse = inverse_of(all);
    for (int k = 0; k < n; k++)
        STORE((OE)share((float)e[top - xp[k * inner]], all, inverse, steps, zero, low, high),
              k * inner, yp);
}
