"""Softmax over any axis."""
from __future__ import annotations

from edgerun.ops import softmax_integer
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, count, f32, i32, lanes_within, normal_axis)
from edgerun.ops._quantized_io import grids, require_numbers, types

LONG = 256  # elements; a row as long as this is worth a work-group


def infer_softmax(op: OpLike) -> Outputs:
    """y has the shape and dtype of x."""
    x = op.inputs[0]
    require_numbers(op)
    if len(op.inputs) > 1:
        softmax_integer.check(op)
    normal_axis(op.options["axis"], len(x.shape), op)
    return [(x.shape, x.dtype)]


def softmax(op: OpLike, facts: Facts) -> list[Launch]:
    """y_k = exp(scale x_k) / sum_j(exp(scale x_j)) along `axis`, or its logarithm with `log`.

    x [...] fp32, fp16, or quantized uint8, int16 -> y [...]; integers are read as numbers, and
    written rounded, in registers: within one step of the exact result. The maximum is subtracted
    first (so nothing overflows); sums are fp32.

    With a second input, exponentials int32 [256] of -d scale x.scale in steps of 2^-k, a uint8 x
    has an exact form: e_k = exponentials[max_j(x_j) - x_k], y_k = clamp(round(e_k / sum_j(e_j) *
    1 / y.scale) + y.zero_point), uint8 or int16; the sum is exact, the quotient and the product are
    rounded to fp32. k is at most 23, less where a sum would overflow 31 bits.
    """
    if len(op.inputs) > 1:
        return softmax_integer.softmax(op, facts)
    x, y = op.inputs[0], op.outputs[0]
    shape = x.shape or (1,)
    axis = normal_axis(op.options["axis"], len(shape), op)
    outer, n, inner = count(shape[:axis]), shape[axis], count(shape[axis + 1:])
    rest = (f32(op.options["scale"]), i32(op.options["log"]), *grids(op))
    vec = lanes_within(n if inner == 1 else inner, facts)
    defines = {**types(op), "VEC": vec}
    if inner == 1:
        return [Launch("softmax", "rows", defines, (outer, 1, 1), (x, y, i32(n), *rest),
                       facts.one if n >= LONG else None)]
    return [Launch("softmax", "columns", defines, (-(-inner // vec), outer, 1),
                   (x, y, i32(n), i32(inner), *rest), facts.one if n * vec >= LONG else None)]
