"""NumPy references of elementwise ops over quantized integers, in 64 bits."""
from __future__ import annotations

import numpy as np

from edgerun.quantization import clamp, fixed_point, ratio, weighted_sum
from edgerun.tools.graph import Op, Tensor
from edgerun.tools.reference import elementwise
from edgerun.tools.reference.integer import activation_bounds, requantize

SUM_SHIFT = {"uint8": 20, "int16": 15}


def _scaled(op: Op, v: np.ndarray, multiplier: float) -> np.ndarray:
    rounding = op.outputs[0].quantization.rounding
    return requantize(v, *fixed_point(multiplier, rounding), rounding)


def _to_twice(op: Op, v: np.ndarray, x: Tensor, shift: int) -> np.ndarray:
    """Return a difference in units of 2^-shift times twice the larger scale of both operands."""
    twice = 2 * max(t.quantization.step for t in op.inputs)
    return _scaled(op, v << shift, x.quantization.step / twice)


def _steps(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the result in steps of y, a and b less their zero points."""
    (x, z), y, kind = op.inputs, op.outputs[0], op.options["kind"]
    sa, sb, sy = (t.quantization.step for t in (x, z, y))
    twice = 2 * max(sa, sb)
    if kind in ("add", "sub"):
        sign = 1 if kind == "add" else -1
        if x.dtype == "uint8" and y.quantization.rounding != "twice":
            (ma, mb), k = weighted_sum([sa / sy, sign * sb / sy], 255)
            return a * ma + b * mb + 2**(k - 1) >> k
        shift = SUM_SHIFT[x.dtype]
        total = _to_twice(op, a, x, shift) + sign * _to_twice(op, b, z, shift)
        return _scaled(op, total, twice / (2.0**shift * sy))
    if kind == "squared_difference":
        difference = _to_twice(op, a, x, 7) - _to_twice(op, b, z, 7)
        return _scaled(op, difference**2, twice**2 / (2.0**14 * sy))
    if kind == "mul":
        return _scaled(op, a * b, ratio([sa, sb], y.quantization))
    if kind == "prelu":
        below = _scaled(op, a * b, ratio([sa, sb], y.quantization))
        return np.where(a < 0, below, _scaled(op, a, sa / sy))
    choose = np.minimum if kind == "min" else np.maximum
    return choose(_scaled(op, a, sa / sy), _scaled(op, b, sb / sy))


def _binary(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if op.inputs[0].quantization is None:
        return elementwise.REFERENCE["binary"](op, a, b)
    a, b = (v.astype(np.int64) - t.quantization.zero for v, t in zip((a, b), op.inputs))
    y = op.outputs[0]
    return np.clip(_steps(op, a, b) + y.quantization.zero, *activation_bounds(op, y))


def _unary(op: Op, x: np.ndarray) -> np.ndarray:
    (given, *_), y = op.inputs, op.outputs[0]
    if given.quantization is None or x.dtype == np.int32:
        return elementwise.REFERENCE["unary"](op, x)
    kind, alpha, beta = (op.options[key] for key in ("kind", "alpha", "beta"))
    alpha, beta = float(np.float32(alpha)), float(np.float32(beta))  # as in the file
    factor = given.quantization.step
    x = x.astype(np.int64) - given.quantization.zero
    steps = _scaled(op, x, ratio([factor], y.quantization))
    if kind == "leaky_relu":
        below = _scaled(op, x, ratio([factor, alpha], y.quantization)) if alpha else 0
        steps = np.where(x >= 0, steps, below)
    ends = {"relu": (0.0,), "clip": (alpha, beta)}.get(kind, ())
    return np.clip(steps + y.quantization.zero, *clamp(y.quantization, y.dtype, *ends))


REFERENCE = {"binary": _binary, "unary": _unary}
