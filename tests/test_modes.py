"""One file, several precisions: switched between runs, equal to files of one precision, cheap."""
from __future__ import annotations

import json

import numpy as np
import pytest

import edgerun
from edgerun import InputError, ModelError, loader, modes
from edgerun.__main__ import main
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.stream import Stream
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests import mutate, page_cache
from tests.plane_networks import IMAGE, LAYERS, inputs, levels_of, network, packed, planes_of

LOW = {name: low for name, _, _, low in LAYERS}
HIGH = {name: planes for name, planes, _, _ in LAYERS}
WIDE = (("conv", 8, "twos", 4), ("point", 8, "twos", 4), ("dense", 8, "twos", 4))


def model_of(data: bytes):
    return loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


def session_of(device, graph, **more) -> Session:
    return Session(model_of(packed(graph)), device, **more)


@pytest.fixture(scope="module")
def good() -> bytes:
    return packed(network())


@pytest.fixture(params=("chain", "launches", "buffer"))
def route(request, device, monkeypatch):
    from edgerun.command_buffer import has
    if request.param == "buffer" and not has(device):
        pytest.skip("the driver has no command buffers")
    monkeypatch.setenv("EDGERUN_ROUTE", request.param)
    return request.param


@pytest.mark.parametrize("rows", ["all", "modes"])
def test_modes_equal_files_of_one_precision(device, rows):
    """1,000 runs that alternate have the bits of two files that have the planes of one mode only;
    and what the reference gives."""
    with session_of(device, network(rows=rows)) as both, \
            session_of(device, network(LOW, rows)) as low, \
            session_of(device, network(HIGH, rows)) as high:
        fed = [inputs(seed) for seed in range(4)]
        expected = {name: [single.run(x)["y"] for x in fed]
                    for name, single in (("low", low), ("high", high))}
        for name in expected:
            np.testing.assert_array_equal(
                expected[name][0], reference.execute(network(rows=rows), fed[0], name)["y"])
        assert not np.array_equal(expected["low"][0], expected["high"][0])
        for number in range(1000):
            name = ("low", "high")[number % 2]
            both.set_precision(name)
            found = both.run(fed[number % 4])["y"]
            assert np.array_equal(found, expected[name][number % 4]), f"run {number}, {name}"


def test_a_second_mode_costs_little():
    """What a file of both modes has beyond one of the highest: less than 2 %, for real widths."""
    shape = dict(width=128, image=(1, 12, 12, 96))
    both = len(packed(network(rows="modes", **shape)))
    high = len(packed(network(HIGH, "last", **shape)))
    assert high < both < 1.02 * high


@pytest.mark.parametrize("bits", range(9))
def test_bits(device, bits):
    """A number of bits counts so many planes of each op, all of those that have fewer."""
    with session_of(device, network(), precision=bits) as session:
        assert session.planes == {name: min(bits, planes) for name, planes in HIGH.items()}
        assert session.precision == ("high" if bits == 8 else bits)
        single = network({name: min(bits, planes) for name, planes in HIGH.items()})
        np.testing.assert_array_equal(session.run(inputs())["y"],
                                      reference.execute(single, inputs())["y"])


def test_precision_of_some_ops(device):
    with session_of(device, network()) as session:
        assert (session.modes, session.precision, session.planes) == (("low", "high"), "high", HIGH)
        session.set_precision("low", ops="conv")
        assert session.planes == HIGH | {"conv": 4} and session.precision == "mixed"
        session.set_precision(2, ops=["point", "dense"])
        assert session.planes == {"conv": 4, "point": 2, "dense": 2}
        expected = reference.execute(network(session.planes), inputs())["y"]
        np.testing.assert_array_equal(session.run(inputs())["y"], expected)
        session.set_precision("low")
        assert session.precision == "low"


def test_every_route_reads_the_counts(device, route):
    """Whichever way launches reach the device, a switch shows in the next run."""
    with session_of(device, network(), precision="low") as session:
        assert session.route.name == route
        for name in ("low", "high", "low"):
            session.set_precision(name)
            np.testing.assert_array_equal(session.run(inputs())["y"],
                                          reference.execute(network(), inputs(), name)["y"])


def test_switching_creates_nothing(device, monkeypatch):
    """A switch makes no OpenCL object, and no launch, copy or map either."""
    import pyopencl as cl
    with session_of(device, network()) as session:
        before, commands = dict(device.created), []

        def forbidden(*_, **__):
            raise AssertionError("an OpenCL object was created")
        for name in ("Buffer", "Program", "Kernel", "CommandQueue", "Context", "Image"):
            monkeypatch.setattr(cl, name, forbidden)
        for name in ("enqueue_nd_range_kernel", "enqueue_copy", "enqueue_map_buffer"):
            real = getattr(cl, name)
            monkeypatch.setattr(cl, name, lambda *args, real=real, **more: (
                commands.append(real), real(*args, **more))[1])
        counts = []
        for precision in ("high", "low", 5, "high"):
            done = len(commands)
            session.set_precision(precision)
            assert len(commands) == done
            session.run(inputs())
            counts.append(len(commands) - done)
        assert len(set(counts)) == 1 and device.created == before


def test_modes_of_a_shared_arena(device):
    """Sessions of one arena have precisions of their own, however they take turns."""
    data = model_of(packed(network()))
    with edgerun.Arena(data.plan.arena_bytes, device) as arena, \
            Session(data, device, arena=arena, precision="low") as low, \
            Session(data, device, arena=arena) as high:
        for _ in range(3):
            for name, session in (("low", low), ("high", high)):
                np.testing.assert_array_equal(session.run(inputs())["y"],
                                              reference.execute(network(), inputs(), name)["y"])


def test_modes_of_a_mapped_arena(device, monkeypatch):
    """Where the host reaches the arena only by mapping it, the counts are mapped too."""
    from edgerun.memory import Buffers
    monkeypatch.setattr(Buffers, "_coherent", lambda self: False)
    with session_of(device, network()) as session:
        assert session.arena.host is None
        for name in ("low", "high"):
            session.set_precision(name)
            np.testing.assert_array_equal(session.run(inputs())["y"],
                                          reference.execute(network(), inputs(), name)["y"])


def test_modes_of_a_stream(device):
    """A stream's steps have the precision that its session has then."""
    graph = network()
    state = graph.input("state", (1, 10), "fp32")
    y = graph.add("binary", [graph.outputs[0].tensor, state], "sum", kind="add")
    graph.output("next", y)
    with session_of(device, graph) as session:
        stream, total = Stream(session, {"next": "state"}), np.zeros((1, 10), np.float32)
        for name in ("low", "high", "low"):
            session.set_precision(name)
            found = stream.run(inputs())
            expected = reference.execute(network(), inputs(), name)["y"]
            np.testing.assert_array_equal(found["y"], expected)
            total = total + expected
        stream_next = session.run(inputs() | {"state": total})["next"]
        np.testing.assert_array_equal(stream_next, total + expected)


@pytest.mark.parametrize("precision, ops, message", [
    ("medium", None, r"no mode 'medium': needed one of 'low', 'high', or a number of bits"),
    (9, None, r"a precision of 9 bits: its weights have 8 planes at most, needed 0 to 8"),
    (-1, None, r"a precision of -1 bits"),
    (True, None, r"a precision of True: needed the name of a mode"),
    (2.5, None, r"a precision of 2.5: needed the name of a mode or a whole number"),
    ("low", ["conv", "pool"], r"no op 'pool' with planes of weights: needed some of 'conv', "
                              r"'dense', 'point'"),
])
def test_wrong_precision(device, precision, ops, message):
    """Nothing of a refused switch takes effect."""
    with session_of(device, network()) as session:
        with pytest.raises(InputError, match=message):
            session.set_precision(precision, ops)
        assert session.planes == HIGH


def test_precision_without_levels(device):
    """A file keeps the constants of its modes only, and refuses other numbers of planes."""
    with session_of(device, network(rows="modes")) as session:
        session.set_precision("low")
        with pytest.raises(InputError, match=r"a precision of 5 bits: of the planes of "
                                             r"planes_conv2d 'conv' one of \(4, 8\) may count"):
            session.set_precision(5)
        assert session.precision == "low"


def test_a_file_without_planes(device):
    from tests.test_session import small
    with session_of(device, small()) as session:
        assert (session.modes, session.precision, session.planes) == ((), None, {})
        with pytest.raises(InputError, match="has no planes of weights: it runs in the one"):
            session.set_precision(4)


def test_planes_lie_in_the_order_in_which_they_count(good):
    """All first planes, then all second ones: a lower precision is a prefix of the segment."""
    model = model_of(good)
    segment = next(s for s in model.segments if s.dtype == "bits")
    assert len(segment.parts) == 8 and sum(p.bytes for p in segment.parts) == len(segment.data)
    ends = np.cumsum([part.bytes for part in segment.parts])
    for op in model.ops:
        for number, held in enumerate(modes.planes_of(op)):
            for tensor in held:
                assert tensor.offset + tensor.bytes <= ends[number]
                assert tensor.offset >= (ends[number - 1] if number else 0)


@pytest.mark.parametrize("width, layers, pages", [(24, LAYERS, 0), (256, LAYERS[:1], 1)])
def test_parts_follow_each_other(width, layers, pages):
    """Without padding; but a vector that is loaded behind a part stays on a page of that part."""
    image = (1, 3, 3, 256) if pages else IMAGE
    model = model_of(packed(network(width=width, layers=layers, image=image)))
    found = next(s for s in model.segments if s.dtype == "bits")
    ends, size = np.cumsum([part.bytes for part in found.parts]), 0
    for tensor in model.tensors:
        if tensor.dtype == "bits":
            reach = tensor.offset + tensor.bytes + 60
            end = ends[np.searchsorted(ends, tensor.offset, "right")]
            assert reach <= -(-end // 4096) * 4096 and reach <= ends[-1]
            size += -(-tensor.bytes // 64) * 64
            assert (tensor.bytes % 4096 == 0) == bool(pages)
    # spare bytes at the end, and behind a first part of whole pages
    assert len(found.data) == size + 64 * (1 + pages)


def test_equal_planes_are_stored_once():
    """A plane of zeros lies where it is needed first, and a mode reads a prefix all the same."""
    graph = network()
    for op in graph.ops:
        if op.name == "conv":
            for index in (5, 7, 9):
                op.inputs[index].data[:] = 0
    model = model_of(packed(graph))
    conv = next(op for op in model.ops if op.name == "conv")
    assert len({conv.inputs[index].offset for index in (5, 7, 9)}) == 1
    with_zeros = next(s for s in model.segments if s.dtype == "bits")
    assert len(with_zeros.data) < len(next(s for s in model_of(packed(network())).segments
                                           if s.dtype == "bits").data)


def segment(root: dict) -> dict:
    return next(s for s in root["segments"] if s["dtype"] == "bits")


def tensor(graph: dict, name: str) -> dict:
    return next(t for t in graph["tensors"] if t["name"].startswith(name))


def swapped(graph: dict) -> None:
    op = next(op for op in graph["ops"] if op["name"] == "conv")
    op["inputs"] = [*op["inputs"][:3], *op["inputs"][:2:-1]]


def _parts(root, change) -> None:
    parts = segment(root)["parts"]
    change(parts)


REFUSED = {
    "no parts": (lambda r, g: segment(r).update(parts=[]),
                 r"segment \d \(bits\): has 0 parts, needed at least one"),
    "parts of another segment": (
        lambda r, g: next(s for s in r["segments"] if s["dtype"] == "fp32").update(
            parts=segment(r)["parts"][:1]),
        r"segment \d \(fp32\): has 1 parts, needed none: it has no bits"),
    "too many parts": (lambda r, g: _parts(r, lambda p: p.extend(p[:1] * 16)),
                       r"has 24 parts, at most 16"),
    "an empty part": (lambda r, g: _parts(r, lambda p: p[2].update(bytes=0)),
                      r"part 2 has 0 bytes, needed a multiple of 64"),
    "a part between words": (lambda r, g: _parts(r, lambda p: p[2].update(bytes=96)),
                             r"part 2 has 96 bytes, needed a multiple of 64"),
    "parts that end early": (lambda r, g: _parts(r, lambda p: p.pop()),
                             r"has parts of \d+ bytes together, needed its \d+"),
    "a wrong checksum of a part": (
        lambda r, g: _parts(r, lambda p: p[3].update(crc32=p[3]["crc32"] ^ 1)),
        r"the checksum of part 3 of the bits segment does not match"),
    "planes in another order": (
        lambda r, g: swapped(g),
        r"op 0 \(planes_conv2d 'conv'\): plane 0, 'conv.plane7.*', ends in part 7 of its segment, "
        r"needed one of the first 1"),
    "a plane of another shape": (
        lambda r, g: tensor(g, "conv.plane2").update(shape=[23, 2]),
        r"conv.plane2\S* has the shape \(23, 2\), needed \(24, 2\)"),
    "a plane in rows": (lambda r, g: tensor(g, "conv.plane2").update(layout="rows"),
                        r"has the layout rows, needed oc16"),
    "a plane of no bits": (
        lambda r, g: tensor(g, "conv.plane2").update(
            dtype="fp32", segment=[s["dtype"] for s in r["segments"]].index("fp32"), offset=0),
        r"conv.plane2\S* is fp32, needed bits"),
    "used is real": (lambda r, g: [t.update(dtype="fp32") for t in g["tensors"]
                                   if "used" in t["name"]],
                     r"the number of planes: is fp32 of the shape \(3,\), needed int32"),
    "used is a table": (lambda r, g: tensor(g, "used").update(shape=[3, 1]),
                        r"the number of planes: is int32 of the shape \(3, 1\), needed int32 of "
                        r"one dimension"),
    "used does not exist": (lambda r, g: g.update(used=999),
                            r"the number of planes is tensor 999"),
    "used is an alias": (
        lambda r, g: g.update(used=next(i for i, t in enumerate(g["tensors"])
                                        if t["name"] == "conv.used")),
        r"the number of planes: is a constant or an alias"),
    "used is a constant": (
        lambda r, g: g.update(used=next(i for i, t in enumerate(g["tensors"])
                                        if t["name"] == "conv.levels")),
        r"the number of planes: is a constant or an alias"),
    "used is an input": (lambda r, g: g["inputs"].append(
        {"name": "n", "tensor": g["used"], "shape": [3], "dtype": "int32"}),
        r"writes 'used' a second time"),
    "used is short": (lambda r, g: tensor(g, "used").update(shape=[2]),
                      r"outside of 'used'"),
    "used is longer than its readers": (
        lambda r, g: tensor(g, "used").update(shape=[4]),
        r"the number of planes 3 of 'used': no op reads it"),
    "no used": (lambda r, g: g.update(used=-1),
                r"the graph: has 2 modes, and no tensor that says how many planes count"),
    "no modes": (lambda r, g: g.update(modes=[]),
                 r"the graph: has no mode, needed at least one"),
    "too many modes": (lambda r, g: g.update(modes=[
        {"name": f"m{k}", "planes": [4, 3, 2]} for k in range(257)]),
        r"has 257 modes, at most 256"),
    "a mode without a name": (lambda r, g: g["modes"][0].update(name=""),
                              r"mode '': needed a name of 1 to 4096 characters"),
    "a mode named by a number": (lambda r, g: g["modes"][0].update(name="4"),
                                 r"mode '4': needed a name of .* that is no number"),
    "a mode named mixed": (lambda r, g: g["modes"][0].update(name="mixed"),
                           r"mode 'mixed': needed another name"),
    "a mode given twice": (lambda r, g: g["modes"][0].update(name="high"),
                           r"mode 'high': is given twice"),
    "a mode of few ops": (lambda r, g: g["modes"][0].update(planes=[4, 3]),
                          r"mode 'low': says how many planes count for 2 ops, needed 3"),
    "a mode of too many planes": (lambda r, g: g["modes"][1].update(planes=[8, 8, 6]),
                                  r"mode 'high': uses 8 planes of planes_conv2d 'point', needed "
                                  r"one of \(0, 1, 2, 3, 4, 5, 6, 7\)"),
    "bits at the boundary": (lambda r, g: g["inputs"][0].update(dtype="bits"),
                             r"input 'x': is bits, which only ops read"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_refused(good, change, message):
    with pytest.raises(ModelError, match=message):
        model_of(mutate.changed(good, change))


def test_counts_of_ops_are_found_once(good, monkeypatch):
    """And not for each mode again: a small file could keep its reader busy for minutes."""
    asked, counts_of = [], modes.counts_of
    monkeypatch.setattr(modes, "counts_of", lambda op: (asked.append(op.name), counts_of(op))[1])
    assert len(model_of(mutate.changed(good, lambda r, g: g.update(modes=[
        {"name": f"m{k}", "planes": [4, 3, 2]} for k in range(256)]))).modes) == 256
    assert sorted(asked) == sorted(HIGH)


def test_bits_in_another_op_are_refused():
    graph = Graph("bits")
    x = graph.input("x", (1, 4, 4, 40), "fp32")
    graph.add("transpose", [graph.add("binarize", [x], "b")], "t", perm=(0, 2, 1, 3))
    graph.output("y", graph.add("unary", [x], "u", kind="abs"))
    with pytest.raises(ModelError, match=r"op 1 \(transpose 't'\): has 'b', which is bits: it has "
                                         r"no words of bits"):
        model_of(packed(graph))


def test_a_mode_without_levels_is_refused():
    data = packed(network(rows="modes"))
    with pytest.raises(ModelError, match=r"mode 'low': uses 5 planes of planes_conv2d 'conv', "
                                         r"needed one of \(4, 8\)"):
        model_of(mutate.changed(data, lambda r, g: g["modes"][0].update(planes=[5, 3, 2])))


def late() -> Graph:
    """Planes whose number is read by the third op, when the bytes of the input are free again."""
    graph = Graph("late")
    x = graph.add("unary", [graph.input("x", (1, 40), "fp32")], "first", kind="abs")
    x = graph.quantize(x, "uint8", Quantization.per_tensor(0.01, 0), "second")
    used = graph.used("third")
    planes = [graph.constant(p, "plane", "bits") for p in planes_of("third", 10, 40, 8, "twos")]
    graph.output("y", graph.add(
        "planes_dense", [x, graph.constant(levels_of("third", 10, 40, 8), "levels"), used, *planes],
        "third", signs="twos"))
    graph.modes = {"low": {used: 3}, "high": {}}
    return graph


def test_counts_live_from_the_start(device):
    """The session writes them with the inputs: until they are read, no tensor may lie there."""
    fed = {"x": np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)}
    with session_of(device, late()) as session:
        for name in ("low", "high"):
            session.set_precision(name)
            np.testing.assert_array_equal(session.run(fed)["y"],
                                          reference.execute(late(), fed, name)["y"])


def test_counts_over_a_tensor_are_refused():
    def change(root: dict, graph: dict) -> None:
        for name in ("used", "third.used"):
            tensor(graph, name)["offset"] = tensor(graph, "first")["offset"]
    with pytest.raises(ModelError, match=r"'used' at bytes .* overlaps '\w+' at .* while both are "
                                         r"needed at op (-1|0)"):
        model_of(mutate.changed(packed(late()), change))


def test_pages_of_other_planes_stay_cold(device, tmp_path):
    """From a cold file, low precisions read the pages of their planes only: bytes as bits."""
    image = (1, 8, 8, 256)
    data = packed(network(layers=WIDE, width=256, image=image))
    for bits in (2, 4, 8):
        path = tmp_path / f"{bits}.edge"
        path.write_bytes(data)
        page_cache.drop(path)
        with edgerun.load(path, device, check_weights=False, precision=bits) as session:
            page_cache.need_in_place(session)
            session.run(inputs(0, image))
            found = page_cache.resident(path)
            planes = next(s for s in session.model.segments if s.dtype == "bits")
        sizes, start = np.cumsum([part.bytes for part in planes.parts]), planes.file_offset
        assert abs(sizes[bits - 1] / sizes[-1] - bits / 8) <= 0.05 * bits / 8
        read = page_cache.whole(found, start, start + int(sizes[bits - 1]))
        # on the last page there is also the length of what follows in the file
        left = page_cache.whole(found, start + int(sizes[bits - 1]), start + int(sizes[-1]))
        assert len(read) > 0 and read.mean() >= page_cache.MOST
        assert not left.any(), f"{bits} bits read pages of other planes"


def test_a_switch_upwards_reads_the_rest(device, tmp_path):
    """What a higher precision needs comes in with the switch, and results are right."""
    path = tmp_path / "cold.edge"
    path.write_bytes(packed(network()))
    page_cache.drop(path)
    with edgerun.load(path, device, check_weights=False, precision="low") as session:
        for name in ("low", "high", "low"):
            session.set_precision(name)
            np.testing.assert_array_equal(session.run(inputs())["y"],
                                          reference.execute(network(), inputs(), name)["y"])


def test_reports_tell_modes(good, tmp_path, capsys, device):
    """info, memory and bench tell what modes there are and what each reads."""
    path, fed = tmp_path / "m.edge", tmp_path / "in.npz"
    path.write_bytes(good)
    np.savez(fed, **inputs())
    found = modes.described(model_of(good))
    assert [(entry["name"], entry["planes"]) for entry in found] == [("low", LOW), ("high", HIGH)]
    shapes = {"conv": (24, 2), "point": (33, 1), "dense": (10, -(-33 * 63 // 32))}
    for entry, counts in zip(found, (LOW, HIGH)):
        assert entry["plane_bytes"] == sum(
            4 * np.prod(shapes[name]) * counts[name] * (2 if name == "dense" else 1)
            for name in shapes)
    assert main(["info", str(path)]) == 0
    assert "high (default)" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modes"] == found
    assert main(["memory", str(path), "--no-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["planned"]["modes"] == found
    with session_of(device, network(), precision="low") as session:
        report = session.memory()
        assert report.allocated["precision"] == "low" and "precision low" in report.text()
        low = {entry.name: entry.bytes for entry in session.profile(inputs())
               if entry.macs}
        session.set_precision("high")
        high = {entry.name: entry.bytes for entry in session.profile(inputs()) if entry.macs}
    for name, (outputs, words) in shapes.items():
        planes = (HIGH[name] - LOW[name]) * (2 if name == "dense" else 1)
        assert high[name] - low[name] == 4 * outputs * words * planes


def test_command_line(good, tmp_path, capsys, device):
    path, fed, out = tmp_path / "m.edge", tmp_path / "in.npz", tmp_path / "out.npz"
    path.write_bytes(good)
    np.savez(fed, **inputs())
    for mode in ("low", "high", "5"):
        assert main(["run", str(path), "--inputs", str(fed), "--outputs", str(out), "--mode", mode,
                     "--device", device.info.platform]) == 0
        counts = {"low": LOW, "high": HIGH,
                  "5": {name: min(5, planes) for name, planes in HIGH.items()}}[mode]
        np.testing.assert_array_equal(
            np.load(out)["y"], reference.execute(network(counts), inputs())["y"])
    assert main(["bench", str(path), "--mode", "low", "--runs", "2", "--warmup", "0", "--device",
                 device.info.platform]) == 0
    assert main(["memory", str(path), "--mode", "low", "--device", device.info.platform]) == 0
    assert "runs have the precision low" in capsys.readouterr().out
    assert main(["run", str(path), "--inputs", str(fed), "--outputs", str(out), "--mode", "x",
                 "--device", device.info.platform]) == 1
    assert "no mode 'x'" in capsys.readouterr().err
    assert main(["bench", str(path), "--cold", "--mode", "low"]) == 1
    assert main(["memory", str(path), "--no-run", "--mode", "low"]) == 1
    assert "--mode does not go with --no-run" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 3])
def test_modes_of_experts(device, tmp_path, batch):
    """Chosen experts have the precision of the session, and the bits of all that run."""
    from tests import moe_networks
    path = moe_networks.packed(tmp_path, moe_networks.network(batch), "int8", "m", bits=6,
                               modes={"low": 3, "high": 6})
    with edgerun.load(path, device, check_weights=False, precision="low") as session:
        assert len(session.planes) > 2 * moe_networks.EXPERTS
        image, seen = moe_networks.images(batch)[0], []
        for name in ("low", "high", "low"):
            session.set_precision(name)
            found = session.run(moe_networks.feed(session, image))["y"]
            session.experts.every = True
            np.testing.assert_array_equal(
                found, session.run(moe_networks.feed(session, image))["y"])
            session.experts.every = False
            seen.append(found)
        np.testing.assert_array_equal(seen[0], seen[2])
        assert not np.array_equal(seen[0], seen[1])


def test_tuning_measures_all_planes(device):
    """What no session writes while an op is tuned is the number of its planes."""
    from edgerun.regions import region_of
    from edgerun.tune import measure
    with session_of(device, network()) as session:
        op = session.model.ops[0]
        bench = measure.Bench(device, op, session._weights, np.random.default_rng(0))
        try:
            held = bench._images[region_of(op.inputs[2])][measure.GUARD:-measure.GUARD]
            assert held.view(np.int32).tolist() == [8]
        finally:
            bench.close()
