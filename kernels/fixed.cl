// Fixed-point functions over 16 bits, in lanes of int; a family includes it with
// #include "fixed.cl".
//
// A number x with b integer bits is held as x * 2^(15 - b), b from 0 to 5, saturated to 16 bits.
//   sigmoid_fixed(x, b), tanh_fixed(x, b)   of I; the result has no integer bits
//   fixed_mul(x, y)                         x y / 2^15 to nearest, halves upwards
//   divided(x, e)                           x / 2^e to nearest, halves away from zero, e above 0
// Source: the polynomials and Newton's iterations of gemmlowp, fixedpoint/fixedpoint.h, which
// TFLite's LSTM of 8 bits uses: every intermediate result is rounded as it is there.

I sat16(const I x) { return min(max(x, (I)(-32768)), (I)(32767)); }

I divided(const I x, const int e) {
    const I middle = (I)(1 << (e - 1));
    return (x < 0 ? x + middle - 1 : x + middle) >> e;
}

I fixed_mul(const I x, const I y) { return (x * y + 16384) >> 15; }

// exp(x) for x <= 0: of what is left of a quarter by a polynomial around -1/8, times powers of e
I exp_fixed(const I x, const int bits) {
    const int quarter = 1 << (13 - bits);
    const I rest = (x & (I)(quarter - 1)) - quarter, a = (rest << bits) + 4096;
    const I a2 = fixed_mul(a, a), a3 = fixed_mul(a2, a), a4 = fixed_mul(a2, a2);
    const I tail = divided(fixed_mul(divided(a4, 2) + a3, (I)(10923)) + a2, 1);
    I y = min(fixed_mul((I)(28918), a + tail) + 28918, (I)(32767));
    const I many = rest - x;
    const int powers[7] = {25520, 19875, 12055, 4435, 600, 11, 0};  // exp(-2^(n-2)) * 2^15
    for (int n = 0; n < 7 && n - 2 < bits; n++)
        y = (many & (I)(1 << (13 - bits + n))) != 0 ? fixed_mul(y, (I)(powers[n])) : y;
    return x == 0 ? (I)(32767) : y;
}

// 2 / (1 + x) for x from 0 to 1, with 2 integer bits
I twice_over_one_plus(const I x) {
    const I half_sum = (x + 32768) >> 1;  // of x and almost 1
    I y = fixed_mul(half_sum, (I)(-15420)) + 23130;  // 48/17 - 32/17 of it
    for (int n = 0; n < 3; n++)
        y += sat16(fixed_mul(y, 8192 - fixed_mul(half_sum, y)) << 2);
    return y;
}

I sigmoid_fixed(const I x, const int bits) {
    const I positive = twice_over_one_plus(exp_fixed(x > 0 ? -x : x, bits));
    // half of it has 1 integer bit
    const I y = sat16(positive << 1);
    return x == 0 ? (I)(16384) : (x > 0 ? y : 32767 - y);
}

I tanh_fixed(const I x, const int bits) {
    const I y = sat16((twice_over_one_plus(exp_fixed(x > 0 ? -x : x, bits + 1)) - 8192) << 2);
    return x == 0 ? (I)(0) : (x < 0 ? -y : y);
}
