// Shared by every kernel file; the runtime puts it in front of each.
//
// A tensor is a buffer and a byte offset, because activations share one arena and constants one
// segment per dtype:
//   TENSOR(x)    two parameters of a kernel
//   AT(type, x)  the pointer to its first element
//
// T_fp32, T_fp16, T_int32, T_int16, T_int8, T_uint8, T_bool: the stored type of this program's
// tensors. Arithmetic is fp32 for the float types and int for the others:
//   S            stored type
//   E            arithmetic type, float or int
//   LOAD(i, p), LOAD2(i, p) .. LOAD16(i, p)    element i, or vector i, of p (S *) as E
// O_fp32, O_fp16, O_int32, O_int16, O_int8, O_uint8: the stored type of the output where it is
// another one; only in files that say so.
//   O            stored type of the output, S without one of these
//   OE           its arithmetic type, float or int
//   STORE(v, i, p), STORE2 .. STORE16          the reverse of OE into p (O *); fp16 rounds to
//                                              nearest even, integers keep their low bits
// Vector accesses need only element alignment. Vector i starts at element i * width, as in vload.
//
// REAL: the integers (T_uint8, T_int16) are quantized numbers, and arithmetic is on what they mean:
// E and OE are float, LOAD gives scale * (q - zero_point), STORE rounds to the nearest step. In
// files that know REAL, whatever loads or stores has GRIDS behind its last parameter, and
// PASS_GRIDS behind the last argument of its calls; without REAL both are nothing.
//   grids   of x: scale, zero point; of y: scale, 1 / scale, zero point, least and largest number

#ifdef REAL
#define GRIDS , const float8 grids
#define PASS_GRIDS , grids
#else
#define GRIDS
#define PASS_GRIDS
#endif

// APART: in front of a function that is compiled once, not again wherever it is called. ROLLED: in
// front of a loop that runs seldom, and is not unrolled; ROLLED_ON_POCL: likewise, but unrolled by
// other drivers, of GPUs without fast private arrays. PoCL compiles while the first run waits.
#ifdef POCL_DEVICE_ADDRESS_BITS
#define APART __attribute__((noinline))
#define ROLLED _Pragma("unroll 1")
#define ROLLED_ON_POCL ROLLED
#else
#define APART
#define ROLLED
#define ROLLED_ON_POCL _Pragma("unroll")
#endif

#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define TENSOR(x) __global uchar *x##_base, const uint x##_at
#define AT(type, x) ((__global type *)(x##_base + x##_at))

// vload_half and vstore_half_rte of n elements. PoCL 3.1 takes whole aligned vectors for granted
// there, where the standard promises the alignment of one half, and faults where the compiler makes
// use of it: the bits move in and out of a private vector.
#if defined(POCL_DEVICE_ADDRESS_BITS) && (defined(T_fp16) || defined(O_fp16))
typedef ushort4 HALVES4 __attribute__((aligned(2)));
typedef ushort8 HALVES8 __attribute__((aligned(2)));
float4 load_half4(const size_t i, __global const half *p) {
    const ushort4 bits = ((__global const HALVES4 *)p)[i];
    return vload_half4(0, (const half *)&bits);
}
float8 load_half8(const size_t i, __global const half *p) {
    const ushort8 bits = ((__global const HALVES8 *)p)[i];
    return vload_half8(0, (const half *)&bits);
}
float16 load_half16(const size_t i, __global const half *p) {
    return (float16)(load_half8(2 * i, p), load_half8(2 * i + 1, p));
}
void store_half4(const float4 v, const size_t i, __global half *p) {
    ushort4 bits;
    vstore_half4_rte(v, 0, (half *)&bits);
    ((__global HALVES4 *)p)[i] = bits;
}
void store_half8(const float8 v, const size_t i, __global half *p) {
    ushort8 bits;
    vstore_half8_rte(v, 0, (half *)&bits);
    ((__global HALVES8 *)p)[i] = bits;
}
void store_half16(const float16 v, const size_t i, __global half *p) {
    store_half8(v.lo, 2 * i, p);
    store_half8(v.hi, 2 * i + 1, p);
}
#define LOAD_HALF(n) GLUE(load_half, n)
#define STORE_HALF(n) GLUE(store_half, n)
#else
#define LOAD_HALF(n) GLUE(vload_half, n)
#define STORE_HALF(n) GLUE(GLUE(vstore_half, n), _rte)
#endif

#if defined(T_fp16)
typedef half S;
#define LOAD(i, p) vload_half((i), (p))
#define LOAD2(i, p) vload_half2((i), (p))
#define LOAD4(i, p) LOAD_HALF(4)((i), (p))
#define LOAD8(i, p) LOAD_HALF(8)((i), (p))
#define LOAD16(i, p) LOAD_HALF(16)((i), (p))
#define E float
#elif defined(T_uint8) || defined(T_bool) || defined(T_int8) || defined(T_int16)
#if defined(T_int8)
typedef char S;
#define SMALL_S(n) GLUE(char, n)
#elif defined(T_int16)
typedef short S;
#define SMALL_S(n) GLUE(short, n)
#else
typedef uchar S;
#define SMALL_S(n) GLUE(uchar, n)
#endif
#ifdef REAL
#define E float
#define MEANING(q) (((q) - grids.s1) * grids.s0)
#define LOAD(i, p) MEANING((float)(p)[i])
#define LOAD2(i, p) MEANING(convert_float2(vload2((i), (p))))
#define LOAD4(i, p) MEANING(convert_float4(vload4((i), (p))))
#define LOAD8(i, p) MEANING(convert_float8(vload8((i), (p))))
#define LOAD16(i, p) MEANING(convert_float16(vload16((i), (p))))
#else
#define E int
#define LOAD(i, p) ((int)(p)[i])
#define LOAD2(i, p) convert_int2(vload2((i), (p)))
#define LOAD4(i, p) convert_int4(vload4((i), (p)))
#define LOAD8(i, p) convert_int8(vload8((i), (p)))
#define LOAD16(i, p) convert_int16(vload16((i), (p)))
#endif
#else
#if defined(T_int32)
#define E int
#else
#define E float
#endif
typedef E S;
#define LOAD(i, p) ((p)[i])
#define LOAD2(i, p) vload2((i), (p))
#ifdef POCL_DEVICE_ADDRESS_BITS
// PoCL's vload and vstore are made of halves of halves, which its compiler has to put together.
typedef GLUE(E, 4) PLAIN4 __attribute__((aligned(4)));
typedef GLUE(E, 8) PLAIN8 __attribute__((aligned(4)));
typedef GLUE(E, 16) PLAIN16 __attribute__((aligned(4)));
#define LOAD4(i, p) (((__global const PLAIN4 *)(p))[i])
#define LOAD8(i, p) (((__global const PLAIN8 *)(p))[i])
#define LOAD16(i, p) (((__global const PLAIN16 *)(p))[i])
#else
#define LOAD4(i, p) vload4((i), (p))
#define LOAD8(i, p) vload8((i), (p))
#define LOAD16(i, p) vload16((i), (p))
#endif
#endif

#if defined(O_fp32) || defined(O_int32) || defined(O_int16) || defined(O_int8) || defined(O_uint8)
#define OTHER
#endif
#if defined(O_fp16) || (defined(T_fp16) && !defined(OTHER))
typedef half O;
#define OE float
#define STORE(v, i, p) vstore_half_rte((v), (i), (p))
#define STORE2(v, i, p) vstore_half2_rte((v), (i), (p))
#define STORE4(v, i, p) STORE_HALF(4)((v), (i), (p))
#define STORE8(v, i, p) STORE_HALF(8)((v), (i), (p))
#define STORE16(v, i, p) STORE_HALF(16)((v), (i), (p))
#elif (defined(OTHER) && !defined(O_fp32) && !defined(O_int32)) \
    || (defined(SMALL_S) && !defined(OTHER))
#if defined(O_int8)
typedef char O;
#define SMALL(n) GLUE(char, n)
#elif defined(O_int16)
typedef short O;
#define SMALL(n) GLUE(short, n)
#elif defined(O_uint8)
typedef uchar O;
#define SMALL(n) GLUE(uchar, n)
#else
typedef S O;
#define SMALL(n) SMALL_S(n)
#endif
#define NARROW(n) GLUE(convert_, SMALL(n))
#ifdef POCL_DEVICE_ADDRESS_BITS
// The vstore of PoCL 3.1 writes such elements one by one.
typedef SMALL(2) PACKED2 __attribute__((aligned(1)));
typedef SMALL(4) PACKED4 __attribute__((aligned(1)));
typedef SMALL(8) PACKED8 __attribute__((aligned(1)));
typedef SMALL(16) PACKED16 __attribute__((aligned(1)));
#define STORE_SMALL(n, v, i, p) (((__global GLUE(PACKED, n) *)(p))[i] = NARROW(n)(v))
#else
#define STORE_SMALL(n, v, i, p) GLUE(vstore, n)(NARROW(n)(v), (i), (p))
#endif
#ifdef REAL
#define OE float
// round(v / scale) + zero_point, the quotient correctly rounded; NaN becomes the zero point.
#define DEFINE_STEPS(type, name) \
    type name(const type v, const float8 grids) { \
        const type x = fmin(fmax(v, grids.s5), grids.s6), q = x * grids.s3; \
        const type steps = rint(fma(fma(-q, (type)(grids.s2), x), (type)(grids.s3), q)); \
        return (v == v ? steps : (type)(0.0f)) + grids.s4; \
    }
DEFINE_STEPS(float, steps1)
DEFINE_STEPS(float2, steps2)
DEFINE_STEPS(float4, steps4)
DEFINE_STEPS(float8, steps8)
DEFINE_STEPS(float16, steps16)
#define STORE(v, i, p) ((p)[i] = (O)steps1(v, grids))
#define STORE2(v, i, p) STORE_SMALL(2, steps2(v, grids), i, p)
#define STORE4(v, i, p) STORE_SMALL(4, steps4(v, grids), i, p)
#define STORE8(v, i, p) STORE_SMALL(8, steps8(v, grids), i, p)
#define STORE16(v, i, p) STORE_SMALL(16, steps16(v, grids), i, p)
#else
#define OE int
#define STORE(v, i, p) ((p)[i] = (O)(v))
#define STORE2(v, i, p) STORE_SMALL(2, v, i, p)
#define STORE4(v, i, p) STORE_SMALL(4, v, i, p)
#define STORE8(v, i, p) STORE_SMALL(8, v, i, p)
#define STORE16(v, i, p) STORE_SMALL(16, v, i, p)
#endif
#else
#if defined(O_int32)
#define OE int
#elif defined(O_fp32)
#define OE float
#else
#define OE E
#endif
typedef OE O;
#define STORE(v, i, p) ((p)[i] = (v))
#define STORE2(v, i, p) vstore2((v), (i), (p))
#ifdef POCL_DEVICE_ADDRESS_BITS
typedef GLUE(OE, 4) STORED4 __attribute__((aligned(4)));
typedef GLUE(OE, 8) STORED8 __attribute__((aligned(4)));
typedef GLUE(OE, 16) STORED16 __attribute__((aligned(4)));
#define STORE4(v, i, p) (((__global STORED4 *)(p))[i] = (v))
#define STORE8(v, i, p) (((__global STORED8 *)(p))[i] = (v))
#define STORE16(v, i, p) (((__global STORED16 *)(p))[i] = (v))
#else
#define STORE4(v, i, p) vstore4((v), (i), (p))
#define STORE8(v, i, p) vstore8((v), (i), (p))
#define STORE16(v, i, p) vstore16((v), (i), (p))
#endif
#endif

// VEC: lanes a work-item handles at once: 1, 2, 4, 8 or 16. F is that vector of E (E for 1), OF
// of OE; LOADV(p) and STOREV(v, p) move an F from, and an OF to, the element pointer p.
#ifndef VEC
#define VEC 4
#endif
#if VEC == 1
typedef E F;
typedef OE OF;
#define LOADV(p) LOAD(0, p)
#define STOREV(v, p) STORE(v, 0, p)
#else
typedef GLUE(E, VEC) F;
typedef GLUE(OE, VEC) OF;
#define LOADV(p) GLUE(LOAD, VEC)(0, p)
#define STOREV(v, p) GLUE(STORE, VEC)(v, 0, p)
#endif

// Fused activation. ACTIVATE(x) is a whitelisted expression of x, alpha and beta over floats or
// float vectors, given by the runtime from its table of unary ops; default: none.
#ifndef ACTIVATE
#define ACTIVATE(x) (x)
#endif

// Walking n >= VEC elements in whole vectors: the last vector ends at n, so its first `seen` lanes
// are elements of the one before.
//   I, LANES            the int vector of VEC lanes, and 0, 1 .. VEC - 1
//   FRESH(v, seen, e)   v with e in the lanes seen before
//   SPILL(v, array)     the lanes into a private array of VEC elements
//   DEFINE_FOLD(name, type, join)   a function: vector of VEC lanes -> one element; `join` is an
//                                   expression of a and b, over `type` and its vectors
//   store_fresh(v, seen, p)   STOREV of the other lanes only
// Fewer than VEC elements: load_some(n, p), an F whose lanes from n on are 0, and
// store_some(v, n, p). LANED(name) is the type or function `name` for VEC lanes.
#if VEC == 1
typedef int I;
#define LANED(name) name
#define FILL(array) ((array)[0])
#define LANES 0
#define SPILL(v, array) ((array)[0] = (v))
#else
typedef GLUE(int, VEC) I;
#define LANED(name) GLUE(name, VEC)
#define FILL(array) GLUE(vload, VEC)(0, (array))
#if VEC == 2
#define LANES (int2)(0, 1)
#elif VEC == 4
#define LANES (int4)(0, 1, 2, 3)
#elif VEC == 8
#define LANES (int8)(0, 1, 2, 3, 4, 5, 6, 7)
#else
#define LANES (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#endif
#define SPILL(v, array) GLUE(vstore, VEC)((v), 0, (array))
#endif
#define FRESH(v, seen, e) (LANES < (I)(seen) ? (F)(e) : (v))

#define FOLD_1(type, join) return v1;
#define FOLD_2(type, join) const type a = v2.s0, b = v2.s1; return join;
#define FOLD_4(type, join) \
    GLUE(type, 2) v2; { const GLUE(type, 2) a = v4.lo, b = v4.hi; v2 = join; } FOLD_2(type, join)
#define FOLD_8(type, join) \
    GLUE(type, 4) v4; { const GLUE(type, 4) a = v8.lo, b = v8.hi; v4 = join; } FOLD_4(type, join)
#define FOLD_16(type, join) \
    GLUE(type, 8) v8; { const GLUE(type, 8) a = v16.lo, b = v16.hi; v8 = join; } FOLD_8(type, join)
#if VEC == 1
#define DEFINE_FOLD(name, type, join) type name(const type v1) { FOLD_1(type, join) }
#else
#define DEFINE_FOLD(name, type, join) \
    type name(const GLUE(type, VEC) GLUE(v, VEC)) { GLUE(FOLD_, VEC)(type, join) }
#endif

#define store_fresh(v, seen, p) store_lanes((v), (seen), (p) PASS_GRIDS)
void store_lanes(const OF v, const int seen, __global O *p GRIDS) {
    if (seen == 0) {
        STOREV(v, p);
    } else {
        OE lane[VEC];
        SPILL(v, lane);
        ROLLED
        for (int k = seen; k < VEC; k++) STORE(lane[k], k, p);
    }
}

#define load_some(n, p) load_part((n), (p) PASS_GRIDS)
F load_part(const int n, __global const S *p GRIDS) {
    E lane[VEC];
    ROLLED
    for (int k = 0; k < VEC; k++) lane[k] = k < n ? LOAD(k, p) : (E)0;
    return FILL(lane);
}

#define store_some(v, n, p) store_part((v), (n), (p) PASS_GRIDS)
void store_part(const OF v, const int n, __global O *p GRIDS) {
    OE lane[VEC];
    SPILL(v, lane);
    ROLLED
    for (int k = 0; k < n; k++) STORE(lane[k], k, p);
}

// Elements that are moved, never interpreted: U has SIZE bytes (1, 2 or 4), UV is VEC of them,
// moved by ULOAD(i, p) and USTORE(v, i, p) like vload and vstore.
#ifndef SIZE
#define SIZE 4
#endif
#if SIZE == 1
#define U uchar
#elif SIZE == 2
#define U ushort
#else
#define U uint
#endif
#define UV GLUE(U, VEC)
#define ULOAD GLUE(vload, VEC)
#define USTORE GLUE(vstore, VEC)
