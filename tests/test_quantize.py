"""From a float graph to quantize and dequantize around its ops."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import InputError
from edgerun.quantization import Quantization, dequantize, quantize as to_integers
from edgerun.tools import quantize, reference
from edgerun.tools.graph import Graph
from edgerun.tools.quantize import grids, improve

RNG = np.random.default_rng(3)


def network() -> Graph:
    """conv -> relu -> depthwise -> max pool -> conv, sum of two, dense: random, with biases."""
    graph = Graph("net")
    x = graph.input("x", (1, 8, 8, 3), "fp32")

    def constant(*shape, scale=0.3):
        return graph.constant(RNG.normal(0, scale, shape).astype(np.float32))

    a = graph.add("conv2d", [x, constant(8, 3, 3, 3), constant(8)], "a", activation="relu",
                  pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    b = graph.add("depthwise_conv2d", [a, constant(3, 3, 8), constant(8)], "b",
                  pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    c = graph.add("binary", [a, b], "c", kind="add")
    d = graph.add("pool2d", [c], "d", kind="max", kernel_h=2, kernel_w=2, stride_h=2, stride_w=2)
    e = graph.add("reshape", [d], "e", shape=(1, 128))
    f = graph.add("dense", [e, constant(10, 128), constant(10)], "f")
    graph.output("y", graph.add("softmax", [f], "g"))
    return graph


def observed(graph: Graph, samples: list[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the least and largest value of every real tensor, by the reference."""
    ranges: dict[str, tuple[float, float]] = {}
    for sample in samples:
        values = {graph.inputs[0].tensor: sample}
        for op in graph.ops:
            arrays = [None if t is None else t.data if t.constant else values[t]
                      for t in op.inputs]
            values.update(zip(op.outputs, reference.evaluate(op, arrays)))
        for tensor, array in values.items():
            low, high = ranges.get(tensor.name, (0.0, 0.0))
            ranges[tensor.name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges


SAMPLES = [np.random.default_rng(i).normal(0, 1, (1, 8, 8, 3)).astype(np.float32)
           for i in range(4)]


def quantized(dtype: str, overrides=(), **arguments) -> tuple[Graph, Graph]:
    global RNG
    RNG = np.random.default_rng(3)
    plain = network()
    RNG = np.random.default_rng(3)
    graph = network()
    ranges = observed(plain, SAMPLES)
    dtypes = quantize.assign(graph, dtype, overrides)
    quantize.insert(graph, dtypes, lambda name, bits: ranges[name], **arguments)
    return plain, graph


def error(plain: Graph, graph: Graph) -> float:
    """Return the largest difference of the outputs."""
    return max(float(np.abs(reference.execute(plain, {"x": s})["y"]
                            - reference.execute(graph, {"x": s})["y"]).max()) for s in SAMPLES)


def test_int8_is_near_and_int16_nearer():
    assert 0 < error(*quantized("int8")) < 0.05
    assert 0 < error(*quantized("int16")) < 1e-3


def test_what_is_stored():
    _, graph = quantized("int8")
    stored = {op.inputs[0].name: op.outputs[0] for op in graph.ops if op.code == "quantize"}
    assert set(stored) == {"x", "a", "b", "c", "d", "e"}
    assert {t.dtype for t in stored.values()} == {"uint8"}
    # a maximum and a move keep the grid; the last dense layer and softmax stay real
    assert stored["d"].quantization.grid == stored["c"].quantization.grid
    assert stored["e"].quantization.grid == stored["c"].quantization.grid
    weights = [op.inputs[0] for op in graph.ops
               if op.code == "dequantize" and op.inputs[0].constant]
    assert [(w.dtype, w.quantization.axis, len(w.quantization.scale)) for w in weights] == [
        ("int8", 0, 8), ("int8", 2, 8), ("int8", 0, 10)]


def test_overrides(tmp_path):
    file = tmp_path / "o.txt"
    file.write_text("# the second layer\nb int16\n[fg] fp32  # the end\n\n")
    _, graph = quantized("int8", quantize.read_overrides(file))
    stored = [(op.inputs[0].name, op.outputs[0].dtype) for op in graph.ops
              if op.code == "quantize"]
    # the depthwise layer reads a second, int16 copy of what comes in, and writes what c reads
    assert ("a.q.real", "int16") in stored and ("b", "uint8") in stored
    assert not [op for op in graph.ops if op.code == "dense"
                and not op.inputs[1].constant], "an fp32 layer has real weights"


@pytest.mark.parametrize("text, message", [
    ("b\n", "line 1: is 'b', needed a name pattern and one of fp32, fp16, int8, int16"),
    ("b int4\n", "line 1: is 'b int4', needed"),
    ("nothing* int8\n", "line 1: 'nothing*' names no op and no tensor; the first ops are 'a', 'b'"),
])
def test_bad_overrides(tmp_path, text, message):
    file = tmp_path / "o.txt"
    file.write_text(text)
    with pytest.raises(InputError, match="o.txt, ") as caught:
        quantize.assign(network(), "int8", quantize.read_overrides(file))
    assert message in str(caught.value)


def test_override_that_an_op_cannot_follow():
    graph = Graph("g")
    x = graph.input("x", (4,), "fp32")
    graph.output("y", graph.add("binary", [x, x], "p", kind="pow"))
    only = [quantize.Override("p", "int8", "o.txt, line 1")]
    with pytest.raises(InputError, match="'p' cannot compute in int8"):
        quantize.assign(graph, "fp32", only)


@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0),
                                       (0.0, 1e-30), (-1e20, 1e20)])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_zero_is_exact_and_the_range_is_covered(low, high, dtype):
    q = grids.activation_quantization(low, high, dtype)
    stored = {"int8": "uint8", "int16": "int16"}[dtype]
    ends = np.array([low, 0.0, high])
    back = dequantize(to_integers(ends, q, stored), q)
    assert back[1] == 0 and np.isfinite(q.scale).all() and (q.scale > 0).all()
    assert np.abs(back - ends).max() <= q.step * 0.51
    if dtype == "int16" and high > low:  # what calibration did not see has room
        assert dequantize(np.int16(32767), q) >= 1.49 * max(-low, high)


def test_equalize_keeps_the_function_and_evens_the_channels():
    global RNG
    RNG = np.random.default_rng(3)
    graph = Graph("g")
    x = graph.input("x", (1, 6, 6, 2), "fp32")
    spread = np.exp(RNG.normal(0, 2, 8)).astype(np.float32)
    w1 = RNG.normal(0, 1, (8, 1, 1, 2)).astype(np.float32) * spread[:, None, None, None]
    a = graph.add("conv2d", [x, graph.constant(w1), graph.constant(spread)], "a",
                  activation="relu")
    b = graph.add("depthwise_conv2d",
                  [a, graph.constant(RNG.normal(0, 1, (3, 3, 8)).astype(np.float32))], "b",
                  activation="relu")
    w3 = RNG.normal(0, 1, (4, 1, 1, 8)).astype(np.float32)
    graph.output("y", graph.add("conv2d", [b, graph.constant(w3)], "c"))
    feed = {"x": RNG.normal(0, 1, (1, 6, 6, 2)).astype(np.float32)}
    before = reference.execute(graph, feed)["y"]
    assert improve.equalize(graph) == 2
    assert np.abs(reference.execute(graph, feed)["y"] - before).max() < 1e-4 * np.abs(before).max()
    first = np.abs(graph.ops[0].inputs[1].data).max(axis=(1, 2, 3))
    assert first.max() / first.min() < 0.2 * spread.max() / spread.min()


def test_clipped_weights_have_less_error():
    weights = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 64)).astype(np.float32)
    weights[0, 0, 0, 0] = 30.0
    graph = Graph("g")
    x = graph.input("x", (1, 5, 5, 64), "fp32")
    graph.add("conv2d", [x, graph.constant(weights)], "a")

    def lost(q: Quantization) -> np.ndarray:
        return np.square(dequantize(to_integers(weights, q, "int8"), q) - weights).sum((1, 2, 3))

    whole = lost(grids.weight_quantization(weights, 0, "int8"))
    clipped = lost(improve.clipped_weights(graph.ops[0], "int8"))
    assert np.all(clipped <= whole) and np.any(clipped < 0.99 * whole)


def test_corrected_bias_restores_the_mean():
    plain, graph = quantized("int8")
    means = {"e": np.mean([_value(plain, s, "e") for s in SAMPLES], axis=(0, 1))}
    _, corrected = quantized("int8", means=means)

    def bias_of(g):
        wanted = np.mean([_value(plain, s, "f") for s in SAMPLES], axis=(0, 1))
        found = np.mean([_value(g, s, "f") for s in SAMPLES], axis=(0, 1))
        return float(np.abs(found - wanted).mean())

    assert bias_of(corrected) < bias_of(graph)


def _value(graph: Graph, sample: np.ndarray, name: str) -> np.ndarray:
    values = {graph.inputs[0].tensor: sample}
    for op in graph.ops:
        arrays = [None if t is None else t.data if t.constant else values[t] for t in op.inputs]
        values.update(zip(op.outputs, reference.evaluate(op, arrays)))
        if op.outputs[0].name == name:
            return values[op.outputs[0]]
    raise KeyError(name)
