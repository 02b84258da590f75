"""Passes over quantized models: layouts, clamps and pads go through the conversions."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.quantization import Quantization, quantize
from edgerun.tools.graph import Graph
from edgerun.tools.passes import (
    activations, fold, identities, pads, pieces, reshapes, splits, transposes)
from tests.tools.pass_checks import binary, check, codes, conv, unary, values

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
GRID = Quantization.per_tensor(0.02, 3)
OTHER = Quantization.per_tensor(0.03, -5)
ROW = Quantization(np.float32([0.01, 0.02, 0.03, 0.04, 0.05]), np.zeros(5, np.int32), 0)


def start(*shape):
    graph = Graph()
    return graph, graph.input("x", shape, "fp32")


def grid(graph, x, quantization=GRID, dtype="int8"):
    """Round x to a grid, as QDQ models do."""
    return graph.dequantize(graph.quantize(x, dtype, quantization))


def weights(graph, shape, quantization=ROW, seed=1):
    q = quantize(values(shape, seed), quantization, "int8")
    return graph.dequantize(graph.constant(q, "w", quantization=quantization))


def integer_conv(graph, x, **options):
    """A convolution of a grid to a grid, as the ONNX importer writes it."""
    image = graph.add("transpose", [x], "t", perm=TO_NHWC)
    w = weights(graph, (5, 3, 3, image.shape[3]))
    bias = graph.dequantize(graph.constant(np.arange(5, dtype=np.int32), "b", quantization=ROW))
    y = graph.add("conv2d", [image, w, bias], "conv", pad_top=1, pad_left=1, **options)
    return grid(graph, graph.add("transpose", [y], "t", perm=TO_NCHW), OTHER)


def integers_agree(graph):
    """Whether every integer tensor but constants says what it means, and moves hand that on."""
    for op in graph.ops:
        if op.code in ("quantize", "dequantize"):
            assert (op.outputs[0] if op.code == "quantize" else op.inputs[0]).quantization
        elif op.inputs[0].dtype == "int8":
            assert op.inputs[0].quantization.grid == op.outputs[0].quantization.grid
    return True


def count(graph, code):
    return sum(op.code == code for op in graph.ops)


def test_boundary_takes_the_transposes():
    graph, x = start(1, 4, 6, 8)
    graph.output("y", integer_conv(graph, integer_conv(graph, grid(graph, x))))
    check(graph)
    assert not count(graph, "transpose") and integers_agree(graph)
    assert graph.inputs[0].perm == TO_NHWC and graph.outputs[0].perm == TO_NHWC


def test_integers_at_the_boundary():
    graph = Graph()
    x = graph.input("x", (1, 4, 6, 8), "int8")
    x.quantization = GRID
    y = integer_conv(graph, graph.dequantize(x))
    q = graph.quantize(y, "int8", GRID)
    graph.output("y", q)
    check(graph)
    assert not count(graph, "transpose") and integers_agree(graph)
    assert graph.inputs[0].tensor.quantization.grid == GRID.grid
    assert graph.outputs[0].tensor.quantization.grid == GRID.grid


def test_transposed_constant_keeps_its_axis():
    graph, x = start(1, 4, 6, 5)
    y = integer_conv(graph, grid(graph, graph.add("transpose", [x], perm=TO_NCHW)))
    per_channel = Quantization(ROW.scale, ROW.zero_point, 1)
    q = graph.constant(quantize(values((1, 5, 1, 5)), per_channel, "int8"),
                       quantization=per_channel)
    y = binary(graph, "mul", y, graph.dequantize(q))
    graph.output("y", grid(graph, y))
    check(graph)
    assert not count(graph, "transpose")
    constant = next(op.inputs[0] for op in graph.ops
                    if op.code == "dequantize" and op.inputs[0].shape == (1, 1, 5, 5))
    assert constant.quantization.axis == 3


@pytest.mark.parametrize("between", ["nothing", "grid"])
def test_dense_layer_behind_a_flatten(between):
    graph, x = start(1, 3, 4, 4)
    y = integer_conv(graph, grid(graph, x))
    y = graph.add("reshape", [y], shape=(1, 45))
    y = grid(graph, y, OTHER) if between == "grid" else y
    w = weights(graph, (5, 45), seed=7)
    graph.output("y", graph.add("dense", [y, w], "dense"))
    before = w.name, graph.producers()[w].inputs[0].data.copy()
    check(graph)
    assert not count(graph, "transpose") and integers_agree(graph)
    dense = next(op for op in graph.ops if op.code == "dense")
    q = graph.producers()[dense.inputs[1]].inputs[0]
    assert q.dtype == "int8" and q.quantization.axis == 0
    assert not np.array_equal(q.data, before[1])


def test_dense_weights_with_a_scale_per_feature_are_not_reordered():
    graph, x = start(1, 3, 4, 4)
    y = graph.add("reshape", [integer_conv(graph, grid(graph, x))], shape=(1, 45))
    per_feature = Quantization(np.linspace(0.01, 0.05, 45, dtype=np.float32),
                               np.zeros(45, np.int32), 1)
    graph.output("y", graph.add("dense", [y, weights(graph, (5, 45), per_feature)], "dense"))
    check(graph)


def test_same_grid_twice():
    graph, x = start(2, 6)
    graph.output("y", grid(graph, grid(graph, x)))
    check(graph, identities.apply, expected=["quantize", "dequantize"])


@pytest.mark.parametrize("dtype, quantization", [("int8", OTHER), ("int16", GRID)])
def test_other_grid_or_dtype_stays(dtype, quantization):
    graph, x = start(2, 6)
    graph.output("y", grid(graph, grid(graph, x), quantization, dtype))
    check(graph, identities.apply, expected=["quantize", "dequantize"] * 2)


@pytest.mark.parametrize("code, options", [
    ("reshape", {"shape": (3, 4)}), ("transpose", {"perm": (1, 0)}),
    ("slice", {"starts": (0, 1), "sizes": (2, 3), "steps": (1, 2)}),
    ("tile", {"repeats": (1, 2)}), ("expand", {"shape": (3, 2, 6)})])
def test_integers_are_moved(code, options):
    graph, x = start(2, 6)
    graph.output("y", grid(graph, graph.add(code, [grid(graph, x)], "move", **options)))
    check(graph, identities.apply, expected=["quantize", code, "dequantize"])
    assert graph.ops[1].inputs[0].dtype == "int8" and integers_agree(graph)


def test_integers_are_gathered():
    graph = Graph()
    indices = graph.input("i", (4,), "int32")
    table = graph.constant(quantize(values((3, 6)), GRID, "int8"), "table", quantization=GRID)
    graph.output("y", graph.add("gather", [graph.dequantize(table), indices], axis=0))
    check(graph, expected=["gather", "dequantize"])
    assert graph.ops[0].inputs[0].dtype == "int8" and integers_agree(graph)


def test_scales_along_an_axis_follow_it_or_are_lost():
    graph = Graph()
    q = graph.constant(quantize(values((5, 6)), ROW, "int8"), quantization=ROW)
    turned = graph.add("transpose", [q], perm=(1, 0))
    assert turned.quantization.axis == 1 and len(turned.quantization.scale) == 5
    assert graph.add("reshape", [q], shape=(30,)).quantization is None
    assert graph.add("reshape", [q], quantization=GRID, shape=(30,)).quantization is GRID


def test_moved_constant_is_folded_and_keeps_its_meaning():
    graph, x = start(3, 4)
    q = graph.constant(quantize(values((2, 6)), GRID, "int8"), quantization=GRID)
    graph.output("y", binary(graph, "add", x, graph.add("reshape", [graph.dequantize(q)],
                                                        shape=(3, 4))))
    check(graph, identities.apply, fold.apply, expected=["dequantize", "binary add"])
    assert graph.ops[0].inputs[0].constant
    assert graph.ops[0].inputs[0].quantization.grid == GRID.grid


@pytest.mark.parametrize("kind, alpha, beta", [("relu", 0, 0), ("clip", -0.51, 1.23)])
def test_clamp_between_equal_grids_is_fused(kind, alpha, beta):
    graph, x = start(1, 4, 6, 3)
    y = conv(graph, grid(graph, x), 4)
    y = grid(graph, unary(graph, kind, grid(graph, y), alpha, beta))
    graph.output("y", y)
    check(graph, identities.apply, activations.apply,
          expected=["quantize", "dequantize", f"conv2d {kind}", "quantize", "dequantize"])


def test_clamp_between_other_grids_stays():
    graph, x = start(2, 6)
    graph.output("y", grid(graph, unary(graph, "relu", grid(graph, x)), OTHER))
    check(graph, expected=["quantize", "dequantize", "unary relu", "quantize", "dequantize"])


def test_rounding_that_others_read_stays():
    graph, x = start(2, 6)
    rounded = grid(graph, x)
    graph.output("y", grid(graph, unary(graph, "relu", rounded)))
    graph.output("z", rounded)
    check(graph)
    assert count(graph, "unary") == 1 and count(graph, "quantize") == 2


def test_rounding_whose_integers_others_read_stays():
    graph, x = start(2, 6)
    q = graph.quantize(unary(graph, "tanh", x), "int8", GRID)
    graph.output("y", grid(graph, unary(graph, "relu", graph.dequantize(q))))
    graph.output("z", q)
    check(graph, identities.apply, expected=["unary tanh", "quantize", "dequantize", "unary relu",
                                             "quantize", "dequantize"])
    assert graph.ops[3].inputs[0] is graph.ops[2].outputs[0]


def test_clamp_of_nothing_goes():
    graph, x = start(2, 6)
    rounded = grid(graph, x, Quantization.per_tensor(0.01, 0), "uint8")
    graph.output("y", unary(graph, "clip", unary(graph, "relu", rounded), -1.0, 2.55))
    graph.output("z", unary(graph, "clip", rounded, 0.0, 2.54))
    check(graph, identities.apply)
    assert codes(graph).count("unary clip") == 1 and codes(graph).count("unary relu") == 0


def test_pad_of_a_grid_goes_into_the_convolution():
    graph, x = start(1, 4, 6, 3)
    y = graph.add("pad", [grid(graph, x)], "pad", mode="constant", before=(0, 1, 1, 0),
                  after=(0, 1, 1, 0))
    graph.output("y", conv(graph, grid(graph, y), 4))
    check(graph, pads.apply, identities.apply, expected=["quantize", "dequantize", "conv2d"])
    assert graph.ops[-1].options["pad_left"] == 1


def test_pad_with_another_number_stays():
    graph, x = start(1, 4, 6, 3)
    y = graph.add("pad", [x], "pad", mode="constant", before=(0, 1, 1, 0), after=(0, 1, 1, 0),
                  value=1.0)
    graph.output("y", conv(graph, grid(graph, y), 4))
    check(graph, pads.apply, expected=["pad", "quantize", "dequantize", "conv2d"])


@pytest.mark.parametrize("dtype, zero, folded", [("uint8", 0, True), ("uint8", 7, False)])
def test_pad_of_numbers_that_are_never_negative(dtype, zero, folded):
    graph, x = start(1, 4, 6, 3)
    y = grid(graph, x, Quantization.per_tensor(0.01, zero), dtype)
    y = graph.add("pad", [y], "pad", mode="constant", before=(0, 1, 1, 0), after=(0, 0, 0, 0))
    graph.output("y", graph.add("pool2d", [y], kind="max", kernel_h=2, kernel_w=2))
    check(graph, pads.apply)
    assert count(graph, "pad") == (not folded)


def test_channel_shuffle_of_a_grid():
    graph, x = start(1, 3, 4, 8)
    halves = [grid(graph, unary(graph, kind, x)) for kind in ("tanh", "sigmoid")]
    y = graph.add("concat", halves, "concat", axis=3)
    y = graph.add("reshape", [y], shape=(1, 3, 4, 2, 8))
    y = graph.add("transpose", [y], perm=(0, 1, 2, 4, 3))
    y = graph.add("reshape", [y], shape=(1, 3, 4, 16))
    graph.output("y", grid(graph, y, OTHER))
    check(graph, identities.apply, pieces.apply, reshapes.apply)
    assert not count(graph, "transpose") and integers_agree(graph)


def test_layer_on_integers_takes_no_residual():
    graph, x = start(1, 4, 6, 5)
    x = grid(graph, x)
    w = weights(graph, (5, 1, 1, 5))
    on_integers = binary(graph, "add", graph.add("conv2d", [x, w], "conv"), x)
    on_reals = binary(graph, "add", conv(graph, on_integers, 5, 1), on_integers)
    graph.output("y", on_reals)
    check(graph, activations.apply)
    assert codes(graph).count("binary add") == 1


def test_layer_of_integers_is_not_cut():
    graph, x = start(1, 40)
    ends = Quantization(np.full(64, 0.01, np.float32), np.zeros(64, np.int32), 0)
    y = graph.add("dense", [grid(graph, x), weights(graph, (64, 40), ends)], "dense")
    for at in (0, 32):
        graph.output(f"y{at}", graph.add("slice", [y], starts=(0, at), sizes=(1, 32),
                                         steps=(1, 1)))
    check(graph, splits.apply)
    assert count(graph, "dense") == 1


def test_branches_of_one_input_keep_their_grids():
    graph, x = start(1, 4, 6, 8)
    image = graph.add("transpose", [x], perm=TO_NHWC)
    for name, quantization in (("a", GRID), ("b", OTHER)):
        y = conv(graph, grid(graph, image, quantization), 3)
        graph.output(name, graph.add("transpose", [grid(graph, y)], perm=TO_NCHW))
    check(graph, transposes.apply)
    grids = {op.outputs[0].quantization.grid for op in graph.ops if op.code == "quantize"}
    assert grids == {GRID.grid, OTHER.grid} and not count(graph, "transpose")
