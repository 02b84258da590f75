"""BSQ: every bit of every weight is trained, and bits that nobody needs disappear.

    w = s * sum over b of 2^b (p_b - n_b) / (2^n - 1)

with planes p_b and n_b of real numbers in 0..2, a group lasso over each plane, and now and then an
exact rounding to planes of 0 and 1 that strips those without a one. After Yang et al., "BSQ:
exploring bit-level sparsity for mixed-precision neural network quantization", 2021, and its code.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgerun.tools.train.activations import Activations, Quantization
from edgerun.tools.train.codes import Codes, prefixes
from edgerun.tools.train.layers import layers_of
from edgerun.tools.train.loop import Hook
from edgerun.tools.train.weights import Weights, array, through

MOST = 8  # planes of a layer
EPSILON = 1e-8  # under the square root of the group lasso
RELU6 = 6.0
MOMENTUM = 0.9  # of the running maximum that evaluation takes
SIGNS = ("magnitude", "pairs")  # how a file may store the planes


def bits_of(integers: torch.Tensor, count: int) -> torch.Tensor:
    """Return bit 0, 1, ... of non-negative integers as fp32 0 and 1, [count, ...]."""
    whole = integers.to(torch.int64)
    return torch.stack([(whole >> bit & 1).float() for bit in range(count)])


def stored(integers: np.ndarray, count: int, step: float, signs: str) -> Codes:
    """Return integers of `count` bits and a sign as a file stores them; 0 planes if all are 0."""
    codes = integers.astype(np.int16)
    bits = 0 if not codes.any() else count + (signs == "magnitude")
    return Codes(codes, bits, signs, *prefixes(step, 0.0, bits, signs, len(codes)))


class Bits(Weights):
    """Weights as trainable bits, least significant first; the layer's own weights are not used.

    Attributes:
        positive, negative: planes [n, P] of P weights, real numbers in 0..2.
        scale: s, a float.
        strength: of the group lasso.
        signs: how a file stores the planes.
    """

    def __init__(self, w: torch.Tensor, count: int = MOST, signs: str = SIGNS[0]):
        """Start from real weights, rounded to `count` bits and a sign."""
        super().__init__()
        largest = float(w.detach().abs().max())
        self.scale, self.strength, self.signs = largest if largest > 0 else 1.0, 0.0, signs
        self.store(torch.round(w.detach() / self.scale * (2 ** count - 1)), count)

    def store(self, integers: torch.Tensor, count: int) -> None:
        """Replace the planes by those of integers."""
        self.shape, integers = integers.shape, integers.flatten()
        self.positive = nn.Parameter(bits_of(integers.clamp(min=0), count))
        self.negative = nn.Parameter(bits_of((-integers).clamp(min=0), count))

    @property
    def count(self) -> int:
        """Planes, not counting the sign."""
        return len(self.positive)

    @property
    def bits_left(self) -> int:
        """Planes that hold anything: 0 if all weights are 0."""
        return self.count if bool((self.integers() != 0).any()) else 0

    def sums(self) -> torch.Tensor:
        """Return the real numbers that the integers are rounded from."""
        powers = 2.0 ** torch.arange(self.count)
        return (powers @ (self.positive - self.negative)).reshape(self.shape)

    def integers(self, sums: torch.Tensor | None = None) -> torch.Tensor:
        """Return the integers -(2^n - 1) .. 2^n - 1, fp32; sums: those of sums(), if known."""
        most = 2 ** self.count - 1
        return torch.round((self.sums() if sums is None else sums).detach()).clamp(-most, most)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        sums = self.sums()
        return through(self.integers(sums), sums) * (self.scale / (2 ** self.count - 1))

    def codes(self, w: torch.Tensor) -> Codes:
        return stored(array(self.integers()), self.count, self.scale / (2 ** self.count - 1),
                      self.signs)

    def penalty(self, w: torch.Tensor) -> torch.Tensor:
        """Return strength * P n sum over planes of the length of each, with P weights."""
        squares = (self.positive.square() + self.negative.square()).sum(1)
        lengths = torch.sqrt(EPSILON + squares).sum()
        return self.strength * self.positive[0].numel() * self.count * lengths

    @torch.no_grad()
    def settle(self, w: torch.Tensor) -> None:
        self.positive.clamp_(0, 2)
        self.negative.clamp_(0, 2)

    @torch.no_grad()
    def requantize(self) -> None:
        """Round to exact planes, and strip those of zeros at both ends; weights stay as rounded.

        Sums beyond the largest integer get one more plane, while there are fewer than MOST. At
        least one plane stays. The planes are new parameters: the optimizer must be made anew.
        """
        count, integers = self.count, torch.round(self.sums())
        step = self.scale / (2 ** count - 1)
        if integers.abs().max() > 2 ** count - 1 and count < MOST:
            count += 1
        most = 2 ** count - 1
        integers = integers.clamp(-most, most)
        while count > 1 and integers.abs().max() < 2 ** (count - 1):
            count -= 1
        while count > 1 and not bool((integers.abs() % 2).any()):
            integers, step, count = integers / 2, step * 2, count - 1
        self.scale = step * (2 ** count - 1)
        self.store(integers, count)


class Fixed(Weights):
    """Real weights in -1..1 that are rounded to a number of planes that stays: for fine-tuning.

    A layer of no planes stays one.
    """

    def __init__(self, found: Bits):
        super().__init__()
        self.scale, self.signs, self.count = found.scale, found.signs, found.count
        self.steps = 2 ** found.count - 1
        self.empty = found.bits_left == 0

    def integers(self, w: torch.Tensor) -> torch.Tensor:
        """Return the integers, fp32."""
        integers = torch.round(w.detach().clamp(-1, 1) * self.steps)
        return torch.zeros_like(integers) if self.empty else integers

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return through(self.integers(w) / self.steps, w) * self.scale

    def codes(self, w: torch.Tensor) -> Codes:
        return stored(array(self.integers(w)), self.count, self.scale / self.steps, self.signs)

    def settle(self, w: torch.Tensor) -> None:
        w.clamp_(-1, 1)


class Stepped(Activations):
    """ReLU6, then 2^k - 1 even steps up to the largest value of the batch.

    Evaluation takes a running mean of those largest values and clips to it, as a file must.
    """

    def __init__(self, bits: int = 4):
        super().__init__()
        self.bits = bits
        self.register_buffer("reach", torch.tensor(RELU6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(0, RELU6)
        if self.training:
            reach = x.detach().amax().clamp(min=1e-6)
            self.reach.mul_(MOMENTUM).add_((1 - MOMENTUM) * reach)
        else:
            reach = self.reach
        step = reach / (2 ** self.bits - 1)
        return through(torch.round(x.clamp(max=reach) / step) * step, x)

    def quantization(self) -> Quantization:
        levels = 2 ** self.bits - 1
        return Quantization(float(self.reach) / levels, 0, levels)


def begin(network: nn.Module, alpha: float, signs: str = SIGNS[0]) -> None:
    """Turn the real weights of every layer into bits, with the lasso alpha / P sum P_l n_l ..."""
    layers = list(layers_of(network))
    total = sum(layer.weight.numel() for layer in layers)
    for layer in layers:
        layer.scheme = Bits(layer.weight, signs=signs)
        layer.scheme.strength = alpha / total


@torch.no_grad()
def fix(network: nn.Module) -> None:
    """Keep the number of planes of every layer from now on: its weights are in -1..1 then."""
    for layer in layers_of(network):
        found = layer.scheme
        layer.weight.copy_(found.integers() / (2 ** found.count - 1))
        layer.scheme = Fixed(found)


class Strip(Hook):
    """Re-quantizes all layers every so many steps, and after the last one.

    Attributes:
        history: planes that each layer had left, every time.
    """

    def __init__(self, every: int):
        self.every, self.history = every, []

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        if (step + 1) % self.every and step + 1 != steps:
            return False
        schemes = [layer.scheme for layer in layers_of(network)]
        for scheme in schemes:
            scheme.requantize()
        self.history.append([scheme.bits_left for scheme in schemes])
        return True
