"""Matrix products of quantized tensors."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Variant, count, f32, int4_arg, int8_arg, require, require_dtype,
    require_quantized)
from edgerun.ops._integer import (
    ACTIVATIONS, WIDE_LEAST_SHIFT, WIDE_MOST_TERMS, bounds, dot_defines, optional, require_values,
    rounding_defines)
from edgerun.ops._tile import PACKED_ROWS
from edgerun.ops.elementwise import activation
from edgerun.quantization import ONE_STEP, TWO_STEPS, fixed_point

SCALE = 2  # input


@dataclass(frozen=True)
class Sizes:
    """M, N, K and how the operands lie: elements of a per step of m and k, b as [N, K] or not;
    dims, sa, sb: the batch, and elements of a and b per step of its axes."""
    m: int
    n: int
    k: int
    step_m: int
    step_k: int
    b_rows: bool
    dims: list[int]
    sa: list[int]
    sb: list[int]


def most_terms(dtype: str, rounding: str) -> int:
    """Return the longest inner axis over activations of a dtype, for a rounding of y.

    Sums of uint8 stay within int32; rounding in two steps wants one bit of it.
    """
    if dtype == "int16":
        return WIDE_MOST_TERMS
    return (2**30 if rounding in TWO_STEPS else 2**31 - 1) // 255**2


def output_dtype(op: OpLike) -> str:
    """Return the dtype of y of a matmul, which may be integer (mixed: see OpDef).

    Raises:
        ModelError: its scale does not fit.
    """
    a, scale = op.inputs[0], optional(op, SCALE)
    if scale is None:
        return a.dtype
    require_values(op, scale, "fp32", (1,), "scale")
    require(a.dtype not in FLOAT, op, "has a scale of sums, but no integers")
    return "fp32"


def _fixed(op: OpLike) -> tuple[int, int]:
    """Return m0 and t of a quantized y.

    Raises:
        ModelError: the scales do not fit, or the rounding.
    """
    y, wide = require_quantized(op.outputs[0], op), op.inputs[0].dtype == "int16"
    try:
        # "single" is what runtimes compute that multiply in fp32
        kind = np.float32 if y.rounding == "single" else np.float64
        step_a, step_b = (kind(require_quantized(x, op).step) for x in op.inputs[:2])
        with np.errstate(all="ignore"):
            m0, t = fixed_point(step_a * step_b / kind(y.step), y.rounding)
    except ValueError as error:
        require(False, op, str(error))
    require(not wide or y.rounding in ONE_STEP and int(t) >= WIDE_LEAST_SHIFT, op,
            f"rounds sums of int16 {y.rounding} with the shift {int(t)}, needed once, and at least "
            f"{WIDE_LEAST_SHIFT}")
    return int(m0), int(t)


def matmul_integer(op: OpLike, facts: Facts, s: Sizes, key: Key, variant: Variant
                   ) -> list[Launch]:
    """Return the launch of a matrix product of quantized tensors, inferred before.

    Args:
        op: matmul.
        facts: of the device.
        s: M, N, K, and how the operands lie.
        key, variant: see _tile.py.
    """
    (a, b), y, scale = op.inputs[:2], op.outputs[0], optional(op, SCALE)
    zero_a, zero_b = (require_quantized(tensor, op).zero for tensor in (a, b))
    require(a.dtype == "uint8" or zero_a == zero_b == 0, op,
            f"the zero points of int16 tensors are {zero_a} and {zero_b}, needed 0")
    lanes, rows = variant["VEC"], variant["ROWS"]
    per_item = rows * variant["tiles"]
    defines: dict[str, Any] = {f"T_{a.dtype}": 1, f"O_{y.dtype}": 1, **variant.defines,
                               "MOST_ROWS": PACKED_ROWS if facts.kind == "cpu" else rows}
    if a.dtype == "int16":
        defines["WIDE"] = 1
    if lanes >= 4:
        defines |= dot_defines(facts, "int16")  # the kernel widens
    alpha = beta = 0.0
    m0 = t = 0
    ends, rounding = int4_arg([]), "once"
    if y.dtype in FLOAT:
        require(scale is not None, op, f"writes {y.dtype}, but has no scale of its sums")
        act = activation(op)
        defines, alpha, beta = {**defines, **act.defines}, act.alpha, act.beta
    else:
        require_dtype(y, ACTIVATIONS, op)
        require(scale is None, op, "has a scale of its sums, which a quantized output does not use")
        m0, t = _fixed(op)
        defines |= rounding_defines(y)
        ends, rounding = int4_arg([y.quantization.zero, *bounds(op, y)]), y.quantization.rounding
    longest = most_terms(a.dtype, rounding)
    require(s.k <= longest, op, f"sums {s.k} products of {a.dtype}, at most {longest} fit")
    return [Launch("matmul_integer", "matmul_integer", defines,
                   (-(-s.n // lanes), -(-s.m // per_item), count(s.dims)),
                   # a scale that is left out is replaced by a, which the kernel then does not read
                   (a, b, scale or a, y,
                    int8_arg([s.m, s.n, s.k, s.step_m, s.step_k, per_item, s.b_rows, 0]),
                    int8_arg(s.dims, 1), int8_arg(s.sa), int8_arg(s.sb),
                    int4_arg([zero_a, zero_b, m0, t]), ends, f32(alpha), f32(beta)),
                   facts.one, key, variant)]
