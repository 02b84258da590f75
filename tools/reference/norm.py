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


REFERENCE = {"layer_norm": on_numbers(_layer_norm),
             "instance_norm": on_numbers(_instance_norm),
             "l2_normalize": on_numbers(_l2_normalize)}
