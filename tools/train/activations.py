"""Schemes for activations: modules that stand where a tensor is rounded.

Each knows `quantization()`: scale, zero point, and the range of integers, with which the exporter
writes QuantizeLinear and DequantizeLinear; Sign becomes a Binarize.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgerun.tools.train import codes
from edgerun.tools.train.weights import through


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point); integers 0..levels, signed -levels-1..levels."""
    scale: float
    zero_point: int
    levels: int
    signed: bool = False


class Activations(nn.Module):
    """A tensor that stays as it is; the base of every scheme."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def quantization(self) -> Quantization | None:
        """Return how the file rounds this tensor; None: not at all."""
        return None


class Pixels(Activations):
    """Pixels in 0..1 that were bytes: rounding changes nothing, but the file computes on bytes."""

    def quantization(self) -> Quantization:
        return Quantization(1 / 255, 0, 255)


class Clipped(Activations):
    """clip(x, 0, high) in 2^bits - 1 even steps: DoReFa's with high 1; learned: PACT's.

    Choi et al., "PACT", 2018: the gradient of `high` is the sum of those beyond it.
    """

    def __init__(self, bits: int, high: float = 1.0, learned: bool = False):
        super().__init__()
        self.bits = bits
        value = torch.tensor(float(high))
        self.high = nn.Parameter(value) if learned else value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = 2 ** self.bits - 1
        high = self.high
        clipped = torch.minimum(x.clamp(min=0), high) if isinstance(high, nn.Parameter) \
            else x.clamp(0, float(high))
        step = high.detach() / top
        return through((clipped / step).round() * step, clipped)

    def quantization(self) -> Quantization:
        return Quantization(self.high.item() / (2 ** self.bits - 1), 0, 2 ** self.bits - 1)


class Ranged(Activations):
    """2^bits even levels from the least to the largest value, as cyclic precision training has it.

    Training takes the batch's mean of the samples' extremes and keeps a running mean of them
    (momentum 0.9), which evaluation uses. The range is made to hold 0.
    """

    def __init__(self, bits: int = 8, momentum: float = 0.9):
        super().__init__()
        self.bits, self.momentum = bits, momentum
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("seen", torch.tensor(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            flat = x.detach().flatten(1)
            now = torch.stack([flat.amin(1).mean().clamp(max=0), flat.amax(1).mean().clamp(min=0)])
            keep = self.momentum if bool(self.seen) else 0.0
            self.range.copy_(keep * self.range + (1 - keep) * now)
            self.seen.fill_(True)
        else:
            now = self.range
        top = 2 ** self.bits - 1
        scale = ((now[1] - now[0]) / top).clamp(min=1e-12)
        zero = (-now[0] / scale).round()
        clipped = torch.maximum(torch.minimum(x, (top - zero) * scale), -zero * scale)
        return through((clipped / scale).round() * scale, clipped)

    def quantization(self) -> Quantization:
        low, high = self.range.tolist()
        top = 2 ** self.bits - 1
        scale = max((high - low) / top, 1e-12)
        return Quantization(scale, round(-low / scale), top)


class FixedPoint(Activations):
    """Dynamic fixed point: signed, a fraction length from a running mean of the largest value."""

    def __init__(self, bits: int = 8, momentum: float = 0.99):
        super().__init__()
        self.bits, self.momentum = bits, momentum
        self.register_buffer("largest", torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            now = x.detach().abs().max()
            keep = self.momentum if float(self.largest) else 0.0
            self.largest.copy_(keep * self.largest + (1 - keep) * now)
        half, step = 2 ** (self.bits - 1), self.quantization().scale
        clipped = x.clamp(-half * step, (half - 1) * step)
        return through((clipped / step).round() * step, clipped)

    def quantization(self) -> Quantization:
        fraction = codes.fraction_bits(float(self.largest), self.bits)
        return Quantization(2.0 ** -fraction, 0, 2 ** (self.bits - 1) - 1, signed=True)


class Sign(Activations):
    """+1 where x >= 0, else -1; the gradient passes where |x| <= 1 (Courbariaux et al., 2016)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return through(torch.where(x >= 0, 1.0, -1.0), x.clamp(-1, 1))
