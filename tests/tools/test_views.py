"""Concats and slices as views, on small graphs: which ops go, and where tensors come to lie."""
from __future__ import annotations

import numpy as np

from edgerun.tools import plan as planner, reductions
from edgerun.tools.graph import Graph, View
from edgerun.tools.passes import views as views_pass


def rows_graph(parts: int = 3) -> Graph:
    """y [1, 3 * parts, 4, 2]: the rows of an image are cut up, each strip squared, and joined."""
    graph = Graph("rows")
    x = graph.input("x", (1, 3 * parts, 4, 2), "fp32")
    strips = [graph.add("unary", [graph.add(
        "slice", [x], f"cut{k}", starts=(0, 3 * k, 0, 0), steps=(1, 1, 1, 1), sizes=(1, 3, 4, 2))],
        f"squared{k}", kind="square") for k in range(parts)]
    graph.output("y", graph.add("concat", strips, "y", axis=1))
    return graph


def test_rows_are_views_in_both_directions():
    graph, views = rows_graph(), {}
    x, y = graph.inputs[0].tensor, graph.outputs[0].tensor
    views_pass.apply(graph, views)
    assert [op.code for op in graph.ops] == ["unary"] * 3
    for number, op in enumerate(graph.ops):
        assert views[op.inputs[0]] == View(x, number * 3 * 4 * 2 * 4)
        assert views[op.outputs[0]] == View(y, number * 3 * 4 * 2 * 4)


def test_kept_ops_stay():
    graph, views = rows_graph(), {}
    views_pass.apply(graph, views, kept=[op for op in graph.ops if op.code == "concat"])
    assert [op.code for op in graph.ops] == ["unary"] * 3 + ["concat"]


def test_input_of_the_graph_is_copied():
    """An input of the graph is written by the caller: it is no part of something else."""
    graph, views = Graph("join"), {}
    x = graph.input("x", (3, 2), "fp32")
    y = graph.add("unary", [x], "relu", kind="relu")
    joined = graph.add("concat", [x, y], "joined", axis=0)
    graph.output("y", joined)
    views_pass.apply(graph, views)
    assert [op.code for op in graph.ops] == ["unary", "slice"]
    assert views[y] == View(joined, 24) and views[graph.ops[1].outputs[0]] == View(joined, 0)


def test_tensor_joined_twice_is_copied_once():
    graph, views = Graph("twice"), {}
    x = graph.input("x", (3, 2), "fp32")
    a, b = (graph.add("unary", [x], name, kind="relu") for name in "ab")
    graph.output("y", graph.add("concat", [a, b, a], "y", axis=0))
    views_pass.apply(graph, views)
    assert [op.code for op in graph.ops] == ["unary", "unary", "slice"]


def test_concat_of_a_concat_lies_in_one_root():
    graph, views = Graph("nested"), {}
    x = graph.input("x", (2, 2), "fp32")
    a, b, c = (graph.add("unary", [x], name, kind="relu") for name in "abc")
    inner = graph.add("concat", [a, b], "inner", axis=0)
    outer = graph.add("concat", [c, inner], "outer", axis=0)
    graph.output("y", outer)
    views_pass.apply(graph, views)
    assert [op.code for op in graph.ops] == ["unary"] * 3
    assert views == {a: View(outer, 16), b: View(outer, 32), c: View(outer, 0),
                     inner: View(outer, 16)}


def test_growing_concats_lie_in_the_last():
    """DenseNet: every concat starts with the inputs of the one before."""
    graph, views = Graph("dense"), {}
    x = graph.input("x", (2, 2), "fp32")
    parts = [graph.add("unary", [x], "p0", kind="relu")]
    for number in range(1, 4):
        parts.append(graph.add("reduce", [graph.add("concat", parts, f"c{number}", axis=0)],
                               f"p{number}", kind="sum", axes=(0,)))
    last = graph.add("concat", parts, "last", axis=0)
    graph.output("y", last)
    views_pass.apply(graph, views)
    assert "concat" not in [op.code for op in graph.ops]


def test_view_that_would_cost_memory_is_none():
    """A small tensor that lives long is not joined early to a large one that does not."""
    graph = Graph("long")
    x = graph.input("x", (64, 4), "fp32")
    small = graph.add("reduce", [x], "small", kind="sum", axes=(0,))
    big = x
    for number in range(3):
        big = graph.add("expand", [graph.add("reduce", [big], f"r{number}", kind="sum", axes=(0,))],
                        f"big{number}", shape=(1000, 4))
    big = graph.add("reduce", [big], "end", kind="sum", axes=(0,))
    wide = graph.add("expand", [big], "wide", shape=(900, 4))
    graph.output("y", graph.add("reduce", [graph.add("concat", [small, wide], "joined", axis=0)],
                                "y", kind="sum", axes=(0,)))
    before = planner.plan(graph, {}).arena_bytes
    _, plan = reductions.apply(graph, {})
    assert plan.arena_bytes <= before


def test_without_all_nothing_changes():
    graph = rows_graph()
    codes = [op.code for op in graph.ops]
    views, _ = reductions.apply(graph, {}, reductions.NAMES)
    assert not views and [op.code for op in graph.ops] == codes


def test_effects_tell_the_arena_without_each():
    graph = rows_graph()
    found = {r.name: r.without_bytes for r in reductions.effects(graph, {})}
    assert found["views"] > reductions.apply(graph, {})[1].arena_bytes
    assert np.all([size > 0 for size in found.values()])
