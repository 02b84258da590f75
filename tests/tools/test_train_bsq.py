"""BSQ: planes of bits, what rounding strips, and how the lasso weighs."""
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install edgerun[train]")

from torch import nn

from edgerun.tools.train import bsq, layers, loop


NONE = torch.zeros(0)  # the layer's own weights, which planes do not use


def given(integers: list[int], count: int, scale: float = 1.0) -> bsq.Bits:
    """Return weights with these integers of `count` bits, w = scale * integer / (2^count - 1)."""
    weights = bsq.Bits(torch.ones(len(integers)), count)
    weights.store(torch.tensor(integers).float(), count)
    weights.scale = scale
    return weights


def test_bits_are_those_of_the_integers():
    weights = given([5, -6, 0, 255, -128], 8)
    assert weights.integers().tolist() == [5, -6, 0, 255, -128]
    assert weights.positive[:, 0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    assert weights.negative[:, 1].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert weights.positive.sum() == 2 + 8 and weights.negative.sum() == 2 + 1


def test_real_weights_become_eight_bits():
    real = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    weights = bsq.Bits(real)
    assert weights.scale == pytest.approx(float(real.abs().max()))
    assert torch.allclose(weights(NONE), real, atol=weights.scale / 510 * 1.001)
    assert (bsq.Bits(torch.zeros(3))(NONE) == 0).all()


@pytest.mark.parametrize("integers, count, want, left", [
    ([5, -3, 0], 8, [5, -3, 0], 3),          # empty planes at the top
    ([12, -8, 4], 8, [3, -2, 1], 2),         # at both ends
    ([16, 0, 0], 8, [1, 0, 0], 1),
    ([0, 0, 0], 8, [0, 0, 0], 0),            # one plane stays, and it holds nothing
    ([255, -1, 0], 8, [255, -1, 0], 8),      # nothing to strip
    ([5, 1, 0], 3, [5, 1, 0], 3)])           # an empty plane between others stays
def test_empty_planes_are_stripped_and_weights_stay(integers, count, want, left):
    weights = given(integers, count, 0.7)
    before = weights(NONE).detach()
    weights.requantize()
    assert weights.integers().tolist() == want and weights.bits_left == left
    assert weights.count == max(left, 1) and torch.allclose(weights(NONE), before, rtol=1e-6)
    assert set(weights.positive.unique().tolist()) <= {0.0, 1.0}
    assert not (weights.positive * weights.negative).any()


@pytest.mark.parametrize("count, want", [(3, 4), (8, 8)])
def test_sums_beyond_the_largest_get_a_plane_while_there_is_room(count, want):
    most = 2 ** count - 1
    weights = given([most, 1], count, 0.5)
    with torch.no_grad():
        weights.positive[0, 0] = 2  # the sum is most + 1
        weights.positive[1, 1] = 1  # 3: nothing to strip at the bottom
    weights.requantize()
    assert weights.count == want
    integers = [most + 1, 3] if want > count else [most, 3]
    assert weights.integers().tolist() == integers
    assert weights(NONE).tolist() == pytest.approx([0.5 * value / most for value in integers])


def test_the_gradient_passes_straight_to_every_bit():
    weights = given([5, -3], 3, 0.7)
    weights(NONE).sum().backward()
    want = 0.7 / 7 * np.array([1, 2, 4])
    assert np.allclose(weights.positive.grad.numpy(), want[:, None])
    assert np.allclose(weights.negative.grad.numpy(), -want[:, None])


def test_the_lasso_weighs_layers_by_their_memory():
    """alpha / P sum over layers of P_l n_l, times the lengths of the planes."""
    network = nn.Sequential(layers.Dense(3, 1), layers.Dense(1, 1))
    bsq.begin(network, 0.5)
    first, second = (layer.scheme for layer in layers.layers_of(network))
    first.store(torch.tensor([[3.0, -1, 0]]), 2)
    second.store(torch.tensor([[4.0]]), 3)
    want = 3 * 2 * (2 ** 0.5 + 1) + 1 * 3 * 1  # planes: two ones and one; 0, 0 and one
    found = first.penalty(NONE) + second.penalty(NONE)
    assert found.item() == pytest.approx(0.5 / 4 * want, abs=1e-3)
    found.backward()
    assert torch.isfinite(second.positive.grad).all()  # planes of zeros, too


def test_bits_stay_between_0_and_2():
    weights = given([5, -3], 3)
    with torch.no_grad():
        weights.positive += 5
        weights.negative -= 5
    weights.settle(NONE)
    assert weights.positive.max() == 2 and weights.negative.min() == 0
    assert weights.integers().abs().max() == 7


def network_of(integers: list[list[int]]) -> nn.Sequential:
    """Return a dense layer of bits that are these integers of 3 bits, with scale 0.7."""
    network = nn.Sequential(layers.Dense(len(integers[0]), len(integers)))
    bsq.begin(network, 0.0)
    network[0].scheme.store(torch.tensor(integers).float(), 3)
    network[0].scheme.scale = 0.7
    return network


def test_fine_tuning_starts_where_the_bits_ended():
    network = network_of([[5, -3, 0]])
    layer = network[0]
    before, integers = layer.scheme(NONE).detach(), layer.scheme.integers()
    bsq.fix(network)
    assert torch.equal(layer.scheme.integers(layer.weight), integers)
    assert torch.allclose(layer.scheme(layer.weight), before)
    layer.scheme(layer.weight).sum().backward()
    assert torch.allclose(layer.weight.grad, torch.tensor(0.7))
    with torch.no_grad():
        layer.weight += 3
        layer.scheme.settle(layer.weight)
    assert layer.scheme.integers(layer.weight).tolist() == [[7, 7, 7]]


def test_a_layer_of_no_planes_stays_one():
    network = network_of([[0, 0], [0, 0]])
    strip = bsq.Strip(10)
    assert not strip.after(network, 0, 5) and strip.after(network, 4, 5)
    assert strip.history == [[0]]
    bsq.fix(network)
    layer = network[0]
    with torch.no_grad():
        layer.weight += 1  # what an optimizer does to it has no effect
    assert (layer(torch.randn(3, 2)) == 0).all()
    assert layer.scheme.codes(layer.weight).bits == 0


@pytest.mark.parametrize("signs, bits", [("magnitude", 4), ("pairs", 3)])
def test_codes_are_what_is_computed(signs, bits):
    network = network_of([[5, -3, 0], [7, -7, 1]])
    layer = network[0]
    layer.scheme.signs = signs
    for _ in range(2):
        codes = layer.scheme.codes(layer.weight)
        assert (codes.bits, codes.signs) == (bits, signs)
        assert np.allclose(codes.decode(), layer.scheme(layer.weight).detach().numpy())
        bsq.fix(network) if isinstance(layer.scheme, bsq.Bits) else None


def test_the_loop_goes_on_with_new_planes():
    """A strong lasso leaves fewer planes, and the optimizer follows the new parameters."""
    torch.manual_seed(0)
    network = nn.Sequential(layers.Dense(8, 4))
    bsq.begin(network, 0.2)
    x = torch.randn(64, 8)
    y = x[:, :4].argmax(1)
    strip = bsq.Strip(8)
    loop.train(network, x, y, epochs=6, batch=8, rate=0.1, momentum=0.9, hooks=[strip], log=None)
    assert len(strip.history) == 6 and strip.history[-1][0] < strip.history[0][0] <= 8
    planes = network[0].scheme.positive.detach()
    assert ((planes == 0) | (planes == 1)).all() and len(planes) == max(strip.history[-1][0], 1)


def test_activations_take_the_batch_then_the_running_maximum():
    activation = bsq.Stepped(4)
    x = torch.tensor([-1.0, 0.26, 3.0])
    assert activation(x).tolist() == pytest.approx([0, 0.2, 3])  # steps of 3 / 15
    assert float(activation.reach) == pytest.approx(0.9 * 6 + 0.1 * 3)
    activation.eval()
    assert activation(torch.tensor([9.0])).tolist() == pytest.approx([5.7])
    grid = activation.quantization()
    assert (grid.scale, grid.zero_point, grid.levels) == (pytest.approx(5.7 / 15), 0, 15)
