// Weights that are 0 or powers of two, included with #include "powers.cl": planes of a sign and of
// an exponent e of up to 4 bits stand for 0 if e is 0 or above 8, else for 2^(e - 1).
//
//   EXPONENT(e, plane, word, t, n)   declares e, the bits of the exponent of every lane's word, the
//                  lowest first, of which the first t of the n planes count; the others are 0
//   power_of(e, k) bits of the elements that are 2^k or -2^k

typedef struct { GLUE(uint, VEC) bit[4]; } EXPONENTS;
#define PART_OF_EXPONENT(i, plane, word, t, n)                                                     \
    ((n) - 1 - (i) > 0 && (n) - 1 - (i) < (t) ? VLOAD(plane[(n) - 1 - (i)] + word) : (UV32)(0))
#define EXPONENT(e, plane, word, t, n)                                                             \
    EXPONENTS e;                                                                                   \
    _Pragma("unroll") for (int i = 0; i < 4; i++)                                                  \
        e.bit[i] = PART_OF_EXPONENT(i, plane, word, t, n);

GLUE(uint, VEC) power_of(const EXPONENTS e, const int k) {
    const int wanted = k + 1;
    GLUE(uint, VEC) found = (GLUE(uint, VEC))(0xFFFFFFFFu);
    #pragma unroll
    for (int i = 0; i < 4; i++)
        found &= wanted >> i & 1 ? e.bit[i] : ~e.bit[i];
    return found;
}
