"""The result of a calibration: a range per tensor, for every precision, and what is odd about it.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from edgerun import loader
from edgerun.errors import InputError
from edgerun.model import Range
from edgerun.tools.calibrate.observers import Observation, choose

OUTLIER = 20  # times what 99.9 % of the values stay below
USUAL = 0.999
NAMED = 3  # tensors that a warning names


class Calibration:
    """Ranges of the real tensors of an optimized graph.

    Attributes:
        observer: how they were chosen.
        samples: how many samples were seen.
        where: what it was made from.
        ranges: tensor name -> Range, which a model file can hold.
        warnings: sentences.
        observations: tensor name -> Observation; empty if the ranges come from a model file.
    """

    def __init__(self, ranges: Mapping[str, Range], observer: str, samples: int, where: str,
                 warnings: Sequence[str] = (),
                 observations: Mapping[str, Observation] | None = None):
        self.ranges = dict(ranges)
        self.observer = observer
        self.samples = samples
        self.where = where
        self.warnings = list(warnings)
        self.observations = dict(observations or {})

    @classmethod
    def of(cls, seen: Mapping[str, Observation], observer: str, samples: int, where: str,
           warnings: Sequence[str] = ()) -> Calibration:
        """Choose the ranges of what was observed."""
        known: dict[int, tuple[float, ...]] = {}  # an alias is the observation of its root
        ranges = {}
        for name, found in seen.items():
            if id(found) not in known:
                known[id(found)] = (found.low, found.high, *choose(found, observer, 8),
                                    *choose(found, observer, 16))
            ranges[name] = Range(name, *known[id(found)])
        return cls(ranges, observer, samples, where, [*warnings, *oddities(seen, where)], seen)

    def range(self, name: str, bits: int) -> tuple[float, float]:
        """Return (low, high) of a tensor, 0 among them, for integers of `bits` bits.

        Raises:
            InputError: the tensor was not seen, or the range for so many bits was not kept.
        """
        found = self.ranges.get(name)
        if found is None:
            raise InputError(f"{self.where}: has no range of the tensor {name!r}: was it "
                             "calibrated from this model?")
        if bits in (8, 16):
            return (found.low8, found.high8) if bits == 8 else (found.low16, found.high16)
        if name in self.observations:
            return choose(self.observations[name], self.observer, bits)
        raise InputError(f"{self.where}: has ranges for 8 and 16 bits, not for {bits}: calibrate "
                         "from samples")


def ranges_of(path: str | os.PathLike) -> Calibration:
    """Return the calibration that a model file holds.

    Raises:
        ModelError: the file is not a valid model.
        InputError: it holds no ranges.
    """
    model = loader.read(path, check_weights=False)
    if not model.ranges:
        raise InputError(f"{path}: holds no ranges, needed a file that was packed with "
                         "--calibration and samples")
    return Calibration({entry.name: entry for entry in model.ranges}, model.observer,
                       model.samples, os.fspath(path))


def oddities(seen: Mapping[str, Observation], where: str) -> list[str]:
    """Return a sentence per kind of odd range: not finite, constant, torn open by outliers."""
    infinite, constant, torn = [], [], []
    named: set[int] = set()
    for name, found in seen.items():
        if id(found) in named:
            continue
        named.add(id(found))
        if found.infinite:
            infinite.append(f"{name!r} ({found.infinite} of {found.infinite + found.count})")
        if found.low == found.high:
            constant.append(f"{name!r} ({found.low:.6g})")
            continue
        usual, most = found.magnitude(USUAL), max(-found.low, found.high)
        if most > OUTLIER * usual:
            torn.append(f"{name!r} ({found.low:.3g} to {found.high:.3g}, mostly within "
                        f"{usual:.3g})")
    warnings = []
    if infinite:
        warnings.append(f"{where}: values that are not finite numbers are left out of the range "
                        f"of {_some(infinite)}")
    if constant:
        warnings.append(f"{where}: the range is degenerate, all values are the same in "
                        f"{_some(constant)}")
    if torn:
        warnings.append(f"{where}: outliers, more than {OUTLIER} times what {USUAL:.1%} of the "
                        f"values stay within, set the range of {_some(torn)}; a clipping observer "
                        "(percentile, mse, kl) may do better")
    return warnings


def _some(items: Sequence[str]) -> str:
    more = len(items) - NAMED
    return ", ".join(items[:NAMED]) + (f" and {more} more tensors" if more > 0 else "")
