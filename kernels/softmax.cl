// Softmax over the middle axis of x [outer, n, inner] -> y [outer, n, inner]:
//   m = max_k(scale x_k), s = sum_k(exp(scale x_k - m))
//   y_k = exp(scale x_k - m) / s, or with `logarithm` scale x_k - m - log(s)
//
// rows:     inner = 1, n >= VEC            global size (outer)
// columns:  inner >= VEC                   global size (ceil(inner / VEC), outer)
//
// Every vector is read before it is written, so that y may be x. O_*, REAL: see common.cl.

// The exponentials wait in y for their sum where that loses nothing.
#if !defined(T_fp16) && !defined(O_fp16) && !defined(REAL)
#define KEPT 1
#define AGAIN(i) LOADV(yp + i)
#else
#define KEPT 0
#define AGAIN(i) exp(LOADV(xp + i) * scale - m)
#endif
DEFINE_FOLD(highest, E, fmax(a, b))
DEFINE_FOLD(total, E, (a + b))

__kernel void rows(TENSOR(x), TENSOR(y), const int n, const float scale,
                   const int logarithm GRIDS) {
    __global const S *xp = AT(const S, x) + get_global_id(0) * n;
    __global O *yp = AT(O, y) + get_global_id(0) * n;
    const int whole = n / VEC * VEC, seen = (VEC - (n - whole)) % VEC;
    F last = LOADV(xp + n - VEC) * scale, top = last;
    for (int i = 0; i < whole; i += VEC) top = fmax(top, LOADV(xp + i) * scale);
    const float m = highest(top);
    F sum = (F)(0.0f);
    for (int i = 0; i < whole; i += VEC) {
        const F e = exp(LOADV(xp + i) * scale - m);
        sum += e;
        if (KEPT && !logarithm) STOREV(e, yp + i);
    }
    if (seen) sum += FRESH(exp(last - m), seen, 0.0f);
    const float s = total(sum);
    if (logarithm) {
        const float shift = m + log(s);
        for (int i = 0; i < whole; i += VEC) STOREV(LOADV(xp + i) * scale - shift, yp + i);
        if (seen) store_fresh(last - shift, seen, yp + n - VEC);
        return;
    }
    const float share = 1.0f / s;
    for (int i = 0; i < whole; i += VEC)
        STOREV(AGAIN(i) * share, yp + i);
    if (seen) store_fresh(exp(last - m) * share, seen, yp + n - VEC);
}

__kernel void columns(TENSOR(x), TENSOR(y), const int n, const int inner, const float scale,
                      const int logarithm GRIDS) {
    const int i = get_global_id(0) * VEC, from = min(i, inner - VEC), seen = i - from;
    const int start = get_global_id(1) * n * inner + from;
    __global const S *xp = AT(const S, x) + start;
    __global O *yp = AT(O, y) + start;
    F m = LOADV(xp) * scale, s = (F)(0.0f);
    for (int k = 1; k < n; k++) m = fmax(m, LOADV(xp + k * inner) * scale);
    for (int k = 0; k < n; k++) s += exp(LOADV(xp + k * inner) * scale - m);
    if (logarithm) {
        const F shift = m + log(s);
        for (int k = 0; k < n; k++)
            store_fresh(LOADV(xp + k * inner) * scale - shift, seen, yp + k * inner);
        return;
    }
    const F share = 1.0f / s;
    for (int k = 0; k < n; k++)
        store_fresh(exp(LOADV(xp + k * inner) * scale - m) * share, seen, yp + k * inner);
}
