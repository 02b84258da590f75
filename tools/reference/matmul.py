"""NumPy reference of batched matrix products."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate


def _matmul(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if op.options["transpose_a"]:
        a = a.swapaxes(-1, -2)
    if op.options["transpose_b"]:
        b = b.swapaxes(-1, -2)
    return activate(op, np.matmul(a.astype(np.float64), b).astype(np.float32))


REFERENCE = {"matmul": _matmul}
