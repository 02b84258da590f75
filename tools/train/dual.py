"""Dual precision: weights whose first bits are a network of their own.

A weight is an integer of `high` bits; its first t bits, rounded down, are the weight of a lower
precision, with an offset for what rounding down takes away:

    w ~ s * q                        q in [-2^(H-1), 2^(H-1) - 1]
    w ~ s * 2^(H-t) * (q_t + o_t)    q_t = q >> (H-t),  o_t = 1/2 - 2^-(H-t+1)

After Park, Choi, Ko, "Dual Precision Deep Neural Network", 2020, of which only the abstract could
be read: nesting of bits, what the two phases freeze, and a normalization per precision are ours.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgerun.tools.train.codes import Codes, prefixes
from edgerun.tools.train.layers import affine, layers_of
from edgerun.tools.train.weights import Weights, array, through

CLIPS = np.linspace(0.2, 1, 41)  # shares of the largest weight that clipped_scale() tries
LEAST_GAIN = 1e-3  # of a normalization: precisions that share codes cannot differ in sign


def floor_offset(high: int, bits: int) -> float:
    """Return the offset of the first `bits` bits of `high`: the mean of what rounding down took."""
    return 0.0 if bits >= high else 0.5 - 2.0 ** -(high - bits + 1)


def prefix(codes: torch.Tensor, high: int, bits: int) -> torch.Tensor:
    """Return the integers that the first `bits` of `high` bits are: rounded down."""
    return torch.floor(codes / 2 ** (high - bits))


def cell(low_codes: torch.Tensor, high: int, low: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest code of `high` bits that begin with these `low` bits."""
    first = low_codes * 2 ** (high - low)
    return first, first + 2 ** (high - low) - 1


def quantize(weights: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Return integers of `bits` bits, in fp32: round(w / scale), clipped; scale broadcasts."""
    return torch.round(weights / scale).clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1)


def prefix_weights(codes: torch.Tensor, scale: torch.Tensor, high: int, bits: int) -> torch.Tensor:
    """Return the real weights that the first `bits` bits of codes stand for."""
    step = scale * 2 ** (high - bits)
    return step * (prefix(codes, high, bits) + floor_offset(high, bits))


def clipped_scale(weights: torch.Tensor, high: int, bits: int) -> torch.Tensor:
    """Return the scale per output channel that leaves the least squared error at a precision.

    Args:
        weights: [OC, ...].
        high: bits of the codes that the scale is for.
        bits: the precision whose error counts: the first bits of the codes.

    Returns:
        fp32 [OC, 1, ...], positive.
    """
    rows = weights.detach().reshape(len(weights), -1)
    largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-8) / 2 ** (high - 1)
    best, error = largest.clone(), torch.full_like(largest, torch.inf)
    for share in CLIPS:
        scale = largest * float(share)
        found = prefix_weights(quantize(rows, scale, high), scale, high, bits)
        squares = (found - rows).square().sum(1, keepdim=True)
        best, error = torch.where(squares < error, scale, best), torch.minimum(error, squares)
    return best.reshape(-1, *[1] * (weights.dim() - 1))


class Nested(Weights):
    """Weights that are seen through the first bits of their integers.

    Gradients pass straight through rounding, and stop where clipping begins.

    Attributes:
        mode: how many bits forward() looks at.
        scale: of the codes of all bits, [OC, 1, ...]; it stays.
        first, last: the cell of each weight, in codes: all codes, until freeze().
    """

    def __init__(self, w: torch.Tensor, high: int, fitted: int | None = None):
        """Choose the scale that fits real weights best at `fitted` bits (all of them)."""
        super().__init__()
        self.high, self.mode = high, high
        self.register_buffer("scale", clipped_scale(w, high, fitted or high))
        self.register_buffer("first", torch.full_like(w.detach(), -2 ** (high - 1)))
        self.register_buffer("last", torch.full_like(w.detach(), 2 ** (high - 1) - 1))

    def integers(self, w: torch.Tensor) -> torch.Tensor:
        """Return the codes of all bits, fp32, each in its cell."""
        return torch.round(w.detach() / self.scale).clamp(self.first, self.last)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        inside = w.clamp(self.first * self.scale, self.last * self.scale)
        return through(prefix_weights(self.integers(w), self.scale, self.high, self.mode), inside)

    def codes(self, w: torch.Tensor) -> Codes:
        rows = prefixes(array(self.scale.flatten()), 0.0, self.high, "twos", len(w))
        return Codes(array(self.integers(w)).astype(np.int16), self.high, "twos", *rows)

    def settle(self, w: torch.Tensor) -> None:
        w.clamp_(self.first * self.scale, self.last * self.scale)

    def freeze(self, w: torch.Tensor, low: int) -> None:
        """From now on the first `low` bits stay what they are: each weight keeps to its cell."""
        self.first, self.last = cell(prefix(self.integers(w), self.high, low), self.high, low)


class Norms(nn.Module):
    """A batch normalization per precision, of the layer in front of it.

    Attributes:
        mode: bits of the precision that forward() normalizes.
        norms: str(bits) -> BatchNorm.
    """

    def __init__(self, norm: nn.Module, modes: Sequence[int]):
        """Start every precision with a copy of one normalization, [OC] channels."""
        super().__init__()
        self.mode, self.norms = max(modes), nn.ModuleDict()
        for bits in modes:
            self.norms[str(bits)] = type(norm)(norm.num_features)
            self.norms[str(bits)].load_state_dict(norm.state_dict())

    def __getitem__(self, bits: int) -> nn.Module:
        return self.norms[str(bits)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self[self.mode]
        with torch.no_grad():
            norm.weight.clamp_(min=LEAST_GAIN)
        return norm(x)

    def fold(self, planes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and shift [OC], fp64, when so many planes are used.

        A number of planes that has no normalization takes that of the next higher one that has.
        """
        modes = sorted(map(int, self.norms))
        return affine(self[next((bits for bits in modes if bits >= planes), modes[-1])], planes)


def norms_of(network: nn.Module) -> Iterator[Norms]:
    """Yield the normalizations that have precisions, in order."""
    return (module for module in network.modules() if isinstance(module, Norms))


def nest(network: nn.Sequential, high: int, modes: Sequence[int], fitted: int | None = None
         ) -> None:
    """Give precisions to every layer and batch normalization of a network of real weights.

    Args:
        high: bits of the codes.
        modes: precisions to have, each at most `high`; the first is in use then.
        fitted: precision that the scale fits best (default: all bits).
    """
    for layer in layers_of(network):
        layer.scheme = Nested(layer.weight, high, fitted)
    for at, module in enumerate(network):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            network[at] = Norms(module, modes)
    use(network, modes[0])


def use(network: nn.Module, bits: int) -> None:
    """Let a network compute with the first bits of its weights."""
    for module in (*(layer.scheme for layer in layers_of(network)), *norms_of(network)):
        module.mode = bits


def freeze(network: nn.Module, low: int, high: int) -> None:
    """Begin the second phase: the low precision stays as it is, bit for bit.

    Every weight keeps its first `low` bits, their normalizations are trained no more, and those of
    the high precision start from them. The high precision is in use then.
    """
    for layer in layers_of(network):
        layer.scheme.freeze(layer.weight, low)
    for norm in norms_of(network):
        norm[high].load_state_dict(norm[low].state_dict())
        for parameter in norm[low].parameters():
            parameter.requires_grad_(False)
    use(network, high)


@torch.no_grad()
def observe(network: nn.Module, bits: int, x: torch.Tensor, batch: int = 100) -> None:
    """Let the normalizations of a precision that was not trained see what it computes for x."""
    use(network, bits)
    network.train()
    for part in x.split(batch):
        network(part)
    network.eval()


def joint(modes: Sequence[int]):
    """Return an objective: the sum of the losses of all precisions, with recursive targets.

    The highest precision learns the labels, every lower one the answer of the next higher one (Yu
    et al., "Any-precision deep neural networks", 2021).

    Args:
        modes: precisions, the highest first.
    """
    def objective(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss, target = x.new_zeros(()), y
        for bits in modes:
            use(network, bits)
            logits = network(x)
            loss = loss + functional.cross_entropy(logits, target)
            target = logits.detach().softmax(1)
        return loss

    return objective
