"""Integer arithmetic of the references: exact, in 64 bits, from the definitions in the schema."""
from __future__ import annotations

import numpy as np

from edgerun.quantization import clamp
from edgerun.tools.graph import Op, Tensor


def requantize(acc: np.ndarray, m0: np.ndarray, t: np.ndarray, rounding: str = "once"
               ) -> np.ndarray:
    """Return acc * m0 * 2^-t rounded to integers, int64 (see Rounding in the schema).

    Args:
        acc: int64, any shape, within int32.
        m0, t: broadcast against acc.
        rounding: "once", "short" (the same arithmetic), or "twice".
    """
    acc, m0, t = (np.asarray(a, np.int64) for a in (acc, m0, t))
    if rounding != "twice":
        # acc * m0 has up to 62 bits: the half that is added to it must not carry out of 64
        return (acc * m0 + (np.int64(1) << t - 1)) >> t
    shifted = (acc << np.maximum(0, 31 - t)).astype(np.int32).astype(np.int64)
    high, e = shifted * m0 + 2**30 >> 31, np.maximum(0, t - 31)
    half = (np.int64(1) << e) >> 1
    return np.where(high >= 0, high + half >> e, -(-high + half >> e))


def activation_bounds(op: Op, y: Tensor) -> tuple[int, int]:
    """Return the integers between which a fused clamp leaves y.

    Raises:
        ValueError: the activation is not a clamp.
    """
    kind, alpha, beta = op.options["activation"], op.options["alpha"], op.options["beta"]
    if kind == "":
        return clamp(y.quantization, y.dtype)
    if kind == "relu":
        return clamp(y.quantization, y.dtype, 0.0)
    if kind == "clip":
        return clamp(y.quantization, y.dtype, alpha, beta)
    raise ValueError(f"{kind} is not a clamp")


def store(op: Op, acc: np.ndarray, m0: np.ndarray, t: np.ndarray, y: Tensor) -> np.ndarray:
    """Return what an integer op stores: requantized, the zero point added, clamped."""
    low, high = activation_bounds(op, y)
    steps = requantize(acc, m0, t, y.quantization.rounding) + y.quantization.zero
    return np.clip(steps, low, high)
