"""The memory planner against an independent checker, on random lifetimes and on small graphs."""
from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun.tools import plan as planner
from edgerun.tools.graph import Graph, View
from edgerun.tools.plan import ALIGNMENT, Block, exact


def checked_arena(blocks: list[Block]) -> int:
    """Simulate the ops one by one on a byte map; returns the bytes touched.

    Shares no code with plan.
    """
    top = max((b.offset + b.size for b in blocks), default=0)
    owner = np.full(top // ALIGNMENT, -1)
    steps = range(min((b.first for b in blocks), default=0),
                  max((b.last for b in blocks), default=0) + 1)
    for step in steps:
        for number, block in enumerate(blocks):
            cells = slice(block.offset // ALIGNMENT, (block.offset + block.size) // ALIGNMENT)
            assert block.offset >= 0 and block.offset % ALIGNMENT == 0
            if block.first == step:
                assert (owner[cells] == -1).all(), \
                    f"block {number} lands on a live one at op {step}"
                owner[cells] = number
        for number, block in enumerate(blocks):
            if block.last == step:
                cells = slice(block.offset // ALIGNMENT, (block.offset + block.size) // ALIGNMENT)
                assert (owner[cells] == number).all()
                owner[cells] = -1
    return top


def peak(blocks: list[Block]) -> int:
    """The largest sum of live bytes, op by op."""
    return max((sum(b.size for b in blocks if b.first <= step <= b.last)
                for step in range(-1, 60)), default=0)


lifetimes = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30), st.integers(0, 12)),
                     min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(lifetimes)
def test_random_lifetimes(items):
    """Plans are valid, and never below the bound."""
    blocks = [Block(size * ALIGNMENT, first, first + length) for size, first, length in items]
    bound, step = planner.lower_bound(blocks)
    assert bound == peak(blocks)
    assert sum(b.size for b in blocks if b.first <= step <= b.last) == bound
    arena = planner.solve(blocks, bound)
    assert checked_arena(blocks) == arena >= bound


def test_plans_are_near_the_bound():
    """Over seeded random graphs the arena is on average within 2 % of the bound."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        blocks = []
        for step in range(30):
            blocks.append(Block(int(rng.integers(1, 64)) * ALIGNMENT, step,
                                step + int(rng.choice([1, 1, 1, 2, 5]))))
        bound, _ = planner.lower_bound(blocks)
        ratios.append(planner.solve(blocks, bound) / bound)
    assert np.mean(ratios) <= 1.02 and max(ratios) <= 1.10, ratios


def test_same_plan_every_time():
    """Packing is reproducible: the search is seeded."""
    def solve():
        rng = np.random.default_rng(3)
        blocks = [Block(int(rng.integers(1, 64)) * ALIGNMENT, s, s + int(rng.integers(1, 6)))
                  for s in range(25)]
        planner.solve(blocks, 0)
        return [b.offset for b in blocks]
    assert solve() == solve()


def chain(length: int) -> Graph:
    graph = Graph()
    x = graph.input("x", (100,), "fp32")
    for _ in range(length):
        x = graph.add("unary", [x], kind="exp")
    graph.output("y", x)
    return graph


def test_chain_needs_two_tensors():
    plan = planner.plan(chain(10), {})
    assert plan.arena_bytes == plan.lower_bound_bytes == 2 * planner.aligned(400)


def test_peak_op_is_where_most_is_live():
    graph = Graph()
    x = graph.input("x", (100,), "fp32")
    a = graph.add("unary", [x], "a", kind="exp")
    b = graph.add("unary", [x], "b", kind="abs")
    c = graph.add("binary", [a, b], "c", kind="add")
    graph.output("y", graph.add("unary", [c], "d", kind="neg"))
    plan = planner.plan(graph, {})
    assert plan.lower_bound_bytes == 3 * planner.aligned(400)
    assert graph.ops[plan.peak_op].name in ("b", "c")


def test_outputs_live_to_the_end():
    graph = Graph()
    x = graph.input("x", (64,), "fp32")
    first = graph.add("unary", [x], "first", kind="exp")
    graph.output("first", first)
    graph.output("last", graph.add("unary", [graph.add("unary", [first], kind="abs")], kind="neg"))
    plan = planner.plan(graph, {})
    offsets = [at for tensor, at in plan.offsets.items()]
    assert plan.offsets[first] not in [at for t, at in plan.offsets.items() if t is not first
                                       and t is not graph.inputs[0].tensor]
    assert len(offsets) == 4


def test_aliases_share_their_root():
    graph = Graph()
    x = graph.input("x", (4, 16), "fp32")
    y = graph.add("unary", [x], kind="exp")
    z = graph.add("reshape", [y], shape=(64,))
    graph.output("y", graph.add("unary", [z], kind="abs"))
    from edgerun.tools.passes import alias
    aliases = alias.apply(graph)
    plan = planner.plan(graph, aliases)
    assert aliases == {z: View(y)} and z not in plan.offsets
    assert plan.arena_bytes == 2 * planner.aligned(256)


@settings(max_examples=100, deadline=None)
@given(lifetimes, st.integers(1, 16))
def test_a_sweep_stays_within_its_capacity(items, width):
    blocks = [Block(size * ALIGNMENT, first, first + length) for size, first, length in items]
    bound, _ = planner.lower_bound(blocks)
    assert not planner.sweep(blocks, bound - ALIGNMENT, width)
    assert all(b.offset == -1 for b in blocks)
    capacity = sum(b.size for b in blocks)
    if planner.sweep(blocks, capacity, width):
        assert checked_arena(blocks) <= capacity


def test_residual_blocks_reach_the_bound():
    """Each output must lie at the end where the next block's two wide tensors leave room."""
    unit = ALIGNMENT
    blocks = [Block(unit, -1, 2)]
    for step in range(0, 90, 3):
        blocks += [Block(2 * unit, step, step + 1), Block(2 * unit, step + 1, step + 2),
                   Block(unit, step + 2, step + 5)]
    bound, _ = planner.lower_bound(blocks)
    assert bound == 5 * unit
    assert planner.solve(blocks, bound) == bound == checked_arena(blocks)


def cut(seed: int, count: int) -> list[Block]:
    """A rectangle of 400 units by 260 ops cut at random: by construction it has no gap."""
    rng = random.Random(seed)
    parts = [(0, 400, 0, 260)]
    while len(parts) < count:
        low, high, first, end = parts.pop(max(range(len(parts)), key=lambda n: rng.random() * (
            parts[n][1] - parts[n][0]) * (parts[n][3] - parts[n][2])))
        if (end - first > 1 and rng.random() < 0.6) or high - low == 1:
            middle = rng.randrange(first + 1, end)
            parts += [(low, high, first, middle), (low, high, middle, end)]
        else:
            middle = rng.randrange(low + 1, high)
            parts += [(low, middle, first, end), (middle, high, first, end)]
    return [Block((high - low) * ALIGNMENT, first, end - 1) for low, high, first, end in parts]


@pytest.mark.parametrize("seed", range(4))
def test_a_placement_without_a_gap_is_found(seed):
    """No greedy order and no sweep meets the bound of seed 0: the search over orders must."""
    blocks = cut(seed, 60)
    bound, _ = planner.lower_bound(blocks)
    assert bound == 400 * ALIGNMENT
    assert planner.solve(blocks, bound) == bound == checked_arena(blocks)


def brute_force(blocks: list[Block]) -> int:
    """The smallest arena over all orders: the lowest free place, in some order, is optimal."""
    return min(planner.place(list(order)) for order in itertools.permutations(blocks))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 4)),
                min_size=2, max_size=6))
def test_the_exact_solver_finds_the_smallest_arena(items):
    """From a bad placement, without any other search."""
    blocks = [Block(size * ALIGNMENT, first, first + length) for size, first, length in items]
    smallest, at = brute_force(blocks), 0
    for block in blocks:
        block.offset, at = at, at + block.size
    arena, proven = exact.improve(blocks, planner.lower_bound(blocks)[0], at, 20)
    assert proven and arena == smallest
    assert checked_arena(blocks) <= arena


def test_an_arena_above_the_bound_is_proven():
    """The proof is the solver's, not the bound's: told of a bound too low, it still proves."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        blocks = [Block(int(rng.integers(1, 6)) * ALIGNMENT, int(first), int(first) + length)
                  for first, length in zip(rng.integers(0, 12, 12), [0, 1, 2, 3, 4, 5] * 2)]
        bound, _ = planner.lower_bound(blocks)
        arena = planner.solve(blocks, bound)
        assert arena == bound
        assert planner.prove(blocks, bound - ALIGNMENT, arena) == (arena, True)
        assert checked_arena(blocks) == arena


def test_nothing_is_proven_without_time():
    blocks = [Block(ALIGNMENT * (1 + step % 5), step, step + 9) for step in range(40)]
    at = 0
    for block in blocks:
        block.offset, at = at, at + block.size
    arena, proven = exact.improve(blocks, ALIGNMENT, at, 0.0)
    assert not proven and checked_arena(blocks) <= arena <= at
