"""Small quantized networks whose files are damaged (tests/damage.py).

python -m tests.fuzz_integers DEVICE NETWORK COUNT; run by tests/test_hostile_integers.py.
"""
from __future__ import annotations

import functools

import numpy as np

from edgerun.quantization import Quantization
from edgerun.tools import blob, layout, lower, passes, plan as planner
from edgerun.tools.graph import Graph, Tensor
from tests import damage
from tests.harness import GUARD


class Builder:
    """A graph whose layers are rounded to integers of one dtype."""

    def __init__(self, dtype: str, w_dtype: str):
        self.graph, self.rng = Graph("fuzz"), np.random.default_rng(0)
        self.dtype, self.w_dtype = dtype, w_dtype

    def rounded(self, y: Tensor, scale: float = 0.02, zero: int = 3) -> Tensor:
        """Round to `dtype`, if the network has integers, and back."""
        if not self.dtype:
            return y
        grid = Quantization.per_tensor(scale, 0 if self.dtype == "int16" else zero)
        return self.graph.dequantize(self.graph.quantize(y, self.dtype, grid))

    def weights(self, *shape: int, axis: int = 0) -> Tensor:
        """Return quantized weights, one scale per output channel."""
        top = np.iinfo(self.w_dtype).max
        values = self.rng.integers(-top, top + 1, shape)
        scale = self.rng.uniform(0.5, 1, shape[axis]) / top
        grid = Quantization(np.float32(scale), np.zeros(shape[axis], np.int32), axis)
        return self.graph.dequantize(self.graph.constant(values, "w", self.w_dtype,
                                                         quantization=grid))

    def layer(self, code: str, x: Tensor, *shape: int, axis: int = 0, **options) -> Tensor:
        """Add a layer with weights and a bias."""
        bias = self.graph.constant(self.rng.uniform(-1, 1, shape[axis]).astype(np.float32), "b")
        y = self.graph.add(code, [x, self.weights(*shape, axis=axis), bias], code, **options)
        return self.rounded(y)


def network(dtype: str, w_dtype: str) -> Graph:
    """Return a lowered network of every kind of layer that has weights, and of others."""
    b = Builder(dtype, w_dtype)
    g = b.graph
    x = b.rounded(g.input("x", (1, 7, 6, 3), "fp32"))
    same = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    a = b.layer("conv2d", x, 18, 3, 3, 3, activation="relu", **same)
    c = b.layer("depthwise_conv2d", a, 3, 3, 18, axis=2, **same)
    d = b.layer("conv_transpose2d", c, 5, 2, 2, 18, stride_h=2, stride_w=2)
    e = g.add("resize", [a], "up", kind="linear", height=14, width=12, scale_h=2, scale_w=2,
              coordinate_mode="half_pixel")
    f = b.rounded(g.add("concat", [d, b.rounded(e)], "joined", axis=3), 0.05)
    pooled = b.rounded(g.add("pool2d", [f], "pool", kind="average", kernel_h=3, kernel_w=3,
                             stride_h=2, stride_w=2), 0.05)
    gate = b.rounded(g.add("unary", [pooled], "gate", kind="sigmoid"), 1 / 256, -128)
    joined = b.rounded(g.add("binary", [pooled, gate], "scaled", kind="mul"))
    mean = b.rounded(g.add("reduce", [joined], "mean", kind="mean", axes=(1, 2), keep_dims=False))
    scores = b.layer("dense", mean, 10, 23)
    shares = g.add("softmax", [scores], "shares", axis=1)
    g.output("y", b.rounded(shares, 1 / 256, -128))
    lower.apply(g)
    return g


NETWORKS = {"int8": ("int8", "int8"), "int16": ("int16", "int8"), "wide": ("int16", "int16"),
            "weights": ("", "int8")}


def file_of(name: str) -> bytes:
    """Return a file of a network, with guard bytes around the arena."""
    graph = network(*NETWORKS[name])
    for op in graph.ops:
        if name == "wide" and op.code == "dense":
            assert op.options["wide"], "the network has no wide sums"
    aliases = passes.alias.apply(graph)
    layout.apply(graph)
    plan = planner.plan(graph, aliases)
    plan.offsets = {tensor: at + GUARD for tensor, at in plan.offsets.items()}
    plan.scratch = {op: (at + GUARD, size) for op, (at, size) in plan.scratch.items()}
    plan.arena_bytes += 2 * GUARD
    return blob.encode(graph, plan, aliases, "source")


if __name__ == "__main__":
    damage.main({name: functools.partial(file_of, name) for name in NETWORKS})
