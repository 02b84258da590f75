"""The lstm of integers against the reference, and the reference against TFLite's own kernel."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.graph import Graph, Op
from edgerun.tools.reference import fixed
from tests.harness import run_guarded, session_of
from tests.ops.test_copy import as_gpu

GATE = Quantization.per_tensor(2.0**-12)


def lstm(steps: int, samples: int, hidden: int, state: bool = False, bits: int = 3,
         scale: float = 1 / 128, zero: int = 130, **options) -> tuple[Graph, dict]:
    """A graph of one lstm, and inputs for it."""
    rng = np.random.default_rng(steps * 100 + hidden)
    graph, feeds = Graph("test"), {}

    def given(name: str, dtype: str, low: int, high: int, q: Quantization, *shape: int):
        feeds[name] = rng.integers(low, high, shape, dtype)
        tensor = graph.input(name, shape, dtype)
        tensor.quantization = q
        return tensor

    y, cell = Quantization.per_tensor(scale, zero), Quantization.per_tensor(2.0**(bits - 15))
    scales = np.repeat(np.float32([0.011, 0.004, 0.02, 0.007]), hidden)
    w = graph.constant(rng.integers(-127, 128, (hidden, 4 * hidden), "int8"), "w",
                       quantization=Quantization(scales, np.zeros(4 * hidden, np.int32), 1))
    inputs = [given("p", "int16", -20000, 20000, GATE, steps, samples, 4 * hidden), w]
    if state:
        inputs += [None, given("h", "uint8", 0, 256, y, samples, hidden),
                   given("c", "int16", -32768, 32767, cell, samples, hidden)]
    op = graph.insert(0, "lstm", inputs, "y", **options)
    for tensor, name, q in zip(op.outputs, ("y", "last"), (y, cell)):
        tensor.quantization = q
        graph.output(name, tensor)
    return graph, feeds


CASES = [(1, 1, 1, {}), (3, 2, 7, {"state": True}), (4, 1, 16, {"bits": 0}),
         (5, 3, 37, {"state": True, "reverse": True, "bits": 4}),
         (28, 1, 20, {"cell_clip": 3.0, "zero": 128}), (2, 2, 128, {"cell_clip": 10.0})]


@pytest.mark.parametrize("steps, samples, hidden, options", CASES)
def test_steps(device, steps, samples, hidden, options):
    graph, feeds = lstm(steps, samples, hidden, **options)
    expected = reference.execute(graph, feeds)
    with session_of(device, lstm(steps, samples, hidden, **options)[0]) as session:
        found = run_guarded(session, feeds)
    for name, want in expected.items():
        assert found[name].dtype == want.dtype
        assert np.array_equal(found[name], want), name


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    test_steps(device, 3, 2, 13, {"state": True})


@pytest.mark.parametrize("bits", range(5))
def test_functions_are_close_to_the_real_ones(bits):
    x = np.arange(-32768, 32768)
    real = x * 2.0**(bits - 15)
    assert np.abs(fixed.tanh(x, bits) / 2**15 - np.tanh(real)).max() < 4e-4
    assert np.abs(fixed.sigmoid(x, bits) / 2**15 - 1 / (1 + np.exp(-real))).max() < 4e-4


def changed(**changes) -> Op:
    graph, _ = lstm(2, 1, 4, state=True)
    op = graph.ops[0]
    for key, value in changes.items():
        if key == "option":
            op.options |= value
        elif key.startswith("dtype"):
            op.inputs[int(key[-1])].dtype = value
        elif key == "peepholes":
            op.inputs[2] = graph.constant(np.zeros(12, np.float32))
        elif key == "cell":
            op.outputs[1].quantization = value
        else:
            op.inputs[int(key[-1])].quantization = value
    return op


MIXED = Quantization(np.linspace(0.1, 1, 16, dtype=np.float32), np.zeros(16, np.int32), 1)
REFUSED = {
    "real weights": ({"dtype1": "fp32"}, "is fp32, needed int8"),
    "state": ({"dtype3": "int16"}, "is int16, needed uint8"),
    "cell": ({"dtype4": "uint8"}, "is uint8, needed int16"),
    "peepholes": ({"peepholes": 1}, "has peepholes"),
    "levels": ({"option": {"levels": 127}}, "clipped gates, levels or ktanh"),
    "clip": ({"option": {"clip": 1.0}}, "clipped gates, levels or ktanh"),
    "ktanh": ({"option": {"ktanh": True}}, "clipped gates, levels or ktanh"),
    "scale of p": ({"grid0": Quantization.per_tensor(0.1)}, "needed 2\\^-12"),
    "no scale of p": ({"grid0": None}, "needed one scale"),
    "scales of a gate": ({"grid1": MIXED}, "several scales in a gate"),
    "no scales": ({"grid1": None}, "weights without scales"),
    "scale of the cell": ({"cell": Quantization.per_tensor(2.0**-10)}, "a power of two"),
    "odd scale of the cell": ({"cell": Quantization.per_tensor(0.0003)}, "a power of two"),
    "scale of the state": ({"grid3": Quantization.per_tensor(0.1)}, "starts with a state"),
    "scale of the last cell": ({"grid4": Quantization.per_tensor(0.1)}, "starts with a cell"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changes, message = REFUSED[name]
    op = changed(**changes)
    with pytest.raises(ModelError, match=message):
        OPS["lstm"].infer(op)
        OPS["lstm"].prepare(op, Facts())


def test_only_an_lstm_has_integers():
    graph = Graph()
    with pytest.raises(ModelError, match="only an lstm"):
        graph.add("gru", [graph.input("p", (1, 1, 12), "int16"), graph.input("w", (4, 12), "int8")])
