"""Depthwise and transposed convolutions and matrix products become integer ops."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import dtypes
from edgerun.quantization import Quantization, limits
from edgerun.tools import lower
from edgerun.tools.graph import Graph
from edgerun.tools.passes import linear
from edgerun.tools.reference import execute

STEP = {"int8": 0.02, "uint8": 0.02, "int16": 1e-4}


def grid(scale, axis=-1, zero=0, rounding="once"):
    scale = np.atleast_1d(np.float32(scale))
    return Quantization(scale, np.full(len(scale), zero, np.int32), axis, rounding)


def integers(rng, shape, dtype):
    low, high = limits(dtype)
    return rng.integers(low, high + 1, shape).astype(dtypes.numpy_dtype(dtype))


def compare(build, codes):
    """Lower a graph; require its ops, and the numbers of the real graph within one step."""
    before, feeds = build()
    after, _ = build()
    lower.apply(after)
    assert [op.code for op in after.ops] == codes
    want, found = execute(before, feeds)["y"], execute(after, feeds)["y"]
    assert found.dtype == want.dtype and len(np.unique(want)) > 20
    if want.dtype.kind == "f":
        assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()
    else:
        apart = np.abs(found.astype(int) - want)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01
    return after.ops[-1]


def layer(code, x_dtype, w_dtype, y_dtype, zeros=(5, 0, -3), rounding="once", **options):
    """Return a function that builds dequantize, one layer, quantize."""
    def build():
        rng, g = np.random.default_rng(0), Graph("test")
        x = g.input("x", (1, 5, 6, 7), x_dtype or "fp32")
        real, s_x = x, 1.0
        if x_dtype:
            feed, s_x = integers(rng, x.shape, x_dtype), STEP[x_dtype]
            x.quantization = grid(s_x, zero=zeros[0])
            real = g.dequantize(x)
        else:
            feed = rng.uniform(-1, 1, x.shape).astype(np.float32)
        shape, axis = ((3, 3, 14), 2) if code == "depthwise_conv2d" else ((14, 2, 3, 7), 0)
        scale = rng.uniform(0.5, 1, 14) * (1e-2 if w_dtype != "int16" else 4e-5)
        w_grid = grid(scale, axis) if zeros[1] == 0 else grid(scale[0], -1, zeros[1])
        w = g.constant(integers(rng, shape, w_dtype), "w", quantization=w_grid)
        bias = g.constant(rng.integers(-3000, 3000, 14), "b", "int32", quantization=grid(
            s_x * np.broadcast_to(w_grid.scale, 14), 0))
        y = g.add(code, [real, g.dequantize(w), g.dequantize(bias)], "layer", **options)
        if y_dtype:
            y = g.quantize(y, y_dtype, grid(0.1 if y_dtype != "int16" else 2e-3, -1, zeros[2],
                                            rounding))
        g.output("y", y)
        return g, {"x": feed}
    return build


@pytest.mark.parametrize("code", ["depthwise_conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("x_dtype, w_dtype, y_dtype, zeros", [
    ("int8", "int8", "int8", (5, 0, -3)), ("uint8", "uint8", "uint8", (100, 121, 130)),
    ("int16", "int8", "int16", (0, 0, 0)), ("int8", "int8", "", (5, 0, 0)),
    ("", "int8", "", (0, 0, 0)), ("", "int16", "", (0, 0, 0))])
def test_layers(code, x_dtype, w_dtype, y_dtype, zeros):
    op = compare(layer(code, x_dtype, w_dtype, y_dtype, zeros, stride_w=2, pad_top=1, pad_left=1),
                 [code])
    assert op.inputs[0].dtype == {"int8": "uint8", "": "fp32"}.get(x_dtype, x_dtype)
    assert op.inputs[1].dtype == ("int16" if w_dtype == "int16" else "int8")


@pytest.mark.parametrize("code", ["depthwise_conv2d", "conv_transpose2d"])
def test_wide(code):
    op = compare(layer(code, "int16", "int16", "int16", (0, 0, 0)), [code])
    assert op.options["wide"]


def product(a_dtype, b_dtype, y_dtype, k=33, rounding="once", zeros=(5, 7, -3), constant=False,
            **options):
    """Return a function that builds the product of two dequantized matrices."""
    def build():
        rng, g = np.random.default_rng(1), Graph("test")
        a, b = integers(rng, (2, 6, k), a_dtype), integers(rng, (2, k, 9), b_dtype)
        x = g.input("x", a.shape, a_dtype)
        right = g.constant(b, "b") if constant else g.input("b", b.shape, b_dtype)
        x.quantization = grid(STEP[a_dtype], zero=zeros[0])
        right.quantization = grid(STEP[b_dtype], zero=zeros[1])
        y = g.add("matmul", [g.dequantize(x), g.dequantize(right)], "product", **options)
        if y_dtype:
            y = g.quantize(y, y_dtype, grid(0.3 if y_dtype != "int16" else 4e-3, -1, zeros[2],
                                            rounding))
        g.output("y", y)
        return g, {"x": a, "b": b}
    return build


@pytest.mark.parametrize("a_dtype, y_dtype, zeros", [
    ("int8", "int8", (5, 7, -3)), ("uint8", "uint8", (100, 0, 130)), ("int8", "", (5, 7, 0)),
    ("int16", "int16", (0, 0, 0)), ("int16", "int8", (0, 0, 5)), ("int16", "", (0, 0, 0))])
@pytest.mark.parametrize("constant", [False, True])
def test_products(a_dtype, y_dtype, zeros, constant):
    compare(product(a_dtype, a_dtype, y_dtype, zeros=zeros, constant=constant), ["matmul"])


@pytest.mark.parametrize("given", [
    dict(a_dtype="int8", b_dtype="int16", y_dtype="int16", zeros=(0, 0, 0)),
    dict(a_dtype="int16", b_dtype="int16", y_dtype="int16", zeros=(9, 0, 0)),
    dict(a_dtype="int16", b_dtype="int16", y_dtype="int16", zeros=(0, 0, 0), rounding="twice"),
    dict(a_dtype="int8", b_dtype="int8", y_dtype="int8", k=33026)])
def test_products_that_stay_real(given):
    graph, _ = product(**given)()
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "dequantize", "matmul", "quantize"]


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_matrix_becomes_dense(transpose_b, per_channel):
    """A constant matrix on the right is the weights of a layer, with its scales per column."""
    def build():
        rng, g = np.random.default_rng(2), Graph("test")
        x = g.input("x", (6, 33), "int8")
        x.quantization = grid(0.02, zero=4)
        b = integers(rng, (33, 9), "int8")
        scale = rng.uniform(0.01, 0.02, 9) if per_channel else [0.01]
        axis = -1 if not per_channel else 0 if transpose_b else 1
        b = g.dequantize(g.constant(b.T if transpose_b else b, "b", quantization=grid(scale, axis)))
        y = g.add("matmul", [g.dequantize(x), b], "product", transpose_b=transpose_b)
        g.output("y", g.quantize(y, "int8", grid(0.2)))
        linear.apply(g)
        return g, {"x": integers(rng, (6, 33), "int8")}
    compare(build, ["dense"])


def test_scales_along_the_inner_axis_move_with_it():
    g = Graph("test")
    b = g.constant(np.ones((3, 4), np.int8), "b", quantization=grid([1, 2, 3], 0))
    g.output("y", g.add("matmul", [g.input("x", (2, 3), "fp32"), g.dequantize(b)], "product"))
    linear.apply(g)
    assert [op.code for op in g.ops if op.code != "dequantize"] == ["dense"]
    w = g.producers()[g.ops[-1].inputs[1]].inputs[0]
    assert w.shape == (4, 3) and w.quantization.axis == 1
