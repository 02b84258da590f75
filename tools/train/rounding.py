"""Fixed point <IL, FL> with rounding to the nearest or at random."""
from __future__ import annotations

from typing import TypeVar

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor

NEAREST = 0.5


def fixed(x: Array, integer: int, fraction: int, uniform: Array | float = NEAREST) -> Array:
    """Round to whole steps of 2^-fraction, saturating at the range of integer + fraction bits.

    floor(x 2^FL + u) 2^-FL within [-2^(IL-1), 2^(IL-1) - 2^-FL]. Gupta et al., "Deep learning with
    limited numerical precision", 2015: with u uniform in [0, 1) a value goes up with the
    probability of its rest, so that the expectation is the value; with u = 1/2 it goes to the
    nearest.

    Args:
        x: NumPy array or tensor, fp32 or fp64, any shape.
        integer: IL, bits before the point, with the sign.
        fraction: FL, bits behind the point.
        uniform: random numbers in [0, 1) of x's shape, or NEAREST.
    """
    steps = (x * 2.0 ** fraction + uniform) // 1
    half = 2 ** (integer + fraction - 1)
    return steps.clip(-half, half - 1) * 2.0 ** -fraction
