"""Schemes for weights: what a layer computes with instead of its real weights, and the gradient.

A scheme is a module that belongs to one layer. The layer calls

    forward(w) -> the weights to compute with, straight-through to w (or to the scheme's parameters)
    codes(w)   -> the same weights as integers (tools.train.codes), for the file
    penalty(w) -> what the scheme adds to the loss (0)
    settle(w)  -> change w in place after a step of the optimizer
    progress(done, w) -> the part of the training that is done, 0 to 1, told before every step

and `bits` may be changed from step to step where a scheme has it (cyclic precision).
"""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgerun.tools.train import codes
from edgerun.tools.train.codes import Codes


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rounded, x):
        return rounded

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


def through(rounded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `rounded`, to the bit, with the gradient of x: the straight-through estimator."""
    return _Through.apply(rounded.detach(), x)


def per_channel(values: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Shape values [OC] so that they multiply w [OC, ...]."""
    return values.reshape(-1, *(1,) * (w.dim() - 1))


def array(w: torch.Tensor) -> np.ndarray:
    """Return a tensor's values as a NumPy array."""
    return w.detach().cpu().numpy()


class Weights(nn.Module):
    """Real weights; the base of every scheme."""

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w

    def codes(self, w: torch.Tensor) -> Codes | None:
        """Return the weights as integers, or None where they stay real."""
        return None

    def penalty(self, w: torch.Tensor) -> torch.Tensor | float:
        """Return what is added to the loss."""
        return 0.0

    def settle(self, w: torch.Tensor) -> None:
        """Change w in place after a step of the optimizer."""

    def progress(self, done: float, w: torch.Tensor) -> None:
        """Hear which part of the training is done, 0 to 1; called before every step."""


class Symmetric(Weights):
    """Whole steps of max|w| / (2^(bits-1) - 1), a step for each output channel."""

    def __init__(self, bits: int = 8):
        super().__init__()
        codes.symmetric_top(bits)
        self.bits = bits

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        top = codes.symmetric_top(self.bits)
        scale = (w.detach().abs().flatten(1).amax(1) / top).clamp(min=1e-12)
        scale = per_channel(scale, w)
        return through((w / scale).round().clamp(-top, top) * scale, w)

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.symmetric(array(w), self.bits)


class MinMax(Weights):
    """2^bits even levels from the least to the largest weight of each output channel."""

    def __init__(self, bits: int = 8):
        super().__init__()
        self.bits = bits

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        flat, top = w.detach().flatten(1), 2 ** self.bits - 1
        low = per_channel(flat.amin(1), w)
        step = ((per_channel(flat.amax(1), w) - low) / top).clamp(min=1e-12)
        return through(((w - low) / step).round().clamp(0, top) * step + low, w)

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.min_max(array(w), self.bits)


class Dorefa(Weights):
    """DoReFa-Net's weights: even levels in [-1, 1] of tanh w; one bit is mean|w| sign(w)."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        if self.bits == 1:
            return through(torch.where(w >= 0, 1.0, -1.0) * w.detach().abs().mean(), w)
        squashed, top = torch.tanh(w), 2 ** self.bits - 1
        x = squashed / (2 * squashed.detach().abs().max()) + 0.5
        return 2 * through((x * top).round() / top, x) - 1

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.dorefa(array(w), self.bits)


class Binary(Weights):
    """sign(w), times mean|w| of the output channel when scaled (XNOR-Net), else BinaryConnect.

    The gradient passes where |w| <= 1, and w stays there. With `stochastic`, training draws +1 with
    the probability clip((w + 1) / 2, 0, 1) (BinaryConnect, section 2.3); evaluation takes the sign.
    """

    def __init__(self, scaled: bool = True, stochastic: bool = False):
        super().__init__()
        self.scaled, self.stochastic = scaled, stochastic

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        if self.training and self.stochastic:
            positive = torch.rand_like(w) < ((w + 1) / 2)
        else:
            positive = w >= 0
        sign = through(torch.where(positive, 1.0, -1.0), w.clamp(-1, 1))
        if not self.scaled:
            return sign
        return sign * per_channel(w.abs().flatten(1).mean(1), w)

    def settle(self, w: torch.Tensor) -> None:
        w.clamp_(-1, 1)

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.binary(array(w), self.scaled)


class Ternary(Weights):
    """alpha {1, 0, -1} for each output channel, by the threshold 0.7 mean|w| (TWN)."""

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        size = w.detach().abs().flatten(1)
        beyond = size > 0.7 * size.mean(1, keepdim=True)
        alpha = (size * beyond).sum(1) / beyond.sum(1).clamp(min=1)
        rounded = beyond.reshape(w.shape) * w.sign() * per_channel(alpha, w)
        return through(rounded, w)

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.ternary(array(w))


class TrainedTernary(Weights):
    """{positive, 0, -negative} with learned scales of the layer (TTQ).

    The scales get the sum of their weights' gradients, a weight its gradient times its scale.
    """

    def __init__(self, threshold: float = 0.05, start: float = 0.1):
        super().__init__()
        self.threshold = threshold
        self.positive, self.negative = (nn.Parameter(torch.tensor(start)) for _ in range(2))

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        limit = self.threshold * w.detach().abs().max()
        above, below = w.detach() > limit, w.detach() < -limit
        factor = torch.ones_like(w)
        factor[above], factor[below] = self.positive.detach(), self.negative.detach()
        passing = through(torch.zeros_like(w), w * factor)
        return self.positive * above - self.negative * below + passing

    def settle(self, w: torch.Tensor) -> None:
        self.positive.data.clamp_(min=1e-6)
        self.negative.data.clamp_(min=1e-6)

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.trained_ternary(array(w), self.positive.item(), self.negative.item(),
                                     self.threshold)


class PowerOfTwo(Weights):
    """0 or +-2^n by incremental freezing (INQ): the largest weights first, the rest trains on.

    At each of `at`, parts of the training, `portions` of all weights are frozen.
    """

    def __init__(self, bits: int = 5, portions: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0),
                 at: tuple[float, ...] = (0.4, 0.6, 0.75, 0.9)):
        super().__init__()
        self.bits, self.portions, self.at = bits, portions, at
        self.stage, self.highest = 0, 0
        self.register_buffer("frozen", None)
        self.register_buffer("values", None)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return w if self.frozen is None else torch.where(self.frozen, self.values, w)

    def progress(self, done: float, w: torch.Tensor) -> None:
        while self.stage < len(self.at) and done >= self.at[self.stage]:
            self.freeze(w, self.portions[self.stage])
            self.stage += 1

    def freeze(self, w: torch.Tensor, portion: float) -> None:
        """Freeze the largest of the weights until `portion` of all are frozen."""
        if self.frozen is None:
            self.highest = codes.exponents(array(w), self.bits)[1]
            self.frozen = torch.zeros_like(w, dtype=torch.bool)
            self.values = torch.zeros_like(w)
        free = w.detach().abs().masked_fill(self.frozen, -1.0).flatten()
        count = round(portion * w.numel()) - int(self.frozen.sum())
        chosen = torch.zeros(w.numel(), dtype=torch.bool)
        chosen[free.topk(max(count, 0)).indices] = True
        chosen = chosen.reshape(w.shape)
        rounded = codes.power_of_two(array(w), self.bits, self.highest).decode()
        self.values = torch.where(chosen, torch.from_numpy(rounded), self.values)
        self.frozen = self.frozen | chosen

    def codes(self, w: torch.Tensor) -> Codes:
        w = self(w)
        highest = None if self.frozen is None else self.highest
        return codes.power_of_two(array(w), self.bits, highest)


class Fixed(Weights):
    """Dynamic fixed point: one fraction length for the layer, which follows the overflows.

    When more than `most` of the weights saturate, the fraction loses a bit; when fewer than half of
    that would saturate with one bit more, it gains one (Courbariaux et al., 2014).
    """

    def __init__(self, bits: int = 8, most: float = 1e-4, every: int = 100):
        super().__init__()
        self.bits, self.most, self.every = bits, most, every
        self.fraction: int | None = None
        self.steps = 0

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        if self.fraction is None:
            self.fraction = codes.fraction_bits(float(w.detach().abs().max()), self.bits)
        half, step = 2 ** (self.bits - 1), 2.0 ** -self.fraction
        return through((w / step).round().clamp(-half, half - 1) * step, w)

    def settle(self, w: torch.Tensor) -> None:
        self.steps += 1
        if self.steps % self.every or self.fraction is None:
            return
        limit = 2.0 ** (self.bits - 1 - self.fraction)
        if float((w.abs() >= limit).float().mean()) > self.most:
            self.fraction -= 1
        elif float((w.abs() >= limit / 2).float().mean()) < self.most / 2:
            self.fraction += 1

    def codes(self, w: torch.Tensor) -> Codes:
        return codes.fixed(array(w), self.bits, self.fraction)
