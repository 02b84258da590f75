"""What is made of K-TanH, where it is fused, and the pass that brings it in."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import Facts, elementwise
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from edgerun.tools.passes import ktanh as ktanh_pass
from edgerun.tools.reference.elementwise import UNARY
from tests.harness import Const, check_op, session_of
from tests.ops.test_int_ktanh import ALL, of_bf16, run

EXACT = {"ktanh": np.tanh, "ksigmoid": lambda x: 1 / (1 + np.exp(-x)),
         "kswish": lambda x: x / (1 + np.exp(-x)),
         "kgelu": lambda x: 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))}
WORST = {"ktanh": 0.0090, "ksigmoid": 0.0045, "kswish": 0.0143, "kgelu": 0.0072}  # over bf16


@pytest.mark.parametrize("kind", ["ksigmoid", "kswish", "kgelu"])
def test_what_is_made_of_it(device, kind):
    x = of_bf16(ALL)
    x = x[np.isfinite(x) & (np.abs(x) < 1e12) & ((np.abs(x) > 1e-12) | (x == 0))]
    assert np.array_equal(run(device, x, kind), UNARY[kind](x, 0, 0))


def test_errors():
    """The worst over all bf16, and over fp32, whose lower bits are cut off."""
    x = of_bf16(ALL)
    x = x[np.isfinite(x) & (np.abs(x) < 100)]
    for kind, exact in EXACT.items():
        y = UNARY[kind](x, 0, 0)
        assert y.dtype == np.float32
        worst = np.abs(y - exact(x.astype(np.float64))).max()
        assert 0.8 * WORST[kind] < worst <= WORST[kind], kind
    x = np.random.default_rng(0).uniform(-5, 5, 1 << 20).astype(np.float32)
    assert 0.0115 < np.abs(UNARY["ktanh"](x, 0, 0) - np.tanh(x)).max() < 0.0120


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_as_an_activation(device, kind, precision):
    """Sums of few multiples of 1/32 are exact, so no step is missed."""
    rng = np.random.default_rng(7)
    x, w = (rng.integers(-16, 17, shape).astype(np.float32) / 32 for shape in ((3, 5), (37, 5)))
    check_op(device, "dense", [x, Const(w), Const(np.zeros(37, np.float32))],
             2e-7 if precision == "fp32" else 1e-3, precision, activation=kind)


def grid(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-8, 9, shape).astype(np.float32) / 8


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("code, options", [
    ("lstm", {}), ("lstm", {"clip": 0.5}), ("gru", {}), ("gru", {"reset_first": True})])
def test_gates(device, code, options, precision):
    """One step, of sums that are exact; what goes into the last tanh is rounded on the way."""
    rng = np.random.default_rng(8)
    gates, hidden = {"lstm": 4, "gru": 3}[code], 19
    inputs = [grid(rng, 1, 2, gates * hidden), Const(grid(rng, hidden, gates * hidden)), None,
              grid(rng, 2, hidden)]
    if code == "lstm":
        inputs.append(grid(rng, 2, hidden))
    found = check_op(device, code, inputs, 0.009, precision, ktanh=True, **options)
    exact = check_op(device, code, inputs, 1e-5, precision, **options)
    apart = np.abs(found["y0"] - exact["y0"])
    assert 1e-4 < apart.max() < 0.03, "the gates are the exact ones"
    long = [np.repeat(inputs[0], 9, axis=0), *inputs[1:]]
    check_op(device, code, long, 0.02, precision, ktanh=True, reverse=True, **options)


def test_gates_that_have_no_such_form():
    graph = Graph("test")
    x, w = graph.input("x", (1, 1, 4), "fp32"), graph.constant(np.zeros((4, 4), np.float32))
    with pytest.raises(ModelError, match="ktanh, which for an rnn is an activation"):
        graph.add("rnn", [x, w], activation="tanh", ktanh=True)
    p = graph.input("p", (1, 1, 16), "int16")
    with pytest.raises(ModelError, match="levels or ktanh, which its integer form has not"):
        graph.add("lstm", [p, graph.constant(np.zeros((4, 16), np.int8))], ktanh=True)


def test_only_programs_that_use_it_have_its_text():
    graph = Graph("test")
    x = graph.input("x", (4,), "fp32")
    for kind in ("tanh", "ktanh"):
        graph.add("unary", [x], kind=kind)
    used = ["KTANH" in elementwise.unary(op, Facts())[0].defines for op in graph.ops]
    assert used == [False, True]


def network() -> Graph:
    """A dense layer with tanh, a GRU, a SiLU, and a mish and a clip that stay."""
    rng = np.random.default_rng(9)
    graph = Graph("test")
    x = graph.input("x", (3, 2, 8), "fp32")
    y = graph.add("dense", [x, graph.constant(rng.normal(size=(24, 8)).astype(np.float32))],
                  activation="tanh")
    y = graph.add("gru", [y, graph.constant(rng.normal(size=(8, 24)).astype(np.float32))])
    for kind in ("silu", "gelu", "mish"):
        y = graph.add("unary", [y], kind=kind)
    y = graph.add("binary", [y, x], kind="mul", activation="sigmoid")
    graph.output("y", graph.add("unary", [y], kind="clip", alpha=0.0, beta=1.0))
    return graph


def test_the_pass(device):
    graph = network()
    ktanh_pass.apply(graph)
    assert graph.notes == ["K-TanH approximates tanh in 1 gelu, 1 gru, 1 sigmoid, 1 silu, 1 tanh."]
    assert [op.options.get("kind") or op.options.get("activation") for op in graph.ops] == [
        "ktanh", "", "kswish", "kgelu", "mish", "mul", "clip"]
    assert graph.ops[1].options["ktanh"] and graph.ops[5].options["activation"] == "ksigmoid"
    x = np.random.default_rng(10).normal(size=(3, 2, 8)).astype(np.float32)
    exact = reference.execute(network(), {"x": x})["y"]
    with session_of(device, graph) as session:
        assert 1e-5 < np.abs(session.run({"x": x})["y"] - exact).max() < 0.02
    empty = Graph("test")
    empty.output("y", empty.add("unary", [empty.input("x", (4,), "fp32")], kind="relu"))
    ktanh_pass.apply(empty)
    assert "approximates nothing" in empty.notes[0]
