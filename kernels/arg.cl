// y = index of the largest element along the middle axis of x
// x [outer, n, inner], y int32 [outer, inner]
//
// rows:     inner = 1, n >= VEC          global size (outer)
// columns:  inner >= VEC                 global size (ceil(inner / VEC), outer)
//
// SMALLEST: of the smallest element. LAST: of equal elements the last one counts, not the first.

#ifdef SMALLEST
#define BEATS(a, b) ((a) < (b))
#define BEST min(a, b)
#else
#define BEATS(a, b) ((a) > (b))
#define BEST max(a, b)
#endif
#ifdef LAST
#define TAKE(v, best) (!BEATS(best, v))
#define NEARER max(a, b)
#define WORST (-1)
#else
#define TAKE(v, best) BEATS(v, best)
#define NEARER min(a, b)
#define WORST 2147483647
#endif

DEFINE_FOLD(best_of, E, BEST)
DEFINE_FOLD(nearest_of, int, NEARER)

__kernel void rows(TENSOR(x), TENSOR(y), const int n) {
    __global const S *xp = AT(const S, x) + get_global_id(0) * n;
    F best = LOADV(xp);
    I at = LANES;
    for (int i = VEC; i < n; i += VEC) {
        const int from = min(i, n - VEC);  // an element met twice changes nothing
        const F v = LOADV(xp + from);
        const I take = TAKE(v, best);
        at = take ? LANES + from : at;
        best = take ? v : best;
    }
    at = best == (F)(best_of(best)) ? at : (I)(WORST);
    AT(int, y)[get_global_id(0)] = clamp(nearest_of(at), 0, n - 1);  // clamped: all may be NaN
}

__kernel void columns(TENSOR(x), TENSOR(y), const int n, const int inner) {
    const int i = get_global_id(0) * VEC, from = min(i, inner - VEC), row = get_global_id(1);
    __global const S *xp = AT(const S, x) + row * n * inner + from;
    F best = LOADV(xp);
    I at = (I)(0);
    for (int k = 1; k < n; k++) {
        const F v = LOADV(xp + k * inner);
        const I take = TAKE(v, best);
        at = take ? (I)(k) : at;
        best = take ? v : best;
    }
    int index[VEC];
    SPILL(at, index);
    for (int k = i - from; k < VEC; k++) AT(int, y)[row * inner + from + k] = index[k];
}
