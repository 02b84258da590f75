"""NumPy reference of batched matrix products."""
from __future__ import annotations

import numpy as np

from edgerun.quantization import fixed_point
from edgerun.tools.graph import Op
from edgerun.tools.reference import integer
from edgerun.tools.reference.elementwise import activate


def _matmul(op: Op, a: np.ndarray, b: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    if op.options["transpose_a"]:
        a = a.swapaxes(-1, -2)
    if op.options["transpose_b"]:
        b = b.swapaxes(-1, -2)
    if a.dtype.kind == "f":
        return activate(op, np.matmul(a.astype(np.float64), b).astype(np.float32))
    left, right = (tensor.quantization for tensor in op.inputs[:2])
    acc = np.matmul(a.astype(np.int64) - left.zero, b.astype(np.int64) - right.zero)
    if scale is not None:
        return activate(op, acc.astype(np.float32) * scale[0])
    y = op.outputs[0]
    rounding = y.quantization.rounding
    steps = np.array([left.step, right.step, y.quantization.step],
                     np.float32 if rounding == "single" else np.float64)
    store = integer.store_wide if a.dtype == np.int16 else integer.store
    return store(op, acc, *fixed_point(steps[0] * steps[1] / steps[2], rounding), y)


REFERENCE = {"matmul": _matmul}
