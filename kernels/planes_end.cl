// How layers over bit planes end; included with #include "planes_end.cl".
//
// r = A * acc + B * sum + C, each product and sum rounded, with A, B, C of the channel and of the
// number of planes that count.
//   integer y   saturate(r to nearest + zero_y, least, most)
//   real y      ACTIVATE(r)
// acc is one sum over T_uint8; over T_int16 256 * high + low, less than 2^40.
//
//   t_and_row(used, held)   how many planes count, and the row of the levels for it; bit t of
//              `held` is set if there is one: the largest such t up to `used`, else the least
//   middle(t, planes)   B / A where B is not stored: the mean of what t of the planes leave out,
//              in steps of those t
//   R          VEC floats
//   load_channels(p, n)   the lanes of one value per channel; n of them lie in the tensor
//   number_of(high, low)  acc as an R, rounded once
//   result_of(acc, sum, a, b, c, ends, alpha, beta)   y as an OF; ends: zero_y, least, most
//   store_channels(v, n, p)   the first n lanes

typedef GLUE(float, VEC) R;
#define REALS GLUE(convert_float, VEC)

int2 t_and_row(const int used, const int held) {
    int t = min(max(used, 0), 30), row = 0;
    while (t > 0 && !(held >> t & 1))
        t--;
    while (!(held >> t & 1) && t < 30)
        t++;
    for (int k = 0; k < t; k++)
        row += held >> k & 1;
    return (int2)(t, row);
}

float middle(const int t, const int planes) {
#if defined(SIGNS_MAGNITUDE) || defined(SIGNS_PAIRS) || defined(SIGNS_POWERS)
    return 0.0f;  // as often above 0 as below
#else
    return 0.5f - ldexp(0.5f, t - planes);
#endif
}

R load_channels(__global const float *p, const int n) {
    if (n >= VEC)
        return VLOAD(p);
    float part[VEC];
    for (int k = 0; k < VEC; k++)
        part[k] = k < n ? p[k] : 0;
    return VLOAD(part);
}

R number_of(const I high, const I low) {
#ifdef T_int16
    const I upper = high + (low >> 8);  // exact in two floats: upper / 256 is below 2^24
    return REALS(upper >> 8) * 65536.0f + REALS((upper & 255) << 8 | (low & 255));
#else
    return REALS(low);
#endif
}

OF result_of(const R acc, const float sum, const R a, const R b, const R c, const int4 ends,
             const float alpha, const float beta) {
    // fma with 0 rounds a product by itself: compilers may join it with the sum else
    const R r = (fma(a, acc, (R)(0.0f)) + fma(b, (R)(sum), (R)(0.0f))) + c;
#if defined(O_uint8) || defined(O_int16)
    // adding 1.5 * 2^23 rounds to nearest, and leaves the integer in the low bits
    const R near = fmin(fmax(r, (R)(-4194303.0f)), (R)(4194303.0f)) + 12582912.0f;
    const I steps = GLUE(as_int, VEC)(near) - 0x4B400000 + ends.s0;
    return min(max(steps, (I)(ends.s1)), (I)(ends.s2));
#else
    return ACTIVATE(r);
#endif
}

void store_channels(const OF v, const int n, __global O *p) {
    if (n >= VEC)
        STOREV(v, p);
    else
        store_some(v, n, p);
}
