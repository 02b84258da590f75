"""Pooling kernels against NumPy, and the NumPy reference against ONNX Runtime."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools.graph import Graph
from tests.harness import check_op


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def window(kernel=3, stride=1, pad=0, dilation=1, **others):
    pads = pad if isinstance(pad, tuple) else (pad,) * 4
    return dict(kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride,
                dilation_h=dilation, dilation_w=dilation, pad_top=pads[0], pad_left=pads[1],
                pad_bottom=pads[2], pad_right=pads[3], **others)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("shape", [(1, 3, 3, 1), (1, 5, 7, 3), (2, 9, 6, 4), (1, 8, 8, 16),
                                   (1, 7, 5, 17), (3, 4, 11, 37)])
def test_shapes(device, shape, kind, precision):
    check_op(device, "pool2d", [image(shape)], 1e-6, precision, kind=kind, **window(3, 2, 1))


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("options", [
    window(2, 2), window(3, 2, 1, ceil_mode=True), window(3, 2, 0, ceil_mode=True),
    window(2, 3, (1, 0, 0, 1)), window(3, 1, 2, 2), window(3, 2, 1, count_include_pad=True),
    window(3, 2, (0, 0, 1, 1), ceil_mode=True, count_include_pad=True),
    window(1, 3, ceil_mode=True), window(2, 1, 2, 3, count_include_pad=True),
    window(3, 2, (0, 1, 2, 0), activation="relu"),
    dict(kernel_h=1, kernel_w=5, stride_w=2, pad_left=2),
    dict(kernel_h=4, stride_h=3, pad_bottom=1)])
def test_options(device, options, kind):
    check_op(device, "pool2d", [image((2, 8, 9, 19), 1)], 1e-6, kind=kind, **options)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_without_taps(device, kind):
    """Dilated taps may all lie in the padding: -inf and 0, never a division by zero."""
    found = check_op(device, "pool2d", [image((1, 1, 1, 5), 2)], 0, kind=kind, kernel_h=2,
                     dilation_h=2, pad_top=1, pad_bottom=1)
    assert np.all(found["y0"] == (-np.inf if kind == "max" else 0))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(1, 7, 7, 1280), (1, 14, 14, 1000), (2, 1, 300, 3),
                                   (1, 56, 56, 2)])
def test_global(device, shape, precision):
    x = image(shape, 3) + 10
    for kind in ("average", "max"):
        check_op(device, "pool2d", [x], 1e-6, precision, kind=kind, kernel_h=shape[1],
                 kernel_w=shape[2])


def test_resnet_first_pool(device):
    check_op(device, "pool2d", [image((1, 112, 112, 64), 4)], 0, kind="max", **window(3, 2, 1))


@pytest.mark.parametrize("average, include", [(False, 0), (True, 0), (True, 1)])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("size, kernel, stride, pads", [
    ((7, 8), 3, 2, (0, 0, 0, 0)), ((7, 8), 3, 2, (1, 1, 1, 1)), ((6, 5), 2, 3, (1, 0, 0, 1)),
    ((10, 10), 3, 3, (2, 2, 2, 2)), ((4, 4), 1, 3, (0, 0, 0, 0)), ((9, 6), 4, 3, (0, 3, 2, 0))])
def test_agrees_with_onnx_runtime(device, size, kernel, stride, pads, ceil, include, average):
    import onnx
    import onnxruntime
    extra = {"count_include_pad": include} if average else {}
    node = onnx.helper.make_node("AveragePool" if average else "MaxPool", ["x"], ["y"],
                                 kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads,
                                 ceil_mode=ceil, **extra)
    value = onnx.helper.make_tensor_value_info
    x = image((2, *size, 3), 5)
    model = onnx.helper.make_model(onnx.helper.make_graph(
        [node], "pool", [value("x", 1, [2, 3, *size])], [value("y", 1, None)]),
        opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": x.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)
    found = check_op(device, "pool2d", [x], 1e-6, kind="average" if average else "max",
                     **window(kernel, stride, pads, ceil_mode=bool(ceil),
                              count_include_pad=bool(include)))
    assert found["y0"].shape == want.shape
    np.testing.assert_allclose(found["y0"], want, atol=2e-6)


@pytest.mark.parametrize("shape, options, message", [
    ((1, 4, 4), dict(kind="max"), "needed 4 dimensions"),
    ((1, 4, 4, 2), dict(kind="median"), "unknown kind 'median'"),
    ((1, 4, 4, 2), dict(kind="max", kernel_h=0), "kernel_h 0"),
    ((1, 4, 4, 2), dict(kind="max", stride_w=0), "stride_w 0"),
    ((1, 4, 4, 2), dict(kind="max", dilation_h=-1), "dilation_h -1"),
    ((1, 4, 4, 2), dict(kind="max", pad_left=-1), "pad_left -1"),
    ((1, 4, 4, 2), dict(kind="max", kernel_h=5), "gives no output"),
    ((1, 4, 4, 2), dict(kind="max", kernel_h=9, stride_h=2, ceil_mode=True), "gives no output"),
    ((1, 4, 4, 2), dict(kind="max", pad_top=2**30), "at most"),
    ((1, 4, 4, 2), dict(kind="max", stride_h=2**31 - 1), "at most"),
    ((1, 4, 4, 2), dict(kind="max", kernel_w=2**16, dilation_w=2**15), "at most"),
    ((1, 4, 4, 2), dict(kind="max", dilation_w=2**31 - 1), "at most"),
    ((1, 4, 4, 2), dict(kind="max", activation="boom"), "unknown activation"),
])
def test_invalid(shape, options, message):
    graph = Graph()
    with pytest.raises(ModelError, match=message):
        graph.add("pool2d", [graph.input("x", shape, "fp32")], **options)


def test_integers_are_refused():
    graph = Graph()
    with pytest.raises(ModelError, match="is int32, needed fp32 or fp16"):
        graph.add("pool2d", [graph.input("x", (1, 2, 2, 1), "int32")], kind="max")


@pytest.mark.parametrize("channels", [5, 6, 7, 9, 10, 11, 12, 13, 19])
def test_halves_that_are_not_aligned(device, channels):
    """A maximum looks at the loaded bits twice, so they are in a register: PoCL faults if it may
    take them for an aligned vector."""
    check_op(device, "pool2d", [image((1, 9, 9, channels))], 0, "fp16", kind="max", **window(3, 2))


@pytest.mark.parametrize("kind", ["max", "average"])
def test_small_work_items(device, monkeypatch, kind):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for channels in (1, 6, 16):
        check_op(device, "pool2d", [image((2, 7, 9, channels), 6)], 1e-6, kind=kind,
                 **window(3, 2, 1))
