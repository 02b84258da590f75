"""Quantize float weights to planes: symmetric, clipped where the error of prefixes is least.

PrecisionBatching (arXiv 2003.00822) rounds magnitudes to bits of a fixed-point number: it wastes a
bit of magnitude, has no code for 0 and clips nothing unless told to. Here weights are rounded to
nearest on a grid per output channel whose step is searched, and every prefix of the planes has a
scale and an offset of its own; tests/tools/test_planes.py compares the errors.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.tools.planes.codes import Planes
from edgerun.tools.planes.integers import bounds, check, cut
from edgerun.tools.planes.prefixes import derive

RATIOS = np.geomspace(1.0, 0.2, 33)  # of the largest weight of a channel, tried as clipping bounds
ENOUGH = 4096  # weights of a channel, evenly spread, that the search looks at
AT_ONCE = 2**17  # weights that the search looks at together: what it computes stays in the cache
TINY = 1e-30


def quantize(weights: np.ndarray, bits: int, signs: str = "twos",
             prefixes: Sequence[int] | None = None, axis: int = 0) -> tuple[np.ndarray, Planes]:
    """Return codes of float weights and what they mean.

    The step of each output channel minimizes the product over the prefixes of the mean squared
    error that is left when scale and offset of the prefix are fitted: no prefix gains by what loses
    another one a larger factor.

    Args:
        weights: real, any shape.
        bits: planes (signs "pairs": pairs), at least 1.
        signs: key of integers.MOST.
        prefixes: numbers of planes that count; default all from 2 on.
        axis: of the output channels.

    Returns:
        int8 or int16 codes in the shape of the weights, and their Planes.

    Raises:
        ModelError: there are no so many planes.
    """
    check(bits, signs)
    rows = np.moveaxis(np.asarray(weights, np.float64), axis, 0).reshape(weights.shape[axis], -1)
    wanted = sorted({t for t in prefixes or range(2, bits + 1) if 0 < t <= bits} or {bits})
    top = np.maximum(np.abs(rows).max(axis=1), TINY)
    low, high = bounds(bits, signs)
    q = np.empty(rows.shape, np.int8 if high < 128 else np.int16)
    scales, offsets = np.empty((2, bits + 1, len(rows)))
    looked_at = spread(rows.shape[1])
    at_once = max(1, AT_ONCE // len(looked_at))
    for start in range(0, len(rows), at_once):
        some = slice(start, start + at_once)
        step = _steps(rows[some][:, looked_at], top[some], bits, signs, wanted)
        q[some] = np.clip(np.rint(rows[some] / step[:, None]), low, high)
        scales[:, some], offsets[:, some] = derive(q[some], bits, signs, rows[some], 0, step)
    moved = np.moveaxis(weights, axis, 0).shape
    return (np.ascontiguousarray(np.moveaxis(q.reshape(moved), 0, axis)),
            Planes.of(signs, scales, offsets, axis))


def spread(count: int) -> np.ndarray:
    """Return the indices of up to ENOUGH of so many weights, evenly spread.

    The distances differ by one: with a whole distance, of channels-last weights whose channels are
    a multiple of it, only some input channels would be seen.
    """
    return np.linspace(0, count - 1, min(count, ENOUGH)).round().astype(np.intp)


def _steps(rows: np.ndarray, top: np.ndarray, bits: int, signs: str, prefixes: Sequence[int]
           ) -> np.ndarray:
    """Return the best step of each row."""
    low, high = bounds(bits, signs)
    unit = top / max(high, 1 if signs != "twos" else 0.5)  # one bit: codes -1 and 0
    centred = rows - rows.mean(axis=1, keepdims=True)
    variance = _mean(centred, centred)
    best, least = unit, None
    for ratio in RATIOS:
        step = unit * ratio
        q = np.clip(np.rint(rows / step[:, None]), low, high).astype(np.int32)
        error = np.zeros(len(rows))
        for t in prefixes:
            error += np.log(left_over(cut(q, bits, t, signs), centred, variance) + TINY)
        if least is None:
            least = error
        better = error < least
        best, least = np.where(better, step, best), np.minimum(error, least)
    return best


def left_over(codes: np.ndarray, centred: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each row when the best scale and offset are used.

    That is var(w) - cov(w, q)^2 / var(q).

    Args:
        codes: q, integers.
        centred: w, less the mean of its row; variance: of each row.
    """
    codes = codes.astype(np.float64)  # sums of integers are exact
    own = _mean(codes, codes) - np.square(codes.mean(axis=1))
    explained = np.divide(np.square(_mean(codes, centred)), own, where=own > 0,
                          out=np.zeros(len(codes)))
    return np.maximum(variance - explained, 0.0)


def _mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean product of each row."""
    return np.einsum("ij,ij->i", a, b) / a.shape[1]
