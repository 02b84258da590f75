"""Cyclic precision: how many bits a step of the training has."""
from __future__ import annotations

import math


def cyclic(step: int, steps: int, low: int, high: int, cycles: int) -> int:
    """Return the bits of a step: `cycles` times along half a cosine from `low` up to `high`.

    rint(low + (high - low) (1 - cos(pi (t mod T) / T)) / 2) with T = steps / cycles.
    Fu et al., "CPT: Efficient deep neural network training via cyclic precision", 2021.

    Raises:
        ValueError: no steps or cycles, or low > high.
    """
    if steps < 1 or cycles < 1 or low > high:
        raise ValueError(f"{low} to {high} bits in {cycles} cycles of {steps} steps: needed at "
                         "least one step and cycle, and low <= high")
    part = step * cycles % steps / steps  # of whole numbers: a cycle starts at 0 exactly
    return round(low + 0.5 * (high - low) * (1 - math.cos(math.pi * part)))
