"""conv2d against NumPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.tools import layout
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pads(*sizes):
    return dict(zip(PADS, sizes))


def check(device, x, w, precision="fp32", bias=True, **options):
    """Check a convolution of an image [N, H, W, C] with a kernel [OC, KH, KW, IC]."""
    constants = [Const(numbers(*w, seed=1) / w[3] ** 0.5)]
    if bias:
        constants.append(Const(numbers(w[0], seed=2)))
    return check_op(device, "conv2d", [numbers(*x), *constants], 1e-5, precision, **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("in_c", [1, 3, 4, 7, 16, 37])
@pytest.mark.parametrize("out_c", [1, 3, 4, 11, 16, 17, 32, 50, 64])
def test_channels(device, in_c, out_c, precision):
    """Every kind of last block, with and without whole vectors of input channels."""
    check(device, (1, 5, 7, in_c), (out_c, 3, 3, in_c), precision, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("image", [
    (1, 1, 1), (1, 1, 13), (1, 13, 1), (1, 5, 3), (3, 4, 4), (2, 7, 7)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (5, 2)])
def test_sizes(device, image, kernel, precision):
    """Images smaller than the kernel and than a tile, kernels that are not square, batches."""
    check(device, (*image, 6), (20, *kernel, 6), precision,
          **pads(kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [
    {"stride_h": 2, "stride_w": 2}, {"stride_h": 3, "stride_w": 1}, {"stride_h": 1, "stride_w": 4},
    {"dilation_h": 2, "dilation_w": 2}, {"dilation_h": 3}, {"dilation_w": 3},
    {"stride_h": 2, "stride_w": 2, "dilation_h": 2, "dilation_w": 3}])
@pytest.mark.parametrize("padding", [
    (0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 3, 1, 0), (5, 0, 0, 7)])
def test_windows(device, options, padding, precision):
    check(device, (1, 13, 14, 5), (18, 3, 3, 5), precision, **options, **pads(*padding))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("groups, in_c, out_c", [
    (2, 8, 32), (3, 5, 4), (4, 3, 20), (5, 1, 1), (7, 2, 17), (2, 40, 64)])
def test_groups(device, groups, in_c, out_c, precision):
    check(device, (2, 6, 5, groups * in_c), (groups * out_c, 3, 3, in_c), precision, groups=groups,
          **pads(1, 1, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("groups", [1, 3])
def test_rows_of_taps_inside_the_image(device, groups, precision):
    """Wide rows: the taps of a whole tile are one run of channels, unless there are groups."""
    check(device, (1, 4, 50, 6), (24, 3, 3, 6 // groups), precision, groups=groups,
          **pads(1, 1, 1, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("out_c", [3, 16, 35])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["", "relu", "clip", "leaky_relu", "hard_swish"])
def test_bias_residual_activation(device, out_c, bias, activation, precision):
    check_op(device, "conv2d", [
        numbers(1, 4, 5, 9), Const(numbers(out_c, 1, 1, 9, seed=1)),
        Const(numbers(out_c, seed=2)) if bias else None, numbers(1, 4, 5, out_c, seed=3)],
        1e-5, precision, activation=activation, alpha=-0.5, beta=0.75)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("x, w, options", [
    ((1, 56, 56, 64), (64, 3, 3, 64), pads(1, 1, 1, 1)),
    ((1, 56, 56, 3), (64, 7, 7, 3), {"stride_h": 2, "stride_w": 2, **pads(3, 3, 3, 3)}),
    ((1, 14, 14, 128), (96, 1, 1, 128), {}),
    ((1, 28, 28, 24), (144, 1, 1, 24), {})])
def test_real_layers(device, x, w, options, precision):
    check(device, x, w, precision, activation="relu", **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 4), Facts("cpu", 8)])
@pytest.mark.parametrize("out_c", [3, 16, 19, 64])
def test_as_on_other_devices(device, monkeypatch, facts, out_c, precision):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 6, 7, 35), (out_c, 3, 3, 35), precision, **pads(1, 1, 1, 1))


def test_two_convolutions_share_weights_and_zeros():
    """Blocks are made once, rows stay for an op that reads rows, there is one zeros constant."""
    graph = Graph()
    w = graph.constant(numbers(32, 3, 3, 8), "w")
    x = graph.input("x", (1, 6, 6, 8), "fp32")
    first = graph.insert(0, "conv2d", [x, w], "first", **pads(1, 1, 1, 1))
    second = graph.insert(1, "conv2d", [x, w], "second", **pads(1, 0, 0, 0))
    third = graph.insert(2, "conv2d", [x, graph.constant(numbers(4, 1, 1, 8))], "third")
    other = graph.insert(3, "unary", [w], "other", kind="relu")
    layout.apply(graph)
    assert first.inputs[1] is second.inputs[1] and first.inputs[4] is second.inputs[4]
    assert first.inputs[1].layout == "oc16" and first.inputs[4].shape == (8,)
    assert len(third.inputs) == 2
    assert other.inputs[0] is w and w.layout == "rows" and w.data.shape == (32, 3, 3, 8)


def test_macs():
    graph = Graph()
    op = graph.insert(0, "conv2d", [graph.input("x", (2, 9, 9, 6), "fp32"),
                                    graph.constant(numbers(10, 3, 3, 3))], groups=2)
    assert OPS["conv2d"].macs(op) == 2 * 7 * 7 * 10 * 3 * 3 * 3


@pytest.mark.parametrize("inputs, options, message", [
    ([(8, 8, 3), (4, 3, 3, 3)], {}, "needed 4 dimensions"),
    ([(1, 8, 8, 3), (4, 3, 3)], {}, "needed 4 dimensions"),
    ([(1, 8, 8, 3), (4, 3, 3, 4)], {}, "does not fit 3 channels"),
    ([(1, 8, 8, 4), (4, 3, 3, 4)], {"groups": 2}, "does not fit 4 channels"),
    ([(1, 8, 8, 4), (4, 3, 3, 4)], {"groups": 0}, "does not fit 4 channels"),
    ([(1, 8, 8, 4), (3, 3, 3, 2)], {"groups": 2}, "2 groups do not divide 3 output channels"),
    ([(1, 8, 8, 3), (4, 9, 3, 3)], {}, "does not fit into 8 padded elements along h"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"dilation_w": 4}, "spans 9 does not fit into 8 padded"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"stride_h": 0}, "stride_h is 0"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"stride_w": -1}, "stride_w is -1"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"dilation_h": 0}, "dilation_h 0"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"pad_top": -1}, "pad_top is -1"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"pad_right": -1}, "pad_right -1"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"pad_left": 2**31 - 1}, "of at most 2147483647"),
    ([(1, 8, 8, 3), (4, 1, 1, 3)], {"pad_top": 2**30, "pad_left": 2**30}, "is too large"),
    ([(1, 8, 8, 3), (4, 3, 3, 3), (3,)], {}, r"shape \(3,\), needed \(4,\)"),
    ([(1, 8, 8, 3), (4, 3, 3, 3), None, (1, 8, 8, 4)], {}, r"needed \(1, 6, 6, 4\)"),
    ([(1, 8, 8, 3), (4, 3, 3, 3), None, None, (2,)], {}, "has 2 zeros, needed 3"),
    ([(1, 8, 8, 3), (4, 3, 3, 3)], {"activation": "is_nan"}, "unknown activation 'is_nan'")])
def test_refused(inputs, options, message):
    graph = Graph()
    with pytest.raises(ModelError, match=message):
        graph.add("conv2d", [s and graph.input("x", s, "fp32") for s in inputs], **options)


@pytest.mark.parametrize("wrong", [0, 1, 3, 4])
def test_mixed_dtypes(wrong):
    shapes = [(1, 8, 8, 3), (4, 3, 3, 3), (4,), (1, 6, 6, 4), (3,)]
    graph = Graph()
    tensors = [graph.input("x", s, "fp16" if i == wrong else "fp32") for i, s in enumerate(shapes)]
    with pytest.raises(ModelError, match="mixes the dtypes fp16, fp32"):
        graph.add("conv2d", tensors)


def test_bias_is_fp32():
    graph = Graph()
    tensors = [graph.input("x", s, "fp16") for s in [(1, 8, 8, 3), (4, 3, 3, 3), (4,)]]
    with pytest.raises(ModelError, match="is fp16, needed fp32"):
        graph.add("conv2d", tensors)


def test_what_only_a_device_refuses():
    """Weights in rows, and padding without zeros, are fine in the packer's graph only."""
    graph = Graph()
    op = graph.insert(0, "conv2d", [graph.input("x", (1, 8, 8, 3), "fp32"),
                                    graph.constant(numbers(4, 3, 3, 3))], pad_top=1)
    with pytest.raises(ModelError, match="layout rows, needed oc16"):
        OPS["conv2d"].prepare(op, Facts())
    op.inputs[1].layout = "oc16"
    with pytest.raises(ModelError, match="needed a fifth input of 3 zeros"):
        OPS["conv2d"].infer(op)
