// How layers over bit planes start; included with #include "planes_head.cl".
//
// UNITS: ints of a row of x for a word of channels, see planes_rows.cl. P, VEC: see the files that
//    include this one.
//
//   PARAMETERS  of the kernels:
//               rows [n * height * width and `outside`][groups][words * UNITS + 1], pixels
//                  `channels` ints apart
//               levels [rows][terms][groups * out_c] fp32, of the numbers of planes whose bits of
//                  `held` are set; terms: 3 for A, B, C, 2 for A, C
//               used [1]
//               p0 .. p15 the planes, as many as there are: [groups][blocks][kernel_h][kernel_w]
//                  [words][block width]
//               y [pixels = n * out_h * out_w, groups * out_c], pixels row_y elements apart, from
//                  pixel first_y on
//               out_c is per group.
//   PLACE_ITEM  declares what a work-item works on:
//               t                    how many planes count
//               first, lanes, group  its first output channel, how many are left, their group
//               plane, start, step   the planes, its first word in each, from a word to the next
//               x                    the group's segment of the first row
//               a, b, from           A, B, C of the channels
//               pixel, end, ox, oy, n  its pixels; where the first of them lies, for PLACE_TILE
//   PLACE_TAP   declares xp [P]: the segments of x that the pixels of a tile meet at (ky, kx)

#include "pixels.cl"
#include "planes_end.cl"

#define PARAMETERS                                                                                 \
    TENSOR(rows), TENSOR(levels), TENSOR(used), TENSOR(p0), TENSOR(p1), TENSOR(p2), TENSOR(p3),    \
    TENSOR(p4), TENSOR(p5), TENSOR(p6), TENSOR(p7), TENSOR(p8), TENSOR(p9), TENSOR(p10),           \
    TENSOR(p11), TENSOR(p12), TENSOR(p13), TENSOR(p14), TENSOR(p15), TENSOR(y),                    \
    const int planes, const int held, const int terms, const int row_y, const int first_y,         \
    const int outside, const int pixels, const int tiles, const int words, const int zero_x,       \
    const int height, const int width, const int channels, const int out_h, const int out_w,       \
    const int out_c, const int kernel_h, const int kernel_w, const int stride_h,                   \
    const int stride_w, const int dilation_h, const int dilation_w, const int pad_top,             \
    const int pad_left, const int zero_y, const int least, const int most, const float alpha,      \
    const float beta

#define PLACE_ITEM                                                                                 \
    const int first = get_global_id(0) * VEC, group = get_global_id(2), lanes = out_c - first;     \
    const int2 t_row = t_and_row(*AT(const int, used), held);                                      \
    const int t = t_row.s0;                                                                        \
    const int block = first / BLOCK * BLOCK, step = min(BLOCK, out_c - block);                     \
    const int start = (group * out_c + block) * kernel_h * kernel_w * words + first - block;       \
    __global const uint *const plane[16] = {                                                       \
        AT(const uint, p0), AT(const uint, p1), AT(const uint, p2), AT(const uint, p3),            \
        AT(const uint, p4), AT(const uint, p5), AT(const uint, p6), AT(const uint, p7),            \
        AT(const uint, p8), AT(const uint, p9), AT(const uint, p10), AT(const uint, p11),          \
        AT(const uint, p12), AT(const uint, p13), AT(const uint, p14), AT(const uint, p15)};       \
    __global const int *x = AT(const int, rows) + group * (words * UNITS + 1);                     \
    __global const float *level = AT(const float, levels)                                          \
        + (t_row.s1 * terms * (int)get_global_size(2) + group) * out_c + first;                    \
    const int row_level = (int)get_global_size(2) * out_c;                                         \
    const R a = load_channels(level, lanes);                                                       \
    const R b = terms == 3 ? load_channels(level + row_level, lanes) : a * middle(t, planes);      \
    const R from = load_channels(level + (terms - 1) * row_level, lanes);                          \
    int pixel = get_global_id(1) * (tiles * P);                                                    \
    const int end = pixel + min(tiles * P, pixels - pixel);                                        \
    int ox = pixel % out_w, oy = pixel / out_w % out_h, n = pixel / out_w / out_h;

#define PLACE_TAP                                                                                  \
    const int down = ky * dilation_h, right = kx * dilation_w;                                     \
    const int to_tap = (down * width + right) * channels;                                          \
    const bool rows_inside = first_top + down >= 0 && last_top + down < height;                    \
    __global const int *xp[P];                                                                     \
    _Pragma("unroll") for (int p = 0; p < P; p++) {                                                \
        const bool there = (rows_inside && columns_inside)                                         \
            || ((uint)(top[p] + down) < (uint)height && (uint)(left[p] + right) < (uint)width);    \
        xp[p] = x + (there ? to_tap + at[p] : outside * channels);                                 \
    }
