// Local response normalization across channels.
//
// y[r, c] = x[r, c] / pow(bias + alpha / size * (sum of x[r, k]^2 over the window of c), beta)
// The window of c: `before` channels before it to `after` channels behind it, of those there are.
//
// x, y [rows, C]
// Global size (channel vectors that work at once, ceil(rows / run), 1); a work-item takes `run`
// rows and every get_global_size(0)-th vector of VEC channels, VEC <= C. The last vector ends at
// the last channel, so two work-items may write the same values there. O_*, REAL: see common.cl.

__kernel void lrn(TENSOR(x), TENSOR(y), const int rows, const int channels, const int run,
                  const int before, const int after, const float scale, const float beta,
                  const float bias GRIDS) {
    const int first = get_global_id(1) * run, last = min(first + run, rows);
    for (int row = first; row < last; row++) {
        __global const S *xp = AT(const S, x) + row * channels;
        __global O *yp = AT(O, y) + row * channels;
        for (int i = get_global_id(0) * VEC; i < channels; i += get_global_size(0) * VEC) {
            const int c = min(i, channels - VEC);
            F sum = (F)(0.0f);
            if (c >= before && c + VEC <= channels - after) {
                for (int k = c - before; k <= c + after; k++) {
                    const F value = LOADV(xp + k);
                    sum = fma(value, value, sum);
                }
            } else {
                float part[VEC];
                for (int lane = 0; lane < VEC; lane++) {
                    part[lane] = 0.0f;
                    const int end = c + lane + min(after, channels - 1 - c - lane);
                    for (int k = max(c + lane - before, 0); k <= end; k++) {
                        const float value = LOAD(k, xp);
                        part[lane] = fma(value, value, part[lane]);
                    }
                }
#if VEC == 1
                sum = part[0];
#else
                sum = GLUE(vload, VEC)(0, part);
#endif
            }
            const F base = fma(sum, (F)(scale), (F)(bias));
            // The exponent of nearly every model; two square roots are far cheaper than a power.
            const F divisor = beta == 0.75f ? sqrt(base) * sqrt(sqrt(base)) : pow(base, (F)(beta));
            STOREV(LOADV(xp + c) / divisor, yp + c);
        }
    }
}
