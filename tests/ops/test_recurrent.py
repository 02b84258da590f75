"""Steps of recurrent layers against NumPy, and the reference against PyTorch's definition."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op
from tests.ops.test_copy import as_gpu

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def arrays(code: str, steps: int, samples: int, hidden: int, bias: bool, state: bool) -> list:
    rng = np.random.default_rng(steps * 100 + hidden)
    gates = GATES[code]

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    inputs = [numbers(steps, samples, gates * hidden),
              Const(numbers(hidden, gates * hidden) / np.float32(np.sqrt(hidden)))]
    if code != "rnn":
        inputs.append(Const(numbers(3 * hidden if code == "lstm" else hidden)) if bias else None)
    else:
        inputs.append(None)
    inputs.append(numbers(samples, hidden) if state else None)
    if code == "lstm":
        inputs.append(numbers(samples, hidden) if state else None)
    return inputs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("code", GATES)
@pytest.mark.parametrize("steps, samples, hidden, bias, state, options", [
    (1, 1, 1, False, False, {}), (3, 2, 7, True, True, {}), (5, 1, 16, False, True, {}),
    (4, 3, 37, True, False, {"reverse": True}), (2, 1, 128, True, True, {"clip": 0.5})])
def test_steps(device, code, steps, samples, hidden, bias, state, options, precision):
    if code == "rnn":
        options = {**options, "activation": "tanh"}
    tolerance = 1e-5 if precision == "fp32" else 8e-3  # states are rounded in every step
    check_op(device, code, arrays(code, steps, samples, hidden, bias, state), tolerance, precision,
             **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [{}, {"reverse": True, "clip": 0.7}])
def test_a_state_that_is_reset_first(device, options, precision):
    for state in (False, True):
        check_op(device, "gru", arrays("gru", 3, 2, 19, False, state),
                 1e-5 if precision == "fp32" else 8e-3, precision, reset_first=True, **options)


@pytest.mark.parametrize("options", [{"cell_clip": 0.25}, {"levels": 127}, {"levels": 5}])
def test_a_rounded_state_and_a_clipped_cell(device, options):
    inputs = arrays("lstm", 1, 2, 19, False, True)
    check_op(device, "lstm", inputs, 1e-5, **options)
    found = check_op(device, "lstm", arrays("lstm", 4, 1, 12, False, False), 2e-3, "fp16",
                     cell_clip=0.125)
    assert np.abs(found["y1"]).max() == 0.125


def test_a_state_of_zeros_is_not_divided_by(device):
    p, w, *_ = arrays("lstm", 2, 1, 7, False, False)
    zeros = np.zeros((1, 7), np.float32)
    check_op(device, "lstm", [p, w, None, zeros, zeros], 1e-5, levels=127)


def test_a_relu_network(device):
    check_op(device, "rnn", arrays("rnn", 4, 2, 9, False, True), 1e-5, activation="relu")


def test_many_steps(device):
    """100 steps of a real size: errors do not grow."""
    check_op(device, "lstm", arrays("lstm", 100, 1, 128, False, True), 1e-4)


@pytest.mark.parametrize("code", GATES)
def test_launches_for_a_gpu(device, monkeypatch, code):
    as_gpu(device, monkeypatch)
    check_op(device, code, arrays(code, 3, 2, 13, False, True), 1e-5)


REFUSED = {
    "gates": ("lstm", [(2, 1, 12), (4, 16)], {}, "needed 16 in the last axis"),
    "weights": ("gru", [(2, 1, 12), (4, 16)], {}, r"needed \(4, 12\)"),
    "state": ("gru", [(2, 1, 12), (4, 12), None, (2, 4)], {}, r"a state has the shape \(2, 4\)"),
    "bias": ("gru", [(2, 1, 12), (4, 12), (12,)], {}, r"needed \(4,\)"),
    "bias of an rnn": ("rnn", [(2, 1, 4), (4, 4), (4,)], {}, "has a bias"),
    "clip": ("rnn", [(2, 1, 4), (4, 4)], {"clip": -1.0}, "clip -1.0, needed a finite number"),
    "clip of a cell": ("rnn", [(2, 1, 4), (4, 4)], {"cell_clip": 1.0}, "belong to an lstm"),
    "infinite clip": ("lstm", [(2, 1, 16), (4, 16)], {"cell_clip": np.inf}, "cell clip inf"),
    "levels": ("lstm", [(2, 1, 16), (4, 16)], {"levels": 40_000}, "has 40000 levels"),
    "activation": ("rnn", [(2, 1, 4), (4, 4)], {"activation": "no"}, "unknown activation"),
    "reset": ("lstm", [(2, 1, 16), (4, 16)], {"reset_first": True}, "which a gru without"),
    "steps": ("rnn", [(20_000, 1, 4), (4, 4)], {}, "20000 steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    code, shapes, options, message = REFUSED[name]
    graph = Graph()
    inputs = [None if shape is None else graph.input(f"x{i}", shape, "fp32")
              for i, shape in enumerate(shapes)]
    with pytest.raises(ModelError, match=message):
        graph.add(code, inputs, **options)
