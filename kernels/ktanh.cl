// K-TanH: tanh(x) from the bits of x by integer operations and a table of 32 entries, each an
// exponent, a shift and an addend. Behind common.cl in every program that defines KTANH.
//
//   |x| < 0.25: x;  |x| > 3.75: 1 with the sign of x;  NaN: NaN; else, with M the 7 highest bits of
//   the mantissa and t = (exponent & 3) * 8 + M / 16:
//   sign of x | exponent of t << 23 | ((M >> shift of t) + addend of t) << 16
//
// The 16 highest bits of an fp32 number are a bf16, whose tanh this is; an fp16 number, loaded as
// fp32, has the same M and the same (exponent & 3), and the result has at most 7 bits of mantissa:
// fp16 holds it exactly. Largest error 0.00892 over all bf16; 0.0118 over fp32, whose lower bits
// are cut off. Overloaded for float and its vectors:
//   ktanh(x)
//   ksigmoid(x) = 0.5 + 0.5 ktanh(x / 2)
//   kswish(x) = x ksigmoid(x)
//   kgelu(x) = 0.5 x (1 + ktanh(0.79788456 (x + 0.044715 x^3)))
// Kundu et al., "K-TanH: efficient TanH for deep learning", 2019 (arXiv 1909.07729).
//
// The table is in the constants: vectors have no load by index. ADDENDS(t) is a byte of one of
// 8 words, counted with the exponent 125 for t of 8 to 15 and 126 elsewhere (for t = 16 the paper
// writes the exponent 125: 112 more there is 16 less here); SHIFTS(t) 4 bits of one of 4 words.

#define OVERLOADED __attribute__((overloadable))
float ktanh(const float x) OVERLOADED;
float ksigmoid(const float x) OVERLOADED;
float kswish(const float x) OVERLOADED;
float kgelu(const float x) OVERLOADED;

#define EITHER(bit, one, other) select((UINTS)(other), (UINTS)(one), (bit) != (UINTS)(0))
#define DEFINE_KTANH(FLOATS, INTS, UINTS_)                                                         \
    FLOATS OVERLOADED ktanh(const FLOATS x) {                                                      \
        typedef UINTS_ UINTS;                                                                      \
        const UINTS bits = as_##UINTS_(x), size = bits & 0x7fffffffu;                              \
        const UINTS t = bits >> 20, a = t & 4u, b = t & 8u, c = t & 16u;                           \
        const UINTS low = EITHER(b, EITHER(a, 0xeef1f4f6u, 0xf9fafc01u),                           \
                                 EITHER(a, 0x7e7e7e7eu, 0x7b7b7a77u));                             \
        const UINTS high = EITHER(b, EITHER(a, 0x6e595958u, 0x49494841u),                          \
                                  EITHER(a, 0x04040403u, 0x02fffcf0u));                            \
        const UINTS shifts = EITHER(c, EITHER(b, 0x42221110u, 0x11111110u),                        \
                                    EITHER(b, 0x00000001u, 0x66664442u)) >> ((t & 7u) << 2) & 15u; \
        const UINTS byte = EITHER(c, high, low) << (24u - ((t & 3u) << 3));                        \
        const UINTS addend = as_##UINTS_(as_##INTS(byte) >> 8) & 0xffff0000u;                      \
        const UINTS base = EITHER(c, (UINTS)(126u << 23), EITHER(b, 125u << 23, 126u << 23));      \
        const UINTS y = (((bits >> 16 & 127u) >> shifts) << 16) + addend + base;                   \
        const UINTS kept = select(select(y, (UINTS)(0x3f800000u), size > 0x40700000u),             \
                                  size, size < 0x3e800000u || size > 0x7f800000u);                 \
        return as_##FLOATS(kept | (bits & 0x80000000u));                                           \
    }                                                                                              \
    FLOATS OVERLOADED ksigmoid(const FLOATS x) { return 0.5f + 0.5f * ktanh(0.5f * x); }           \
    FLOATS OVERLOADED kswish(const FLOATS x) { return x * ksigmoid(x); }                           \
    FLOATS OVERLOADED kgelu(const FLOATS x) {                                                      \
        return 0.5f * x * (1.0f + ktanh(0.79788456f * fma(0.044715f * x * x, x, x)));              \
    }

DEFINE_KTANH(float, int, uint)
DEFINE_KTANH(float2, int2, uint2)
DEFINE_KTANH(float4, int4, uint4)
DEFINE_KTANH(float8, int8, uint8)
DEFINE_KTANH(float16, int16, uint16)
