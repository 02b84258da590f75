"""Quantized ONNX models that are wrong or not supported: which node and tensor, and what was
needed."""
from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import MS, f32, floats, make, random_ints


def single(node, constants, inputs=None, opset=21):
    return import_proto(make(node, inputs or {"x": floats(2, 3)}, constants, opset))


@pytest.mark.parametrize("scale, zero, message", [
    (0.0, np.int8(0), "QuantizeLinear 'n': scale has the scale 0.0, needed positive finite"),
    (-0.5, np.int8(0), "scale has the scale -0.5, needed positive finite numbers"),
    (np.nan, np.int8(0), "scale has the scale nan, needed positive"),
    (np.inf, np.int8(0), "scale has the scale inf, needed positive"),
    ([0.1, 0.2], np.int8([0, 0]), "scale has 2 scales, needed 1 or 3 for axis 1 of the shape"),
    ([0.1, 0.2, 0.3], np.int8([0, 0]), "zero has 2 zero points, needed 3 like the scales")])
def test_wrong_quantize(scale, zero, message):
    node = make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="n")
    with pytest.raises(ModelError, match=message):
        single(node, {"scale": f32(scale), "zero": np.asarray(zero)})


@pytest.mark.parametrize("known", [True, False])
def test_zero_point_of_another_type(known):
    node = make_node("DequantizeLinear", ["q", "s", "zero"], ["y"], name="n")
    q = {"q": random_ints(np.uint8, 2, 3)}
    constants = {"s": f32(0.1), "zero": np.array(0, np.int8)}
    with pytest.raises(ModelError, match="DequantizeLinear 'n': zero is int8, needed uint8"):
        import_proto(make(node, {} if known else q, constants | (q if known else {})))


def test_zero_point_of_a_bias():
    node = make_node("DequantizeLinear", ["q", "s", "zero"], ["y"], name="n")
    with pytest.raises(ModelError, match="zero has a zero point of int32 that is not 0"):
        single(node, {"q": np.ones(3, np.int32), "s": f32(0.1), "zero": np.array(1, np.int32)})


def qlinear_conv(**changes):
    """Import a QLinearConv with some constants changed."""
    constants = {"xs": f32(0.1), "xz": np.array(0, np.uint8), "w": random_ints(np.int8, 6, 4, 1, 1),
                 "ws": f32(0.1), "wz": np.array(0, np.int8), "ys": f32(0.1),
                 "yz": np.array(0, np.uint8), "b": np.zeros(6, np.int32), **changes}
    node = make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"],
                     name="n")
    x = {"x": random_ints(np.uint8, 1, 4, 3, 3)}
    return import_proto(make(node, x, constants, to=np.uint8))


@pytest.mark.parametrize("changes, message", [
    ({"xs": f32(0.0)}, "QLinearConv 'n': xs has the scale 0.0"),
    ({"ws": f32([0.1] * 5 + [-1]), "wz": np.zeros(6, np.int8)}, "ws has the scale -1.0"),
    ({"ys": f32(np.nan)}, "ys has the scale nan"),
    ({"ws": f32([0.1] * 4), "wz": np.zeros(4, np.int8)}, "ws has 4 scales, needed 1 or 6"),
    ({"xz": np.array(0, np.int8)}, "xz is int8, needed uint8"),
    ({"wz": np.array(0, np.uint8)}, "wz is uint8, needed int8"),
    ({"b": np.zeros(6, np.float32)}, "b is float32, needed int32"),
    ({"ws": f32([0.1] * 6), "wz": np.zeros(6, np.int8), "b": np.zeros(5, np.int32)},
     "b has 5 elements, needed 6")])
def test_wrong_convolution(changes, message):
    with pytest.raises(ModelError, match=message):
        qlinear_conv(**changes)


@pytest.mark.parametrize("node, constants, message", [
    (make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
     {"s": f32(0.1), "z": np.array(0, np.uint16)}, "it quantizes to uint16, needed uint8, int8"),
    (make_node("QuantizeLinear", ["x", "s"], ["y"], axis=1, block_size=3),
     {"s": f32(0.1, 0.2).reshape(2, 1)}, "it is quantized in blocks"),
    (make_node("QLinearSigmoid", ["x", "s", "z", "s", "z"], ["y"], domain=MS),
     {"s": f32(0.1), "z": np.array(0, np.uint16)}, "is fp32|uint16"),
    (make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain=MS),
     {"w": random_ints(np.int8, 3, 5), "s": f32(0.1)}, "com.microsoft.DynamicQuantizeMatMul")])
def test_not_supported(node, constants, message):
    with pytest.raises((UnsupportedError, ModelError), match=message):
        single(node, constants)


def test_pooling_with_channels_last():
    node = make_node("QLinearGlobalAveragePool", ["x", "s", "z", "s", "z"], ["y"], domain=MS,
                     channels_last=1)
    with pytest.raises(UnsupportedError, match="channels_last is 1, needed 0"):
        single(node, {"s": f32(0.1), "z": np.array(0, np.uint8)},
               {"x": random_ints(np.uint8, 1, 3, 4, 5)})
