"""NumPy references of the normalizations."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.real import on_numbers


def _normalize(op: Op, x: np.ndarray, axes: tuple[int, ...], gamma: np.ndarray | None,
               beta: np.ndarray | None) -> np.ndarray:
    x = x.astype(np.float64)
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(
        x.var(axes, keepdims=True) + op.options["epsilon"])
    return y * (1 if gamma is None else gamma) + (0 if beta is None else beta)


def _layer_norm(op: Op, x: np.ndarray, gamma: np.ndarray | None = None,
                beta: np.ndarray | None = None) -> np.ndarray:
    return _normalize(op, x, tuple(range(op.options["axis"] % x.ndim, x.ndim)), gamma, beta)


def _instance_norm(op: Op, x: np.ndarray, gamma: np.ndarray | None = None,
                   beta: np.ndarray | None = None) -> np.ndarray:
    return _normalize(op, x, tuple(range(1, x.ndim - 1)), gamma, beta)


def _l2_normalize(op: Op, x: np.ndarray) -> np.ndarray:
    squares = np.sum(x.astype(np.float64) ** 2, -1, keepdims=True)
    return x / np.sqrt(np.maximum(squares, op.options["epsilon"]))


def round_rows(x: np.ndarray, levels: int) -> np.ndarray:
    """Return x rounded to multiples of the largest magnitude of its row / levels, halves away from
    0. The quotients are those of fp32."""
    most = np.abs(x).max(-1, keepdims=True).astype(np.float32)
    inverse = np.where(most > 0, np.float32(levels) / np.where(most > 0, most, 1), 0)
    steps = np.abs(x.astype(np.float32) * inverse.astype(np.float32)).astype(np.float64)
    return np.sign(x) * np.floor(steps + 0.5) * (most / np.float32(levels))


def _round_rows(op: Op, x: np.ndarray) -> np.ndarray:
    return round_rows(x, 127)


REFERENCE = {"round_rows": _round_rows,
             "layer_norm": on_numbers(_layer_norm),
             "instance_norm": on_numbers(_instance_norm),
             "l2_normalize": on_numbers(_l2_normalize)}
