"""NumPy reference of padding."""
from __future__ import annotations

import numpy as np

from edgerun.quantization import quantize
from edgerun.tools.graph import Op, Tensor


def _constant(value: float, dtype: np.dtype, x: Tensor) -> np.ndarray:
    if x.quantization is not None:
        return quantize(np.float32(value), x.quantization, x.dtype)
    if dtype.kind in "iu":
        return np.clip(np.rint(value), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    return np.array(value, np.float32).astype(dtype)


def _pad(op: Op, x: np.ndarray) -> np.ndarray:
    width = list(zip(op.options["before"], op.options["after"]))
    if not width:
        return x
    if op.options["mode"] == "constant":
        return np.pad(x, width, constant_values=_constant(
            op.options["value"], x.dtype, op.inputs[0]))
    return np.pad(x, width, op.options["mode"])


REFERENCE = {"pad": _pad}
