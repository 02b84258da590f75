"""Observers against slow and obvious versions of themselves, and against known distributions."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun.tools.calibrate import observers
from edgerun.tools.calibrate.observers import BINS, OBSERVERS, Histogram, Observation, choose

# beside the widest bins, what is smaller than these would vanish in fp32
SIZES = st.floats(width=32, allow_nan=False, allow_infinity=False).map(
    lambda x: x if abs(x) > 1e-6 else 0.0)


def seen_of(*samples) -> Observation:
    seen = Observation()
    for sample in samples:
        seen.add(np.asarray(sample, np.float32))
    return seen


def drawn(kind: str, samples: int = 20, size: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((samples, size))
    return {"normal": normal, "relu": np.maximum(normal, 0),
            "swish": 3 * normal / (1 + np.exp(-3 * normal)),
            "laplace": rng.laplace(size=normal.shape), "student": rng.standard_t(3, normal.shape),
            "uniform": rng.uniform(-1, 3, normal.shape),
            "relu6": np.clip(4 * normal, 0, 6)}[kind].astype(np.float32)


def quantization_error(x: np.ndarray, low: float, high: float, bits: int) -> float:
    """Mean squared error of really quantizing x to a range, straight from the definition."""
    x = x.astype(np.float64)
    if bits > 8:
        most = 2 ** (bits - 1) - 1
        step = max(-low, high) / most
        return float(np.mean((np.clip(np.rint(x / step), -most, most) * step - x) ** 2))
    step = (high - low) / (2**bits - 1)
    zero = round(-low / step)
    return float(np.mean(((np.clip(np.rint(x / step) + zero, 0, 2**bits - 1) - zero) * step - x)
                         ** 2))


# the histogram

@settings(deadline=None)
@given(st.lists(st.lists(SIZES, min_size=1, max_size=30), min_size=1, max_size=6), st.randoms())
def test_histogram_counts_every_value_in_its_bin(samples, random):
    seen = seen_of(*samples)
    histogram = seen.histogram
    values = np.concatenate([np.float32(s) for s in samples]).astype(np.float64)
    numbers = [math.floor(x / histogram.width) for x in values]
    expected = np.zeros(len(histogram.counts), np.int64)
    for number in numbers:
        expected[number - histogram.first] += 1
    assert np.array_equal(histogram.counts, expected)
    assert len(expected) <= BINS and expected[0] > 0 and expected[-1] > 0
    assert (seen.low, seen.high) == (values.min(), values.max())
    assert histogram.zeros == (values == 0).sum()
    shuffled = list(samples)
    random.shuffle(shuffled)
    other = seen_of(*shuffled).histogram
    assert (other.width, other.first) == (histogram.width, histogram.first)
    assert np.array_equal(other.counts, histogram.counts)


@settings(deadline=None)
@given(st.floats(1e-30, 1e30), st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_bins_are_as_fine_as_they_can_be(scale, values):
    histogram = seen_of(np.float32(values) * np.float32(scale)).histogram
    low, high = histogram.low, histogram.high
    coarsest = max(abs(low), abs(high)) * 2.0**-observers.FINEST
    half = histogram.width / 2
    assert (half < coarsest or half < observers.SMALLEST
            or math.floor(high / half) - math.floor(low / half) >= BINS)


def test_histogram_of_many_chunks():
    x = drawn("normal", 1, 3 * observers.CHUNK + 5)[0]
    histogram = seen_of(x).histogram
    found, _ = np.histogram(x.astype(np.float64), histogram.edges)
    assert np.array_equal(histogram.counts, found)


def test_merging_bins_keeps_counts_and_places():
    first, counts = observers.merged(-3, np.array([1, 2, 4, 8, 16]), 1)  # bins -3, -2, -1, 0, 1
    assert (first, counts.tolist()) == (-2, [1, 6, 24])
    first, counts = observers.merged(-3, np.array([1, 2, 4, 8, 16]), 4)
    assert (first, counts.tolist()) == (-1, [7, 24])


def test_memory_is_bounded_and_counts_are_exact_however_far_the_range_grows():
    seen = Observation()
    for exponent in range(-60, 61, 5):
        seen.add(np.float32([2.0**exponent, -(2.0**exponent), 0]))
        assert len(seen.histogram.counts) <= BINS
    assert seen.count == seen.histogram.counts.sum() == 75 and seen.histogram.zeros == 25


def test_negative_values_that_vanish_beside_the_bins():
    seen = seen_of([-3e38, -1e-45], [-1e-45])
    assert seen.histogram.counts.sum() == 3 and seen.histogram.counts[-1] == 2


# observations

def test_values_that_are_not_finite_are_counted_apart():
    seen = seen_of([1, np.inf, -2], [np.nan, np.nan], [-np.inf, 3, 0])
    assert (seen.low, seen.high, seen.count, seen.infinite, seen.samples) == (-2, 3, 4, 4, 3)
    nothing = seen_of([np.nan])
    assert nothing.count == 0
    assert all(choose(nothing, observer, bits) == (0, 0) for observer in OBSERVERS
               for bits in (8, 16))


@pytest.mark.parametrize("kind", ["normal", "relu", "student"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 0.999, 1.0])
def test_quantile_is_within_a_bin_of_sorting(kind, share):
    x = drawn(kind)
    seen = seen_of(*x)
    assert abs(seen.quantile(share) - np.quantile(x, share)) <= 1.01 * seen.histogram.width


@pytest.mark.parametrize("kind", ["normal", "relu", "swish", "student"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999, 1.0])
def test_magnitude_bounds_a_share_of_what_is_not_zero(kind, share):
    x = drawn(kind)
    seen = seen_of(*x)
    wanted = np.quantile(np.abs(x[x != 0]), share, method="inverted_cdf")
    assert 0 <= seen.magnitude(share) - wanted + 1e-6 <= 1.01 * seen.histogram.width


# observers

def test_minmax():
    seen = seen_of([1, 2], [-3, 0.5], [0, 4])
    assert choose(seen, "minmax", 8) == choose(seen, "minmax", 16) == (-3, 4)


def test_every_range_holds_zero():
    above, below = seen_of([2, 3, 5]), seen_of([-2, -3, -5])
    for observer in OBSERVERS:
        low, high = choose(above, observer, 8)
        assert low == 0 < high <= 5
        low, high = choose(below, observer, 8)
        assert -5 <= low < 0 == high


def test_moving_average():
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((12, 50)).astype(np.float32)
    low, high = float(samples[0].min()), float(samples[0].max())
    for sample in samples[1:]:
        low = 0.9 * low + 0.1 * float(sample.min())
        high = 0.9 * high + 0.1 * float(sample.max())
    np.testing.assert_allclose(choose(seen_of(*samples), "moving-average", 8), (low, high), 1e-12)


def test_percentile_is_what_sorting_gives():
    x = drawn("normal", 50)
    seen = seen_of(*x)
    for bits in (8, 12):
        tail = 1e-4 / 2 ** (bits - 8)
        found = np.array(choose(seen, "percentile", bits))
        np.testing.assert_allclose(found, np.quantile(x, [tail, 1 - tail]), atol=0.05)
    low, high = choose(seen, "percentile", 16)  # of a million values less than one is left out
    assert seen.low <= low < seen.low + 2 * seen.histogram.width
    assert seen.high - 2 * seen.histogram.width < high <= seen.high


def test_percentile_of_the_normal_distribution():
    low, high = choose(seen_of(*drawn("normal", 50)), "percentile", 8)
    assert low == pytest.approx(-3.719, abs=0.1) and high == pytest.approx(3.719, abs=0.1)


@pytest.mark.parametrize("bits", [4, 6, 8, 16])
@pytest.mark.parametrize("kind", ["normal", "relu", "swish", "laplace", "student", "uniform",
                                  "relu6"])
def test_mse_is_as_good_as_trying_every_range(kind, bits):
    """Against really quantizing the values, for every pair of shrunk extremes."""
    x = drawn(kind, 4, 5000)
    seen = seen_of(*x)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    shrinks = 2.0 ** -np.linspace(0, 5, 21)
    lows = low * shrinks if low and bits <= 8 else [low]
    best = min(quantization_error(x, a, b, bits) for a in lows for b in high * shrinks)
    found = quantization_error(x, *choose(seen, "mse", bits), bits)
    assert found <= 1.06 * best
    assert found <= 1.06 * quantization_error(x, low, high, bits)


def test_mse_of_the_normal_distribution():
    """Optimal clipping of a standard normal is at 2.55 for 4 bits and 3.92 for 8 (Banner et al.,
    "Post-training 4-bit quantization of convolution networks for rapid-deployment", 2019)."""
    seen = seen_of(*drawn("normal", 100))
    for bits, threshold in ((4, 2.55), (8, 3.92)):
        low, high = choose(seen, "mse", bits)
        assert -low == pytest.approx(threshold, rel=0.06)
        assert high == pytest.approx(threshold, rel=0.06)


def slow_kl(x: np.ndarray, width: float, bins: int, levels: int) -> float:
    """The divergence after clipping at `bins` bins of |x|, x >= 0: loops, one value at a time."""
    counts = [0] * (math.floor(x.max() / width) + 1)
    for value in x[x != 0]:
        counts[math.floor(value / width)] += 1
    p, inside = counts[:bins], counts[:bins]
    p[-1] += sum(counts[bins:])
    q = [0.0] * bins
    for level in range(levels):
        members = [i for i in range(bins) if i * levels // bins == level]
        held = [i for i in members if p[i]]
        for i in held:
            q[i] = sum(inside[j] for j in members) / len(held)
    total_p, total_q = sum(p), sum(q)
    return sum(a / total_p * math.log((a / total_p) / max(b / total_q, 0.5 / total_p))
               for a, b in zip(p, q) if a)


def test_divergence_is_its_definition():
    x = np.concatenate([drawn("relu", 1, 2000)[0], np.float32([7.9])])
    for width, bins, levels in ((2**-5, 100, 31), (2**-5, 64, 31), (2**-3, 20, 15), (2**-3, 64, 7)):
        counts = np.bincount(np.floor(x[x != 0] / width).astype(int))
        found = observers._divergence(counts, 0, bins, levels)
        assert found == pytest.approx(slow_kl(x, width, bins, levels), rel=1e-9)


@pytest.mark.parametrize("kind", ["relu", "laplace", "swish", "student"])
def test_kl_takes_the_least_divergence_of_all_thresholds(kind):
    seen = seen_of(*drawn(kind, 2))
    first, counts = observers.merged(seen.histogram.first, observers.without_zeros(seen.histogram),
                                     2)
    width, most = 4 * seen.histogram.width, max(first + len(counts), -first)
    low, high = choose(seen, "kl", 5)
    found = max(-low, high)
    results = {}
    for n in range(31, most + 1):
        start, end = max(-n, first) - first, min(n, first + len(counts)) - first
        if end - start >= 31:
            results[n] = observers._divergence(counts, start, end, 31)
    assert results[min(round(found / width), most)] <= 1.05 * min(results.values()) + 1e-4


def test_kl_clips_long_tails_and_nothing_else():
    assert choose(seen_of(*drawn("uniform")), "kl", 8) == pytest.approx((-1, 3), abs=0.01)
    assert choose(seen_of(*drawn("relu6")), "kl", 8) == (0, 6)
    student = seen_of(*drawn("student"))
    low, high = choose(student, "kl", 8)
    assert 5 < high < student.high / 2 and student.low / 2 < low < -5
    assert choose(student, "kl", 16) == (student.low, student.high)  # more levels than bins


def test_one_outlier_does_not_move_the_clipping_observers_far():
    x = drawn("normal", 20)
    x[3, 5] = 50
    seen = seen_of(*x)
    assert choose(seen, "minmax", 8)[1] == 50
    for observer in ("percentile", "kl"):
        assert choose(seen, observer, 8)[1] < 10


@pytest.mark.parametrize("observer", [*OBSERVERS])
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("value", [0.0, 5.0, -1e-30, 3e38])
def test_constant_tensors(observer, bits, value):
    low, high = choose(seen_of([value] * 5, [value]), observer, bits)
    assert (low, high) == pytest.approx((min(value, 0), max(value, 0)), rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(SIZES, min_size=1, max_size=40), st.sampled_from(sorted(OBSERVERS)),
       st.sampled_from([4, 8, 16]))
def test_ranges_are_finite_ordered_and_never_wider_than_what_was_seen(values, observer, bits):
    seen = seen_of(values)
    low, high = choose(seen, observer, bits)
    assert min(seen.low, 0) <= low <= 0 <= high <= max(seen.high, 0)


def test_an_empty_histogram_has_no_bins():
    assert Histogram().edges.tolist() == [0]
