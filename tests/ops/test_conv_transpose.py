"""Transposed convolution kernels against NumPy, and the NumPy reference against ONNX Runtime."""
import dataclasses

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgerun.errors import ModelError
from edgerun.ops import OPS
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op


def numbers(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def layer(x_shape, out_c, kernel, groups=1):
    """x, w and bias of a layer."""
    return [numbers(x_shape, 1), Const(numbers((out_c, *kernel, x_shape[3] // groups), 2)),
            Const(numbers(out_c, 3))]


def options(stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), extra=(0, 0), **others):
    return dict(stride_h=stride[0], stride_w=stride[1], pad_top=pads[0], pad_left=pads[1],
                pad_bottom=pads[2], pad_right=pads[3], dilation_h=dilation[0],
                dilation_w=dilation[1], output_pad_h=extra[0], output_pad_w=extra[1], **others)


CASES = [  # shape of x, output channels, kernel, groups, options
    ((1, 1, 1, 1), 1, (1, 1), 1, options()),
    ((1, 5, 7, 3), 5, (3, 3), 1, options()),
    ((2, 4, 6, 4), 16, (2, 2), 1, options((2, 2))),
    ((1, 6, 11, 16), 17, (3, 3), 1, options((2, 2), (1, 1, 1, 1), extra=(1, 1))),
    ((1, 5, 9, 33), 21, (4, 4), 1, options((2, 2), (1, 1, 1, 1))),
    ((1, 7, 3, 8), 40, (3, 2), 1, options((3, 1), (0, 1, 2, 0))),
    ((1, 3, 18, 8), 12, (2, 3), 1, options((1, 3), (1, 0, 0, 2), (2, 1))),
    ((1, 4, 5, 6), 9, (3, 3), 1, options((2, 3), (2, 2, 1, 3), (2, 2))),
    ((1, 4, 5, 6), 9, (3, 3), 3, options((2, 2), (1, 0, 0, 1), (3, 2), (1, 0))),
    ((2, 5, 6, 8), 8, (3, 3), 8, options((2, 2), (1, 1, 1, 1), extra=(1, 1))),
    ((1, 5, 6, 8), 40, (3, 3), 2, options((2, 2), (1, 1, 0, 0))),
    ((1, 3, 4, 5), 18, (1, 1), 1, options((4, 5), extra=(3, 2))),  # most pixels have no tap
    ((1, 1, 2, 3), 4, (1, 2), 1, options((1, 9), (0, 9, 0, 0))),
    ((1, 1, 24, 7), 19, (1, 9), 1, options((1, 4), (0, 3, 0, 2))),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("x_shape, out_c, kernel, groups, given", CASES)
def test_cases(device, x_shape, out_c, kernel, groups, given, precision):
    operands = layer(x_shape, out_c, kernel, groups)
    check_op(device, "conv_transpose2d", operands, 2e-6, precision, groups=groups, **given)
    check_op(device, "conv_transpose2d", operands[:2], 2e-6, precision, groups=groups, **given)


@pytest.mark.parametrize("x_shape, out_c, kernel, groups, given", CASES)
def test_small_work_items(device, monkeypatch, x_shape, out_c, kernel, groups, given):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    check_op(device, "conv_transpose2d", layer(x_shape, out_c, kernel, groups), 2e-6, groups=groups,
             **given)


@pytest.mark.parametrize("activation", ["relu", "clip", "hard_swish", "leaky_relu"])
def test_activation(device, activation):
    check_op(device, "conv_transpose2d", layer((1, 5, 6, 7), 19, (3, 3)), 2e-6,
             **options((2, 2), activation=activation, alpha=0.1, beta=0.7))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_decoder_layer(device, precision):
    check_op(device, "conv_transpose2d", layer((1, 14, 14, 128), 64, (4, 4)), 2e-6, precision,
             **options((2, 2), (1, 1, 1, 1)))


def test_values_that_are_not_finite_stay_where_they_are(device):
    """A tap outside the image adds nothing, not 0 times what is there."""
    x = np.ones((1, 1, 12, 3), np.float32)
    w = numbers((5, 1, 3, 3), 4)
    w[:, 0, 2] = 1e38
    found = check_op(device, "conv_transpose2d", [x * 3, Const(w)], **options())
    assert np.isinf(found["y0"]).any() and np.isfinite(found["y0"][:, :, :2]).all()


@pytest.mark.parametrize("x_shape, out_c, kernel, groups, given", CASES)
def test_reference_agrees_with_onnx_runtime(x_shape, out_c, kernel, groups, given):
    x, w, bias = layer(x_shape, out_c, kernel, groups)
    graph = Graph()
    y = graph.add("conv_transpose2d", [graph.input("x", x_shape, "fp32"), graph.constant(w.array),
                                       graph.constant(bias.array)], groups=groups, **given)
    graph.output("y", y)
    in_c = x_shape[3] // groups  # ONNX: [C, OC / groups, KH, KW]
    by_group = w.array.reshape(groups, out_c // groups, *kernel, in_c).transpose(0, 4, 1, 2, 3)
    node = helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], group=groups,
        strides=[given["stride_h"], given["stride_w"]],
        dilations=[given["dilation_h"], given["dilation_w"]],
        pads=[given[f"pad_{side}"] for side in ("top", "left", "bottom", "right")],
        output_padding=[given["output_pad_h"], given["output_pad_w"]])
    model = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, None)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(by_group.reshape(x_shape[3], out_c // groups, *kernel), "w"),
         numpy_helper.from_array(bias.array, "b")]),
        opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    want, = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    np.testing.assert_allclose(reference.execute(graph, {"x": x})["y"], want.transpose(0, 2, 3, 1),
                               atol=1e-5)


def test_macs():
    graph = Graph()
    op = graph.insert(0, "conv_transpose2d", [graph.input("x", (2, 5, 6, 8), "fp32"),
                                              graph.constant(numbers((12, 3, 2, 4)))], groups=2)
    assert op.outputs[0].shape == (2, 7, 7, 12)
    assert OPS["conv_transpose2d"].macs(op) == 2 * 5 * 6 * 12 * 3 * 2 * 4


@pytest.mark.parametrize("x_shape, w_shape, bias_shape, given, message", [
    ((4, 4, 2), (3, 2, 2, 2), None, {}, "needed 4 dimensions"),
    ((1, 4, 4, 2), (3, 2, 2), None, {}, "needed 4 dimensions"),
    ((1, 4, 4, 2), (3, 2, 2, 3), None, {}, "does not fit 2 channels"),
    ((1, 4, 4, 4), (4, 2, 2, 4), None, {"groups": 2}, "does not fit 4 channels"),
    ((1, 4, 4, 4), (4, 2, 2, 4), None, {"groups": 0}, "does not fit 4 channels"),
    ((1, 4, 4, 4), (3, 2, 2, 2), None, {"groups": 2}, "2 groups do not divide 3"),
    ((1, 4, 4, 2), (3, 2, 2, 2), (4,), {}, r"shape \(4,\), needed \(3,\)"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"stride_h": 0}, "stride_h is 0"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"dilation_w": 0}, "dilation_w 0"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"pad_left": -1}, "pad_left is -1"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"output_pad_h": -1}, "output_pad_h -1"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"pad_top": 2, "pad_bottom": 3}, "leave nothing"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"stride_h": 2**29}, "at most"),
    ((1, 1, 4, 2), (3, 2, 2, 2), None, {"stride_h": 2**31 - 1}, "at most"),
    ((1, 4, 4, 2), (3, 1, 2, 2), None, {"dilation_h": 2**31 - 1}, "at most"),
    ((1, 4, 4, 2), (3, 2, 2, 2), None, {"activation": "boom"}, "unknown activation"),
])
def test_invalid(x_shape, w_shape, bias_shape, given, message):
    graph = Graph()
    operands = [graph.input("x", x_shape, "fp32"), graph.constant(np.zeros(w_shape, np.float32))]
    if bias_shape:
        operands.append(graph.constant(np.zeros(bias_shape, np.float32)))
    with pytest.raises(ModelError, match=message):
        graph.add("conv_transpose2d", operands, **given)


def test_weights_in_rows_are_refused():
    """A file with weights that are not in blocks fails when it is prepared."""
    from edgerun.ops import Facts
    graph = Graph()
    op = graph.insert(0, "conv_transpose2d", [graph.input("x", (1, 2, 2, 3), "fp32"),
                                              graph.constant(numbers((4, 2, 2, 3)))])
    with pytest.raises(ModelError, match="layout rows, needed oc16"):
        OPS["conv_transpose2d"].prepare(op, Facts())
