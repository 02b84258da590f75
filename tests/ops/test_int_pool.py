"""Pooling of quantized images: against NumPy, and averages against LiteRT, both exactly."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import Quantized, check_integer
from tests.ops.test_pool import window
from tests.tools.test_tflite_importer import interpret
from tests.tools.tflite_builder import TFLiteBuilder

GRID = {"uint8": (0.05, 117), "int16": (0.0002, 0)}


def image(shape, dtype, seed=0, fill=None):
    info = np.iinfo(dtype)
    q = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)
    if fill is not None:
        q[...] = fill
    return Quantized(q, *GRID[dtype])


def check(device, x, grid=None, **options):
    dtype = x.array.dtype.name
    grid = grid or Quantization.per_tensor(*GRID[dtype])
    return check_integer(device, "pool2d", [x], dtype, grid, **options)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("shape", [(1, 3, 3, 1), (1, 5, 7, 3), (2, 9, 6, 4), (1, 8, 8, 16),
                                   (1, 7, 5, 17), (3, 4, 11, 37)])
def test_shapes(device, shape, kind, dtype):
    check(device, image(shape, dtype), kind=kind, **window(3, 2, 1))


OPTIONS = [
    window(2, 2), window(3, 2, 1, ceil_mode=True), window(2, 3, (1, 0, 0, 1)), window(3, 1, 2, 2),
    window(3, 2, 1, count_include_pad=True), window(2, 2, origin=128),
    window(3, 2, (0, 0, 1, 1), ceil_mode=True, count_include_pad=True),
    window(1, 3, ceil_mode=True), window(2, 1, 2, 3, count_include_pad=True),
    window(3, 2, (0, 1, 2, 0), activation="relu"),
    window(2, 2, activation="clip", alpha=-1.0, beta=2.5),
    dict(kernel_h=1, kernel_w=5, stride_w=2, pad_left=2),
    dict(kernel_h=4, stride_h=3, pad_bottom=1)]


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(device, options, kind, dtype):
    check(device, image((2, 8, 9, 19), dtype, 1), kind=kind, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype, grid", [
    ("uint8", Quantization.per_tensor(0.031, 9)), ("uint8", Quantization.per_tensor(0.05, 118)),
    ("uint8", Quantization.per_tensor(11.0, 255)), ("uint8", Quantization.per_tensor(1e-4, 0)),
    ("int16", Quantization.per_tensor(0.00017)), ("int16", Quantization.per_tensor(0.3))])
def test_average_of_another_grid(device, dtype, grid, options):
    """Every divisor has its own multiplier; the result is the nearest step to the real average."""
    x = image((2, 8, 9, 19), dtype, 2)
    found = check(device, x, grid, kind="average", **options)
    if "activation" in options:
        return
    real = Graph()
    real.output("y", real.add("pool2d", [real.input("x", x.array.shape, "fp32")], kind="average",
                              **options))
    numbers = (x.array.astype(np.float32) - x.quantization.zero) * np.float32(x.quantization.step)
    exact = reference.execute(real, {"x": numbers})["y"].astype(np.float64) / grid.step + grid.zero
    info = np.iinfo(dtype)
    assert np.abs(found - np.clip(exact, info.min, info.max)).max() < 0.51


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_every_half(device, dtype):
    """Sums that are exact multiples of the divisor once half of it is added: the estimate of the
    quotient is off by one where it is rounded to below such a multiple."""
    values = np.arange(255 if dtype == "uint8" else 32767, step=1 if dtype == "uint8" else 61)
    for taps in range(2, 100, 2):
        x = np.tile(values, (1, 1, taps, 1)).astype(dtype)
        x[:, :, ::2] += 1
        found = check(device, Quantized(x, *GRID[dtype]), kind="average", kernel_w=taps)
        assert np.array_equal(found.ravel(), values + 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_halves_to_even(device, dtype):
    x = image((1, 8, 10, 37), dtype, 7)
    found = check(device, x, Quantization.per_tensor(*GRID[dtype], "single"), kind="average",
                  **window(2, 2))
    exact = x.array.astype(np.float64).reshape(1, 4, 2, 5, 2, 37).mean((2, 4))
    assert np.array_equal(found, np.rint(exact))
    assert not np.array_equal(found, np.floor(exact + 0.5))


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_extremes(device, kind, dtype):
    info = np.iinfo(dtype)
    for fill in (info.min, info.max):
        x = image((1, 7, 7, 33), dtype, fill=fill)
        assert np.all(check(device, x, kind=kind, kernel_h=7, kernel_w=7) == fill)
        check(device, x, Quantization.per_tensor(0.01, 0), kind="average", kernel_h=7, kernel_w=7)


def test_averages_that_fill_their_bits(device):
    """A bit more behind the point, and the largest sum would not fit."""
    x = Quantized(np.full((1, 32, 32, 5), 255, np.uint8), 0.05, 0)
    found = check(device, x, Quantization.per_tensor(0.4001), kind="average", kernel_h=32,
                  kernel_w=32)
    assert np.all(found == 32)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_without_taps(device, kind):
    """The least integer, and the one that means 0."""
    found = check(device, image((1, 1, 1, 5), "uint8"), kind=kind, kernel_h=2, dilation_h=2,
                  pad_top=1, pad_bottom=1)
    assert np.all(found == (0 if kind == "max" else 117))


@pytest.mark.parametrize("kind", ["max", "average"])
def test_layers(device, kind):
    check(device, image((1, 56, 56, 64), "uint8", 4), kind=kind, **window(3, 2, 1))
    check(device, image((1, 7, 7, 1280), "uint8", 5), kind=kind, kernel_h=7, kernel_w=7)


@pytest.mark.parametrize("kernel, stride, same", [(2, 2, False), (3, 2, True), (4, 1, True),
                                                   (3, 1, False)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_average_agrees_with_litert(dtype, kernel, stride, same):
    """Bit for bit: it rounds halves away from the stored 0, which int8 keeps at 128 here."""
    shape, signed = (2, 9, 10, 7), dtype == "int8"
    builder, quantization = TFLiteBuilder(), ([0.05], [0 if dtype == "int16" else 3], 0)
    x = builder.input(shape, dtype, quantization=quantization)
    y = builder.op("AVERAGE_POOL_2D", [x], "Pool2DOptions", out=dtype, quantization=quantization,
                   version=3, FilterHeight=kernel, FilterWidth=kernel, StrideH=stride,
                   StrideW=stride, Padding=0 if same else 1)
    values = image(shape, dtype, 8).array if dtype != "int8" else (
        image(shape, "uint8", 8).array ^ 128).view(np.int8)
    want = interpret(builder.finish([y]), {"x0": values})[0]
    graph = Graph()
    stored = (values.view(np.uint8) ^ 128) if signed else values
    x = graph.input("x", shape, stored.dtype.name)
    x.quantization = Quantization.per_tensor(0.05, quantization[1][0] + 128 * signed)
    total = [max((out - 1) * stride + kernel - size, 0)
             for out, size in zip(want.shape[1:3], shape[1:3])]
    y = graph.add("pool2d", [x], kind="average", origin=128 * signed, **window(
        kernel, stride, (total[0] // 2, total[1] // 2, -(-total[0] // 2), -(-total[1] // 2))))
    y.quantization = x.quantization
    graph.output("y", y)
    found = reference.execute(graph, {"x": stored})["y"]
    assert np.array_equal(found, want.astype(np.int64) + 128 * signed)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_small_work_items(device, monkeypatch, kind):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for channels in (1, 6, 16):
        check(device, image((2, 7, 9, channels), "uint8", 6), kind=kind, **window(3, 2, 1))


@pytest.mark.parametrize("dtype, x_grid, y_grid, kind, options, message", [
    ("uint8", None, None, "max", {}, "needed one scale"),
    ("int8", (1.0, 0), (1.0, 0), "max", {}, "is int8"),
    ("uint8", (1.0, 0), None, "max", {}, "needed one scale"),
    ("uint8", (1.0, 0), (1.0, 1), "max", {}, "differ in scale"),
    ("uint8", (1.0, 0), (0.5, 0), "max", {}, "differ in scale"),
    ("uint8", (1.0, 0), (1.0, 0), "average", dict(origin=2**20), "origin"),
    ("uint8", (1.0, 0), (1.0, 0), "max", dict(activation="tanh"), "activation"),
    ("uint8", (1e30, 0), (1e-5, 0), "average", {}, "32 bits"),
    ("int16", (1.0, 0), (1.0, 0), "average", dict(kernel_h=200, kernel_w=200), "32 bits"),
])
def test_invalid(dtype, x_grid, y_grid, kind, options, message):
    graph = Graph()
    x = graph.input("x", (1, 200, 200, 2), dtype)
    x.quantization = x_grid and Quantization.per_tensor(*x_grid)
    with pytest.raises(ModelError, match=message):
        y = graph.add("pool2d", [x], kind=kind, **{"kernel_h": 2, **options})
        y.quantization = y_grid and Quantization.per_tensor(*y_grid)
        OPS["pool2d"].prepare(graph.ops[0], Facts())


def test_another_dtype_is_refused():
    graph = Graph()
    x = graph.input("x", (1, 4, 4, 2), "uint8")
    x.quantization = Quantization.per_tensor(1.0)
    y = graph.add("pool2d", [x], kind="average", kernel_h=2)
    y.dtype, y.quantization = "int16", Quantization.per_tensor(1.0)
    with pytest.raises(ModelError, match="mixes the dtypes"):
        OPS["pool2d"].prepare(graph.ops[0], Facts())
