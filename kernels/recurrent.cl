// One step of a recurrent layer; the products with the inputs are done before, for all steps.
//
//   g = p + w_g h', for every gate g, each hidden elements; h' is the state of the step before.
//   lstm  gates i, o, f, c:  c = sigmoid(f) * c' + sigmoid(i) * tanh(c),  h = sigmoid(o) * tanh(c)
//         with peepholes k: i + k_i c', f + k_f c', o + k_o c
//   gru   gates z, r, n:     h = (1 - z) * tanh(p_n + r * (w_n h' + b)) + z * h', sigmoids in z, r
//   rnn   one gate:          h = ACTIVATE(p + w h')
// clip: sums of gates are clipped to -clip .. clip first, if it is above 0.
// Sources: Hochreiter and Schmidhuber, "Long short-term memory", 1997 (the forget gate: Gers,
// 1999); Cho et al., 2014. Order of gates and meaning of clip and peepholes: ONNX.
//
// A work-item computes VEC elements of the state of a sample. Global size (ceil(hidden / VEC),
// samples, 1). The last vector is shifted back so that it ends at `hidden`; elements that another
// work-item has too are computed and not stored.
//
// cell_clip: c is clipped to -cell_clip .. cell_clip, if it is above 0.
//
// VEC: 1, 2, 4, 8 or 16, at most hidden.
// KTANH: sigmoid and tanh of lstm and gru are those of ktanh.cl.
// LEVELS: a float, at least 1: see below.

#if VEC == 1
#define VLOAD(p) (*(p))
#else
#define VLOAD(p) GLUE(vload, VEC)(0, p)
#endif

#ifdef KTANH
#define SIGMOID(x) ksigmoid(x)
#define TANH(x) ktanh(x)
#else
F sigmoid(const F x) { return 1.0f / (1.0f + exp(-x)); }
#define SIGMOID(x) sigmoid(x)
#define TANH(x) tanh(x)
#endif
#define CLIPPED(x) (clip > 0 ? fmin(fmax((x), (F)(-clip)), (F)(clip)) : (x))

#ifdef LEVELS  // h' is rounded to multiples of its largest magnitude / LEVELS
float largest(__global const S *hp, const int hidden) {
    float most = 0.0f;
    for (int k = 0; k < hidden; k++) most = fmax(most, fabs(LOAD(k, hp)));
    return most;
}
#define STEP                                                                                       \
    const float most = largest(hp, hidden), inverse = most > 0 ? LEVELS / most : 0.0f;             \
    const float step = most / LEVELS;
#define ROUNDED(h) (round((h) * inverse) * step)
#else
#define STEP
#define ROUNDED(h) (h)
#endif

// w_g h' of `gates` gates.
#define PRODUCTS(gates)                                                                            \
    F sum[gates];                                                                                  \
    _Pragma("unroll") for (int g = 0; g < gates; g++) sum[g] = (F)(0);                             \
    if (state) {                                                                                   \
        STEP                                                                                       \
        for (int k = 0; k < hidden; k++) {                                                         \
            const F before = (F)(ROUNDED(LOAD(k, hp)));                                            \
            _Pragma("unroll") for (int g = 0; g < gates; g++)                                      \
                sum[g] = fma(before, LOADV(wp + k * gates * hidden + g * hidden), sum[g]);         \
        }                                                                                          \
    }

// p [samples, gates * hidden] of this step; w [hidden, gates * hidden]; bias [hidden] (gru) or
// peepholes [3 * hidden] (lstm), fp32, read if `given`; before, y: the states [samples, hidden] of
// the step before, read if `state`, and of this one.
#define PARAMETERS                                                                                 \
    TENSOR(p), TENSOR(w), TENSOR(bias), TENSOR(before), TENSOR(y), const uint p_from,              \
    const uint before_from, const uint y_from, const int given, const int state, const int hidden, \
    const float clip

#define PLACE(gates)                                                                               \
    const int at = get_global_id(0) * VEC, j = min(at, hidden - VEC), seen = at - j;               \
    const int sample = get_global_id(1);                                                           \
    __global const S *pp = AT(const S, p) + p_from + sample * gates * hidden + j;                  \
    __global const S *wp = AT(const S, w) + j;                                                     \
    __global const S *hp = AT(const S, before) + before_from + sample * hidden;                    \
    __global S *yp = AT(S, y) + y_from + sample * hidden + j;                                      \
    __global const float *bp = AT(const float, bias) + j;

// cell: c' is read if `state_c`, and c written, at `last` and `cell` [samples, hidden].
__kernel void lstm(PARAMETERS, TENSOR(last), TENSOR(cell), const int state_c,
                   const float cell_clip) {
    PLACE(4)
    PRODUCTS(4)
    __global S *cp = AT(S, cell) + sample * hidden + j;
    const F c = state_c ? LOADV(AT(const S, last) + sample * hidden + j) : (F)(0);
    F i = sum[0] + LOADV(pp), o = sum[1] + LOADV(pp + hidden);
    F f = sum[2] + LOADV(pp + 2 * hidden);
    const F g = sum[3] + LOADV(pp + 3 * hidden);
    if (given) {
        i = fma(VLOAD(bp), c, i);
        f = fma(VLOAD(bp + 2 * hidden), c, f);
    }
    F next = SIGMOID(CLIPPED(f)) * c + SIGMOID(CLIPPED(i)) * TANH(CLIPPED(g));
    if (cell_clip > 0)
        next = fmin(fmax(next, (F)(-cell_clip)), (F)(cell_clip));
    if (given)
        o = fma(VLOAD(bp + hidden), next, o);
    store_fresh(next, seen, cp);
    store_fresh(SIGMOID(CLIPPED(o)) * TANH(next), seen, yp);
}

__kernel void gru(PARAMETERS) {
    PLACE(3)
    PRODUCTS(3)
    const F z = SIGMOID(CLIPPED(sum[0] + LOADV(pp)));
    const F r = SIGMOID(CLIPPED(sum[1] + LOADV(pp + hidden)));
    const F inner = sum[2] + (given ? VLOAD(bp) : (F)(0));
    const F n = TANH(CLIPPED(fma(r, inner, LOADV(pp + 2 * hidden))));
    const F h = state ? LOADV(hp + j) : (F)(0);
    store_fresh(fma(z, h - n, n), seen, yp);
}

// gru that resets first, n = tanh(p_n + w_n (r * h')), in two launches: z and r * h' wait in
// `update` and `reset`, [samples, hidden] fp32.
__kernel void gru_gates(PARAMETERS, TENSOR(update), TENSOR(reset)) {
    PLACE(3)
    PRODUCTS(3)
    const F z = SIGMOID(CLIPPED(sum[0] + LOADV(pp)));
    const F r = SIGMOID(CLIPPED(sum[1] + LOADV(pp + hidden)));
    const F h = state ? LOADV(hp + j) : (F)(0);
    float zs[VEC], rs[VEC];
    SPILL(z, zs);
    SPILL(r * h, rs);
    __global float *up = AT(float, update) + sample * hidden + j;
    __global float *rp = AT(float, reset) + sample * hidden + j;
    for (int k = seen; k < VEC; k++) {
        up[k] = zs[k];
        rp[k] = rs[k];
    }
}

__kernel void gru_state(PARAMETERS, TENSOR(update), TENSOR(reset)) {
    PLACE(3)
    __global const float *rp = AT(const float, reset) + sample * hidden;
    F sum = LOADV(pp + 2 * hidden);
    for (int k = 0; k < hidden; k++)
        sum = fma((F)(rp[k]), LOADV(wp + k * 3 * hidden + 2 * hidden), sum);
    const F n = TANH(CLIPPED(sum)), z = VLOAD(AT(const float, update) + sample * hidden + j);
    const F h = state ? LOADV(hp + j) : (F)(0);
    store_fresh(fma(z, h - n, n), seen, yp);
}

__kernel void rnn(PARAMETERS, const float alpha, const float beta) {
    PLACE(1)
    PRODUCTS(1)
    const F x = CLIPPED(sum[0] + LOADV(pp));
    store_fresh(ACTIVATE(x), seen, yp);
}
