"""Convolutions and dense layers with quantized weights become integer ops."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import dtypes
from edgerun.quantization import Quantization, limits, quantize
from edgerun.tools import lower
from edgerun.tools.graph import Graph
from edgerun.tools.reference import execute

PADDED = {"pad_top": 1, "pad_left": 1, "pad_right": 1}


def scales(values, axis=-1, zero=0, rounding="once"):
    values = np.atleast_1d(np.float32(values))
    return Quantization(values, np.full(len(values), zero, np.int32), axis, rounding)


def model(x_dtype="int8", w_dtype="int8", y_dtype="int8", *, code="conv2d", zeros=(5, 0, -3),
          per_channel=True, bias="int32", rounding="once", top=None, bias_top=3000, y_scale=None,
          seed=0, **options):
    """Return a graph of dequantize, one layer, quantize, and integers for it.

    Args:
        x_dtype, w_dtype, y_dtype: stored types; "" leaves x or y real.
        zeros: zero points of x, w and y.
        bias: "int32", "fp32" or "".
        top: largest weight; default: of the dtype.
        bias_top: largest bias, in steps.
        y_scale: of y.
    """
    rng = np.random.default_rng(seed)
    g = Graph("test")
    shape = (1, 5, 6, 7) if code == "conv2d" else (3, 7)
    x = g.input("x", shape, x_dtype or "fp32")
    if x_dtype:
        x.quantization = scales(0.02 if x_dtype != "int16" else 1e-4, zero=zeros[0])
        low, high = limits(x_dtype)
        feed = rng.integers(low, high + 1, shape).astype(dtypes.numpy_dtype(x_dtype))
        real = g.dequantize(x)
    else:
        feed, real = rng.uniform(-1, 1, shape).astype(np.float32), x
    low, high = limits(w_dtype)
    w_shape = (10, 2, 3, 7) if code == "conv2d" else (10, 7)
    top = high if top is None else top
    values = rng.integers(max(low, -top), min(high, top) + 1, w_shape)
    s_w = rng.uniform(0.5, 1, 10) * (1e-2 if w_dtype != "int16" else 4e-5)
    w_grid = scales(s_w, 0, zeros[1]) if per_channel else scales(s_w[0], -1, zeros[1])
    w = g.dequantize(g.constant(values, "w", w_dtype, quantization=w_grid))
    inputs = [real, w]
    steps = rng.integers(-bias_top, bias_top + 1, 10)
    s_x = x.quantization.scale if x_dtype else 1.0
    if bias == "int32":
        inputs.append(g.dequantize(g.constant(
            steps, "b", "int32", quantization=scales(s_x * np.broadcast_to(w_grid.scale, 10), 0))))
    elif bias == "fp32":
        inputs.append(g.constant((steps * (s_x * w_grid.scale.astype(np.float64))
                                  ).astype(np.float32), "b"))
    y = g.add(code, inputs, "layer", **options)
    if y_dtype:
        y_scale = y_scale or (0.1 if y_dtype != "int16" else 1.5e-3)
        y = g.quantize(y, y_dtype, scales(y_scale, -1, zeros[2], rounding))
    g.output("y", y)
    return g, {"x": feed}


def lowered(expected, *args, **options):
    """Lower a model; require its ops, and the numbers of the real graph within one step."""
    before, feeds = model(*args, **options)
    after, _ = model(*args, **options)
    lower.apply(after)
    assert [op.code for op in after.ops] == expected
    want, found = execute(before, feeds)["y"], execute(after, feeds)["y"]
    assert found.dtype == want.dtype and len(np.unique(want)) > 20
    if want.dtype.kind == "f":
        assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()
    else:
        difference = np.abs(found.astype(int) - want)
        # multipliers of 15 bits are off by up to 2^-16, half a step of int16
        assert difference.max() <= 1
        assert (difference == 0).mean() > (0.6 if options.get("rounding") == "short" else 0.98)
    return next(op for op in after.ops if op.code in ("conv2d", "dense"))


@pytest.mark.parametrize("code, options", [
    ("conv2d", {}), ("conv2d", PADDED), ("conv2d", {"stride_h": 2, "dilation_w": 2}),
    ("dense", {})])
@pytest.mark.parametrize("x_dtype, w_dtype", [
    ("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8"), ("int16", "int8"),
    ("int16", "int16")])
@pytest.mark.parametrize("per_channel", [False, True])
def test_integers(code, options, x_dtype, w_dtype, per_channel):
    zeros = {"int8": (5, 0, -3), "uint8": (130, 0, 120), "int16": (0, 0, 0)}[x_dtype]
    zeros = (zeros[0], 128 if w_dtype == "uint8" else 0, zeros[2])
    op = lowered([code], x_dtype, w_dtype, x_dtype, code=code, zeros=zeros,
                 per_channel=per_channel, rounding="short" if x_dtype == "int16" else "once",
                 **options)
    x, w, bias, residual, zeros_row, m0, t = op.inputs
    assert (x.dtype, w.dtype) == ("int16" if x_dtype == "int16" else "uint8",
                                  "int16" if w_dtype == "int16" else "int8")
    assert (bias.dtype, m0.dtype, t.dtype) == ("int32", "int32", "int8")
    assert m0.shape == t.shape == (10,) and residual is None and zeros_row is None
    assert not w.quantization.zero_point.any()
    assert bool(op.options["wide"]) == (w_dtype == "int16")


def test_weights_beyond_int8_keep_their_zero_point():
    """Old uint8 models: q - zero_point takes nine bits."""
    op = lowered(["conv2d"], "uint8", "uint8", "uint8", zeros=(130, 90, 120), per_channel=False,
                 **PADDED)
    w = op.inputs[1]
    assert w.dtype == "int8" and w.quantization.zero == 90 - 128
    assert np.abs(w.data.astype(int) - w.quantization.zero).max() > 128


@pytest.mark.parametrize("options", [
    {"activation": "relu"}, {"activation": "clip", "alpha": -1.0, "beta": 4.0}])
@pytest.mark.parametrize("bias", ["", "fp32", "int32"])
def test_clamps_and_biases(options, bias):
    op = lowered(["conv2d"], bias=bias, **options)
    assert op.options["activation"] == options["activation"]
    assert len(op.inputs) == 7


@pytest.mark.parametrize("w_dtype, top, bias_top, y_scale, wide", [
    ("int8", 127, 3000, 2e-3, False), ("int8", 127, 2**31 - 1, 0.1, True),
    ("int16", 1000, 3000, 1e-4, False), ("int16", 4000, 3000, 3e-4, True)])
def test_the_real_weights_decide_whether_sums_are_wide(w_dtype, top, bias_top, y_scale, wide):
    """42 products of 32768 and on average `top` / 2 pass 2^31 from 3121 on; so may a bias."""
    op = lowered(["conv2d"], "int16", w_dtype, "int16", zeros=(0, 0, 0), top=top,
                 bias_top=bias_top, y_scale=y_scale, rounding="short", per_channel=False)
    assert op.options["wide"] == wide
    assert op.inputs[2].shape == ((2, 10) if wide else (10,))


def test_twice_needs_a_spare_bit():
    """Doubling the product takes one bit of the sum, and wide sums round once."""
    lowered(["conv2d"], "int16", "int16", "int16", zeros=(0, 0, 0), top=1000, y_scale=1e-4,
            rounding="twice")
    graph, _ = model("int16", "int16", "int16", zeros=(0, 0, 0), top=2200, rounding="twice")
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "conv2d", "quantize"]
    assert graph.ops[1].inputs[1].dtype == "int16" and len(graph.ops[1].inputs) == 6


def test_real_output():
    op = lowered(["conv2d"], y_dtype="")
    assert op.inputs[5].dtype == "fp32" and len(op.inputs) == 6 and op.outputs[0].dtype == "fp32"
    op = lowered(["conv2d", "quantize"], activation="hard_swish")
    assert op.inputs[0].dtype == "uint8" and op.outputs[0].dtype == "fp32"


@pytest.mark.parametrize("code", ["conv2d", "dense"])
@pytest.mark.parametrize("w_dtype", ["int8", "uint8", "int16"])
def test_weights_only(code, w_dtype):
    op = lowered([code], "", w_dtype, "", code=code, zeros=(0, 128 if w_dtype == "uint8" else 0, 0),
                 bias="fp32")
    assert op.inputs[1].dtype == ("int16" if w_dtype == "int16" else "int8")
    assert op.inputs[5].dtype == "fp32" and op.inputs[2].dtype == "fp32"


def test_weights_with_a_zero_point_beside_real_activations_become_real():
    graph, _ = model("", "uint8", "", zeros=(0, 3, 0), per_channel=False, bias="")
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["conv2d"]
    assert graph.ops[0].inputs[1].dtype == "fp32"


def test_residual_keeps_integer_weights():
    graph, feeds = model(y_dtype="")
    (layer,) = [op for op in graph.ops if op.code == "conv2d"]
    layer.inputs.append(graph.constant(np.ones(layer.outputs[0].shape, np.float32)))
    want = execute(graph, feeds)["y"]
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "conv2d"]
    assert graph.ops[1].inputs[1].dtype == "int8" and graph.ops[1].inputs[3] is not None
    assert np.abs(execute(graph, feeds)["y"] - want).max() < 1e-4


def test_bias_in_other_steps_is_converted():
    graph, feeds = model(bias="")
    (layer,) = [op for op in graph.ops if op.code == "conv2d"]
    real = np.linspace(-3, 3, 10).astype(np.float32)
    grid = scales(np.full(10, 1e-5), 0)
    at = graph.ops.index(layer)
    made = graph.insert(at, "dequantize",
                        [graph.constant(quantize(real, grid, "int32"), "b", quantization=grid)],
                        "b.real", dtype="fp32").outputs[0]
    layer.inputs.append(made)
    want = execute(graph, feeds)["y"].astype(int)
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["conv2d"]
    assert np.abs(execute(graph, feeds)["y"] - want).max() <= 1


def test_bias_in_nearly_the_same_steps_is_converted():
    """The scale that the source gives it counts, unless it differs by rounding alone."""
    graph, feeds = model(bias="int32", bias_top=30_000)
    (bias,) = [t for t in graph.tensors() if t.name == "b"]
    bias.quantization = scales(bias.quantization.scale * 1.05, 0)
    want = execute(graph, feeds)["y"].astype(int)
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["conv2d"]
    assert np.abs(execute(graph, feeds)["y"] - want).max() <= 1


@pytest.mark.parametrize("least, wide", [(-2**15 + 1, True), (-2**15, False)])
def test_weights_of_which_two_products_exceed_32_bits(least, wide):
    """Kernels add two products before they split a sum: 2 * 2^15 * 2^15 is one too many."""
    graph, _ = model("int16", "int16", "int16", zeros=(0, 0, 0), top=4000, y_scale=3e-4,
                     rounding="short", per_channel=False)
    (w,) = [t for t in graph.tensors() if t.name == "w"]
    w.data[0, 0, 0, 0] = least
    lower.apply(graph)
    (layer,) = [op for op in graph.ops if op.code == "conv2d"]
    assert layer.options["wide"] == wide and (layer.inputs[0].dtype == "int16") == wide
