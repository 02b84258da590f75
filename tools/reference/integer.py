"""Integer arithmetic of the references: exact, in 64 bits, from the definitions in the schema."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.quantization import TWO_STEPS, clamp
from edgerun.tools.graph import Op, Tensor
from edgerun.tools.reference.elementwise import activate


def requantize(acc: np.ndarray, m0: np.ndarray, t: np.ndarray, rounding: str = "once"
               ) -> np.ndarray:
    """Return acc * m0 * 2^-t rounded to integers, int64 (see Rounding in the schema).

    Args:
        acc: int64, any shape, within int32.
        m0, t: broadcast against acc.
        rounding: "once", "short" (the same arithmetic), "twice", "upward" or "single".
    """
    acc, m0, t = (np.asarray(a, np.int64) for a in (acc, m0, t))
    if rounding == "single":
        multiplier = np.ldexp(m0.astype(np.float32), -t)
        return np.rint(acc.astype(np.float32) * multiplier).astype(np.int64)
    if rounding not in TWO_STEPS:
        # acc * m0 has up to 62 bits: the half that is added to it must not carry out of 64
        return (acc * m0 + (np.int64(1) << t - 1)) >> t
    shifted = (acc << np.maximum(0, 31 - t)).astype(np.int32).astype(np.int64)
    high, e = shifted * m0 + 2**30 >> 31, np.maximum(0, t - 31)
    half = (np.int64(1) << e) >> 1
    if rounding == "upward":
        return high + half >> e
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


def finish(op: Op, sums: Callable[..., np.ndarray], x: np.ndarray, w: np.ndarray,
           bias: np.ndarray | None, residual: np.ndarray | None, m0: np.ndarray,
           t: np.ndarray | None) -> np.ndarray:
    """Return y of an op with weights in one of its integer forms (see edgerun/ops/_integer.py).

    Args:
        op: its weights may have a zero point.
        sums: (x, w, zero of the type to sum in) -> sums of products, the last axis the output
            channels.
        x, w, bias, residual, m0, t: its inputs; the last axis of all but x and w is the output
            channels.
    """
    y, quantization = op.outputs[0], op.inputs[1].quantization
    if x.dtype.kind == "f":
        real = sums(x, w, np.float64(0)) * m0.astype(np.float64)
        for term in (bias, residual):
            real = real if term is None else real + term
        return activate(op, real.astype(np.float32))
    zero = quantization.zero if quantization and quantization.axis == -1 else 0
    acc = sums(x.astype(np.int64), w.astype(np.int64) - zero, np.int64(0))
    if bias is not None:
        acc = acc + (bias.astype(np.int64)[0] * 2**16 + bias[1] if op.options["wide"] else bias)
    if t is None:
        return activate(op, acc.astype(np.float32) * m0)
    if not op.options["wide"]:
        return store(op, acc, m0, t, y)
    return store_wide(op, acc, m0, t, y)


def store_wide(op: Op, acc: np.ndarray, m0: np.ndarray, t: np.ndarray, y: Tensor) -> np.ndarray:
    """The same as store() for sums of up to 48 bits, y rounded once and t > 16."""
    # acc * m0 may take more than 64 bits: the low 16 bits of acc are multiplied by themselves
    m0, t = m0.astype(np.int64), t.astype(np.int64)
    low, high = activation_bounds(op, y)
    steps = (acc >> 16) * m0 + ((acc & 0xFFFF) * m0 >> 16) + (np.int64(1) << t - 17) >> t - 16
    return np.clip(steps + y.quantization.zero, low, high)
