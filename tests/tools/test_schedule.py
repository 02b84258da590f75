"""The order of ops: against all orders of small graphs, and random orders of larger ones."""
from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st

from edgerun.tools import plan as planner, schedule
from edgerun.tools.graph import Graph, Tensor, View, Views, root_of


def random_graph(seed: int, ops: int) -> tuple[Graph, dict[Tensor, Tensor]]:
    """A graph of concats and slices of random sizes; some tensors have a reshape as an alias."""
    rng = np.random.default_rng(seed)
    graph = Graph()
    tensors = [graph.input("x", (int(rng.integers(1, 9)) * 16,), "fp32")]
    aliases = {}
    for number in range(ops):
        if rng.random() < 0.5:
            x = tensors[rng.integers(max(0, len(tensors) - 4), len(tensors))]
            end = int(rng.integers(1, x.shape[0] // 16 + 1)) * 16
            y = graph.add("slice", [x], starts=(0,), steps=(1,), sizes=(end,), name=f"s{number}")
        else:
            count = int(rng.integers(1, min(3, len(tensors)) + 1))
            chosen = rng.choice(len(tensors), count, replace=False)
            y = graph.add("concat", [tensors[i] for i in chosen], axis=0, name=f"c{number}")
        tensors.append(y)
        if rng.random() < 0.2:
            view = Tensor(f"view{number}", y.shape, y.dtype)
            aliases[view] = View(y)
            tensors.append(view)
    for number in range(1 + seed % 2):
        graph.output(f"y{number}", tensors[-1 - number])
    return graph, aliases


def peak_of(graph: Graph, aliases: Views) -> int:
    """The planner's bound, which shares no code with the schedule."""
    blocks, scratch = planner.blocks_of(graph, aliases)
    return planner.lower_bound([*blocks.values(), *scratch.values()])[0]


def valid(graph: Graph, aliases: Views) -> bool:
    """Whether every tensor is written before it is read."""
    written = {boundary.tensor for boundary in graph.inputs}
    for op in graph.ops:
        if any(root_of(aliases, x) not in written for x in op.inputs):
            return False
        written.update(op.outputs)
    return True


def all_orders(graph: Graph, aliases: Views):
    """Every valid order of the ops."""
    def extend(order: list, left: list):
        if not left:
            yield list(order)
        written = {b.tensor for b in graph.inputs} | {op.outputs[0] for op in order}
        for op in left:
            if all(root_of(aliases, x) in written for x in op.inputs):
                yield from extend([*order, op], [other for other in left if other is not op])
    yield from extend([], list(graph.ops))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_no_order_is_better(seed):
    """The peak is the smallest over all orders, and that of the planner for this order."""
    graph, aliases = random_graph(seed, 6)
    smallest = None
    given_order = list(graph.ops)
    for order in all_orders(graph, aliases):
        graph.ops = order
        peak = peak_of(graph, aliases)
        smallest = peak if smallest is None else min(smallest, peak)
    graph.ops = given_order
    found = schedule.apply(graph, aliases)
    assert valid(graph, aliases) and found.proven
    assert found.peak_bytes == peak_of(graph, aliases) == smallest


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 50, 30_000]))
def test_never_worse(seed, limit):
    """With any limit the order is valid and no worse than the given one; the peak is true."""
    graph, aliases = random_graph(seed, 40)
    before = peak_of(graph, aliases)
    found = schedule.best(schedule.Liveness(graph, aliases), limit)
    graph.ops = [graph.ops[number] for number in found.order]
    assert valid(graph, aliases) and sorted(found.order) == list(range(40))
    assert found.peak_bytes == peak_of(graph, aliases) <= before


def test_keeps_the_order_that_is_best():
    """Packing does not shuffle ops for nothing."""
    graph = Graph()
    x = graph.input("x", (64,), "fp32")
    a = graph.add("slice", [x], starts=(0,), steps=(1,), sizes=(64,), name="a")
    b = graph.add("slice", [x], starts=(0,), steps=(1,), sizes=(64,), name="b")
    graph.output("y", graph.add("concat", [a, b], axis=0))
    assert schedule.best(schedule.Liveness(graph, {})).order == [0, 1, 2]
