"""Malformed model files, named after what is wrong: each is a ModelError, nothing else."""
from __future__ import annotations

import random
import re
import time

import flatbuffers
import numpy as np
import pytest

from edgerun import ModelError, flat, loader
from edgerun.model import Model
from edgerun.tools import blob, layout, plan as planner
from edgerun.tools.graph import Graph
from tests import mutate


@pytest.fixture(scope="module")
def good() -> bytes:
    """A small valid file: two inputs, four ops, constants of two dtypes, a test vector."""
    graph = Graph("small", "small.onnx")
    x = graph.input("x", (2, 3, 5), "fp32")
    z = graph.input("z", (2, 3, 5), "fp32")
    y = graph.add("unary", [x], "first", kind="relu")
    c = graph.constant(np.arange(5, dtype=np.float32), "c")
    y = graph.add("binary", [y, c], "second", kind="mul")
    y = graph.add("binary", [y, z], "third", kind="add", activation="clip", alpha=0, beta=6)
    i = graph.input("i", (4,), "int64")
    n = graph.add("binary", [i, graph.constant(np.int32([1, 2, 3, 4]), "k")], "fourth", kind="add")
    graph.output("y", y)
    graph.output("n", n, "int64")
    plan = planner.plan(graph, {})
    arrays = [np.zeros((2, 3, 5), np.float32)] * 2 + [np.zeros(4, np.int64)]
    expected = [np.zeros((2, 3, 5), np.float32), np.int64([1, 2, 3, 4])]
    return blob.encode(graph, plan, {}, "fp32", [(arrays, expected, 1e-3)])


def read(data: bytes) -> Model:
    return loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


def refused(data: bytes, message: str) -> None:
    """The file is refused with a ModelError that names the file and matches the message."""
    with pytest.raises(ModelError, match=message) as caught:
        read(data)
    assert "m.edge" in str(caught.value)


def tensor(graph: dict, name: str) -> dict:
    return next(t for t in graph["tensors"] if t["name"] == name)


def test_good_file_reads(good):
    model = read(good)
    assert [info.name for info in model.inputs] == ["x", "z", "i"]
    assert [op.name for op in model.ops] == ["first", "second", "third", "fourth"]
    assert model.vectors[0].outputs[1].tolist() == [1, 2, 3, 4]
    assert all(segment.file_offset % 4096 == 0 for segment in model.segments)
    for t in model.tensors:
        if t.constant:
            data = model.segments[t.segment].data[t.offset:t.offset + t.bytes]
            assert len(data) == t.bytes


def test_repacked_file_reads(good):
    """The mutation helper changes nothing: what is refused below is refused for its change."""
    again = read(mutate.repack(*mutate.unpack(good)))
    assert again.tensors == read(good).tensors and again.plan == read(good).plan


def test_empty_file(tmp_path):
    path = tmp_path / "empty.edge"
    path.touch()
    with pytest.raises(ModelError, match="empty.edge: the file is empty"):
        loader.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="nothing.edge: cannot be read: No such file"):
        loader.read(tmp_path / "nothing.edge")


def test_folder_instead_of_file(tmp_path):
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        loader.read(tmp_path)


def test_other_file():
    refused(b"\x08\0\0\0ONNX this is some other file", "is not an edgerun model")


def test_other_flatbuffer(good):
    refused(mutate.repack(*mutate.unpack(good), identifier=b"TFL3"), "identifier b'TFL3'")


@pytest.mark.parametrize("length", [1, 4, 7, 8, 12, 40, 100])
def test_truncated_to_a_few_bytes(good, length):
    refused(good[:length], "m.edge: ")


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_truncated(good, kept):
    refused(good[:int(len(good) * kept)], "m.edge: ")


def test_newer_version(good):
    refused(mutate.changed(good, lambda root, graph: root.update(version=2)),
            "format version 2, this edgerun reads 1: pack the model again")


def test_graph_with_a_flipped_bit(good):
    root, _ = mutate.unpack(good)
    at = good.index(root["graph"].tobytes())
    damaged = bytearray(good)
    damaged[at + 200] ^= 4
    refused(bytes(damaged), "checksum of the graph does not match")


def test_weights_with_a_flipped_bit(good):
    root, _ = mutate.unpack(good)
    at = read(good).segments[0].file_offset
    damaged = bytearray(good)
    damaged[at + 3] ^= 4
    refused(bytes(damaged), "checksum of the fp32 segment does not match")
    loader.from_bytes(np.frombuffer(bytes(damaged), np.uint8), "m", check_weights=False)


def test_test_vector_with_a_flipped_bit(good):
    damaged = bytearray(good)
    at = good.rindex(np.int64([1, 2, 3, 4]).tobytes())
    damaged[at] ^= 4
    refused(bytes(damaged), "test vector 0: the checksum does not match")


def test_oversized_vector_count(good):
    """A count that claims more elements than the file has bytes is refused, not followed."""
    root, graph = mutate.unpack(good)
    data = bytearray(mutate.encode_graph(graph))
    shape = np.int32([3, 2, 3, 5]).tobytes()  # length and elements of x's shape
    at = data.index(shape)
    data[at:at + 4] = np.uint32([0x40000000]).tobytes()
    refused(mutate.repack(root, bytes(data)), "has 1073741824 elements")


def test_too_many_tensors(good, monkeypatch):
    monkeypatch.setattr("edgerun.validate.MAX_TENSORS", 3)
    refused(good, "the graph: has 9 tensors, at most 3 are allowed")


def test_steps_that_add_up(monkeypatch):
    """Each recurrent op has few steps, all of them together too many launches."""
    graph = Graph("steps")
    y = graph.input("p", (3, 1, 4), "fp32")
    for name in ("first", "second"):
        y = graph.add("rnn", [y, graph.constant(np.zeros((4, 4), np.float32), f"w {name}")], name)
    graph.output("y", y)
    layout.apply(graph)
    data = blob.encode(graph, planner.plan(graph, {}), {}, "fp32")
    monkeypatch.setattr("edgerun.validate.MAX_ALL_STEPS", 6)
    read(data)
    monkeypatch.setattr("edgerun.validate.MAX_ALL_STEPS", 5)
    refused(data, "has recurrent ops of 6 steps together, at most 5 are allowed")


def test_offsets_that_multiply(good, monkeypatch):
    """Many references to one table cost time: there is a limit on tables read."""
    monkeypatch.setattr(flat, "MAX_TABLES", 10)
    refused(good, "is one of more than 10 tables")


def test_no_graph():
    builder = flatbuffers.Builder(64)
    builder.Finish(blob.encode_table(builder, "Model", {"version": 1}), b"EDGR")
    refused(bytes(builder.Output()), "the file has 0 bytes, needed at least 8")


def test_shared_bytes_that_multiply(good):
    """A long name that many tensors share is one in the file, and would be many in memory."""
    refused(mutate.changed(good, lambda root, graph: graph["tensors"].extend(
        dict(name="n" * 100_000, shape=[1]) for _ in range(100))), "shares its bytes too often")


def test_many_live_tensors(good):
    """Checks take time in proportion to the file, not to its square."""
    def change(root, graph):
        root["vectors"], first = [], len(graph["tensors"])
        graph["plan"]["arena_bytes"] = 1 << 21
        for i in range(20_000):
            graph["tensors"].append(dict(name=f"t{i}", shape=[1], offset=(1 << 20) + 16 * i))
            graph["inputs"].append(dict(name=f"t{i}", tensor=first + i, shape=[1]))
        graph["plan"]["alignment"] = 16
    data = mutate.changed(good, change)
    start = time.process_time()
    read(data)
    assert time.process_time() - start < 10


CHANGES = {
    "too many boundary tensors": (lambda r, g: g["inputs"].extend([g["inputs"][0]] * 65_536),
                                  "has 65539 inputs, at most 65536"),
    "too many inputs of ops": (lambda r, g: g["ops"].extend(
        [dict(g["ops"][0], code="concat", inputs=[0] * 70_000)] * 4), "op inputs, at most 262144"),
    "no plan": (lambda r, g: g.update(plan=None), "memory plan is missing"),
    "no outputs": (lambda r, g: g.update(outputs=[]), "has no output"),
    "unknown op": (lambda r, g: g["ops"][0].update(code="frobnicate"),
                   "op 0 .*not an op that this"),
    "unknown kind": (lambda r, g: g["ops"][0]["options"][1].update(kind="nope"), "no kind 'nope'"),
    "options of another op": (lambda r, g: g["ops"][0].update(options=("AxisOptions", {})),
                              "has AxisOptions, needed UnaryOptions"),
    "options missing": (lambda r, g: g["ops"][0].update(options=None), "needed UnaryOptions"),
    "tensor index past the end": (lambda r, g: g["ops"][0].update(inputs=[99]), "is tensor 99"),
    "negative tensor index": (lambda r, g: g["ops"][0].update(inputs=[-2]), "is tensor -2"),
    "input left out": (lambda r, g: g["ops"][0].update(inputs=[-1]), "needed 1 to 1"),
    "too many inputs": (lambda r, g: g["ops"][0].update(inputs=[0, 0]), "has 2 inputs"),
    "NaN option": (lambda r, g: g["ops"][2]["options"][1].update(beta=float("nan")),
                   "is not a number"),
    "zero dimension": (lambda r, g: tensor(g, "x").update(shape=[2, 0, 5]), "must be at least 1"),
    "negative dimension": (lambda r, g: tensor(g, "x").update(shape=[2, -3, 5]),
                           "must be at least 1"),
    "too many dimensions": (lambda r, g: tensor(g, "x").update(shape=[1] * 9), "9 dimensions"),
    "shape product overflows": (lambda r, g: tensor(g, "x").update(shape=[2**31 - 1] * 3),
                                "elements, at most"),
    "wrong output shape": (lambda r, g: tensor(g, "first").update(shape=[2, 3, 4]),
                           "its inputs give"),
    "dtype of the boundary only": (lambda r, g: tensor(g, "x").update(dtype="int64"),
                                   "cannot live on a device"),
    "mixed dtypes": (lambda r, g: tensor(g, "x").update(dtype="int32"), "'first'|input 'x'"),
    "layout of an activation": (lambda r, g: tensor(g, "x").update(layout="oc16"), "layout oc16"),
    "offset past the arena": (lambda r, g: tensor(g, "x").update(offset=1 << 40),
                              "of a arena|of a"),
    "offset not aligned": (lambda r, g: tensor(g, "z").update(offset=4), "needed a multiple of 64"),
    "offset wraps": (lambda r, g: tensor(g, "x").update(offset=2**64 - 64), "takes bytes"),
    "constant past its segment": (lambda r, g: tensor(g, "c").update(offset=1 << 20),
                                  "takes bytes"),
    "no room to load whole vectors behind weights": (
        lambda r, g: (tensor(g, "c").update(layout="oc16"),
                      r["segments"][tensor(g, "c")["segment"]].update(data=np.zeros(64, np.uint8))),
        "takes bytes 0 to 20, and 64 behind it"),
    "segment past the end": (lambda r, g: tensor(g, "c").update(segment=7), "is in segment 7"),
    "negative segment": (lambda r, g: tensor(g, "x").update(segment=-5), "is in segment -5"),
    "constant in a segment of another dtype": (
        lambda r, g: tensor(g, "c").update(segment=tensor(g, "k")["segment"]),
        "in a segment of int32"),
    "two segments of one dtype": (lambda r, g: r["segments"].append(r["segments"][0]),
                                  "at most one per dtype"),
    "empty segment": (lambda r, g: r["segments"][0].update(data=np.zeros(0, np.uint8)), "is empty"),
    "overlapping live tensors": (
        lambda r, g: tensor(g, "z").update(offset=tensor(g, "x")["offset"]),
        "overlaps .* while both are needed"),
    "overlap of input and output of one op": (
        lambda r, g: tensor(g, "second").update(offset=tensor(g, "first")["offset"]), "overlaps"),
    "alias past the end": (lambda r, g: tensor(g, "first").update(alias_of=77),
                           "alias of tensor 77"),
    "alias of a constant": (lambda r, g: tensor(g, "first").update(
        alias_of=g["tensors"].index(tensor(g, "c"))), "alias"),
    "alias of another dtype": (lambda r, g: tensor(g, "fourth").update(
        alias_of=0, dtype="bool"), "needed the same dtype"),
    "alias outside of its root": (lambda r, g: tensor(g, "second").update(
        alias_of=0, offset=tensor(g, "x")["offset"] + 4), "outside of 'x', which it is a"),
    "alias before its root": (lambda r, g: tensor(g, "x").update(
        alias_of=g["tensors"].index(tensor(g, "z")), offset=tensor(g, "z")["offset"] - 4),
        "outside of 'z'"),
    "alias between elements": (lambda r, g: tensor(g, "first").update(
        alias_of=0, offset=tensor(g, "x")["offset"] + 2), "needed a multiple of 4"),
    "rows apart, and no alias": (lambda r, g: tensor(g, "first").update(pitch=6),
                                 "has rows 6 elements apart, and is no part"),
    "pitch below the row": (lambda r, g: tensor(g, "first").update(
        alias_of=0, offset=tensor(g, "x")["offset"], pitch=4), "needed more elements than a row"),
    "pitch of 2**32 - 1": (lambda r, g: tensor(g, "first").update(
        alias_of=0, offset=tensor(g, "x")["offset"], pitch=2**32 - 1), "outside of 'x'"),
    "pitch that leaves the root": (lambda r, g: tensor(g, "first").update(
        alias_of=0, offset=tensor(g, "x")["offset"], pitch=6), "outside of 'x'"),
    "input whose rows lie apart": (lambda r, g: tensor(g, "z").update(
        alias_of=0, offset=tensor(g, "x")["offset"], pitch=6, shape=[2, 2, 5]),
        "input 'z': has rows 6 elements apart"),
    "read after something was written over it": (lambda r, g: (
        tensor(g, "second").update(alias_of=0, offset=tensor(g, "x")["offset"]),
        g["ops"][2].update(inputs=[0, g["tensors"].index(tensor(g, "z"))])),
        "reads 'x', of which something was written over"),
    "alias of itself": (lambda r, g: tensor(g, "x").update(alias_of=0), "itself an alias"),
    "arena smaller than its tensors": (
        lambda r, g: g["plan"].update(arena_bytes=64, lower_bound_bytes=0), "takes bytes"),
    "arena of 2**60 bytes": (lambda r, g: g["plan"].update(arena_bytes=2**60), "needs an arena of"),
    "lower bound above the arena": (lambda r, g: g["plan"].update(lower_bound_bytes=2**40),
                                    "above its arena"),
    "alignment 3": (lambda r, g: g["plan"].update(alignment=3), "has alignment 3"),
    "peak op past the end": (lambda r, g: g["plan"].update(peak_op=99), "has its peak at op 99"),
    "op before its input": (lambda r, g: g["ops"].reverse(), "before anything has written it"),
    "tensor written twice": (lambda r, g: g["ops"].append(g["ops"][0]), "a second time"),
    "op writes a constant": (lambda r, g: g["ops"][0].update(
        outputs=[g["tensors"].index(tensor(g, "c"))]), "writes the constant"),
    "output never written": (lambda r, g: g["ops"].pop(),
                             "output 'n': reads 'fourth' before anything has written it"),
    "input declared twice": (lambda r, g: g["inputs"].append(g["inputs"][0]), "is declared twice"),
    "inputs share a tensor": (lambda r, g: g["inputs"][1].update(tensor=0), "share a tensor"),
    "input is a constant": (lambda r, g: (g["inputs"][0].update(
        tensor=g["tensors"].index(tensor(g, "c")), shape=[5])), "is a constant"),
    "output index past the end": (lambda r, g: g["outputs"][0].update(tensor=50), "is tensor 50"),
    "boundary of another shape": (lambda r, g: g["inputs"][0].update(shape=[2, 5, 3]),
                                  r"has the shape \(2, 5, 3\)"),
    "boundary perm is no permutation": (lambda r, g: g["inputs"][0].update(perm=[0, 0, 1]),
                                        "needed a permutation"),
    "boundary of another dtype": (lambda r, g: g["inputs"][0].update(dtype="int64"),
                                  "is int64, its"),
    "scale of zero": (lambda r, g: tensor(g, "x").update(
        quantization={"scale": [0.0], "zero_point": [0], "axis": -1}), "positive finite"),
    "scale not finite": (lambda r, g: tensor(g, "x").update(
        quantization={"scale": [float("inf")], "zero_point": [0], "axis": -1}), "positive finite"),
    "too few zero points": (lambda r, g: tensor(g, "x").update(
        quantization={"scale": [1.0], "zero_point": [], "axis": -1}), "0 zero points"),
    "scales of the wrong axis": (lambda r, g: tensor(g, "x").update(
        quantization={"scale": [1.0], "zero_point": [0], "axis": 5}), "along axis 5"),
    "scratch outside the arena": (lambda r, g: g["ops"][0].update(scratch_bytes=1 << 40),
                                  "outside the arena"),
    "scratch over a live tensor": (lambda r, g: g["ops"][0].update(
        scratch_offset=tensor(g, "x")["offset"], scratch_bytes=64), "overlaps"),
    "name of a megabyte": (lambda r, g: tensor(g, "x").update(name="x" * 2**20), "characters"),
    "test vector too short": (lambda r, g: r["vectors"][0]["inputs"].pop(),
                              "has 2 arrays, needed 3"),
}


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_refused(good, what):
    change, message = CHANGES[what]
    refused(mutate.changed(good, change), message)


def test_random_damage(good):
    """3,000 seeded corruptions of bytes, runs, lengths and order end in success or ModelError."""
    rng = random.Random(20261122)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(3000):
        data = bytearray(good)
        kind = rng.randrange(5)
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(2500, len(data)))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 2:
            data[at:at + 4] = rng.choice(
                [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"])
        elif kind == 3:
            del data[at:at + rng.randrange(1, 64)]
        else:
            other = rng.randrange(len(data))
            data[at:at + 32] = data[other:other + 32]
        outcomes[attempt(bytes(data))] += 1
    assert outcomes["refused"] > 1000


def test_random_damage_behind_right_checksums(good):
    """The same inside the graph with its checksum made right, so that validation is reached."""
    root, graph = mutate.unpack(good)
    whole = mutate.encode_graph(graph)
    rng = random.Random(7)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            else:
                at -= at % 4
                data[at:at + 4] = rng.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f",
                     np.int32([rng.randrange(64)]).tobytes()])
        outcomes[attempt(mutate.repack(root, bytes(data)))] += 1
    assert outcomes["refused"] > 1500


def attempt(data: bytes) -> str:
    try:
        read(data)
        return "read"
    except ModelError as error:
        assert re.match("m.edge: ", str(error)), error
        return "refused"
