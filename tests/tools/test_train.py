"""Schemes of quantization-aware training, as far as NumPy goes: codes, schedule, rounding."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.tools.train import codes, rounding, schedule

SHAPES = ((1, 1), (3, 7), (20, 1, 5, 5), (16, 33))


def weights(shape, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def dorefa(w, bits):
    top = 2 ** bits - 1
    r = np.tanh(w) / (2 * np.abs(np.tanh(w)).max()) + np.float32(0.5)
    return 2 * np.rint(r * top) / top - 1


def ternary_row(row):
    beyond = np.abs(row) > np.float32(0.7) * np.abs(row).mean()
    return np.sign(row) * beyond * (np.abs(row)[beyond].mean() if beyond.any() else 0)


def nearest_power(value, low, high):
    levels = [0.0, *(2.0 ** n for n in range(low, high + 1))]
    return np.sign(value) * min(levels, key=lambda level: (abs(abs(value) - level), -level))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_dorefa_is_its_formula(shape, bits):
    w = weights(shape)
    wanted = np.abs(w).mean() * np.where(w >= 0, 1, -1) if bits == 1 else dorefa(w, bits)
    np.testing.assert_allclose(codes.dorefa(w, bits).decode(), wanted, rtol=0, atol=2e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_binary_is_its_formula(shape):
    w = weights(shape)
    w.flat[0] = 0
    alpha = np.abs(w.reshape(len(w), -1)).mean(1).reshape(-1, *(1,) * (w.ndim - 1))
    sign = np.where(w >= 0, 1, -1)
    np.testing.assert_array_equal(codes.binary(w).decode(), alpha * sign)
    np.testing.assert_array_equal(codes.binary(w, scaled=False).decode(), sign)


@pytest.mark.parametrize("shape", SHAPES)
def test_ternary_is_its_formula(shape):
    w = weights(shape)
    wanted = np.stack([ternary_row(row) for row in w.reshape(len(w), -1)]).reshape(shape)
    np.testing.assert_allclose(codes.ternary(w).decode(), wanted, rtol=1e-6)


def test_trained_ternary_keeps_both_scales():
    w = weights((16, 33))
    found = codes.trained_ternary(w, 0.21, 0.35)
    limit = np.float32(0.05) * np.abs(w).max()
    values = found.decode()
    assert set(found.table) == {-127, 0, 76}
    assert (values[np.abs(w) <= limit] == 0).all()
    np.testing.assert_allclose(values[w > limit], 0.21, atol=0.35 / 254)
    np.testing.assert_allclose(values[w < -limit], -0.35, rtol=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_power_of_two_is_the_nearest(bits):
    w = weights((16, 33))
    w.flat[:4] = 0, 1e-9, -1e-9, np.abs(w).max()
    low, high = codes.exponents(w, bits)
    assert high == np.floor(np.log2(4 * np.abs(w).max() / 3))
    assert high - low + 1 == 2 ** (bits - 2)
    wanted = [nearest_power(float(value), low, high) for value in w.flat]
    found = codes.power_of_two(w, bits)
    np.testing.assert_array_equal(found.decode().flat, wanted)
    assert len(found.table) == 2 ** (bits - 1) + 1 <= 2 ** bits
    again = codes.power_of_two(found.decode(), bits, high)
    np.testing.assert_array_equal(again.codes, found.codes)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_fixed_uses_its_range(bits):
    w = weights((16, 33))
    found = codes.fixed(w, bits)
    fraction = bits - 1 - np.ceil(np.log2(np.abs(w).max()))
    assert (found.scale[-1] == 2.0 ** -fraction).all()
    assert np.abs(found.codes).max() >= 2 ** (bits - 2)
    assert np.abs(found.decode() - w).max() <= 2.0 ** -fraction
    np.testing.assert_array_equal(codes.fixed(np.float32([[9.0, -9.0]]), bits, bits - 1).decode(),
                                  np.float32([[1 - 2.0 ** (1 - bits), -1.0]]))


@pytest.mark.parametrize("make", [codes.symmetric, codes.min_max])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_even_steps_round_to_the_nearest(make, bits):
    w = weights((16, 33))
    found = make(w, bits)
    step = found.scale[-1][:, None]
    assert (np.abs(found.decode() - w) <= step * (0.5 + 1e-5)).all()
    assert found.codes.min() >= -2 ** (bits - 1) and found.codes.max() < 2 ** (bits - 1)


def test_fewer_planes_leave_no_bias():
    """A prefix of the planes is the weights to half of its step, in the middle of its cells."""
    w = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(2, -1)
    found = codes.symmetric(w, 8)
    for planes in range(1, 9):
        rest = (found.decode(planes) - found.decode()) / found.scale[planes][:, None]
        assert np.abs(rest).max() <= 0.5
        assert abs(rest.mean()) < 0.02
    assert (found.decode(0) == 0).all()
    np.testing.assert_allclose(found.scaled(np.float32([2, 3])).decode(3),
                               found.decode(3) * np.float32([[2], [3]]), rtol=1e-6)


def test_cyclic_precision_goes_up_and_starts_again():
    steps, cycles, low, high = 320, 8, 3, 8
    bits = [schedule.cyclic(step, steps, low, high, cycles) for step in range(steps)]
    assert all(isinstance(value, int) for value in bits)
    assert bits[0] == low and bits[39] == high and set(bits) == set(range(low, high + 1))
    assert bits == bits[:40] * cycles
    assert bits[:40] == sorted(bits[:40])
    assert bits[20] == round(low + 0.5 * (high - low))
    assert schedule.cyclic(7, 100, 8, 8, 3) == 8


@pytest.mark.parametrize("steps, cycles", [(20, 6), (25, 3), (7, 7), (320, 9)])
def test_every_cycle_starts_with_the_fewest_bits(steps, cycles):
    """Also where the steps of a cycle are no whole number, and their multiples would be rounded."""
    starts = [step for step in range(steps) if step * cycles % steps == 0]
    assert len(starts) == np.gcd(steps, cycles)
    assert [schedule.cyclic(step, steps, 3, 8, cycles) for step in starts] == [3] * len(starts)


@pytest.mark.parametrize("bits", [0, 1])
def test_symmetric_weights_have_two_bits_or_more(bits):
    with pytest.raises(ValueError, match=f"{bits} bits have no symmetric steps, needed 2 or more"):
        codes.symmetric(weights((3, 7)), bits)
    assert set(codes.symmetric(weights((3, 7)), 2).codes.flat) <= {-1, 0, 1}


@pytest.mark.parametrize("steps, low, high, cycles", [(0, 3, 8, 1), (9, 8, 3, 1), (9, 3, 8, 0)])
def test_cyclic_precision_refuses(steps, low, high, cycles):
    with pytest.raises(ValueError, match="needed at least one step and cycle, and low <= high"):
        schedule.cyclic(0, steps, low, high, cycles)


def test_stochastic_rounding_is_unbiased():
    """The mean of 100,000 draws is the value, within 3 standard deviations of such a mean."""
    rng, draws = np.random.default_rng(5), 100_000
    for value in (0.3, -0.7, 1 / 3, 0.001, 2.0, -1.99):
        found = rounding.fixed(np.full(draws, value), 4, 8, rng.random(draws))
        below = np.floor(value * 256) / 256
        assert set(found) <= {below, below + 1 / 256}
        rest = (value - below) * 256
        sigma = np.sqrt(rest * (1 - rest) / draws) / 256
        assert abs(found.mean() - value) <= 3 * sigma


@pytest.mark.parametrize("uniform", [0.0, rounding.NEAREST, 0.999])
def test_fixed_point_saturates(uniform):
    found = rounding.fixed(np.array([100.0, 7.9999, -8.0, -100.0]), 4, 8, uniform)
    np.testing.assert_array_equal(found, [8 - 1 / 256, 8 - 1 / 256, -8, -8])


def test_nearest_rounding_loses_small_updates():
    x = np.array([1.0, 1 + 0.49 / 256, 1 + 0.51 / 256, -0.3])
    np.testing.assert_array_equal(rounding.fixed(x, 4, 8), [1, 1, 1 + 1 / 256, -77 / 256])
