// Direct 2-D convolution without workspace, also used for dense layers with several rows.
//
// y[n, oy, ox, o] = ACTIVATE(bias[o] + residual[n, oy, ox, o]
//                   + scale[o] * sum over ky, kx, c of w[o, ky, kx, c]
//                     * x[n, oy * stride_h - pad_top + ky * dilation_h,
//                            ox * stride_w - pad_left + kx * dilation_w, group(o) * in_c + c])
// where x outside the image is 0, and scale 1 unless the weights are integers.
//
// A work-item computes `tiles` tiles, one after the other: P pixels times NV vectors of VEC output
// channels, for which it streams weights and broadcasts activations. Global size
// (ceil(out_c / (NV * VEC)), ceil(pixels / (P * tiles)), groups).
//
// W_int8, W_int16: w is int8 [..][ceil(in_c / 4)][block width][4] (layout oc16x4), or int16
//        [..][ceil(in_c / 2)][block width][2] (oc16x2): it is widened in registers. Without one of
//        these it is stored as x is (oc16).
// P, NV: 1 and up; P * NV vectors of accumulators should fit into the registers.
// VEC:   4, 8 or 16 output channels per vector.
// CHUNK: a multiple of 8. If defined, CHUNK channels of each pixel are widened into private memory
//        before they are used. Pays where T_fp16 is widened by CPU instructions one by one.

#define SELDOM ROLLED_ON_POCL
#include "pixels.cl"

// WORD: neighbouring input channels in one element V of the weights. LOADW(p): VEC elements, as G.
// PART(w, k): channel k of them.
#if defined(W_int16)
#define WORD 2
#elif defined(W_int8)
#define WORD 4
#else
#define WORD 1
#endif
#if WORD == 1
typedef S V;
typedef F G;
#define LOADW(p) LOADV(p)
#define PART(w, k) (w)
#else
typedef int V;
typedef I G;
#define BITS (32 / WORD)
#define LOADW(p) VLOAD(p)
#define PART(w, k) GLUE(convert_float, VEC)((w) << (32 - BITS - BITS * (k)) >> (32 - BITS))
#endif

#define LOAD_WEIGHTS                                                                               \
    G weights[NV];                                                                                 \
    _Pragma("unroll") for (int v = 0; v < NV; v++) {                                               \
        weights[v] = LOADW(wp[v]);                                                                 \
        wp[v] += step[v];                                                                          \
    }
// Every accumulator gets channel c + k, X(p, c + k), times its weights.
#define STEP(X)                                                                                    \
    {                                                                                              \
        F part[NV];                                                                                \
        _Pragma("unroll") for (int v = 0; v < NV; v++) part[v] = PART(weights[v], k);              \
        _Pragma("unroll") for (int p = 0; p < P; p++) {                                            \
            const F value = (F)(X(p, c + k));                                                      \
            _Pragma("unroll") for (int v = 0; v < NV; v++)                                         \
                acc[p][v] = fma(value, part[v], acc[p][v]);                                        \
        }                                                                                          \
    }
// The inner loop over n channels.
#define STEPS(n, X)                                                                                \
    {                                                                                              \
        int c = 0;                                                                                 \
        for (; c + WORD <= (n); c += WORD) {                                                       \
            LOAD_WEIGHTS                                                                           \
            _Pragma("unroll") for (int k = 0; k < WORD; k++) STEP(X)                               \
        }                                                                                          \
        if (c < (n)) {                                                                             \
            LOAD_WEIGHTS                                                                           \
            for (int k = 0; c + k < (n); k++) STEP(X)                                              \
        }                                                                                          \
    }

// A statement for every p and v.
#define EACH_SUM(statement)                                                                        \
    {                                                                                              \
        _Pragma("unroll") for (int p = 0; p < P; p++)                                              \
            _Pragma("unroll") for (int v = 0; v < NV; v++) { statement; }                          \
    }

// The lanes of one value per channel; n of them lie in the tensor, the others are 0.
APART
GLUE(float, VEC) load_channels(__global const float *p, const int n) {
    if (n >= VEC)
        return VLOAD(p);
    float part[VEC];
    ROLLED
    for (int k = 0; k < VEC; k++)
        part[k] = k < n ? p[k] : 0;
    return VLOAD(part);
}

// x [n, height, width], pixels `channels` elements apart;
// w [groups][blocks][kernel_h][kernel_w][words][block width][WORD];
// bias, scale [groups * out_c] fp32; residual, y [pixels = n * out_h * out_w, groups * out_c],
// pixels row_residual and row_y elements apart; zeros [in_c or more], all 0. in_c and out_c are per
// group. A bias whose flag is 0 is not read, nor a residual if row_residual is 0, nor scale if WORD
// is 1; zeros only where a tap lies outside the image. The residual may lie in the place of y.
__kernel void conv2d(TENSOR(x), TENSOR(w), TENSOR(bias), TENSOR(residual), TENSOR(zeros),
                     TENSOR(scale), TENSOR(y),
                     const int has_bias, const int row_residual, const int row_y, const int pixels,
                     const int height, const int width, const int channels, const int in_c,
                     const int out_h, const int out_w, const int out_c,
                     const int kernel_h, const int kernel_w, const int stride_h, const int stride_w,
                     const int dilation_h, const int dilation_w, const int pad_top,
                     const int pad_left, const int tiles, const float alpha, const float beta) {
    const int first = get_global_id(0) * (NV * VEC), group = get_global_id(2);
    const int lanes = out_c - first;
    const int words = (in_c + WORD - 1) / WORD, taps_words = kernel_h * kernel_w * words;

    __global const V *weights_at[NV];
    int step[NV];
    F start[NV];
    #pragma unroll
    for (int v = 0; v < NV; v++) {
        // Vectors past the last channel repeat the last vector, and are not stored.
        const int c = min(first + v * VEC, (out_c - 1) / VEC * VEC), block = c / BLOCK * BLOCK;
        step[v] = min(BLOCK, out_c - block);
        weights_at[v] = AT(const V, w) + (group * out_c + block) * taps_words + c - block;
        start[v] = (F)(0);
        if (has_bias)
            start[v] = load_channels(AT(const float, bias) + group * out_c + c, out_c - c);
    }
#if WORD != 1
    F factor[NV];
    #pragma unroll
    for (int v = 0; v < NV; v++)
        factor[v] = load_channels(AT(const float, scale) + group * out_c + first + v * VEC,
                                  lanes - v * VEC);
#define RESULT(p, v) fma(acc[p][v], factor[v], start[v])
#else
#define RESULT(p, v) acc[p][v]
#endif
    __global const S *image = AT(const S, x) + group * in_c;
    const bool joined = dilation_w == 1 && channels == in_c && in_c % WORD == 0;

    int pixel = get_global_id(1) * (tiles * P);
    const int end = pixel + min(tiles * P, pixels - pixel);
    int ox = pixel % out_w, oy = pixel / out_w % out_h, n = pixel / out_w / out_h;
    for (; pixel < end; pixel += P) {
        PLACE_TILE

        F acc[P][NV];
        __global const V *wp[NV];
        #pragma unroll
        for (int v = 0; v < NV; v++) {
            wp[v] = weights_at[v];
            #pragma unroll
            for (int p = 0; p < P; p++)
                acc[p][v] = WORD == 1 ? start[v] : (F)(0);
        }

        for (int ky = 0; ky < kernel_h; ky++) {
            const int down = ky * dilation_h;
            if (last_top + down < 0 || first_top + down >= height) {
                #pragma unroll
                for (int v = 0; v < NV; v++)
                    wp[v] += kernel_w * words * step[v];
                continue;  // the row of taps adds nothing: it lies outside the image
            }
            const bool inside = columns_inside && first_top + down >= 0
                && last_top + down < height;
            const bool one_run = inside && joined;  // of kernel_w * in_c channels
            const int runs = one_run ? 1 : kernel_w, length = one_run ? kernel_w * in_c : in_c;
            for (int run = 0; run < runs; run++) {
                const int right = run * dilation_w;
                __global const S *tap = image + (down * width + right) * channels;
                __global const S *xp[P];
                #pragma unroll
                for (int p = 0; p < P; p++)
                    xp[p] = inside || ((uint)(top[p] + down) < (uint)height
                                       && (uint)(left[p] + right) < (uint)width)
                        ? tap + at[p] : AT(const S, zeros);
#ifdef CHUNK
                for (int from = 0; from < length; from += CHUNK) {
                    float chunk[P][CHUNK];
                    const int n_chunk = min(CHUNK, length - from);
                    #pragma unroll
                    for (int p = 0; p < P; p++) {
                        int c = 0;
                        for (; c + 8 <= n_chunk; c += 8)
                            vstore8(LOAD8(0, xp[p] + from + c), 0, chunk[p] + c);
                        for (; c < n_chunk; c++)
                            chunk[p][c] = LOAD(from + c, xp[p]);
                    }
#define WIDENED(p, c) chunk[p][c]
                    STEPS(n_chunk, WIDENED)
                }
#else
#define STORED(p, c) LOAD(c, xp[p])
                STEPS(length, STORED)
#endif
            }
        }

        const int base = group * out_c + first;
        __global const S *rp = AT(const S, residual) + base + pixel * row_residual;
        __global O *yp = AT(O, y) + base + pixel * row_y;
        EACH_SUM(acc[p][v] = RESULT(p, v))
        if (pixel + P <= pixels && lanes >= NV * VEC) {
            if (row_residual)
                EACH_SUM(acc[p][v] += LOADV(rp + p * row_residual + v * VEC))
            EACH_SUM(const F x = acc[p][v]; STOREV(ACTIVATE(x), yp + p * row_y + v * VEC))
        } else {
            F result[P][NV];  // indexed at run time, so that acc can stay in registers
            EACH_SUM(result[p][v] = acc[p][v])
            ROLLED
            for (int p = 0; p < min(P, pixels - pixel); p++, rp += row_residual, yp += row_y) {
                ROLLED
                for (int v = 0; v * VEC < min(NV * VEC, lanes); v++) {
                    const int some = lanes - v * VEC;
                    F x = result[p][v];
                    if (row_residual)
                        x += some >= VEC ? LOADV(rp + v * VEC) : load_some(some, rp + v * VEC);
                    x = ACTIVATE(x);
                    if (some >= VEC)
                        STOREV(x, yp + v * VEC);
                    else
                        store_some(x, some, yp + v * VEC);
                }
            }
        }
        NEXT_TILE
    }
}
