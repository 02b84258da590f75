"""Transposed convolutions with integer weights."""
from __future__ import annotations

from typing import Any

from edgerun.dtypes import FLOAT
from edgerun.ops._base import Facts, Key, Launch, OpLike, Variant, int8_arg, require
from edgerun.ops._integer import BIAS, M0, T, dot_defines, optional, require_quantized
from edgerun.ops.depthwise_integer import form_args, form_defines


def conv_transpose_integer(op: OpLike, facts: Facts, key: Key, variant: Variant, phases: int,
                           tiles: int) -> list[Launch]:
    """Return the launch of a transposed convolution with integer weights, inferred before.

    Args:
        op: its weights are in blocks.
        facts: of the device.
        key, variant: see _tile.py.
        phases, tiles: residues of columns modulo the stride, and work-items of each.
    """
    x, w, y, o = op.inputs[0], op.inputs[1], op.outputs[0], op.options
    bias, t, groups = optional(op, BIAS), optional(op, T), o["groups"]
    n, height, width, channels = x.shape
    kernel_h, kernel_w, in_c = w.shape[1:]
    out_h, out_w, out_c = y.shape[1], y.shape[2], y.shape[3] // groups
    defines: dict[str, Any] = {**variant.defines, **form_defines(op)}
    if x.dtype not in FLOAT:
        zero = require_quantized(x, op).zero
        require(zero == 0 or x.dtype == "uint8", op,
                f"{x.name} is {x.dtype} with the zero point {zero}, needed 0")
        if zero:
            defines["ZERO_X"] = 1
        defines |= dot_defines(facts, x.dtype)
    return [Launch(
        "conv_transpose_integer", "conv_transpose2d_integer", defines,
        (phases * tiles, n * out_h, groups * -(-out_c // variant["VEC"])),
        # a tensor that is left out is replaced by x, which the kernel then does not read
        (x, w, bias or x, optional(op, M0), t or x, y,
         int8_arg([height, width, channels, in_c, out_h, out_w, out_c, groups]),
         int8_arg([kernel_h, o["stride_h"], o["dilation_h"], o["pad_top"], bias is not None, 0, 0,
                   0]),
         int8_arg([kernel_w, o["stride_w"], o["dilation_w"], o["pad_left"], phases, tiles, 0, 0]),
         *form_args(op)), facts.one, key, variant)]
