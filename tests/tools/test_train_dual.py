"""Dual precision: cells, offsets and frozen bits of nested weights."""
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install edgerun[train]")

from torch import nn

from edgerun.tools.train import dual, layers, loop


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("high, bits", [(8, 4), (8, 2), (8, 1), (8, 7), (6, 3), (4, 4)])
def test_cells_partition_all_codes(high, bits):
    """Every code is in the cell of its first bits, and the offset is the mean of a cell."""
    codes = torch.arange(-2 ** (high - 1), 2 ** (high - 1)).float()
    low = dual.prefix(codes, high, bits)
    assert (low == (codes.to(torch.int64) >> (high - bits)).float()).all()
    first, last = dual.cell(low, high, bits)
    assert ((first <= codes) & (codes <= last)).all()
    assert (first[1:] > last[:-1]).sum() == 2 ** bits - 1
    middle = (first + last) / 2
    assert (middle == 2 ** (high - bits) * (low + dual.floor_offset(high, bits))).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_scale_is_the_best_of_those_tried(bits):
    weights = normal(5, 3, 3, 3)
    scale = dual.clipped_scale(weights, 8, bits)
    assert scale.shape == (5, 1, 1, 1)

    def errors(scale: torch.Tensor) -> torch.Tensor:
        seen = dual.prefix_weights(dual.quantize(weights, scale, 8), scale, 8, bits)
        return (seen - weights).square().sum((1, 2, 3))

    largest = weights.abs().amax((1, 2, 3), keepdim=True) / 128
    for share in dual.CLIPS:
        assert (errors(scale) <= errors(largest * float(share)) * (1 + 1e-5)).all()


def test_gradients_pass_through_rounding_and_stop_at_the_clip():
    w = normal(4, 6)
    nested = dual.Nested(w, 8, 2)
    w[0, 0] = 200 * nested.scale[0, 0]
    w.requires_grad_(True)
    for nested.mode in (8, 4, 2):
        w.grad = None
        nested(w).sum().backward()
        assert w.grad[0, 0] == 0 and w.grad[1:].sum() > 0
        assert set(w.grad.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_what_is_computed(bits):
    w = normal(4, 3, 3, 3)
    nested = dual.Nested(w, 8, 4)
    nested.mode = bits
    assert np.allclose(nested.codes(w).decode(bits), nested(w).numpy(), atol=1e-6)


def test_the_second_phase_keeps_the_low_precision():
    """Steps as wild as they may be move no bit of the low precision, and some of the high one."""
    w = normal(8, 50)
    nested = dual.Nested(w, 8, 4)
    nested.mode = 4
    low, high = nested(w), nested.integers(w)
    nested.freeze(w, 4)
    for step in range(5):
        w += 30 * nested.scale * normal(8, 50) * (-1) ** step
        assert torch.equal(nested(w), low)  # before the weights are put back, too
        nested.settle(w)
        assert torch.equal(nested(w), low)
    assert not torch.equal(nested.integers(w), high)


def small(modes: tuple[int, ...]) -> nn.Sequential:
    """Return x [N, 1, 6, 6] -> [N, 10] at these precisions, with normalizations that differ."""
    torch.manual_seed(0)
    network = nn.Sequential(layers.Conv(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                            nn.Flatten(), layers.Dense(144, 10), nn.BatchNorm1d(10))
    dual.nest(network, 8, modes, 4)
    with torch.no_grad():
        for norms in dual.norms_of(network):
            for number, bits in enumerate(modes, 1):
                norms[bits].running_mean += number
                norms[bits].running_var *= number
                norms[bits].weight *= number / 2
                norms[bits].bias -= number
    return network


def test_every_precision_has_its_normalization():
    network, x = small((8, 4)).eval(), normal(3, 1, 6, 6)
    conv, norms = network[0], network[1]
    for bits in (8, 4):
        dual.use(network, bits)
        factor, shift = norms.fold(bits)
        seen = conv(x) * torch.tensor(factor)[:, None, None] + torch.tensor(shift)[:, None, None]
        assert torch.allclose(seen.float(), norms(conv(x)), atol=1e-5)
    assert (norms.fold(6)[1] == norms.fold(8)[1]).all()
    assert (norms.fold(3)[1] == norms.fold(4)[1]).all()
    assert (norms.fold(4)[1] != norms.fold(8)[1]).all()


def test_two_phases_by_the_loop():
    """What the loop trains in the second phase leaves every bit of the low precision alone."""
    network, x, y = small((8, 4)), normal(40, 1, 6, 6).abs(), torch.arange(40) % 10
    dual.use(network, 4)
    dual.freeze(network, 4, 8)
    dual.use(network, 4)
    low = loop.outputs(network, x)
    dual.use(network, 8)
    high = loop.outputs(network, x)
    loop.train(network, x, y, epochs=2, batch=20, rate=0.1, log=None)
    assert not torch.allclose(loop.outputs(network, x), high, atol=0.1)
    dual.use(network, 4)
    assert torch.equal(loop.outputs(network, x), low)


def test_gains_stay_positive():
    """Precisions share codes: none of them can turn a channel's sign."""
    network = small((8, 4))
    norms = network[1]
    with torch.no_grad():
        norms[8].weight.neg_()
    network(normal(4, 1, 6, 6))
    assert (norms.fold(8)[0] > 0).all()


def test_joint_training_gives_every_precision_a_gradient():
    network, x, y = small((8, 4, 2)), normal(16, 1, 6, 6).abs(), torch.arange(16) % 10
    loss = dual.joint((8, 4, 2))(network.train(), x, y)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    dual.use(network, 8)
    assert loss > loop.cross_entropy(network, x, y)


def test_observing_changes_one_normalization_only():
    network, x = small((8, 4, 2)), normal(40, 1, 6, 6)
    before = [network[1][bits].running_mean.clone() for bits in (8, 4, 2)]
    dual.observe(network, 2, x)
    after = [network[1][bits].running_mean for bits in (8, 4, 2)]
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, True, False]
    assert not network.training
