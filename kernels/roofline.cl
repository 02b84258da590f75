// What a device can do at most: multiply-adds, sums of integer products, moving bytes.
// `edgerun bench` compares ops with it; no model uses these kernels.
//
//   fma_peak    CHAINS * VEC independent chains of y = y * a + b                 2 flops each
//   dot4_peak   CHAINS * VEC chains of y += the dot product of 4 uchar, 4 char   8 ops each
//   dot2_peak   CHAINS * VEC chains of y += the dot product of 2 short           4 ops each
//               y itself is a factor: products of constants would be computed only once
//   read_peak   y = sum of x
//   copy_peak   y = x
//   sum_peak    y = x + z
//   nothing     what a launch costs
//
// VEC: lanes. Macros DOT_*: see dot.cl; DOT_MADD: see conv_integer.cl, here for dot2_peak.
// PAST_CACHES: see stream.cl.

#include "dot.cl"
#include "stream.cl"

#define CHAINS 12
#define EACH_CHAIN(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define SUM_CHAINS(v)                                                                              \
    (((v##0 + v##1) + (v##2 + v##3)) + ((v##4 + v##5) + (v##6 + v##7))                             \
     + ((v##8 + v##9) + (v##10 + v##11)))

// y [items * VEC]; the chains start differently, so that none is the copy of another
__kernel void fma_peak(TENSOR(y), const int rounds, const float a, const float b) {
    const int item = get_global_id(0);
#define START(i) F v##i = (F)(item + i);
    EACH_CHAIN(START)
    const F av = (F)(a), bv = (F)(b);
    for (int r = 0; r < rounds; r++) {
#define STEP(i) v##i = fma(v##i, av, bv);
        EACH_CHAIN(STEP)
    }
    STOREV(SUM_CHAINS(v), AT(S, y) + item * VEC);
}

// y [items * VEC] int
#define DEFINE_DOT(name, mac)                                                                      \
    __kernel void name(TENSOR(y), const int rounds, const int a) {                                 \
        const int item = get_global_id(0);                                                         \
        EACH_CHAIN(START_DOT)                                                                      \
        for (int r = 0; r < rounds; r++) {                                                         \
            EACH_CHAIN(mac)                                                                        \
        }                                                                                          \
        const I sum = SUM_CHAINS(v);                                                               \
        int lane[VEC];                                                                             \
        SPILL(sum, lane);                                                                          \
        for (int k = 0; k < VEC; k++) AT(int, y)[item * VEC + k] = lane[k];                        \
    }
#define START_DOT(i) I v##i = (I)(item + i) + LANES;
#define MAC4(i) v##i = mac4(v##i, a, v##i);
#ifdef DOT_MADD
typedef short PAIR_LANES __attribute__((ext_vector_type(2 * VEC)));
typedef int PRODUCTS __attribute__((ext_vector_type(2 * VEC)));
I pairs_of(const I acc, const int x) {
    const union { I words; PAIR_LANES halves; } w = {acc};
    const union { int word; short2 halves; } both = {x};
    PAIR_LANES xs;
    xs.even = both.halves.s0;
    xs.odd = both.halves.s1;
    const PRODUCTS product = __builtin_convertvector(xs, PRODUCTS)
        * __builtin_convertvector(w.halves, PRODUCTS);
    return acc + (product.even + product.odd);
}
#define MAC2(i) v##i = pairs_of(v##i, a);
#else
#define MAC2(i) v##i = mac2(v##i, a, v##i);
#endif
DEFINE_DOT(dot4_peak, MAC4)
DEFINE_DOT(dot2_peak, MAC2)

// An item moves `count` vectors, the first at item * first, the others `step` apart, many times.
// x [items * count * VEC], y [items * VEC]
__kernel void read_peak(TENSOR(x), TENSOR(y), const int count, const int first, const int step,
                        const int rounds) {
    const int item = get_global_id(0);
    __global const S *xp = AT(const S, x) + (size_t)item * first * VEC;
#define EACH_STREAM(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define START_SUM(j) F s##j = (F)(0);
#define ADD(j) s##j += LOADV(xp + ((size_t)i + (size_t)j * part) * step * VEC);
    EACH_STREAM(START_SUM)
    const int part = count / 8;  // one stream of addresses alone keeps too few misses in flight
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < part; i++) {
            EACH_STREAM(ADD)
        }
        for (int i = part * 8; i < count; i++) s0 += LOADV(xp + (size_t)i * step * VEC);
    }
    STOREV(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)), AT(S, y) + (size_t)item * VEC);
}

// x, y [items * count * VEC]
__kernel void copy_peak(TENSOR(x), TENSOR(y), const int count, const int first, const int step,
                        const int rounds) {
    const size_t at = (size_t)get_global_id(0) * first * VEC;
    __global const S *xp = AT(const S, x) + at;
    __global S *yp = AT(S, y) + at;
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < count; i++) {
            const size_t k = (size_t)i * step * VEC;
            STREAM(LOADV(xp + k), yp + k);
        }
    }
}

// x, z, y [items * count * VEC]
__kernel void sum_peak(TENSOR(x), TENSOR(z), TENSOR(y), const int count, const int first,
                       const int step, const int rounds) {
    const size_t at = (size_t)get_global_id(0) * first * VEC;
    __global const S *xp = AT(const S, x) + at, *zp = AT(const S, z) + at;
    __global S *yp = AT(S, y) + at;
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < count; i++) {
            const size_t k = (size_t)i * step * VEC;
            STREAM(LOADV(xp + k) + LOADV(zp + k), yp + k);
        }
    }
}

// y [1]
__kernel void nothing(TENSOR(y)) {
    if (get_global_id(0) > 0) AT(S, y)[0] = (E)0;
}
