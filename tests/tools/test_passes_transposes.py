"""Transpose elimination, op by op, whole blocks as exporters write them, and random graphs."""
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun.tools.graph import Graph
from edgerun.tools.passes import reshapes, transposes
from edgerun.tools.passes._turn import identity, reshaped_order
from tests.tools.pass_checks import binary, check, codes, consistent, conv, unary, values

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def transpose(graph, x, perm):
    return graph.add("transpose", [x], "t", perm=perm)


def nchw_conv(graph, x, out_c, **options):
    """A convolution as the ONNX importer writes it."""
    return transpose(graph, conv(graph, transpose(graph, x, TO_NHWC), out_c, **options), TO_NCHW)


def start(*shape):
    graph = Graph()
    return graph, graph.input("x", shape, "fp32")


def test_boundary_takes_the_transposes():
    graph, x = start(1, 4, 6, 8)
    graph.output("y", unary(graph, "relu", nchw_conv(graph, x, 5)))
    check(graph, transposes.apply, expected=["conv2d", "unary relu"])
    assert graph.inputs[0].perm == TO_NHWC and graph.outputs[0].perm == TO_NHWC


def test_input_that_is_needed_in_its_own_order_too():
    graph, x = start(1, 4, 6, 8)
    graph.output("y", nchw_conv(graph, x, 5))
    graph.output("z", graph.add("reshape", [x], shape=(24, 8)))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 1


def test_input_that_is_an_output():
    graph, x = start(1, 4, 6, 8)
    graph.output("y", nchw_conv(graph, x, 5))
    graph.output("x again", x)
    check(graph, transposes.apply, expected=["conv2d"])


def between(graph, y, code):
    """Add the op under test to a [N, C, H, W] tensor."""
    c = y.shape[1]
    return {
        "unary": lambda: unary(graph, "tanh", y),
        "scalar": lambda: binary(graph, "mul", y, 2.0),
        "channels": lambda: binary(graph, "mul", y, values((c, 1, 1))),
        "width": lambda: binary(graph, "add", values(y.shape[3]), y),
        "gate": lambda: binary(graph, "mul", y, graph.add("reduce", [y], kind="mean", axes=(2, 3))),
        "concat": lambda: graph.add("concat", [y, unary(graph, "exp", y)], axis=1),
        "concat last": lambda: graph.add("concat", [y, y], axis=-1),
        "slice": lambda: graph.add("slice", [y], starts=(0, 1, 0, 4), steps=(1, 2, 1, -1),
                                   sizes=(1, 2, y.shape[2], 3)),
        "pad": lambda: graph.add("pad", [y], mode="constant", before=(0, 1, 2, 0),
                                 after=(0, 0, 3, 1)),
        "tile": lambda: graph.add("tile", [y], repeats=(1, 2, 1, 3)),
        "expand": lambda: graph.add("expand", [graph.add(
            "reduce", [y], kind="max", axes=(2, 3))], shape=(3, c, 4, 5)),
        "softmax": lambda: graph.add("softmax", [y], axis=1),
        "reduce": lambda: graph.add("reduce", [y], kind="mean", axes=(1,)),
        "max": lambda: graph.add("reduce", [y], kind="max", axes=(1, 3)),
        "gather": lambda: graph.add("gather", [y, graph.constant(np.array([2, 0, 0], np.int32))],
                                    axis=1),
        "where": lambda: graph.add("where", [binary(graph, "greater", y, 0.0), y,
                                             graph.constant(np.float32(3))]),
        "arg": lambda: graph.add("cast", [graph.add("arg", [y], kind="max", axis=1)], dtype="fp32"),
        "instance_norm": lambda: transpose(graph, graph.add(
            "instance_norm", [transpose(graph, y, TO_NHWC), graph.constant(values(c)),
                              graph.constant(values(c))]), TO_NCHW),
    }[code]()


@pytest.mark.parametrize("code", [
    "unary", "scalar", "channels", "width", "gate", "concat", "concat last", "slice", "pad", "tile",
    "expand", "softmax", "reduce", "max", "gather", "where", "arg", "instance_norm"])
def test_op_between_convolutions(code):
    graph, x = start(1, 4, 6, 8)
    y = between(graph, nchw_conv(graph, x, 5), code)
    graph.output("y", nchw_conv(graph, y, 3, kernel=1))
    check(graph, transposes.apply)
    assert "transpose" not in codes(graph)


@pytest.mark.parametrize("code", ["reduce", "gather", "arg"])
def test_dropped_axes(code):
    """[N, C, H, W] -> [N, C] or [N, H, W], the order of what is left being the same."""
    graph, x = start(2, 4, 6, 8)
    y = nchw_conv(graph, x, 5)
    if code == "reduce":
        y = graph.add("reduce", [y], kind="mean", axes=(2, 3), keep_dims=False)
    elif code == "gather":
        y = graph.add("gather", [y, graph.constant(np.int32(1))], axis=1)
    else:
        y = graph.add("arg", [y], kind="max", axis=1, keep_dims=False)
        y = graph.add("cast", [y], dtype="fp32")
    graph.output("y", unary(graph, "tanh", y))
    check(graph, transposes.apply)
    assert "transpose" not in codes(graph)


def test_residual_in_both_orders():
    """An operand that is not transposed gets a transpose if two others go."""
    graph, x = start(1, 4, 6, 8)
    a = graph.add("reshape", [graph.input("z", (5, 24), "fp32")], shape=(1, 5, 4, 6))
    y = binary(graph, "add", nchw_conv(graph, x, 5), a)
    graph.output("y", nchw_conv(graph, y, 3))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 0  # the input z has another order instead


def test_operand_that_has_no_other_order_gets_one_transpose():
    graph, x = start(1, 4, 5, 8)
    z = graph.input("z", (3, 8, 5), "fp32")
    product = graph.add("matmul", [graph.input("w", (6, 8), "fp32"), z])  # [3, 6, 5]
    a = graph.add("reshape", [product], shape=(1, 5, 3, 6))  # cuts what is no neighbour in NHWC
    y = binary(graph, "add", nchw_conv(graph, x, 5), a)
    graph.output("y", nchw_conv(graph, y, 3, kernel=1))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 1


def test_one_tensor_in_two_orders():
    """A cut that counted the transpose in the middle twice changed between two orders forever."""
    graph, x = start(2, 2, 3, 2)
    sub = binary(graph, "sub", x, 0.5)
    graph.output("pad", graph.add("pad", [x], mode="constant", before=(0, 0, 0, 1),
                                  after=(0, 0, 0, 0)))
    graph.output("y", graph.add("concat", [transpose(graph, sub, (3, 0, 2, 1)), x], axis=2))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 1


def test_channel_shuffle():
    graph, x = start(1, 8, 4, 6)
    y = nchw_conv(graph, x, 8, kernel=1)
    y = graph.add("reshape", [y], shape=(1, 2, 4, 4, 6))
    y = graph.add("reshape", [transpose(graph, y, (0, 2, 1, 3, 4))], shape=(1, 8, 4, 6))
    half = [graph.add("slice", [y], starts=(0, at, 0, 0), steps=(1,) * 4, sizes=(1, 4, 4, 6))
            for at in (0, 4)]
    y = graph.add("concat", [nchw_conv(graph, half[0], 4, kernel=1), half[1]], axis=1)
    graph.output("y", y)
    check(graph, transposes.apply, expected=[
        "conv2d", "reshape", "transpose", "reshape", "slice", "slice", "conv2d", "concat"])


def test_flatten_in_front_of_dense():
    graph, x = start(2, 4, 6, 8)
    y = graph.add("reshape", [unary(graph, "relu", nchw_conv(graph, x, 5))], shape=(2, 5 * 4 * 6))
    y = graph.add("dense", [y, graph.constant(values((3, 120)))])
    graph.output("y", y)
    check(graph, transposes.apply, expected=["conv2d", "unary relu", "reshape", "dense"])


def test_flatten_of_a_transposed_batch():
    graph, x = start(2, 3, 4)
    y = transpose(graph, unary(graph, "tanh", x), (1, 0, 2))
    y = graph.add("reshape", [y], shape=(3, 8))
    graph.output("y", graph.add("dense", [y, graph.constant(values((5, 8)))]))
    graph.output("x", graph.add("softmax", [graph.add("reshape", [x], shape=(6, 4))]))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 1


def test_flatten_that_is_needed():
    graph, x = start(2, 4, 6, 8)
    flat = graph.add("reshape", [nchw_conv(graph, x, 5)], shape=(2, 5 * 4 * 6))
    graph.output("flat", flat)
    graph.output("y", graph.add("dense", [flat, graph.constant(values((3, 120)))]))
    check(graph, transposes.apply, expected=["conv2d", "transpose", "reshape", "dense"])


def test_detection_head():
    """conv -> permute to NHWC -> reshape to [N, anchors, 4], concat of two scales."""
    graph, x = start(1, 4, 6, 8)
    heads = []
    for stride in (1, 2):
        y = nchw_conv(graph, x, 8, kernel=1, stride_h=stride, stride_w=stride)
        y = transpose(graph, y, TO_NHWC)
        heads.append(graph.add("reshape", [y], shape=(1, y.shape[1] * y.shape[2] * 2, 4)))
    graph.output("y", graph.add("concat", heads, axis=1))
    check(graph, transposes.apply,
          expected=["conv2d", "reshape", "conv2d", "reshape", "concat"])


def test_convolution_over_one_dimension():
    graph, x = start(2, 4, 12)
    y = x
    for out_c in (5, 6):
        y = graph.add("reshape", [y], shape=(2, y.shape[1], 1, y.shape[2]))
        y = transpose(graph, y, TO_NHWC)
        w = graph.constant(values((out_c, 1, 3, y.shape[3])))
        y = transpose(graph, graph.add("conv2d", [y, w]), TO_NCHW)
        y = unary(graph, "relu", graph.add("reshape", [y], shape=(2, out_c, y.shape[3])))
    graph.output("y", y)
    check(graph, transposes.apply)
    assert "transpose" not in codes(graph)
    assert graph.inputs[0].perm == (0, 2, 1) and graph.outputs[0].perm == (0, 2, 1)


def test_squeeze_and_excite():
    graph, x = start(1, 8, 4, 6)
    y = nchw_conv(graph, x, 8, kernel=1)
    s = graph.add("reduce", [y], kind="mean", axes=(2, 3))
    s = unary(graph, "relu", nchw_conv(graph, s, 4, kernel=1))
    s = unary(graph, "sigmoid", nchw_conv(graph, s, 8, kernel=1))
    graph.output("y", binary(graph, "mul", y, s))
    check(graph, transposes.apply, reshapes.apply, expected=[
        "conv2d", "reduce mean", "conv2d", "unary relu", "conv2d", "unary sigmoid", "binary mul"])


def test_attention_keeps_its_transposes_small():
    """Heads: [N, L, H, D] -> [N, H, L, D] stays, the swap of the last axes becomes a flag."""
    graph, x = start(1, 6, 8)
    q, k = (transpose(graph, graph.add("reshape", [graph.add(
        "dense", [x, graph.constant(values((8, 8), seed))])], shape=(1, 6, 2, 4)), (0, 2, 1, 3))
        for seed in (1, 2))
    graph.output("y", graph.add("softmax", [graph.add(
        "matmul", [q, transpose(graph, unary(graph, "tanh", k), (0, 1, 3, 2))])]))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 2


def test_dense_layer_needs_its_last_axis():
    graph, x = start(2, 3, 4)
    y = graph.add("dense", [transpose(graph, x, (1, 0, 2)), graph.constant(values((5, 4)))])
    graph.output("y", unary(graph, "tanh", y))
    check(graph, transposes.apply, expected=["dense", "unary tanh"])
    graph, x = start(2, 3, 4)
    y = graph.add("dense", [transpose(graph, unary(graph, "tanh", x), (0, 2, 1)),
                            graph.constant(values((5, 3)))])
    graph.output("y", y)
    graph.output("x", graph.add("softmax", [graph.add("reshape", [x], shape=(6, 4))]))
    check(graph, transposes.apply)
    assert codes(graph).count("transpose") == 1


def test_transpose_of_a_constant_is_left_to_folding():
    graph, x = start(2, 3)
    turned = transpose(graph, graph.constant(values((3, 2))), (1, 0))
    graph.output("y", binary(graph, "add", x, turned))
    check(graph)
    assert codes(graph) == ["binary add"]


def test_reshaped_order_is_right_wherever_it_exists():
    shapes = [(2, 3, 4), (1, 6, 4), (2, 12), (24,), (2, 3, 2, 2), (1, 24, 1, 1), (6, 1, 4), (3, 8),
              (1, 2, 3, 4), (4, 6, 1)]
    found = 0
    for source, target in itertools.product(shapes, repeat=2):
        x = np.arange(24).reshape(source)
        for perm in itertools.permutations(range(len(source))):
            order = reshaped_order(source, target, perm)
            if order is not None:
                found += 1
                assert sorted(order) == list(range(len(target)))
                assert np.array_equal(x.transpose(perm).ravel(),
                                      x.reshape(target).transpose(order).ravel())
        assert reshaped_order(source, target, identity(len(source))) is not None
    assert found > 500


# --- random graphs through every pass -------------------------------------------------------------

SHAPES = [(2, 3, 4), (1, 4, 6), (1, 3, 2, 4), (2, 2, 3, 2)]


@st.composite
def graphs(draw):
    """A random graph of ops that move, join and compute, with several outputs."""
    graph = Graph()
    shape = draw(st.sampled_from(SHAPES))
    live = [graph.input("x", shape, "fp32"),
            graph.input("y", draw(st.permutations(shape)), "fp32")]
    for number in range(draw(st.integers(3, 14))):
        x = draw(st.sampled_from(live[-4:]))
        rank = len(x.shape)
        kind = draw(st.sampled_from(["transpose"] * 4 + ["reshape"] * 2 + [
            "unary", "scalar", "vector", "binary", "concat", "slice", "reduce", "pad", "softmax",
            "split", "dense", "expand", "matmul"]))
        axis = draw(st.integers(0, rank - 1))
        if kind == "transpose":
            y = transpose(graph, x, draw(st.permutations(range(rank))))
        elif kind == "reshape":
            total, dims = int(np.prod(x.shape)), []
            while total > 1 and len(dims) < 4:
                divisors = [d for d in range(1, total + 1) if total % d == 0]
                dims.append(draw(st.sampled_from(divisors)) if len(dims) < 3 else total)
                total //= dims[-1]
            y = graph.add("reshape", [x], shape=(*dims, *([total] if total > 1 else [])) or (1,))
        elif kind == "split":  # an axis in two: commutes with every order
            n = x.shape[axis]
            d = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
            if rank > 4:
                continue
            y = graph.add("reshape", [x],
                          shape=(*x.shape[:axis], d, n // d, *x.shape[axis + 1:]))
        elif kind == "unary":
            y = unary(graph, draw(st.sampled_from(["relu", "tanh", "abs", "sigmoid"])), x)
        elif kind == "scalar":
            y = binary(graph, draw(st.sampled_from(["add", "mul", "sub"])), x, 0.5)
        elif kind == "vector":
            shape = [n if i == axis else 1 for i, n in enumerate(x.shape)]
            y = binary(graph, draw(st.sampled_from(["add", "mul"])), x, values(shape, number))
        elif kind == "binary":
            fits = [t for t in live if t.shape == x.shape]
            y = binary(graph, draw(st.sampled_from(["add", "mul", "max"])), x,
                       draw(st.sampled_from(fits)))
        elif kind == "concat":
            fits = [t for t in live if t.shape == x.shape]
            y = graph.add("concat", [x, draw(st.sampled_from(fits))], axis=axis)
        elif kind == "slice":
            starts, steps, sizes = [0] * rank, [1] * rank, list(x.shape)
            starts[axis] = draw(st.integers(0, x.shape[axis] - 1))
            sizes[axis] = x.shape[axis] - starts[axis]
            y = graph.add("slice", [x], starts=starts, steps=steps, sizes=sizes)
        elif kind == "reduce":
            y = graph.add("reduce", [x], kind=draw(st.sampled_from(["mean", "max"])), axes=(axis,),
                          keep_dims=draw(st.booleans()) or rank == 1)
        elif kind == "pad":
            before, after = [0] * rank, [0] * rank
            before[axis], after[axis] = draw(st.integers(0, 1)), draw(st.integers(0, 1))
            y = graph.add("pad", [x], mode="constant", before=before, after=after)
        elif kind == "softmax":
            y = graph.add("softmax", [x], axis=axis)
        elif kind == "dense":
            y = graph.add("dense", [x, graph.constant(values((3, x.shape[-1]), number))])
        elif kind == "expand":
            y = graph.add("expand", [x], shape=tuple(2 if n == 1 else n for n in x.shape))
        else:
            if rank < 2:
                continue
            y = graph.add("matmul", [x, x], transpose_b=True)
        if int(np.prod(y.shape)) <= 512 and len(y.shape) <= 5:
            live.append(y)
    graph.output("last", live[-1])
    graph.output("some", draw(st.sampled_from(live)))
    return graph


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_random_graphs(graph):
    check(graph, tolerance=1e-4)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_transposes_never_get_more_expensive(graph):
    before = transposes.cost_of(graph)
    transposes.apply(graph)
    consistent(graph)
    assert transposes.cost_of(graph) <= before
