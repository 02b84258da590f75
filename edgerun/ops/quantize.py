"""Conversion between real numbers and quantized integers, and between quantizations."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.dtypes import FLOAT, QUANTIZED
from edgerun.ops._base import (
    OUTPUT, Facts, Launch, OpLike, Outputs, TensorLike, count, f32, float_types, i32, int4_arg,
    lanes_within, pitch_of, require, require_dtype, require_quantized)
from edgerun.ops._integer import ACTIVATIONS, rounding_defines
from edgerun.quantization import clamp, fixed_point, ratio

RUN = 4096  # elements a work-item of a CPU converts
LONG = 256  # elements; a work-item with fewer shares a work-group
INTEGERS = (*QUANTIZED, "int32")
# unary kind -> (alpha, beta) -> the least and largest number
CLAMPS = {"relu": lambda alpha, beta: (0.0, np.inf), "clip": lambda alpha, beta: (alpha, beta)}
SMALLEST = 2.0**-126  # scale: below, fp32 loses bits, or the device flushes to 0
LARGEST = 2.0**14  # ratio of scales: times a difference of 17 bits it still fits into an int32
LARGEST_INT32 = 0.5  # the same for an int32: the result leaves room for a zero point


def infer_quantize(op: OpLike) -> Outputs:
    """y has the shape of x and the dtype of the option."""
    x, dtype = op.inputs[0], op.options["dtype"]
    require_dtype(x, FLOAT, op)
    require(dtype in INTEGERS, op, f"to {dtype}, needed {' or '.join(INTEGERS)}")
    return [(x.shape, dtype)]


def quantize(op: OpLike, facts: Facts) -> list[Launch]:
    """y = clamp(round(x / scale) + zero_point) to the range of `dtype`, halves to even.

    x [...] fp32, fp16 -> y [...] uint8, int8, int16, int32; scale and zero_point are those of y.
    The quotient is the correctly rounded fp32 one; NaN becomes the zero point.
    """
    x, y = op.inputs[0], op.outputs[0]
    quantization = require_quantized(y, op)
    require(SMALLEST <= quantization.step < 1 / SMALLEST, op,
            f"{y.name} has the scale {quantization.step:.3g}, needed {SMALLEST:.3g} to "
            f"{1 / SMALLEST:.3g}")
    # x / scale = (x * factor) / divisor, the divisor between 1 and 2: nothing on the way to a
    # quotient that matters overflows or loses bits
    _, exponent = np.frexp(quantization.step)
    factor, divisor = np.ldexp(1.0, 1 - exponent), np.ldexp(quantization.step, 1 - exponent)
    if y.dtype == "int32":
        _require_no_zero(y, op)
        low = high = 0.0
    else:
        low, high = (end - quantization.zero for end in clamp(quantization, y.dtype))
    return [_launch("quantize", x, y, facts,
                    (f32(factor), f32(divisor), f32(1.0 / np.float32(divisor)), f32(low),
                     f32(high), i32(quantization.zero)))]


def infer_dequantize(op: OpLike) -> Outputs:
    """y has the shape of x, the integers of a quantization, and the dtype of the option."""
    x, dtype = op.inputs[0], op.options["dtype"]
    require_dtype(x, INTEGERS, op)
    require(x.quantization is not None, op, f"{x.name} is {x.dtype}, needed a quantization")
    require(dtype in FLOAT, op, f"to {dtype}, needed {' or '.join(FLOAT)}")
    return [(x.shape, dtype)]


def dequantize(op: OpLike, facts: Facts) -> list[Launch]:
    """y = scale (x - zero_point), rounded once.

    x [...] uint8, int8, int16, int32, scale and zero_point its own -> y [...] fp32, fp16. A
    constant may have one scale per index of an axis: the packer folds those.
    """
    x, y = op.inputs[0], op.outputs[0]
    quantization = require_quantized(x, op)
    if x.dtype == "int32":
        _require_no_zero(x, op)
    return [_launch("dequantize", x, y, facts,
                    (f32(quantization.step), i32(quantization.zero)))]


def infer_requantize(op: OpLike) -> Outputs:
    """y has the shape of x and the dtype of the option."""
    x, dtype = op.inputs[0], op.options["dtype"]
    require_dtype(x, INTEGERS, op)
    require(dtype in INTEGERS, op, f"to {dtype}, needed {' or '.join(INTEGERS)}")
    return [(x.shape, dtype)]


def requantize(op: OpLike, facts: Facts) -> list[Launch]:
    """y = clamp(round((x - x.zero_point) x.scale / y.scale) + y.zero_point).

    x [...] uint8, int8, int16, int32 -> y [...] of `dtype`, one of these, clamped to its range and
    rounded as y.quantization.rounding says. An int32 has the zero point 0, and the steps of y are
    at least twice those of an int32 x.
    """
    x, y = op.inputs[0], op.outputs[0]
    low, high = clamp(require_quantized(y, op), y.dtype)
    multiplier = require_quantized(x, op).step / y.quantization.step
    for tensor in (x, y):
        if tensor.dtype == "int32":
            _require_no_zero(tensor, op)
    return _rescale(op, facts, low, high, multiplier,
                    largest=LARGEST_INT32 if x.dtype == "int32" else LARGEST)


def is_quantized(x: TensorLike) -> bool:
    """Whether a tensor holds quantized activations."""
    return x.dtype in ACTIVATIONS and x.quantization is not None


def infer_unary(op: OpLike) -> Outputs:
    """y has the shape and dtype of x (mixed: see OpDef)."""
    x, kind = op.inputs[0], op.options["kind"]
    require_quantized(x, op)
    require(kind in CLAMPS or kind == "leaky_relu", op,
            f"has no kind {kind!r} for quantized {x.dtype}, known are {', '.join(CLAMPS)}, "
            "leaky_relu; others are tables")
    require(kind != "leaky_relu" or op.options["alpha"] >= 0, op,
            f"alpha is {op.options['alpha']}, needed at least 0 for integers")
    return [(x.shape, x.dtype)]


def unary(op: OpLike, facts: Facts) -> list[Launch]:
    """Return the launch of a unary op over quantized integers (see elementwise.unary)."""
    x, y, kind, alpha = op.inputs[0], op.outputs[0], op.options["kind"], op.options["alpha"]
    require_dtype(y, ACTIVATIONS, op)
    given, wanted = require_quantized(x, op), require_quantized(y, op)
    ends = CLAMPS[kind](alpha, op.options["beta"]) if kind in CLAMPS else ()
    low, high = clamp(wanted, y.dtype, *ends)
    factors = [[given.step]] if kind in CLAMPS else [[given.step], [given.step, alpha]]
    return _rescale(op, facts, low, high, *(ratio(f, wanted) for f in factors))


def _rescale(op: OpLike, facts: Facts, low: int, high: int, *multipliers: float,
             largest: float = LARGEST) -> list[Launch]:
    """Return the launch that brings x to the grid of y; a second multiplier is for negative x."""
    x, y = op.inputs[0], op.outputs[0]
    args = [x.quantization.zero, y.quantization.zero, *fixed(op, multipliers[0], largest), low,
            high]
    if x.pitch or y.pitch:
        rows = count(x.shape[:-1])
        return [_in_rows(x, y, rows, 0, pitch_of(y), facts, args)]
    for multiplier in multipliers[1:]:
        args += fixed(op, multiplier, largest)
    return [_launch("leaky_relu" if multipliers[1:] else "rescale", x, y, facts,
                    tuple(map(i32, args)), rounding_defines(y))]


def rows_apart(op: OpLike) -> tuple[int, ...]:
    """Return the operands of a requantize, or of a clamp of integers, whose rows may lie apart."""
    return (0, OUTPUT) if op.code == "requantize" or op.options["kind"] in CLAMPS else ()


def same_grid(x: TensorLike, y: TensorLike) -> bool:
    """Whether integers of x are copied to y: both mean the same numbers, or one has no meaning."""
    return (not is_quantized(x) or y.quantization is None
            or x.quantization.grid == y.quantization.grid)


def requantize_rows(op: OpLike, x: TensorLike, rows: int, start: int, step: int, facts: Facts
                    ) -> Launch:
    """Return the launch that brings x to the grid of the op's output, as rows that lie apart in it.

    Args:
        op: its output has the dtype of x.
        x: quantized.
        rows: that it is cut into.
        start, step: elements of y before the first row, and from one row to the next.
    """
    y = op.outputs[0]
    low, high = clamp(require_quantized(y, op), y.dtype)
    args = (x.quantization.zero, y.quantization.zero,
            *fixed(op, require_quantized(x, op).step / y.quantization.step), low, high)
    return _in_rows(x, y, rows, start, step, facts, args)


def _in_rows(x: TensorLike, y: TensorLike, rows: int, start: int, step: int, facts: Facts,
             args: Sequence[int]) -> Launch:
    width = count(x.shape) // rows
    vec = lanes_within(width, facts)
    run, each = ((min(width, RUN), min(rows, max(1, RUN // width))) if facts.kind == "cpu"
                 else (vec, 1))
    return Launch("quantize", "rescale_rows",
                  {"VEC": vec, **float_types(x, y), **rounding_defines(y)},
                  (-(-width // run), -(-rows // each), 1),
                  (x, y, int4_arg([width, rows, run, each]), i32(x.pitch or width), i32(start),
                   i32(step),
                   *map(i32, args)), facts.one if run * each >= LONG else None)


def requantize_pairs(op: OpLike, n: int, facts: Facts) -> Launch:
    """Return the launch that brings the op's two inputs of n elements to the grid of its output, in
    turns.
    """
    (a, b), y = op.inputs, op.outputs[0]
    low, high = clamp(require_quantized(y, op), y.dtype)
    ends = [int4_arg([require_quantized(x, op).zero,
                      *fixed(op, x.quantization.step / y.quantization.step)]) for x in (a, b)]
    run = RUN // 2 if facts.kind == "cpu" else facts.lanes
    return Launch("quantize", "interleave",
                  {"VEC": facts.lanes, **float_types(a, y), **rounding_defines(y)},
                  (-(-n // run), 1, 1),
                  (a, b, y, i32(n), i32(run), *ends, int4_arg([y.quantization.zero, low, high])),
                  facts.one if n >= LONG else None)


def fixed(op: OpLike, multiplier: float, largest: float = LARGEST) -> tuple[int, int]:
    """Return the fixed-point number (m0, t) by which an op brings integers to the grid of y.

    Raises:
        ModelError: it is so large that results might not fit into an int32.
    """
    y = op.outputs[0]
    require(multiplier < largest, op,
            f"the scale of {y.name} is {y.quantization.step:.3g}, too small: its multiplier is "
            f"{multiplier:.3g}, needed less than {largest:g}")
    if multiplier == 0:
        return 0, 62
    m0, t = fixed_point(multiplier, y.quantization.rounding)
    return int(m0), int(t)


def _require_no_zero(tensor: TensorLike, op: OpLike) -> None:
    require(tensor.quantization.zero == 0, op,
            f"{tensor.name} is int32 with the zero point {tensor.quantization.zero}, needed 0")


def _launch(kernel: str, x: TensorLike, y: TensorLike, facts: Facts, args: tuple,
            defines: dict[str, int] | None = None) -> Launch:
    n = count(x.shape)
    run = RUN if facts.kind == "cpu" else facts.lanes
    return Launch("quantize", kernel, {"VEC": facts.lanes, **float_types(x, y), **(defines or {})},
                  (-(-n // run), 1, 1), (x, y, i32(n), i32(run), *args),
                  facts.one if n >= LONG else None)
