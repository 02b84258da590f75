// Resampling of NHWC images.
//
// Along each axis output index i reads the source coordinate (step * i + offset) / unit, in whole
// numbers: its floor is exact, and so is the rounding of a tie.
// nearest: y[n, oh, ow, c] = x[n, nearest row, nearest column, c]
// linear:  the mean of the 2 x 2 pixels around the coordinate, weighted by closeness; pixels
//          outside the image repeat its border.
//
// x [N, H, W, C], y [N, OH, OW, C]
// Global size (channel vectors that work at once, ceil(OW / run), N * OH); a work-item takes `run`
// neighbouring columns and every get_global_size(0)-th vector of VEC channels, VEC <= C. The last
// vector ends at the last channel, so two work-items may write the same values there.
//
// LINEAR: linear instead of nearest.
// T_uint8, T_int16: x and y are quantized, on one grid; linear with weights of `bits` bits.

// The floor of the coordinate (s0) and what is left of it, in units (s1).
int2 coordinate(const int index, const int8 axis) {
    const int units = axis.s0 * index + axis.s1;
    int whole = units / axis.s2;
    whole -= units < whole * axis.s2;
    return (int2)(whole, units - whole * axis.s2);
}

// The coordinate of the next index, without a division: (step, offset) / unit once more.
int2 following(int2 at, const int whole_step, const int rest_step, const int unit) {
    at += (int2)(whole_step, rest_step);
    if (at.s1 >= unit)
        at += (int2)(1, -unit);
    else if (at.s1 < 0)
        at += (int2)(-1, unit);
    return at;
}

// Whether a coordinate lies outside the image, where the axis asks for that (s4).
int outside(const int2 at, const int8 axis, const int size) {
    return axis.s4 && (at.s0 < 0 || at.s0 > size - 1 || (at.s0 == size - 1 && at.s1 > 0));
}

#if defined(LINEAR) && (defined(T_uint8) || defined(T_int16))
#define INTEGER
// What is left of a coordinate as a weight of `bits` bits, at most 15; a unit is at most 2^16.
int weight(const int2 at, const int8 axis, const int bits) {
    return (((uint)at.s1 << bits) + (uint)axis.s2 / 2) / (uint)axis.s2;
}

#endif

#ifdef LINEAR
// What a column of x contributes to a row of y: with weights of `bits` bits `high` 2^bits + `low`.
typedef struct {
#ifdef INTEGER
    F low, high;
#else
    F value;
#endif
} COLUMN;

COLUMN column_of(__global const S *above, __global const S *below, const float down,
                 const int weight_down, const int bits, const int origin) {
    COLUMN result;
    const F a = LOADV(above), b = LOADV(below);
#ifdef INTEGER
    const F all = (a - origin) * ((1 << bits) - weight_down) + (b - origin) * weight_down;
    result.low = all & ((1 << bits) - 1);
    result.high = all >> bits;
#else
    result.value = a + down * (b - a);
#endif
    return result;
}

// The mean of two columns, the right one weighted with `share`, or `w` / 2^bits; of integers the
// mean of pixels below 2^31 / 2^bits, halves away from `origin`.
F mean_of(const COLUMN left, const COLUMN right, const float share, const int w, const int bits,
          const int origin) {
#ifdef INTEGER
    const int all = 1 << bits, rest = all - 1;
    const F low = left.low * (all - w) + right.low * w;
    const F high = left.high * (all - w) + right.high * w + (low >> bits);
    const F even = (high < 0) & ((low & rest) == 0);  // below the origin, and no fraction
    return ((high + all / 2 + (VEC == 1 ? -even : even)) >> bits) + origin;
#else
    return left.value + share * (right.value - left.value);
#endif
}
#endif

// image: N, H, W, C, OH, OW, run, 0
// rows, columns: step, offset, unit, first remainder (times 2) that rounds up to the next pixel,
//                1 to give `extrapolation` outside the image; of rows the elements from a pixel of
//                x to the next, and of y; unused
// bits, origin:  of linear integers: those of the weights, and the integer that halves are rounded
//                away from
__kernel void resize(TENSOR(x), TENSOR(y), const int8 image, const int8 rows, const int8 columns,
                     const float extrapolation, const int bits, const int origin) {
    const int height = image.s1, width = image.s2, channels = image.s3;
    const int out_w = image.s5, row_x = rows.s5, row_y = rows.s6;
    const int n = get_global_id(2) / image.s4, oh = get_global_id(2) % image.s4;
    const int first = get_global_id(1) * image.s6, last = min(first + image.s6, out_w);
    const int2 row = coordinate(oh, rows);
    const int row_outside = outside(row, rows, height);
    const int whole_step = columns.s0 / columns.s2, rest_step = columns.s0 % columns.s2;
    __global const S *xp = AT(const S, x) + n * height * width * row_x;
#ifdef LINEAR
#ifdef INTEGER
    const int weight_down = weight(row, rows, bits);
    const float down = 0.0f;
#else
    const int weight_down = 0;
    const float down = (float)row.s1 / (float)rows.s2;
#endif
    __global const S *above = xp + clamp(row.s0, 0, height - 1) * width * row_x;
    __global const S *below = xp + clamp(row.s0 + 1, 0, height - 1) * width * row_x;
    // two vectors of channels at once, for which the columns are placed once
    const int far = get_global_size(0) * VEC;
    for (int i = get_global_id(0) * VEC; i < channels; i += 2 * far) {
        const int c = min(i, channels - VEC), c2 = min(i + far, channels - VEC);
        const bool both = i + far < channels;
        __global S *yp = AT(S, y) + (get_global_id(2) * out_w + first) * row_y;
        int2 column = coordinate(first, columns);
        int known = column.s0 - 2;  // the column of x that `left` holds
        COLUMN left, right, left2, right2;
        for (int ow = first; ow < last; ow++, yp += row_y) {
            if (column.s0 != known) {
                const int at = clamp(column.s0, 0, width - 1) * row_x;
                const int next = clamp(column.s0 + 1, 0, width - 1) * row_x;
#define COLUMN_AT(p) column_of(above + (p), below + (p), down, weight_down, bits, origin)
                if (column.s0 == known + 1) {
                    left = right;
                    left2 = right2;
                } else {
                    left = COLUMN_AT(at + c);
                    left2 = COLUMN_AT(at + c2);
                }
                right = COLUMN_AT(next + c);
                right2 = COLUMN_AT(next + c2);
                known = column.s0;
            }
            const bool is_outside = row_outside || outside(column, columns, width);
#ifdef INTEGER
            const int w = weight(column, columns, bits);
            const float share = 0.0f;
#else
            const int w = 0;
            const float share = (float)column.s1 / (float)columns.s2;
#endif
            STOREV(is_outside ? (F)(extrapolation)
                   : mean_of(left, right, share, w, bits, origin), yp + c);
            if (both)
                STOREV(is_outside ? (F)(extrapolation)
                       : mean_of(left2, right2, share, w, bits, origin), yp + c2);
            column = following(column, whole_step, rest_step, columns.s2);
        }
    }
#else
    const int h = clamp(row.s0 + (2 * row.s1 >= rows.s3), 0, height - 1);
    __global const S *nearest = xp + h * width * row_x;
    __global S *yp = AT(S, y) + (get_global_id(2) * out_w + first) * row_y;
    int2 column = coordinate(first, columns);
    for (int ow = first; ow < last; ow++, yp += row_y) {
        const bool is_outside = row_outside || outside(column, columns, width);
        const int at = clamp(column.s0 + (2 * column.s1 >= columns.s3), 0, width - 1) * row_x;
        for (int i = get_global_id(0) * VEC; i < channels; i += get_global_size(0) * VEC) {
            const int c = min(i, channels - VEC);
            const F value = LOADV(nearest + at + c);
            STOREV(is_outside ? (F)(extrapolation) : value, yp + c);
        }
        column = following(column, whole_step, rest_step, columns.s2);
    }
#endif
}
