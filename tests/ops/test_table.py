"""Tables, and unary ops over quantized integers: exactly as NumPy, on every driver."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

per_tensor = Quantization.per_tensor
rng = np.random.default_rng(0)


@pytest.mark.parametrize("out", ["uint8", "int16"])
@pytest.mark.parametrize("shape", [(1,), (256,), (3, 17, 5), (9001,)])
def test_bytes(device, out, shape):
    info = np.iinfo(out)
    table = rng.integers(info.min, info.max + 1, 256).astype(out)
    x = np.resize(np.arange(256), shape).astype(np.uint8)
    found = check_integer(device, "table", [Quantized(x), Const(table)], out, per_tensor(1.0))
    assert np.array_equal(found, table[x])


@pytest.mark.parametrize("rough", [False, True])
def test_interpolated(device, rough):
    x = np.arange(-32768, 32768).astype(np.int16)
    knots = (np.arange(513) * 127 % 60000 - 30000 if rough
             else 32767 * np.tanh((np.arange(513) - 256) / 60))
    found = check_integer(device, "table", [Quantized(x), Const(knots.astype(np.int16))], "int16",
                          per_tensor(1.0))
    if not rough:
        assert np.abs(found - 32767 * np.tanh(x / 128 / 60)).max() < 8


@pytest.mark.parametrize("dtype,shape,table,entries,message", [
    ("uint8", (3,), "uint8", 255, "needed .256,."), ("int16", (3,), "int16", 512, "needed .513,."),
    ("int16", (3,), "uint8", 513, "is uint8"), ("int8", (3,), "uint8", 256, "is int8"),
    ("uint8", (3,), "int32", 256, "is int32")])
def test_table_refused(dtype, shape, table, entries, message):
    graph = Graph("test")
    x = graph.input("x", shape, dtype)
    with pytest.raises(ModelError, match=message):
        graph.add("table", [x, graph.constant(np.zeros(entries, table))], "y")


@pytest.mark.parametrize("dtype,zeros", [("uint8", (131, 5)), ("int16", (0, 0))])
@pytest.mark.parametrize("rounding", ["once", "twice"])
@pytest.mark.parametrize("kind,alpha,beta", [
    ("relu", 0.0, 0.0), ("clip", -0.5, 6.0), ("leaky_relu", 0.3, 0.0), ("leaky_relu", 0.0, 0.0),
    ("leaky_relu", 3.0, 0.0)])
def test_unary(device, dtype, zeros, rounding, kind, alpha, beta):
    info = np.iinfo(dtype)
    x = np.arange(info.min, info.max + 1).astype(dtype)
    small = 1 if dtype == "uint8" else 1 / 256
    for ratio in (1.0, 0.71, 2.5):
        found = check_integer(
            device, "unary", [Quantized(x, 0.05 * small, zeros[0])], dtype,
            Quantization.per_tensor(0.05 * small / ratio, zeros[1], rounding), kind=kind,
            alpha=alpha, beta=beta)
        assert len(np.unique(found)) > 20


def test_unary_to_int16(device):
    check_integer(device, "unary", [Quantized(np.arange(256, dtype=np.uint8), 0.1, 100)], "int16",
                  per_tensor(0.001), kind="leaky_relu", alpha=0.1)


@pytest.mark.parametrize("kind,alpha,scales,message", [
    ("tanh", 0.0, (1.0, 1.0), "others are tables"), ("leaky_relu", -1.0, (1.0, 1.0), "alpha is -1"),
    ("relu", 0.0, (1e9, 1.0), "too small"), ("leaky_relu", 1e6, (1.0, 1.0), "too small"),
    ("relu", 0.0, (1.0, None), "needed one scale")])
def test_unary_refused(kind, alpha, scales, message):
    graph = Graph("test")
    x = graph.input("x", (3,), "uint8")
    x.quantization = per_tensor(scales[0])
    with pytest.raises(ModelError, match=message):
        y = graph.add("unary", [x], "y", kind=kind, alpha=alpha)
        y.quantization = per_tensor(scales[1]) if scales[1] else None
        OPS["unary"].prepare(graph.ops[0], Facts())
