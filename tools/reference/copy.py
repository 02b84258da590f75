"""NumPy references of the ops that move elements."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op


def _slice(op: Op, x: np.ndarray) -> np.ndarray:
    for axis, (start, step, size) in enumerate(
            zip(op.options["starts"], op.options["steps"], op.options["sizes"])):
        x = np.take(x, [start + i * step for i in range(size)], axis)
    return x


def _expand(op: Op, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, op.options["shape"]))


REFERENCE = {
    "reshape": lambda op, x: x.reshape(op.options["shape"]),
    "transpose": lambda op, x: np.transpose(x, op.options["perm"]),
    "slice": _slice,
    "concat": lambda op, *xs: np.concatenate(xs, op.options["axis"]),
    "expand": _expand,
    "tile": lambda op, x: np.tile(x, op.options["repeats"]),
}
