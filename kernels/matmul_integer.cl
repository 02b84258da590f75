// Batched matrix products of integers.
//
// acc[.., m, n] = sum over k of (a[.., m, k] - zero_a) * (b[.., k, n] - zero_b)
// y[.., m, n] = saturate(requantize(acc, m0, t) + zero, low, high)    O_uint8 or O_int16
//             = ACTIVATE(acc * scale[0])                               O_fp32 or O_fp16
//
// A stretch of k of VEC columns of b is turned into a private block of pairs of int16, which all
// rows of the work-item use; the rows of a are widened to int16 a stretch at a time.
// Global size (ceil(N / VEC), ceil(M / rows), batch), VEC <= N, rows <= MOST_ROWS.
//
// T_uint8, T_int16: a and b; zero points of the latter are 0.
// WIDE:      T_int16, whose sums take more than 32 bits; see weights.cl. K up to 65000.
// ROWS:      rows that are computed at once, 1 to 8.
// MOST_ROWS: sums that are kept in private memory.
// DOT_VNNI, DOT_AVXVNNI: see dot.cl; VEC 4 and up.

#include "weights.cl"
#include "dot.cl"
#include "batch.cl"

#ifndef ROWS
#define ROWS 4
#endif
#ifndef MOST_ROWS
#define MOST_ROWS 4
#endif
#define STRETCH 64

#ifdef INTEGERS  // nothing here without T_uint8 or T_int16

// The int16 x[i * step] - zero for i < n, two in an int, and 0 behind an odd n.
void widen(__global const S *x, const int step, const int n, const int zero, int *out) {
    int i = 0;
    if (step == 1)
        for (; i + 8 <= n; i += 8) {
            const int8 v = LOAD8(0, x + i) - zero;
            vstore4((v.even & 0xFFFF) | (v.odd << 16), 0, out + i / 2);
        }
    for (; i < n; i += 2) {
        const int odd = i + 1 < n ? LOAD((i + 1) * step, x) - zero : 0;
        out[i / 2] = ((LOAD(i * step, x) - zero) & 0xFFFF) | (int)((uint)odd << 16);
    }
}

// size: M, N, K, elements from one m of a to the next, from one k of a to the next, rows of a
//       work-item (a multiple of ROWS), 1 where b is [N, K] instead of [K, N], unused
// dims, sa, sb: the batch axes, see batch.cl; y [batch, M, N]
// constants: zero_a, zero_b, m0, t; scale is read where y is a real number
// ends: zero point, least and largest value of y, unused
__kernel void matmul_integer(TENSOR(a), TENSOR(b), TENSOR(scale), TENSOR(y), const int8 size,
                             const int8 dims, const int8 sa, const int8 sb, const int4 constants,
                             const int4 ends, const float alpha, const float beta) {
    const int M = size.s0, N = size.s1, K = size.s2, step_m = size.s3, step_k = size.s4;
    const int batch = get_global_id(2), n = min((int)get_global_id(0) * VEC, N - VEC);
    const int first = get_global_id(1) * size.s5, last = min(first + size.s5, M);
    __global const S *ap = AT(const S, a) + batch_offset(batch, dims, sa);
    __global const S *bp = AT(const S, b) + batch_offset(batch, dims, sb);
    __global O *yp = AT(O, y) + batch * M * N + n;
    SUM sums[MOST_ROWS];
    SUM start = no_sum();
#ifdef WIDE
    start.lo += (K + 1) / 2;  // what the pairs of products are too small by
#endif
    for (int m = first; m < last; m++)
        sums[m - first] = start;
    for (int k0 = 0; k0 < K; k0 += STRETCH) {
        const int stretch = min(STRETCH, K - k0), words = (stretch + 1) / 2;
        I block[STRETCH / 2];
        if (size.s6) {
            int column[STRETCH / 2];
            int *lanes = (int *)block;
            for (int c = 0; c < VEC; c++) {
                widen(bp + (n + c) * K + k0, 1, stretch, constants.s1, column);
                for (int i = 0; i < words; i++)
                    lanes[i * VEC + c] = column[i];
            }
        } else {
            for (int i = 0; i < words; i++) {
                __global const S *from = bp + (k0 + 2 * i) * N + n;
                const I even = LOADV(from) - constants.s1;
                I odd = (I)(0);
                if (2 * i + 1 < stretch)
                    odd = LOADV(from + N) - constants.s1;
                block[i] = (even & 0xFFFF) | (odd << 16);
            }
        }
        for (int m = first; m < last; m += ROWS) {
            int wide[ROWS][STRETCH / 2];
            SUM sum[ROWS];
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {
                // Rows past the last one repeat it, and are not kept.
                const int row = min(m + r, last - 1);
                widen(ap + row * step_m + k0 * step_k, step_k, stretch, constants.s0, wide[r]);
                sum[r] = sums[row - first];
            }
            for (int i = 0; i < words; i++) {
                const I column = block[i];
                #pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const int word = wide[r][i];
#ifdef WIDE
                    // Two products are above -2^31 and at most 2^31: one less is an int.
                    ADD(sum[r], mac2((I)(-1), word, column));
#else
                    sum[r] = mac2(sum[r], word, column);
#endif
                }
            }
            #pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (m + r < last)
                    sums[m + r - first] = sum[r];
        }
    }
    for (int m = first; m < last; m++) {
#ifdef QUANTIZED
        const OF value = finish(sums[m - first], (I)(constants.s2), (I)(constants.s3), ends);
#else
        const OF value = finish(sums[m - first], (R)(AT(const float, scale)[0]), alpha, beta);
#endif
        STOREV(value, yp + m * N);
    }
}

#endif
