"""Fastfood layers of PyTorch: their product, their gradients, and their export."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.tools import reference
from edgerun.tools.importers.onnx import load

torch = pytest.importorskip("torch", reason="PyTorch is not installed: layers for training are not "
                                            "tested")

from edgerun.tools.recipes import fastfood as recipe  # noqa: E402
from edgerun.tools.recipes import mnist  # noqa: E402
from edgerun.tools.recipes.kept import Kept  # noqa: E402
from edgerun.tools.train.fastfood import Fastfood, transform  # noqa: E402


@pytest.mark.parametrize("inputs, outputs", [(5, 3), (8, 8), (6, 20), (2, 2), (1, 1), (16, 33)])
def test_a_layer_is_a_product_of_matrices(inputs, outputs):
    layer = Fastfood(inputs, outputs, seed=3).double()
    x = torch.randn(4, inputs, dtype=torch.double)
    assert torch.allclose(layer(x), x @ layer.matrix().T + layer.bias)


@pytest.mark.parametrize("d", [2, 4, 8, 64, 128])
def test_the_transform_is_its_own_inverse(d):
    x = torch.randn(3, d, dtype=torch.double)
    assert torch.allclose(transform(transform(x)), x)
    assert np.allclose(transform(x).numpy(), reference.fastfood.hadamard(x.numpy()))


@pytest.mark.parametrize("adaptive", [True, False])
def test_gradients(adaptive):
    """Of the input, and of S, G, B and the bias where they are trained, by finite differences."""
    layer = Fastfood(6, 20, adaptive, seed=1).double()
    names = [name for name, _ in layer.named_parameters()]
    assert {*names} == {*("bgs" if adaptive else ()), "bias"}
    x = torch.randn(2, 3, 6, dtype=torch.double, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_what_is_drawn():
    """A random layer has entries of the variance 2 / inputs, hardly correlated."""
    found = Fastfood(800, 1024, adaptive=False, seed=4)
    assert set(found.b.unique().tolist()) == {-1.0, 1.0}
    matrix = found.matrix()
    assert abs(float(matrix.var()) * 400 - 1) < 0.05 and abs(float(matrix.mean())) < 1e-3
    neighbours = torch.corrcoef(matrix[:64]).abs() - torch.eye(64)
    assert float(neighbours.max()) < 0.2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_export(tmp_path, stored, bias):
    """One node; the file computes what the module does."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(Fastfood(13, 40, bias=bias, seed=9, stored=stored),
                                 torch.nn.Linear(40, 5))
    path, x = tmp_path / "m.onnx", torch.randn(1, 13)
    torch.onnx.export(module, (x,), str(path), dynamo=False, opset_version=13,
                      input_names=["x"], output_names=["y"], custom_opsets={"edgerun": 1})
    graph = load(path)
    layer = graph.ops[0]
    assert [op.code for op in graph.ops] == ["fastfood", "dense"]
    assert (len(layer.inputs) > 4 and layer.inputs[4] is not None) == stored
    found = reference.execute(graph, {"x": x.numpy()})["y"]
    assert np.allclose(found, module(x).detach().numpy(), atol=1e-5)


def test_trained_diagonals_have_a_rate_of_their_own():
    network = recipe.network("adaptive-1024", 1)
    (found, rate), = recipe.parts(network)
    assert {id(p) for p in found} == {id(p) for p in (network[5].b, network[5].g, network[5].s)}
    assert rate == recipe.DIAGONALS
    assert not recipe.parts(recipe.network("random-1024", 1))
    assert not recipe.parts(recipe.network("lenet", 1))


def test_a_network_that_was_trained_in_the_same_way_is_taken(tmp_path):
    """And none that was trained in another way, or with another seed."""
    made = []

    def make() -> torch.nn.Module:
        made.append(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)))
        return made[-1]

    def trained(seed: int = 1, **changes) -> torch.nn.Module:
        how = {"epochs": 1, "rate": 1e-3, "shift": 1} | changes
        return mnist.trained(Kept(tmp_path, "mnist", seed, True), "small", make, x, y, seed=seed,
                             **how)

    x, y = torch.rand(256, 1, 28, 28), torch.arange(256) % 10
    first = trained()
    assert len(made) == 1 and torch.equal(trained()[1].weight, first[1].weight) and len(made) == 1
    for changes in ({"seed": 2}, {"epochs": 2}, {"rate": 2e-3}, {"shift": 0}, {"bfloat16": True}):
        count = len(made)
        assert not torch.equal(trained(**changes)[1].weight, first[1].weight)
        assert len(made) == count + 1


def test_weights_of_the_networks():
    """As the paper counts them, without biases."""
    counted = {name: recipe.counts(recipe.network(name, 1)) for name in recipe.NAMES}
    assert counted["lenet"] == (430_500, 580, 400_000)
    assert counted["adaptive-1024"] == counted["random-1024"] == (38_812, 1_104, 3_072)
    assert counted["adaptive-2048"][0] == 52_124
