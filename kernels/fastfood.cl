// Fastfood: y = ACTIVATE(S H G P H B x + bias), every factor a diagonal (B, G, S), a permutation
// (P) or the Walsh-Hadamard transform H, divided by sqrt(d), over d = 2^k numbers.
// Yang et al., "Deep Fried Convnets", 2014; Le, Sarlos, Smola, "Fastfood", 2013.
//
//   x [samples, inputs], inputs <= d, filled up with zeros; b, g, s [blocks, d], of the type of x,
//   or fp32 with REAL; perm [blocks, d], PERM (ushort or uint); bias [outputs] fp32, read if
//   sizes.s4; y [samples, outputs], block after block, blocks = ceil(outputs / d).
//   u, v: scratch [samples, blocks, d] fp32: u = H B x, and v = H G P u, both without the sqrt(d),
//   which s gets: a power of two for both together.
//   sizes: d, blocks, inputs, outputs, whether there is a bias, the seed of the permutations
//   P: (P u)_i = u_perm(i). Without PERM the permutation is made of the seed, see
//   edgerun/ops/fastfood.py: ROUNDS times i = (factor i + addend) mod d, i ^= i >> ceil(k / 2).
//
// H is its own transpose and a Kronecker product of that of 2 numbers: for every bit h of the
// index, in any order, each pair (i, i + h) becomes (sum, difference). Bits below VEC are those of
// lanes.
//
// whole: all of a block by one work-item.                   global size (blocks, samples)
// start, on_u, gather, on_v, finish, once: a work-item takes RADIX vectors that are `step` vectors
//   apart, and does the bits between them; one launch after the other until all bits are done, of u
//   from start (which also does the lanes) on with on_u, of v from gather (lanes, too) with on_v to
//   finish; once is gather and finish, where RADIX vectors are all.
//                                                  global size (d / VEC / RADIX, blocks, samples)
//
// VEC: at most d. LOG_RADIX: RADIX is 2 to that, at most d / VEC. O_*, REAL: see common.cl.

#ifndef LOG_RADIX
#define LOG_RADIX 2
#endif
#define RADIX (1 << LOG_RADIX)
#define ROUNDS 4

#ifdef REAL
typedef float G;
#if VEC == 1
#define LOADG(p) (*(p))
#else
#define LOADG(p) GLUE(vload, VEC)(0, p)
#endif
#else
typedef S G;
#define LOADG(p) LOADV(p)
#endif
#if VEC == 1
#define GET(p) (*(p))
#define PUT(v, p) (*(p) = (v))
#else
#define GET(p) GLUE(vload, VEC)(0, p)
#define PUT(v, p) GLUE(vstore, VEC)(v, 0, p)
#endif
#define SIGN(h) select((F)(1.0f), (F)(-1.0f), (LANES & (I)(h)) != (I)(0))

F lanes(F v) {
#if VEC == 2
    v = fma(v, SIGN(1), v.s10);
#elif VEC == 4
    v = fma(v, SIGN(1), v.s1032);
    v = fma(v, SIGN(2), v.s2301);
#elif VEC == 8
    v = fma(v, SIGN(1), v.s10325476);
    v = fma(v, SIGN(2), v.s23016745);
    v = fma(v, SIGN(4), v.s45670123);
#elif VEC == 16
    v = fma(v, SIGN(1), v.s1032547698badcfe);
    v = fma(v, SIGN(2), v.s23016745ab89efcd);
    v = fma(v, SIGN(4), v.s45670123cdef89ab);
    v = fma(v, SIGN(8), v.s89abcdef01234567);
#endif
    return v;
}

// All bits from VEC on, two at a time.
void across(__global float *p, const int d) {
    int h = VEC;
    for (; 4 * h <= d; h *= 4)
        for (int i = 0; i < d; i += 4 * h)
            for (int j = i; j < i + h; j += VEC) {
                __global float *q = p + j;
                const F a0 = GET(q), a1 = GET(q + h), a2 = GET(q + 2 * h), a3 = GET(q + 3 * h);
                const F b0 = a0 + a1, b1 = a0 - a1, b2 = a2 + a3, b3 = a2 - a3;
                PUT(b0 + b2, q);
                PUT(b1 + b3, q + h);
                PUT(b0 - b2, q + 2 * h);
                PUT(b1 - b3, q + 3 * h);
            }
    if (h < d)
        for (int j = 0; j < h; j += VEC) {
            const F a = GET(p + j), b = GET(p + j + h);
            PUT(a + b, p + j);
            PUT(a - b, p + j + h);
        }
}

// B x of VEC elements, the bits of lanes done.
#define product(xp, bp, i, inputs) product_of((xp), (bp), (i), (inputs) PASS_GRIDS)
F product_of(__global const S *xp, __global const G *bp, const int i, const int inputs GRIDS) {
    if (i >= inputs) return (F)(0.0f);
    const F x = i + VEC <= inputs ? LOADV(xp + i) : load_some(inputs - i, xp + i);
    return lanes(x * LOADG(bp + i));
}

// What the permutation of a block is made of: the factors, then the addends.
uint8 generated(const uint seed, const int block) {
    uint factor[ROUNDS], addend[ROUNDS], z = seed + 2654435769u * (uint)(block + 1);
    for (int k = 0; k < ROUNDS; k++) {
        z = 747796405u * z + 2891336453u;
        factor[k] = (z ^ z >> 15) | 1u;
        z = 747796405u * z + 2891336453u;
        addend[k] = z ^ z >> 15;
    }
    return (uint8)(vload4(0, factor), vload4(0, addend));
}

#ifdef PERM
#define ORDER __global const PERM *order
#define OF_BLOCK AT(const PERM, perm) + block * d
#else
#define ORDER const uint8 order
#define OF_BLOCK generated((uint)sizes.s5, block)
#endif

// G P u of VEC elements, the bits of lanes done.
F gathered(__global const float *up, __global const G *gp, const int i, const int d, ORDER) {
    float value[VEC];
#ifdef PERM
    for (int k = 0; k < VEC; k++) value[k] = up[order[i + k]];
#else
    const uint half_bits = (32 - clz(d)) / 2, mask = d - 1;
    const uint factor[] = {order.s0, order.s1, order.s2, order.s3};
    const uint addend[] = {order.s4, order.s5, order.s6, order.s7};
    LANED(uint) at = GLUE(as_, LANED(uint))(LANES + (I)(i));
    for (int k = 0; k < ROUNDS; k++) {
        at = (at * factor[k] + addend[k]) & mask;
        at ^= at >> half_bits;
    }
    uint from[VEC];
    SPILL(at, from);
    for (int k = 0; k < VEC; k++) value[k] = up[from[k]];
#endif
    return lanes(FILL(value) * LOADG(gp + i));
}

// The end: v, which holds H G P u of VEC elements of a block from i on, becomes y.
#define finished(v, i)                                                                             \
    finished_of((v), (i), block, sizes, sp, biasp, yp, alpha, beta PASS_GRIDS)
void finished_of(const F v, const int i, const int block, const int8 sizes, __global const G *sp,
                 __global const float *bias, __global O *yp, const float alpha,
                 const float beta GRIDS) {
    const int at = block * sizes.s0 + i, n = min((int)VEC, sizes.s3 - at);
    if (n <= 0) return;
    F x = v * (LOADG(sp + i) * (1.0f / sizes.s0));
    if (sizes.s4) {
        if (n == VEC) {
            x += GET(bias + at);
        } else {
            float some[VEC];
            for (int k = 0; k < VEC; k++) some[k] = k < n ? bias[at + k] : 0.0f;
            x += FILL(some);
        }
    }
    const OF y = ACTIVATE(x);
    if (n == VEC) {
        STOREV(y, yp + at);
    } else {
        store_some(y, n, yp + at);
    }
}

#define PARAMETERS                                                                                 \
    TENSOR(x), TENSOR(b), TENSOR(g), TENSOR(s), TENSOR(perm), TENSOR(bias), TENSOR(y), TENSOR(u),  \
    TENSOR(v), const int8 sizes, const int step, const float alpha, const float beta GRIDS

#define PLACE(of_block, of_sample)                                                                 \
    const int d = sizes.s0, block = of_block, sample = of_sample, row = sample * sizes.s1 + block; \
    __global const S *xp = AT(const S, x) + sample * sizes.s2;                                     \
    __global const G *bp = AT(const G, b) + block * d, *gp = AT(const G, g) + block * d;           \
    __global const G *sp = AT(const G, s) + block * d;                                             \
    __global const float *biasp = AT(const float, bias);                                           \
    __global O *yp = AT(O, y) + sample * sizes.s3;                                                 \
    __global float *up = AT(float, u) + row * d, *vp = AT(float, v) + row * d;

__kernel void whole(PARAMETERS) {
    PLACE(get_global_id(0), get_global_id(1))
    for (int i = 0; i < d; i += VEC) PUT(product(xp, bp, i, sizes.s2), up + i);
    across(up, d);
    ORDER = OF_BLOCK;
    for (int i = 0; i < d; i += VEC) PUT(gathered(up, gp, i, d, order), vp + i);
    across(vp, d);
    for (int i = 0; i < d; i += VEC) finished(GET(vp + i), i);
}

// The vectors of a work-item, r of RADIX at place(r).
#define PART                                                                                       \
    PLACE(get_global_id(1), get_global_id(2))                                                      \
    const int w = get_global_id(0), base = (w / step * step * RADIX + w % step) * VEC;             \
    F part[RADIX];
#define place(r) (base + (r) * step * VEC)
#define EACH _Pragma("unroll") for (int r = 0; r < RADIX; r++)
#define BUTTERFLIES                                                                                \
    _Pragma("unroll") for (int k = 0; k < LOG_RADIX; k++) EACH if (!(r >> k & 1)) {                \
        const F a = part[r], c = part[r + (1 << k)];                                               \
        part[r] = a + c;                                                                           \
        part[r + (1 << k)] = a - c;                                                                \
    }

__kernel void start(PARAMETERS) {
    PART
    EACH part[r] = product(xp, bp, place(r), sizes.s2);
    BUTTERFLIES
    EACH PUT(part[r], up + place(r));
}

__kernel void on_u(PARAMETERS) {
    PART
    EACH part[r] = GET(up + place(r));
    BUTTERFLIES
    EACH PUT(part[r], up + place(r));
}

__kernel void gather(PARAMETERS) {
    PART
    ORDER = OF_BLOCK;
    EACH part[r] = gathered(up, gp, place(r), d, order);
    BUTTERFLIES
    EACH PUT(part[r], vp + place(r));
}

__kernel void on_v(PARAMETERS) {
    PART
    EACH part[r] = GET(vp + place(r));
    BUTTERFLIES
    EACH PUT(part[r], vp + place(r));
}

__kernel void finish(PARAMETERS) {
    PART
    EACH part[r] = GET(vp + place(r));
    BUTTERFLIES
    EACH finished(part[r], place(r));
}

__kernel void once(PARAMETERS) {
    PART
    ORDER = OF_BLOCK;
    EACH part[r] = gathered(up, gp, place(r), d, order);
    BUTTERFLIES
    EACH finished(part[r], place(r));
}
