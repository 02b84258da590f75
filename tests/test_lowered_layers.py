"""Integer layers against real arithmetic: what rounding once at the end may cost, and no more.

A graph of dequantize, layer, quantize is executed in real arithmetic, then lowered and executed in
integers, both by the references (which the kernels equal bit for bit).
"""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.quantization import Quantization, quantize
from edgerun.tools import lower, reference
from edgerun.tools.graph import Graph
from edgerun.tools.quantize.grids import activation_quantization, weight_quantization

STEPS = 1.5  # of the output, between real and integer arithmetic
CASES = 50
STORED = {"int8": "uint8", "int16": "int16"}


def random_layer(rng: np.random.Generator, dtype: str) -> Graph:
    """Return a graph of one quantized layer of random kind, size, padding, stride and groups."""
    code = str(rng.choice(["conv2d", "depthwise_conv2d", "dense"]))
    channels, out = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    kernel, size = int(rng.choice([1, 1, 2, 3, 5])), int(rng.integers(5, 12))
    groups = int(rng.choice([1, 1, 2])) if code == "conv2d" else 1
    channels, out = channels * groups, out * groups
    shape = {"conv2d": (out, kernel, kernel, channels // groups),
             "depthwise_conv2d": (kernel, kernel, channels), "dense": (out, channels)}[code]
    axis = 2 if code == "depthwise_conv2d" else 0
    options = {"activation": str(rng.choice(["", "relu"]))}
    if code != "dense":
        pad = int(rng.integers(0, kernel))
        options |= {"stride_h": int(rng.integers(1, 3)), "stride_w": int(rng.integers(1, 3)),
                    "pad_top": pad, "pad_left": pad, "pad_bottom": pad, "pad_right": pad}
        options |= {"groups": groups} if code == "conv2d" else {}
    graph = Graph("layer")
    x = graph.input("x", (1, size, size, channels) if code != "dense" else (3, channels),
                    STORED[dtype])
    low, high = float(rng.uniform(-4, 0)), float(rng.uniform(0.1, 8))
    x.quantization = activation_quantization(low, high, dtype)
    weights = rng.normal(0, rng.uniform(0.01, 2), shape).astype(np.float32)
    grid = weight_quantization(weights, axis, dtype)
    w = graph.constant(quantize(weights, grid, dtype), "w", quantization=grid)
    bias = rng.normal(0, 1, shape[axis]).astype(np.float32)
    real = graph.add(code, [graph.dequantize(x), graph.dequantize(w), graph.constant(bias, "b")],
                     "layer", **options)
    reach = float(rng.uniform(0.2, 4)) * np.sqrt(np.prod(shape) / shape[axis]) * weights.std()
    y = graph.quantize(real, STORED[dtype], activation_quantization(-reach, reach, dtype))
    graph.output("y", y)
    return graph


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_real_and_integer_layers_agree(dtype):
    rng, worst = np.random.default_rng(8), 0.0
    for number in range(CASES):
        graph = random_layer(rng, dtype)
        x = graph.inputs[0]
        limits = np.iinfo(STORED[dtype])
        feed = {"x": rng.integers(limits.min, limits.max + 1, x.shape).astype(STORED[dtype])}
        want = reference.execute(graph, feed)["y"].astype(np.int64)
        lower.apply(graph)
        codes = [op.code for op in graph.ops]
        assert len(codes) == 1 and graph.ops[0].inputs[0].dtype == STORED[dtype], codes
        found = reference.execute(graph, feed)["y"].astype(np.int64)
        assert len(np.unique(found)) > 1 or found.size == 1, number
        worst = max(worst, float(np.abs(found - want).max()))
        assert worst <= STEPS, (number, graph.ops[0], worst)
    assert isinstance(x.tensor.quantization, Quantization)
