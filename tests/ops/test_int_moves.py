"""Ops that move elements, on quantized tensors of odd sizes: against NumPy, bit for bit."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts, pad
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import Quantized, check_integer, run_guarded, session_of

DTYPES = ["uint8", "int8", "int16"]
GRID = (0.05, 17)


def integers(shape, dtype, seed=0):
    info = np.iinfo(dtype)
    rng = np.random.default_rng([seed, *shape])
    return Quantized(rng.integers(info.min, info.max, shape, dtype, endpoint=True), *GRID)


def check(device, code, x, *others, **options):
    return check_integer(device, code, [x, *others], x.array.dtype.name,
                         Quantization.per_tensor(*GRID), **options)


# rows shorter than a vector, as long as some, and not a multiple of any
SHAPES = [(1,), (3, 5), (2, 3, 19), (2, 5, 7, 33), (1, 3, 67, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_moves(device, shape, dtype):
    x, rank = integers(shape, dtype), len(shape)
    check(device, "reshape", x, shape=(x.array.size,))
    check(device, "transpose", x, perm=tuple(range(rank))[::-1])
    check(device, "transpose", x, perm=(*range(1, rank), 0))
    check(device, "tile", x, repeats=(2,) * rank)
    check(device, "expand", x, shape=(3, *shape))
    check(device, "slice", x, starts=tuple(n - 1 for n in shape), steps=(-1,) * rank, sizes=shape)
    check(device, "slice", x, starts=tuple(n // 3 for n in shape), steps=(1,) * rank,
          sizes=tuple(n - n // 3 for n in shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gather_and_where(device, shape, dtype):
    x, rng = integers(shape, dtype), np.random.default_rng(1)
    for axis in range(len(shape)):
        indices = rng.integers(-shape[axis], shape[axis], (3, 5)).astype(np.int32)
        check(device, "gather", x, indices, axis=axis)
    condition = rng.random(shape) < 0.5
    check_integer(device, "where", [condition, x, integers(shape, dtype, 2)], dtype,
                  Quantization.per_tensor(*GRID))
    check_integer(device, "where", [condition, x, integers((1,), dtype, 2)], dtype,
                  Quantization.per_tensor(*GRID))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", pad.MODES)
def test_pad(device, mode, dtype):
    for shape in SHAPES:
        amount = [min(2, n - 1) for n in shape]
        check(device, "pad", integers(shape, dtype), mode=mode, before=amount, after=amount)


@pytest.mark.parametrize("value, expected", [(0.0, 17), (1.0, 37), (-0.6, 5), (-1e9, 0),
                                             (float("inf"), 255)])
def test_pad_with_a_number(device, value, expected):
    """The nearest integer to it: the zero point for 0, the ends beyond the range."""
    found = check(device, "pad", integers((3, 5), "uint8"), mode="constant", before=(1, 2),
                  after=(2, 1), value=value)
    assert np.all(found[0] == expected) and np.all(found[:, 0] == expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("height, width, channels, block", [(3, 5, 12, 2), (2, 3, 27, 3),
                                                            (5, 7, 4, 2)])
def test_depth_to_space_and_back(device, height, width, channels, block, dtype):
    depth = channels // block**2
    x = integers((1, height, width, channels), dtype, 3)
    graph = Graph()
    y = graph.input("x", x.array.shape, dtype)
    y.quantization = x.quantization
    split = (1, height, width, block, block, depth)
    y = graph.add("reshape", [y], shape=split)
    y = graph.add("transpose", [y], perm=(0, 1, 3, 2, 4, 5))
    y = graph.add("reshape", [y], shape=(1, height * block, width * block, depth))
    graph.output("space", y)
    back = graph.add("reshape", [y], shape=(1, height, block, width, block, depth))
    back = graph.add("transpose", [back], perm=(0, 1, 3, 2, 4, 5))
    graph.output("depth", graph.add("reshape", [back], shape=x.array.shape))
    want = reference.execute(graph, {"x": x.array})
    with session_of(device, graph) as session:
        found = run_guarded(session, {"x": x.array})
    assert np.array_equal(found["space"], want["space"])
    assert np.array_equal(found["depth"], x.array)


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    x = integers((2, 5, 7, 33), "uint8", 4)
    check(device, "transpose", x, perm=(0, 3, 1, 2))
    check(device, "tile", x, repeats=(1, 2, 1, 2))
    check(device, "pad", x, mode="reflect", before=(0, 1, 2, 3), after=(1, 3, 1, 2))
    check(device, "gather", x, np.array([3, -1, 0], np.int32), axis=2)


@pytest.mark.parametrize("y_grid, message", [(None, "needed one scale"), ((0.05, 16), "differ in"),
                                             ((0.06, 17), "differ in")])
def test_a_pad_keeps_the_grid(y_grid, message):
    graph = Graph()
    x = graph.input("x", (3, 4), "uint8")
    x.quantization = Quantization.per_tensor(*GRID)
    y = graph.add("pad", [x], mode="constant", before=(1, 1), after=(1, 1))
    y.quantization = y_grid and Quantization.per_tensor(*y_grid)
    with pytest.raises(ModelError, match=message):
        OPS["pad"].prepare(graph.ops[0], Facts())


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("shapes, axis", [
    ([(2, 7, 5), (2, 7, 33), (2, 7, 1)], 2), ([(5, 9, 1), (5, 9, 1)], 2),
    ([(3, 700, 1), (3, 700, 1)], 2), ([(6, 4)] * 6, 0)])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_concat(device, shapes, axis, dtype, rounding):
    """Tensors of the grid of the result among others."""
    grids = [(0.05, 17), (0.03, 200), (0.05, 17), (0.2, 0), (0.05, 17), (0.05, 17)]
    for first in (0, 1):
        inputs = [Quantized(integers(shape, dtype, k).array, scale,
                            zero if dtype == "uint8" else 0)
                  for k, (shape, (scale, zero)) in enumerate(zip(shapes, grids[first:] + grids))]
        check_integer(device, "concat", inputs, dtype,
                      Quantization.per_tensor(0.05, 17 if dtype == "uint8" else 0, rounding),
                      axis=axis)
