"""ONNX LSTM, GRU and RNN against ONNX Runtime, and PyTorch's through its exporter's conventions."""
from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, codes, floats, ints, model_of

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, N, I, H = 5, 2, 3, 4


def parts(op: str, directions: int = 1) -> tuple[dict, dict]:
    """Return x, and the constants of a node."""
    width = GATES[op] * H
    constants = {"W": floats(directions, width, I), "R": floats(directions, width, H),
                 "B": floats(directions, 2 * width)}
    return {"x": floats(T, N, I)}, constants


def outputs(op: str) -> tuple[str, ...]:
    return ("y", "h", "c")[:3 if op == "LSTM" else 2]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_directions(op, direction):
    directions = 2 if direction == "bidirectional" else 1
    inputs, constants = parts(op, directions)
    inputs["h0"] = floats(directions, N, H)
    names = ["x", "W", "R", "B", "", "h0"]
    if op == "LSTM":
        inputs["c0"] = floats(directions, N, H)
        names.append("c0")
    check(make_node(op, names, outputs(op), hidden_size=H, direction=direction), inputs, constants,
          outputs=outputs(op))


@pytest.mark.parametrize("op", GATES)
def test_fewest_inputs(op):
    inputs, constants = parts(op)
    del constants["B"]
    node = make_node(op, ["x", "W", "R"], ["y"], hidden_size=H)
    graph = check(node, inputs, constants)
    assert codes(graph).count(op.lower()) == 1


def test_a_gru_that_resets_after_the_product():
    inputs, constants = parts("GRU")
    check(make_node("GRU", ["x", "W", "R", "B"], ["y", "h"], hidden_size=H, linear_before_reset=1),
          inputs, constants, outputs=("y", "h"))


def test_peepholes_and_clip():
    inputs, constants = parts("LSTM")
    constants["P"] = floats(1, 3 * H)
    check(make_node("LSTM", ["x", "W", "R", "B", "", "", "", "P"], ["y", "h", "c"], hidden_size=H,
                    clip=0.8), inputs, constants, outputs=("y", "h", "c"))


@pytest.mark.parametrize("activation, more", [
    ("Relu", {}), ("Sigmoid", {}), ("Softsign", {}), ("LeakyRelu", {"activation_alpha": [0.3]}),
    ("HardSigmoid", {}), ("Affine", {"activation_alpha": [0.5], "activation_beta": [0.1]})])
def test_functions_of_an_rnn(activation, more):
    inputs, constants = parts("RNN")
    check(make_node("RNN", ["x", "W", "R", "B"], ["y"], hidden_size=H, activations=[activation],
                    **more), inputs, constants)


def test_states_that_are_0_need_no_tensor():
    inputs, constants = parts("LSTM")
    constants |= {"h0": np.zeros((1, N, H), np.float32), "c0": np.zeros((1, N, H), np.float32)}
    graph = check(make_node("LSTM", ["x", "W", "R", "B", "", "h0", "c0"], ["y"], hidden_size=H),
                  inputs, constants)
    assert [len(op.inputs) for op in graph.ops if op.code == "lstm"] == [2]


def test_lengths_that_are_those_of_the_input():
    inputs, constants = parts("GRU")
    constants["lengths"] = ints(T, T).astype(np.int32)
    check(make_node("GRU", ["x", "W", "R", "B", "lengths"], ["y"], hidden_size=H), inputs,
          constants)


@pytest.mark.parametrize("op", GATES)
def test_samples_first(op):
    """Layout 1, which ONNX Runtime has not: the same node with axes swapped by hand."""
    inputs, constants = parts(op, 2)
    swapped = [make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
               make_node(op, ["xt", "W", "R", "B"], ["yt", "ht"], hidden_size=H,
                         direction="bidirectional"),
               make_node("Transpose", ["yt"], ["y"], perm=[2, 0, 1, 3]),
               make_node("Transpose", ["ht"], ["h"], perm=[1, 0, 2])]
    x = {"x": inputs["x"].transpose(1, 0, 2).copy()}
    from tests.tools.onnx_models import runtime
    expected = runtime(model_of(swapped, x, constants, 14, ("y", "h")), x)
    check(make_node(op, ["x", "W", "R", "B"], ["y", "h"], hidden_size=H, layout=1,
                    direction="bidirectional"), x, constants, 14, ("y", "h"), expected=expected)


REFUSED = {
    "lengths": ({"lengths": ints(3, T).astype(np.int32)}, {}, UnsupportedError,
                r"lengths \[3, 5\], needed 5 for all"),
    "activations": ({}, {"activations": ["Relu", "Tanh"]}, UnsupportedError,
                    "its activations are relu, tanh, needed sigmoid, tanh"),
    "weights": ({"R": floats(1, 3 * H, H + 1)}, {}, ModelError, r"R has the shape \(1, 12, 5\)"),
    "bias": ({"B": floats(1, 3 * H)}, {}, ModelError,
             r"B has the shape \(1, 12\), needed \(1, 24\)"),
    "bias of one dimension": ({"B": floats(6 * H)}, {}, ModelError,
                              r"B has the shape \(24,\), needed \(1, 24\)"),
    "direction": ({}, {"direction": "sideways"}, ModelError, "direction 'sideways'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    given, attributes, error, message = REFUSED[name]
    inputs, constants = parts("GRU")
    constants |= {"lengths": ints(T, T).astype(np.int32), **given}
    node = make_node("GRU", ["x", "W", "R", "B", "lengths"], ["y"], hidden_size=H, **attributes)
    with pytest.raises(error, match=message):
        import_proto(model_of(node, inputs, constants))


@pytest.mark.parametrize("op, given, attributes, message", [
    ("RNN", {}, {"activations": ["Tanh"]}, "activations has 1 names, needed 2"),
    ("LSTM", {}, {"activations": ["Sigmoid", "Tanh", "Tanh"]}, "has 3 names, needed 6"),
    ("LSTM", {"P": floats(3 * H)}, {}, r"P has the shape \(12,\), needed \(2, 12\)")])
def test_both_directions_need_theirs(op, given, attributes, message):
    inputs, constants = parts(op, 2)
    names = ["x", "W", "R", "B"] + (["", "", "", "P"] if given else [])
    node = make_node(op, names, ["y"], hidden_size=H, direction="bidirectional", **attributes)
    with pytest.raises(ModelError, match=message):
        import_proto(model_of(node, inputs, constants | given))


def test_weights_that_are_computed():
    inputs, constants = parts("GRU")
    inputs["W"] = constants.pop("W")
    with pytest.raises(UnsupportedError, match="weights W is computed at run time"):
        import_proto(model_of(make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=H), inputs,
                              constants))
