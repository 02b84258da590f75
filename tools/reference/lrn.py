"""NumPy reference of local response normalization."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.real import on_numbers


def _lrn(op: Op, x: np.ndarray) -> np.ndarray:
    o, squares, channels = op.options, x.astype(np.float64) ** 2, x.shape[-1]
    total = np.empty_like(squares)
    for c in range(channels):
        first = max(0, c - (o["size"] - 1) // 2)
        total[..., c] = squares[..., first:c + o["size"] // 2 + 1].sum(axis=-1)
    return (x / (o["bias"] + o["alpha"] / o["size"] * total) ** o["beta"]).astype(np.float32)


REFERENCE = {"lrn": on_numbers(_lrn)}
