"""ONNX ops that compute, against ONNX Runtime, over opsets where their meaning changed."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.helper import make_node

from edgerun.tools import reference
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import (
    RNG, check, check_folded, codes, floats, ints, model_of)

# Convolutions and pooling

CONV = {
    "plain": ((1, 3, 8, 9), (5, 3, 3, 2), {}),
    "no_bias_1d": ((2, 3, 11), (4, 3, 3), {"strides": [2], "pads": [1, 0]}),
    "asymmetric_pads": ((1, 2, 7, 8), (3, 2, 3, 3), {"pads": [0, 1, 2, 3], "strides": [2, 1]}),
    "dilated": ((1, 2, 12, 11), (3, 2, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "same_upper": ((1, 2, 7, 8), (3, 2, 2, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same_lower": ((1, 2, 7, 8), (3, 2, 2, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "valid": ((1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "VALID"}),
    "groups": ((1, 6, 5, 5), (4, 3, 3, 3), {"group": 2}),
    "depthwise": ((1, 6, 5, 5), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise_multiplier_1d": ((1, 3, 9), (6, 1, 3), {"group": 3}),
    "one_channel": ((1, 1, 5, 5), (4, 1, 3, 3), {"group": 1}),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CONV)
def test_conv(name, bias):
    x, w, attributes = CONV[name]
    constants = {"w": floats(*w)} | ({"b": floats(w[0])} if bias else {})
    node = make_node("Conv", ["x", *constants], ["y"], **attributes)
    graph = check(node, {"x": floats(*x)}, constants)
    depthwise = "depthwise" in name
    assert codes(graph).count("depthwise_conv2d") == depthwise
    assert codes(graph).count("conv2d") == (not depthwise)


CONV_TRANSPOSE = {
    "plain": ((1, 3, 4, 5), (3, 2, 3, 3), {}),
    "strides": ((2, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    "output_padding": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [3, 2], "output_padding": [2, 1]}),
    "output_shape": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "output_shape": [8, 10]}),
    "same_upper": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same_lower": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "groups": ((1, 4, 4, 5), (4, 3, 2, 2), {"group": 2}),
    "dilations": ((1, 3, 4, 5), (3, 2, 2, 2), {"dilations": [2, 3]}),
    "one_axis": ((1, 3, 7), (3, 2, 4), {"strides": [2], "pads": [1, 1]}),
}


@pytest.mark.parametrize("name", CONV_TRANSPOSE)
def test_conv_transpose(name):
    x, w, attributes = CONV_TRANSPOSE[name]
    node = make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    out_c = w[1] * attributes.get("group", 1)
    check(node, {"x": floats(*x)}, {"w": floats(*w), "b": floats(out_c)})


POOL = {
    "plain": ((1, 3, 8, 9), {"kernel_shape": [3, 2]}),
    "one_axis": ((1, 3, 8), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    "ceil": ((1, 3, 8, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "pads": ((1, 3, 8, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]}),
    "same_upper": ((1, 3, 8, 9), {"kernel_shape": [3, 2], "strides": [2, 2],
                                  "auto_pad": "SAME_UPPER"}),
    "same_lower": ((1, 3, 8, 9), {"kernel_shape": [3, 2], "strides": [2, 2],
                                  "auto_pad": "SAME_LOWER"}),
}


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("name", POOL)
def test_pool(op_type, name):
    shape, attributes = POOL[name]
    check(make_node(op_type, ["x"], ["y"], **attributes), {"x": floats(*shape)}, opset=11)


def test_pool_options():
    x = {"x": floats(1, 2, 9, 9)}
    check(make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1],
                           count_include_pad=1), x)
    check(make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 3]), x)
    check(make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 3]), x,
          opset=19)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_global_pool(op_type, shape):
    check(make_node(op_type, ["x"], ["y"]), {"x": floats(*shape)})


# Matrix products

@pytest.mark.parametrize("attributes", [
    {}, {"transB": 1}, {"transA": 1, "alpha": 0.5}, {"beta": 2.0, "transB": 1}])
@pytest.mark.parametrize("c", [None, (), (1,), (4,), (1, 4), (3, 1), (3, 4)])
def test_gemm(attributes, c):
    a = (5, 3) if attributes.get("transA") else (3, 5)
    b = (4, 5) if attributes.get("transB") else (5, 4)
    inputs, others = {"a": floats(*a)}, {"b": floats(*b)} | ({} if c is None else {"c": floats(*c)})
    node = make_node("Gemm", ["a", *others], ["y"], **attributes)
    assert "dense" in codes(check(node, inputs, others))
    assert "matmul" in codes(check(node, inputs | others))


@pytest.mark.parametrize("a, b", [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((4,), (4,)),
    ((3, 4), (1, 4, 5)), ((2, 3, 4), (2, 4, 5)), ((4,), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 6)),
    ((3, 4), (1, 1, 4, 5))])
def test_matmul(a, b):
    node = make_node("MatMul", ["a", "b"], ["y"])
    inputs, others = {"a": floats(*a)}, {"b": floats(*b)}
    check(node, inputs | others)
    graph = check(node, inputs, others)
    assert ("dense" in codes(graph)) == (len(b) < 3 or set(b[:-2]) == {1})


def test_weights_are_shared_by_the_nodes_that_read_them():
    nodes = [make_node("MatMul", ["x", "w"], ["h"]), make_node("MatMul", ["h", "w"], ["y"])]
    graph = check(nodes, {"x": floats(2, 4)}, {"w": floats(4, 4)})
    first, second = graph.ops
    assert first.inputs[1] is second.inputs[1]


# Elementwise

UNARY = {
    "Abs": {}, "Ceil": {}, "Cos": {}, "Erf": {}, "Exp": {}, "Floor": {}, "Neg": {}, "Relu": {},
    "Round": {}, "Sigmoid": {}, "Sign": {}, "Sin": {}, "Softplus": {}, "Softsign": {}, "Tanh": {},
    "Tan": {}, "Sinh": {}, "Cosh": {}, "Atan": {}, "Asinh": {}, "Reciprocal": {}, "HardSwish": {},
    "Elu": {"alpha": 0.7}, "Selu": {"alpha": 1.5, "gamma": 0.8}, "Celu": {"alpha": 1.3},
    "LeakyRelu": {"alpha": 0.3}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "ThresholdedRelu": {"alpha": 0.4}, "Shrink": {"lambd": 0.4, "bias": 0.1}}


@pytest.mark.parametrize("op_type", UNARY)
@pytest.mark.parametrize("given", [False, True])
def test_unary(op_type, given):
    attributes = UNARY[op_type] if given else {}
    check(make_node(op_type, ["x"], ["y"], **attributes), {"x": floats(3, 7)}, opset=14)


@pytest.mark.parametrize("op_type", ["Sqrt", "Log", "Asin", "Acos", "Atanh"])
def test_unary_with_a_domain(op_type):
    x = RNG.uniform(0.05, 0.95, (3, 7)).astype(np.float32)
    check(make_node(op_type, ["x"], ["y"]), {"x": x})


def test_unary_of_later_opsets():
    x = {"x": floats(3, 7)}
    for approximate in ("none", "tanh"):
        check(make_node("Gelu", ["x"], ["y"], approximate=approximate), x, opset=20)
    check(make_node("Mish", ["x"], ["y"]), x, opset=18)
    y = x["x"] / (1 + np.exp(-x["x"]))
    check(make_node("Swish", ["x"], ["y"]), x, opset=24, expected={"y": y})
    y = x["x"] / (1 + np.exp(-2 * x["x"]))
    check(make_node("Swish", ["x"], ["y"], alpha=2.0), x, opset=24, expected={"y": y})


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Pow", "PRelu"])
@pytest.mark.parametrize("a, b", [((3, 4), (3, 4)), ((2, 3, 4), (3, 1)), ((2, 3), ())])
def test_binary(op_type, a, b):
    node = make_node(op_type, ["a", "b"], ["y"])
    inputs = {"a": np.abs(floats(*a)) + 0.5}, {"b": np.asarray(floats(*b) + 0.1)}
    check(node, inputs[0] | inputs[1])
    check(node, *inputs)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Mod"])
def test_binary_integers(op_type):
    a = np.array([7, -7, 8, -9, 0], np.int64)
    b = np.array([3, 3, -3, -4, 5], np.int64)
    check(make_node(op_type, ["a", "b"], ["y"]), {"a": a, "b": b},
          dtypes={"y": TensorProto.INT64})


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_narrow_integers_wrap_around(dtype):
    a, b = (RNG.integers(0, 120, 20).astype(dtype) for _ in "ab")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for op_type, want in (("Add", a + b), ("Mul", a * b), ("Sub", a - b)):
        graph = check(make_node(op_type, ["a", "b"], ["y"]), {"a": a, "b": b}, opset=14,
                      dtypes={"y": kind}, expected={"y": want})
        assert graph.outputs[0].tensor.dtype == np.dtype(dtype).name
    check(make_node("Less", ["a", "b"], ["y"]), {"a": a, "b": b}, opset=14,
          dtypes={"y": TensorProto.BOOL}, expected={"y": a < b})


def test_mod_of_floats():
    check(make_node("Mod", ["a", "b"], ["y"], fmod=1), {"a": floats(9), "b": floats(9)})


@pytest.mark.parametrize("exponent", [2.0, 0.5, -1.0, 3.0])
def test_pow_by_a_constant(exponent):
    x = {"x": np.abs(floats(3, 4)) + 0.1}
    check(make_node("Pow", ["x", "e"], ["y"]), x, {"e": np.array(exponent, np.float32)})
    if exponent == int(exponent) > 0:
        check(make_node("Pow", ["x", "e"], ["y"]), x, {"e": ints(int(exponent))})


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_inputs(op_type, count):
    names = ["a", "b", "c"][:count]
    shapes = {"a": (3, 4), "b": (4,), "c": (2, 1, 1)}
    check(make_node(op_type, names, ["y"]), {n: floats(*shapes[n]) for n in names})


@pytest.mark.parametrize("op_type", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_comparison(op_type, dtype):
    a, b = (RNG.integers(0, 3, (4, 5)).astype(dtype) for _ in "ab")
    check(make_node(op_type, ["a", "b"], ["y"]), {"a": a, "b": b},
          dtypes={"y": TensorProto.BOOL}, opset=16)


def test_logic():
    a, b = RNG.random((2, 4, 5)) > 0.5
    for op_type in ("And", "Or", "Xor"):
        check(make_node(op_type, ["a", "b"], ["y"]), {"a": a, "b": b},
              dtypes={"y": TensorProto.BOOL})
    check(make_node("Not", ["a"], ["y"]), {"a": a}, dtypes={"y": TensorProto.BOOL})


def test_is_nan_and_is_inf():
    x = np.array([0, np.inf, -np.inf, np.nan, 1], np.float32)
    check(make_node("IsNaN", ["x"], ["y"]), {"x": x}, dtypes={"y": TensorProto.BOOL})
    for flags in ({}, {"detect_negative": 0}, {"detect_positive": 0}):
        check(make_node("IsInf", ["x"], ["y"], **flags), {"x": x},
              dtypes={"y": TensorProto.BOOL})


def test_where():
    inputs = {"c": RNG.random((4, 1)) > 0.5, "a": floats(4, 5), "b": floats(5)}
    check(make_node("Where", ["c", "a", "b"], ["y"]), inputs)


def test_clip_attributes():
    for attributes in ({}, {"min": -0.5}, {"max": 0.5}, {"min": -0.1, "max": 0.2}):
        check(make_node("Clip", ["x"], ["y"], **attributes), {"x": floats(20)}, opset=7)


@pytest.mark.parametrize("bounds", [["lo", "hi"], ["lo"], ["", "hi"], []])
def test_clip_inputs(bounds):
    limits = {name: v for name, v in (("lo", np.float32(-0.5)), ("hi", np.float32(0.3)))
              if name in bounds}
    limits = {name: np.array(v) for name, v in limits.items()}
    node = make_node("Clip", ["x", *bounds], ["y"])
    check(node, {"x": floats(20)}, limits)
    check(node, {"x": floats(20)} | limits)


def test_clip_integers():
    check(make_node("Clip", ["x", "lo", "hi"], ["y"]), {"x": ints(-5, 0, 3, 9)},
          {"lo": np.array(-1, np.int64), "hi": np.array(4, np.int64)},
          dtypes={"y": TensorProto.INT64})


@pytest.mark.parametrize("source, to", [
    (np.float32, np.int64), (np.int64, np.float32), (np.float32, np.float64), (bool, np.float32),
    (np.float32, bool), (np.int32, np.int64), (np.float32, np.float16)])
def test_cast(source, to):
    x = (floats(3, 4) * 3).astype(source)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    model = model_of(make_node("Cast", ["x"], ["y"], to=kind), {"x": x}, dtypes={"y": kind})
    found = reference.execute(import_proto(model), {"x": x})["y"]
    assert found.dtype == to
    np.testing.assert_allclose(found, x.astype(to), rtol=1e-6)


def test_cast_like_reads_only_the_type():
    check(make_node("CastLike", ["x", "t"], ["y"]), {"x": floats(3), "t": ints(1)}, opset=15,
          dtypes={"y": TensorProto.INT64})


# Normalizations, softmax, reductions

@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_batch_normalization(opset, shape):
    constants = {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 0.1}
    node = make_node("BatchNormalization", ["x", *constants], ["y"], epsilon=1e-3)
    graph = check(node, {"x": floats(*shape)}, constants, opset)
    assert [op.options.get("kind") for op in graph.ops if op.code != "transpose"] == ["mul", "add"]


@pytest.mark.parametrize("opset", [9, 13, 15])
@pytest.mark.parametrize("training", [False, True])
def test_batch_normalization_of_constants(opset, training):
    """Weights are standardized by a batch normalization in training mode."""
    constants = {"w": floats(2, 3, 4), "scale": floats(3), "bias": floats(3), "mean": floats(3),
                 "var": np.abs(floats(3)) + 0.5}
    dead = ["m", "v"] if opset >= 14 else ["m", "v", "saved_m", "saved_v"]
    node = make_node("BatchNormalization", list(constants), ["y", *(dead if training else ())],
                     **({"training_mode": int(training)} if opset >= 14 else {}))
    check_folded(node, constants, opset)


def test_an_output_that_nothing_reads_need_not_be_supported():
    node = make_node("MaxPool", ["x"], ["y", "dead_indices"], kernel_shape=[2, 2])
    check(node, {"x": floats(1, 2, 6, 6)})


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_instance_normalization(shape):
    node = make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=1e-3)
    check(node, {"x": floats(*shape)}, {"s": floats(3), "b": floats(3)})


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
def test_layer_normalization(axis):
    shape = (2, 3, 4)[axis:]
    node = make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=axis, epsilon=1e-3)
    check(node, {"x": floats(2, 3, 4)}, {"s": floats(*shape), "b": floats(*shape)}, opset=17)
    node = make_node("LayerNormalization", ["x", "s"], ["y", "mean", "deviation"], axis=axis)
    check(node, {"x": floats(2, 3, 4)}, {"s": floats(*shape)}, 17, ("y", "mean", "deviation"))
    node = make_node("LayerNormalization", ["x", "s"], ["y"], axis=axis)
    check(node, {"x": floats(2, 3, 4)}, {"s": floats(*shape)}, opset=17)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset):
    x, groups = floats(2, 6, 4, 5), 3
    s, b = floats(6 if opset == 21 else groups), floats(6 if opset == 21 else groups)
    grouped = x.reshape(2, groups, -1)
    y = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    wide_s, wide_b = (v if opset == 21 else np.repeat(v, 2) for v in (s, b))
    y = y.reshape(x.shape) * wide_s[:, None, None] + wide_b[:, None, None]
    node = make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=groups)
    check(node, {"x": x}, {"s": s, "b": b}, opset, expected={"y": y})


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(axis, p):
    node = make_node("LpNormalization", ["x"], ["y"], axis=axis, p=p)
    check(node, {"x": floats(2, 3, 4)})


def test_mean_variance_normalization():
    check(make_node("MeanVarianceNormalization", ["x"], ["y"]), {"x": floats(2, 3, 4, 5)})


def test_lrn():
    node = make_node("LRN", ["x"], ["y"], size=3, alpha=0.02, beta=0.6, bias=1.5)
    check(node, {"x": floats(2, 7, 4, 5)})


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_softmax(op_type, opset, axis):
    attributes = {} if axis is None else {"axis": axis}
    node = make_node(op_type, ["x"], ["y"], **attributes)
    if opset == 7 and axis == -1:  # negative axes came with opset 11
        return
    check(node, {"x": floats(2, 3, 4)}, opset=opset)


def test_softmax_of_a_constant_keeps_its_old_meaning():
    check(make_node("Softmax", ["x"], ["y"], axis=1), {}, {"x": floats(2, 3, 4)}, opset=11)


REDUCE = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
          "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]


@pytest.mark.parametrize("op_type", REDUCE)
@pytest.mark.parametrize("opset", [7, 13, 18])
@pytest.mark.parametrize("axes", [None, [1], [0, 2], [-1]])
def test_reduce(op_type, opset, axes):
    if opset == 7 and axes == [-1]:
        return  # negative axes came with opset 11
    as_input = opset >= 18 or (op_type == "ReduceSum" and opset >= 13)
    x = {"x": np.abs(floats(2, 3, 4)) + 0.1}
    for keep in (0, 1):
        if axes is None or as_input:
            constants = {} if axes is None else {"axes": ints(*axes)}
            node = make_node(op_type, ["x", *constants], ["y"], keepdims=keep)
        else:
            constants = {}
            node = make_node(op_type, ["x"], ["y"], axes=axes, keepdims=keep)
        check(node, x, constants, opset)


def test_reduce_nothing():
    node = make_node("ReduceSum", ["x", "axes"], ["y"], noop_with_empty_axes=1)
    graph = check(node, {"x": floats(2, 3)}, {"axes": ints()})
    assert graph.ops == []


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg(op_type, last):
    x = RNG.integers(0, 3, (4, 6)).astype(np.float32)
    for axis in (0, 1, -1):
        node = make_node(op_type, ["x"], ["y"], axis=axis, keepdims=axis == 0,
                                select_last_index=last)
        check(node, {"x": x}, dtypes={"y": TensorProto.INT64})
