"""What a tensor's values look like over all samples, and the range that each observer makes of it.

One Observation is collected per tensor, whatever the observer: extremes, their moving average and a
histogram of bounded size. An observer is a function of it, so that every number of bits, and every
other observer, can be asked later without running the model again.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

BINS = 8192  # most bins of a histogram; at least half of them are in use after the first values
FINEST = 22  # bits: bin numbers stay exact in fp32
SMALLEST = 2.0**-100  # least width of a bin
CHUNK = 1 << 16  # elements counted at a time: temporaries stay in the cache
AVERAGE_WEIGHT = 0.1  # of a new sample in the moving average
TAIL = 1e-4  # share of the elements that "percentile" leaves out at each end, for 8 bits
THRESHOLDS = 2.0 ** -np.linspace(0, 8, 129)  # tried by "mse", relative to the extremes
KL_BINS = 2048  # bins that "kl" compares, at least half of them in use
KL_CANDIDATES = 128


class Histogram:
    """Counts in bins whose width is a power of two, with an edge at 0.

    The width is the smallest that covers all values seen with BINS bins. When it grows, whole bins
    are merged: the counts are always exact, and do not depend on the order of the values. (A
    negative value that vanishes beside the width in fp32 may count as 0.)

    Attributes:
        low, high: extremes of the values; 0 if there was none.
        width: of a bin.
        first: number of the first bin; bin k holds k * width <= x < (k + 1) * width.
        counts: int64, from bin `first` on.
        zeros: how many of the values are exactly 0.
    """

    def __init__(self):
        self.low = self.high = 0.0
        self.width = SMALLEST
        self.first = 0
        self.counts = np.zeros(0, np.int64)
        self.zeros = 0

    def add(self, x: np.ndarray, low: float, high: float) -> None:
        """Count values.

        Args:
            x: fp32, one dimension, finite, at least one.
            low, high: their extremes.
        """
        if self.counts.size:
            low, high = min(low, self.low), max(high, self.high)
        self._cover(low, high)
        inverse = np.float32(1 / self.width)
        for at in range(0, len(x), CHUNK):
            part = x[at:at + CHUNK]
            number = part * inverse
            if low < 0:
                np.floor(number, out=number)
            index = number.astype(np.intp)
            index -= self.first
            if high < 0:  # a product that underflows to -0 would belong to bin 0
                np.minimum(index, len(self.counts) - 1, out=index)
            self.counts += np.bincount(index, minlength=len(self.counts))
            self.zeros += len(part) - int(np.count_nonzero(part))

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins until BINS of them reach from `low` to `high`, and add those missing."""
        width = max(self.width, 2.0 ** math.floor(
            math.log2(max(abs(low), abs(high), SMALLEST)) - FINEST))
        while math.floor(high / width) - math.floor(low / width) >= BINS:
            width *= 2
        bottom, top = math.floor(low / width), math.floor(high / width)
        counts = np.zeros(top - bottom + 1, np.int64)
        if self.counts.size:
            first, old = merged(self.first, self.counts, int(math.log2(width / self.width)))
            counts[first - bottom:first - bottom + len(old)] = old
        self.low, self.high, self.width, self.first, self.counts = low, high, width, bottom, counts

    @property
    def edges(self) -> np.ndarray:
        """fp64 [bins + 1]."""
        return (self.first + np.arange(len(self.counts) + 1)) * self.width


def merged(first: int, counts: np.ndarray, halvings: int) -> tuple[int, np.ndarray]:
    """Return (first, counts) of a histogram with bins 2^halvings times as wide."""
    if not halvings:
        return first, counts
    numbers = (first + np.arange(len(counts), dtype=np.int64)) >> halvings
    grown = np.zeros(int(numbers[-1] - numbers[0]) + 1, np.int64)
    np.add.at(grown, numbers - numbers[0], counts)
    return int(numbers[0]), grown


class Observation:
    """What was seen of one tensor.

    Attributes:
        average_low, average_high: moving averages of the extremes of each sample.
        samples: arrays added.
        count: finite values; `infinite`: the others.
        histogram: of the finite values.
    """

    def __init__(self):
        self.average_low = self.average_high = 0.0
        self.samples = self.count = self.infinite = 0
        self.histogram = Histogram()

    def add(self, x: np.ndarray) -> None:
        """Take in the values of one sample: fp32 (or fp16), any shape."""
        x = np.ravel(x).astype(np.float32, copy=False)
        self.samples += 1
        low, high = float(x.min(initial=np.inf)), float(x.max(initial=-np.inf))
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN propagates into both
            finite = x[np.isfinite(x)]
            self.infinite += len(x) - len(finite)
            if not len(finite):
                return
            x, low, high = finite, float(finite.min()), float(finite.max())
        if self.count:
            self.average_low += AVERAGE_WEIGHT * (low - self.average_low)
            self.average_high += AVERAGE_WEIGHT * (high - self.average_high)
        else:
            self.average_low, self.average_high = low, high
        self.count += len(x)
        self.histogram.add(x, low, high)

    @property
    def low(self) -> float:
        """Least finite value; 0 if there was none."""
        return self.histogram.low

    @property
    def high(self) -> float:
        """Largest finite value; 0 if there was none."""
        return self.histogram.high

    def quantile(self, share: float) -> float:
        """Return the value below which a share of the values lies, linear within a bin."""
        cumulative = np.concatenate([[0], np.cumsum(self.histogram.counts)])
        value = np.interp(share * self.count, cumulative, self.histogram.edges)
        return float(np.clip(value, self.low, self.high))

    def magnitude(self, share: float) -> float:
        """Return an upper bound, one bin too large at most, of that share of |x|, x not 0."""
        histogram = self.histogram
        numbers = histogram.first + np.arange(len(histogram.counts))
        counts = without_zeros(histogram)
        folded = np.bincount(np.where(numbers < 0, -numbers - 1, numbers), weights=counts)
        reached = np.searchsorted(np.cumsum(folded), share * counts.sum())
        return float(min((reached + 1) * histogram.width, max(-self.low, self.high)))


def without_zeros(histogram: Histogram) -> np.ndarray:
    """Return the counts less the values that are exactly 0: every grid represents them."""
    counts = histogram.counts.copy()
    if histogram.zeros:
        counts[-histogram.first] -= histogram.zeros
    return counts


Ends = tuple[float, float]


def minmax(seen: Observation, bits: int) -> Ends:
    """The extremes of all samples."""
    return seen.low, seen.high


def moving_average(seen: Observation, bits: int) -> Ends:
    """The extremes of each sample, averaged: the latest sample counts AVERAGE_WEIGHT.

    As in Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.1. It depends on the order of the samples.
    """
    return seen.average_low, seen.average_high


def percentile(seen: Observation, bits: int) -> Ends:
    """What remains without TAIL of the elements at each end.

    With more bits the step shrinks, and so does the tail worth clipping: it halves with each bit.
    """
    tail = TAIL * 2.0 ** (8 - bits)
    return seen.quantile(tail), seen.quantile(1 - tail)


def mse(seen: Observation, bits: int) -> Ends:
    """The range of least mean squared error among THRESHOLDS of each extreme.

    A value inside is off by step^2 / 12 (rounding noise; exact zeros by nothing), one outside by
    its distance to the end, squared. Up to 8 bits the grid has 2^bits - 1 steps over the range,
    with more it is symmetric, 2^(bits-1) - 1 steps on each side.
    """
    if not seen.count:
        return 0.0, 0.0
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    counts = without_zeros(seen.histogram).astype(np.float64)
    if bits > 8:
        ends = max(-low, high) * THRESHOLDS
        step = ends / (2 ** (bits - 1) - 1)
        error = _clipped(seen, counts, ends) + _clipped(seen, counts, -ends, below=True)
        best = ends[np.argmin(error + counts.sum() * step**2 / 12)]
        return max(low, -best), min(high, best)
    lows = low * THRESHOLDS if low else np.zeros(1)
    highs = high * THRESHOLDS if high else np.zeros(1)
    step = (highs[None] - lows[:, None]) / (2**bits - 1)
    error = (_clipped(seen, counts, lows, below=True)[:, None] + _clipped(seen, counts, highs)[None]
             + counts.sum() * step**2 / 12)
    i, j = np.unravel_index(np.argmin(error), error.shape)
    return float(lows[i]), float(highs[j])


def _clipped(seen: Observation, counts: np.ndarray, ends: np.ndarray, below: bool = False
             ) -> np.ndarray:
    """Return the sum of squared distances of the values beyond each of `ends`.

    Args:
        seen: for the edges of its bins.
        counts: fp64, of its bins.
        ends: fp64 [n], at or above 0; with `below` at or below 0, and the other side is meant.
    """
    edges = seen.histogram.edges
    centres = np.clip((edges[:-1] + edges[1:]) / 2, seen.low, seen.high)
    if below:
        centres, counts, ends = -centres[::-1], counts[::-1], -ends
    sums = np.zeros((3, len(counts) + 1))  # of x^0, x^1, x^2 from each bin to the last
    for power, row in enumerate(sums):
        row[:-1] = np.cumsum((counts * centres**power)[::-1])[::-1]
    beyond = sums[:, np.searchsorted(centres, ends, side="right")]
    return np.maximum(beyond[2] - 2 * ends * beyond[1] + ends**2 * beyond[0], 0)


def kl(seen: Observation, bits: int) -> Ends:
    """The threshold on |x| that loses the least information (Kullback-Leibler divergence).

    As in Migacz, "8-bit Inference with TensorRT" (2017): P is the histogram with all that lies
    beyond added to its end bins, Q the same merged into 2^bits - 1 levels and spread again over the
    bins that are not empty; the least sum P log(P / Q) wins. Exact zeros are left out, since every
    grid represents them. When there are more levels than bins nothing can be won: the extremes.
    """
    levels = 2**bits - 1
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    first, counts = seen.histogram.first, without_zeros(seen.histogram)
    halvings = max(0, math.ceil(math.log2(max(len(counts), 1) / KL_BINS)))
    if counts.sum() == 0:
        return low, high
    first, counts = merged(first, counts, halvings)
    width = seen.histogram.width * 2**halvings
    most = max(first + len(counts), -first)  # bins from 0 to the farther end
    best = low, high
    if levels >= len(counts):
        return best
    least = np.inf
    fewest = next(n for n in range(1, most + 1)
                  if min(n, first + len(counts)) - max(-n, first) >= levels)
    for n in np.unique(np.linspace(fewest, most, KL_CANDIDATES).astype(int)):
        start, end = max(-int(n), first) - first, min(int(n), first + len(counts)) - first
        divergence = _divergence(counts, start, end, levels)
        if divergence <= least:
            least, best = divergence, (max(low, -n * width), min(high, n * width))
    return float(best[0]), float(best[1])


def _divergence(counts: np.ndarray, start: int, end: int, levels: int) -> float:
    """Return KL(P, Q) for the bins from `start` to `end` merged into levels."""
    inside = counts[start:end].astype(np.float64)
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    level = (np.arange(len(p)) * levels) // len(p)
    held = (p > 0).astype(np.float64)
    share = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, held, levels), 1)
    q = share[level] * held
    if not q.any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    present = p > 0
    # a level whose only values come from beyond the range has Q = 0: as unlikely as a count of less
    # than one in all
    floor = 0.5 / counts.sum()
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], floor))))


OBSERVERS: dict[str, Callable[[Observation, int], Ends]] = {
    "minmax": minmax, "moving-average": moving_average, "percentile": percentile, "mse": mse,
    "kl": kl,
}


def choose(seen: Observation, observer: str, bits: int) -> Ends:
    """Return (low, high) by an observer, 0 among them, for integers of `bits` bits."""
    low, high = OBSERVERS[observer](seen, bits)
    return min(low, 0.0), max(high, 0.0)
