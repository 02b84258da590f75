// Batched matrix products: y[.., m, n] = ACTIVATE(sum over k of a[.., m, k] * b[.., k, n]).
//
// matmul:        b [K, N]; ROWS x NV vectors of lanes over n stay in registers while k runs.
//                Global size (ceil(N / (NV * VEC)), ceil(M / rows), batch), NV * VEC <= N.
// matmul_packed: b [N, K]; STRETCH of k of VEC columns is turned into a private [k][VEC] block that
//                all rows of the work-item use. Global size (ceil(N / VEC), ceil(M / rows), batch),
//                VEC <= N, rows <= PACKED_ROWS.
// matmul_dot:    b [N, K]; lanes over k, ROWS x COLUMNS sums at once.
//                Global size (ceil(N / COLUMNS), ceil(M / rows), batch).
//
// size: M, N, K, elements from one m of a to the next, from one k of a to the next, rows of a
//       work-item (a multiple of ROWS); two unused
// dims, sa, sb: the batch axes, row-major, and the elements of a and b per step of each (0
//       repeats); axes before the first are 1
// y [batch, M, N]
//
// O_fp32, O_fp16: y has another stored type than a and b.
// ROWS: 1 to 8. NV: 1 to 4. fp16: a is widened a stretch of k at a time, by vectors where it is
// contiguous, because widening it element by element costs more than the products.

#ifndef ROWS
#define ROWS 4
#endif
#ifndef NV
#define NV 1
#endif
#define COLUMNS 4
#define STRETCH 64
#define PACKED_ROWS 128

F activated(const F x, const float alpha, const float beta) { return ACTIVATE(x); }
float activated_one(const float x, const float alpha, const float beta) { return ACTIVATE(x); }

#include "batch.cl"

// Copy x[i * step] for i < n as floats.
void widen(__global const S *x, const int step, const int n, float *out) {
    int i = 0;
    if (step == 1)
        for (; i + 8 <= n; i += 8)
            vstore8(LOAD8(0, x + i), 0, out + i);
    for (; i < n; i++)
        out[i] = LOAD(i * step, x);
}

__kernel void matmul(TENSOR(a), TENSOR(b), TENSOR(y), const int8 size, const int8 dims,
                     const int8 sa, const int8 sb, const float alpha, const float beta) {
    const int M = size.s0, N = size.s1, K = size.s2, step_m = size.s3, step_k = size.s4;
    const int batch = get_global_id(2), n = min((int)get_global_id(0) * NV * VEC, N - NV * VEC);
    const int first = get_global_id(1) * size.s5, last = min(first + size.s5, M);
    __global const S *ap = AT(const S, a) + batch_offset(batch, dims, sa);
    __global const S *bp = AT(const S, b) + batch_offset(batch, dims, sb) + n;
    __global O *yp = AT(O, y) + batch * M * N + n;
    for (int m = first; m < last; m += ROWS) {
        __global const S *row[ROWS];
        F sum[ROWS][NV];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            row[r] = ap + min(m + r, M - 1) * step_m;
#pragma unroll
            for (int v = 0; v < NV; v++)
                sum[r][v] = (F)(0.0f);
        }
#ifdef T_fp16
        float wide[ROWS][STRETCH];
        for (int k0 = 0; k0 < K; k0 += STRETCH) {
            const int stretch = min(STRETCH, K - k0);
            for (int r = 0; r < ROWS; r++)
                widen(ap + min(m + r, M - 1) * step_m + k0 * step_k, step_k, stretch, wide[r]);
            for (int k = 0; k < stretch; k++) {
#define A(r) wide[r][k]
#define B(v) LOADV(bp + (k0 + k) * N + v * VEC)
#else
        {
            for (int k = 0; k < K; k++) {
#define A(r) row[r][k * step_k]
#define B(v) LOADV(bp + k * N + v * VEC)
#endif
                F column[NV];
#pragma unroll
                for (int v = 0; v < NV; v++)
                    column[v] = B(v);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const F left = (F)(A(r));
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        sum[r][v] = fma(left, column[v], sum[r][v]);
                }
            }
        }
#undef A
#undef B
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (m + r < M) {
#pragma unroll
                for (int v = 0; v < NV; v++)
                    STOREV(activated(sum[r][v], alpha, beta), yp + (m + r) * N + v * VEC);
            }
        }
    }
}

__kernel void matmul_packed(TENSOR(a), TENSOR(b), TENSOR(y), const int8 size, const int8 dims,
                            const int8 sa, const int8 sb, const float alpha, const float beta) {
    const int M = size.s0, N = size.s1, K = size.s2, step_m = size.s3, step_k = size.s4;
    const int batch = get_global_id(2), n = min((int)get_global_id(0) * VEC, N - VEC);
    const int first = get_global_id(1) * size.s5, last = min(first + size.s5, M);
    __global const S *ap = AT(const S, a) + batch_offset(batch, dims, sa);
    __global const S *bp = AT(const S, b) + batch_offset(batch, dims, sb) + n * K;
    __global O *yp = AT(O, y) + batch * M * N + n;
    F sums[PACKED_ROWS];
    F packed[STRETCH];
    for (int r = 0; r < PACKED_ROWS; r++)
        sums[r] = (F)(0.0f);
    for (int k0 = 0; k0 < K; k0 += STRETCH) {
        const int stretch = min(STRETCH, K - k0);
        float *block = (float *)packed;
#ifdef T_fp16
        float wide[ROWS][STRETCH];
        for (int c = 0; c < VEC; c++) {
            widen(bp + c * K + k0, 1, stretch, wide[0]);
            for (int k = 0; k < stretch; k++)
                block[k * VEC + c] = wide[0][k];
        }
#else
        for (int c = 0; c < VEC; c++)
            for (int k = 0; k < stretch; k++)
                block[k * VEC + c] = LOAD(c * K + k0 + k, bp);
#endif
        for (int m = first; m < last; m += ROWS) {
            __global const S *row[ROWS];
            F sum[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                row[r] = ap + min(m + r, M - 1) * step_m + k0 * step_k;
                sum[r] = sums[m - first + r];
            }
#ifdef T_fp16
            for (int r = 0; r < ROWS; r++)
                widen(ap + min(m + r, M - 1) * step_m + k0 * step_k, step_k, stretch, wide[r]);
#define A(r) wide[r][k]
#else
#define A(r) row[r][k * step_k]
#endif
            for (int k = 0; k < stretch; k++) {
                const F column = packed[k];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    sum[r] = fma((F)(A(r)), column, sum[r]);
            }
#undef A
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sums[m - first + r] = sum[r];
        }
    }
    for (int m = first; m < last; m++)
        STOREV(activated(sums[m - first], alpha, beta), yp + m * N);
}

float total(const F x) {
#if VEC == 1
    return x;
#else
#if VEC == 16
    const float8 eight = x.lo + x.hi;
#elif VEC == 8
    const float8 eight = x;
#endif
#if VEC >= 8
    const float4 four = eight.lo + eight.hi;
#elif VEC == 4
    const float4 four = x;
#endif
#if VEC >= 4
    const float2 two = four.lo + four.hi;
#else
    const float2 two = x;
#endif
    return two.x + two.y;
#endif
}

__kernel void matmul_dot(TENSOR(a), TENSOR(b), TENSOR(y), const int8 size, const int8 dims,
                         const int8 sa, const int8 sb, const float alpha, const float beta) {
    const int M = size.s0, N = size.s1, K = size.s2, step_m = size.s3, step_k = size.s4;
    const int batch = get_global_id(2), n = get_global_id(0) * COLUMNS;
    const int first = get_global_id(1) * size.s5, last = min(first + size.s5, M);
    __global const S *ap = AT(const S, a) + batch_offset(batch, dims, sa);
    __global const S *bp = AT(const S, b) + batch_offset(batch, dims, sb);
    __global O *yp = AT(O, y) + batch * M * N + n;
    __global const S *column[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
        column[c] = bp + min(n + c, N - 1) * K;
    for (int m = first; m < last; m += ROWS) {
        __global const S *row[ROWS];
        F sum[ROWS][COLUMNS];
        float rest[ROWS][COLUMNS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            row[r] = ap + min(m + r, M - 1) * step_m;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                sum[r][c] = (F)(0.0f);
                rest[r][c] = 0.0f;
            }
        }
        int k = 0;
        for (; k + VEC <= K && step_k == 1; k += VEC) {
            F right[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                right[c] = LOADV(column[c] + k);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const F left = LOADV(row[r] + k);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    sum[r][c] = fma(left, right[c], sum[r][c]);
            }
        }
        for (; k < K; k++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float left = LOAD(k * step_k, row[r]);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    rest[r][c] = fma(left, (float)LOAD(k, column[c]), rest[r][c]);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                if (m + r < M && n + c < N)
                    STORE(activated_one(total(sum[r][c]) + rest[r][c], alpha, beta), c,
                          yp + (m + r) * N);
        }
    }
}
