// Sums of products of integers, for kernels with integer weights; a family includes it with
// #include "dot.cl". All sums are exact; the macro says how they are computed:
// DOT_VNNI: x86 with AVX-512 VNNI and VL, by a compiler that takes assembly.
// DOT_KHR:  devices with cl_khr_integer_dot_product, OpenCL C 3.0; mac4 only.
// neither:  by integer multiply-adds.
//
//   mac4(acc, x, w)   acc + the dot product of four uchar in x with the four char of each lane of w
//   mac2(acc, x, w)   acc + the dot product of two short in x with the two short of each lane of w
//   pairs(w)          the four char of each lane as two pairs of short, .low and .high

#ifdef DOT_VNNI
I mac4(I acc, const int x, const I w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"((I)(x)), "v"(w));
    return acc;
}
I mac2(I acc, const int x, const I w) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"((I)(x)), "v"(w));
    return acc;
}
#else
#ifdef DOT_KHR
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define DOT1(x, w) dot_4x8packed_us_int((x), as_uint(w))
#define DOT4(x, w) (int4)(DOT1(x, (w).s0), DOT1(x, (w).s1), DOT1(x, (w).s2), DOT1(x, (w).s3))
#define DOT8(x, w) (int8)(DOT4(x, (w).lo), DOT4(x, (w).hi))
#define DOT16(x, w) (int16)(DOT8(x, (w).lo), DOT8(x, (w).hi))
I mac4(const I acc, const int x, const I w) {
    return acc + GLUE(DOT, VEC)((uint)x, w);
}
#else
I mac4(const I acc, const int x, const I w) {
    return acc + (w << 24 >> 24) * (x & 255) + (w << 16 >> 24) * (x >> 8 & 255)
        + (w << 8 >> 24) * (x >> 16 & 255) + (w >> 24) * (x >> 24 & 255);
}
#endif
I mac2(const I acc, const int x, const I w) {
    return acc + (w << 16 >> 16) * (x << 16 >> 16) + (w >> 16) * (x >> 16);
}
#endif

typedef struct { I low, high; } PAIRS;
PAIRS pairs(const I w) {
    const I upper = (I)(0xFFFF0000);
    const PAIRS result = {((w << 24 >> 24) & 0xFFFF) | ((w << 16 >> 8) & upper),
                          ((w << 8 >> 24) & 0xFFFF) | ((w >> 8) & upper)};
    return result;
}
