r"""Cyclic precision training against static precision, on Fashion-MNIST.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.cyclic --train TRAIN.npz --test TEST.npz

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. Both trainings are the
same, gradients of 8 bits included, but for the bits of weights and activations: always 8, or 3 to 8
again and again. Then the weights of both are cut to fewer bit planes. Fu et al., "CPT: Efficient
deep neural network training via cyclic precision", 2021.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from edgerun.tools.recipes import seeds
from edgerun.tools.train import activations, layers, loop, schedule, weights

LOW, HIGH, CYCLES = 3, 8, 8
GRADIENT = 8  # bits of gradients
EPOCHS, BATCH = 10, 128
IMAGES = 10_000  # that train, the first ones: the settings were chosen by the others
CUTS = (5, 4, 3)  # planes of the weights that are left
NETWORK = "small CNN, Fashion-MNIST, 8 bits"
COMMAND = "python -m edgerun.tools.recipes.cyclic --train TRAIN.npz --test TEST.npz " \
          "--results docs/research"
PUBLISHED = [
    {"training": training, "network": f"{network}, 8 bits", "accuracy %": accuracy,
     "source": "README of a reproduction (leliyliu/Fixed-Point-Training)"}
    for network, training, accuracy in (
        ("ResNet-74, CIFAR-100", "static (SBM)", 71.44), ("ResNet-74, CIFAR-100", "cyclic", 72.35),
        ("MobileNetV2, CIFAR-10", "static (SBM)", 93.57),
        ("MobileNetV2, CIFAR-10", "cyclic", 93.76))]
DIFFERS = [
    f"{CYCLES} cycles from {LOW} to {HIGH} bits instead of 32, since the training is short.",
    "The last layer's weights and gradients are rounded, too, and the rate of learning falls along "
    "a cosine.",
    f"{IMAGES:,} images train, which the network nearly learns by heart; the lower bound, of 3 and "
    "4 bits, was chosen by 10,000 other training images.",
    "The gain is one where a network overfits: in an earlier setting of 20,000 images, mirrored at "
    "random, 5 epochs, and gradients in fp32, cyclic training was 0.11 points below static "
    "training in the mean of seeds 1, 2, 3.",
    "Bit operations of the training: bits of weights times bits of activations, and of gradients "
    "times each of them; of static training 100 %.",
    "Cut to fewer planes: the weights' most significant planes only, as a file of bit planes would "
    "use them, without training for it.",
]


class Cut(weights.Weights):
    """The first planes of another scheme's weights."""

    def __init__(self, scheme: weights.Weights, planes: int):
        super().__init__()
        self.scheme, self.planes = scheme, planes

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.scheme.codes(w).decode(self.planes))


@contextmanager
def cut(network: nn.Module, planes: int) -> Iterator[nn.Module]:
    """Leave so many planes of all weights of a network."""
    kept = [(layer, layer.scheme) for layer in layers.layers_of(network)]
    for layer, scheme in kept:
        layer.scheme = Cut(scheme, planes)
    try:
        yield network
    finally:
        for layer, scheme in kept:
            layer.scheme = scheme


def network() -> nn.Sequential:
    """Return the network: image [N, 1, 28, 28] in 0..1 -> logits [N, 10]."""
    def behind(norm: nn.Module) -> tuple[nn.Module, ...]:
        return norm, nn.ReLU(), activations.Ranged(HIGH)

    parts: list[nn.Module] = [activations.Pixels()]
    for before, channels in pairwise((1, 16, 32, 64)):
        parts += [layers.Conv(before, channels, 3, weights.MinMax(HIGH), stride=2, padding=1),
                  *behind(nn.BatchNorm2d(channels))]
    return nn.Sequential(
        *parts, nn.Flatten(),
        layers.Dense(64 * 16, 64, weights.MinMax(HIGH)), *behind(nn.BatchNorm1d(64)),
        layers.Dense(64, 10, weights.MinMax(HIGH), bias=True))


def bit_operations(steps: int) -> float:
    """Return what cyclic training multiplies, bits by bits, in percent of static training.

    A step multiplies weights by activations, and gradients by each of them.
    """
    def of(bits: int) -> int:
        return bits * bits + 2 * bits * GRADIENT

    each = [of(schedule.cyclic(step, steps, LOW, HIGH, CYCLES)) for step in range(steps)]
    return 100 * sum(each) / steps / of(HIGH)


def run(training: str, seed: int, train: seeds.Labelled, test: seeds.Labelled, epochs: int) -> dict:
    """Train one network; returns what was measured."""
    loop.seeded(seed)
    result, hooks, cost = network(), [loop.Gradients(GRADIENT)], 100.0
    x, y = (part[:IMAGES] for part in train)
    if training == "cyclic":
        hooks.append(loop.Cyclic(LOW, HIGH, CYCLES))
        cost = bit_operations(epochs * (len(x) // BATCH))
    loop.train(result, x, y, epochs=epochs, batch=BATCH, rate=2e-3, seed=seed, hooks=hooks,
               log=None)
    row = {"network": NETWORK, "bit operations %": cost, "accuracy %": loop.accuracy(result, *test)}
    for planes in CUTS:
        with cut(result, planes):
            row[f"cut to {planes} planes %"] = loop.accuracy(result, *test)
    return row


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    return seeds.measure(argv, __doc__, "cyclic-precision", column="training",
                         ways=("static", "cyclic"), epochs=EPOCHS, run=run, command=COMMAND,
                         published=PUBLISHED, differs=lambda rows: [*DIFFERS, seeds.gain(
                             rows, "accuracy %", "training", "cyclic", "static",
                             "at most 0.1 less")])


if __name__ == "__main__":
    raise SystemExit(main())
