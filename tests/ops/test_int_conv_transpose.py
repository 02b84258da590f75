"""conv_transpose2d with integer weights, exactly as NumPy computes it."""
import dataclasses

import numpy as np
import pytest

from edgerun import dots
from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization, fixed_point
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

TYPES = {"uint8": np.uint8, "int16": np.int16, "int8": np.int8}


@pytest.fixture(params=["plain", "khr", "vnni"])
def dot(request, device, monkeypatch):
    """Every way to sum products."""
    if not dots.has(device, request.param):
        pytest.skip(f"{device.info.name} of {device.info.platform} has no {request.param} products")
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, dot=request.param))


def integers(rng, shape, dtype, kind="random"):
    """Random integers, or as many extreme ones as possible; no int16 weight is -32768."""
    info = np.iinfo(TYPES[dtype])
    least = max(info.min, -32767)
    if kind == "random":
        return rng.integers(least, info.max + 1, shape).astype(TYPES[dtype])
    return rng.choice([least, info.max], shape).astype(TYPES[dtype])


def check(device, image=(1, 4, 9), in_c=8, out_c=16, kernel=(3, 3), *, x_type="uint8",
          w_type="int8", y_type=None, zero_x=128, zero_w=0, zero_y=128, bias=True,
          rounding="once", kind="random", groups=1, seed=0, **options):
    """Check an image [N, H, W] of in_c channels."""
    rng = np.random.default_rng(seed)
    y_type = y_type or x_type
    zero_x, zero_y = (zero if t == "uint8" else 0 for zero, t in ((zero_x, x_type),
                                                                  (zero_y, y_type)))
    x = integers(rng, (*image, in_c), x_type, kind)
    w = integers(rng, (out_c, *kernel, in_c // groups), w_type, kind)
    size = 0.3 * np.abs(w[0].astype(np.int64)).sum() * np.iinfo(x.dtype).max
    target = 100 if y_type == "uint8" else 20000
    m0, t = fixed_point(target / size * np.exp2(rng.uniform(-2, 2, out_c)), rounding)
    limit = int(size if options.get("wide") else min(size, 2**30))
    biases = rng.integers(-limit, limit, out_c)
    if options.get("wide"):
        biases = np.stack([biases >> 16, biases & 0xFFFF])
    biases = biases.astype(np.int32)
    y = check_integer(
        device, "conv_transpose2d",
        [Quantized(x, 0.05, zero_x),
         Const(w, Quantization.per_tensor(0.02, zero_w) if zero_w else None),
         Const(biases) if bias else None, None, None, Const(m0), Const(t)],
        y_type, Quantization.per_tensor(0.1, zero_y, rounding), groups=groups, **options)
    assert len(np.unique(y)) > min(y.size, 20) // 4
    return y


@pytest.mark.parametrize("x_type, w_type", [("uint8", "int8"), ("int16", "int8")])
@pytest.mark.parametrize("in_c, out_c", [(1, 1), (13, 19), (32, 40)])
def test_channels(device, dot, in_c, out_c, x_type, w_type):
    check(device, (2, 3, 11), in_c, out_c, x_type=x_type, w_type=w_type, stride_h=2, stride_w=2)


@pytest.mark.parametrize("groups, in_c, out_c", [(2, 6, 34), (3, 15, 48)])
def test_groups(device, dot, groups, in_c, out_c):
    check(device, (1, 3, 11), in_c, out_c, groups=groups, stride_w=2)


@pytest.mark.parametrize("kernel, options", [
    ((1, 1), {}), ((2, 2), {"stride_h": 2, "stride_w": 2}),
    ((4, 4), {"stride_h": 2, "stride_w": 2}),
    ((3, 3), {"stride_h": 3, "stride_w": 1}), ((2, 5), {"stride_h": 1, "stride_w": 4}),
    ((3, 3), {"dilation_h": 2, "dilation_w": 3}),
    ((3, 3), {"stride_h": 2, "stride_w": 2, "dilation_w": 2})])
@pytest.mark.parametrize("more", [{}, {"pad_top": 1, "pad_left": 1},
                                  {"pad_bottom": 1, "output_pad_h": 1, "output_pad_w": 2}])
def test_windows(device, kernel, options, more):
    if kernel != (1, 1) or not more:
        check(device, (1, 4, 18), 5, 17, kernel, zero_x=9, **options, **more)


@pytest.mark.parametrize("zero_x, zero_w, zero_y", [
    (0, 0, 0), (255, 0, 255), (128, -128, 5), (7, 127, 250), (0, 23, 128)])
@pytest.mark.parametrize("rounding", ["once", "twice"])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_numbers(device, dot, zero_x, zero_w, zero_y, rounding, kind):
    """Zero points of everything, roundings, extreme values."""
    check(device, (1, 3, 9), 6, 19, (3, 4), zero_x=zero_x, zero_w=zero_w, zero_y=zero_y,
          rounding=rounding, kind=kind, stride_w=2, pad_top=1)


@pytest.mark.parametrize("w_type, y_type, in_c, wide", [
    ("int8", "int16", 40, False), ("int16", "uint8", 1, False),
    ("int8", "int16", 600, True), ("int16", "int16", 13, True)])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_int16(device, dot, w_type, y_type, in_c, wide, kind):
    """Wide: more than 32 bits."""
    check(device, (1, 2, 9), in_c, 17, (2, 3) if wide or in_c > 1 else (1, 1), x_type="int16",
          w_type=w_type, y_type=y_type, wide=wide, kind=kind, rounding="short", stride_w=2,
          bias=wide or w_type == "int8")


@pytest.mark.parametrize("activation, alpha, beta", [("relu", 0, 0), ("clip", -1.5, 1.5)])
def test_clamps(device, activation, alpha, beta):
    y = check(device, activation=activation, alpha=alpha, beta=beta)
    assert y.min() >= 128 + round(alpha / 0.1)
    assert activation == "relu" or y.max() <= 128 + round(beta / 0.1)


@pytest.mark.parametrize("x_type, w_type, wide", [
    ("uint8", "int8", False), ("int16", "int8", False), ("int16", "int16", True)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_output(device, x_type, w_type, wide, precision):
    rng = np.random.default_rng(1)
    x, w = integers(rng, (2, 3, 9, 7), x_type), integers(rng, (19, 3, 3, 7), w_type)
    bias = rng.integers(-10000, 10000, (2, 19) if wide else 19).astype(np.int32)
    bias[-1] &= 0xFFFF
    scale = rng.uniform(1, 2, 19) / (np.iinfo(x.dtype).max * np.iinfo(w.dtype).max)
    check_integer(
        device, "conv_transpose2d",
        [Quantized(x, 0.05, 77 if x_type == "uint8" else 0), Const(w), Const(bias), None, None,
         Const(scale.astype(np.float32))], "fp32", None, 1e-5 if precision == "fp32" else 2e-3,
        precision, activation="hard_swish", wide=wide, stride_h=2, stride_w=2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("w_type, in_c", [("int8", 7), ("int8", 8), ("int16", 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_only(device, precision, w_type, in_c, bias):
    rng = np.random.default_rng(2)
    x, w = rng.uniform(-1, 1, (2, 3, 9, in_c)), integers(rng, (19, 3, 3, in_c), w_type)
    x = x.astype(np.float16 if precision == "fp16" else np.float32).astype(np.float32)
    scale = rng.uniform(0.5, 1, 19) / np.iinfo(w.dtype).max
    check_integer(
        device, "conv_transpose2d",
        [x, Const(w), Const(rng.uniform(-1, 1, 19).astype(np.float32)) if bias else None, None,
         None, Const(scale.astype(np.float32))], tolerance=1e-5 if precision == "fp32" else 2e-3,
        precision=precision, activation="relu", stride_h=2, stride_w=2)


def test_real_layer(device):
    """The last layer of a decoder: a few channels of a large image."""
    check(device, (1, 32, 32), 64, 21, (4, 4), stride_h=2, stride_w=2, pad_top=1, pad_left=1,
          pad_bottom=1, pad_right=1, rounding="twice")


@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 8)])
def test_as_on_other_devices(device, monkeypatch, facts):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 3, 11), 6, 19, stride_w=2)


@pytest.mark.parametrize("x_type, zero, inputs, message", [
    ("uint8", 0, {"m0": 4}, r"multipliers .* needed \(5,\)"),
    ("uint8", 0, {"residual": (1, 10, 10, 5)}, "has a residual or zeros"),
    ("uint8", 0, {"w": (5, 3, 3, 4)}, "does not fit 8 channels"),
    ("int16", 3, {}, "int16 with the zero point 3, needed 0"),
    ("uint8", None, {}, "needed one scale and one zero point")])
def test_refused(x_type, zero, inputs, message):
    graph = Graph()
    x = graph.input("x", (1, 8, 8, 8), x_type)
    x.quantization = None if zero is None else Quantization.per_tensor(1.0, zero)
    residual = inputs.get("residual")
    with pytest.raises(ModelError, match=message):
        op = graph.insert(0, "conv_transpose2d", [
            x, graph.constant(np.zeros(inputs.get("w", (5, 3, 3, 8)), np.int8)), None,
            graph.input("r", residual, x_type) if residual else None, None,
            graph.constant(np.zeros(inputs.get("m0", 5), np.int32)),
            graph.constant(np.zeros(5, np.int8))], "y")
        op.inputs[1].layout = "oc16x4"
        op.outputs[0].quantization = Quantization.per_tensor(1.0)
        OPS["conv_transpose2d"].prepare(op, Facts())
