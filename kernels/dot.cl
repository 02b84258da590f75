// Sums of products of integers, for kernels with integer weights; a family includes it with
// #include "dot.cl". All sums are exact; the macro says how they are computed:
// DOT_VNNI:    x86 with AVX-512 VNNI and VL, by a compiler that takes assembly.
// DOT_AVXVNNI: x86 with AVX-VNNI, likewise; VEC 4 or 8.
// DOT_USDOT, DOT_UDOT: 64-bit Arm CPUs with the instruction, likewise; mac4 only.
// DOT_DP4A:    GPUs with an instruction for four products: NVIDIA's from sm_61 on, by assembly;
//              Intel's from gen12 on, by a function of their compiler that no extension names;
//              mac4 only.
// DOT_KHR:     devices with cl_khr_integer_dot_product 2.0, OpenCL C 3.0; mac4 only.
// DOT_ARM:     devices with cl_arm_integer_dot_product_accumulate_int8; mac4 only.
// none:        by integer multiply-adds.
//
//   mac4(acc, x, w)   acc + the dot product of four uchar in x with the four char of each lane of w
//   mac2(acc, x, w)   acc + the dot product of two short in x with the two short of each lane of w
//   pairs(w)          the four char of each lane as two pairs of short, .low and .high
//
// Instructions that want both factors unsigned get the weights plus 128, whose bits are those of
// the weights with the top bit turned: x * w = x * (w + 128) - x * 128.

#if defined(DOT_VNNI) || defined(DOT_AVXVNNI)
#ifdef DOT_VNNI
#define ASSEMBLY(name) __asm__(name " %2, %1, %0" : "+v"(acc) : "v"((I)(x)), "v"(w))
#else
#define ASSEMBLY(name) __asm__("%{vex%} " name " %2, %1, %0" : "+x"(acc) : "x"((I)(x)), "x"(w))
#endif
I mac4(I acc, const int x, const I w) {
    ASSEMBLY("vpdpbusd");
    return acc;
}
I mac2(I acc, const int x, const I w) {
    ASSEMBLY("vpdpwssd");
    return acc;
}
#else

// MACS4(acc, x, w): mac4 of four lanes.
#define TOP_BITS 0x80808080
#define EACH4(f, acc, x, w)                                                                        \
    (int4)(f((acc).s0, x, (w).s0), f((acc).s1, x, (w).s1), f((acc).s2, x, (w).s2),                 \
           f((acc).s3, x, (w).s3))
#if defined(DOT_USDOT)
int4 usdot(int4 acc, const int4 x, const int4 w) {
    __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w));
    return acc;
}
#define MACS4(acc, x, w) usdot(acc, (int4)(x), w)
#elif defined(DOT_UDOT)
int4 udot(int4 acc, const int4 x, const int4 w) {
    __asm__("udot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w));
    return acc;
}
#define MACS4(acc, x, w)                                                                           \
    (udot(acc, (int4)(x), (w) ^ (int4)(TOP_BITS))                                                  \
     - udot((int4)(0), (int4)(x), (int4)(TOP_BITS)))
#elif defined(DOT_KHR)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
// The accumulator is added apart, because the sum of the function saturates.
#define MACS1(acc, x, w) ((acc) + dot_acc_sat(as_uchar4(x), as_char4(w), 0))
#define MACS4(acc, x, w) EACH4(MACS1, acc, x, w)
#elif defined(DOT_ARM)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define UDOT(acc, x, w) arm_dot_acc(as_uchar4(x), as_uchar4(w), acc)
#define MACS1(acc, x, w) as_int(UDOT(as_uint(acc), x, (w) ^ TOP_BITS) - UDOT(0u, x, TOP_BITS))
#define MACS4(acc, x, w) EACH4(MACS1, acc, x, w)
#elif defined(DOT_DP4A)
#ifdef __NV_CL_C_VERSION
int dp4a(const int acc, const int x, const int w) {
    int sum;
    __asm__("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(w), "r"(acc));
    return sum;
}
#else
int __builtin_IB_dp4a_us(int acc, int x, int w) __attribute__((const));
#define dp4a(acc, x, w) __builtin_IB_dp4a_us(acc, x, w)
#endif
#define MACS4(acc, x, w) EACH4(dp4a, acc, x, w)
#endif

I mac4(const I acc, const int x, const I w) {
#ifdef MACS4
#define MACS8(acc, x, w) (int8)(MACS4((acc).lo, x, (w).lo), MACS4((acc).hi, x, (w).hi))
#define MACS16(acc, x, w) (int16)(MACS8((acc).lo, x, (w).lo), MACS8((acc).hi, x, (w).hi))
    return GLUE(MACS, VEC)(acc, x, w);
#else
    return acc + (w << 24 >> 24) * (x & 255) + (w << 16 >> 24) * (x >> 8 & 255)
        + (w << 8 >> 24) * (x >> 16 & 255) + (w >> 24) * (x >> 24 & 255);
#endif
}
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
