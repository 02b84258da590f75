"""Storage types: what stays fp32, what a source model's own precision is, exact inputs."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.tools import plan as planner
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from edgerun.tools.precision import convert, widen

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def dense_graph(in_c: int, out_c: int, hidden: int) -> Graph:
    """A small first layer in front of a large one."""
    graph = Graph()
    x = graph.input("x", (1, in_c), "fp32")
    y = graph.add("dense", [x, graph.constant(weights(out_c, in_c), "w1"),
                            graph.constant(weights(out_c), "b1")], "first")
    y = graph.add("dense", [y, graph.constant(weights(hidden, out_c), "w2")], "second")
    graph.output("y", y)
    return graph


def dtype_of(graph: Graph, name: str) -> str:
    return next(t.dtype for t in graph.tensors() if t.name == name)


def test_biases_stay_fp32():
    graph = dense_graph(4, 64, 512)
    convert(graph, "fp16", {}, exact_inputs=False)
    assert [dtype_of(graph, n) for n in ("x", "w1", "b1", "first", "w2")] == [
        "fp16", "fp16", "fp32", "fp16", "fp16"]


def test_fp32_leaves_everything():
    graph = dense_graph(4, 64, 512)
    convert(graph, "fp32", {})
    assert {t.dtype for t in graph.tensors()} == {"fp32"}


def test_input_stays_exact_where_it_is_free():
    """The input and the weights it meets are fp32, unrounded; everything behind is fp16."""
    graph = dense_graph(4, 64, 512)
    before = next(t.data for t in graph.tensors() if t.name == "w1").copy()
    convert(graph, "fp16", {})
    assert [dtype_of(graph, n) for n in ("x", "w1", "first", "w2")] == [
        "fp32", "fp32", "fp16", "fp16"]
    np.testing.assert_array_equal(next(t.data for t in graph.tensors() if t.name == "w1"), before)


def test_input_that_would_grow_the_arena_is_rounded():
    graph = dense_graph(512, 64, 64)
    convert(graph, "fp16", {})
    assert dtype_of(graph, "x") == "fp16"


def test_input_whose_weights_are_large_is_rounded():
    graph = dense_graph(64, 512, 4096)
    assert planner.plan(graph, {}).peak_op == 1
    convert(graph, "fp16", {})
    assert dtype_of(graph, "x") == "fp16", "1 % of all weights is the limit"


def test_input_read_by_an_op_that_cannot_mix_is_rounded():
    graph = Graph()
    x = graph.input("x", (1, 4), "fp32")
    y = graph.add("slice", [x], "s", starts=(0, 1), steps=(1, 1), sizes=(1, 2))
    graph.output("y", graph.add("dense", [y, graph.constant(weights(512, 2), "w")], "d"))
    convert(graph, "fp16", {})
    assert dtype_of(graph, "x") == "fp16"


def test_constant_that_another_op_reads_too_is_left_alone():
    graph = Graph()
    x = graph.input("x", (1, 4), "fp32")
    c = graph.constant(weights(4), "c")
    y = graph.add("binary", [x, c], "a", kind="add")
    y = graph.add("dense", [y, graph.constant(weights(600, 4), "w")], "d")
    graph.output("y", y)
    negative = graph.add("unary", [c], "u", kind="neg")
    graph.output("z", graph.add("binary", [negative, c], "b", kind="add"))
    convert(graph, "fp16", {})
    assert dtype_of(graph, "x") == dtype_of(graph, "c") == "fp16"


@pytest.mark.parametrize("dtype,own", [("fp16", "fp16"), ("fp32", "fp32")])
def test_precision_of_the_source(dtype, own):
    graph = Graph()
    x = graph.input("x", (3,), dtype)
    c = graph.constant(np.float32([1, 2, 3]), "c", dtype)
    graph.output("y", graph.add("binary", [x, c], "y", kind="add"))
    assert widen(graph) == own and not graph.notes
    assert {t.dtype for t in graph.tensors()} == {"fp32"}
    assert (graph.inputs[0].dtype, graph.outputs[0].dtype) == (dtype, dtype)


def test_source_of_two_precisions_is_noted():
    graph = Graph()
    x = graph.input("x", (3,), "fp16")
    graph.output("y", graph.add("cast", [x], "y", dtype="fp32"))
    assert widen(graph) == "fp32"
    assert "1 of 2 float tensors of the source model are fp16" in graph.notes[0]
    assert graph.ops[0].options["dtype"] == "fp32"


def test_constants_beyond_fp16_stay_finite():
    """An attention mask multiplies by -1e9: with an infinity, what is not masked were NaN."""
    graph = Graph("mask")
    x = graph.input("x", (1, 3), "fp32")
    low = graph.constant(np.array([-1e9, 1e9, -np.inf], np.float32), "low")
    graph.output("y", graph.add("binary", [x, low], "y", kind="mul"))
    convert(graph, "fp16", {}, exact_inputs=False)
    assert graph.ops[0].inputs[1].data.tolist() == [-65504, 65504, -np.inf]
    y = reference.execute(graph, {"x": np.zeros((1, 3), np.float32)})["y"]
    assert y[0, :2].tolist() == [0, 0]
