// Normalizations. Statistics are fp32, in two passes: the mean, then the squares of what is left.
//
// layer_norm:     x, y [outer, n], gamma, beta [n]; per row y = (x - mean) / sqrt(var + epsilon)
//                 gamma + beta                                       global size (outer), n >= VEC
// l2_normalize:   x, y [outer, n]; per row y = x / sqrt(max(sum x^2, epsilon))     same
// round_rows:     x, y [outer, n]; per row y = s round(x / s), s = max |x| / 127      same
// instance_norm:  x, y [N, pixels, C], gamma, beta [C], C >= VEC; as layer_norm, per sample and
//                 channel over the pixels; three kernels, over chunks of pixels:
//   moments:      sums [N, chunks, 2, C]: mean, and sum of squared differences from it, of a chunk
//   merge:        statistics [N, 2, C] from sums: mean, 1 / sqrt(var + epsilon)
//   apply:        y
//                 global size (ceil(C / VEC), chunks, N), for merge (ceil(C / VEC), 1, N)
//
// `scaled`, `shifted`: whether there is a gamma, a beta; without one its argument is not read.
// sums, statistics: fp32 in scratch. Vectors are read before they are written: y may be x.
// O_*, REAL: see common.cl; with REAL gamma and beta are fp32, else of the type of x.

#define GROUP 128  // vectors added up before they join the sum of a row, which keeps its digits

DEFINE_FOLD(total, E, (a + b))

#if VEC == 1
#define GET(p) (*(p))
#else
#define GET(p) GLUE(vload, VEC)(0, (p))
#endif

#ifdef REAL
typedef float G;
#define LOADG(p) GET(p)
#else
typedef S G;
#define LOADG(p) LOADV(p)
#endif

void put(const F v, const int seen, __global float *p) {
    float lane[VEC];
    SPILL(v, lane);
    for (int k = seen; k < VEC; k++) p[k] = lane[k];
}

// Sum of (x - centre) or of its square over n contiguous elements.
float sum_of(__global const S *p, const int n, const float centre, const int squared
             GRIDS) {
    F all = (F)(0.0f);
    int i = 0;
    while (i + VEC <= n) {
        const int stop = min(n - VEC, i + (GROUP - 1) * VEC);
        F part = (F)(0.0f);
        for (; i <= stop; i += VEC) {
            const F v = LOADV(p + i) - centre;
            part += squared ? v * v : v;
        }
        all += part;
    }
    if (i < n) {
        const F v = LOADV(p + n - VEC) - centre;
        all += FRESH(squared ? v * v : v, VEC - (n - i), 0.0f);
    }
    return total(all);
}

__kernel void layer_norm(TENSOR(x), TENSOR(gamma), TENSOR(beta), TENSOR(y), const int n,
                         const int scaled, const int shifted, const float epsilon GRIDS) {
    __global const S *xp = AT(const S, x) + get_global_id(0) * n;
    __global const G *gp = AT(const G, gamma);
    __global const G *bp = AT(const G, beta);
    __global O *yp = AT(O, y) + get_global_id(0) * n;
    const float mean = sum_of(xp, n, 0.0f, 0 PASS_GRIDS) / n;
    const float scale = 1.0f / sqrt(sum_of(xp, n, mean, 1 PASS_GRIDS) / n + epsilon);
    const int whole = n / VEC * VEC, seen = (VEC - (n - whole)) % VEC, at = n - VEC;
    F last = (LOADV(xp + at) - mean) * scale;
    if (scaled) last *= LOADG(gp + at);
    if (shifted) last += LOADG(bp + at);
    for (int i = 0; i < whole; i += VEC) {
        F v = (LOADV(xp + i) - mean) * scale;
        if (scaled) v *= LOADG(gp + i);
        if (shifted) v += LOADG(bp + i);
        STOREV(v, yp + i);
    }
    if (seen) store_fresh(last, seen, yp + at);
}

__kernel void l2_normalize(TENSOR(x), TENSOR(y), const int n, const float epsilon GRIDS) {
    __global const S *xp = AT(const S, x) + get_global_id(0) * n;
    __global O *yp = AT(O, y) + get_global_id(0) * n;
    const float scale = 1.0f / sqrt(fmax(sum_of(xp, n, 0.0f, 1 PASS_GRIDS), epsilon));
    const int whole = n / VEC * VEC, seen = (VEC - (n - whole)) % VEC, at = n - VEC;
    const F last = LOADV(xp + at) * scale;
    for (int i = 0; i < whole; i += VEC) STOREV(LOADV(xp + i) * scale, yp + i);
    if (seen) store_fresh(last, seen, yp + at);
}

__kernel void round_rows(TENSOR(x), TENSOR(y), const int n GRIDS) {
    __global const S *xp = AT(const S, x) + get_global_id(0) * n;
    __global O *yp = AT(O, y) + get_global_id(0) * n;
    float most = 0.0f;
    for (int i = 0; i < n; i++) most = fmax(most, fabs(LOAD(i, xp)));
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f, scale = most / 127.0f;
    const int whole = n / VEC * VEC, seen = (VEC - (n - whole)) % VEC, at = n - VEC;
    const F last = round(LOADV(xp + at) * inverse) * scale;
    for (int i = 0; i < whole; i += VEC) STOREV(round(LOADV(xp + i) * inverse) * scale, yp + i);
    if (seen) store_fresh(last, seen, yp + at);
}

__kernel void moments(TENSOR(x), TENSOR(sums), const int pixels, const int channels,
                      const int chunk GRIDS) {
    const int i = get_global_id(0) * VEC, c = min(i, channels - VEC), part = get_global_id(1);
    const int first = part * chunk, n = min(chunk, pixels - first);
    const int sample = get_global_id(2), parts = get_global_size(1);
    __global const S *xp = AT(const S, x) + (sample * pixels + first) * channels + c;
    __global float *to = AT(float, sums) + (sample * parts + part) * 2 * channels + c;
    F mean = (F)(0.0f), squares = (F)(0.0f);
    for (int k = 0; k < n; k++) mean += LOADV(xp + k * channels);
    mean /= (F)((float)n);
    for (int k = 0; k < n; k++) {
        const F v = LOADV(xp + k * channels) - mean;
        squares += v * v;
    }
    put(mean, i - c, to);
    put(squares, i - c, to + channels);
}

// Chan, Golub, LeVeque 1979: moments of a union from the moments of its parts.
__kernel void merge(TENSOR(sums), TENSOR(statistics), const int pixels, const int channels,
                    const int chunk, const int parts, const float epsilon) {
    const int i = get_global_id(0) * VEC, c = min(i, channels - VEC), sample = get_global_id(2);
    __global const float *from = AT(const float, sums) + sample * parts * 2 * channels + c;
    __global float *to = AT(float, statistics) + sample * 2 * channels + c;
    F mean = (F)(0.0f), squares = (F)(0.0f);
    float seen = 0.0f;
    for (int part = 0; part < parts; part++, from += 2 * channels) {
        const float n = min(chunk, pixels - part * chunk);
        const F delta = GET(from) - mean;
        const float share = n / (seen + n);
        mean += delta * share;
        squares += GET(from + channels) + delta * delta * (seen * share);
        seen += n;
    }
    put(mean, i - c, to);
    put((F)(1.0f) / sqrt(squares / seen + epsilon), i - c, to + channels);
}

__kernel void apply(TENSOR(x), TENSOR(gamma), TENSOR(beta), TENSOR(statistics), TENSOR(y),
                    const int pixels, const int channels, const int chunk, const int scaled,
                    const int shifted GRIDS) {
    const int i = get_global_id(0) * VEC, c = min(i, channels - VEC);
    const int first = get_global_id(1) * chunk, n = min(chunk, pixels - first);
    const int sample = get_global_id(2), start = (sample * pixels + first) * channels + c;
    __global const float *from = AT(const float, statistics) + sample * 2 * channels + c;
    __global const S *xp = AT(const S, x) + start;
    __global O *yp = AT(O, y) + start;
    const F mean = GET(from);
    F scale = GET(from + channels), shift = (F)(0.0f);
    if (scaled) scale *= LOADG(AT(const G, gamma) + c);
    if (shifted) shift = LOADG(AT(const G, beta) + c);
    for (int k = 0; k < n; k++)
        store_fresh((LOADV(xp + k * channels) - mean) * scale + shift, i - c, yp + k * channels);
}
