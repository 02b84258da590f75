"""Layers with a scheme for their weights."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgerun.errors import UnsupportedError
from edgerun.tools.train.weights import Weights


class _Coarse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bits):
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        (low, high), top = gradient.aminmax(), 2 ** ctx.bits - 1
        step = ((high - low) / top).clamp(min=torch.finfo(low.dtype).tiny)
        levels = ((gradient - low) / step + torch.rand_like(gradient)).floor().clamp(max=top)
        return levels * step + low, None


def coarse(x: torch.Tensor, bits: int | None) -> torch.Tensor:
    """Return x, whose gradient will be rounded at random to 2^bits even levels of its range.

    None: to no levels. Fu et al., "CPT", 2021, round the gradients of layers so.
    """
    return x if bits is None else _Coarse.apply(x, bits)


class Conv(nn.Conv2d):
    """A convolution, x [N, IC, H, W], whose weights pass a scheme."""
    gradient_bits: int | None = None

    def __init__(self, channels: int, out_channels: int, kernel: int, scheme: Weights | None = None,
                 stride: int = 1, padding: int = 0, bias: bool = False):
        super().__init__(channels, out_channels, kernel, stride, padding, bias=bias)
        self.scheme = scheme or Weights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._conv_forward(x, self.scheme(self.weight), self.bias)
        return coarse(y, self.gradient_bits)


class Dense(nn.Linear):
    """A dense layer, x [..., IC], whose weights pass a scheme."""
    gradient_bits: int | None = None

    def __init__(self, channels: int, out_channels: int, scheme: Weights | None = None,
                 bias: bool = False):
        super().__init__(channels, out_channels, bias=bias)
        self.scheme = scheme or Weights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return coarse(functional.linear(x, self.scheme(self.weight), self.bias), self.gradient_bits)


def layers_of(network: nn.Module) -> Iterator[Conv | Dense]:
    """Yield the layers that have a scheme, in order."""
    for module in network.modules():
        if isinstance(module, (Conv, Dense)):
            yield module


def affine(norm: nn.Module, planes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and shift [OC], fp64, that a normalization is at evaluation.

    A module with a method fold(planes) is asked for what it is when so many planes of the layer in
    front of it are used; a BatchNorm is the same for every number.

    Raises:
        UnsupportedError: the normalization depends on the samples of the batch.
    """
    if hasattr(norm, "fold"):
        return norm.fold(planes)
    if norm.running_var is None:
        raise UnsupportedError(f"{norm}: is no factor and shift, since it keeps no statistics")
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.weight is not None:
        factor = norm.weight.detach().double() * factor
    shift = -norm.running_mean.double() * factor
    if norm.bias is not None:
        shift = norm.bias.detach().double() + shift
    return factor.numpy(), shift.numpy()
