// What integer kernels share; a family includes it with #include "integer.cl".
//
// A real multiplier M is m0 * 2^-t with m0 in [2^30, 2^31) and 1 <= t <= 62 (or m0 = 0). acc * M is
// rounded to an integer without 64-bit types; what does not fit into 32 bits loses its high bits.
//   once:  floor((acc * m0 + 2^(t-1)) / 2^t)
//   twice: h = floor(((acc << max(0, 31 - t)) * m0 + 2^30) / 2^31), then h / 2^max(0, t - 31) to
//          nearest, half away from zero; upward: the same, half upwards
//   single: acc times m0 * 2^-t, all in fp32, to nearest, halves to even
//   requantize(acc, m0, t)     over int: twice if ROUND_TWICE is defined, upward if ROUND_UPWARD
//                              is, single if ROUND_SINGLE is, else once
//   requantizev(acc, m0, t)    the same over I, the int vectors of VEC lanes
//   steps_of(acc, m0, t)       requantizev of what is clamped to 16 bits or fewer afterwards: with
//                              single it lies from -4194303 to 4194303
//   requantizev_wide(hi, lo, m0, t)   with WIDE, and t above 17: once, of hi * 2^16 + lo, where lo
//                              is below 2^32, and the sum below 2^46
//   saturate(v, low, high)     v between low and high

int requantize_once(const int acc, const int m0, const int t) {
    const int hi = mul_hi(acc, m0);
    const uint lo = (uint)acc * (uint)m0;
    if (t > 32)
        return (hi + (1 << (t - 33))) >> (t - 32);
    const uint whole = t == 32 ? (uint)hi : ((uint)hi << (32 - t)) | (lo >> t);
    return (int)(whole + ((lo >> (t - 1)) & 1));
}

#ifdef ROUND_UPWARD
#define BELOW(h) 0
#else
#define BELOW(h) ((h) < 0)
#endif

int requantize_twice(const int acc, const int m0, const int t) {
    const int x = (int)((uint)acc << max(0, 31 - t)), e = max(0, t - 31);
    const uint lo = (uint)x * (uint)m0;
    const int h = (int)((((uint)mul_hi(x, m0) << 1) | (lo >> 31)) + ((lo >> 30) & 1));
    const int mask = (int)((1u << e) - 1);
    return (h >> e) + ((h & mask) > (mask >> 1) + BELOW(h));
}

int requantize_single(const int acc, const int m0, const int t) {
    // one rounding of acc, none of the multiplier, one of the product
    return convert_int(rint(convert_float(acc) *
                            (convert_float(m0) * as_float((127 - t) << 23))));
}

#if VEC == 1
#define requantizev_once requantize_once
#define requantizev_twice requantize_twice
#define requantizev_single requantize_single
#else
typedef GLUE(uint, VEC) UI;
#define AS_UI GLUE(as_uint, VEC)
#define AS_I GLUE(as_int, VEC)
#define FLOATS GLUE(convert_float, VEC)

I requantizev_single(const I acc, const I m0, const I t) {
    const I power = (127 - t) << 23;  // 2^-t
    return GLUE(convert_int, VEC)(rint(FLOATS(acc) * (FLOATS(m0) * GLUE(as_float, VEC)(power))));
}

// Compilers call functions for rint and the conversion, lane by lane. Adding 1.5 * 2^23 rounds too,
// and leaves the integer in the low bits.
I steps_of_single(const I acc, const I m0, const I t) {
    typedef GLUE(float, VEC) FLOAT;
    const FLOAT x = FLOATS(acc) * (FLOATS(m0) * GLUE(as_float, VEC)((127 - t) << 23));
    const FLOAT near = fmin(fmax(x, (FLOAT)(-4194303.0f)), (FLOAT)(4194303.0f));
    return AS_I(near + 12582912.0f) - 0x4B400000;
}

#ifdef POCL_DEVICE_ADDRESS_BITS
// PoCL 3.1 puts the mul_hi of vectors together from four products; on its CPUs products of 64 bits
// are cheaper. Even and odd lanes apart, because CPUs multiply the low halves of 64 bits.
#define LONG_LANES
#if VEC == 2
typedef long LONGS;
#define AS_LONGS as_long
#elif VEC == 4
typedef long2 LONGS;
#define AS_LONGS as_long2
#elif VEC == 8
typedef long4 LONGS;
#define AS_LONGS as_long4
#else
typedef long8 LONGS;
#define AS_LONGS as_long8
#endif
#define EVEN_LANES(v) (AS_LONGS(v) << 32 >> 32)
#define ODD_LANES(v) (AS_LONGS(v) >> 32)
#define JOIN_LANES(even, odd) AS_I(((even) & 0xFFFFFFFFl) | ((odd) << 32))

I requantizev_once(const I acc, const I m0, const I t) {
    const LONGS even = EVEN_LANES(t), odd = ODD_LANES(t);
    return JOIN_LANES((EVEN_LANES(acc) * EVEN_LANES(m0) + ((LONGS)(1) << (even - 1))) >> even,
                (ODD_LANES(acc) * ODD_LANES(m0) + ((LONGS)(1) << (odd - 1))) >> odd);
}

// h of `twice` is never needed by itself: both roundings are one addition before one shift, a step
// of h less for negative products, so that their halves round away from zero.
LONGS rounded_twice(const LONGS product, const LONGS e) {
    const LONGS halves = (((LONGS)(1) << e >> 1) << 31) + (1 << 30);
#ifdef ROUND_UPWARD
    return (product + halves) >> (e + 31);
#else
    const LONGS away = halves - (e > 0 ? (LONGS)(1l << 31) : (LONGS)(0));
    return (product + (product < 0 ? away : halves)) >> (e + 31);
#endif
}

I requantizev_twice(const I acc, const I m0, const I t) {
    const I x = acc << max((I)(0), 31 - t), e = max((I)(0), t - 31);
    return JOIN_LANES(rounded_twice(EVEN_LANES(x) * EVEN_LANES(m0), EVEN_LANES(e)),
                      rounded_twice(ODD_LANES(x) * ODD_LANES(m0), ODD_LANES(e)));
}
#else
I requantizev_once(const I acc, const I m0, const I t) {
    const I hi = mul_hi(acc, m0);
    const UI lo = AS_UI(acc) * AS_UI(m0), shift = AS_UI(t);
    const I far = (hi + ((I)(1) << (t - 33))) >> (t - 32);  // shifts count modulo 32
    const UI part = (AS_UI(hi) << (32 - shift)) | (lo >> shift);
    const I whole = t == 32 ? hi : AS_I(part);
    return t > 32 ? far : whole + AS_I((lo >> (shift - 1)) & 1);
}

I requantizev_twice(const I acc, const I m0, const I t) {
    const I x = acc << max((I)(0), 31 - t), e = max((I)(0), t - 31);
    const UI lo = AS_UI(x) * AS_UI(m0);
    const I h = (mul_hi(x, m0) << 1 | AS_I(lo >> 31)) + AS_I((lo >> 30) & 1);
    const I mask = AS_I(((UI)(1) << AS_UI(e)) - 1);
    // a comparison of vectors is -1 where it holds
    return (h >> e) - ((h & mask) > (mask >> 1) - BELOW(h));
}
#endif
#endif

#if defined(ROUND_TWICE) || defined(ROUND_UPWARD)
#define requantize requantize_twice
#define requantizev requantizev_twice
#elif defined(ROUND_SINGLE)
#define requantize requantize_single
#define requantizev requantizev_single
#if VEC != 1
#define steps_of steps_of_single
#endif
#else
#define requantize requantize_once
#define requantizev requantizev_once
#endif
#ifndef steps_of
#define steps_of requantizev
#endif

#ifdef WIDE
#if VEC == 1
#define UNSIGNED uint
#define AS_UNSIGNED as_uint
#define AS_SIGNED as_int
#else
#define UNSIGNED UI
#define AS_UNSIGNED AS_UI
#define AS_SIGNED AS_I
#endif
// floor((acc * m0 + 2^(t-1)) / 2^t) for t > 16. With acc = whole * 2^16 + part, part < 2^16, and
// more = floor(part * m0 / 2^16) that is floor((whole * m0 + more + 2^(t-17)) / 2^(t-16)).
#ifdef LONG_LANES
LONGS requantize_lanes(const LONGS whole, const LONGS part, const LONGS m0, const LONGS t) {
    return (whole * m0 + (part * m0 >> 16) + ((LONGS)(1) << (t - 17))) >> (t - 16);
}

I requantizev_wide(const I hi, const I lo, const I m0, const I t) {
    const I whole = hi + AS_I(AS_UI(lo) >> 16), part = lo & 0xFFFF;
    return JOIN_LANES(
        requantize_lanes(EVEN_LANES(whole), EVEN_LANES(part), EVEN_LANES(m0), EVEN_LANES(t)),
        requantize_lanes(ODD_LANES(whole), ODD_LANES(part), ODD_LANES(m0), ODD_LANES(t)));
}
#else
I requantizev_wide(const I hi, const I lo, const I m0, const I t) {
    const I whole = hi + AS_SIGNED(AS_UNSIGNED(lo) >> 16);
    const UNSIGNED more = mul_hi(AS_UNSIGNED(lo << 16), AS_UNSIGNED(m0));
    const UNSIGNED product = AS_UNSIGNED(whole) * AS_UNSIGNED(m0), low = product + more;
    const UNSIGNED carry = low < product ? (UNSIGNED)(1) : (UNSIGNED)(0);
    const I high = mul_hi(whole, m0) + AS_SIGNED(carry), shift = t - 16;
    const UNSIGNED s = AS_UNSIGNED(shift);
    const I far = (high + ((I)(1) << (shift - 33))) >> (shift - 32);  // shifts count modulo 32
    const I near = AS_SIGNED((AS_UNSIGNED(high) << (32 - s)) | (low >> s));
    return shift > 32 ? far : (shift == 32 ? high : near) + AS_SIGNED((low >> (s - 1)) & 1);
}
#endif
#endif

#define saturate(v, low, high) min(max((v), (low)), (high))
