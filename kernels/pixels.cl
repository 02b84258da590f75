// What the convolutions share: the tiles of a work-item. Included with #include "pixels.cl".
//
// P, NV: pixels, and vectors of VEC output channels, of a work-item; see the files that include it.
// SELDOM: in front of the loop over pixels of tiles that go on in the next row.

#ifndef P
#define P 4
#endif
#ifndef NV
#define NV 1
#endif
#ifndef SELDOM
#define SELDOM _Pragma("unroll")
#endif
#define BLOCK 16  // output channels of a block of weights, see Layout.oc16 in the schema
#define VLOAD(p) GLUE(vload, VEC)(0, p)

// Where the pixels of a tile lie, of which the first is (ox, oy) of image n. Declares
//   top, left [P]        the image coordinates of the first tap of every pixel
//   at [P]               elements from the start of x to it, also where it lies outside
//   first_top, last_top  the least and the greatest of top; first_left, last_left of left
//   columns_inside       whether all taps of all pixels lie between the sides of their image
// Uses the sizes that are arguments of the kernels. Pixels past the last one repeat it, and are not
// to be stored. Few tiles go on in the next row: the others are placed by additions.
#define PLACE_TILE                                                                                 \
    int top[P], left[P], at[P];                                                                    \
    int first_top = oy * stride_h - pad_top, last_top = first_top;                                 \
    int first_left = ox * stride_w - pad_left, last_left = first_left;                             \
    const int across = (kernel_w - 1) * dilation_w;                                                \
    if (ox + P <= out_w) {                                                                         \
        left[0] = first_left;                                                                      \
        at[0] = ((n * height + first_top) * width + left[0]) * channels;                           \
        _Pragma("unroll") for (int p = 0; p < P; p++) {                                            \
            top[p] = first_top;                                                                    \
            left[p] = left[0] + p * stride_w;                                                      \
            at[p] = at[0] + p * stride_w * channels;                                               \
        }                                                                                          \
        last_left = left[P - 1];                                                                   \
    } else {                                                                                       \
        int px = ox, py = oy, pn = n;                                                              \
        SELDOM for (int p = 0; p < P; p++) {                                                       \
            top[p] = py * stride_h - pad_top;                                                      \
            left[p] = px * stride_w - pad_left;                                                    \
            at[p] = ((pn * height + top[p]) * width + left[p]) * channels;                         \
            first_top = min(first_top, top[p]);                                                    \
            last_top = max(last_top, top[p]);                                                      \
            first_left = min(first_left, left[p]);                                                 \
            last_left = max(last_left, left[p]);                                                   \
            if (pixel + p + 1 < pixels && ++px == out_w) {                                         \
                px = 0;                                                                            \
                if (++py == out_h) {                                                               \
                    py = 0;                                                                        \
                    pn++;                                                                          \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    const bool columns_inside = first_left >= 0 && last_left + across < width;

// Advances (ox, oy) and n by a tile.
#define NEXT_TILE                                                                                  \
    ox += P;                                                                                       \
    while (ox >= out_w) {                                                                          \
        ox -= out_w;                                                                               \
        if (++oy == out_h) {                                                                       \
            oy = 0;                                                                                \
            n++;                                                                                   \
        }                                                                                          \
    }
