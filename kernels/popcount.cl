// Counting bits in lanes; a family includes it with #include "popcount.cl".
//
// UV32: VEC words of 32 bits. bits_in(w): how many bits of every lane are set.
// COUNT_VPOPCNT: x86 with AVX-512 VPOPCNTDQ and VL, by a compiler that takes assembly. Without it
//    by additions of fields, since compilers make the built-in function of vectors lane by lane.

typedef GLUE(uint, VEC) UV32;

UV32 bits_in(const UV32 w) {
#ifdef COUNT_VPOPCNT
    UV32 count;
    __asm__("vpopcntd %1, %0" : "=v"(count) : "v"(w));
    return count;
#else
    const UV32 by2 = w - (w >> 1 & 0x55555555u);
    const UV32 by4 = (by2 & 0x33333333u) + (by2 >> 2 & 0x33333333u);
    const UV32 by8 = by4 + (by4 >> 4) & 0x0F0F0F0Fu, by16 = by8 + (by8 >> 8);
    return by16 + (by16 >> 16) & 63u;
#endif
}
