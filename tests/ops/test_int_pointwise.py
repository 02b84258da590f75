"""Concat and softmax of quantized tensors: exactly as NumPy, on every driver."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization, limits
from edgerun.tools.graph import Graph
from edgerun.tools.lower.tables import exponentials
from tests.harness import Const, Quantized, check_integer

per_tensor = Quantization.per_tensor


def _integers(shape, dtype: str, seed: int) -> np.ndarray:
    low, high = limits(dtype)
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)


@pytest.mark.parametrize("shapes,axis", [
    ([(5,), (3,)], 0), ([(2, 7, 19), (2, 7, 3), (2, 7, 64)], -1), ([(3, 1, 40), (3, 5, 40)], 1),
    ([(1, 14, 14, 24), (1, 14, 14, 40)], 3), ([(2, 3000), (2, 5000)], 1), ([(1, 1), (1, 1)], 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_concat(device, shapes, axis, dtype, rounding):
    """The first input is copied, since it has the grid of y; the others are brought to it."""
    zeros = (9, 100, 0) if dtype == "uint8" else (0, 0, 0)
    inputs = [Quantized(_integers(shape, dtype, i), scale, zeros[i])
              for i, (shape, scale) in enumerate(zip(shapes, (0.02, 0.013, 0.05)))]
    found = check_integer(device, "concat", inputs, dtype,
                          Quantization.per_tensor(0.02, zeros[0], rounding), axis=axis)
    assert np.array_equal(np.take(found, range(shapes[0][axis]), axis), inputs[0].array)


def test_concat_of_a_constant(device):
    constant = Const(_integers((2, 5), "uint8", 0), per_tensor(0.1, 3))
    check_integer(device, "concat", [Quantized(_integers((2, 5), "uint8", 1), 0.07, 8), constant],
                  "uint8", per_tensor(0.09, 100), axis=1)


def test_concat_refused():
    graph = Graph("test")
    inputs = [graph.input(f"x{i}", (3,), "uint8") for i in range(2)]
    for x, scale in zip(inputs, (1.0, 1e6)):
        x.quantization = per_tensor(scale)
    y = graph.add("concat", inputs, "y", axis=0)
    y.quantization = per_tensor(1.0)
    with pytest.raises(ModelError, match="too small"):
        OPS["concat"].prepare(graph.ops[0], Facts())
    y.quantization = Quantization(np.ones(3, np.float32), np.zeros(3, np.int32), 0)
    with pytest.raises(ModelError, match="needed one scale"):
        OPS["concat"].prepare(graph.ops[0], Facts())


@pytest.mark.parametrize("shape,axis,out", [
    ((1,), 0, "uint8"), ((2, 3), -1, "uint8"), ((5, 16), 1, "uint8"), ((4, 1001), -1, "uint8"),
    ((2, 19, 7), 1, "uint8"), ((17, 2, 40), 0, "uint8"), ((2, 3000), 1, "uint8"),
    ((3, 91), 1, "int16"), ((17, 5), 0, "int16")])
def test_softmax(device, shape, axis, out):
    for scale in (0.002, 0.1, 3.0):  # nearly even, soft, and nearly a maximum
        table = exponentials(per_tensor(scale, 7), 1.0, shape[axis])
        grid = per_tensor(1 / 256 if out == "uint8" else 1 / 32768)
        x = _integers(shape, "uint8", len(shape))
        found = check_integer(device, "softmax", [Quantized(x, scale, 7), Const(table)], out, grid,
                              axis=axis)
        numbers = np.exp((x - x.max(axis, keepdims=True).astype(np.float64)) * scale)
        exact = np.minimum(numbers / numbers.sum(axis, keepdims=True), 255 / 256)
        given = np.minimum(found * grid.step, 255 / 256)
        assert np.abs(given - exact).max() < 0.51 * grid.step


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 2047, 2048, 100000, 2**24])
def test_exponentials_fit(n):
    table = exponentials(per_tensor(0.1), 1.0, n).astype(np.int64)
    assert table[0] * n < 2**31 and table[0] <= 2**24 and table[0] == table.max()


def test_softmax_extremes(device):
    """All equal, at both ends; one far above the others."""
    x = np.array([[0] * 2000, [255] * 2000, [255] + [0] * 1999], np.uint8)
    table = exponentials(per_tensor(0.1), 1.0, 2000)
    check_integer(device, "softmax", [Quantized(x, 0.1), Const(table)], "uint8",
                  per_tensor(1 / 256), axis=1)


@pytest.mark.parametrize("x,table,options,message", [
    ("int16", np.zeros(256, np.int32), {}, "is int16"),
    ("uint8", np.zeros(255, np.int32), {}, "needed .256,."),
    ("uint8", np.zeros(256, np.float32), {}, "is fp32"),
    ("uint8", np.zeros(256, np.int32), {"log": True}, "logarithm")])
def test_softmax_refused(x, table, options, message):
    graph = Graph("test")
    operand = graph.input("x", (3,), x)
    operand.quantization = per_tensor(1.0)
    with pytest.raises(ModelError, match=message):
        graph.add("softmax", [operand, graph.constant(table)], "y", **options)


def test_softmax_of_zeros_runs(device):
    from tests.harness import session_of
    graph = Graph("test")
    x = graph.input("x", (3,), "uint8")
    x.quantization = per_tensor(1.0)
    y = graph.add("softmax", [x, graph.constant(np.zeros(256, np.int32))], "y", axis=0)
    y.quantization = per_tensor(1 / 256)
    graph.output("y", y)
    with session_of(device, graph) as session:
        assert not session.run({"x": np.arange(3, dtype=np.uint8)})["y"].any()


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    inputs = [Quantized(_integers((3, n), "uint8", n), 0.1 * n, n) for n in (1, 5, 19)]
    check_integer(device, "concat", inputs, "uint8", per_tensor(0.2, 9), axis=1)
    check_integer(device, "requantize", inputs[2:], "int16", per_tensor(0.2))
    check_integer(device, "dequantize", inputs[2:], "fp32")
    check_integer(device, "table", [inputs[2], Const(_integers((256,), "uint8", 0))], "uint8",
                  per_tensor(0.2, 9))
    table = exponentials(per_tensor(1.9, 19), 1.0, 19)
    check_integer(device, "softmax", [inputs[2], Const(table)], "uint8", per_tensor(1 / 256),
                  axis=1)
