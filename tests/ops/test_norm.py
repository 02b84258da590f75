"""layer_norm, instance_norm and l2_normalize against NumPy in fp64."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op
from tests.ops.test_copy import as_gpu, refused, values


def parameters(shape, gamma, beta):
    return ([Const(values(shape, seed=1))] if gamma else [None]) + (
        [Const(values(shape, seed=2))] if beta else [])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("shape, axis", [
    ((1,), 0), ((7,), 0), ((3, 17), 1), ((3, 17), 0), ((2, 5, 64), -1), ((2, 3, 5, 7), 2),
    ((5, 1), 1), ((9, 3), -1), ((2, 5000), 1)])
def test_layer_norm(device, shape, axis, gamma, beta, precision):
    check_op(device, "layer_norm", [values(shape), *parameters(shape[axis:], gamma, beta)], 3e-6,
             precision, axis=axis)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("gamma, beta", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("shape", [
    (1, 1), (2, 5), (2, 9, 1), (1, 7, 9, 3), (2, 7, 9, 16), (1, 16, 16, 37), (1, 17, 16, 20),
    (2, 3, 5, 7, 18), (1, 40, 40, 2)])
def test_instance_norm(device, shape, gamma, beta, precision):
    check_op(device, "instance_norm", [values(shape), *parameters(shape[-1:], gamma, beta)], 3e-6,
             precision, epsilon=1e-3)


@pytest.mark.parametrize("code", ["layer_norm", "instance_norm"])
def test_a_large_mean_costs_no_digits_of_the_variance(device, code):
    """x^2 would lose everything here: mean 4096, deviation 1/8 exactly representable steps."""
    x = (4096 + np.round(values((2, 5000, 3)) * 32) / 256).astype(np.float32)
    if code == "layer_norm":
        x = np.ascontiguousarray(x.transpose(0, 2, 1))
    check_op(device, code, [x], 2e-3)


def test_parameters_that_are_computed(device):
    check_op(device, "layer_norm", [values((3, 18)), values((18,), seed=1), values((18,), seed=2)],
             3e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 17), (2, 5, 128), (5, 1), (9, 3), (2, 1001)])
def test_l2_normalize(device, shape, precision):
    check_op(device, "l2_normalize", [values(shape)], 2e-6, precision, epsilon=1e-12)
    check_op(device, "l2_normalize", [values(shape)], 2e-6, precision, epsilon=50.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 16), (2, 5, 37), (1, 300)])
def test_round_rows(device, shape, precision):
    x = values(shape) * np.arange(1, 1 + np.prod(shape[:-1])).reshape(*shape[:-1], 1)
    found = check_op(device, "round_rows", [x.astype(np.float32)], 3e-6, precision)["y0"]
    if precision == "fp32":
        steps = found / (np.abs(x).max(-1, keepdims=True) / 127)
        assert np.allclose(steps, np.rint(steps), atol=1e-4)


def test_halves_are_rounded_away_from_0(device):
    """127 is the step 1."""
    x = np.float32([[127, 0.5, -0.5, 1.5, -2.5, 0.49, 0, -127], [0] * 8])
    found = check_op(device, "round_rows", [x], 0)["y0"]
    assert found.tolist() == [[127, 1, -1, 2, -3, 0, 0, -127], [0] * 8]


def test_nothing_but_zeros(device):
    x = np.zeros((2, 20), np.float32)
    for code in ("l2_normalize", "layer_norm", "instance_norm"):
        check_op(device, code, [x], 0)


def test_real_layers(device):
    check_op(device, "layer_norm", [values((1, 197, 768)), *parameters((768,), True, True)], 3e-6,
             epsilon=1e-6)
    check_op(device, "instance_norm", [values((1, 112, 112, 64)), *parameters((64,), True, True)],
             3e-6)


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    check_op(device, "layer_norm", [values((7, 301))], 3e-6)
    check_op(device, "instance_norm", [values((2, 30, 30, 7))], 3e-6)


def test_invalid():
    refused("is a scalar", "layer_norm", ())
    refused("axis 2 of 2", "layer_norm", (2, 3), axis=2)
    refused("needed at least 2 dimensions", "instance_norm", (3,))
    refused("is a scalar", "l2_normalize", ())
    refused("is a scalar", "round_rows", ())
    for epsilon in (-1.0, float("inf"), float("nan")):
        refused("needed a finite number", "layer_norm", (2, 3), epsilon=epsilon)
    graph = Graph()
    x, gamma, whole = (graph.input(name, shape, dtype) for name, shape, dtype in [
        ("x", (2, 4, 3), "fp32"), ("gamma", (4,), "fp32"), ("whole", (2, 3), "int32")])
    for code, inputs, match in [
            ("layer_norm", [x, gamma], r"gamma has the shape \(4,\), needed \(3,\)"),
            ("layer_norm", [x, None, gamma], r"gamma has the shape \(4,\), needed \(3,\)"),
            ("instance_norm", [x, gamma], r"gamma has the shape \(4,\), needed \(3,\)"),
            ("layer_norm", [x, whole], "mixes the dtypes"),
            ("l2_normalize", [whole], "whole is int32, needed fp32 or fp16"),
            ("round_rows", [whole], "whole is int32, needed fp32 or fp16")]:
        with pytest.raises(ModelError, match=match):
            graph.add(code, inputs)
