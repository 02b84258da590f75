// Whether a way to sum products works: y[0] = the dot product of the four uchar in x with the four
// char in w. One work-item. Macros: see dot.cl; VEC: 4.

#include "dot.cl"

__kernel void probe(__global int *y, const int x, const int w) {
    y[0] = mac4((I)(0), x, (I)(w)).s3;
}
