"""Ops that compute with real numbers, reading and writing them as integers.

The reference computes with the dequantized input and quantizes the result. Roots, powers and
exponentials of devices differ in their last bits, so a result near the middle of two steps may land
on either: one step is allowed, and nearly all elements must be equal.
"""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer, check_mixed

TYPES = [("uint8", "uint8"), ("int16", "int16"), ("uint8", "int16"), ("int16", "uint8")]
# dtype -> scale and zero point that put real numbers around -4 .. 4 on the grid
GRID = {"uint8": (4 / 128, 117), "int16": (4 / 32768, 0)}
NORMALIZED = {"uint8": Quantization.per_tensor(1 / 40, 131), "int16": Quantization.per_tensor(1e-4)}
PARTS = {"uint8": Quantization.per_tensor(1 / 256), "int16": Quantization.per_tensor(1 / 32768)}


def integers(shape, dtype, seed=0):
    info = np.iinfo(dtype)
    q = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)
    q.flat[:2] = (info.min, info.max)[:q.size]
    return Quantized(q, *GRID[dtype])


def gamma_beta(n, seed=9):
    rng = np.random.default_rng(seed)
    return [Const(rng.uniform(0.5, 1.5, n).astype(np.float32)),
            Const(rng.normal(size=n).astype(np.float32) / 4)]


@pytest.mark.parametrize("x_type, y_type", TYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 16), (2, 3, 4, 7), (1, 5, 5, 37)])
def test_lrn(device, shape, x_type, y_type):
    check_integer(device, "lrn", [integers(shape, x_type)], y_type, NORMALIZED[y_type], within=1,
                  size=5, alpha=0.3, bias=2.0)


@pytest.mark.parametrize("x_type, y_type", TYPES)
@pytest.mark.parametrize("shape, axis", [((3, 5), -1), ((2, 3, 16), -1), ((4, 37), 1),
                                         ((2, 5, 19), 1)])
def test_layer_norm(device, shape, axis, x_type, y_type):
    x = integers(shape, x_type, 1)
    check_integer(device, "layer_norm", [x], y_type, NORMALIZED[y_type], within=1, axis=axis)
    check_integer(device, "layer_norm", [x, *gamma_beta(shape[axis:])], y_type, NORMALIZED[y_type],
                  within=1, axis=axis)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("shape", [(1, 7, 1), (2, 3, 4, 16), (1, 17, 16, 21)])
def test_instance_norm(device, shape, dtype):
    x = integers(shape, dtype, 2)
    check_integer(device, "instance_norm", [x, *gamma_beta(shape[-1:])], dtype, NORMALIZED[dtype],
                  within=1)


def test_parameters_stay_fp32(device):
    """Also where real numbers are stored as fp16."""
    for code in ("layer_norm", "instance_norm"):
        check_integer(device, code, [integers((2, 5, 19), "uint8"), *gamma_beta(19)], "uint8",
                      NORMALIZED["uint8"], precision="fp16", within=1)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("shape", [(1,), (3, 16), (2, 5, 19)])
def test_l2_normalize(device, shape, dtype):
    y = {"uint8": Quantization.per_tensor(1 / 128, 128), "int16": PARTS["int16"]}[dtype]
    check_integer(device, "l2_normalize", [integers(shape, dtype, 3)], dtype, y, within=1)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("shape, axis", [((5,), 0), ((3, 16), -1), ((2, 37), -1), ((2, 9, 21), 1)])
def test_softmax(device, shape, axis, dtype):
    x = integers(shape, dtype, 4)
    check_integer(device, "softmax", [x], dtype, PARTS[dtype], within=1, axis=axis)
    y = {"uint8": Quantization.per_tensor(1 / 16, 255), "int16": Quantization.per_tensor(1 / 2048)}
    check_integer(device, "softmax", [x], dtype, y[dtype], within=1, axis=axis, log=True, scale=0.5)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_nearly_all_are_equal(device, dtype):
    """And the values that differ are ties: 1 in 100 at most."""
    x = integers((1, 14, 14, 96), dtype, 5)
    found = check_integer(device, "lrn", [x], dtype, NORMALIZED[dtype], within=1, size=5)
    real = (x.array.astype(np.float64) - x.quantization.zero) * np.float64(x.quantization.scale[0])
    squares = np.pad(real ** 2, [(0, 0)] * 3 + [(2, 2)])
    total = sum(squares[..., k:k + 96] for k in range(5))
    q = NORMALIZED[dtype]
    exact = real / (1 + 1e-4 / 5 * total) ** 0.75 / np.float64(q.scale[0]) + q.zero
    info = np.iinfo(dtype)
    exact = np.clip(exact, info.min, info.max)
    assert np.abs(found - exact).max() <= 0.51
    assert (found != np.rint(exact)).mean() <= 0.01


@pytest.mark.parametrize("rest", [float("nan"), float("inf"), -float("inf")])
def test_results_that_are_no_numbers(device, rest):
    """NaN is stored as the zero point, infinities as the ends."""
    x = Quantized(np.full((2, 16), 40, np.uint8), 1.0, 0)
    beta = Const(np.full(16, rest, np.float32))
    gamma = Const(np.ones(16, np.float32))
    found = check_integer(device, "layer_norm", [x, gamma, beta], "uint8",
                          Quantization.per_tensor(0.5, 77), axis=1)
    assert np.all(found == {"nan": 77, "inf": 255, "-inf": 0}[str(rest)])


@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16", "fp32")])
@pytest.mark.parametrize("code, options", [
    ("lrn", dict(size=3)), ("softmax", {}), ("softmax", dict(axis=1)), ("layer_norm", {}),
    ("instance_norm", {}), ("l2_normalize", {})])
def test_mixed_floats(device, code, options, precisions):
    x = np.random.default_rng(6).normal(size=(2, 5, 19)).astype(np.float32)
    check_mixed(device, code, [x], precisions, **options)


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    x, y = integers((2, 7, 23), "uint8", 7), NORMALIZED["uint8"]
    for code in ("lrn", "layer_norm", "instance_norm"):
        check_integer(device, code, [x], "uint8", y, within=1)


@pytest.mark.parametrize("dtype, quantization, message", [
    ("uint8", None, "needed one scale"),
    ("uint8", Quantization(np.ones(3, np.float32), np.zeros(3, np.int32), 0), "needed one scale"),
    ("int8", Quantization.per_tensor(1.0), "is int8"),
    ("int32", None, "is int32"),
])
@pytest.mark.parametrize("code", ["lrn", "layer_norm", "instance_norm", "l2_normalize", "softmax"])
def test_invalid(code, dtype, quantization, message):
    graph = Graph()
    x = graph.input("x", (3, 4), dtype)
    x.quantization = quantization
    with pytest.raises(ModelError, match=message):
        graph.add(code, [x])


@pytest.mark.parametrize("dtype, quantization, message", [
    ("uint8", None, "needed one scale"), ("fp32", None, "is fp32"),
    ("int8", Quantization.per_tensor(1.0), "is int8"),
    ("uint8", Quantization.per_tensor(1e-44), "beyond what fp32 divides by")])
@pytest.mark.parametrize("code", ["lrn", "layer_norm", "instance_norm", "l2_normalize", "softmax"])
def test_invalid_output(code, dtype, quantization, message):
    from edgerun.ops import OPS, Facts
    graph = Graph()
    x = graph.input("x", (3, 4), "uint8")
    x.quantization = Quantization.per_tensor(1.0)
    y = graph.add(code, [x])
    y.dtype, y.quantization = dtype, quantization
    with pytest.raises(ModelError, match=message):
        OPS[code].prepare(graph.ops[0], Facts())
