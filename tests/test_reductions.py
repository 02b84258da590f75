"""Views and in-place ops change where tensors lie, and no number."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools import passes, reductions, reference
from edgerun.tools.graph import Graph
from edgerun.tools.pack import Stages
from tests import reduced
from tests.harness import run_guarded

SEEDS = range(60)
ON_DEVICE = range(12)


def inputs_of(graph: Graph, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {b.name: np.round(rng.standard_normal(b.shape) * 16).astype(np.float32) / 16
            for b in graph.inputs}


@pytest.mark.parametrize("seed", SEEDS)
def test_arena_holds_what_ops_read(seed):
    """Run on one array of bytes: what an op reads is what was written for it."""
    graph = reduced.random_graph(seed, batch=1 + seed % 5 // 4)
    inputs = inputs_of(graph, seed)
    expected = reference.execute(graph, inputs)
    graph, views, plan = reduced.reduced(graph)
    found = reduced.run(graph, views, plan, inputs)
    for name, want in expected.items():
        assert np.array_equal(found[name], want), name


def test_random_graphs_use_every_reduction():
    """The graphs above have views of every kind, and ops in place."""
    pitches = dense = copies = places = 0
    for seed in SEEDS:
        graph, views, _ = reduced.reduced(reduced.random_graph(seed))
        pitches += sum(view.pitch > 0 for view in views.values())
        dense += sum(view.at > 0 and not view.pitch for view in views.values())
        copies += sum(op.name.endswith(".copy") for op in graph.ops)
        for op in graph.ops:
            y = views.get(op.outputs[0])
            places += y is not None and any(
                x in views and views[x] == y or x is y.root and not y.at for x in op.inputs)
    assert min(pitches, dense, copies, places) > 20, (pitches, dense, copies, places)


def packed(graph: Graph, precision: str, without=()) -> np.ndarray:
    data, _ = Stages(graph, without=without).encode(precision, precision)
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("seed", ON_DEVICE)
def test_same_numbers_on_the_device(device, seed, precision):
    """With all reductions and with none, bit for bit."""
    found = {}
    for without in ((), reductions.NAMES):
        graph = reduced.random_graph(seed, batch=1 + seed % 5 // 4)
        inputs = inputs_of(graph, seed)
        model = loader.from_bytes(packed(graph, precision, without), "test")
        with Session(model, device) as session:
            found[without] = run_guarded(session, inputs), model.plan.arena_bytes
    (one, small), (other, large) = found.values()
    for name, values in other.items():
        assert np.array_equal(one[name], values, equal_nan=True), name
    assert small <= large


def test_names_are_checked():
    from edgerun.errors import InputError
    with pytest.raises(InputError, match="reduction 'magic' is not available"):
        reductions.check(["views", "magic"])
