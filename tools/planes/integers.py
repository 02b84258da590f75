"""Integers of which the most significant planes are coarser integers."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.errors import ModelError
from edgerun.ops.planes import LARGEST_POWER

SIGNS = ("twos", "magnitude", "pairs")
MOST = {"twos": 8, "magnitude": 9, "pairs": 8}  # planes; with "pairs" pairs of them
LEAST = {"twos": 1, "magnitude": 2, "pairs": 1}  # that say anything; 0 is legal too


def bounds(bits: int, signs: str) -> tuple[int, int]:
    """Return the least and the largest integer that so many planes hold."""
    if bits == 0:
        return 0, 0
    if signs == "twos":
        return -2 ** (bits - 1), 2 ** (bits - 1) - 1
    most = 2 ** (bits if signs == "pairs" else bits - 1) - 1
    return -most, most


def check(bits: int, signs: str) -> None:
    """Check a number of planes.

    Raises:
        ModelError: the signs are unknown, or the planes too few or too many.
    """
    if signs not in SIGNS:
        raise ModelError(f"signs are {signs!r}, needed one of {', '.join(SIGNS)}")
    if bits != 0 and not LEAST[signs] <= bits <= MOST[signs]:
        what = "pairs of planes" if signs == "pairs" else "planes, the sign among them" \
            if signs == "magnitude" else "planes"
        raise ModelError(f"{bits} bits with the signs {signs!r}: needed 0 or {LEAST[signs]} to "
                         f"{MOST[signs]} {what}")


def cut(q: np.ndarray, bits: int, planes: int, signs: str) -> np.ndarray:
    """Return the integers that the first planes hold.

    Args:
        q: integers of `bits` planes, any shape.
        bits: planes in all (signs "pairs": pairs).
        planes: how many of them count.
        signs: "twos": q_t = floor(q / 2^(bits - t)); "magnitude", "pairs": the same of |q|, with
            the sign of q. Of "magnitude" the first plane is the sign. "powers": that of a power of
            two, whose exponent + 1 is in the other planes.

    Returns:
        int32, the shape of q.
    """
    q = np.asarray(q, np.int32)
    if planes == 0 or signs in ("magnitude", "powers") and planes == 1:
        return np.zeros_like(q)
    left = bits - planes
    if signs == "powers":
        exponent = exponents(q) >> left << left
        return np.sign(q) * np.where((exponent > 0) & (exponent <= LARGEST_POWER),
                                     1 << np.maximum(exponent - 1, 0), 0)
    return q >> left if signs == "twos" else np.sign(q) * (np.abs(q) >> left)


def exponents(q: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return log2 |q| + 1 of powers of two, 0 of 0."""
    return np.frexp(np.abs(np.asarray(q, np.float64)))[1] * (np.asarray(q) != 0)
