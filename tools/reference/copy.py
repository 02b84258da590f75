"""NumPy references of the ops that move elements."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.quantize import requantized


def _slice(op: Op, x: np.ndarray) -> np.ndarray:
    for axis, (start, step, size) in enumerate(
            zip(op.options["starts"], op.options["steps"], op.options["sizes"])):
        x = np.take(x, [start + i * step for i in range(size)], axis)
    return x


def _concat(op: Op, *xs: np.ndarray) -> np.ndarray:
    y = op.outputs[0]
    if y.quantization is not None:
        xs = [x if t.quantization is None or t.quantization.grid == y.quantization.grid
              else requantized(x, t.quantization, y) for x, t in zip(xs, op.inputs)]
    return np.concatenate(xs, op.options["axis"])


def _expand(op: Op, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, op.options["shape"]))


REFERENCE = {
    "reshape": lambda op, x: x.reshape(op.options["shape"]),
    "transpose": lambda op, x: np.transpose(x, op.options["perm"]),
    "slice": _slice,
    "concat": _concat,
    "expand": _expand,
    "tile": lambda op, x: np.tile(x, op.options["repeats"]),
}
