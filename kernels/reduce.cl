// y = FINISH of a, a = JOIN of a and b = MAP of x over the reduced axes, starting from INITIAL.
//
// x is walked with the strides steps_kept over `kept` and steps_reduced over `reduced` (up to four
// axes each, elements; axes before the first are 1); y is [kept], row-major.
//
// rows:     the last reduced axis is contiguous in x, >= VEC       global size (product of kept)
// columns:  the last kept axis is contiguous in x, >= VEC          global size (ceil(kept_3 / VEC),
//                                                                     product of kept_0 .. kept_2)
//
// MAP, JOIN, FINISH, INITIAL: C expressions over E and its vectors, of x and shift; a and b; a,
//   shift and total, the number of elements that became one; nothing.
// SHIFTED: `shift` is the maximum over the reduced axes (0 if that is infinite), else 0.
// O_*, REAL: see common.cl. STEPS: x and y are quantized, a is a sum of integers, and the result
//   requantize(a - steps.s0 * total, steps.s1, steps.s2) + steps.s3 between steps.s4 and steps.s5.

#ifdef STEPS
#include "integer.cl"
#define STEPS_PARAMETER , const int8 steps
#define PASS_STEPS , steps
#else
#define STEPS_PARAMETER
#define PASS_STEPS
#endif

#ifndef JOIN
#define MAP (x)
#define JOIN (a + b)
#define FINISH (a)
#define INITIAL 0
#endif

// Elements are joined in groups of CHUNK vectors, and the groups after that, so that a long sum
// keeps its digits.
#define CHUNK 128

// Four steps of the start for the row-major index over dims.
int place(int index, const int4 dims, const int4 steps) {
    int at = index % dims.s3 * steps.s3;
    index /= dims.s3;
    at += index % dims.s2 * steps.s2;
    index /= dims.s2;
    at += index % dims.s1 * steps.s1;
    return at + index / dims.s1 * steps.s0;
}

F map(const F x, const F shift) { return MAP; }
F join(const F a, const F b) { return JOIN; }
DEFINE_FOLD(fold, E, JOIN)
F finish(const F a, const F shift, const E total STEPS_PARAMETER) {
#ifdef STEPS
    const I steps_of_y = requantizev(a - steps.s0 * total, (I)(steps.s1), (I)(steps.s2)) + steps.s3;
    return saturate(steps_of_y, (I)(steps.s4), (I)(steps.s5));
#else
    return FINISH;
#endif
}
#ifdef SHIFTED
DEFINE_FOLD(highest, E, fmax(a, b))
F top(const F a, const F x) { return fmax(a, x); }
F finite(const F m) { return fabs(m) == (F)(INFINITY) ? (F)(0) : m; }
#define START_TOP (-INFINITY)
#endif

// Lanes of the fold of n >= VEC contiguous elements at p.
F fold_run(__global const S *p, const int n, const F shift GRIDS) {
    F all = (F)(INITIAL);
    int i = 0;
    while (i + VEC <= n) {
        const int stop = min(n - VEC, i + (CHUNK - 1) * VEC);
        F part = (F)(INITIAL);
        for (; i <= stop; i += VEC) part = join(part, map(LOADV(p + i), shift));
        all = join(all, part);
    }
    if (i < n) {
        const F tail = join((F)(INITIAL), map(LOADV(p + n - VEC), shift));
        all = join(all, FRESH(tail, VEC - (n - i), INITIAL));
    }
    return all;
}

__kernel void rows(TENSOR(x), TENSOR(y), const int4 kept, const int4 steps_kept, const int4 reduced,
                   const int4 steps_reduced, const int total STEPS_PARAMETER GRIDS) {
    __global const S *xp = AT(const S, x) + place(get_global_id(0), kept, steps_kept);
    const int4 over = (int4)(1, reduced.s0, reduced.s1, reduced.s2);
    const int4 walk = (int4)(0, steps_reduced.s0, steps_reduced.s1, steps_reduced.s2);
    const int runs = reduced.s0 * reduced.s1 * reduced.s2, n = reduced.s3;
    F shift = (F)(0);
#ifdef SHIFTED
    F m = (F)(START_TOP);
    for (int r = 0; r < runs; r++) {
        __global const S *p = xp + place(r, over, walk);
        for (int i = 0; i + VEC <= n; i += VEC) m = top(m, LOADV(p + i));
        m = top(m, LOADV(p + n - VEC));
    }
    shift = finite((F)(highest(m)));
#endif
    F all = (F)(INITIAL);
    for (int r = 0; r < runs; r++)
        all = join(all, fold_run(xp + place(r, over, walk), n, shift PASS_GRIDS));
    all = finish((F)(fold(all)), shift, (E)total PASS_STEPS);
    E lane[VEC];
    SPILL(all, lane);
    STORE(lane[0], get_global_id(0), AT(O, y));
}

__kernel void columns(TENSOR(x), TENSOR(y), const int4 kept, const int4 steps_kept,
                      const int4 reduced, const int4 steps_reduced,
                      const int total STEPS_PARAMETER GRIDS) {
    const int i = get_global_id(0) * VEC, from = min(i, kept.s3 - VEC), row = get_global_id(1);
    const int4 over = (int4)(1, kept.s0, kept.s1, kept.s2);
    const int4 walk = (int4)(0, steps_kept.s0, steps_kept.s1, steps_kept.s2);
    __global const S *xp = AT(const S, x) + place(row, over, walk) + from;
    const int4 outer = (int4)(1, reduced.s0, reduced.s1, reduced.s2);
    const int4 outer_steps = (int4)(0, steps_reduced.s0, steps_reduced.s1, steps_reduced.s2);
    const int runs = reduced.s0 * reduced.s1 * reduced.s2, n = reduced.s3, step = steps_reduced.s3;
    F shift = (F)(0);
#ifdef SHIFTED
    F m = (F)(START_TOP);
    for (int r = 0; r < runs; r++) {
        __global const S *p = xp + place(r, outer, outer_steps);
        for (int k = 0; k < n; k++) m = top(m, LOADV(p + k * step));
    }
    shift = finite(m);
#endif
    F all = (F)(INITIAL);
    for (int r = 0; r < runs; r++) {
        __global const S *p = xp + place(r, outer, outer_steps);
        for (int k = 0; k < n;) {
            const int stop = min(n, k + CHUNK);
            F part = (F)(INITIAL);
            for (; k < stop; k++) part = join(part, map(LOADV(p + k * step), shift));
            all = join(all, part);
        }
    }
    store_fresh(finish(all, shift, (E)total PASS_STEPS), i - from,
                AT(O, y) + row * kept.s3 + from);
}
