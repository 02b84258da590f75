"""Softmax over quantized integers."""
from __future__ import annotations

import math

import numpy as np

from edgerun.ops._base import (
    Facts, Launch, OpLike, count, f32, float_types, i32, lanes_within, normal_axis, require,
    require_dtype, require_quantized)
from edgerun.ops._integer import ACTIVATIONS, require_values
from edgerun.quantization import clamp

EXACT = 23  # bits of an integer that fp32 holds, with room for its neighbour
ENTRIES = 256
SMALLEST = 2.0**-60  # scale of y: numbers up to 1 are far less than 2^127 steps
LONG = 256  # elements; a row as long as this is worth a work-group


def exponent_bits(n: int) -> int:
    """Return the bits behind the point of the exponentials of which n are added in 31 bits."""
    return min(EXACT, 31 - math.ceil(math.log2(n + 1)))


def check(op: OpLike) -> None:
    """Check the inputs x and exponentials.

    Raises:
        ModelError: they are not what the kernel reads.
    """
    x, table = op.inputs
    require_dtype(x, ("uint8",), op)
    require_values(op, table, "int32", (ENTRIES,), "exponentials")
    require(not op.options["log"], op, "is a logarithm, which has no integer form")


def softmax(op: OpLike, facts: Facts) -> list[Launch]:
    """Return the launch of a softmax with a table of exponentials (see softmax.softmax)."""
    (x, table), y = op.inputs, op.outputs[0]
    require_dtype(y, ACTIVATIONS, op)
    quantization = require_quantized(y, op)
    require(quantization.step > SMALLEST, op,
            f"{y.name} has the scale {quantization.step:.3g}, needed more than {SMALLEST:.3g}")
    shape = x.shape or (1,)
    axis = normal_axis(op.options["axis"], len(shape), op)
    outer, n, inner = count(shape[:axis]), shape[axis], count(shape[axis + 1:])
    low, high = (end - quantization.zero for end in clamp(quantization, y.dtype))
    steps = np.float32(1) / np.float32(quantization.step)
    ends = (steps, i32(quantization.zero), f32(low), f32(high))
    vec = lanes_within(n, facts)
    defines = {"VEC": vec, **float_types(x, y)}
    if inner == 1:
        return [Launch("softmax_integer", "rows", defines, (outer, 1, 1),
                       (x, table, y, i32(n), *ends), facts.one if n >= LONG else None)]
    return [Launch("softmax_integer", "columns", defines, (inner, outer, 1),
                   (x, table, y, i32(n), i32(inner), *ends), facts.one if n >= LONG else None)]
