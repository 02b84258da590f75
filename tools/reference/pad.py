"""NumPy reference of padding."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op


def _constant(value: float, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        return np.clip(np.rint(value), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    return np.array(value, np.float32).astype(dtype)


def _pad(op: Op, x: np.ndarray) -> np.ndarray:
    width = list(zip(op.options["before"], op.options["after"]))
    if not width:
        return x
    if op.options["mode"] == "constant":
        return np.pad(x, width, constant_values=_constant(op.options["value"], x.dtype))
    return np.pad(x, width, op.options["mode"])


REFERENCE = {"pad": _pad}
