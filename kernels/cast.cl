// y[i] = x[i] in another dtype, x and y [n]          global size (ceil(n / run))
//
// FROM_<dtype>, TO_<dtype>: the stored types of x and y, of fp32, fp16, int32, int16, int8, uint8,
//   bool. A real number becomes an integer by dropping its fraction (beyond the range of int32: the
//   nearest int32); an integer keeps its low bits; anything becomes true unless it is 0.

#if defined(FROM_fp16)
typedef half X;
#define FROM_REAL
#define GET(i, p) vload_half((i), (p))
#else
#define GET(i, p) ((p)[i])
#if defined(FROM_int32)
typedef int X;
#elif defined(FROM_int16)
typedef short X;
#elif defined(FROM_int8)
typedef char X;
#elif defined(FROM_uint8) || defined(FROM_bool)
typedef uchar X;
#else
typedef float X;
#define FROM_REAL
#endif
#endif

#ifdef FROM_REAL
#define WHOLE(v) convert_int_sat(v)
#else
#define WHOLE(v) (v)
#endif

#if defined(TO_fp16)
typedef half Y;
#define PUT(v, i, p) vstore_half_rte((float)(v), (i), (p))
#elif defined(TO_int32)
typedef int Y;
#define PUT(v, i, p) ((p)[i] = WHOLE(v))
#elif defined(TO_int16)
typedef short Y;
#define PUT(v, i, p) ((p)[i] = (short)WHOLE(v))
#elif defined(TO_int8)
typedef char Y;
#define PUT(v, i, p) ((p)[i] = (char)WHOLE(v))
#elif defined(TO_uint8)
typedef uchar Y;
#define PUT(v, i, p) ((p)[i] = (uchar)WHOLE(v))
#elif defined(TO_bool)
typedef uchar Y;
#define PUT(v, i, p) ((p)[i] = (uchar)((v) != 0))
#else
typedef float Y;
#define PUT(v, i, p) ((p)[i] = (float)(v))
#endif

__kernel void cast(TENSOR(x), TENSOR(y), const int n, const int run) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    __global const X *xp = AT(const X, x);
    __global Y *yp = AT(Y, y);
    for (int i = start; i < stop; i++) PUT(GET(i, xp), i, yp);
}
