"""dense against NumPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rows", [(), (1,), (2,), (7,), (1, 5), (3, 2, 5)])
@pytest.mark.parametrize("in_c, out_c", [(1, 1), (3, 2), (5, 17), (16, 16), (33, 50), (128, 64)])
def test_shapes(device, rows, in_c, out_c, precision):
    check_op(device, "dense", [
        numbers(*rows, in_c), Const(numbers(out_c, in_c, seed=1)), Const(numbers(out_c, seed=2))],
        1e-5, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rows", [1, 10])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["", "relu", "clip", "gelu"])
def test_bias_residual_activation(device, rows, bias, activation, precision):
    check_op(device, "dense", [
        numbers(rows, 21), Const(numbers(35, 21, seed=1)),
        Const(numbers(35, seed=2)) if bias else None, numbers(rows, 35, seed=3)],
        1e-5, precision, activation=activation, alpha=-0.5, beta=0.75)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("rows, in_c, out_c", [(1, 4096, 1000), (1, 9216, 10), (197, 192, 576)])
def test_real_layers(device, rows, in_c, out_c, precision):
    check_op(device, "dense", [
        numbers(rows, in_c), Const(numbers(out_c, in_c, seed=1)), Const(numbers(out_c, seed=2))],
        1e-5, precision, activation="relu")


@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 4), Facts("cpu", 8)])
@pytest.mark.parametrize("rows", [1, 9])
def test_as_on_other_devices(device, monkeypatch, facts, rows):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check_op(device, "dense", [numbers(rows, 70), Const(numbers(37, 70, seed=1))])


def test_macs():
    graph = Graph()
    op = graph.insert(0, "dense", [graph.input("x", (2, 3, 6), "fp32"),
                                   graph.constant(numbers(12, 6))])
    assert OPS["dense"].macs(op) == 2 * 3 * 6 * 12


@pytest.mark.parametrize("inputs, message", [
    ([(2, 3), (4, 3, 1)], "needed 2 dimensions"),
    ([(2, 3), (4, 2)], r"does not fit the last axis of x \(2, 3\)"),
    ([(), (4, 2)], "does not fit the last axis"),
    ([(2, 3), (4, 3), (3,)], r"shape \(3,\), needed \(4,\)"),
    ([(2, 3), (4, 3), None, (2, 3)], r"shape \(2, 3\), needed \(2, 4\)"),
    ([(2**20, 1), (2**11, 1)], "is too large")])
def test_refused(inputs, message):
    graph = Graph()
    with pytest.raises(ModelError, match=message):
        graph.add("dense", [s if s is None else graph.input("x", s, "fp32") for s in inputs])


def test_dtypes():
    graph = Graph()
    x, w = graph.input("x", (2, 3), "fp16"), graph.input("w", (4, 3), "fp32")
    with pytest.raises(ModelError, match="mixes the dtypes fp16, fp32"):
        graph.add("dense", [x, w])
    with pytest.raises(ModelError, match="is fp16, needed fp32"):
        graph.add("dense", [x, graph.input("w", (4, 3), "fp16"), graph.input("bias", (4,), "fp16")])
    with pytest.raises(ModelError, match="is int32, needed fp32 or fp16"):
        graph.add("dense", [graph.input("i", (2, 3), "int32"), w])


def test_weights_in_rows_are_refused_by_the_device():
    graph = Graph()
    op = graph.insert(0, "dense", [graph.input("x", (2, 3), "fp32"), graph.constant(numbers(4, 3))])
    with pytest.raises(ModelError, match="layout rows, needed oc16"):
        OPS["dense"].prepare(op, Facts())
