"""Tuning launches on a device: what counts, what is kept, and what is never trusted."""
from __future__ import annotations

import dataclasses
import itertools
import json
import struct
import subprocess

import numpy as np
import pytest

from edgerun import loader, tune, tuning
from edgerun.__main__ import main
from edgerun._paths import folder
from edgerun.errors import InputError, ModelError
from edgerun.model import Choice
from edgerun.ops import OPS, Facts, _tile
from edgerun.ops._base import Key, Variant
from edgerun.quantization import Quantization, fixed_point
from edgerun.session import Session
from edgerun.tools import blob, layout, passes, plan as planner, reference
from edgerun.tools.graph import Graph
from edgerun.tools.precision import convert
from edgerun.tune import into_model, measure, tuner

PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}


def graph_of(precision="fp32"):
    """Two convolutions of one key and different activations, and a dense layer."""
    rng = np.random.default_rng(0)
    graph = Graph("net")
    x = graph.input("x", (1, 6, 7, 24), "fp32")
    for number, kind in enumerate(("relu", "tanh")):
        w = graph.constant(rng.normal(0, 0.2, (24, 3, 3, 24)).astype(np.float32), f"w{number}")
        x = graph.add("conv2d", [x, w], f"conv{number}", activation=kind, **PADS)
    w = graph.constant(rng.normal(0, 0.2, (10, 24)).astype(np.float32), "w")
    graph.output("y", graph.add("dense", [x, w], "dense"))
    return graph


def encoded(graph, vectors=(), precision="fp32"):
    aliases = passes.alias.apply(graph)
    convert(graph, precision, aliases)
    layout.apply(graph)
    return blob.encode(graph, planner.plan(graph, aliases), aliases, precision, list(vectors))


@pytest.fixture
def file(tmp_path):
    """A model file with a test vector."""
    x = np.random.default_rng(1).standard_normal((1, 6, 7, 24)).astype(np.float32)
    expected = reference.execute(graph_of(), {"x": x})
    path = tmp_path / "net.edge"
    path.write_bytes(encoded(graph_of(), [([x], [expected["y"]], 1e-3)]))
    return path


@pytest.fixture
def side(tmp_path, monkeypatch):
    """A side file that sessions use too."""
    path = tmp_path / "choices.tuning"
    monkeypatch.setenv("EDGERUN_TUNING", str(path))
    return path


@pytest.fixture
def few(monkeypatch):
    """Few variants, so that little is compiled; that with P = 2 is the fastest."""
    monkeypatch.setitem(_tile.ENTRIES, "conv", dataclasses.replace(
        _tile.ENTRIES["conv"], axes=lambda key, facts: {"P": (1, 2)}))
    monkeypatch.setattr(measure, "BATCH_NS", 1)
    monkeypatch.setattr(tuner, "MOST_WORK", 1e9)
    fake_time(monkeypatch, lambda variant: 500.0 if variant["P"] == 2 else 1000.0)


def fake_time(monkeypatch, ns, model=(2000.0, 1000.0)):
    """Replace the clock: nanoseconds of a variant, and of the model untuned and tuned."""
    monkeypatch.setattr(measure.Bench, "time",
                        lambda self, prepared: ns(prepared.launches[0].variant))
    monkeypatch.setattr(tuner, "by_turns", lambda *_: model)


def with_p(device, file, pixels):
    """The variant of the convolutions that only differs from the default in its pixels."""
    task = next(t for t in tuner.tasks_of(loader.read(file), device).values() if len(t.ops) == 2)
    default = dict(_tile.default(task.key, task.facts).values)
    return str(Variant.of(**{**default, "P": pixels}))


def outputs_of(path, device, choices=None):
    with Session(loader.read(path), device, choices) as session:
        x = np.random.default_rng(2).standard_normal((1, 6, 7, 24)).astype(np.float32)
        return session.run({"x": x})["y"]


# What counts

def test_tuning_chooses_the_fastest(device, file, side, few):
    """The fastest variant is kept, and a session takes it; results stay."""
    untuned = outputs_of(file, device)
    report = tune.tune_file(file, device)
    assert report.launches == len(report.results) == 2 and report.known == 0
    assert {r.ops for r in report.results} == {1, 2}
    conv = next(r for r in report.results if r.ops == 2)
    assert conv.variant == with_p(device, file, 2) and conv.gain == 2 and report.kept
    assert conv.variant != conv.default
    with Session(loader.read(file), device) as session:
        assert str(session.choices[conv.key]) == conv.variant
    np.testing.assert_allclose(outputs_of(file, device), untuned, rtol=1e-4, atol=1e-5)


def test_second_run_measures_nothing(device, file, side, few, monkeypatch, capsys):
    tune.tune_file(file, device)
    monkeypatch.setattr(measure, "Bench", None)
    report = tune.tune_file(file, device)
    assert report.known == report.launches == 2 and report.measured == 0 and not report.results
    assert "all 2 launches are tuned already" in report.text()


@pytest.mark.parametrize("ns, model", [
    (lambda v: 990.0 if v["P"] == 2 else 1000.0, (2000.0, 1000.0)),  # less than is clear
    (lambda v: 500.0 if v["P"] == 2 else 1000.0, (2000.0, 2000.0)),  # the model does not gain
    (lambda v: 500.0 if v["P"] == 2 else 1000.0, (2000.0, 2100.0))])
def test_default_stays_unless_the_gain_is_clear(device, file, side, few, monkeypatch, ns, model):
    fake_time(monkeypatch, ns, model)
    report = tune.tune_file(file, device)
    assert all(r.variant == r.default and r.ns == r.default_ns for r in report.results)
    with Session(loader.read(file), device) as session:
        assert all(str(session.choices[r.key]) == r.default for r in report.results)


def test_noise_is_no_gain(device, file, side, few, monkeypatch):
    """A variant that is often faster, but not most of the time clearly, does not count."""
    turns = itertools.cycle([600.0, 1400.0, 900.0])
    fake_time(monkeypatch, lambda v: next(turns) if v["P"] == 2 else 1000.0)
    assert all(r.variant == r.default for r in tune.tune_file(file, device).results)


def test_time_limit(device, file, side, few):
    report = tune.tune_file(file, device, seconds=1e-9)
    assert report.left == 2 and not report.results and not side.exists()
    assert tune.tune_file(file, device).left == 0


def planted(monkeypatch, change):
    """Let conv2d launches with P = 2 be changed."""
    right = OPS["conv2d"].prepare

    def prepare(op, facts):
        return [change(launch) if launch.variant["P"] == 2 else launch
                for launch in right(op, facts)]
    monkeypatch.setitem(OPS, "conv2d", dataclasses.replace(OPS["conv2d"], prepare=prepare))


def more_pixels(launch):
    """The launch with room for more pixels than there are: it writes behind its output."""
    pixels = np.int32(6 * 7)
    args = [np.int32(6 * 7 + 2) if isinstance(a, np.int32) and a == pixels else a
            for a in launch.args]
    columns, rows, groups = launch.global_size
    return dataclasses.replace(launch, args=tuple(args), global_size=(columns, rows + 1, groups))


def fewer_pixels(launch):
    columns, rows, groups = launch.global_size
    return dataclasses.replace(launch, global_size=(columns, rows - 1, groups))


def no_program(launch):
    return dataclasses.replace(launch, defines={**launch.defines, "P": "nonsense"})


@pytest.mark.parametrize("change, why", [
    (more_pixels, "writes outside"), (fewer_pixels, "computes another"),
    (no_program, "cannot build")])
def test_wrong_variant_is_not_used(device, file, side, few, monkeypatch, change, why):
    """A variant that overruns its output, leaves some out or does not build is told, not taken."""
    planted(monkeypatch, change)
    report = tune.tune_file(file, device)
    conv = next(r for r in report.results if r.ops == 2)
    assert conv.variant == conv.default
    assert any(why in line and "P=2" in line for line in conv.failures)
    assert why in report.text()


def test_variant_must_be_right_for_every_op(device, file, side, few, monkeypatch):
    """Two ops share a key, but not a program: the variant fails for the second only."""
    planted(monkeypatch, lambda launch: fewer_pixels(launch) if any(
        "tanh" in f"{name}{value}" for name, value in launch.defines.items()) else launch)
    report = tune.tune_file(file, device)
    conv = next(r for r in report.results if r.ops == 2)
    assert conv.variant == conv.default and conv.failures


@pytest.mark.parametrize("name", ["conv", "dense", "depthwise", "transpose", "matmul",
                                  "matmul rows", "matmul dot"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_variants_are_right(device, name, precision):
    check_variants(device, real_graph(name), precision)


@pytest.mark.parametrize("name", ["conv", "depthwise", "transpose", "matmul"])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_integer_variants_are_right(device, name, dtype):
    check_variants(device, integer_graph(name, dtype), "fp32")


def check_variants(device, graph, precision, count=4):
    """Some legal variants of the only launch give what the default gives, on real hardware."""
    model = loader.from_bytes(np.frombuffer(encoded(graph, precision=precision), np.uint8), "net")
    (key, task), = tuner.tasks_of(model, device).items()
    rng = np.random.default_rng(3)
    variants = _tile.candidates(task.key, task.facts)
    chosen = [variants[i] for i in 1 + rng.permutation(len(variants) - 1)[:count]]
    buffers = measure.Buffers(device)
    bench = measure.Bench(device, task.ops[0], buffers.weights(model), rng)
    try:
        for variant in chosen:
            bench.check(bench.prepare({key: variant}))
    finally:
        bench.close()
        buffers.release()
    assert chosen


def real_graph(name):
    rng, graph = np.random.default_rng(0), Graph("net")

    def constant(*shape):
        return graph.constant(rng.normal(0, 0.3, shape).astype(np.float32), "w")
    image = graph.input("x", (1, 9, 11, 40), "fp32") if "matmul" not in name else None
    if name == "conv":
        y = graph.add("conv2d", [image, constant(50, 3, 3, 40)], "op", activation="relu", **PADS)
    elif name == "dense":
        y = graph.add("dense", [image, constant(50, 40)], "op")
    elif name == "depthwise":
        y = graph.add("depthwise_conv2d", [image, constant(3, 3, 40)], "op", **PADS)
    elif name == "transpose":
        y = graph.add("conv_transpose2d", [image, constant(24, 3, 3, 40)], "op", stride_h=2,
                      stride_w=2)
    else:
        a = graph.input("a", (2, 3 if "dot" in name else 37, 40), "fp32")
        b = graph.input("b", (2, 40, 36) if name == "matmul" else (2, 36, 40), "fp32")
        y = graph.add("matmul", [a, b], "op", transpose_b=name != "matmul")
    graph.output("y", y)
    return graph


def integer_graph(name, dtype):
    rng, graph = np.random.default_rng(0), Graph("net")
    grid = Quantization.per_tensor(0.1, 7 if dtype == "uint8" else 0)

    def given(label, *shape):
        x = graph.input(label, shape, dtype)
        x.quantization = grid
        return x

    def constant(array, quantization=None):
        return graph.constant(array, f"c{len(graph.tensors())}", quantization=quantization)

    def weights(*shape):
        return constant(rng.integers(-20, 21, shape).astype(np.int8),
                        Quantization.per_tensor(0.1, 0))

    def scales(out_c):
        m0, t = fixed_point(np.full(out_c, 1e-3), "once")
        return [constant(np.zeros(out_c, np.int32)), None, None, constant(m0), constant(t)]
    if name == "matmul":
        operands, code, options = [given("a", 2, 37, 40), given("b", 2, 36, 40)], "matmul", {
            "transpose_b": True}
    else:
        code, w, out_c, options = {
            "conv": ("conv2d", (50, 3, 3, 40), 50, {}),
            "depthwise": ("depthwise_conv2d", (3, 3, 40), 40, {}),
            "transpose": ("conv_transpose2d", (24, 3, 3, 40), 24, {"stride_w": 2})}[name]
        operands = [given("x", 1, 9, 11, 40), weights(*w), *scales(out_c)]
    op = graph.insert(0, code, operands, "op", **options)
    op.outputs[0].quantization = Quantization.per_tensor(0.5, grid.zero, "once")
    graph.output("y", op.outputs[0])
    return graph


KEYS = [Key.of("conv", kind, (), groups=1, n=1, height=h, width=w, channels=8, in_c=8, out_h=h,
               out_w=w, out_c=c, kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, dilation_h=1,
               dilation_w=1, pad_top=1, pad_left=1)
        for kind in _tile.PIXELS for h, w, c in ((1, 1, 1), (1, 1, 1000), (7, 7, 33), (56, 56, 64))]


@pytest.mark.parametrize("facts", [Facts(), Facts(lanes=8), Facts(lanes=4, compute_units=8),
                                   Facts("gpu", 4)])
def test_candidates(facts):
    """The default is legal and first, is_legal() means candidates(), each choice is a sane one."""
    for key in KEYS:
        found = _tile.candidates(key, facts)
        assert found[0] == _tile.default(key, facts) and len(set(found)) == len(found)
        assert all(_tile.is_legal(key, facts, variant) for variant in found)
        assert all(1 <= v["P"] <= 64 and 1 <= v["NV"] <= 4 and v["VEC"] in (4, 8, 16)
                   for v in found)
        plain = dict(found[0].values)
        for values in ({**plain, "P": 0}, {**plain, "VEC": 5}, {**plain, "P": 1000}, {},
                       dict(reversed(plain.items())), {**plain, "x": 1}, {"P": 1, "NV": 1}):
            assert not _tile.is_legal(key, facts, Variant.of(**values))
        wrong = dataclasses.replace(facts, choices={str(key): Variant.of(P=1000, NV=9, VEC=4)})
        assert _tile.choose(key, wrong) == found[0]
        right = dataclasses.replace(facts, choices={str(key): found[-1]})
        assert _tile.choose(key, right) == found[-1]


# What is kept, and for whom

def a_tuning(device, **changes):
    choice = Choice("k", "conv", tuning.kernels_of("conv"), "P=1 NV=1 VEC=4", 5, 6)
    own = tuning.of_device(device, [choice])
    return dataclasses.replace(own, **changes)


def test_choices_are_for_one_device_driver_and_kernel(device):
    own = a_tuning(device)
    stale = dataclasses.replace(own.choices[0], kernels="0" * 16)
    unknown = dataclasses.replace(own.choices[0], family="../conv", kernels="")
    assert set(tuning.valid([own], device)) == {"k"}
    for other in (dataclasses.replace(own, driver="2"), dataclasses.replace(own, device="other"),
                  dataclasses.replace(own, compute_units=99),
                  dataclasses.replace(own, choices=(stale,)),
                  dataclasses.replace(own, choices=(unknown,))):
        assert tuning.valid([other], device) == {}


def test_changed_kernels_are_tuned_again(device, file, side, few, monkeypatch):
    assert tune.tune_file(file, device).results
    monkeypatch.setattr(tuning, "kernels_of", lambda family: "changed")
    assert tune.tune_file(file, device).known == 0


def test_merged(device):
    own, other = a_tuning(device), a_tuning(device, driver="other")
    newer = dataclasses.replace(own.choices[0], variant="P=2 NV=1 VEC=4")
    more = dataclasses.replace(own.choices[0], key="l")
    found = tuning.merged([other, own], dataclasses.replace(own, choices=(newer, more)))
    assert found == (other, dataclasses.replace(own, choices=(newer, more)))


def test_file_and_device_choices_together(device, file, side, few):
    """The side file, which this machine wrote, is preferred to what came with the model."""
    key, = (k for k, t in tuner.tasks_of(loader.read(file), device).items() if len(t.ops) == 2)
    family = "conv"
    kernels = tuning.kernels_of(family)

    def with_variant(text):
        return tuning.of_device(device, [Choice(key, family, kernels, text, 1, 2)])
    into_model.write_into(file, [with_variant("P=1 NV=1")])
    model = loader.read(file)
    assert str(tuning.choices(model.tuning, device)[key]) == "P=1 NV=1"
    tuning.write_file(side, [with_variant("P=2 NV=1")])
    assert str(tuning.choices(model.tuning, device)[key]) == "P=2 NV=1"


# The table in a model file

def test_written_into_the_model(device, file, few, capsys):
    """The file keeps its content, verifies, grows by one page once, and is tuned."""
    before, model = file.read_bytes(), loader.read(file)
    report = tune.tune_file(file, device, write=True)
    tuned = loader.read(file)
    assert len(file.read_bytes()) == len(before) + 4096
    assert dataclasses.replace(tuned, tuning=(), data=None, segments=()) == dataclasses.replace(
        model, data=None, segments=(), vectors=tuned.vectors)
    assert all(s.file_offset % 4096 == 0 for s in tuned.segments)
    assert len(tuned.tuning[0].choices) == 2 and report.path == str(file)
    words = {"Portable Computing Language": "portable"}.get(device.info.platform, "intel")
    assert main(["verify", str(file), "--device", words]) == 0
    other = a_tuning(device, driver="other")
    into_model.write_into(file, [*tuned.tuning, other])
    assert loader.read(file).tuning == (*tuned.tuning, other)
    assert len(file.read_bytes()) == len(before) + 4096
    assert tune.tune_file(file, device, write=True).known == 2
    capsys.readouterr()
    assert main(["info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "tuned for" in shown and with_p(device, file, 2) in shown
    into_model.write_into(file, [])
    assert loader.read(file).tuning == ()


def test_flatc_reads_a_tuned_file(device, file, tmp_path):
    into_model.write_into(file, [a_tuning(device)])
    subprocess.run(["flatc", "--json", "--strict-json", "--defaults-json", "-o", tmp_path,
                    folder("schema") / "edgerun.fbs", "--", file], check=True, capture_output=True)
    written = json.loads((tmp_path / "net.json").read_text())
    assert written["tuning"]["tunings"][0]["choices"][0]["variant"] == "P=1 NV=1 VEC=4"
    assert written["graph"]["ops"][0]["code"] == "conv2d" and len(written["vectors"]) == 1


def test_a_large_table(device, file):
    """More choices than fit into a page."""
    own = a_tuning(device)
    many = dataclasses.replace(own, choices=tuple(
        dataclasses.replace(own.choices[0], key=f"{i:0100}") for i in range(100)))
    into_model.write_into(file, [many])
    assert loader.read(file).tuning == (many,)


def test_damaged_model_is_not_rewritten(device, file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match="checksum|damaged"):
        into_model.write_into(file, [a_tuning(device)])
    assert file.read_bytes() == data


def test_damaged_table_is_refused(device, file):
    into_model.write_into(file, [a_tuning(device)])
    data = bytearray(file.read_bytes())
    at = data.index(b"P=1 NV=1 VEC=4")
    data[at] ^= 1
    with pytest.raises(ModelError, match="checksum of the tuning table"):
        loader.from_bytes(np.frombuffer(bytes(data), np.uint8), "net")


# Files are not trusted

@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-1], lambda data: data + b"x",
    lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], lambda data: b"{}" * 40])
def test_damaged_side_file_is_left_out(device, file, side, few, damage):
    """A session runs without it; the tuner says why, and writes a good one."""
    tuning.write_file(side, [a_tuning(device)])
    assert tuning.choices((), device)
    side.write_bytes(damage(side.read_bytes()))
    assert tuning.choices((), device) == {}
    outputs_of(file, device)
    report = tune.tune_file(file, device)
    assert "is no file of tuned choices, or is damaged" in report.problem
    assert report.problem.split(":")[0] in report.text() and report.known == 0
    assert tune.tune_file(file, device).known == 2


def signed(payload):
    import hashlib
    return tuning.MAGIC + hashlib.sha256(payload).digest() + payload


def test_hostile_tables_do_not_get_through(device, side):
    """With a right checksum, but offsets that lead outside, or endless text."""
    good = tuning.encode([a_tuning(device)])
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(0, 256)
        side.write_bytes(signed(bytes(data)))
        tuning.choices((), device)  # no other exception than the one that is caught
    side.write_bytes(signed(struct.pack("<I", 2**31)))
    assert tuning.choices((), device) == {}
    endless = dataclasses.replace(a_tuning(device).choices[0], key="x" * 5000)
    side.write_bytes(signed(tuning.encode([a_tuning(device, choices=(endless,))])))
    with pytest.raises(ModelError, match="at most"):
        tuning.read_file(side)
    assert tuning.choices((), device) == {}


@pytest.mark.parametrize("change", [
    {"P": 1_000_000}, {"P": 0}, {"NV": 100}, {"VEC": 3}, {"VEC": 32}, {"LOCAL": 9}, {"P": None},
    {"P": "-2"}, {"P": "1e1"}, {"P": "1;x=1"}, {"__kernel": 1}, "", "P=2 NV=1 VEC=4 " * 400,
    "VEC=4 NV=1 P=2"])
def test_hostile_choices_change_nothing(device, file, side, change):
    """Whatever a file with a right checksum says, only legal variants reach a kernel."""
    untuned = outputs_of(file, device, {})
    choices = []
    for key, task in tuner.tasks_of(loader.read(file), device).items():
        default = dict(_tile.default(task.key, task.facts).values)
        values = default | change if isinstance(change, dict) else {}
        text = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        choices.append(Choice(key, "conv", tuning.kernels_of("conv"), text or change, 1, 2))
    tuning.write_file(side, [tuning.of_device(device, choices)])
    np.testing.assert_array_equal(outputs_of(file, device), untuned)
    with Session(loader.read(file), device) as session:
        labels = [str(launch.variant) for op in session.model.ops for launch in OPS[
            op.code].prepare(op, dataclasses.replace(device.facts_for(op),
                                                     choices=session.choices))]
    assert labels == [str(_tile.default(t.key, t.facts)) for op in session.model.ops
                      for t in tuner.tasks_of(session.model, device).values() if op in t.ops]


def test_variant_text():
    assert tuning.variant_of("P=7 NV=4 VEC=16") == Variant.of(P=7, NV=4, VEC=16)
    assert tuning.variant_of("P=") is tuning.variant_of("P = 1") is tuning.variant_of("x") is None


# The command line

def test_command(device, file, side, few, capsys):
    words = {"Portable Computing Language": "portable"}.get(device.info.platform, "intel")
    assert main(["tune", str(file), "--device", words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["launches"] == 2 and found["known"] == 0 and found["measured"] > 0
    assert found["path"] == str(side) and found["gain"] > 1
    assert with_p(device, file, 2) in {r["variant"] for r in found["results"]}
    assert main(["tune", str(file), "--device", words]) == 0
    assert "all 2 launches are tuned already" in capsys.readouterr().out
    assert main(["tune", str(file), "--device", words, "--again", "--search", "actor-critic",
                 "--budget", "2"]) == 0
    assert "geometric mean" in capsys.readouterr().out


def test_out(device, file, tmp_path, few):
    out = tmp_path / "new" / "mine"
    report = tune.tune_file(file, device, out=out)
    assert report.path == str(out) and tuning.read_file(out)[0].choices


def test_nowhere_to_keep(device, file, monkeypatch):
    monkeypatch.setenv("EDGERUN_TUNING", "0")
    with pytest.raises(InputError, match="needed --out FILE or --write"):
        tune.tune_file(file, device)


def test_cache_folder(device, tmp_path, monkeypatch):
    monkeypatch.delenv("EDGERUN_TUNING")
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(tmp_path))
    path = tuning.side_file(device)
    assert path.parent == tmp_path / "tuning"
    tuning.write_file(path, [a_tuning(device)])
    assert set(tuning.choices((), device)) == {"k"}
    monkeypatch.setenv("EDGERUN_CACHE_DIR", "0")
    assert tuning.side_file(device) is None and tuning.choices((), device) == {}
    monkeypatch.setenv("EDGERUN_TUNING", "0")
    assert tuning.choices([a_tuning(device)], device) == {}


def test_model_without_variants(device, tmp_path, side):
    graph = Graph("net")
    graph.output("y", graph.add("unary", [graph.input("x", (4,), "fp32")], "y", kind="relu"))
    path = tmp_path / "net.edge"
    path.write_bytes(encoded(graph))
    report = tune.tune_file(path, device)
    assert report.launches == 0 and "no launches with variants" in report.text()
