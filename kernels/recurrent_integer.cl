// One step of an LSTM over integers; see recurrent.cl for the equation and the order of gates.
//
// p [samples, 4 * hidden] int16 of this step, w [hidden, 4 * hidden] int8, before and y
// [samples, hidden] uint8: the states of the step before (read if `state`) and of this one, last
// and cell [samples, hidden] int16: the same of the cell (read if `state_c`).
//   gate = saturate(p + requantize(sum over k of (before[k] - zero) * w[k]))     16 bits, 3 of them
//          before the point; sigmoid and tanh of it have none: see fixed.cl
//   cell = saturate(last f / 2^15 + i g / 2^(15 + bits))          clipped, if clip is above 0
//   y    = saturate(requantize(o tanh(cell)) + zero)
// gates: m0 of i, o, f, g, then t of them. output: zero, m0, t of y, clip.
// bits: of a cell before the point, 0 to 4. What is requantized is rounded twice (integer.cl).
//
// Global size (ceil(hidden / VEC), samples, 1), VEC at most hidden; the last vector is shifted back
// so that it ends at `hidden`. T_int16, O_uint8.

#include "integer.cl"
#include "fixed.cl"

#if VEC == 1
#define WEIGHTS(p) ((int)*(p))
#else
#define WEIGHTS(p) GLUE(convert_int, VEC)(GLUE(vload, VEC)(0, p))
#endif

__kernel void lstm_integer(TENSOR(p), TENSOR(w), TENSOR(before), TENSOR(y), TENSOR(last),
                           TENSOR(cell), const uint p_from, const uint before_from,
                           const uint y_from, const int state, const int state_c,
                           const int hidden, const int bits, const int8 gates,
                           const int4 output) {
    const int at = get_global_id(0) * VEC, j = min(at, hidden - VEC), seen = at - j;
    const int sample = get_global_id(1);
    __global const short *pp = AT(const short, p) + p_from + sample * 4 * hidden + j;
    __global const char *wp = AT(const char, w) + j;
    __global const uchar *hp = AT(const uchar, before) + before_from + sample * hidden;
    I sum[4];
    for (int g = 0; g < 4; g++) sum[g] = (I)(0);
    if (state) {
        for (int k = 0; k < hidden; k++) {
            const I h = (I)((int)hp[k] - output.s0);
            for (int g = 0; g < 4; g++) sum[g] += h * WEIGHTS(wp + (4 * k + g) * hidden);
        }
    }
    const int m0[4] = {gates.s0, gates.s1, gates.s2, gates.s3};
    const int t[4] = {gates.s4, gates.s5, gates.s6, gates.s7};
    I gate[4];
    for (int g = 0; g < 4; g++)
        gate[g] = sat16(requantizev_twice(sum[g], (I)(m0[g]), (I)(t[g])) + LOADV(pp + g * hidden));
    const I i = sigmoid_fixed(gate[0], 3), o = sigmoid_fixed(gate[1], 3);
    const I f = sigmoid_fixed(gate[2], 3), g = tanh_fixed(gate[3], 3);
    const I c = state_c ? LOADV(AT(const short, last) + sample * hidden + j) : (I)(0);
    I next = sat16(divided(f * c, 15) + divided(i * g, 15 + bits));
    if (output.s3 > 0)
        next = min(max(next, (I)(-output.s3)), (I)(output.s3));
    int cells[VEC];
    SPILL(next, cells);
    __global short *cp = AT(short, cell) + sample * hidden + j;
    for (int k = seen; k < VEC; k++) cp[k] = (short)cells[k];
    const I h = requantizev_twice(o * tanh_fixed(next, bits), (I)(output.s1), (I)(output.s2));
    store_fresh(saturate(h + output.s0, (I)(0), (I)(255)), seen,
                AT(uchar, y) + y_from + sample * hidden + j);
}
