"""Strips of rows on devices: the numbers of whole images, streamed inputs, hostile pieces."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun import InputError, ModelError, loader, memory_map, routes
from edgerun.command_buffer import has
from edgerun.info import describe, describe_text
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.stepper import Stepper
from edgerun.timing import bench
from edgerun.tools import patch
from edgerun.tools.graph import Graph, copy_of
from edgerun.trace import trace
from edgerun.validate import lifetimes
from tests import mutate
from tests.models import save
from tests.patch_networks import Network, feed
from tests.tools.pass_checks import conv

PADDED = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}


def session_of(graph: Graph, folder: Path, device, name: str = "m.edge") -> Session:
    return Session(loader.read(save(copy_of(graph), folder / name)), device)


def random_pair(number: int) -> tuple[Graph, Graph]:
    """A random network, and the same with its first ops in strips of a streamed input."""
    for seed in range(1000 * (number + 1), 1000 * (number + 2)):
        graph = Network(seed, bool(number % 2), 5).graph
        able = [*map(patch.can_cut, graph.ops), False]
        cut = copy_of(graph)
        try:
            patch.cut(cut, patch.Stage(0, able.index(False) - 1, 2 + number % 3, streamed=True))
        except ValueError:  # averages of few rows; test_patch of the tools says which
            continue
        if cut.inputs[0].pieces:
            return graph, cut
    raise AssertionError("no network can be cut")


@pytest.mark.parametrize("number", range(8))
def test_random_networks(device, tmp_path, number):
    """Strips of the first ops, streamed: the same numbers as from whole images, to the last bit."""
    graph, cut = random_pair(number)
    given = feed(graph)
    with session_of(graph, tmp_path, device) as session:
        expected = session.run(given)
    with session_of(cut, tmp_path, device, "strips.edge") as session:
        assert session.inputs[0].pieces
        found = session.run(given)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def layers(dtype: str = "fp32", source: str = "") -> Graph:
    """Two convolutions over an input of 24 rows; `source` is the dtype that callers give."""
    graph = Graph("layers", "layers.onnx")
    x = graph.input("x", (1, 24, 6, 3), dtype)
    if dtype != "fp32":
        x.quantization = Quantization.per_tensor(0.05, 100)
        real = graph.add("dequantize", [x], dtype="fp32")
    else:
        real = x
    y = conv(graph, real, 8, seed=1, stride_h=2, stride_w=2, **PADDED)
    y = conv(graph, y, 5, seed=2, **PADDED)
    graph.output("y", y)
    graph.inputs[0].dtype = source or dtype
    return graph


def strips(graph: Graph, count: int = 4) -> Graph:
    cut = copy_of(graph)
    patch.cut(cut, patch.Stage(0, len(cut.ops) - 1, count, streamed=True))
    return cut


def images(count: int = 3, dtype=np.float32, shape=(1, 24, 6, 3)) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    if dtype == np.float32:
        return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return [rng.integers(low, high + 1, shape).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("route", routes.NAMES)
def test_every_route(device, tmp_path, monkeypatch, route):
    """Pieces come between parts of the launches, whatever those are."""
    if route == "buffer" and not has(device):
        route = "launches"
    graph, given = layers(), images()
    with session_of(graph, tmp_path, device) as session:
        expected = [session.run({"x": x})["y"] for x in given]
    monkeypatch.setenv("EDGERUN_ROUTE", route)
    with session_of(strips(graph), tmp_path, device, "strips.edge") as session:
        assert session.route.name == route and len(session.parts) == 4
        assert [n for part in session.parts for n in part] == list(range(len(session.prepared)))
        for _ in range(2):
            for x, y in zip(given, expected):
                np.testing.assert_array_equal(session.run({"x": x})["y"], y)
        session.write(session.check({"x": given[1]}))
        session.enqueue()
        np.testing.assert_array_equal(session.read()["y"], expected[1])
        assert len(session.profile({"x": given[0]})) == len(session.prepared)
        stepper = Stepper(session)
        stepper.start({"x": given[2]})
        stepper.run(0, 3)
        stepper.run(3, stepper.count)
        np.testing.assert_array_equal(session.read()["y"], expected[2])


@pytest.mark.parametrize("perm", [(), (0, 2, 3, 1)])
@pytest.mark.parametrize("dtype, source", [
    ("fp32", "fp32"), ("fp32", "fp64"), ("uint8", "uint8"), ("uint8", "int8"), ("uint8", "fp32")])
def test_dtypes_and_orders_of_the_boundary(device, tmp_path, perm, dtype, source):
    graph = layers(dtype, source)
    if perm:
        graph.inputs[0].perm, graph.inputs[0].shape = perm, (1, 3, 24, 6)
    kind = {"fp64": np.float32, "fp32": np.float32, "uint8": np.uint8, "int8": np.int8}[source]
    given = images(2, kind, graph.inputs[0].shape)
    if source == "fp64":
        given = [x.astype(np.float64) for x in given]
    with session_of(graph, tmp_path, device) as whole, session_of(
            strips(graph), tmp_path, device, "strips.edge") as session:
        assert session.inputs[0].shape == graph.inputs[0].shape
        assert session.inputs[0].scale == whole.inputs[0].scale
        for x in given:
            np.testing.assert_array_equal(session.run({"x": x})["y"], whole.run({"x": x})["y"])


def test_fp16_storage(device, tmp_path):
    graph = layers()
    with Session(loader.read(save(copy_of(graph), tmp_path / "a.edge", "fp16")), device) as session:
        expected = session.run({"x": images(1)[0]})["y"]
    with Session(loader.read(save(strips(graph), tmp_path / "b.edge", "fp16")), device) as session:
        np.testing.assert_allclose(session.run({"x": images(1)[0]})["y"], expected, atol=0.02)


def test_trace_yields_pieces(device, tmp_path):
    x, = images(1)
    graph = strips(layers())
    rows = {piece.name: (row, piece.shape[1]) for piece, row in graph.inputs[0].pieces}
    with session_of(graph, tmp_path, device) as session:
        seen = {tensor.name: array.copy() for tensor, array in trace(session, {"x": x})}
        assert {*rows} <= {*seen} and len(rows) == 4
        for name, (first, count) in rows.items():
            np.testing.assert_array_equal(seen[name], x[:, first:first + count])


def test_arrays_are_kept_until_the_end_of_the_run_only(device, tmp_path):
    import gc
    import weakref
    x, = images(1)
    alive = weakref.ref(x)
    with session_of(strips(layers()), tmp_path, device) as session:
        with pytest.raises(InputError, match="'x': is streamed, and there is no array"):
            session.enqueue()
        session.run({"x": x})
        del x
        gc.collect()
        assert alive() is None
        with pytest.raises(InputError, match="there is no array"):
            session.enqueue()
        with pytest.raises(InputError, match="needed"):
            session.run({"x": images(1)[0][:, :5]})


def test_reports_know_pieces(device, tmp_path):
    graph = strips(layers())
    with session_of(graph, tmp_path, device) as session:
        model = session.model
        found = describe(model)
        assert found["inputs"][0]["pieces"] == 4 and "in 4 pieces" in describe_text(found)
        blocks = [b for b in memory_map.blocks(model) if b.role == memory_map.INPUT]
        assert len(blocks) == 4 and all(0 <= b.first == b.last for b in blocks)
        planned = session.memory().planned
        assert planned["io_bytes"] == 4 * (24 * 6 * 3 + 12 * 3 * 5)
        assert bench(session, {"x": images(1)[0]}, runs=2).launches == len(session.prepared)


def test_pieces_live_from_their_op_on(tmp_path):
    model = loader.read(save(strips(layers()), tmp_path / "m.edge"))
    spans = lifetimes(model)
    pieces = model.inputs[0].pieces
    assert [spans[piece.tensor] for piece in pieces] == [(p.op, p.op) for p in pieces]
    assert [piece.op for piece in pieces] == sorted(piece.op for piece in pieces)
    held = [model.tensors[piece.tensor] for piece in pieces]
    ends = [(tensor.offset, tensor.offset + tensor.bytes) for tensor in held]
    assert max(end for _, end in ends) < sum(tensor.bytes for tensor in held)  # they share bytes


def pieces(graph: dict) -> list[dict]:
    return graph["inputs"][0]["pieces"]


HOSTILE = {
    "no such tensor": (lambda g: pieces(g)[1].update(tensor=999), "piece 1: is tensor 999"),
    "negative tensor": (lambda g: pieces(g)[1].update(tensor=-1), "piece 1: is tensor -1"),
    "negative row": (lambda g: pieces(g)[1].update(row=-1), "from row -1 on"),
    "rows behind the end": (lambda g: pieces(g)[3].update(row=24), "from row 24 on"),
    "far row": (lambda g: pieces(g)[3].update(row=2**31 - 1), "from row 2147483647 on"),
    "op behind the end": (lambda g: pieces(g)[3].update(op=99), "is copied before op 99"),
    "negative op": (lambda g: pieces(g)[0].update(op=-1), "is copied before op -1"),
    "out of order": (lambda g: pieces(g).insert(1, pieces(g).pop(2)), "is copied before op"),
    "first is another": (lambda g: g["inputs"][0].update(tensor=pieces(g)[1]["tensor"]),
                         "its first piece tensor"),
    "too late": (lambda g: pieces(g)[0].update(op=1), "before anything has written it"),
    "twice": (lambda g: pieces(g).insert(1, dict(pieces(g)[0])), "the inputs: share a tensor"),
    "written by an op": (lambda g: pieces(g)[0].update(tensor=g["ops"][0]["outputs"][0]),
                         "its first piece tensor"),
    "a constant": (lambda g: pieces(g)[1].update(tensor=next(
        i for i, t in enumerate(g["tensors"]) if t["segment"] >= 0)), "is a constant or an alias"),
    "another shape": (lambda g: pieces(g)[1].update(tensor=g["ops"][0]["outputs"][0]),
                      "has the shape"),
    "of an output": (lambda g: g["outputs"][0].update(pieces=pieces(g)[:1]), "only an input"),
    "another dtype": (lambda g: g["tensors"][pieces(g)[1]["tensor"]].update(dtype="int32"),
                      "another dtype"),
    "shared bytes": (lambda g: (g["plan"].update(arena_bytes=2**20), g["tensors"][
        pieces(g)[1]["tensor"]].update(offset=g["tensors"][g["ops"][1]["outputs"][0]]["offset"])),
                     "overlaps"),
    "too many": (lambda g: g["inputs"][0].update(pieces=pieces(g) * 2000), "has 8000 pieces"),
    "a vector": (lambda g: g["inputs"][0].update(shape=[432]), "needed"),
    "long name": (lambda g: g.update(patch={"stages": [{"first": "x" * 5000}]}),
                  "more than 4096 characters"),
    "many stages": (lambda g: g.update(patch={"stages": [{}] * 5000}), "has 5000 stages"),
}


@pytest.fixture(scope="module")
def streamed_file(tmp_path_factory) -> bytes:
    return save(strips(layers()), tmp_path_factory.mktemp("hostile") / "m.edge").read_bytes()


def read(data: bytes):
    return loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


def test_good_file_reads(streamed_file):
    assert read(mutate.changed(streamed_file, lambda root, graph: None)).inputs[0].pieces


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_pieces(streamed_file, what):
    change, message = HOSTILE[what]
    with pytest.raises(ModelError, match=message):
        read(mutate.changed(streamed_file, lambda root, graph: change(graph)))
