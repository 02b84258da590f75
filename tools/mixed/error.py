"""The error of a model: how far its outputs are from those in fp32, over samples."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerun.device import Device
from edgerun.model import Model
from edgerun.session import Session

SMALLEST = 1e-30  # power of a signal that is silent


@dataclass(frozen=True)
class Error:
    """How far outputs are from the expected ones.

    Attributes:
        relative: of each output: the root mean square of the difference in that of the expected
            output; the share of elements that differ, where an output is no real number.
        top1: share of samples whose largest element is the same one; None if no output is a list
            of real numbers.
    """
    relative: dict[str, float]
    top1: float | None

    @property
    def worst(self) -> float:
        """The largest error of any output."""
        return max(self.relative.values(), default=0.0)

    @property
    def snr_db(self) -> float:
        """The worst output's signal-to-noise ratio in decibels."""
        return -20 * math.log10(self.worst) if self.worst > 0 else math.inf


class Meter:
    """Adds up differences over samples."""

    def __init__(self):
        self.noise: dict[str, float] = {}
        self.signal: dict[str, float] = {}
        self.agreed: list[bool] = []
        self._exact: set[str] = set()

    def add(self, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
        """Compare the outputs for one sample."""
        for name, want in expected.items():
            noise, signal = powers(found[name], want)
            self.noise[name] = self.noise.get(name, 0.0) + noise
            self.signal[name] = self.signal.get(name, 0.0) + signal
            if want.dtype.kind != "f":
                self._exact.add(name)
            elif max(want.shape, default=1) == want.size > 1:
                self.agreed.append(int(np.argmax(found[name])) == int(np.argmax(want)))

    @property
    def error(self) -> Error:
        """What came out."""
        relative = {}
        for name, noise in self.noise.items():
            ratio = noise / max(self.signal[name], SMALLEST)
            relative[name] = ratio if name in self._exact else math.sqrt(ratio)
        return Error(relative, float(np.mean(self.agreed)) if self.agreed else None)


def measured(model: Model, device: Device, samples: Sequence[Mapping[str, np.ndarray]],
             expected: Sequence[Mapping[str, np.ndarray]],
             progress: Callable[..., None] = lambda stage, *of: None) -> Error:
    """Run a file on all samples.

    Args:
        model: read.
        device: where.
        samples, expected: inputs, and outputs to compare with, of every sample.
        progress: called with "measure", the number of samples done, and of all.

    Raises:
        DeviceError: the device refuses the file.
    """
    meter = Meter()
    with Session(model, device) as session:
        for number, (sample, wanted) in enumerate(zip(samples, expected), 1):
            meter.add(session.run(sample), wanted)
            progress("measure", number, len(samples))
    return meter.error


def powers(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Return the sum of squared differences, and that of the expected values; for what is not real,
    the number of elements that differ, and of all.

    Where the expected value is infinite or NaN, the same is no difference and another is infinite.
    """
    if expected.dtype.kind != "f":
        return float(np.count_nonzero(found != expected)), float(expected.size)
    want, got = expected.astype(np.float64), found.astype(np.float64)
    normal = np.isfinite(want)
    if not normal.all():
        if not np.array_equal(want[~normal], got[~normal], equal_nan=True):
            return math.inf, 1.0
        want, got = want[normal], got[normal]
    if not np.isfinite(got).all():
        return math.inf, 1.0
    return float(np.square(got - want).sum()), float(np.square(want).sum())


def allowance(expected: Mapping[str, np.ndarray], max_error: float) -> dict[str, float]:
    """Return the noise, relative to the signal, that an error bound leaves to each output."""
    return {name: max_error if array.dtype.kind != "f" else max_error**2
            for name, array in expected.items()}


