"""Views and in-place ops change where tensors lie, and no number."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun import loader, regions
from edgerun.errors import InputError, ModelError
from edgerun.session import Session
from edgerun.tools import calibrate, quantize, reductions, reference
from edgerun.tools.graph import Graph, copy_of
from edgerun.tools.pack import Stages
from tests import mutate, reduced
from tests.harness import run_guarded

SEEDS = range(60)
ON_DEVICE = range(6)


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


def quantized(seed: int, dtype: str) -> tuple[Graph, dict]:
    """A random graph of integers, and inputs."""
    graph = reduced.random_graph(seed, batch=1 + seed % 5 // 4)
    inputs = inputs_of(graph, seed)
    graph = copy_of(graph)
    ranges = calibrate.calibrate(graph, [inputs])
    dtypes = quantize.assign(graph, dtype, [])
    quantize.insert(graph, dtypes, ranges.range)
    return graph, inputs


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("seed", ON_DEVICE)
def test_same_integers_on_the_device(device, seed, dtype):
    """The same for integers."""
    found = {}
    for without in ((), reductions.NAMES):
        graph, inputs = quantized(seed, dtype)
        data, _ = Stages(graph, without=without).encode("fp32", dtype, integers=True)
        model = loader.from_bytes(np.frombuffer(data, np.uint8), "test")
        with Session(model, device) as session:
            found[without] = run_guarded(session, inputs), model.plan.arena_bytes
    (one, small), (other, large) = found.values()
    for name, values in other.items():
        assert np.array_equal(one[name], values, equal_nan=True), name
    assert small <= large


def test_names_are_checked():
    with pytest.raises(InputError, match="reduction 'magic' is not available"):
        reductions.check(["views", "magic"])


def joined(channels: int = 4, height: int = 3, width: int = 5) -> bytes:
    """A file in which two ops write the channels of one tensor, which a third reads."""
    graph = Graph("joined")
    x = graph.input("x", (1, height, width, channels), "fp32")
    parts = [graph.add("unary", [x], name, kind=kind)
             for name, kind in (("left", "relu"), ("right", "abs"))]
    both = graph.add("concat", parts, "both", axis=3)
    graph.output("y", graph.add("unary", [both], "last", kind="neg"))
    return Stages(graph, without=("in-place",)).encode("fp32", "fp32")[0]


def tensor(graph: dict, name: str) -> dict:
    return next(t for t in graph["tensors"] if t["name"] == name)


HOSTILE = {
    "pitch on an op that cannot write it": (
        lambda g: g["ops"][0].update(code="softmax", options=("SoftmaxOptions", {"axis": -1})),
        "its output, 'left', has rows 8 elements apart, needed dense rows"),
    "pitch on an op that cannot read it": (
        lambda g: (g["ops"][2].update(code="softmax", options=("SoftmaxOptions", {"axis": -1}),
                                      inputs=[g["tensors"].index(tensor(g, "left"))]),
                   tensor(g, "last").update(shape=[1, 3, 5, 4]),
                   g["outputs"][0].update(shape=[1, 3, 5, 4])),
        "input 0, 'left', has rows 8 elements apart, needed dense rows"),
    "rows closer than they are long": (lambda g: tensor(g, "left").update(pitch=3),
                                       "needed more elements than a row has"),
    "rows that leave the root": (lambda g: tensor(g, "right").update(pitch=9), "outside of 'both'"),
    "start behind the root": (lambda g: tensor(g, "right").update(
        offset=tensor(g, "both")["offset"] + 480), "outside of 'both'"),
    "start before the root": (lambda g: (
        g["plan"].update(arena_bytes=g["plan"]["arena_bytes"] + 64),
        tensor(g, "both").update(offset=tensor(g, "left")["offset"] + 64)), "outside of 'both'"),
    "parts that overlap": (lambda g: tensor(g, "right").update(
        offset=tensor(g, "both")["offset"] + 8), "nothing has written|something was written over"),
    "parts that overlap by one element": (lambda g: tensor(g, "right").update(
        offset=tensor(g, "both")["offset"] + 12), "of which nothing has written"),
    "a part that nobody writes": (
        lambda g: (g["ops"].pop(1), g["plan"].update(peak_op=0)), "nothing has written 240 bytes"),
    "a part that is read too early": (lambda g: g["ops"].insert(0, g["ops"].pop(2)),
                                      "before anything has written it"),
    "parts with other rows": (lambda g: tensor(g, "right").update(
        shape=[1, 1, 15, 4], pitch=8), "gives|give"),
    "output over its input": (lambda g: tensor(g, "last").update(
        alias_of=g["tensors"].index(tensor(g, "both")), offset=tensor(g, "both")["offset"] + 4,
        shape=[1, 3, 5, 7], pitch=8) or g["outputs"][0].update(shape=[1, 3, 5, 7]),
        "rows 8 elements apart"),
    "output in place of an op that cannot": (
        lambda g: (g["ops"][2].update(code="softmax", options=("SoftmaxOptions", {"axis": -1})),
                   tensor(g, "last").update(alias_of=g["tensors"].index(tensor(g, "both")),
                                            offset=tensor(g, "both")["offset"])),
        "writes 'last' over bytes of 'both', which it needs meanwhile"),
    "an alias of an alias": (lambda g: tensor(g, "last").update(
        alias_of=g["tensors"].index(tensor(g, "left")), offset=tensor(g, "left")["offset"]),
        "itself an alias"),
}


def test_the_pitch_of_a_single_row_is_bounded():
    """It leads nowhere, but kernels get it as an int."""
    def change(pitch):
        return mutate.changed(joined(height=1, width=1),
                              lambda root, graph: tensor(graph, "left").update(pitch=pitch))
    loader.from_bytes(np.frombuffer(change(8), np.uint8), "m.edge")
    for pitch in (9, 2**32 - 1):
        with pytest.raises(ModelError, match=f"rows {pitch} elements apart, outside of 'both'"):
            loader.from_bytes(np.frombuffer(change(pitch), np.uint8), "m.edge")


def test_file_of_views_reads():
    model = loader.from_bytes(np.frombuffer(joined(), np.uint8), "m.edge")
    assert [t.pitch for t in model.tensors if t.name in ("left", "right")] == [8, 8]


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_views_are_refused(what):
    change, message = HOSTILE[what]
    data = mutate.changed(joined(), lambda root, graph: change(graph))
    with pytest.raises(ModelError, match=message) as caught:
        loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")
    assert str(caught.value).startswith("m.edge: ")


@pytest.mark.parametrize("seed", SEEDS)
def test_files_of_random_graphs_are_valid(seed):
    loader.from_bytes(packed(reduced.random_graph(seed, ops=20), "fp32"), "test")


def test_more_views_than_can_be_compared(monkeypatch):
    monkeypatch.setattr(regions, "MAX_COMPARED", 2)
    with pytest.raises(ModelError, match="too many tensors share their bytes"):
        loader.from_bytes(np.frombuffer(joined(), np.uint8), "m.edge")


regions_of = st.builds(
    lambda start, rows, width, apart: regions.Region(start, rows, width, width + apart),
    st.integers(0, 40), st.integers(1, 6), st.integers(1, 9), st.integers(0, 9))


@given(regions_of, regions_of)
@settings(max_examples=500)
def test_shared_counts_bytes(a, b):
    """Against sets of bytes."""
    one, other = ({r.start + row * r.pitch + k for row in range(r.rows) for k in range(r.width)}
                  for r in (a, b))
    found = regions.shared(a, b)
    if found is None:
        assert a.pitch != b.pitch and a.rows > 1 and b.rows > 1
    else:
        assert found == regions.shared(b, a) == len(one & other)
