"""The copy between a caller's arrays and the tensors of a device."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import boundary
from edgerun.model import Tensor, TensorInfo
from edgerun.quantization import Quantization, dequantize, quantize
from edgerun.tools import passes, reference
from edgerun.tools.graph import Graph
from edgerun.tools.quantize import quantized, strip
from tests.harness import prepared

SHAPES = [((), ()), ((5,), ()), ((1, 3, 7, 5), (0, 2, 3, 1)), ((2, 300, 400), (2, 0, 1)),
          ((1, 1, 70_000), ()), ((65_537, 2), (1, 0))]


def tensor(shape, dtype: str, quantization=None) -> Tensor:
    return Tensor("t", tuple(shape), dtype, "rows", -1, 0, -1, quantization, 0)


def stored_shape(shape, perm):
    return tuple(shape[axis] for axis in perm) if perm else tuple(shape)


@pytest.mark.parametrize("shape, perm", SHAPES)
@pytest.mark.parametrize("dtype, grid", [("uint8", (0.05, 120)), ("int16", (0.001, 0)),
                                         ("uint8", (1e-30, 0)), ("uint8", (1e30, 255))])
@pytest.mark.parametrize("declared", ["f4", "f8", "f2"])
def test_quantizes(shape, perm, dtype, grid, declared):
    q = Quantization.per_tensor(*grid)
    array = np.random.default_rng(1).normal(0, 4, shape) * q.step * 10
    if declared == "f2":
        array = np.clip(array, -6e4, 6e4)
    array = array.astype(declared)
    info = TensorInfo("x", tuple(shape), np.dtype(declared), perm=perm)
    held = tensor(stored_shape(shape, perm), dtype, q)
    mapped = np.zeros(held.shape, dtype)
    boundary.put(info, held, array, mapped)
    moved = array.transpose(perm) if perm else array
    assert np.array_equal(mapped, quantize(moved.astype(np.float32), q, dtype))
    back = boundary.take(info, held, mapped)
    assert back.shape == tuple(shape) and back.dtype == declared
    want = dequantize(mapped, q)
    want = want.transpose(np.argsort(perm)) if perm else want
    assert np.array_equal(back, want.astype(declared))


def test_flips_the_top_bit():
    info = TensorInfo("x", (2, 128), np.dtype(np.int8), perm=(1, 0))
    array = np.arange(-128, 128, dtype=np.int8).reshape(2, 128)
    held = tensor((128, 2), "uint8", Quantization.per_tensor(1.0, 128))
    mapped = np.zeros((128, 2), np.uint8)
    boundary.put(info, held, array, mapped)
    assert np.array_equal(mapped.T.astype(np.int16) - 128, array)
    assert np.array_equal(boundary.take(info, held, mapped), array)


def small() -> Graph:
    """int8 in, real arithmetic between, int8 and real out."""
    graph = Graph("g")
    x = graph.input("x", (1, 4), "int8")
    x.quantization = Quantization.per_tensor(0.5, -3)
    real = graph.add("unary", [graph.dequantize(x)], "r", kind="relu")
    y = graph.quantize(real, "int8", Quantization.per_tensor(0.25, -128))
    graph.output("y", y)
    graph.output("z", graph.dequantize(y))
    return graph


def test_declares_what_integers_mean(device):
    from edgerun.tools import lower
    graph, feed = small(), {"x": np.array([[-128, -3, 0, 127]], np.int8)}
    expected = reference.execute(graph, feed)
    lower.apply(graph)
    assert {t.dtype for t in graph.tensors() if t.quantization and not t.constant} == {"uint8"}
    with prepared(device, graph, passes.alias.apply(graph), "fp32") as session:
        assert (session.inputs[0].scale, session.inputs[0].zero_point) == (0.5, -3)
        assert (session.outputs[0].scale, session.outputs[0].zero_point) == (0.25, -128)
        assert session.outputs[1].scale is None and session.outputs[1].dtype == np.float32
        found = session.run(feed)
    for name, want in expected.items():
        assert found[name].dtype == want.dtype and np.array_equal(found[name], want)


def test_strip_keeps_the_clamp():
    graph = Graph("g")
    x = graph.input("x", (5,), "fp32")
    q = graph.quantize(x, "uint8", Quantization.per_tensor(1 / 64, 0))
    graph.output("y", graph.add("unary", [graph.dequantize(q)], "n", kind="neg"))
    assert quantized(graph)
    strip(graph)
    assert not quantized(graph)
    found = reference.execute(graph, {"x": np.array([-1, 0, 0.3, 2, 9], np.float32)})["y"]
    assert np.allclose(found, [0, 0, -0.3, -2, -255 / 64])
