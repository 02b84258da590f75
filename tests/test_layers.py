"""Where error enters a file: what is measured per op equals the definitions, and what is planted
is found at the op where it was planted."""
from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgerun import loader
from edgerun.__main__ import main
from edgerun.errors import InputError
from edgerun.model import Tensor
from edgerun.quantization import Quantization, dequantize, quantize as to_integers
from edgerun.session import Session
from edgerun.tools import layers as layers_module, quantize, reference
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.graph import Graph, copy_of
from edgerun.tools.layers import Inside, Layer, Layers, Reference, layers, sentences
from edgerun.tools.layers.reference import real_name
from edgerun.tools.layers.source import pair, source_name
from edgerun.tools.pack import pack
from tests.tools.onnx_models import model_of

SHAPE = (1, 8, 8, 4)
SAMPLES = [{"x": np.random.default_rng(i).normal(0, 1, SHAPE).astype(np.float32)}
           for i in range(3)]


def network() -> Graph:
    """a = relu(conv(x)), b = conv(a), c = a + b, d = max pool(c), e = dense(d)."""
    rng = np.random.default_rng(0)
    graph = Graph("network")
    x = graph.input("x", SHAPE, "fp32")

    def constant(*shape):
        return graph.constant(rng.normal(0, 0.4, shape).astype(np.float32), "w")

    pads = {f"pad_{side}": 1 for side in ("top", "left", "bottom", "right")}
    a = graph.add("conv2d", [x, constant(8, 3, 3, 4), constant(8)], "a", activation="relu", **pads)
    b = graph.add("conv2d", [a, constant(8, 3, 3, 8), constant(8)], "b", **pads)
    c = graph.add("binary", [a, b], "c", kind="add")
    d = graph.add("pool2d", [c], "d", kind="max", kernel_h=2, kernel_w=2, stride_h=2, stride_w=2)
    e = graph.add("dense", [d, constant(5, 8), constant(5)], "e")
    graph.output("y", e)
    return graph


def values(graph: Graph, sample: dict) -> dict[str, np.ndarray]:
    """Return every tensor that a graph computes, by the reference."""
    copy = copy_of(graph)
    copy.outputs = []
    for op in copy.ops:
        copy.output(op.outputs[0].name, op.outputs[0])
    return {**sample, **reference.execute(copy, sample)}


def quantized(ranges: dict[str, float] | None = None) -> Graph:
    """Return the network in int8; `ranges` changes by a factor what was calibrated."""
    plain, graph = network(), network()
    seen = [values(plain, sample) for sample in SAMPLES]

    def range_of(name: str, bits: int) -> tuple[float, float]:
        factor = (ranges or {}).get(name, 1.0)
        return (factor * min(float(v[name].min()) for v in seen),
                factor * max(float(v[name].max()) for v in seen))
    quantize.insert(graph, quantize.assign(graph, "int8"), range_of)
    return graph


def measure(graph: Graph, device, source: Inside | None = None) -> dict[str, Layer]:
    """Return the rows of a graph, lowered, against the network."""
    with session_of(graph, device) as (session, _):
        found = layers(session, Reference(network()), SAMPLES, source)
    assert found.unmatched == 0 and found.samples == len(SAMPLES)
    return {row.name: row for row in found.rows}


def decibels(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the definition: power of what is wanted over that of the difference."""
    return 10 * math.log10(sum(np.square(want, dtype=np.float64).sum() for _, want in pairs)
                           / sum(np.square(got - want.astype(np.float64)).sum()
                                 for got, want in pairs))


def test_noise_is_that_of_the_definition(device):
    graph, plain = quantized(), network()
    found = measure(graph, device)
    assert list(found) == ["x", "a", "b", "c", "d", "e"]
    stored = {op.outputs[0].name: op.outputs[0].quantization for op in graph.ops
              if op.code == "quantize"}
    pairs = {name: [] for name in "xabcd"}
    for sample in SAMPLES:
        want, got = values(plain, sample), values(graph, sample)
        for name in pairs:
            pairs[name].append((dequantize(got[f"{name}.q"], stored[f"{name}.q"]), want[name]))
    for name, both in pairs.items():
        # a kernel rounds in fixed point: an integer may be one beside that of real arithmetic
        assert found[name].snr_db == pytest.approx(decibels(both), abs=0.1), name
        steps = max(np.abs(got - want).max() for got, want in both) / stored[f"{name}.q"].step
        assert found[name].max_steps == pytest.approx(steps, abs=0.6), name
    for name, before in (("a", "x"), ("b", "a"), ("d", "c"), ("e", "d")):
        assert found[name].change_db == found[name].snr_db - found[before].snr_db
    assert found["c"].change_db == found["c"].snr_db - min(found["a"].snr_db, found["b"].snr_db)
    assert found["x"].change_db is None


def test_own_noise_is_what_an_op_adds_to_that_of_its_inputs(device):
    graph, plain = quantized(), network()
    found = measure(graph, device)
    stored = {op.outputs[0].name: op.outputs[0].quantization for op in graph.ops
              if op.code == "quantize"}
    convolution = next(op for op in plain.ops if op.name == "b")
    pairs = []
    for sample in SAMPLES:
        got = values(graph, sample)
        a, b = (dequantize(got[f"{name}.q"], stored[f"{name}.q"]) for name in "ab")
        exact, = reference.evaluate(convolution, [a, *(t.data for t in convolution.inputs[1:])])
        pairs.append((b, exact))
    assert found["b"].own_db == pytest.approx(decibels(pairs), abs=0.1)
    assert found["b"].own_db > found["b"].snr_db
    assert found["d"].own_db == math.inf and found["d"].snr_db < 60  # a maximum adds nothing
    assert sum(row.share for row in found.values()) == pytest.approx(1)
    assert found["x"].own_db == found["x"].snr_db
    marked = sum(row.share for row in found.values() if row.marked)
    assert 0.5 <= marked < 1


def test_sizes_and_types(device):
    found = measure(quantized(), device)
    assert (found["x"].reads, found["x"].writes, found["x"].output_bytes) == ("fp32", "uint8", 256)
    assert (found["b"].reads, found["b"].writes) == ("uint8", "uint8")
    assert found["b"].output_bytes == 8 * 8 * 8
    assert found["b"].weight_bytes >= 8 * 3 * 3 * 8
    assert (found["e"].reads, found["e"].writes, found["e"].output_bytes) == (
        "uint8", "fp32", 1 * 4 * 4 * 5 * 4)
    assert found["e"].max_steps is found["e"].saturated is None


def test_saturation_is_found_where_a_range_is_too_narrow(device):
    healthy = measure(quantized(), device)
    assert all(not row.saturated for row in healthy.values())
    graph, plain = quantized({"b": 0.3}), network()
    found = measure(graph, device)
    q = next(op.outputs[0].quantization for op in graph.ops
             if op.code == "quantize" and op.inputs[0].name == "b")
    beyond = 0
    for sample in SAMPLES:
        steps = values(plain, sample)["b"] / q.step + q.zero
        beyond += int(((steps > 255.5) | (steps < -0.5)).sum())
    # near an end, what comes out need not lie at it though the exact value is beyond
    assert beyond * 0.95 <= found["b"].saturated <= beyond and beyond > 100
    assert all(not found[name].saturated for name in "xa")
    assert [name for name, row in found.items() if row.marked] == ["b"]
    assert found["b"].share > 0.9


@pytest.mark.parametrize("name", ["a", "b", "e"])
@pytest.mark.parametrize("bug", ["zero point", "bias"])
def test_a_bug_is_found_where_it_is(device, name, bug):
    graph = quantized()
    op = next(op for op in graph.ops if op.name == name and op.code in ("conv2d", "dense"))
    if bug == "bias":
        op.inputs[2] = graph.constant(op.inputs[2].data + 1.5, "wrong")
    else:
        w = next(o for o in graph.ops if o.outputs[0] is op.inputs[1]).inputs[0]
        w.quantization = replace(w.quantization, zero_point=w.quantization.zero_point + 20)
    found = measure(graph, device)
    assert [row for row, r in found.items() if r.marked] == [name], found
    assert found[name].share > 0.9 and found[name].own_db < 20


def test_infinities_are_found_where_they_begin(device):
    graph = network()
    b = next(op for op in graph.ops if op.name == "b")
    b.inputs[2] = graph.constant(np.float32([np.inf] + [0] * 7), "wrong")
    found = measure(graph, device)
    assert found["b"].marked and found["b"].snr_db == -math.inf
    assert found["a"].own_db == math.inf and not found["a"].marked
    assert json.dumps(layers_module.as_dict(Layers(list(found.values()), 3)), allow_nan=False)


def test_names_of_real_tensors():
    known = {"a": 0, "b.q": 0, "c.1": 0, "c": 0}
    names = {"a": "a", "a.q": "a", "a.q.3": "a", "a.q.real": "a", "a.q.real.1.q": "a",
             "a.fp16": "a", "b.q": "b.q", "b.q.q": "b.q", "c.1.q": "c.1", "c.2": None, "d": None,
             "a.1": None, "b": None}
    assert {name: real_name(name, known) for name in names} == names
    assert source_name("c.2.q", known) == "c" and source_name("c.1.q", known) == "c.1"
    assert source_name("d.q", known) is None


def test_parts_of_a_split_are_not_taken_for_one_another():
    q = Quantization.per_tensor(0.1)
    tensors = {name: Tensor(name, (1, 2), "uint8", "rows", -1, 0, -1, q, 0)
               for name in ("s", "s.1", "s.2", "t.q", "u.1", "u.2", "v.3.q")}
    found = pair(list(tensors.values()), dict.fromkeys("stuvw"))
    assert {name: tensor.name for name, tensor in found.items()} == {
        "s": "s", "t": "t.q", "v": "v.3.q"}


def inside(tensors) -> Inside:
    return Inside("a runtime", tensors, 1)


def integers_of(graph: Graph, device, names: str):
    """Return sample -> integers of tensors of a lowered graph."""
    from edgerun.trace import trace
    found = []
    with session_of(graph, device) as (session, _):
        for sample in SAMPLES:
            found.append({t.name: np.array(v, np.int64) for t, v in trace(session, sample)
                          if t.name.removesuffix(".q") in names})

    def of(sample):
        number = next(i for i, s in enumerate(SAMPLES) if s["x"] is sample["x"])
        return {name: array.copy() for name, array in found[number].items()}
    return of


def test_integers_are_compared_with_those_of_the_source(device):
    graph = quantized()
    own = integers_of(graph, device, "xabcd")
    same = measure(graph, device, inside(own))
    assert all(same[name].source_equal == 1 and same[name].source_steps == 0 for name in "xabcd")

    def bent(sample):
        theirs = own(sample)
        theirs["b.q"].reshape(-1)[7] += 1
        theirs["c.q"].reshape(-1)[3:5] -= 2
        return theirs
    found = Layers(list(measure(graph, device, inside(bent)).values()), source="a runtime")
    first = found.first_difference
    assert first.name == "b" and first.source_steps == 1 and first.tie_steps is not None
    assert first.source_equal == pytest.approx(1 - 1 / 512)
    row = next(row for row in found.rows if row.name == "c")
    assert row.source_steps == 2 and row.tie_steps is None  # its inputs differ already
    assert "integers begin to differ from a runtime at conv2d 'b'" in sentences(found)[-1]


@pytest.mark.parametrize("tie,steps,rounding,verdict", [
    (0.001, 1, "once", "it is rounding"), (0.06, 1, "once", "it is more than rounding"),
    (0.06, 1, "upward", "it is rounding (R rounds twice)"),
    (0.4, 1, "upward", "it is more than rounding"), (0.001, 2, "once", "it is more than rounding")])
def test_rounding_is_told_from_other_differences(tie, steps, rounding, verdict):
    row = Layer(3, "conv2d", "f", "uint8", "uint8", 9, 9, source_equal=0.99, source_steps=steps,
                tie_steps=tie, rounding=rounding)
    last = sentences(Layers([row], 1, source="R"))[-1]
    assert last.endswith(verdict) and "at conv2d 'f', op 3: 1.000% of them" in last


def test_inputs_of_another_range_are_told():
    row = Layer(-1, "input", "x", "fp32", "uint8", 0, 9, snr_db=4.0, max_steps=0.5, saturated=0)
    assert any("the input 'x' is not of the range" in line for line in sentences(Layers([row], 1)))
    row = replace(row, snr_db=30.0)
    assert not any("not of the range" in line for line in sentences(Layers([row], 1)))


# source models

def write(path: Path, qdq: bool = False) -> Path:
    """relu(conv(x)) -> conv + x -> relu -> conv -> tanh, in fp32; or quantized, the relus left to
    the clamps of the integers."""
    rng = np.random.default_rng(1)
    constants, nodes = {}, []

    def stored(name: str, scale: float, zero: int) -> str:
        if not qdq:
            return name
        constants[f"{name}.s"], constants[f"{name}.z"] = np.float32(scale), np.uint8(zero)
        grid = [f"{name}.s", f"{name}.z"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}.int"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.int", *grid], [f"{name}.back"]))
        return f"{name}.back"

    def conv(x: str, y: str) -> None:
        w = rng.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
        constants[f"{y}.w"], constants[f"{y}.b"] = w, rng.normal(0, 0.3, 4).astype(np.float32)
        weights = f"{y}.w"
        if qdq:
            q = Quantization.per_tensor(float(np.abs(w).max()) / 127)
            constants[f"{y}.wq"] = to_integers(w, q, "int8")
            constants[f"{y}.ws"], constants[f"{y}.wz"] = np.float32(q.step), np.int8(0)
            del constants[f"{y}.w"]
            weights = f"{y}.wr"
            nodes.append(helper.make_node("DequantizeLinear",
                                          [f"{y}.wq", f"{y}.ws", f"{y}.wz"], [weights]))
            bias = np.rint(constants[f"{y}.b"] / (0.03 * np.float32(q.step))).astype(np.int32)
            constants[f"{y}.b"], constants[f"{y}.bs"] = bias, np.float32(0.03 * np.float32(q.step))
            nodes.append(helper.make_node("DequantizeLinear", [f"{y}.b", f"{y}.bs"], [f"{y}.br"]))
        bias = f"{y}.br" if qdq else f"{y}.b"
        nodes.append(helper.make_node("Conv", [x, weights, bias], [y], pads=[1, 1, 1, 1], name=y))

    def relu(x: str, y: str) -> str:
        if not qdq:
            nodes.append(helper.make_node("Relu", [x], [y], name=y))
            return y
        return stored(x, 0.03, 0)

    x = stored("x", 0.03, 128)
    conv(x, "one")
    conv(relu("one", "r1"), "two")
    nodes.append(helper.make_node("Add", [stored("two", 0.03, 128), x], ["sum"], name="sum"))
    conv(relu("sum", "r2"), "three")
    nodes.append(helper.make_node("Tanh", ["three"], ["y"], name="y"))
    onnx.save(model_of(nodes, {"x": np.zeros((1, 4, 6, 6), np.float32)}, constants), path)
    return path


@pytest.fixture
def calibration(tmp_path) -> Path:
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "data.npz", x=rng.normal(0, 1, (60, 1, 4, 6, 6)).astype(np.float32))
    return tmp_path / "data.npz"


def of_file(path: Path, source: Path, device, **options) -> Layers:
    """Pack a source model, and measure the file on three samples."""
    pack(source, path, device=device, **options)
    model = loader.read(path)
    rng = np.random.default_rng(4)
    samples = [{"x": rng.normal(0, 1, (1, 4, 6, 6)).astype(np.float32)} for _ in range(3)]
    inner = layers_module.inside(source, model) if layers_module.has_inside(model) else None
    with Session(model, device) as session:
        return layers(session, layers_module.reference_of(source, model), samples, inner)


@pytest.mark.parametrize("precision,least", [("fp32", 100), ("fp16", 55), ("int16", 55),
                                             ("int8", 25)])
def test_every_op_of_a_file_is_found_in_its_source(tmp_path, device, calibration, precision,
                                                   least):
    calibrated = {"calibration": calibration} if precision.startswith("int") else {}
    found = of_file(tmp_path / "m.edge", write(tmp_path / "m.onnx"), device, precision=precision,
                    **calibrated)
    assert found.unmatched == 0 and len(found.rows) >= 4
    assert min(row.snr_db for row in found.rows) > least
    assert all(row.own_db is not None for row in found.rows)


def test_ops_that_are_fused_after_lowering(tmp_path, device, calibration):
    overrides = tmp_path / "overrides.txt"
    overrides.write_text("two fp32\nsum fp32\nthree fp32\ny fp32\n")
    found = of_file(tmp_path / "m.edge", write(tmp_path / "m.onnx"), device, precision="int8",
                    calibration=calibration, overrides=overrides)
    codes = [row.code for row in found.rows]
    assert "binary" not in codes and "unary" not in codes, "the sum and tanh are in the layers"
    assert found.unmatched == 0 and min(row.snr_db for row in found.rows) > 25


def test_equalized_weights_are_compared_with_equalized_ones(tmp_path, device, calibration):
    rng = np.random.default_rng(3)
    spread = np.float32([1, 30, 0.2, 5]).reshape(4, 1, 1, 1)
    constants = {"w1": rng.normal(0, 1, (4, 4, 3, 3)).astype(np.float32) * spread,
                 "w2": rng.normal(0, 1, (4, 4, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"], name="a"),
             helper.make_node("Relu", ["a"], ["r"], name="r"),
             helper.make_node("Conv", ["r", "w2"], ["y"], name="y")]
    source = tmp_path / "m.onnx"
    onnx.save(model_of(nodes, {"x": np.zeros((1, 4, 6, 6), np.float32)}, constants), source)
    for improve in ((), ("equalize",), ("equalize", "clip-weights")):
        found = of_file(tmp_path / "m.edge", source, device, precision="int8",
                        calibration=calibration, improve=improve)
        assert found.unmatched == 0 and min(row.snr_db for row in found.rows) > 20, improve


def test_quantized_source(tmp_path, device):
    found = of_file(tmp_path / "m.edge", write(tmp_path / "m.onnx", qdq=True), device)
    assert found.source.startswith("ONNX Runtime") and found.unmatched == 0
    rows = {row.name: row for row in found.rows}
    compared = [row for row in found.rows if row.source_equal is not None]
    assert len(compared) >= 4 and all(row.source_steps <= 1 for row in compared)
    assert all(row.source_equal > 0.99 for row in compared)
    # half of what the first convolution writes is below 0: the clamp there is a relu, no accident
    assert rows["one"].writes == "uint8" and not rows["one"].saturated
    assert rows["one"].snr_db > 30


def test_quantized_source_in_real_numbers(tmp_path, device):
    found = of_file(tmp_path / "m.edge", write(tmp_path / "m.onnx", qdq=True), device,
                    precision="fp32")
    assert not found.source and found.unmatched == 0
    assert min(row.snr_db for row in found.rows) > 100


def test_integers_of_litert(shared_data, tmp_path, device):
    source = shared_data / "models" / "tflite" / "kws01_dscnn_int8.tflite"
    pack(source, tmp_path / "m.edge")
    model = loader.read(tmp_path / "m.edge")
    rng = np.random.default_rng(0)
    info, = model.inputs
    sample = {info.name: rng.integers(-128, 128, info.shape).astype(np.int8)}
    inner = layers_module.inside(source, model)
    with Session(model, device) as session:
        found = layers(session, layers_module.reference_of(source, model), [sample], inner)
    assert inner.matched >= 12
    first = found.first_difference
    assert first is None or first.source_steps == 1
    assert min(row.snr_db for row in found.rows if row.snr_db is not None) > 20


def test_no_integers_to_look_inside(tmp_path):
    source = write(tmp_path / "m.onnx")
    pack(source, tmp_path / "m.edge")
    model = loader.read(tmp_path / "m.edge")
    assert not layers_module.has_inside(model)
    with pytest.raises(InputError, match="not packed with the integers of its source model"):
        layers_module.inside(source, model)


# the command line

def test_command(capsys, tmp_path, device, calibration):
    source = write(tmp_path / "m.onnx")
    pack(source, tmp_path / "m.edge", precision="int8", calibration=calibration, device=device)
    arguments = ["verify", str(tmp_path / "m.edge"), "--against", str(source), "--layers",
                 "--tolerance", "0.5", "--device", device.info.platform]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    header, first = shown.splitlines()[:2]
    assert header.split() == ["op", "code", "name", "dtypes", "weights", "output", "SNR", "dB",
                              "change", "own", "dB", "share", "saturated", "steps"]
    assert first.split()[:5] == ["input", "x", "fp32", "->", "uint8"] or first.startswith("*")
    assert "most of the error enters at" in shown and "3 of 3 agree with ONNX Runtime" in shown
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["layers"]["samples"] == 3
    rows = found["layers"]["rows"]
    assert {"input", "conv2d"} <= {row["code"] for row in rows}
    assert all(row["snr_db"] > 20 for row in rows) and any(row["marked"] for row in rows)
    assert found["layers"]["summary"][0].startswith("most of the error enters at")


def test_layers_need_the_source(capsys, tmp_path):
    source = write(tmp_path / "m.onnx")
    pack(source, tmp_path / "m.edge")
    assert main(["verify", str(tmp_path / "m.edge"), "--layers"]) == 1
    assert "--layers go with --against MODEL" in capsys.readouterr().err
