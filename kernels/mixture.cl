// Mixture of experts: which experts run for a sample, and the sum of what they say.
//
// route:  of every sample the k largest gates, the lower index first among equal ones; the weight
//         of an expert is its gate divided by the sum of those, 0 where it was not chosen; y = 0
//         gates, weights [batch, experts], chosen [batch, k], y [n], slots [experts] = 0
//         sizes: batch, experts, k, experts if there are slots and else 0
//         Global size (max(batch, ceil(n / run)), 1, 1)
// blend:  y[s, i] += weights[s, expert] * x[i] of the sample s = slot, the first without `batch`
//         x [n], y [batch, n]; sizes: n, experts, expert, batch if there is a slot and else 0
//         Global size (ceil(n / run), 1, 1)
//
// x is of T_*, everything else fp32 or int32. An expert of weight 0 changes no bit of y: its x,
// which may be inf or NaN, is not read.

__kernel void route(TENSOR(gates), TENSOR(weights), TENSOR(y), TENSOR(chosen), TENSOR(slots),
                    const int4 sizes, const int n, const int run) {
    const int item = get_global_id(0), experts = sizes.s1, k = sizes.s2;
    __global float *yp = AT(float, y);
    for (int i = item * run; i < min((item + 1) * run, n); i++) yp[i] = 0.0f;
    if (item == 0)
        for (int j = 0; j < sizes.s3; j++) AT(int, slots)[j] = 0;
    if (item >= sizes.s0) return;
    __global const float *g = AT(const float, gates) + item * experts;
    __global float *w = AT(float, weights) + item * experts;
    __global int *found = AT(int, chosen) + item * k;
    float sum = 0.0f;
    for (int r = 0; r < k; r++) {
        int best = -1;  // a gate that is no number is taken last, if at all
        for (int j = 0; j < experts; j++) {
            bool taken = false;
            for (int q = 0; q < r; q++) taken |= found[q] == j;
            if (!taken && (best < 0 || g[j] > g[best] || (isnan(g[best]) && !isnan(g[j]))))
                best = j;
        }
        found[r] = best;
        sum += g[best];
    }
    for (int j = 0; j < experts; j++) {
        bool taken = false;
        for (int q = 0; q < k; q++) taken |= found[q] == j;
        w[j] = taken ? g[j] / sum : 0.0f;
    }
}

__kernel void blend(TENSOR(y), TENSOR(x), TENSOR(weights), TENSOR(slot), const int4 sizes,
                    const int run) {
    const int n = sizes.s0, start = get_global_id(0) * run, stop = min(start + run, n);
    const int s = sizes.s3 > 0 ? clamp(*AT(const int, slot), 0, sizes.s3 - 1) : 0;
    const float w = AT(const float, weights)[s * sizes.s1 + sizes.s2];
    if (w == 0.0f) return;
    __global const S *xp = AT(const S, x);
    __global float *yp = AT(float, y) + s * n;
    int i = start;
    for (; i + VEC <= stop; i += VEC) {
        const F sum = fma(LOADV(xp + i), (F)(w), GLUE(vload, VEC)(0, yp + i));
        GLUE(vstore, VEC)(sum, 0, yp + i);
    }
    for (; i < stop; i++) yp[i] = fma(LOAD(i, xp), w, yp[i]);
}
