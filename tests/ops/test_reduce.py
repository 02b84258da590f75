"""Reductions and arg max against NumPy."""
import itertools

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import reduce
from edgerun.tools.graph import Graph
from edgerun.tools.reference import reduce as reference
from tests.harness import check_op
from tests.ops.test_copy import as_gpu, refused, values

SHAPES = [
    ((), ()), ((1,), (0,)), ((7,), (0,)), ((1000,), (0,)), ((5, 37), (1,)), ((5, 37), (0,)),
    ((5, 2), (1,)), ((9, 1, 3), (0,)), ((3, 4, 5, 6), (0, 2)), ((3, 4, 5, 6), (1, 3)),
    ((2, 3, 2, 3, 2, 3, 2, 17), (0, 2, 4, 6)), ((2, 3, 2, 3, 2, 3, 2, 17), (1, 3, 5, 7)),
    ((1, 5, 1, 7), (0, 2)), ((1, 1, 1), (0, 1, 2))]


def numbers(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "prod":
        return rng.uniform(0.9, 1.1, shape).astype(np.float32)
    return rng.uniform(0.1 if kind == "log_sum" else -3, 3, shape).astype(np.float32)


@pytest.mark.parametrize("kind", sorted(reduce.REDUCE))
@pytest.mark.parametrize("shape, axes", [
    ((2, 7, 9, 33), (1, 2)), ((2, 7, 9, 33), (0, 3)), ((2, 7, 9, 33), (0, 1, 2, 3)), ((5, 37), ())])
def test_every_kind(device, shape, axes, kind):
    check_op(device, "reduce", [numbers(shape, kind)], 3e-6, kind=kind, axes=axes)


@pytest.mark.parametrize("kind", ["mean", "max", "log_sum_exp"])
@pytest.mark.parametrize("shape, axes", SHAPES)
def test_every_shape(device, shape, axes, kind):
    check_op(device, "reduce", [numbers(shape, kind)], 3e-6, kind=kind, axes=axes)


@pytest.mark.parametrize("kind", sorted(reduce.REDUCE))
@pytest.mark.parametrize("axes", [(1,), (2,)])
def test_reduce_fp16(device, axes, kind):
    check_op(device, "reduce", [numbers((2, 21, 35), kind)], 2e-3, "fp16", kind=kind, axes=axes,
             keep_dims=False)


@pytest.mark.parametrize("kind", sorted(reduce.REDUCE_INT))
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_reduce_int32(device, axes, kind):
    x = np.random.default_rng(1).integers(-50, 50, (21, 35)).astype(np.int32)
    check_op(device, "reduce", [x], 0, kind=kind, axes=axes)
    check_op(device, "reduce", [values((21, 35), "int32")], 0, kind="max", axes=axes)


def test_mean_of_int32_is_truncated(device):
    x = np.array([[-7, 2], [7, -2], [5, 4]], np.int32)
    found = check_op(device, "reduce", [x], 0, kind="mean", axes=(1,), keep_dims=False)["y0"]
    assert found.tolist() == [-2, 2, 4]


@pytest.mark.parametrize("dtype", ["int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_order_of_every_integer(device, dtype, kind):
    for axes in ((0,), (1,)):
        check_op(device, "reduce", [values((3, 37), dtype)], 0, kind=kind, axes=axes)


@pytest.mark.parametrize("axes", [
    axes for n in range(5) for axes in itertools.combinations(range(4), n)])
@pytest.mark.parametrize("keep_dims", [False, True])
def test_every_set_of_axes(device, axes, keep_dims):
    check_op(device, "reduce", [numbers((3, 4, 5, 18), "sum")], 2e-6, kind="sum", axes=axes,
             keep_dims=keep_dims)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_a_long_sum_keeps_its_digits(device, axes):
    shape = (200_000, 16) if axes == (0,) else (2, 1_000_003)
    x = numbers(shape, "log_sum")
    found = check_op(device, "reduce", [x], 1e-5, kind="mean", axes=axes)["y0"]
    np.testing.assert_allclose(found, x.astype(np.float64).mean(axes, keepdims=True), rtol=3e-6)


@pytest.mark.parametrize("axes", [(0,), (1,)])
@pytest.mark.parametrize("offset", [-500.0, 500.0])
def test_log_sum_exp_does_not_overflow(device, axes, offset):
    check_op(device, "reduce", [numbers((33, 35), "sum") + np.float32(offset)], 1e-6,
             kind="log_sum_exp", axes=axes)


def test_real_layers(device):
    check_op(device, "reduce", [numbers((1, 7, 7, 1280), "mean")], 1e-6, kind="mean", axes=(1, 2))
    check_op(device, "reduce", [numbers((1, 56, 56, 144), "mean")], 1e-6, kind="mean", axes=(1, 2))


def test_every_kind_has_a_reference():
    assert {*reduce.REDUCE, *reduce.REDUCE_INT} == {*reference.REDUCE}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape, axis", [
    ((), 0), ((1,), 0), ((7,), 0), ((1000,), -1), ((5, 37), 1), ((5, 37), 0), ((3, 9, 2), 1),
    ((2, 8, 9, 21), -1), ((2, 21, 8, 9), 1), ((4, 2), 1), ((4, 1), 1)])
def test_arg(device, shape, axis, kind, last, precision):
    """Few different values, so that equal ones are everywhere."""
    x = np.random.default_rng(2).integers(0, 6, shape).astype(np.float32)
    for keep_dims in (False, True):
        check_op(device, "arg", [x], 0, precision, kind=kind, last=last, axis=axis,
                 keep_dims=keep_dims)


@pytest.mark.parametrize("dtype", ["int32", "int16", "int8", "uint8"])
def test_arg_integers(device, dtype):
    for axis in (0, 1):
        for kind in ("max", "min"):
            check_op(device, "arg", [values((33, 35), dtype)], 0, kind=kind, axis=axis)


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    for axes in ((0,), (1,)):
        check_op(device, "reduce", [numbers((33, 301), "mean")], 2e-6, kind="mean", axes=axes)
        check_op(device, "arg", [numbers((33, 301), "mean")], 0, kind="max", axis=axes[0])


def test_invalid_reduce():
    refused("has no kind 'median' for fp32", "reduce", (2, 3), kind="median", axes=(0,))
    for axes in ((1, 0), (0, 0), (2,), (-1,)):
        refused("needed ascending axes of the 2", "reduce", (2, 3), kind="sum", axes=axes)
    graph = Graph()
    with pytest.raises(ModelError, match="has no kind 'l2' for int32"):
        graph.add("reduce", [graph.input("a", (2, 3), "int32")], kind="l2", axes=(0,))


def test_invalid_arg():
    refused("has no kind 'mean'", "arg", (2, 3), kind="mean", axis=0)
    refused("axis 2 of 2", "arg", (2, 3), kind="max", axis=2)
    graph = Graph()
    with pytest.raises(ModelError, match="a is bool, needed"):
        graph.add("arg", [graph.input("a", (2, 3), "bool")], kind="max")
