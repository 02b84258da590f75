"""Recurrent layers of TFLite: built models against LiteRT, and what is refused."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools import reference
from edgerun.tools.runtimes import LiteRt
from tests.tools.test_tflite_importer import check
from tests.tools.tflite_builder import TFLiteBuilder, load, random

INPUTS, HIDDEN, SAMPLES, STEPS = 5, 7, 2, 4
LSTM, BOTH = "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"
TABLE = {LSTM: "UnidirectionalSequenceLSTMOptions", BOTH: "BidirectionalSequenceLSTMOptions",
         "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions"}
OPTIONAL = -1


def weights(m: TFLiteBuilder, seed: int, hybrid: bool, coupled: bool, peepholes: bool) -> list[int]:
    """The inputs 1 to 17 of an lstm."""
    def constant(shape, number: int) -> int:
        values = random(shape, seed + number, -0.6, 0.6)
        if not hybrid or len(shape) == 1:
            return m.const(values)
        scale = np.float32(np.abs(values).max() / 127)
        return m.const(np.rint(values / scale).astype(np.int8), quantization=([scale], [0], 0))

    shapes = ([(HIDDEN, INPUTS)] * 4 + [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN,)] * 7)
    left_out = {0, 4, 8, 11} if coupled else set()
    left_out |= set() if peepholes else {8, 9, 10}
    found = [OPTIONAL if n in left_out else constant(shape, n) for n, shape in enumerate(shapes)]
    return [*found, OPTIONAL, OPTIONAL]


def model(kind: str = LSTM, major: bool = False, hybrid: bool = False, coupled: bool = False,
          peepholes: bool = False, **options) -> tuple[TFLiteBuilder, list[int], np.ndarray]:
    m = TFLiteBuilder()
    shape = (STEPS, SAMPLES, INPUTS) if major else (SAMPLES, STEPS, INPUTS)
    x = m.input(shape)
    options = {"FusedActivationFunction": 4, "TimeMajor": major, **options}

    def state() -> int:
        return m.tensor(f"state{len(m.tensors)}", (SAMPLES, HIDDEN), variable=True)

    if kind == LSTM:
        inputs = [x, *weights(m, 0, hybrid, coupled, peepholes), state(), state(),
                  *[OPTIONAL] * 4]
    elif kind == BOTH:
        inputs = [x, *weights(m, 0, hybrid, coupled, peepholes),
                  *weights(m, 50, hybrid, coupled, peepholes), state(), state(), state(), state(),
                  *[OPTIONAL] * 9]
    else:
        inputs = [x, m.const(random((HIDDEN, INPUTS), 1)), m.const(random((HIDDEN, HIDDEN), 2)),
                  m.const(random((HIDDEN,), 3)), state()]
    merged = kind != BOTH or options.get("MergeOutputs", False)
    y = m.op(kind, inputs, TABLE[kind], outs=1 if merged else 2, **options)
    return m, [y] if merged else y, random(shape, 9)


CASES = [
    (LSTM, {}), (LSTM, {"major": True, "peepholes": True}), (LSTM, {"coupled": True}),
    (LSTM, {"coupled": True, "peepholes": True, "CellClip": 0.2}), (LSTM, {"hybrid": True}),
    (LSTM, {"hybrid": True, "coupled": True}),
    (BOTH, {}), (BOTH, {"MergeOutputs": True, "major": True, "peepholes": True}),
    # not of several samples first: LiteRT 2.3 then mixes them up where it merges
    (BOTH, {"MergeOutputs": True, "hybrid": True, "major": True}),
    ("UNIDIRECTIONAL_SEQUENCE_RNN", {}),
    ("UNIDIRECTIONAL_SEQUENCE_RNN", {"FusedActivationFunction": 1, "major": True})]


@pytest.mark.parametrize("kind, options", CASES)
def test_layers(kind, options, tmp_path):
    m, outputs, x = model(kind, **options)
    graph = check(m, outputs, [x], tmp_path)
    assert any("starts with the state 0" in note for note in graph.notes)
    rounded = [op for op in graph.ops if op.code == "round_rows"]
    assert bool(rounded) == options.get("hybrid", False)


def integers(seed: int = 0, cell: float = 2.0**-12, zero: int = -5, clip: float = 0.0,
             **changes) -> tuple[TFLiteBuilder, int, np.ndarray]:
    """An lstm of 8 bits with a state of 16."""
    m = TFLiteBuilder()
    rng = np.random.default_rng(seed)
    x = m.input((SAMPLES, STEPS, INPUTS), "int8", quantization=([0.02], [3], 0))
    scales = np.float32(rng.uniform(0.004, 0.02, 8))
    out = changes.get("out", ([1 / 128], [zero], 0))

    def constant(n: int) -> int:
        shape = (HIDDEN, INPUTS if n < 4 else HIDDEN)
        return m.const(rng.integers(-127, 128, shape, "int8"),
                       quantization=([scales[n]], [changes.get("weights_zero", 0)], 0))

    inputs = [x, *(constant(n) for n in range(8)), *[OPTIONAL] * 3]
    inputs += [m.const(rng.integers(-3000, 3000, HIDDEN, "int32"),
                       quantization=([0.02 * scales[n]], [0], 0)) for n in range(4)]
    inputs += [OPTIONAL, OPTIONAL]
    inputs.append(m.tensor("h", (SAMPLES, HIDDEN), "int8", variable=True,
                           quantization=changes.get("state", out)))
    inputs.append(m.tensor("c", (SAMPLES, HIDDEN), "int16", variable=True,
                           quantization=([cell], [0], 0)))
    inputs += [OPTIONAL] * 4
    if changes.get("coupled"):
        inputs[1] = inputs[5] = inputs[12] = OPTIONAL
    # hidden stands for the state before a projection, which there is none of
    inner = [m.tensor(f"gate{n}", (0,), "float32") for n in range(4)]
    inner.append(m.tensor("hidden", (0,), "int8", quantization=changes.get("hidden", out)))
    y = m.op(LSTM, inputs, TABLE[LSTM], out="int8", quantization=out, intermediates=inner,
             FusedActivationFunction=4, CellClip=clip)
    return m, y, rng.integers(-128, 128, (SAMPLES, STEPS, INPUTS), "int8")


@pytest.mark.parametrize("seed, options", [
    (0, {}), (1, {"cell": 2.0**-11, "zero": 0}), (2, {"clip": 1.5}), (3, {"cell": 2.0**-15})])
def test_integers_are_those_of_litert(seed, options, tmp_path):
    m, y, x = integers(seed, **options)
    graph = load(m.finish([y]), tmp_path)
    found, = reference.execute(graph, {"x0": x}).values()
    want, = LiteRt(tmp_path / "m.tflite").run({"x0": x}).values()
    assert np.array_equal(found, want)
    assert len(np.unique(found)) > 10


def test_integers_on_a_device(device, tmp_path):
    """The same bits, through the lowered model."""
    from edgerun import loader
    from edgerun.session import Session
    from edgerun.tools.pack import pack
    m, y, x = integers()
    (tmp_path / "m.tflite").write_bytes(m.finish([y]))
    pack(tmp_path / "m.tflite", tmp_path / "m.edge")
    want, = LiteRt(tmp_path / "m.tflite").run({"x0": x}).values()
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        found, = session.run({"x0": x}).values()
        codes = [op.code for op in session.model.ops]
    assert np.array_equal(found, want)
    assert set(codes) <= {"dense", "lstm", "transpose"}, codes


def damaged(place: int, what: str, **options):
    """A model whose input number `place` is `what`: left out, of another shape, computed."""
    m, outputs, _ = model(**options)
    op = m.ops[-1]
    if what == "missing":
        op.inputs[place] = OPTIONAL
    elif what == "shape":
        op.inputs[place] = m.const(random((3, 2)))
    elif what == "given":
        op.inputs[place] = m.const(random((HIDDEN, HIDDEN)))
    elif what == "computed":
        op.inputs[place] = m.input((HIDDEN, INPUTS))
    return m, outputs


REFUSED = [
    (16, "given", {}, "projects its state"), (20, "given", {}, "normalizes its gates"),
    (2, "missing", {}, "input 2 is missing"), (13, "missing", {}, "input 13 is missing"),
    (2, "shape", {}, r"weights have the shape \(3, 2\), needed \(7, 5\)|\(3, 2\)"),
    (6, "shape", {}, r"weights have the shape \(3, 2\), needed \(7, 7\)"),
    (13, "shape", {}, "a bias has another shape"), (2, "computed", {}, "needed a constant"),
    (18, "given", {}, "is no variable"), (18, "missing", {}, "its state, is missing"),
    (0, "", {"FusedActivationFunction": 1}, "has the activation 1"),
    (39, "given", {"kind": BOTH}, "has an auxiliary input"),
    (0, "", {"kind": "UNIDIRECTIONAL_SEQUENCE_RNN", "FusedActivationFunction": 5},
     "has the activation 5")]


@pytest.mark.parametrize("place, what, options, message", REFUSED)
def test_refused(place, what, options, message, tmp_path):
    m, outputs = damaged(place, what, **options)
    with pytest.raises((ModelError, UnsupportedError), match=message) as caught:
        load(m.finish(outputs), tmp_path)
    assert options.get("kind", LSTM) in str(caught.value)


@pytest.mark.parametrize("options, message", [
    ({"coupled": True}, "has no input gate"), ({"weights_zero": 4}, "without zero points"),
    ({"state": ([0.5], [0], 0)}, "different scales"),
    ({"hidden": ([0.5], [0], 0)}, "different scales")])
def test_integers_that_are_refused(options, message, tmp_path):
    m, y, _ = integers(**options)
    with pytest.raises(UnsupportedError, match=message):
        load(m.finish([y]), tmp_path)
