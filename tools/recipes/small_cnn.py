"""A small classifier of 28 x 28 images, for the recipes that train low precisions."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from edgerun.tools.pack import pack
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.train import activations, data, export, layers, loop

CHANNELS = (16, 32, 64)
STRIDES = (1, 2, 2)
SIZE, CLASSES = 28, 10
BATCH = 100
FIRST, THEN = 8, 6  # epochs of real weights; of real weights, beside trainings that start from them
RATE, RATE_THEN = 2e-3, 1e-3
REAL = 32  # as a number of bits


def network(activation: Callable[[], nn.Module] = nn.ReLU, hidden: Sequence[int] = ()
            ) -> nn.Sequential:
    """Return three 3x3 convolutions and dense layers, each behind normalized: logits [N, 10].

    Args:
        activation: made anew behind every layer but the last.
        hidden: outputs of dense layers in front of the last one.
    """
    parts: list[nn.Module] = [activations.Pixels()]
    before, size = 1, SIZE
    for channels, stride in zip(CHANNELS, STRIDES):
        parts += [layers.Conv(before, channels, 3, stride=stride, padding=1),
                  nn.BatchNorm2d(channels), activation()]
        before, size = channels, -(-size // stride)
    parts.append(nn.Flatten())
    before *= size * size
    for width in hidden:
        parts += [layers.Dense(before, width), nn.BatchNorm1d(width), activation()]
        before = width
    return nn.Sequential(*parts, layers.Dense(before, CLASSES), nn.BatchNorm1d(CLASSES))


def with_activations(start: nn.Sequential, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Return a copy of a network of ReLUs, trained weights included, with other activations."""
    hidden = [layer.out_features for layer in layers.layers_of(start)
              if isinstance(layer, layers.Dense)][:-1]
    other = network(activation, hidden)
    missing = other.load_state_dict(start.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"the copy has no {missing.unexpected_keys}")
    return other


def parameters(model: nn.Module) -> int:
    """Return how many weights the layers have."""
    return sum(layer.weight.numel() for layer in layers.layers_of(model))


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, title: str, seed: int,
            epochs: int = THEN, rate: float = RATE_THEN, **options) -> nn.Module:
    """Train in place, telling the title with every epoch; returns the network."""
    loop.train(model, x, y, epochs=epochs, batch=BATCH, rate=rate, seed=seed,
               augment=data.mirrored, log=lambda line: print(f"{title}: {line}", flush=True),
               **options)
    return model


def real(x: torch.Tensor, y: torch.Tensor, seed: int, kept: Kept, hidden: Sequence[int] = ()
         ) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a network of real weights that others start from, and the same trained on."""
    def first() -> nn.Sequential:
        loop.seeded(seed)
        return trained(network(hidden=hidden), x, y, "fp32", seed, FIRST, RATE)

    start = kept("start", first)
    return start, kept("fp32", lambda: trained(copy.deepcopy(start), x, y, "fp32 on", seed))


def packed(model: nn.Module, name: str, folder: Path, **options) -> Path:
    """Write a trained network as ONNX and as a model file; returns the path of the latter."""
    source = folder / f"{name.replace(' ', '-')}.onnx"
    export.write(model, source, (1, SIZE, SIZE))
    pack(source, source.with_suffix(".edge"), **options)
    return source.with_suffix(".edge")
