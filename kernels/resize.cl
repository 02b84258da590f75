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

// ((2^bits - w) a + w b) / 2^(2 bits) of a, b below 2^31, halves away from 0.
F mean_of(const F a, const F b, const int w, const int bits) {
    const int all = 1 << bits, middle = all / 2, rest = all - 1;
    const F low = (a & rest) * (all - w) + (b & rest) * w;
    const F high = (a >> bits) * (all - w) + (b >> bits) * w + (low >> bits);
    return (((high < 0) & ((low & rest) == 0)) ? high + (middle - 1) : high + middle) >> bits;
}
#endif

// image: N, H, W, C, OH, OW, run, 0
// rows, columns: step, offset, unit, first remainder (times 2) that rounds up to the next pixel,
//                1 to give `extrapolation` outside the image; three unused
// bits, origin:  of linear integers: those of the weights, and the integer that halves are rounded
//                away from
__kernel void resize(TENSOR(x), TENSOR(y), const int8 image, const int8 rows, const int8 columns,
                     const float extrapolation, const int bits, const int origin) {
    const int height = image.s1, width = image.s2, channels = image.s3;
    const int out_w = image.s5;
    const int n = get_global_id(2) / image.s4, oh = get_global_id(2) % image.s4;
    const int first = get_global_id(1) * image.s6, last = min(first + image.s6, out_w);
    const int2 row = coordinate(oh, rows);
    const int row_outside = outside(row, rows, height);
    __global const S *xp = AT(const S, x) + n * height * width * channels;
    __global S *yp = AT(S, y) + (get_global_id(2) * out_w + first) * channels;
#ifdef LINEAR
#ifdef INTEGER
    const int down = weight(row, rows, bits);
#else
    const float down = (float)row.s1 / (float)rows.s2;
#endif
    __global const S *above = xp + clamp(row.s0, 0, height - 1) * width * channels;
    __global const S *below = xp + clamp(row.s0 + 1, 0, height - 1) * width * channels;
#else
    const int h = clamp(row.s0 + (2 * row.s1 >= rows.s3), 0, height - 1);
    __global const S *nearest = xp + h * width * channels;
#endif
    int2 column = coordinate(first, columns);
    const int whole_step = columns.s0 / columns.s2, rest_step = columns.s0 % columns.s2;
    for (int ow = first; ow < last; ow++, yp += channels) {
        const int is_outside = row_outside || outside(column, columns, width);
#ifdef LINEAR
#ifdef INTEGER
        const int right = weight(column, columns, bits);
#else
        const float right = (float)column.s1 / (float)columns.s2;
#endif
        const int at = clamp(column.s0, 0, width - 1) * channels;
        const int next = clamp(column.s0 + 1, 0, width - 1) * channels;
#else
        const int at = clamp(column.s0 + (2 * column.s1 >= columns.s3), 0, width - 1) * channels;
#endif
        for (int i = get_global_id(0) * VEC; i < channels; i += get_global_size(0) * VEC) {
            const int c = min(i, channels - VEC);
#ifdef LINEAR
            const F a = LOADV(above + at + c), b = LOADV(above + next + c);
            const F d = LOADV(below + at + c), e = LOADV(below + next + c);
#ifdef INTEGER
            const int left = (1 << bits) - right;
            const F top = (a - origin) * left + (b - origin) * right;
            const F bottom = (d - origin) * left + (e - origin) * right;
            const F value = mean_of(top, bottom, down, bits) + origin;
#else
            const F top = a + right * (b - a), bottom = d + right * (e - d);
            const F value = top + down * (bottom - top);
#endif
#else
            const F value = LOADV(nearest + at + c);
#endif
            STOREV(is_outside ? (F)(extrapolation) : value, yp + c);
        }
        // (step, offset) / unit again for ow + 1, without a division
        column += (int2)(whole_step, rest_step);
        if (column.s1 >= columns.s2)
            column += (int2)(1, -columns.s2);
        else if (column.s1 < 0)
            column += (int2)(-1, columns.s2);
    }
}
