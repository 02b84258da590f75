"""The training loop: one for every scheme, with hooks for what happens between its steps."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

from edgerun.tools.train import rounding, schedule
from edgerun.tools.train.layers import layers_of

Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


class Hook:
    """What is done before and after every step of the optimizer; the base does nothing."""

    def before(self, network: nn.Module, step: int, steps: int) -> None:
        """Prepare a step, 0 <= step < steps."""

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        """Finish a step; True when parameters were replaced, so that the optimizer is made anew."""
        return False


class Cyclic(Hook):
    """Cyclic precision training: all weights and activations that have bits follow the schedule."""

    def __init__(self, low: int, high: int, cycles: int):
        self.low, self.high, self.cycles = low, high, cycles

    def before(self, network: nn.Module, step: int, steps: int) -> None:
        self._set(network, schedule.cyclic(step, steps, self.low, self.high, self.cycles))

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        if step == steps - 1:
            self._set(network, self.high)
        return False

    def _set(self, network: nn.Module, bits: int) -> None:
        for module in network.modules():
            if hasattr(module, "bits") and not getattr(module, "constant", False):
                module.bits = bits


class Gradients(Hook):
    """While it trains, the gradients of layers' outputs have so many bits, rounded at random."""

    def __init__(self, bits: int):
        self.bits = bits

    def before(self, network: nn.Module, step: int, steps: int) -> None:
        for layer in layers_of(network):
            layer.gradient_bits = self.bits

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        for layer in layers_of(network):
            layer.gradient_bits = None
        return False


class FixedPoint(Hook):
    """Parameters in fixed point <integer, fraction> bits, rounded after every step.

    Gupta et al., 2015: at random, or to the nearest, where updates below half a step are lost.
    """

    def __init__(self, integer: int, fraction: int, stochastic: bool):
        self.integer, self.fraction, self.stochastic = integer, fraction, stochastic

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        with torch.no_grad():
            for p in network.parameters():
                uniform = torch.rand_like(p) if self.stochastic else rounding.NEAREST
                p.copy_(rounding.fixed(p, self.integer, self.fraction, uniform))
        return False


class Positive(Hook):
    """Keeps the factors of all batch normalizations above 0, so that they move into a table."""

    def after(self, network: nn.Module, step: int, steps: int) -> bool:
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    module.weight.clamp_(min=1e-3)
        return False


def seeded(seed: int) -> None:
    """Make what follows the same in every run: PyTorch's random numbers, and one thread."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def cross_entropy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss of the labels y [N] under the network's logits [N, classes]."""
    return functional.cross_entropy(network(x).float(), y)


def train(network: nn.Module, x: torch.Tensor, y: torch.Tensor, *, epochs: int, batch: int = 128,
          rate: float = 1e-3, weight_decay: float = 0.0, momentum: float | None = None,
          seed: int = 1, augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
          objective: Objective = cross_entropy, hooks: Iterable[Hook] = (),
          parts: Sequence[tuple[Iterable[nn.Parameter], float]] = (),
          bfloat16: bool = False, least: float = 0.0,
          log: Callable[[str], None] | None = print) -> list[float]:
    """Train in place; returns the mean loss of every epoch.

    Args:
        x: samples [N, ...]; y: labels [N].
        rate: of learning at the start; it falls along half a cosine to `least` times that.
        momentum: None for Adam, a number for stochastic gradient descent.
        augment: x -> x, on every batch.
        objective: network, x, y -> loss.
        parts: parameters, and what their rate is as a part of that of all others.
        bfloat16: multiply matrices in it; 1.5 times as fast on a CPU with AVX-512 BF16.
        log: told one line per epoch; None for silence.
    """
    seeded(seed)
    if x.dim() == 4:  # a third faster on a CPU
        network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    hooks, layers = tuple(hooks), list(layers_of(network))
    optimizer = _optimizer(network, rate, weight_decay, momentum, parts)
    per_epoch = len(x) // batch
    steps, losses = epochs * per_epoch, []
    for epoch in range(epochs):
        started, total, order = time.perf_counter(), 0.0, torch.randperm(len(x))
        network.train()
        for number in range(per_epoch):
            step = epoch * per_epoch + number
            chosen = order[number * batch:(number + 1) * batch]
            part = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["part"] * (least + (1 - least) * part)
            with torch.no_grad():
                for layer in layers:
                    layer.scheme.progress(step / steps, layer.weight)
            for hook in hooks:
                hook.before(network, step, steps)
            given = x[chosen] if augment is None else augment(x[chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = objective(network, given, y[chosen])
            loss = loss + sum(layer.scheme.penalty(layer.weight) for layer in layers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for layer in layers:
                    layer.scheme.settle(layer.weight)
            if any([hook.after(network, step, steps) for hook in hooks]):
                optimizer = _optimizer(network, rate, weight_decay, momentum, parts)
            total += loss.item()
        losses.append(total / per_epoch)
        if log is not None:
            log(f"epoch {epoch + 1}/{epochs}: loss {losses[-1]:.4f}, "
                f"{time.perf_counter() - started:.1f} s")
    with torch.no_grad():
        for layer in layers:
            layer.scheme.progress(1.0, layer.weight)
    network.eval()
    return losses


def _optimizer(network: nn.Module, rate: float, weight_decay: float, momentum: float | None,
               parts: Sequence[tuple[Iterable[nn.Parameter], float]]) -> torch.optim.Optimizer:
    groups = [{"params": list(parameters), "part": part} for parameters, part in parts]
    apart = {id(p) for group in groups for p in group["params"]}
    groups.append({"params": [p for p in network.parameters()
                              if p.requires_grad and id(p) not in apart], "part": 1.0})
    if momentum is None:
        return torch.optim.AdamW(groups, rate, weight_decay=weight_decay)
    return torch.optim.SGD(groups, rate, momentum, weight_decay=weight_decay)


def outputs(network: nn.Module, x: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Return the network's outputs at evaluation, [N, ...]."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(batch)])


def predict(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the predicted classes, int64 [N]."""
    return outputs(network, x).argmax(1)


def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return how many of the samples are classified as labelled, in percent."""
    return 100 * float((predict(network, x) == y).double().mean())
