// Tables: x [n] -> y [n], a work-item looks up `run` elements: global size (ceil(n / run), 1, 1).
//
// table:         y = t[x], x uint8, t [256] of y's type
// interpolated:  y = a + (((b - a) (x & 127) + 64) >> 7), a, b = t[(x >> 7) + 256] and the next;
//                x, y and t [513] int16
//
// T_<dtype>, O_<dtype>: stored types of x and, where it is another one, of y and the table.
// A vector of x is read before its y is written, so that y may be x.

__kernel void table(TENSOR(x), TENSOR(t), TENSOR(y), const int n, const int run) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    __global const uchar *xp = AT(const uchar, x);
    __global const O *tp = AT(const O, t);
    __global O *yp = AT(O, y);
    for (int i = start; i < stop; i++) yp[i] = tp[xp[i]];
}

__kernel void interpolated(TENSOR(x), TENSOR(t), TENSOR(y), const int n, const int run) {
    const int start = get_global_id(0) * run, stop = min(start + run, n);
    __global const short *xp = AT(const short, x), *tp = AT(const short, t) + 256;
    __global short *yp = AT(short, y);
    for (int i = start; i < stop; i++) {
        const int v = xp[i], k = v >> 7, a = tp[k], b = tp[k + 1];
        yp[i] = (short)(a + (((b - a) * (v & 127) + 64) >> 7));
    }
}
