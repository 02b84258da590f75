"""Affine folding, pattern fusions, activations, residuals, pads: each pass alone."""
import math

import numpy as np
import pytest

from edgerun.tools.graph import Graph
from edgerun.tools.passes import (
    activations, affine, dead_code, dilations, duplicates, gates, identities, linear, norms, pads)
from tests.tools.pass_checks import binary, check, codes, conv, unary, values


def start(*shape):
    graph = Graph()
    return graph, graph.input("x", shape, "fp32")


# --- affine ---------------------------------------------------------------------------------------

def layer(graph, code, x):
    c = x.shape[-1]
    if code == "conv2d":
        return conv(graph, x, 6, groups=2, pad_top=1, pad_left=1)
    if code == "depthwise_conv2d":
        w = graph.constant(values((3, 3, 2 * c), 1))
        return graph.add(code, [x, w], "dw", pad_bottom=1)
    if code == "dense":
        return graph.add(code, [x, graph.constant(values((6, c), 1)), graph.constant(values(6, 2))])
    w = graph.constant(values((6, 2, 2, c), 1))
    return graph.add(code, [x, w], "up", stride_h=2, stride_w=2)


@pytest.mark.parametrize("code", [
    "conv2d", "depthwise_conv2d", "dense", "conv_transpose2d"])
@pytest.mark.parametrize("steps", ["mul add", "sub div", "scalar", "add"])
def test_batch_normalization_folds_back(code, steps):
    graph, x = start(2, 5, 6, 4)
    y = layer(graph, code, x)
    c = y.shape[-1]
    if steps == "mul add":
        y = binary(graph, "add", binary(graph, "mul", y, values(c, 3)), values((1, 1, 1, c), 4))
    elif steps == "sub div":
        y = binary(graph, "div", binary(graph, "sub", y, values(c, 3)), values(c, 4, 1))
    elif steps == "scalar":
        y = binary(graph, "mul", unary(graph, "neg", y), 0.5)
    else:
        y = binary(graph, "add", values(c, 5), y)
    graph.output("y", y)
    check(graph, identities.apply, affine.apply, expected=[code])


def test_affine_behind_a_tensor_that_is_needed_stays():
    graph, x = start(1, 5, 6, 4)
    y = conv(graph, x, 3)
    graph.output("y", y)
    graph.output("z", binary(graph, "mul", y, values(3)))
    check(graph, affine.apply, expected=["conv2d", "binary mul"])


def test_affine_behind_an_activation_stays():
    graph, x = start(1, 5, 6, 4)
    graph.output("z", binary(graph, "mul", conv(graph, x, 3, activation="relu"), values(3)))
    check(graph, affine.apply, expected=["conv2d relu", "binary mul"])


def test_affine_that_is_not_per_channel_stays():
    graph, x = start(1, 5, 6, 4)
    y = conv(graph, x, 3, pad_top=1, pad_bottom=1)
    graph.output("z", binary(graph, "mul", y, values((5, 1, 1))))
    graph.output("w", binary(graph, "add", conv(graph, x, 3), values((2, 1, 1, 3))))
    check(graph, affine.apply, expected=["conv2d", "binary mul", "conv2d", "binary add"])


def test_scale_of_shared_weights_stays():
    graph, x = start(1, 5, 6, 4)
    w = graph.constant(values((3, 1, 1, 4)))
    a, b = (graph.add("conv2d", [t, w]) for t in (x, unary(graph, "relu", x)))
    graph.output("a", binary(graph, "mul", a, values(3)))
    graph.output("b", binary(graph, "add", b, values(3)))
    check(graph, affine.apply, expected=["unary relu", "conv2d", "conv2d", "binary mul"])


@pytest.mark.parametrize("code", ["conv2d", "depthwise_conv2d", "dense"])
def test_affine_folds_forward(code):
    graph, x = start(2, 5, 6, 4)
    y = binary(graph, "add", binary(graph, "mul", x, values(4, 7)), values(4, 8))
    if code == "conv2d":
        y = conv(graph, y, 6, groups=2)
    elif code == "depthwise_conv2d":
        y = graph.add(code, [y, graph.constant(values((3, 2, 8)))])
    else:
        y = layer(graph, code, y)
    graph.output("y", y)
    check(graph, affine.apply, expected=[code])


def test_offset_in_front_of_padding_stays():
    graph, x = start(2, 5, 6, 4)
    y = conv(graph, binary(graph, "mul", x, values(4)), 3, pad_top=1)
    z = conv(graph, binary(graph, "add", x, values(4)), 3, pad_left=1)
    graph.output("y", y)
    graph.output("z", z)
    check(graph, affine.apply, expected=["conv2d", "binary add", "conv2d"])


def test_affine_chain_merges():
    graph, x = start(2, 4)
    y = x
    for seed, kind in enumerate(("add", "mul", "mul", "add", "mul")):
        y = binary(graph, kind, y, values(4, seed))
    graph.output("y", unary(graph, "exp", y))
    check(graph, affine.apply, expected=["binary mul", "binary add", "unary exp"])


def test_affine_chain_of_any_shape_merges_unless_it_grows():
    graph, x = start(2, 5, 4)
    y = binary(graph, "mul", unary(graph, "affine", x, 2.0, 1.0), values((5, 4)))
    y = binary(graph, "mul", y, 3.0)
    graph.output("y", unary(graph, "exp", y))
    z = graph.input("z", (50, 40), "fp32")
    z = binary(graph, "mul", binary(graph, "mul", z, values((50, 1))), values((1, 40)))
    graph.output("z", z)
    check(graph, identities.apply, affine.apply, expected=[
        "binary mul", "binary add", "unary exp", "binary mul", "binary mul"])


# --- gates ----------------------------------------------------------------------------------------

def erf_gelu(graph, x, order):
    gate = binary(graph, "add", unary(graph, "erf", binary(graph, "div", x, math.sqrt(2))), 1.0)
    if order == "pytorch":
        return binary(graph, "mul", binary(graph, "mul", x, gate), 0.5)
    if order == "half first":
        return binary(graph, "mul", binary(graph, "mul", 0.5, x), gate)
    if order == "huggingface":
        return binary(graph, "mul", x, binary(graph, "mul", 0.5, gate))
    gate = unary(graph, "erf", binary(graph, "mul", x, 0.8 if order == "0.8" else math.sqrt(0.5)))
    if order != "no offset":
        gate = binary(graph, "add", gate, 1.0 if order == "0.8" else 0.7)
    return binary(graph, "mul", gate, x)


@pytest.mark.parametrize("order", ["pytorch", "half first", "huggingface"])
def test_gelu(order):
    graph, x = start(2, 30)
    graph.output("y", erf_gelu(graph, unary(graph, "abs", x), order))
    check(graph, identities.apply, gates.apply, identities.apply,
          expected=["unary abs", "unary gelu"])


@pytest.mark.parametrize("order", ["no offset", "0.8", "other offset"])
def test_product_with_erf_that_is_no_gelu(order):
    graph, x = start(2, 30)
    graph.output("y", erf_gelu(graph, x, order))
    check(graph, identities.apply, gates.apply)
    assert "unary gelu" not in codes(graph)


@pytest.mark.parametrize("cube", ["pow", "mul", "nested"])
def test_gelu_tanh(cube):
    graph, x = start(2, 30)
    if cube == "nested":
        inner = binary(graph, "mul", x, binary(
            graph, "add", binary(graph, "mul", binary(graph, "mul", x, x), 0.044715), 1.0))
    else:
        third = (binary(graph, "pow", x, 3.0) if cube == "pow" else
                 binary(graph, "mul", binary(graph, "mul", x, x), x))
        inner = binary(graph, "add", x, binary(graph, "mul", third, 0.044715))
    gate = unary(graph, "tanh", binary(graph, "mul", inner, math.sqrt(2 / math.pi)))
    y = binary(graph, "mul", binary(graph, "mul", x, 0.5), binary(graph, "add", gate, 1.0))
    graph.output("y", y)
    check(graph, identities.apply, gates.apply, identities.apply, expected=["unary gelu_tanh"])


def test_silu_and_mish():
    graph, x = start(2, 30)
    graph.output("a", binary(graph, "mul", unary(graph, "sigmoid", x), x))
    graph.output("b", binary(graph, "mul", x, unary(graph, "tanh", unary(graph, "softplus", x))))
    check(graph, gates.apply, expected=["unary silu", "unary mish"])


def test_gate_that_is_needed_stays():
    graph, x = start(2, 30)
    gate = unary(graph, "sigmoid", x)
    graph.output("gate", gate)
    graph.output("y", binary(graph, "mul", gate, x))
    check(graph, gates.apply, expected=["unary sigmoid", "binary mul"])


@pytest.mark.parametrize("form", ["div last", "div first", "hard_sigmoid", "activation"])
def test_hard_swish(form):
    graph, x = start(2, 30)
    if form == "hard_sigmoid":
        gate = unary(graph, "hard_sigmoid", x, 1 / 6, 0.5)
    elif form == "activation":
        gate = binary(graph, "add", x, 3.0, activation="clip", beta=6.0)
    else:
        gate = unary(graph, "clip", binary(graph, "add", x, 3.0), 0.0, 6.0)
    if form == "div first":
        y = binary(graph, "mul", x, binary(graph, "div", gate, 6.0))
    elif form == "hard_sigmoid":
        y = binary(graph, "mul", x, gate)
    else:
        y = binary(graph, "div", binary(graph, "mul", x, gate), 6.0)
    graph.output("y", y)
    check(graph, identities.apply, gates.apply, identities.apply, expected=["unary hard_swish"],
          low=-5, high=5)


@pytest.mark.parametrize("shift, high", [(2.0, 6.0), (3.0, 5.0)])
def test_product_that_is_no_hard_swish(shift, high):
    graph, x = start(2, 30)
    gate = unary(graph, "clip", binary(graph, "add", x, shift), 0.0, high)
    graph.output("y", binary(graph, "mul", x, gate))
    graph.output("z", binary(graph, "mul", x, unary(graph, "hard_sigmoid", x, 0.2, 0.5)))
    graph.output("w", binary(graph, "mul", x, unary(graph, "hard_sigmoid", x, 1 / 6, 0.4)))
    check(graph, identities.apply, gates.apply, low=-5, high=5)
    assert "unary hard_swish" not in codes(graph)


def test_hard_sigmoid():
    graph, x = start(2, 30)
    y = unary(graph, "clip", binary(graph, "add", x, 3.0), 0.0, 6.0)
    graph.output("y", binary(graph, "div", y, 6.0))
    z = unary(graph, "clip", binary(graph, "mul", x, 0.2), 0.0, 1.0)
    graph.output("z", z)
    check(graph, identities.apply, gates.apply, identities.apply,
          expected=["unary hard_sigmoid", "unary hard_sigmoid"], low=-5, high=5)


# --- norms ----------------------------------------------------------------------------------------

def normalized(graph, x, axes, form="pytorch", epsilon=1e-3):
    mean = graph.add("reduce", [x], kind="mean", axes=axes)
    if form == "squared_difference":
        squares = binary(graph, "squared_difference", x, mean)
    else:
        squares = binary(graph, "pow", binary(graph, "sub", x, mean), 2.0)
    variance = graph.add("reduce", [squares], kind="mean", axes=axes)
    shifted = binary(graph, "add", variance, epsilon)
    if form == "pytorch":
        return binary(graph, "div", binary(graph, "sub", x, mean), unary(graph, "sqrt", shifted))
    if form == "reciprocal":
        root = unary(graph, "reciprocal", unary(graph, "sqrt", shifted))
        return binary(graph, "mul", root, binary(graph, "sub", x, mean))
    g = binary(graph, "mul", unary(graph, "rsqrt", shifted), values(x.shape[-1], 1))
    shift = binary(graph, "sub", values(x.shape[-1], 2), binary(graph, "mul", mean, g))
    return binary(graph, "add", binary(graph, "mul", x, g), shift)


@pytest.mark.parametrize("form", ["pytorch", "reciprocal", "tensorflow", "squared_difference"])
@pytest.mark.parametrize("axes", [(2,), (1, 2)])
def test_layer_norm(form, axes):
    graph, x = start(3, 5, 8)
    y = normalized(graph, x, axes, form)
    if form in ("pytorch", "reciprocal"):
        shape = x.shape[axes[0]:]
        y = binary(graph, "add", binary(graph, "mul", y, values(shape, 3)), values((1, *shape), 4))
    graph.output("y", y)
    check(graph, duplicates.apply, identities.apply, norms.apply, identities.apply,
          expected=["layer_norm"])


def test_norm_over_other_axes_stays():
    graph, x = start(3, 5, 8)
    graph.output("y", normalized(graph, x, (1,)))
    graph.output("z", normalized(graph, x, (0, 2)))
    check(graph, identities.apply, norms.apply)
    assert not {"layer_norm", "l2_normalize"} & set(codes(graph))


def test_scale_of_a_norm_that_is_no_gamma_stays():
    graph, x = start(3, 5, 8)
    graph.output("y", binary(graph, "mul", normalized(graph, x, (2,)), values((5, 1))))
    check(graph, identities.apply, norms.apply, identities.apply,
          expected=["layer_norm", "binary mul"])


def test_instance_norm():
    graph, x = start(2, 5, 4, 6)
    y = binary(graph, "mul", normalized(graph, x, (1, 2)), values(6, 3))
    graph.output("y", binary(graph, "add", y, values(6, 4), activation="relu"))
    check(graph, identities.apply, norms.apply, expected=["instance_norm", "unary relu"])


@pytest.mark.parametrize("form", ["pytorch", "tensorflow", "plain", "sum_square"])
def test_l2_normalize(form):
    graph, x = start(3, 7)
    if form == "pytorch":
        norm = unary(graph, "clip", graph.add("reduce", [x], kind="l2", axes=(1,)), 1e-12, math.inf)
        y = binary(graph, "div", x, graph.add("expand", [norm], shape=(3, 7)))
    elif form == "tensorflow":
        total = graph.add("reduce", [binary(graph, "mul", x, x)], kind="sum", axes=(1,))
        y = binary(graph, "mul", x, unary(graph, "rsqrt", binary(graph, "max", total, 1e-6)))
    elif form == "plain":
        y = binary(graph, "div", x, graph.add("reduce", [x], kind="l2", axes=(1,)))
    else:
        total = graph.add("reduce", [x], kind="sum_square", axes=(1,))
        y = binary(graph, "div", x, unary(graph, "sqrt", total))
    graph.output("y", y)
    check(graph, identities.apply, norms.apply, expected=["l2_normalize"])


@pytest.mark.parametrize("form", ["length", "root", "square"])
def test_smallest_length(form):
    """The epsilon that a length or its square is compared with, on vectors shorter than it."""
    graph, x = start(30, 2)
    total = graph.add("reduce", [x], kind="sum_square", axes=(1,))
    if form == "length":
        y = binary(graph, "div", x, binary(graph, "max", graph.add(
            "reduce", [x], kind="l2", axes=(1,)), 0.5))
    elif form == "root":
        y = binary(graph, "div", x, binary(graph, "max", unary(graph, "sqrt", total), 0.5))
    else:
        y = binary(graph, "mul", x, unary(graph, "rsqrt", binary(graph, "max", total, 0.5)))
    graph.output("y", y)
    check(graph, identities.apply, norms.apply, dead_code.apply, expected=["l2_normalize"])


def test_length_over_another_axis_stays():
    graph, x = start(3, 7)
    graph.output("y", binary(graph, "div", x, graph.add("reduce", [x], kind="l2", axes=(0,))))
    check(graph, identities.apply, norms.apply, expected=["reduce l2", "binary div"])


# --- linear ---------------------------------------------------------------------------------------

def test_matmul_with_a_constant_is_dense():
    graph, x = start(2, 3, 4)
    y = graph.add("matmul", [x, graph.constant(values((4, 5)))], activation="relu")
    y = graph.add("matmul", [y, graph.constant(values((1, 6, 5)))], transpose_b=True)
    graph.output("y", binary(graph, "add", y, values((1, 1, 6))))
    check(graph, linear.apply, affine.apply, expected=["dense relu", "dense"])


def test_matmul_that_is_no_dense():
    graph, x = start(2, 3, 4)
    graph.output("a", graph.add("matmul", [x, graph.constant(values((2, 4, 5)))]))
    graph.output("b", graph.add("matmul", [graph.constant(values((5, 3))), x]))
    graph.output("c", graph.add("matmul", [x, graph.constant(values((3, 5)))], transpose_a=True))
    check(graph, linear.apply, expected=["matmul"] * 3)


def test_transposes_become_flags():
    graph, x = start(2, 3, 4)
    y = graph.input("y", (2, 5, 4), "fp32")
    z = graph.add("matmul", [x, graph.add("transpose", [y], perm=(0, 2, 1))])
    graph.output("z", graph.add("transpose", [z], perm=(0, 2, 1)))
    turned = graph.add("transpose", [x], perm=(2, 0, 1))
    graph.output("w", graph.add("matmul", [turned, turned], transpose_b=True))
    check(graph, linear.apply, expected=["matmul", "transpose", "matmul"])
    assert graph.ops[0].options["transpose_b"]


def test_attention_scale():
    graph, x = start(2, 3, 4)
    y = graph.input("y", (2, 5, 4), "fp32")
    scores = graph.add("matmul", [binary(graph, "mul", x, 0.7), binary(graph, "mul", y, 0.5)],
                       transpose_b=True)
    graph.output("z", graph.add("softmax", [binary(graph, "mul", scores, 2.0)]))
    check(graph, identities.apply, linear.apply, identities.apply, expected=["matmul", "softmax"])
    assert math.isclose(graph.ops[1].options["scale"], 0.7, rel_tol=1e-6)


# --- activations and residuals --------------------------------------------------------------------

@pytest.mark.parametrize("code", [
    "conv2d", "depthwise_conv2d", "dense", "matmul", "pool2d", "binary"])
def test_activation(code):
    graph, x = start(2, 5, 4, 4)
    if code in ("conv2d", "depthwise_conv2d", "dense"):
        y = layer(graph, code, x)
    elif code == "pool2d":
        y = graph.add(code, [x], kind="max", kernel_h=2, kernel_w=2)
    else:
        y = graph.add(code, [x, x], **({"kind": "add"} if code == "binary" else {}))
    graph.output("y", unary(graph, "clip", unary(graph, "relu", y), -1.0, 6.0))
    check(graph, activations.apply)
    assert len(graph.ops) == 1
    assert graph.ops[0].options["activation"] == "clip" and graph.ops[0].options["alpha"] == 0


def test_activation_of_a_tensor_that_is_needed_stays():
    graph, x = start(2, 5, 4, 4)
    y = conv(graph, x, 3)
    graph.output("y", unary(graph, "relu", y))
    graph.output("z", unary(graph, "exp", y))
    check(graph, activations.apply, expected=["conv2d", "unary relu", "unary exp"])


def test_second_activation_that_does_not_merge_stays():
    graph, x = start(2, 5, 4, 4)
    graph.output("y", unary(graph, "tanh", conv(graph, x, 3, activation="relu")))
    check(graph, activations.apply, expected=["conv2d relu", "unary tanh"])


def test_question_is_no_activation():
    graph, x = start(2, 5)
    graph.output("y", unary(graph, "is_nan", binary(graph, "add", x, x)))
    check(graph, activations.apply, expected=["binary add", "unary is_nan"])


def test_scalar_with_activation_is_one_op():
    graph, x = start(2, 5)
    graph.output("y", unary(graph, "relu", unary(graph, "affine", x, 1.0, 0.5)))
    graph.output("z", unary(graph, "relu", unary(graph, "affine", x, 2.0, 0.0)))
    graph.output("w", unary(graph, "relu", unary(graph, "affine", x, 2.0, 0.5)))
    check(graph, activations.apply, expected=["binary add relu", "binary mul relu", "unary affine",
                                              "unary relu"])


@pytest.mark.parametrize("code", ["conv2d", "depthwise_conv2d", "dense"])
@pytest.mark.parametrize("late", [False, True])
def test_residual(code, late):
    graph, x = start(2, 5, 6, 4)
    early = None if late else unary(graph, "tanh", layer(graph, code, x))
    y = layer(graph, code, x)
    other = unary(graph, "tanh", layer(graph, code, x)) if late else early
    graph.output("y", unary(graph, "relu", binary(graph, "add", y, other)))
    check(graph, activations.apply, expected=[f"{code} tanh", f"{code} relu"])


def test_residual_of_two_convolutions_takes_the_later():
    graph, x = start(2, 5, 6, 4)
    graph.output("y", binary(graph, "add", conv(graph, x, 3), conv(graph, x, 3, seed=9)))
    check(graph, activations.apply, expected=["conv2d", "conv2d"])
    assert graph.ops[1].inputs[3] is graph.ops[0].outputs[0]


def test_second_residual_stays():
    graph, x = start(2, 5, 6, 4)
    y = binary(graph, "add", conv(graph, x, 4, 1), x)
    graph.output("y", binary(graph, "add", y, unary(graph, "tanh", x)))
    check(graph, activations.apply, expected=["conv2d", "unary tanh", "binary add"])


@pytest.mark.parametrize("case", [
    "broadcast", "constant", "itself", "activation", "needed", "product"])
def test_no_residual(case):
    graph, x = start(2, 5, 6, 4)
    y = conv(graph, x, 4, 1, activation="relu" if case == "activation" else "")
    other = {"broadcast": lambda: graph.input("z", (1, 1, 1, 4), "fp32"),
             "constant": lambda: graph.constant(values((2, 5, 6, 4))), "itself": lambda: y}.get(
                 case, lambda: x)()
    graph.output("y", binary(graph, "mul" if case == "product" else "add", y, other))
    if case == "needed":
        graph.output("conv", y)
    check(graph, activations.apply)
    assert len(graph.ops) == 2


# --- pads -----------------------------------------------------------------------------------------

def padded(graph, x, before=(0, 1, 2, 0), after=(0, 1, 0, 0), value=0.0, mode="constant"):
    return graph.add("pad", [x], mode=mode, before=before, after=after, value=value)


def test_pad_into_convolutions():
    graph, x = start(2, 5, 6, 4)
    y = padded(graph, x)
    graph.output("y", conv(graph, y, 3, pad_top=1, stride_h=2))
    graph.output("z", layer(graph, "depthwise_conv2d", y))
    check(graph, pads.apply, expected=["conv2d", "depthwise_conv2d"])
    assert graph.ops[0].options["pad_top"] == 2


@pytest.mark.parametrize("options", [
    {"value": 1.0}, {"mode": "edge"}, {"before": (0, 1, 1, 1)}, {"after": (1, 0, 0, 0)}])
def test_pad_that_is_no_padding_stays(options):
    graph, x = start(2, 5, 6, 4)
    graph.output("y", conv(graph, padded(graph, x, **options), 3))
    check(graph, pads.apply, expected=["pad", "conv2d"])


def test_pad_that_is_needed_stays():
    graph, x = start(2, 5, 6, 4)
    y = padded(graph, x)
    graph.output("y", conv(graph, y, 3))
    graph.output("z", unary(graph, "exp", y))
    check(graph, pads.apply, expected=["pad", "conv2d", "unary exp"])


def pool(graph, x, kind, **options):
    return graph.add("pool2d", [x], kind=kind, kernel_h=3, kernel_w=3, stride_h=2, stride_w=2,
                     **options)


@pytest.mark.parametrize("options, fused", [
    ({}, True), ({"count_include_pad": True, "pad_top": 1}, True), ({"pad_top": 1}, False),
    ({"ceil_mode": True}, False)])
def test_pad_into_average(options, fused):
    graph, x = start(2, 5, 6, 4)
    graph.output("y", pool(graph, padded(graph, x), "average", **options))
    check(graph, pads.apply, expected=(["pool2d average"] if fused else ["pad", "pool2d average"]))


@pytest.mark.parametrize("value, positive, options, fused", [
    (-math.inf, False, {}, True), (0.0, True, {}, True), (0.0, False, {}, False),
    (0.0, True, {"ceil_mode": True}, False), (0.0, True, {"pad_top": 1}, False),
    (1.0, True, {}, False)])
def test_pad_into_max(value, positive, options, fused):
    graph, x = start(2, 5, 6, 4)
    y = unary(graph, "relu" if positive else "tanh", x)
    graph.output("y", pool(graph, padded(graph, y, value=value), "max", **options))
    check(graph, pads.apply)
    assert len(graph.ops) == (2 if fused else 3)


def test_fold_of_batch_normalization_then_residual_then_activation():
    """The usual residual block, through every pass."""
    graph, x = start(1, 8, 8, 4)
    y = conv(graph, padded(graph, x, (0, 1, 1, 0), (0, 1, 1, 0)), 4, bias=False)
    y = binary(graph, "add", binary(graph, "mul", y, values(4, 1)), values(4, 2))
    y = conv(graph, unary(graph, "relu", y), 4, 1)
    y = binary(graph, "add", binary(graph, "mul", y, values(4, 3)), values(4, 4))
    graph.output("y", unary(graph, "relu", binary(graph, "add", y, x)))
    check(graph, expected=["conv2d relu", "conv2d relu"])
    assert np.array_equal(graph.ops[1].inputs[3].shape, (1, 8, 8, 4))


# --- dilations, crops -----------------------------------------------------------------------------

def space_to_batch(graph, x, block):
    n, h, w, c = x.shape
    y = graph.add("reshape", [x], shape=(n, h // block[0], block[0], w // block[1], block[1], c))
    y = graph.add("transpose", [y], perm=(2, 4, 0, 1, 3, 5))
    batch = n * block[0] * block[1]
    return graph.add("reshape", [y], shape=(batch, h // block[0], w // block[1], c))


def batch_to_space(graph, x, block):
    n, h, w, c = x.shape
    n //= block[0] * block[1]
    y = graph.add("reshape", [x], shape=(*block, n, h, w, c))
    y = graph.add("transpose", [y], perm=(2, 3, 0, 4, 1, 5))
    return graph.add("reshape", [y], shape=(n, h * block[0], w * block[1], c))


@pytest.mark.parametrize("code", ["conv2d", "depthwise_conv2d"])
@pytest.mark.parametrize("block", [(2, 2), (3, 2)])
@pytest.mark.parametrize("pad", [0, 1])
def test_dilated_convolution(code, block, pad):
    graph, x = start(2, 9, 13, 4)
    y = padded(graph, x, (0, 3, 2, 0), (0, 6, 3, 0))
    y = space_to_batch(graph, y, block)
    if code == "conv2d":
        y = conv(graph, y, 5, pad_top=pad, pad_right=pad, activation="relu")
    else:
        y = graph.add(code, [y, graph.constant(values((2, 3, 4)))], pad_left=pad)
    y = batch_to_space(graph, y, block)
    graph.output("y", graph.add("slice", [y], starts=(0, 1, 2, 0), steps=(1,) * 4,
                                sizes=(2, y.shape[1] - 2, y.shape[2] - 3, y.shape[3])))
    check(graph, dilations.apply, pads.apply,
          expected=["conv2d relu" if code == "conv2d" else code])
    assert (graph.ops[0].options["dilation_h"], graph.ops[0].options["dilation_w"]) == block


@pytest.mark.parametrize("case", ["stride", "blocks", "needed"])
def test_batches_that_are_no_dilation(case):
    graph, x = start(1, 12, 12, 4)
    y = space_to_batch(graph, x, (2, 3))
    y = conv(graph, y, 5, pad_top=1, stride_h=2 if case == "stride" else 1)
    if case == "needed":
        graph.output("z", y)
    graph.output("y", batch_to_space(graph, y, (3, 2) if case == "blocks" else (2, 3)))
    check(graph, dilations.apply)
    assert codes(graph).count("transpose") == 2


@pytest.mark.parametrize("crop, fused", [
    ({"starts": (0, 1, 0, 0), "sizes": (2, 2, 4, 3)}, True),
    ({"starts": (0, 1, 2, 0), "sizes": (2, 2, 2, 3)}, False),   # there is no padding on the left
    ({"starts": (0, 0, 0, 1), "sizes": (2, 4, 4, 2)}, False),
    ({"starts": (0, 0, 0, 0), "sizes": (2, 2, 4, 3), "steps": (1, 2, 1, 1)}, False)])
def test_crop_of_padding(crop, fused):
    graph, x = start(2, 6, 6, 4)
    y = conv(graph, x, 3, pad_top=2, pad_bottom=2, stride_h=2)
    graph.output("y", graph.add("slice", [y], **{"steps": (1,) * 4, **crop}))
    check(graph, pads.apply, expected=["conv2d"] if fused else ["conv2d", "slice"])
