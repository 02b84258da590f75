// Layers of one bit: weights and activations are +1 and -1, stored as bits 1 and 0.
//
// y[n, oy, ox, o] = ACTIVATE(alpha_o * (valid - 2 * sum over taps of popcount(x ^ w)) + bias_o)
// where valid is the number of products: channels times the taps that lie in the image; the others
// add nothing. Products and sums rounded in this order. Dense layers have one tap.
//
// A work-item computes P pixels times VEC output channels, for `tiles` times P pixels one after the
// other. Global size (ceil(out_c / VEC), ceil(pixels / (P * tiles)), 1).
//
// O_fp32, O_fp16: y. P: 1 and up; P vectors of counts should fit into the registers. VEC: 4, 8, 16.
// COUNT_VPOPCNT: see popcount.cl.

#include "pixels.cl"
#include "planes_end.cl"
#include "popcount.cl"

// x [n, height, width][words], bits past the last channel 0; w [blocks][kernel_h][kernel_w][words]
// [block width], likewise; levels [2][out_c] fp32: alpha, bias; y [pixels = n * out_h * out_w,
// out_c], pixels row_y elements apart.
// The hint is that of conv_integer.cl.
__attribute__((vec_type_hint(float16)))
__kernel void xnor(
        TENSOR(x), TENSOR(w), TENSOR(levels), TENSOR(y), const int row_y, const int pixels,
        const int tiles, const int words, const int real_c, const int height, const int width,
        const int channels, const int out_h, const int out_w, const int out_c, const int kernel_h,
        const int kernel_w, const int stride_h, const int stride_w, const int dilation_h,
        const int dilation_w, const int pad_top, const int pad_left, const float alpha,
        const float beta) {
    const int first = get_global_id(0) * VEC, lanes = out_c - first;
    const int block = first / BLOCK * BLOCK, step = min(BLOCK, out_c - block);
    __global const uint *weights = AT(const uint, w) + block * kernel_h * kernel_w * words
        + first - block;
    const R scale = load_channels(AT(const float, levels) + first, lanes);
    const R bias = load_channels(AT(const float, levels) + out_c + first, lanes);

    int pixel = get_global_id(1) * (tiles * P);
    const int end = pixel + min(tiles * P, pixels - pixel);
    int ox = pixel % out_w, oy = pixel / out_w % out_h, n = pixel / out_w / out_h;
    for (; pixel < end; pixel += P) {
        PLACE_TILE
        UV32 count[P];
        int valid[P];
        #pragma unroll
        for (int p = 0; p < P; p++) {
            count[p] = (UV32)(0);
            valid[p] = 0;
        }
        __global const uint *wp = weights;
        for (int ky = 0; ky < kernel_h; ky++) {
            const int down = ky * dilation_h;
            const bool rows_inside = first_top + down >= 0 && last_top + down < height;
            for (int kx = 0; kx < kernel_w; kx++) {
                const int right = kx * dilation_w, to_tap = (down * width + right) * channels;
                __global const uint *xp[P];
                uint mask[P];
                #pragma unroll
                for (int p = 0; p < P; p++) {
                    const bool there = (rows_inside && columns_inside)
                        || ((uint)(top[p] + down) < (uint)height
                            && (uint)(left[p] + right) < (uint)width);
                    xp[p] = AT(const uint, x) + (there ? to_tap + at[p] : 0);
                    mask[p] = there ? 0xFFFFFFFFu : 0u;
                    valid[p] += there ? real_c : 0;
                }
                for (int c = 0; c < words; c++, wp += step) {
                    const UV32 word = VLOAD(wp);
                    #pragma unroll
                    for (int p = 0; p < P; p++)
                        count[p] += bits_in((word ^ xp[p][c]) & mask[p]);
                }
            }
        }
        const int some = min(P, end - pixel);
        #pragma unroll
        for (int p = 0; p < P; p++) {
            const R dot = REALS(valid[p] - 2 * GLUE(as_int, VEC)(count[p]));
            const R r = fma(scale, dot, (R)(0.0f)) + bias;
            if (p < some)
                store_channels(ACTIVATE(r), lanes, AT(O, y) + (pixel + p) * row_y + first);
        }
        NEXT_TILE
    }
}
