"""NumPy reference of softmax."""
from __future__ import annotations

import numpy as np
from scipy import special

from edgerun.quantization import limits
from edgerun.tools.graph import Op
from edgerun.tools.reference.real import on_numbers


def _softmax(op: Op, x: np.ndarray) -> np.ndarray:
    function = special.log_softmax if op.options["log"] else special.softmax
    return function(x * np.float32(op.options["scale"]), op.options["axis"] if x.ndim else None)


def _exact(op: Op, x: np.ndarray, exponentials: np.ndarray) -> np.ndarray:
    axis, y = op.options["axis"], op.outputs[0]
    x, table = np.atleast_1d(x).astype(np.int64), exponentials.astype(np.int64)
    e = table[x.max(axis, keepdims=True) - x]
    total = e.sum(axis, keepdims=True)
    shares = e.astype(np.float32) / total.astype(np.float32)
    steps = np.rint(shares * (np.float32(1) / np.float32(y.quantization.step)))
    return np.clip(steps.astype(np.float64) + y.quantization.zero, *limits(y.dtype))


def _either(op: Op, x: np.ndarray, exponentials: np.ndarray | None = None) -> np.ndarray:
    return on_numbers(_softmax)(op, x) if exponentials is None else _exact(op, x, exponentials)


REFERENCE = {"softmax": _either}
