// What integer kernels share; a family includes it with #include "integer.cl".
//
// A real multiplier M is m0 * 2^-t with m0 in [2^30, 2^31) and 1 <= t <= 62 (or m0 = 0). acc * M is
// rounded to an integer without 64-bit types; what does not fit into 32 bits loses its high bits.
//   once:  floor((acc * m0 + 2^(t-1)) / 2^t)
//   twice: h = floor(((acc << max(0, 31 - t)) * m0 + 2^30) / 2^31), then h / 2^max(0, t - 31) to
//          nearest, half away from zero; upward: the same, half upwards
//   requantize(acc, m0, t)     over int: twice if ROUND_TWICE is defined, upward if ROUND_UPWARD
//                              is, else once
//   requantizev(acc, m0, t)    the same over I, the int vectors of VEC lanes
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

#if VEC == 1
#define requantizev_once requantize_once
#define requantizev_twice requantize_twice
#else
typedef GLUE(uint, VEC) UI;
#define AS_UI GLUE(as_uint, VEC)
#define AS_I GLUE(as_int, VEC)

#ifdef POCL_DEVICE_ADDRESS_BITS
// PoCL 3.1 puts the mul_hi of vectors together from four products; on its CPUs 64 bits are cheaper.
typedef GLUE(long, VEC) LONGS;
#define LONG GLUE(convert_long, VEC)
#define INT GLUE(convert_int, VEC)

I requantizev_once(const I acc, const I m0, const I t) {
    const LONGS shift = LONG(t);
    return INT((LONG(acc) * LONG(m0) + ((LONGS)(1) << (shift - 1))) >> shift);
}

I requantizev_twice(const I acc, const I m0, const I t) {
    const I x = acc << max((I)(0), 31 - t), e = max((I)(0), t - 31);
    const I h = INT((LONG(x) * LONG(m0) + (1 << 30)) >> 31), mask = ((I)(1) << e) - 1;
    return (h >> e) - ((h & mask) > (mask >> 1) - BELOW(h));
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
#else
#define requantize requantize_once
#define requantizev requantizev_once
#endif

#define saturate(v, low, high) min(max((v), (low)), (high))
