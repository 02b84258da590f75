"""Reductions of quantized tensors: against NumPy, and sums and means against LiteRT."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import Quantized, check_integer, check_op
from tests.tools.test_tflite_importer import interpret
from tests.tools.tflite_builder import TFLiteBuilder

GRID = {"uint8": (0.05, 117), "int16": (0.0002, 0)}
# kind, dtype -> a grid for the result of about a hundred elements
SUMS = {"uint8": (0.5, 90), "int16": (0.002, 0)}
SHAPES = [((7,), (0,)), ((3, 37), (1,)), ((3, 37), (0,)), ((2, 5, 6, 16), (1, 2)),
          ((2, 5, 6, 16), (0, 3)), ((2, 7, 5, 3), (1, 2, 3)), ((5, 4), ())]


def integers(shape, dtype, seed=0, fill=None):
    info = np.iinfo(dtype)
    q = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)
    if fill is not None:
        q[...] = fill
    return Quantized(q, *GRID[dtype])


def grid(dtype, rounding="once", of=GRID):
    return Quantization.per_tensor(*of[dtype], rounding)


@pytest.mark.parametrize("rounding", ["once", "twice", "upward", "single"])
@pytest.mark.parametrize("x_type, y_type", [("uint8", "uint8"), ("int16", "int16"),
                                            ("uint8", "int16"), ("int16", "uint8")])
@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_sums(device, kind, x_type, y_type, rounding):
    for shape, axes in SHAPES:
        for of in (GRID, SUMS):
            check_integer(device, "reduce", [integers(shape, x_type)], y_type,
                          grid(y_type, rounding, of), kind=kind, axes=axes)
    check_integer(device, "reduce", [integers((2, 5, 6, 19), x_type)], y_type, grid(y_type),
                  kind=kind, axes=(1, 2), keep_dims=False)


@pytest.mark.parametrize("axes", [(1, 2), (2, 3)])
def test_long_sums(device, axes):
    """More elements than a group of the fold, and steps so fine that every one of them counts."""
    for kind, step in (("sum", 0.05), ("mean", 0.05 / 1600)):
        found = check_integer(device, "reduce", [integers((2, 40, 40, 40), "uint8", 7)], "int16",
                              Quantization.per_tensor(step), kind=kind, axes=axes)
        assert len(np.unique(found)) > found.size // 2 and np.abs(found).max() < 2**15 - 1


def test_mean_is_the_nearest_step(device):
    x = integers((1, 7, 7, 64), "uint8", 1)
    found = check_integer(device, "reduce", [x], "uint8", Quantization.per_tensor(0.02, 90),
                          kind="mean", axes=(1, 2))
    exact = (x.array.astype(np.float64) - 117).mean((1, 2), keepdims=True) * 0.05 / 0.02 + 90
    assert np.abs(found - exact).max() <= 0.5001


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_order(device, kind, dtype):
    """Integers are compared where both grids are one; numbers, exactly too, where not."""
    for shape, axes in SHAPES:
        x = integers(shape, dtype, 2)
        found = check_integer(device, "reduce", [x], dtype, grid(dtype), kind=kind, axes=axes)
        assert np.array_equal(found, getattr(np, kind)(x.array, axes, keepdims=True))
        check_integer(device, "reduce", [x], "uint8", Quantization.per_tensor(0.07, 30), kind=kind,
                      axes=axes)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["l1", "l2", "sum_square", "log_sum_exp", "prod"])
def test_other_kinds(device, kind, dtype):
    x = Quantized(integers((3, 5, 21), dtype, 3).array, 0.02 if dtype == "uint8" else 1e-4,
                  117 if dtype == "uint8" else 0)
    y = Quantization.per_tensor(0.3, 20) if dtype == "uint8" else Quantization.per_tensor(2e-3)
    for axes in ((2,), (1,)):
        check_integer(device, "reduce", [x], dtype, y, within=1, kind=kind, axes=axes)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_extremes(device, dtype):
    info = np.iinfo(dtype)
    for fill in (info.min, info.max):
        x = integers((1, 64, 64, 5), dtype, fill=fill)
        found = check_integer(device, "reduce", [x], dtype, grid(dtype), kind="mean", axes=(1, 2))
        assert np.all(found == fill)
        check_integer(device, "reduce", [x], dtype, grid(dtype), kind="sum", axes=(1, 2))


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for shape, axes in SHAPES:
        check_integer(device, "reduce", [integers(shape, "uint8", 4)], "uint8", grid("uint8"),
                      kind="mean", axes=axes)


@pytest.mark.parametrize("kind, axes, keep", [
    ("sum", (1, 2), True), ("sum", (3,), False), ("mean", (1, 2), False), ("mean", (3,), True),
    ("mean", (1, 2, 3), True), ("mean", (1,), False), ("mean", (1, 2), True)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_agrees_with_litert(dtype, kind, axes, keep):
    """Means bit for bit; sums, which it computes in fp32, but for ties."""
    shape, signed = (2, 7, 6, 21), dtype == "int8"
    differ = total = 0
    for seed, (sx, sy) in enumerate([(0.05, 0.02), (0.05, 0.05), (0.02, 0.033)]):
        zx, zy = {"int16": (0, 0), "int8": (3, -4), "uint8": (100, 30)}[dtype]
        sy = sy * 40 if kind == "sum" else sy
        builder = TFLiteBuilder()
        x = builder.input(shape, dtype, quantization=([sx], [zx], 0))
        y = builder.op("SUM" if kind == "sum" else "MEAN",
                       [x, builder.const(np.array(axes, np.int32))], "ReducerOptions", out=dtype,
                       quantization=([sy], [zy], 0), version=2, KeepDims=keep)
        info = np.iinfo(dtype)
        values = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype,
                                                      endpoint=True)
        want = interpret(builder.finish([y]), {"x0": values})[0].astype(np.int64) + 128 * signed
        stored = (values.astype(np.int16) + 128).astype(np.uint8) if signed else values
        graph = Graph()
        q = graph.input("x", shape, stored.dtype.name)
        q.quantization = Quantization.per_tensor(sx, zx + 128 * signed)
        y = graph.add("reduce", [q], kind=kind, axes=axes, keep_dims=keep, origin=128 * signed)
        upward = signed and kind == "mean" and axes == (1, 2) and keep
        y.quantization = Quantization.per_tensor(sy, zy + 128 * signed,
                                                 "upward" if upward else "twice")
        graph.output("y", y)
        found = reference.execute(graph, {"x": stored})["y"].astype(np.int64)
        assert found.shape == want.shape and np.abs(found - want).max() <= 1
        differ, total = differ + (found != want).sum(), total + found.size
    if kind == "sum":
        assert differ <= 0.1 * total
    else:
        assert differ == 0


@pytest.mark.parametrize("x_grid, y_type, y_grid, options, message", [
    ((1.0, 0), "uint8", None, dict(kind="mean"), "needed one scale"),
    ((1.0, 0), "uint8", None, dict(kind="l2"), "needed one scale"),
    ((1.0, 0), "fp32", None, dict(kind="mean"), "is fp32"),
    ((1.0, 0), "fp32", None, dict(kind="l2"), "is fp32"),
    ((1.0, 0), "uint8", (1e-9, 0), dict(kind="sum"), "32 bits"),
    ((1.0, 0), "uint8", (1.0, 0), dict(kind="mean", origin=1000), "origin 1000"),
    (None, "int16", None, dict(kind="max"), "mixes the dtypes"),
])
def test_invalid(x_grid, y_type, y_grid, options, message):
    graph = Graph()
    x = graph.input("x", (1, 4, 4, 2), "uint8")
    x.quantization = x_grid and Quantization.per_tensor(*x_grid)
    with pytest.raises(ModelError, match=message):
        y = graph.add("reduce", [x], axes=(1,), **options)
        y.dtype, y.quantization = y_type, y_grid and Quantization.per_tensor(*y_grid)
        OPS["reduce"].prepare(graph.ops[0], Facts())


def test_sums_that_may_overflow_are_refused():
    graph = Graph()
    x = graph.input("x", (300, 300), "int16")
    x.quantization = Quantization.per_tensor(1.0)
    y = graph.add("reduce", [x], axes=(0, 1), kind="mean")
    y.quantization = Quantization.per_tensor(1.0)
    with pytest.raises(ModelError, match="32 bits"):
        OPS["reduce"].prepare(graph.ops[0], Facts())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_arg(device, kind, last, dtype):
    """The order of integers is that of what they mean; ties as for floats."""
    info = np.iinfo(dtype)
    for shape, axis in (((1,), 0), ((5,), 0), ((3, 37), 1), ((2, 11, 5), 1), ((1, 9, 9, 21), 3)):
        x = np.random.default_rng(5).integers(info.min, info.max, shape, dtype, endpoint=True)
        x[np.random.default_rng(6).random(shape) < 0.6] = info.max if kind == "max" else info.min
        check_op(device, "arg", [x], kind=kind, axis=axis, last=last)
