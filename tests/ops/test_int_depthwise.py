"""depthwise_conv2d with integer weights, exactly as NumPy computes it."""
import dataclasses

import numpy as np
import pytest

from edgerun import dots
from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts, _tile
from edgerun.ops._base import Variant
from edgerun.quantization import Quantization, fixed_point
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

TYPES = {"uint8": np.uint8, "int16": np.int16, "int8": np.int8}


@pytest.fixture(params=["plain", "vnni"])
def dot(request, device, monkeypatch):
    """Every way to sum products."""
    if not dots.has(device, request.param):
        pytest.skip(f"{device.info.name} of {device.info.platform} has no {request.param} products")
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, dot=request.param))


@pytest.fixture
def small(monkeypatch):
    """One tile for all shapes of 16 channels and more: every other one is a program to compile."""
    choose, fixed = _tile.choose, Variant.of(P=3, VEC=8, run=16, lines=3)
    monkeypatch.setattr(_tile, "choose", lambda key, facts: (
        fixed if key.entry == "depthwise" else choose(key, facts)))


def pads(*sizes):
    return dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), sizes))


def integers(rng, shape, dtype, kind="random"):
    """Random integers, or as many extreme ones as possible."""
    info = np.iinfo(TYPES[dtype])
    if kind == "random":
        return rng.integers(info.min, info.max + 1, shape).astype(TYPES[dtype])
    return rng.choice([info.min, info.max], shape).astype(TYPES[dtype])


def multipliers(rng, channels, sums, rounding="once"):
    """m0 and t that spread sums of about the given size over the output."""
    return fixed_point(100.0 / sums * np.exp2(rng.uniform(-2, 2, channels)), rounding)


def check(device, x, w, *, x_type="uint8", w_type="int8", y_type=None, zero_x=128, zero_w=0,
          zero_y=128, bias=True, rounding="once", kind="random", scale_y=0.1, seed=0, **options):
    """Check an image [N, H, W, C] with a kernel [KH, KW, C*M]."""
    rng = np.random.default_rng(seed)
    y_type = y_type or x_type
    zero_x, zero_y = (zero if t == "uint8" else 0 for zero, t in ((zero_x, x_type),
                                                                  (zero_y, y_type)))
    values, weights = integers(rng, x, x_type, kind), integers(rng, w, w_type, kind)
    size = 64.0 * np.iinfo(TYPES[x_type]).max * w[0] * w[1]
    size *= 256 if w_type == "int16" else 1
    size /= 1 if y_type == "uint8" else 100
    m0, t = multipliers(rng, w[2], size, rounding)
    limit = int(size if options.get("wide") else min(size, 2**30))
    biases = rng.integers(-limit, limit, w[2])
    if options.get("wide"):
        biases = np.stack([biases >> 16, biases & 0xFFFF])
    biases = biases.astype(np.int32)
    y = check_integer(
        device, "depthwise_conv2d",
        [Quantized(values, 0.05, zero_x),
         Const(weights, Quantization.per_tensor(0.02, zero_w) if zero_w else None),
         Const(biases) if bias else None, None, None, Const(m0), Const(t)],
        y_type, Quantization.per_tensor(scale_y, zero_y, rounding), **options)
    assert len(np.unique(y)) > min(y.size, 20) // 4
    return y


@pytest.mark.parametrize("x_type, w_type", [("uint8", "int8"), ("int16", "int8")])
@pytest.mark.parametrize("channels", [1, 2, 5, 13, 31, 64])
def test_channels(device, dot, channels, x_type, w_type):
    """Every vector width, and tails that overlap the vector before."""
    check(device, (1, 6, 9, channels), (3, 3, channels), x_type=x_type, w_type=w_type,
          **pads(1, 1, 1, 1))


@pytest.mark.parametrize("channels, multiplier", [(1, 2), (5, 7)])
def test_multiplier(device, channels, multiplier):
    check(device, (2, 5, 6, channels), (3, 3, channels * multiplier), **pads(1, 0, 1, 1))


@pytest.mark.parametrize("image", [(1, 1, 1), (1, 13, 1), (2, 7, 15)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5), (7, 2)])
def test_sizes(device, small, dot, image, kernel):
    check(device, (*image, 19), (*kernel, 19), zero_x=3,
          **pads(kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2))


@pytest.mark.parametrize("options", [
    {"stride_h": 2, "stride_w": 2}, {"stride_h": 3, "stride_w": 1}, {"stride_h": 1, "stride_w": 4},
    {"dilation_h": 2, "dilation_w": 2}, {"dilation_h": 3}, {"dilation_w": 3},
    {"stride_h": 2, "stride_w": 2, "dilation_h": 2, "dilation_w": 3}])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 3, 1, 0), (5, 0, 0, 7)])
def test_windows(device, small, options, padding):
    check(device, (1, 13, 20, 18), (3, 3, 18), **options, **pads(*padding))


@pytest.mark.parametrize("zero_x, zero_w, zero_y", [
    (0, 0, 0), (255, 0, 255), (128, -128, 5), (7, 127, 250), (0, 23, 128)])
@pytest.mark.parametrize("rounding", ["once", "twice"])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_numbers(device, small, dot, zero_x, zero_w, zero_y, rounding, kind):
    """Zero points of everything, roundings, extreme values."""
    check(device, (1, 9, 11, 21), (3, 3, 21), zero_x=zero_x, zero_w=zero_w, zero_y=zero_y,
          rounding=rounding, kind=kind, **pads(2, 2, 2, 2))


@pytest.mark.parametrize("w_type, y_type, kernel", [
    ("int8", "int16", (3, 3)), ("int8", "uint8", (7, 7)), ("int16", "int16", (1, 1))])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_int16(device, small, dot, w_type, y_type, kernel, kind):
    """Sums that fit into 32 bits."""
    check(device, (1, 9, 11, 21), (*kernel, 21), x_type="int16", w_type=w_type, y_type=y_type,
          kind=kind, rounding="short", bias=w_type == "int8", **pads(kernel[0] // 2, 1, 1, 0))


@pytest.mark.parametrize("w_type, y_type", [("int8", "uint8"), ("int16", "int16")])
@pytest.mark.parametrize("kind", ["random", "extreme"])
@pytest.mark.parametrize("kernel", [3, 7])
def test_wide(device, small, w_type, y_type, kind, kernel):
    """Sums of products of int16, or biases, that need more than 32 bits."""
    check(device, (1, 9, 11, 21), (kernel, kernel, 21), x_type="int16", w_type=w_type,
          y_type=y_type, wide=True, kind=kind, rounding="short", **pads(3, 3, 3, 3))


@pytest.mark.parametrize("activation, alpha, beta", [
    ("relu", 0, 0), ("clip", 0, 6), ("clip", -1.5, 1.5)])
@pytest.mark.parametrize("bias", [False, True])
def test_clamps(device, small, activation, alpha, beta, bias):
    y = check(device, (1, 4, 5, 16), (3, 3, 16), activation=activation, alpha=alpha, beta=beta,
              bias=bias)
    least = 128 + (0 if activation == "relu" else round(alpha / 0.1))
    assert y.min() >= least and (activation == "relu" or y.max() <= 128 + round(beta / 0.1))


def real_output(device, x_type, w_type, precision="fp32", **options):
    rng = np.random.default_rng(1)
    x, w = integers(rng, (2, 7, 9, 19), x_type), integers(rng, (3, 3, 19), w_type)
    bias = rng.integers(-10000, 10000, (2, 19) if options.get("wide") else 19).astype(np.int32)
    if options.get("wide"):
        bias[1] &= 0xFFFF
    scale = (rng.uniform(1, 2, 19) / (np.iinfo(x.dtype).max * np.iinfo(w.dtype).max))
    return check_integer(
        device, "depthwise_conv2d",
        [Quantized(x, 0.05, 77 if x_type == "uint8" else 0), Const(w), Const(bias), None, None,
         Const(scale.astype(np.float32))], "fp32", None, 1e-5 if precision == "fp32" else 2e-3,
        precision, **options, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("x_type, w_type", [("uint8", "int8"), ("int16", "int8")])
@pytest.mark.parametrize("activation", ["", "hard_swish"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_output(device, small, x_type, w_type, activation, precision):
    real_output(device, x_type, w_type, precision, activation=activation)


def test_wide_real_output(device, small):
    real_output(device, "int16", "int16", wide=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("w_type", ["int8", "int16"])
@pytest.mark.parametrize("activation, residual, channels", [
    ("", False, 19), ("relu", True, 19), ("hard_swish", False, 3)])
def test_weights_only(device, w_type, precision, activation, residual, channels):
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (2, 7, 9, channels)).astype(np.float32)
    w = integers(rng, (3, 3, channels), w_type)
    more = rng.uniform(-1, 1, (2, 7, 9, channels)).astype(np.float32) if residual else None
    scale = rng.uniform(0.5, 1, channels) / np.iinfo(w.dtype).max
    if precision == "fp16":
        x, more = (a if a is None else a.astype(np.float16).astype(np.float32) for a in (x, more))
    check_integer(
        device, "depthwise_conv2d",
        [x, Const(w), Const(rng.uniform(-1, 1, channels).astype(np.float32)), more, None,
         Const(scale.astype(np.float32))], tolerance=1e-5 if precision == "fp32" else 2e-3,
        precision=precision, activation=activation, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("x, kernel, stride", [
    ((1, 56, 56, 128), 3, 1), ((1, 28, 28, 120), 5, 1), ((1, 56, 56, 72), 5, 2)])
def test_real_layers(device, x, kernel, stride):
    pad = kernel // 2
    check(device, x, (kernel, kernel, x[3]), activation="clip", beta=6.0, stride_h=stride,
          stride_w=stride, **pads(pad, pad, pad, pad))


@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 8)])
@pytest.mark.parametrize("channels, multiplier", [(3, 1), (6, 3)])
def test_as_on_other_devices(device, monkeypatch, facts, channels, multiplier):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 6, 7, channels), (3, 3, channels * multiplier), **pads(1, 1, 1, 1))


@pytest.mark.parametrize("change, message", [
    ({"m0": 4}, r"multipliers .* needed \(5,\)"), ({"t": 4}, r"shifts .* needed \(5,\)"),
    ({"bias": 4}, r"bias .* needed \(5,\)"), ({"w": (3, 3, 4)}, "needed a multiple of the 5"),
    ({"wide": True}, "is wide, but x is uint8"), ({"w_type": np.int16}, "needed int8 for uint8")])
def test_refused(change, message):
    graph = Graph()
    x = graph.input("x", (1, 8, 8, 5), "uint8")
    with pytest.raises(ModelError, match=message):
        graph.add("depthwise_conv2d", [
            x, graph.constant(np.zeros(change.get("w", (3, 3, 5)), change.get("w_type", np.int8))),
            graph.constant(np.zeros(change.get("bias", 5), np.int32)), None, None,
            graph.constant(np.zeros(change.get("m0", 5), np.int32)),
            graph.constant(np.zeros(change.get("t", 5), np.int8))],
            wide=change.get("wide", False))


@pytest.mark.parametrize("given, message", [
    ((None, "uint8", 0), "needed one scale and one zero point"),
    ((Quantization.per_tensor(1.0), "fp32", 0), "y is fp32, needed uint8 or int16"),
    ((Quantization.per_tensor(1.0), "uint8", "silu"), "needed relu, clip or none")])
def test_refused_when_prepared(given, message):
    quantization, dtype, activation = given
    graph = Graph()
    x = graph.input("x", (1, 8, 8, 5), "uint8")
    x.quantization = quantization
    op = graph.insert(0, "depthwise_conv2d", [
        x, graph.constant(np.zeros((3, 3, 5), np.int8)), None, None, None,
        graph.constant(np.zeros(5, np.int32)), graph.constant(np.zeros(5, np.int8))], "y",
        activation=activation or "")
    op.outputs[0].dtype, op.outputs[0].quantization = dtype, Quantization.per_tensor(1.0)
    with pytest.raises(ModelError, match=message):
        OPS["depthwise_conv2d"].prepare(op, Facts())
