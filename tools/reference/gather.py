"""NumPy references of the ops that pick elements."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op


def _gather(op: Op, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = op.options["axis"]
    n = x.shape[axis]
    return np.take(x, np.clip(np.where(indices < 0, indices + n, indices), 0, n - 1), axis)


REFERENCE = {"gather": _gather, "where": lambda op, condition, a, b: np.where(condition, a, b)}
