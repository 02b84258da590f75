"""NumPy reference of pooling."""
from __future__ import annotations

import numpy as np

from edgerun.ops.pool import multiplier
from edgerun.tools.graph import Op
from edgerun.tools.reference.integer import activation_bounds, requantize
from edgerun.tools.reference.elementwise import activate


def _taps(start: int, kernel: int, dilation: int, low: int, high: int) -> list[int]:
    return [at for at in range(start, start + kernel * dilation, dilation) if low <= at < high]


def _divide(a: np.ndarray, c: int) -> np.ndarray:
    """Return a / c rounded to integers, halves away from zero."""
    return np.sign(a) * ((2 * np.abs(a) + c) // (2 * c))


def _average(op: Op, total: np.ndarray, taps: int, counted: int) -> np.ndarray:
    """Return the quantized average of a sum of `taps` integers divided by `counted`."""
    x, y = op.inputs[0].quantization, op.outputs[0].quantization
    m0, t, bits = multiplier(op)
    if x.grid == y.grid:
        origin = op.options["origin"]
        padded = total + (counted - taps) * x.zero
        if y.rounding == "single":
            return np.rint(padded / counted)  # halves are exact in fp64
        return origin + _divide(padded - counted * origin, counted)
    return y.zero + _divide(requantize(total - taps * x.zero, m0, t), counted << bits)


def _pool2d(op: Op, x: np.ndarray) -> np.ndarray:
    o = op.options
    height, width = x.shape[1:3]
    integers = x.dtype.kind in "iu"
    y = np.empty(op.outputs[0].shape, np.int64 if integers else np.float32)
    least = np.iinfo(x.dtype).min if integers else -np.inf
    for oh, ow in np.ndindex(*y.shape[1:3]):
        vertical = (oh * o["stride_h"] - o["pad_top"], o["kernel_h"], o["dilation_h"])
        horizontal = (ow * o["stride_w"] - o["pad_left"], o["kernel_w"], o["dilation_w"])
        rows, columns = _taps(*vertical, 0, height), _taps(*horizontal, 0, width)
        window = x[:, rows][:, :, columns].astype(np.int64 if integers else np.float64)
        if o["kind"] == "max":
            y[:, oh, ow] = window.max(axis=(1, 2), initial=least)
        else:
            counted = len(rows) * len(columns)
            if o["count_include_pad"]:
                counted = (len(_taps(*vertical, -o["pad_top"], height + o["pad_bottom"]))
                           * len(_taps(*horizontal, -o["pad_left"], width + o["pad_right"])))
            total, counted = window.sum(axis=(1, 2)), max(counted, 1)
            y[:, oh, ow] = (_average(op, total, len(rows) * len(columns), counted) if integers
                            else total / counted)
    return np.clip(y, *activation_bounds(op, op.outputs[0])) if integers else activate(op, y)


REFERENCE = {"pool2d": _pool2d}
