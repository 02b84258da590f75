// What the convolutions share: the pixels of a work-item. Included with #include "pixels.cl".
//
// P, NV: pixels, and vectors of VEC output channels, of a work-item; see the files that include it.

#ifndef P
#define P 4
#endif
#ifndef NV
#define NV 1
#endif
#define BLOCK 16  // output channels of a block of weights, see Layout.oc16 in the schema
#define VLOAD(p) GLUE(vload, VEC)(0, p)

// Declares top, left [P]: the image coordinates of the first tap of every pixel; and runs_on:
// whether a row of taps is one run of channels, in words of `word`. Sets image[p] to what lies at
// `start` for the pixel's image and group. Uses the sizes that are arguments of the kernels. Pixels
// past the last one repeat it, and are not to be stored.
#define PLACE_PIXELS(image, start, word)                                                           \
    int top[P], left[P];                                                                           \
    bool runs_on = dilation_w == 1 && channels == in_c && in_c % (word) == 0;                      \
    {                                                                                              \
        int ox = pixel % out_w, oy = pixel / out_w % out_h, n = pixel / out_w / out_h;             \
        _Pragma("unroll") for (int p = 0; p < P; p++) {                                            \
            top[p] = oy * stride_h - pad_top;                                                      \
            left[p] = ox * stride_w - pad_left;                                                    \
            image[p] = (start) + n * height * width * channels + group * in_c;                     \
            runs_on = runs_on && left[p] >= 0 && left[p] + kernel_w <= width;                      \
            if (pixel + p + 1 < pixels && ++ox == out_w) {                                         \
                ox = 0;                                                                            \
                if (++oy == out_h) {                                                               \
                    oy = 0;                                                                        \
                    n++;                                                                           \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
