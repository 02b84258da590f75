"""depthwise_conv2d against NumPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pads(*sizes):
    return dict(zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), sizes))


def check(device, x, w, precision="fp32", **options):
    """Check an image [N, H, W, C] with a kernel [KH, KW, C*M]."""
    return check_op(device, "depthwise_conv2d", [
        numbers(*x), Const(numbers(*w, seed=1)), Const(numbers(w[2], seed=2))], 1e-5, precision,
        **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 13, 16, 24, 31, 58, 64])
def test_channels(device, channels, precision):
    """Every vector width, and tails that overlap the vector before."""
    check(device, (1, 6, 9, channels), (3, 3, channels), precision, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels, multiplier", [(1, 2), (1, 32), (3, 2), (8, 3), (5, 7), (16, 2)])
def test_multiplier(device, channels, multiplier, precision):
    check(device, (2, 5, 6, channels), (3, 3, channels * multiplier), precision, **pads(1, 0, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("image", [(1, 1, 1), (1, 1, 13), (1, 13, 1), (3, 5, 3), (2, 7, 15)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5), (7, 2)])
def test_sizes(device, image, kernel, precision):
    check(device, (*image, 19), (*kernel, 19), precision,
          **pads(kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [
    {"stride_h": 2, "stride_w": 2}, {"stride_h": 3, "stride_w": 1}, {"stride_h": 1, "stride_w": 4},
    {"dilation_h": 2, "dilation_w": 2}, {"dilation_h": 3}, {"dilation_w": 3},
    {"stride_h": 2, "stride_w": 2, "dilation_h": 2, "dilation_w": 3}])
@pytest.mark.parametrize("padding", [
    (0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 3, 1, 0), (5, 0, 0, 7)])
def test_windows(device, options, padding, precision):
    check(device, (1, 13, 20, 18), (3, 3, 18), precision, **options, **pads(*padding))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", [3, 16, 35])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["", "relu", "clip", "hard_swish"])
def test_bias_residual_activation(device, channels, bias, activation, precision):
    check_op(device, "depthwise_conv2d", [
        numbers(1, 4, 5, channels), Const(numbers(3, 3, channels, seed=1)),
        Const(numbers(channels, seed=2)) if bias else None, numbers(1, 2, 3, channels, seed=3)],
        1e-5, precision, activation=activation, alpha=-0.5, beta=0.75)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("x, kernel, stride", [
    ((1, 112, 112, 32), 3, 1), ((1, 28, 28, 120), 5, 1), ((1, 56, 56, 72), 5, 2)])
def test_real_layers(device, x, kernel, stride, precision):
    pad = kernel // 2
    check(device, x, (kernel, kernel, x[3]), precision, activation="clip", beta=6.0,
          stride_h=stride, stride_w=stride, **pads(pad, pad, pad, pad))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 4), Facts("cpu", 8)])
@pytest.mark.parametrize("channels, multiplier", [(3, 1), (37, 1), (6, 3)])
def test_as_on_other_devices(device, monkeypatch, facts, channels, multiplier, precision):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 6, 7, channels), (3, 3, channels * multiplier), precision, **pads(1, 1, 1, 1))


def test_macs():
    graph = Graph()
    op = graph.insert(0, "depthwise_conv2d", [graph.input("x", (2, 9, 9, 6), "fp32"),
                                              graph.constant(numbers(3, 3, 12))])
    assert OPS["depthwise_conv2d"].macs(op) == 2 * 7 * 7 * 12 * 3 * 3


@pytest.mark.parametrize("inputs, options, message", [
    ([(8, 8, 3), (3, 3, 3)], {}, "needed 4 dimensions"),
    ([(1, 8, 8, 3), (3, 3, 3, 1)], {}, "needed 3 dimensions"),
    ([(1, 8, 8, 3), (3, 3, 4)], {}, "has 4 channels, needed a multiple of the 3"),
    ([(1, 8, 8, 4), (3, 3, 2)], {}, "has 2 channels, needed a multiple of the 4"),
    ([(1, 8, 8, 3), (9, 3, 3)], {}, "does not fit into 8 padded elements along h"),
    ([(1, 8, 8, 3), (3, 3, 3)], {"dilation_w": 4}, "spans 9 does not fit"),
    ([(1, 8, 8, 3), (3, 3, 3)], {"stride_h": 0}, "stride_h is 0"),
    ([(1, 8, 8, 3), (3, 3, 3)], {"pad_left": -1}, "pad_left is -1"),
    ([(1, 8, 8, 3), (1, 1, 3)], {"pad_top": 2**30, "pad_left": 2**30}, "is too large"),
    ([(1, 8, 8, 3), (3, 3, 3), (4,)], {}, r"shape \(4,\), needed \(3,\)"),
    ([(1, 8, 8, 3), (3, 3, 3), None, (1, 8, 8, 3)], {}, r"needed \(1, 6, 6, 3\)")])
def test_refused(inputs, options, message):
    graph = Graph()
    tensors = [s and graph.input("x", s, "fp32") for s in inputs]
    with pytest.raises(ModelError, match=message):
        graph.add("depthwise_conv2d", tensors, **options)


def test_weights_in_blocks_are_refused():
    graph = Graph()
    w = graph.constant(numbers(3, 3, 16))
    w.layout = "oc16"
    with pytest.raises(ModelError, match="layout oc16, needed rows"):
        graph.add("depthwise_conv2d", [graph.input("x", (1, 8, 8, 16), "fp32"), w])
