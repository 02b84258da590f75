"""Binary ops over quantized integers."""
from __future__ import annotations

from edgerun.ops._base import (
    OUTPUT, Facts, Launch, OpLike, TensorLike, broadcast_strides, collapse, count, float_types, i32,
    int4_arg, int8_arg, lanes_within, require, require_dtype, require_quantized)
from edgerun.ops._integer import ACTIVATIONS, bounds, rounding_defines
from edgerun.ops.quantize import LARGEST, fixed, is_quantized
from edgerun.quantization import ratio, weighted_sum

KINDS = ("add", "sub", "mul", "min", "max", "squared_difference", "prelu")
TILE = 4096  # elements a work-item of a CPU computes, if the axes are that long
LONG = 256  # elements; a work-item with fewer shares a work-group
REACH = 255  # largest |q - zero_point| of uint8
# Multipliers below these keep what they scale below 2^30: the square of a shifted difference, a
# product of differences, a sum of shifted differences.
SQUARE_LARGEST = 1.0
PRODUCT_LARGEST, SUM_LARGEST = {"uint8": 2.0**14, "int16": 1.0}, {"uint8": 4.0, "int16": 1.0}
# Bits by which differences are shifted before they are scaled, as in TFLite.
SUM_SHIFT, SQUARE_SHIFT = {"uint8": 20, "int16": 15}, 7


def applies(op: OpLike) -> bool:
    """Whether the op computes with quantized integers."""
    return any(is_quantized(t) for t in op.inputs)


def check(op: OpLike) -> None:
    """Check the operands, which infer_binary has found to have one dtype.

    Raises:
        ModelError: an operand is not quantized, or there is no such kind.
    """
    for t in op.inputs:
        require(require_quantized(t, op).zero == 0 or t.dtype == "uint8", op,
                f"{t.name} is {t.dtype} with the zero point {t.quantization.zero}, needed 0")
    kind, dtype = op.options["kind"], op.inputs[0].dtype
    require(kind in KINDS and (kind != "squared_difference" or dtype == "uint8"), op,
            f"has no kind {kind!r} for quantized {dtype}, known are {', '.join(KINDS)}")


def rows_apart(op: OpLike) -> tuple[int, ...]:
    """Return the operands whose rows may lie apart: all."""
    return 0, 1, OUTPUT


def binary(op: OpLike, facts: Facts) -> list[Launch]:
    """Return the launch of a binary op over quantized integers (see elementwise.binary)."""
    (a, b), y = op.inputs, op.outputs[0]
    require_dtype(y, ACTIVATIONS, op)
    low, high = bounds(op, y)
    kernel, args = _form(op, a, b, y)
    dims, (sa, sb, sy) = collapse(
        y.shape, *(broadcast_strides(t.shape, y.shape, t.pitch) for t in (a, b, y)))
    vec = lanes_within(dims[-1], facts)
    above = dims[-2] if len(dims) > 1 else 1
    run, rows = ((min(dims[-1], TILE), min(above, max(1, TILE // dims[-1])))
                 if facts.kind == "cpu" else (vec, 1))
    return [Launch("binary_integer", kernel,
                   {"VEC": vec, **float_types(a, y), **rounding_defines(y)},
                   (-(-dims[-1] // run), -(-above // rows), count(dims[:-2])),
                   (a, b, y, int8_arg(dims, 1), int8_arg(sa), int8_arg(sb),
                    i32(sy[-2] if len(dims) > 1 else 0),
                    int4_arg([run, rows, low, high]), *args),
                   facts.one if run * rows >= LONG else None)]


def _form(op: OpLike, a: TensorLike, b: TensorLike, y: TensorLike) -> tuple[str, tuple]:
    """Return the kernel and its arguments that depend on the quantizations."""
    (sa, za), (sb, zb), (sy, zy) = (
        (t.quantization.step, t.quantization.zero) for t in (a, b, y))
    kind = op.options["kind"]
    if kind in ("add", "sub"):
        sign = 1 if kind == "add" else -1
        if a.dtype == "uint8" and y.quantization.rounding != "twice":
            require(max(sa, sb) / sy < LARGEST, op, f"the scale of {y.name} is too small")
            (ma, mb), k = weighted_sum([sa / sy, sign * sb / sy], REACH)
            start = 2**(k - 1) - za * ma - zb * mb
            return "sum", (int4_arg([ma, mb, start, k]), i32(zy))
        twice, shift = 2 * max(sa, sb), SUM_SHIFT[a.dtype]
        return "scaled_sum", (
            int4_arg([za, *fixed(op, sa / twice), sign]),
            int4_arg([zb, *fixed(op, sb / twice), shift]),
            int4_arg([zy, *fixed(op, twice / (2.0**shift * sy), SUM_LARGEST[a.dtype])]))
    if kind == "squared_difference":
        twice = 2 * max(sa, sb)
        return "squared_difference", (
            int4_arg([za, *fixed(op, sa / twice)]),
            int4_arg([zb, *fixed(op, sb / twice), SQUARE_SHIFT]),
            int4_arg([zy, *fixed(op, twice * twice / (2.0**(2 * SQUARE_SHIFT) * sy),
                                  SQUARE_LARGEST)]))
    if kind == "mul":
        return "product", (int4_arg([za, zb, zy]), int4_arg(
            fixed(op, ratio([sa, sb], y.quantization), PRODUCT_LARGEST[a.dtype])))
    if kind == "prelu":
        return "prelu", (int4_arg([za, zb, zy]), int4_arg([
            *fixed(op, sa / sy),
            *fixed(op, ratio([sa, sb], y.quantization), PRODUCT_LARGEST[a.dtype])]))
    return "extreme", (int4_arg([za, *fixed(op, sa / sy), kind == "max"]),
                       int4_arg([zb, *fixed(op, sb / sy)]), i32(zy))
