"""Resampling of quantized images: against NumPy exactly, and NumPy against LiteRT."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import Quantized, check_integer
from tests.tools.test_tflite_importer import interpret
from tests.tools.tflite_builder import TFLiteBuilder

GRID = {"uint8": (0.05, 117), "int16": (0.0002, 0)}
MODES = ["half_pixel", "align_corners", "asymmetric"]


def image(shape, dtype, seed=0):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    q = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    extreme = rng.random(shape)
    q[extreme < 0.2], q[extreme > 0.8] = info.min, info.max
    return Quantized(q, *GRID[dtype])


def sizes(shape, height, width):
    return dict(height=height, width=width, scale_h=height / shape[1], scale_w=width / shape[2])


def check(device, x, height, width, **options):
    dtype = x.array.dtype.name
    return check_integer(device, "resize", [x], dtype, Quantization.per_tensor(*GRID[dtype]),
                         **{**sizes(x.array.shape, height, width), **options})


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["nearest", "linear"])
@pytest.mark.parametrize("shape, height, width", [
    ((1, 1, 1, 1), 3, 2), ((1, 5, 7, 3), 10, 13), ((2, 9, 6, 4), 4, 6), ((1, 8, 8, 16), 3, 5),
    ((1, 7, 5, 17), 28, 20), ((3, 4, 11, 37), 9, 3), ((2, 3, 4, 70), 7, 19)])
def test_shapes(device, shape, height, width, kind, dtype):
    for mode in MODES:
        check(device, image(shape, dtype), height, width, kind=kind, coordinate_mode=mode,
              nearest_mode="round_prefer_floor", origin=128 if dtype == "uint8" else 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("mode", MODES)
def test_coarse(device, mode, dtype):
    for shape, height, width in (((1, 5, 7, 3), 10, 14), ((1, 8, 8, 16), 3, 5),
                                 ((1, 33, 9, 5), 200, 65)):
        check(device, image(shape, dtype, 1), height, width, kind="linear", coordinate_mode=mode,
              coarse=True, origin=128 if dtype == "uint8" else 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["nearest", "linear"])
def test_outside(device, kind, dtype):
    """The extrapolation value is a real number, stored as the nearest step."""
    found = check(device, image((1, 6, 5, 7), dtype, 2), 9, 8, kind=kind, nearest_mode="floor",
                  coordinate_mode="tf_crop_and_resize", roi=(-0.5, 0.2, 1.2, 0.9),
                  extrapolation_value=1.0)
    assert np.all(found[0, 0] == (137 if dtype == "uint8" else 5000))


def test_extremes_stay(device):
    """A mean of equal integers is that integer, at either end."""
    for dtype in ("uint8", "int16"):
        info = np.iinfo(dtype)
        for value in (info.min, info.max):
            x = image((1, 5, 7, 19), dtype)
            x.array[...] = value
            for coarse in (False, True):
                assert np.all(check(device, x, 11, 9, kind="linear", coordinate_mode="half_pixel",
                                    coarse=coarse) == value)


def test_layer(device):
    check(device, image((1, 33, 33, 21), "uint8", 3), 257, 257, kind="linear",
          coordinate_mode="align_corners")


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for channels in (1, 6, 16):
        check(device, image((2, 7, 9, channels), "uint8", 4), 10, 12, kind="linear",
              coordinate_mode="half_pixel")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("align, half", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size, out", [((5, 7), (10, 14)), ((8, 8), (3, 5)), ((9, 9), (65, 65)),
                                       ((32, 32), (256, 256)), ((33, 33), (257, 200)),
                                       ((17, 23), (19, 41))])
def test_agrees_with_litert(size, out, align, half, dtype):
    """int8 and int16 bit for bit; uint8, which LiteRT computes in fp32, but for ties."""
    shape, signed = (1, *size, 5), dtype == "int8"
    builder = TFLiteBuilder()
    grid = dict(quantization=([0.05], [0], 0))
    x = builder.input(shape, dtype, **grid)
    y = builder.op("RESIZE_BILINEAR", [x, builder.const(np.array(out, np.int32))],
                   "ResizeBilinearOptions", out=dtype, version=4 if dtype == "int16" else 3,
                   AlignCorners=align, HalfPixelCenters=half, **grid)
    info = np.iinfo(dtype)
    values = np.random.default_rng(5).integers(info.min, info.max, shape, dtype, endpoint=True)
    want = interpret(builder.finish([y]), {"x0": values})[0].astype(np.int64) + 128 * signed
    stored = (values.astype(np.int16) + 128).astype(np.uint8) if signed else values
    graph = Graph()
    q = graph.input("x", shape, stored.dtype.name)
    q.quantization = Quantization.per_tensor(0.05, 128 * signed)
    mode = "align_corners" if align else "half_pixel" if half else "asymmetric"
    y = graph.add("resize", [q], kind="linear", coordinate_mode=mode, coarse=dtype != "uint8",
                  origin=128 * signed, **sizes(shape, *out))
    y.quantization = q.quantization
    graph.output("y", y)
    found = reference.execute(graph, {"x": stored})["y"].astype(np.int64)
    if dtype != "uint8":
        assert np.array_equal(found, want)
    else:
        assert np.abs(found - want).max() <= 1 and (found == want).mean() >= 0.95


@pytest.mark.parametrize("x_grid, y_grid, options, message", [
    (None, None, {}, "needed one scale"),
    ((1.0, 0), None, {}, "needed one scale"),
    ((1.0, 0), (1.0, 1), {}, "differ in scale"),
    ((1.0, 0), (1.0, 0), dict(origin=1000), "origin 1000"),
    ((1.0, 0), (1.0, 0), dict(coarse=True, coordinate_mode="tf_half_pixel_for_nn"), "is coarse"),
    ((1.0, 0), (1.0, 0), dict(coarse=True, height=2**21, scale_h=2**19), "is coarse"),
])
def test_invalid(x_grid, y_grid, options, message):
    graph = Graph()
    x = graph.input("x", (1, 4, 4, 2), "uint8")
    x.quantization = x_grid and Quantization.per_tensor(*x_grid)
    with pytest.raises(ModelError, match=message):
        y = graph.add("resize", [x], **{
            **dict(kind="linear", coordinate_mode="half_pixel", height=8, width=8, scale_h=2.0,
                   scale_w=2.0), **options})
        y.quantization = y_grid and Quantization.per_tensor(*y_grid)
        OPS["resize"].prepare(graph.ops[0], Facts())
