"""The choice of experts and the sum of their results against NumPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import check_op


def gates(batch: int, experts: int, seed: int = 0) -> np.ndarray:
    numbers = np.exp(np.random.default_rng(seed).normal(size=(batch, experts)) * 2)
    return (numbers / numbers.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("batch, experts, k, shape", [
    (1, 1, 1, (1,)), (1, 9, 3, (1, 25)), (1, 16, 4, (1, 2048)), (1, 7, 7, (1, 3, 5, 2)),
    (3, 5, 1, (3, 5001)), (17, 4, 2, (17, 3)), (40, 6, 5, (40,))])
def test_route(device, batch, experts, k, shape):
    found = check_op(device, "route", [gates(batch, experts)], 1e-6, k=k, shape=shape)
    weights, chosen = found["y0"], found["y2"]
    assert not found["y1"].any() and found["y1"].shape == shape
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert ((weights > 0).sum(1) == k).all()
    assert all((weights[s, chosen[s]] > 0).all() for s in range(batch))
    assert (batch == 1) == ("y3" not in found)


def test_the_lower_of_equal_gates(device):
    given = np.float32([[0.2, 0.3, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]])
    found = check_op(device, "route", [given], 1e-6, k=2, shape=(3, 1))
    assert found["y2"].tolist() == [[1, 2], [0, 1], [3, 0]]
    np.testing.assert_array_equal(found["y0"], np.float32(
        [[0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1]]))


def test_gates_that_are_no_numbers_come_last(device):
    """Whatever the gates are, the experts are k different ones that exist."""
    from tests.harness import session_of
    graph = Graph("test")
    op = graph.insert(0, "route", [graph.input("x", (2, 4), "fp32")], "y", k=3, shape=(2, 1))
    graph.output("chosen", op.outputs[2])
    with session_of(device, graph) as session:
        session.write([np.float32([[np.nan, 1, np.nan, 2], [np.nan] * 4])])  # run() would refuse it
        session.enqueue()
        found = session.read()["chosen"]
    assert found.tolist() == [[3, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize("gates, options, message", [
    (np.ones((1, 4), np.float32), {"k": 5, "shape": (1, 2)}, "chooses 5 of 4 experts"),
    (np.ones((1, 4), np.float32), {"k": 0, "shape": (1, 2)}, "chooses 0 of 4 experts"),
    (np.ones((2, 4), np.float32), {"k": 1, "shape": (1, 2)}, "needed 2 samples"),
    (np.ones((2, 4), np.float32), {"k": 1, "shape": ()}, "needed 2 samples"),
    (np.ones((1, 4), np.int32), {"k": 1, "shape": (1, 2)}, "is int32, needed fp32"),
    (np.ones(4, np.float32), {"k": 1, "shape": (1, 2)}, "needed 2 dimensions")])
def test_refused_routes(gates, options, message):
    graph = Graph("test")
    with pytest.raises(ModelError, match=message):
        graph.insert(0, "route", [graph.constant(gates)], "y", **options)


def summed(batch: int = 1, units: int = 7, **changed) -> Graph:
    """One route and one blend."""
    graph = Graph("test")
    route = graph.insert(0, "route", [graph.input("gates", (batch, 3), "fp32")], "r", k=1,
                         shape=(batch, units))
    slot = [graph.add("slice", [route.outputs[3]], "s", starts=(1,), steps=(1,), sizes=(1,))
            ] if batch > 1 else []
    x = graph.input("x", changed.get("x", (1, units)), changed.get("dtype", "fp32"))
    graph.output("y", graph.add("blend", [route.outputs[1], x, route.outputs[0], *slot][
        :changed.get("inputs", 4)], "y", expert=changed.get("expert", 1)))
    return graph


@pytest.mark.parametrize("changed, message", [
    ({"x": (1, 8)}, r"adds x of the shape \(1, 8\), needed \(1, 7\)"),
    ({"x": (2, 7)}, r"adds x of the shape \(2, 7\), needed \(1, 7\)"),
    ({"dtype": "int32"}, "x is int32, needed fp32 or fp16"),
    ({"expert": 3}, "is of expert 3, the weights are of 3"),
    ({"expert": -1}, "is of expert -1, the weights are of 3"),
    ({"batch": 2, "inputs": 3}, "has no slot for 2 samples")])
def test_refused_blends(changed, message):
    with pytest.raises(ModelError, match=message):
        summed(**changed)


def test_reference_of_a_blend():
    """The formula, by hand."""
    weights = np.float32([[0.25, 0.75, 0]])
    found = reference.execute(summed(), {"gates": weights, "x": np.full((1, 7), 2, np.float32)})
    np.testing.assert_array_equal(found["y"], np.full((1, 7), 2, np.float32))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_reference_of_an_expert_of_weight_0(value):
    """It adds nothing, whatever it says."""
    found = reference.execute(summed(expert=2), {
        "gates": np.float32([[0.25, 0.75, 0]]), "x": np.full((1, 7), value, np.float32)})
    assert not found["y"].any()
