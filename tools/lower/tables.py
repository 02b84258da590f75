"""Functions of one quantized tensor as tables: what is computed once for every integer."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.dtypes import numpy_dtype
from edgerun.ops.softmax_integer import exponent_bits
from edgerun.quantization import Quantization, dequantize, fixed_point, limits, quantize
from edgerun.tools.graph import Op, Tensor, full_options
from edgerun.tools.reference import REFERENCE

Function = Callable[[np.ndarray], np.ndarray]

KNOTS = 512  # pieces of an interpolated table
PIECE = 128  # integers in a piece
ERROR = 8  # steps of y by which an interpolated table may be off
# ... or so much at a few bends, if the root of the mean square is as small as if every y were
# rounded a few steps coarser: a bend from slope 0 to 1, as that of a clamp, is 32 steps off.
BENT, ROOT_MEAN_SQUARE = 40, 2.0


def of_bytes(function: Function, x: Quantization, y: Tensor) -> np.ndarray:
    """Return y's integer for every uint8 x.

    Args:
        function: real numbers [256] fp32 -> real numbers.
        x: what the integers mean.
        y: quantized; with rounding "twice" the products are rounded as TFLite's tables are: times
            1 / scale, halves away from zero.
    """
    numbers = dequantize(np.arange(256, dtype=np.uint8), x)
    with np.errstate(all="ignore"):
        values = np.asarray(function(numbers), np.float32)
        if y.quantization.rounding != "twice":
            return quantize(values, y.quantization, y.dtype)
        steps = values * (np.float32(1) / np.float32(y.quantization.step))
    steps = np.copysign(np.floor(np.abs(steps.astype(np.float64)) + 0.5), steps)
    return _stored(np.nan_to_num(steps, nan=0.0, posinf=2.0**31, neginf=-2.0**31), y)


def interpolated(function: Function, x: Quantization, y: Tensor) -> np.ndarray | None:
    """Return the int16 entries [513] that stand for a function of int16 x, at every 128th integer.

    Half of the error in the middle of a piece is taken off its first entry, as TFLite does.

    Args:
        function: real numbers fp64 -> real numbers.
        x: what the integers mean.
        y: int16, quantized.

    Returns:
        None if the function is bent so much that y would be wrong by more than ERROR steps; few may
        be by up to BENT, and where y saturates, if the root of the mean square is at most
        ROOT_MEAN_SQUARE.
    """
    low, _ = limits("int16")
    step = y.quantization.step

    def steps(q: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.clip(np.asarray(function(q * x.step), np.float64) / step, *limits("int16"))

    knots = steps(low + PIECE * np.arange(KNOTS + 1))
    middles = steps(low + PIECE * np.arange(KNOTS) + PIECE // 2)
    exact = steps(np.arange(low, -low))
    if not (np.isfinite(knots).all() and np.isfinite(exact).all()):
        return None
    knots[:-1] -= ((knots[:-1] + knots[1:]) / 2 - middles) / 2
    table = np.clip(np.rint(knots), *limits("int16")).astype(np.int64)
    between = np.arange(PIECE)
    found = table[:-1, None] + ((table[1:] - table[:-1])[:, None] * between + 64 >> 7)
    off = np.abs(found.reshape(-1) - exact)
    cut = np.isin(exact, limits("int16")).reshape(KNOTS, PIECE).any(axis=1)  # where y saturates
    bent = (off.reshape(KNOTS, PIECE)[~cut].max(initial=0) > BENT
            or np.sqrt(np.square(off).mean()) > ROOT_MEAN_SQUARE)
    if off.max() > ERROR and bent:
        return None
    return table.astype(np.int16)


def square(op: Op, x: Quantization, y: Tensor) -> np.ndarray:
    """Return what the product of integers gives for every uint8 x times itself.

    Args:
        op: the unary op, over real numbers.
        x: what the integers mean.
        y: quantized.
    """
    given = Tensor("x", (256,), "uint8", quantization=x)
    product = Op("binary", op.name, [given, given], [y], full_options("binary", {"kind": "mul"}))
    q = np.arange(256, dtype=np.uint8)
    return REFERENCE["binary"](product, q, q).astype(numpy_dtype(y.dtype))


def tflite_interpolated(function: Function, x: Quantization, y: Tensor) -> np.ndarray:
    """Return the int16 entries [513] that TFLite computes (LUTPopulateInt16), in fp32.

    Its pieces are 65535 / 512 integers wide but are read as if they were 128.

    Args:
        function: real numbers fp32 -> real numbers.
        x: what the integers mean.
        y: int16, quantized.
    """
    low, high = limits("int16")
    first, last = (np.float32(x.step) * np.float32(q) for q in (low, high))
    ends = [np.float32(y.quantization.step) * np.float32(q) for q in (low, high)]
    inverse = np.float32(high - low + 1) / (ends[1] - ends[0])
    piece = (last - first) / np.float32(KNOTS)
    at = first + np.arange(KNOTS, dtype=np.float32) * piece
    following = first + np.arange(1, KNOTS + 1, dtype=np.float32) * piece
    with np.errstate(all="ignore"):
        here, middle, there, end = (
            np.nan_to_num(np.asarray(function(numbers), np.float32) * inverse)
            for numbers in (at, at + piece / np.float32(2), following, last[None]))
    between = _nearest((there + _nearest(here)) / np.float32(2))
    knots = _nearest(here) - _nearest((between - _nearest(middle)) / np.float32(2))
    return np.clip(np.append(knots, _nearest(end)), low, high).astype(np.int16)


def _nearest(v: np.ndarray) -> np.ndarray:
    """Return v rounded to whole numbers, halves away from zero."""
    return np.copysign(np.floor(np.abs(v) + np.float32(0.5)), v)


def hard_swish(x: Quantization, y: Tensor) -> np.ndarray:
    """Return what TFLite's kernel of x relu6(x + 3) / 6 gives for every uint8 x: it computes with
    16 bits and rounds four times.

    Args:
        x: what the integers mean.
        y: uint8, quantized.
    """
    wide = np.float32(x.step) / np.float32(128)
    to_y, up_y = _short(wide / np.float32(y.quantization.step))
    to_gate, up_gate = _short(wide / np.float32(3 / 32768))
    value = np.arange(256, dtype=np.int64) - x.zero << 7
    gate = _saturated(value << max(0, up_gate - 1))
    gate = _saturated(_product(gate, to_gate) << min(max(0, up_gate), 1))
    gate = _divided(gate, max(0, -up_gate)) + 32768 >> 1  # 0 to 1 in steps of 2^-15
    product = gate * _product(value, to_y)
    halves = np.sign(product) * (np.abs(product) >> 15)
    return _stored(_divided(halves, -up_y), y)


def _short(multiplier: np.float32) -> tuple[int, int]:
    """Return (m, exponent) with multiplier = m 2^(exponent - 15), m of 15 bits."""
    m0, t = fixed_point(float(multiplier), "short")
    return int(m0) >> 16, 31 - int(t)


def _saturated(v: np.ndarray) -> np.ndarray:
    return np.clip(v, *limits("int16"))


def _product(v: np.ndarray, m: int) -> np.ndarray:
    """Return v m 2^-15, rounded to nearest."""
    return v * m + 2**14 >> 15


def _divided(v: np.ndarray, e: int) -> np.ndarray:
    """Return v 2^-e, rounded to nearest, halves away from zero."""
    return np.sign(v) * (np.abs(v) + (1 << e >> 1) >> e)


def piecewise(op: Op, x: Quantization, y: Tensor) -> np.ndarray:
    """Return what integer arithmetic gives for relu, clip or leaky_relu of every uint8 x.

    Args:
        op: a unary op of one of these kinds, over real numbers.
        x: what the integers mean.
        y: quantized.
    """
    given = Tensor("x", (256,), "uint8", quantization=x)
    integer = Op("unary", op.name, [given], [y], op.options)
    return REFERENCE["unary"](integer, np.arange(256, dtype=np.uint8)).astype(numpy_dtype(y.dtype))


def exponentials(x: Quantization, scale: float, n: int) -> np.ndarray:
    """Return exp(-d scale) of every difference d of uint8 integers, for sums of n: int32 [256]."""
    d = np.arange(256) * x.step * scale
    return np.rint(np.exp(-d) * 2.0**exponent_bits(n)).astype(np.int32)


def _stored(steps: np.ndarray, y: Tensor) -> np.ndarray:
    return np.clip(steps + y.quantization.zero, *limits(y.dtype)).astype(numpy_dtype(y.dtype))
