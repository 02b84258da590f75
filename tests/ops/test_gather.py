"""gather and where against NumPy, bit for bit."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op
from tests.ops.test_copy import DTYPES, as_gpu, values


def picks(shape, n, seed=3):
    return np.random.default_rng(seed).integers(-n, n, shape).astype(np.int32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape, indices, axis", [
    ((1,), (), 0), ((7,), (5,), 0), ((7, 33), (), 0), ((7, 33), (4,), 0), ((7, 33), (100,), 1),
    ((2, 9, 37), (3, 5), 1), ((2, 9, 37), (1,), -1), ((2, 1, 3), (4,), 1),
    ((2, 2, 2, 2), (1, 2, 1, 2, 1), 2), ((300, 96), (128,), 0)])
def test_gather(device, shape, indices, axis, precision):
    x, k = values(shape), picks(indices, shape[axis])
    tolerance = 0 if precision == "fp32" else 2e-3
    check_op(device, "gather", [x, k], tolerance, precision, axis=axis)
    check_op(device, "gather", [x, Const(k)], tolerance, precision, axis=axis)
    check_op(device, "gather", [Const(x), k], tolerance, precision, axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_every_dtype(device, dtype):
    check_op(device, "gather", [values((5, 6, 17), dtype), picks((3,), 6)], 0, axis=1)


def test_an_index_outside_is_clamped(device):
    k = np.array([-2**31, -6, -5, 4, 5, 2**31 - 1], np.int32)
    check_op(device, "gather", [values((5, 3)), k], 0, axis=0)


def test_invalid_gather():
    graph = Graph()
    x, k = graph.input("x", (5, 3), "fp32"), graph.input("k", (2,), "int32")
    for inputs, axis, match in [
            ([x, graph.constant(np.array([0, 5], np.int32))], 0,
             "values from 0 to 5, needed -5 to 4"),
            ([x, graph.constant(np.array([-6, 1], np.int32))], 0, "values from -6 to 1"),
            ([x, k], 2, "axis 2 of 2"), ([x, x], 0, "x is fp32, needed int32"),
            ([graph.input("s", (), "fp32"), k], 0, "s is a scalar"),
            ([graph.input("r", (1,) * 8, "fp32"), graph.input("m", (1, 1), "int32")], 0,
             "9 dimensions, at most 8")]:
        with pytest.raises(ModelError, match=match):
            graph.add("gather", inputs, axis=axis)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shapes", [
    ((1,), (1,), (1,)), ((37,), (37,), (37,)), ((5, 1), (1, 37), ()), ((), (3, 5), (5,)),
    ((1, 1, 9, 9), (2, 3, 9, 9), ()), ((2, 1, 2, 1, 2, 1, 2, 1), (1, 3) * 4, (2,) + (1,) * 7)])
def test_where(device, shapes, precision):
    condition, a, b = (values(s, t, i) for i, (s, t) in enumerate(
        zip(shapes, ("bool", "float32", "float32"))))
    tolerance = 0 if precision == "fp32" else 2e-3
    check_op(device, "where", [condition, a, b], tolerance, precision)
    check_op(device, "where", [condition, a, Const(b)], tolerance, precision)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_every_dtype(device, dtype):
    check_op(device, "where", [values((5000,), "bool"), values((5000,), dtype, 1),
                               values((5000,), dtype, 2)], 0)


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    check_op(device, "gather", [values((2, 9, 37)), picks((5,), 9)], 0, axis=1)
    check_op(device, "where", [values((5, 1), "bool"), values((5, 37)), values((37,))], 0)


def test_invalid_where():
    graph = Graph()
    c, a, b, i = (graph.input(name, shape, dtype) for name, shape, dtype in [
        ("c", (3,), "bool"), ("a", (3,), "fp32"), ("b", (2,), "fp32"), ("i", (3,), "int32")])
    for inputs, match in [([a, a, a], "a is fp32, needed bool"), ([c, a, i], "mixes the dtypes"),
                          ([c, a, b], "do not broadcast")]:
        with pytest.raises(ModelError, match=match):
            graph.add("where", inputs)
