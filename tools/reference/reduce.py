"""NumPy references of the reductions."""
from __future__ import annotations

import numpy as np
from scipy import special

from edgerun.ops.reduce import sum_steps
from edgerun.quantization import clamp
from edgerun.tools.graph import Op
from edgerun.tools.reference.integer import requantize
from edgerun.tools.reference.real import on_numbers

# kind -> function of x (fp64 or an integer dtype) and the axes, which keeps the dimensions
REDUCE = {
    "sum": lambda x, axes: np.sum(x, axes, dtype=x.dtype, keepdims=True),
    "mean": lambda x, axes: np.mean(x, axes, dtype=x.dtype, keepdims=True),
    "max": lambda x, axes: np.max(x, axes, keepdims=True),
    "min": lambda x, axes: np.min(x, axes, keepdims=True),
    "prod": lambda x, axes: np.prod(x, axes, dtype=x.dtype, keepdims=True),
    "l1": lambda x, axes: np.sum(np.abs(x), axes, dtype=x.dtype, keepdims=True),
    "l2": lambda x, axes: np.sqrt(np.sum(x * x, axes, keepdims=True)),
    "sum_square": lambda x, axes: np.sum(x * x, axes, dtype=x.dtype, keepdims=True),
    "log_sum": lambda x, axes: np.log(np.sum(x, axes, keepdims=True)),
    "log_sum_exp": lambda x, axes: special.logsumexp(x, axes, keepdims=True),
}


def _reduce(op: Op, x: np.ndarray) -> np.ndarray:
    if op.inputs[0].quantization is None:
        return _reduce_numbers(op, x)
    if op.options["kind"] not in ("sum", "mean"):
        return on_numbers(_reduce_numbers)(op, x)
    y, axes = op.outputs[0], tuple(op.options["axes"])
    zero, m0, t, base = sum_steps(op)
    total = (x.astype(np.int64) - zero).sum(axes)
    steps = requantize(total, m0, t, y.quantization.rounding) + base
    return np.clip(steps, *clamp(y.quantization, y.dtype)).reshape(y.shape)


def _reduce_numbers(op: Op, x: np.ndarray) -> np.ndarray:
    axes = tuple(op.options["axes"])
    if x.dtype.kind == "f":
        x = x.astype(np.float64)  # along other axes than the last one NumPy adds one by one
    y = REDUCE[op.options["kind"]](x, axes)
    return y if op.options["keep_dims"] else y.reshape(
        [n for axis, n in enumerate(x.shape) if axis not in axes])


def _arg(op: Op, x: np.ndarray) -> np.ndarray:
    axis = op.options["axis"]
    x = x if x.ndim else x.reshape(1)
    function = {"max": np.argmax, "min": np.argmin}[op.options["kind"]]
    if op.options["last"]:
        y = x.shape[axis] - 1 - function(np.flip(x, axis), axis)
    else:
        y = function(x, axis)
    return np.expand_dims(y, axis) if op.options["keep_dims"] else y


REFERENCE = {"reduce": _reduce, "arg": _arg}
