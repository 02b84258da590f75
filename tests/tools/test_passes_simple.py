"""Dead code, duplicates, folding, identities, pieces: each pass alone, and what it must leave."""
import math

import numpy as np
import pytest

from edgerun.tools.graph import Graph
from edgerun.tools.passes import (
    dead_code, duplicates, fold, identities, pieces, reshapes, splits)
from tests.tools.pass_checks import binary, check, codes, conv, unary, values


def start(*shape, dtype="fp32"):
    graph = Graph()
    return graph, graph.input("x", shape, dtype)


def test_dead_code():
    graph, x = start(2, 3)
    unary(graph, "exp", unary(graph, "abs", x))
    graph.output("y", unary(graph, "relu", x))
    check(graph, dead_code.apply, expected=["unary relu"])


def test_duplicates():
    graph, x = start(2, 3)
    a = binary(graph, "add", unary(graph, "abs", x), [1, 2, 3])
    b = binary(graph, "add", unary(graph, "abs", x), [1, 2, 3])
    c = binary(graph, "add", unary(graph, "abs", x), [1, 2, 4])
    graph.output("a", a)
    graph.output("b", b)
    graph.output("c", c)
    check(graph, duplicates.apply, expected=["unary abs", "binary add", "binary add"])
    assert graph.outputs[0].tensor is graph.outputs[1].tensor


def test_duplicates_of_other_options_stay():
    graph, x = start(2, 3)
    a, b = (unary(graph, "clip", x, 0, high) for high in (1, 2))
    graph.output("y", binary(graph, "add", a, b))
    check(graph, duplicates.apply, expected=["unary clip", "unary clip", "binary add"])


def test_fold():
    graph, x = start(2, 3)
    c = unary(graph, "exp", graph.constant(values((2, 3))))
    graph.output("y", binary(graph, "add", x, unary(graph, "neg", c)))
    graph.output("c", c)
    check(graph, fold.apply, expected=["binary add"])


def test_fold_does_not_grow_the_file():
    graph, x = start(64, 64)
    big = graph.add("expand", [graph.constant(np.float32(3))], shape=(64, 64))
    small = graph.add("expand", [graph.constant(np.float32(3))], shape=(8, 8))
    graph.output("y", binary(graph, "add", x, big))
    graph.output("z", small)
    check(graph, fold.apply, expected=["expand", "binary add"])


@pytest.mark.parametrize("kind, c, expected", [
    ("add", 0, []), ("sub", 0, []), ("mul", 1, []), ("div", 1, []), ("pow", 1, []),
    ("pow", 2, ["unary square"]), ("pow", 0.5, ["unary sqrt"]), ("pow", -1, ["unary reciprocal"]),
    ("pow", 3, ["binary pow"]), ("mul", 3, ["unary affine"]), ("sub", 3, ["unary affine"]),
    ("div", 3, ["unary affine"]), ("max", 0, ["unary relu"]), ("min", 1, ["unary clip"]),
    ("prelu", 0.1, ["unary leaky_relu"]), ("div", 0, ["binary div"])])
def test_scalar(kind, c, expected):
    graph, x = start(2, 3)
    graph.output("y", binary(graph, kind, x, c))
    check(graph, identities.apply, expected=expected, low=0.5)


@pytest.mark.parametrize("kind, expected", [
    ("sub", ["unary affine"]), ("div", ["unary reciprocal", "unary affine"]),
    ("add", ["unary affine"]), ("pow", ["binary pow"])])
def test_scalar_on_the_left(kind, expected):
    graph, x = start(2, 3)
    graph.output("y", binary(graph, kind, 3.0, x))
    check(graph, identities.apply, expected=expected, low=0.5)


def test_scalar_keeps_the_activation():
    graph, x = start(2, 3)
    graph.output("y", binary(graph, "add", x, 0.5, activation="clip", alpha=0.0, beta=1.0))
    check(graph, identities.apply, expected=["unary affine", "unary clip"])


def test_scalar_that_broadcasts_stays():
    graph, x = start(3)
    graph.output("y", binary(graph, "add", x, np.zeros((2, 3))))
    check(graph, identities.apply, expected=["binary add"])


@pytest.mark.parametrize("kind", ["floor", "round", "ceil"])
def test_quotient_that_is_rounded_stays(kind):
    graph, x = start(2, 3)
    graph.output("y", unary(graph, kind, binary(graph, "div", x, 49.0)))
    graph.output("z", unary(graph, kind, binary(graph, "div", x, 4.0)))
    check(graph, identities.apply,
          expected=["binary div", f"unary {kind}", "unary affine", f"unary {kind}"])


def test_int_neutral():
    graph, x = start(2, 3, dtype="int32")
    zero, two = (graph.constant(np.int32(n)) for n in (0, 2))
    y = graph.add("binary", [graph.add("binary", [x, zero], kind="add"), two], kind="mul")
    graph.output("y", y)
    check(graph, identities.apply, expected=["binary mul"])


@pytest.mark.parametrize("first, second, expected", [
    (("relu", 0, 0), ("clip", -1, 6), "unary clip"),
    (("clip", -1, 6), ("relu", 0, 0), "unary clip"),
    (("relu", 0, 0), ("relu", 0, 0), "unary relu"),
    (("affine", 2, 1), ("affine", 3, -1), "unary affine"),
    (("clip", -1, 0.5), ("clip", 1, 2), "unary clip"),
    (("abs", 0, 0), ("square", 0, 0), "unary square"),
    (("sigmoid", 0, 0), ("relu", 0, 0), "unary sigmoid"),
    (("affine", 2, 1), ("hard_sigmoid", 0.2, 0.5), "unary hard_sigmoid")])
def test_two_unaries(first, second, expected):
    graph, x = start(40)
    graph.output("y", unary(graph, second[0], unary(graph, first[0], x, *first[1:]), *second[1:]))
    check(graph, identities.apply, expected=[expected])


def test_two_unaries_of_which_the_first_is_needed():
    graph, x = start(40)
    first = unary(graph, "relu", x)
    graph.output("first", first)
    graph.output("y", unary(graph, "clip", first, 0, 1))
    check(graph, identities.apply, expected=["unary relu", "unary clip"])


def test_reciprocal_of_a_root():
    graph, x = start(2, 3)
    graph.output("y", binary(graph, "div", x, unary(graph, "sqrt", unary(graph, "abs", x))))
    check(graph, identities.apply, expected=["unary abs", "unary rsqrt", "binary mul"], low=0.5)


def test_squares():
    graph, x = start(2, 3)
    y = graph.input("y", (2, 3), "fp32")
    graph.output("a", binary(graph, "mul", x, x))
    graph.output("b", unary(graph, "square", binary(graph, "sub", x, y)))
    check(graph, identities.apply, expected=["unary square", "binary squared_difference"])


def test_vector_constants_take_the_forms_add_and_mul():
    graph, x = start(2, 3)
    y = binary(graph, "div", binary(graph, "sub", x, [1, 2, 3]), [2, 3, 4])
    graph.output("y", binary(graph, "add", [3, 4, 5], y))
    check(graph, identities.apply, expected=["binary add", "binary mul", "binary add"])
    assert all(op.inputs[1].constant for op in graph.ops)


@pytest.mark.parametrize("code, options", [
    ("reshape", {"shape": (2, 3)}), ("transpose", {"perm": (0, 1)}), ("expand", {"shape": (1, 3)}),
    ("tile", {"repeats": (1, 1)}), ("concat", {"axis": 1}), ("cast", {"dtype": "fp32"}),
    ("slice", {"starts": (0, 0), "steps": (1, 1), "sizes": (2, 3)}),
    ("pad", {"mode": "constant", "before": (0, 0), "after": (0, 0)})])
def test_nothing_to_do(code, options):
    graph, x = start(2, 3)
    graph.output("y", unary(graph, "exp", graph.add(code, [x], **options)))
    check(graph, identities.apply, expected=["unary exp"])


def test_slice_backwards_stays():
    graph, x = start(2, 3)
    graph.output("y", graph.add("slice", [x], starts=(0, 2), steps=(1, -1), sizes=(2, 3)))
    check(graph, identities.apply, expected=["slice"])


def test_chains_of_movement():
    graph, x = start(2, 3, 4)
    y = graph.add("reshape", [graph.add("reshape", [x], shape=(6, 4))], shape=(3, 8))
    z = graph.add("transpose", [graph.add("transpose", [x], perm=(1, 2, 0))], perm=(2, 0, 1))
    s = graph.add("slice", [x], starts=(0, 0, 1), steps=(1, 2, 1), sizes=(2, 2, 3))
    s = graph.add("slice", [s], starts=(1, 1, 2), steps=(1, -1, -2), sizes=(1, 2, 2))
    for name, tensor in (("y", y), ("z", z), ("s", s)):
        graph.output(name, tensor)
    check(graph, identities.apply, expected=["reshape", "slice"])


def test_scale_moves_behind_a_product():
    graph, x = start(2, 3)
    y = graph.input("y", (2, 3), "fp32")
    z = binary(graph, "mul", binary(graph, "mul", x, 2.0), unary(graph, "tanh", y))
    graph.output("z", binary(graph, "mul", z, 0.5))
    check(graph, identities.apply, expected=["unary tanh", "binary mul"])


def test_softmax_takes_a_scale():
    graph, x = start(2, 7)
    logits = binary(graph, "sub", binary(graph, "mul", x, 0.3), 4.0)
    graph.output("y", graph.add("softmax", [logits]))
    check(graph, identities.apply, expected=["softmax"])
    assert math.isclose(graph.ops[0].options["scale"], 0.3, rel_tol=1e-6)


def test_expand_before_a_binary_op():
    graph, x = start(2, 3)
    row = graph.input("row", (1, 3), "fp32")
    wide = graph.add("expand", [row], shape=(2, 3))
    graph.output("y", binary(graph, "mul", x, wide))
    wider = graph.add("expand", [x], shape=(4, 2, 3))
    graph.output("z", unary(graph, "exp", binary(graph, "mul", wider, 2.0)))
    check(graph, identities.apply, expected=["binary mul", "expand", "unary affine", "unary exp"])


def test_reduction_whose_axes_come_back():
    graph, x = start(2, 5, 4, 3)
    y = graph.add("reduce", [x], kind="mean", axes=(1, 2), keep_dims=False)
    graph.output("y", graph.add("reshape", [y], shape=(2, 1, 1, 3)))
    check(graph, identities.apply, expected=["reduce mean"])


def test_reshapes_of_different_shapes_stay():
    graph, x = start(6, 4)
    a, b = (graph.add("reshape", [t], shape=(24,)) for t in (
        unary(graph, "exp", x), graph.input("z", (4, 6), "fp32")))
    graph.output("y", binary(graph, "add", a, b))
    check(graph, reshapes.apply, expected=["unary exp", "reshape", "reshape", "binary add"])


def test_gather_of_a_range():
    graph, x = start(2, 8, 3)
    for name, indices in (("a", [2, 3, 4]), ("b", [6, 4, 2]), ("c", -1), ("d", [5]),
                          ("e", [0, 1, 3]), ("f", [1, 1])):
        graph.output(name, graph.add("gather", [x, graph.constant(np.array(indices, np.int32))],
                                     axis=1))
    check(graph, pieces.apply,
          expected=["slice", "slice", "slice", "reshape", "slice", "gather", "gather"])


def test_slice_of_concat():
    graph, x = start(2, 4)
    y = graph.input("y", (2, 3), "fp32")
    both = graph.add("concat", [x, y], axis=-1)
    graph.output("a", graph.add("slice", [both], starts=(0, 5), steps=(1, 1), sizes=(2, 2)))
    graph.output("b", graph.add("slice", [both], starts=(1, 3), steps=(1, -2), sizes=(1, 2)))
    graph.output("c", graph.add("slice", [both], starts=(0, 3), steps=(1, 1), sizes=(2, 2)))
    check(graph, pieces.apply, expected=["concat", "slice", "slice", "slice"])
    assert [op.inputs[0].name for op in graph.ops[1:]] == ["y", "x", both.name]


def test_concats_of_concats_and_of_slices():
    graph, x = start(2, 6)
    y = graph.input("y", (2, 3), "fp32")
    parts = [graph.add("slice", [x], starts=(0, at), steps=(1, 1), sizes=(2, 2))
             for at in (0, 2, 4)]
    inner = graph.add("concat", [y, parts[1], parts[2]], axis=1)
    graph.output("z", graph.add("concat", [parts[0], inner], axis=1))
    check(graph, pieces.apply, expected=["slice", "slice", "concat"])


def test_concat_that_is_needed_stays():
    graph, x = start(2, 6)
    inner = graph.add("concat", [x, x], axis=1)
    graph.output("inner", inner)
    graph.output("z", graph.add("concat", [inner, x], axis=1))
    other = graph.add("concat", [x, x], axis=0)
    graph.output("other", graph.add("concat", [other, other], axis=1))
    inner = graph.add("concat", [x, x], axis=0)
    graph.output("across", graph.add("concat", [inner, inner], axis=1))
    inner = graph.add("concat", [x, unary(graph, "exp", x)], axis=0)
    graph.output("once", graph.add("concat", [inner, graph.input("z", (4, 3), "fp32")], axis=1))
    check(graph, pieces.apply)
    assert codes(graph).count("concat") == 8


def test_reshapes_move_out_of_the_way():
    graph, x = start(1, 4, 4, 3)
    y = graph.add("transpose", [graph.add("reduce", [conv(graph, x, 5)], kind="mean", axes=(1, 2))],
                  perm=(0, 3, 1, 2))
    y = unary(graph, "relu", graph.add("reshape", [y], shape=(1, 5)))
    graph.output("y", binary(graph, "add", y, values(5)))
    check(graph, reshapes.apply,
          expected=["conv2d", "reduce mean", "unary relu", "binary add", "reshape"])


def test_reshape_that_moves_the_channels_stays():
    graph, x = start(2, 6)
    graph.output("y", binary(graph, "add", graph.add("reshape", [x], shape=(4, 3)), values(3)))
    check(graph, reshapes.apply, expected=["reshape", "binary add"])
    assert codes(graph)[0] == "reshape"


def test_constant_that_repeats_is_narrowed():
    graph, x = start(2, 3, 4)
    wide = np.broadcast_to(values((3, 1)), (2, 3, 4))
    graph.output("y", binary(graph, "add", x, wide))
    row = graph.input("row", (1, 3, 4), "fp32")
    graph.output("z", binary(graph, "add", row, np.broadcast_to(values((3, 4)), (2, 3, 4))))
    check(graph, identities.apply, expected=["binary add", "binary add"])
    assert [op.inputs[1].shape for op in graph.ops] == [(1, 3, 1), (2, 3, 4)]


@pytest.mark.parametrize("parts", [2, 3])
def test_shuffle_of_a_concat_is_a_concat(parts):
    graph, x = start(1, 4, 6)
    xs = [x, *(graph.input(f"x{i}", (1, 4, 6), "fp32") for i in range(1, parts))]
    y = graph.add("reshape", [graph.add("concat", xs, axis=2)], shape=(1, 4, parts, 6))
    y = graph.add("transpose", [y], perm=(0, 1, 3, 2))
    graph.output("y", graph.add("reshape", [y], shape=(1, 4, 6 * parts)))
    check(graph, pieces.apply, expected=["reshape"] * parts + ["concat", "reshape"])


def test_shuffle_of_unequal_parts_stays():
    graph, x = start(1, 4, 6)
    both = graph.add("concat", [x, graph.input("z", (1, 4, 2), "fp32")], axis=2)
    y = graph.add("reshape", [both], shape=(1, 4, 2, 4))
    graph.output("y", graph.add("transpose", [y], perm=(0, 1, 3, 2)))
    check(graph, pieces.apply, expected=["concat", "reshape", "transpose"])


@pytest.mark.parametrize("target, options, moved", [
    ((2, 3, 4, 2), {"starts": (0, 1, 0, 0), "sizes": (2, 2, 4, 2)}, True),      # the outer part
    ((2, 3, 4, 2), {"starts": (1, 0, 0, 1), "sizes": (1, 3, 4, 1)}, True),      # every second
    ((2, 3, 1, 8), {"starts": (0, 2, 0, 0), "sizes": (2, 1, 1, 8)}, True),
    ((2, 1, 24), {"starts": (0, 0, 3), "steps": (1, 1, 2), "sizes": (2, 1, 9)}, True),
    ((2, 3, 4, 2), {"starts": (0, 0, 1, 0), "sizes": (2, 3, 2, 2)}, False),     # from the middle
    ((2, 3, 4, 2), {"starts": (0, 0, 0, 0), "steps": (1, 2, 1, 1), "sizes": (2, 2, 4, 2)}, False),
    ((3, 16), {"starts": (1, 0), "sizes": (2, 16)}, False)])
def test_slice_of_reshape(target, options, moved):
    graph, x = start(2, 24)
    y = graph.add("reshape", [x], shape=target)
    graph.output("y", graph.add("slice", [y], **{"steps": (1,) * len(target), **options}))
    check(graph, pieces.apply, expected=["slice", "reshape"] if moved else ["reshape", "slice"])


def cut(graph, y, *bounds):
    for number, (first, last, *step) in enumerate(bounds):
        step = step[0] if step else 1
        size = len(range(first, last, step))
        part = graph.add("slice", [y], starts=(0,) * (len(y.shape) - 1) + (first,),
                         steps=(1,) * (len(y.shape) - 1) + (step,), sizes=(*y.shape[:-1], size))
        graph.output(f"part{number}", part)


@pytest.mark.parametrize("bounds", [((0, 16), (16, 48)), ((0, 48, 2), (1, 48, 2)), ((0, 20),)])
def test_layers_that_are_cut(bounds):
    graph, x = start(1, 4, 4, 8)
    cut(graph, conv(graph, x, 48, activation="relu"), *bounds)
    check(graph, splits.apply, expected=["conv2d relu"] * len(bounds))
    graph, x = start(4, 8)
    y = graph.add("dense", [x, graph.constant(values((48, 8)))])
    cut(graph, y, *bounds)
    check(graph, splits.apply, expected=["dense"] * len(bounds))


@pytest.mark.parametrize("case", ["narrow", "overlap", "needed", "reader", "rows", "groups"])
def test_layers_that_are_not_cut(case):
    graph, x = start(1, 4, 4, 8)
    y = conv(graph, x, 48, groups=2 if case == "groups" else 1)
    cut(graph, y, (0, 12 if case == "narrow" else 24), (20 if case == "overlap" else 24, 48))
    if case == "needed":
        graph.output("y", y)
    if case == "reader":
        graph.output("y", unary(graph, "exp", y))
    if case == "rows":
        graph.output("y", graph.add("slice", [y], starts=(0,) * 4, steps=(1,) * 4,
                                    sizes=(1, 2, 2, 48)))
    check(graph, splits.apply)
    assert codes(graph)[:3] == ["conv2d", "slice", "slice"]


def test_axes_of_one_element_are_not_reduced():
    graph, x = start(1, 5, 4)
    graph.output("y", graph.add("reduce", [x], kind="mean", axes=(0, 2)))
    graph.output("z", graph.add("reduce", [x], kind="l2", axes=(0, 2)))
    graph.output("w", unary(graph, "exp", graph.add("reduce", [x], kind="max", axes=(0,))))
    check(graph, identities.apply, expected=["reduce mean", "reduce l2", "unary exp"])
    assert graph.ops[0].options["axes"] == (2,)
