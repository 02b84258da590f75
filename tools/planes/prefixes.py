"""Scales and offsets of every prefix of planes: least squares against the weights they stand for.

A prefix of t planes drops bits - t of them. In two's complement that rounds down, which is half a
step on average: an offset near 1/2 makes up for it (the dual precision design of section 2 of the
notes on published systems). Here both are fitted, per output channel and prefix, to the weights.
"""
from __future__ import annotations

import numpy as np

from edgerun.tools.planes.integers import cut

FLAT = 1e-12  # variance of codes, in steps squared, that tells nothing of a scale


def derive(q: np.ndarray, bits: int, signs: str, weights: np.ndarray, axis: int = 0,
           scale: np.ndarray | float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return scale[t] and offset[t] for which scale[t] * (q_t + offset[t]) is nearest to weights.

    Args:
        q: integers of `bits` planes.
        bits, signs: see edgerun.tools.planes.codes.
        weights: real, the shape of q.
        axis: of the output channels.
        scale: [OC], of all planes: its sign is kept, and it is that of channels and prefixes whose
            codes are all the same; default 1.

    Returns:
        fp64 [bits + 1, OC] each; row 0 is 0.
    """
    q = np.moveaxis(np.asarray(q, np.int32), axis, 0).reshape(q.shape[axis], -1)
    w = np.moveaxis(np.asarray(weights, np.float64), axis, 0).reshape(q.shape)
    full = np.broadcast_to(np.asarray(1.0 if scale is None else scale, np.float64), len(q))
    scales, offsets = np.zeros((2, bits + 1, len(q)))
    mean = w.mean(axis=1)
    for t in range(1, bits + 1):
        codes = cut(q, bits, t, signs).astype(np.float64)
        middle = codes.mean(axis=1)
        centred = codes - middle[:, None]
        variance = np.square(centred).mean(axis=1)
        slope = np.divide((centred * w).mean(axis=1), variance, where=variance > FLAT,
                          out=full * 2.0 ** (bits - t))
        slope = np.where(slope * full > 0, slope, full * 2.0 ** (bits - t))
        scales[t], offsets[t] = slope, mean / slope - middle
    return scales, offsets
