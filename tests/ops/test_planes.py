"""planes_conv2d and planes_dense: equal to NumPy for any number of planes, decoded and counted."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.ops import _tile, planes
from edgerun.ops._base import Variant
from edgerun.quantization import Quantization
from edgerun.tools.reference import planes as reference
from tests.harness import Const, Quantized, check_integer

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def pads(*sizes):
    return dict(zip(PADS, sizes))


def codes(rng, shape, signs, number):
    """Return integers of all magnitudes that so many planes hold."""
    bits = max(number - reference.SIGN_PLANE[signs], 0)
    low, high = ((-2**(bits - 1), 2**(bits - 1) - 1) if signs == "twos" and bits
                 else (1 - 2**bits, 2**bits - 1))
    return np.where(rng.random(shape) < 0.1, rng.choice([low, high], shape),
                    rng.integers(low, high + 1, shape))


def check(device, x, out_c, *, signs="twos", planes=4, used=None, dtype="uint8", zero=0,
          y="uint8", rows=None, seed=0, code="planes_conv2d", kernel=(3, 3), groups=1, **options):
    """Check random integers of the shape x with so many planes."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    xs = rng.integers(info.min, info.max + 1, x).astype(dtype)
    k = x[-1]
    if code == "planes_conv2d":
        k = kernel[0] * kernel[1] * x[-1] // groups
        options |= {"kernel_h": kernel[0], "kernel_w": kernel[1], "groups": groups}
    stored = reference.encode(codes(rng, (out_c, k), signs, planes), signs, planes)
    rows = planes + 1 if rows is None else rows
    spread = k**0.5 * (info.max - info.min) * 2.0**planes / 2
    levels = rng.uniform(0.5, 2, (rows, 3, out_c)) * np.array(
        [1 / spread, 1 / spread, 1])[:, None] * (100 if y == "uint8" else 10_000)
    quantization = Quantization.per_tensor(0.5, 100 if y == "uint8" else -77)
    real = y in ("fp32", "fp16")
    used = planes if used is None else used
    return check_integer(
        device, code, [Quantized(xs, 0.1, zero), Const(levels.astype(np.float32)),
                       np.array([used], np.int32),
                       *(Const(plane, None, "bits") for plane in stored)],
        "" if real else y, None if real else quantization, 2e-3 if y == "fp16" else 1e-6,
        "fp16" if y == "fp16" else "fp32", signs=signs, **options)


@pytest.fixture(params=["decode", "count"])
def way(request, monkeypatch):
    """Both kernels, in one small tile for all shapes: every other one is a program to compile."""
    count = int(request.param == "count")
    monkeypatch.setattr(_tile, "choose", lambda key, facts: Variant.of(
        P=2, VEC=8, tiles=2, count=max(count, int(not _tile._decodes(key)))))


SIGNS = [("twos", 8), ("twos", 3), ("twos", 1), ("magnitude", 9), ("magnitude", 5),
         ("magnitude", 2), ("pairs", 8), ("pairs", 7), ("pairs", 2), ("pairs", 1)]


@pytest.mark.parametrize("signs, planes", SIGNS)
@pytest.mark.parametrize("dtype, zero", [("uint8", 0), ("uint8", 77), ("int16", 0)])
def test_every_number_of_planes(device, way, signs, planes, dtype, zero):
    for used in range(planes + 1):
        check(device, (2, 70), 21, code="planes_dense", signs=signs, planes=planes, used=used,
              dtype=dtype, zero=zero, y=dtype)


@pytest.mark.parametrize("in_c", [1, 3, 31, 32, 33, 64])
@pytest.mark.parametrize("out_c", [1, 11, 16, 50])
def test_channels(device, way, in_c, out_c):
    """Every kind of last block and last word; whole words of a tap, and taps that share words."""
    check(device, (1, 5, 7, in_c), out_c, zero=9, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("options", [
    {}, {"stride_h": 2, "stride_w": 3}, {"dilation_h": 2, "dilation_w": 3},
    {"stride_h": 3, "dilation_w": 2}])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 3, 1, 0), (5, 0, 0, 7)])
@pytest.mark.parametrize("in_c", [5, 32])
def test_windows(device, way, options, padding, in_c):
    check(device, (2, 13, 14, in_c), 18, kernel=(3, 2), zero=200, **options, **pads(*padding))


@pytest.mark.parametrize("groups, in_c, out_c", [(2, 4, 8), (3, 32, 5), (7, 2, 17), (2, 40, 16)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_groups(device, way, groups, in_c, out_c, kernel):
    padding = pads(1, 1, 1, 1) if kernel == (3, 3) else {}
    check(device, (2, 6, 5, groups * in_c), groups * out_c, groups=groups, kernel=kernel,
          **padding)


@pytest.mark.parametrize("x, kernel, options", [
    ((1, 6, 5, 70), (1, 1), {}), ((1, 6, 5, 64), (1, 1), {"stride_h": 2, "stride_w": 2}),
    ((1, 6, 5, 6), (1, 1), {"stride_h": 2}), ((1, 6, 5, 6), (1, 1), pads(1, 0, 0, 2)),
    ((1, 5, 4, 3), (5, 4), {})])
def test_kernels_of_one_tap_and_of_the_whole_image(device, way, x, kernel, options):
    check(device, x, 19, kernel=kernel, zero=3, **options)


def test_pieces(device, way, monkeypatch):
    """Patches of more pixels than exist at once."""
    monkeypatch.setattr(planes, "LEAST_PIECE", 7)
    monkeypatch.setattr(planes, "PIECE_BYTES", 0)
    check(device, (2, 6, 5, 3), 19, zero=3, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("y", ["fp32", "fp16", "uint8", "int16"])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("options", [{}, {"activation": "relu"},
                                     {"activation": "clip", "alpha": -2.0, "beta": 3.0}])
def test_outputs(device, way, y, dtype, options):
    check(device, (3, 40), 21, code="planes_dense", y=y, dtype=dtype, **options)


def test_activation_of_real_numbers(device, way):
    check(device, (3, 40), 21, code="planes_dense", y="fp32", activation="tanh")


@pytest.mark.parametrize("counts, rows", [((), 1), ((), 3), ((), 5), ((0, 2, 4), 3), ((3,), 1)])
@pytest.mark.parametrize("used", [-3, 0, 1, 3, 4, 100])
def test_levels_of_some_numbers_of_planes(device, way, counts, rows, used):
    """A number of planes without levels counts as the next one below that has some."""
    check(device, (2, 40), 21, code="planes_dense", rows=rows, used=used, counts=counts)


@pytest.mark.parametrize("code, x", [("planes_dense", (2, 5)), ("planes_conv2d", (1, 4, 4, 3))])
def test_no_planes(device, way, code, x):
    check(device, x, 21, code=code, planes=0)


@pytest.mark.parametrize("code, x, out_c, options", [
    ("planes_dense", (1, 784), 512, {}), ("planes_dense", (9, 300), 130, {}),
    ("planes_conv2d", (1, 14, 14, 64), 64, {**pads(1, 1, 1, 1), "activation": "relu"}),
    ("planes_conv2d", (1, 28, 28, 1), 6, {"kernel": (5, 5), **pads(2, 2, 2, 2)})])
@pytest.mark.parametrize("planes_, zero", [(4, 0), (8, 128)])
def test_real_layers(device, code, x, out_c, options, planes_, zero):
    """The tiles that the device gets."""
    check(device, x, out_c, code=code, planes=planes_, zero=zero, **options)
