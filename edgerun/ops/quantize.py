"""Conversion between real numbers and quantized integers, and between quantizations."""
from __future__ import annotations

import numpy as np

from edgerun.dtypes import FLOAT, QUANTIZED
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, TensorLike, count, f32, float_types, i32, require,
    require_dtype, require_quantized)
from edgerun.ops._integer import rounding_defines
from edgerun.quantization import clamp, fixed_point

RUN = 4096  # elements a work-item of a CPU converts
LONG = 256  # elements; a work-item with fewer shares a work-group
INTEGERS = (*QUANTIZED, "int32")
SMALLEST = 2.0**-126  # scale: below, fp32 loses bits, or the device flushes to 0
LARGEST = 2.0**14  # ratio of scales: times a difference of 17 bits it still fits into an int32


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
    require_dtype(x, QUANTIZED, op)
    require(dtype in QUANTIZED, op, f"to {dtype}, needed {' or '.join(QUANTIZED)}")
    return [(x.shape, dtype)]


def requantize(op: OpLike, facts: Facts) -> list[Launch]:
    """y = clamp(round((x - x.zero_point) x.scale / y.scale) + y.zero_point).

    x [...] uint8, int8, int16 -> y [...] of `dtype`, uint8, int8 or int16, clamped to its range and
    rounded as y.quantization.rounding says.
    """
    x, y = op.inputs[0], op.outputs[0]
    low, high = clamp(require_quantized(y, op), y.dtype)
    m0, t = rescale(op, x, y)
    return [_launch("rescale", x, y, facts, (
        i32(x.quantization.zero), i32(m0), i32(t), i32(y.quantization.zero), i32(low), i32(high)),
        rounding_defines(y))]


def rescale(op: OpLike, x: TensorLike, y: TensorLike) -> tuple[int, int]:
    """Return the fixed-point number x.scale / y.scale.

    Raises:
        ModelError: x or y has no quantization, or steps of x are so much larger than those of y
            that 2^16 of them do not fit into an int32.
    """
    ratio = require_quantized(x, op).step / require_quantized(y, op).step
    require(ratio < LARGEST, op, f"{x.name} has the scale {x.quantization.step:.3g}, {y.name} "
            f"{y.quantization.step:.3g}: needed a ratio below {LARGEST:.0f}")
    m0, t = fixed_point(ratio, y.quantization.rounding)
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
