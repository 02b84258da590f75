r"""LeNet on MNIST with binary, 2-bit, ternary and power-of-two weights, each as one packed file.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.schemes --train TRAIN.npz --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. LeNet is that of Caffe (20
and 50 channels, 500 units) with batch normalization. The scheme is that of the second convolution
and the first dense layer, which hold 98.7 % of the weights; the first and the last layer have 8
bits. The test images are looked at once, after the last epoch: nothing is selected by them.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgerun.device import Device
from edgerun.tools.pack import pack
from edgerun.tools.recipes import results
from edgerun.tools.train import activations, data, export, layers, loop, packed, weights

COMMAND = "python -m edgerun.tools.recipes.schemes --train TRAIN.npz --test TEST.npz --out DIR " \
          "--results docs/research"
PUBLISHED = [
    {"scheme": scheme, "weights": bits, "activations": inputs, "accuracy %": right, "epochs": 100,
     "source": "RedBit wiki, LeNet-5, MNIST"}
    for scheme, bits, inputs, right in (
        ("fp32", "fp32", "fp32", 99.59), ("XNOR-Net", "1 bit", "1 bit", 99.37),
        ("XNOR-Net", "1 bit", "fp32", 99.63), ("DoReFa-Net", "2 bits", "2 bits", 99.62),
        ("DoReFa-Net", "1 bit", "1 bit", 99.06), ("QNN", "2 bits", "2 bits", 99.45))]
DIFFERS = [
    "The first and the last layer have 8 bits (5,500 of 431,000 weights); what the published "
    "networks do there is not known.",
    "1 to 6 epochs instead of 100; all but the binary network start from the fp32 network. Batch "
    "normalization behind every layer but the last, images shifted by up to two pixels.",
    "XNOR-Net without the map of means of |x| (K); behind the binary dense layer there are 8-bit "
    "activations for the last layer.",
    "Ternary, power-of-two and fixed-point networks have 8-bit activations.",
    "The learned scales of ternary weights are rounded to 1/127 of the larger one, and stored as "
    "whole numbers too.",
]


@dataclass(frozen=True)
class Scheme:
    """What a network's middle layers and activations are, and how it is trained.

    Attributes:
        title, bits, inputs: what it is, and its weights and activations, for people.
        weights, activation: make the scheme of a middle layer, and what is behind a normalization.
        epochs: of training.
        rate: of learning, at the start.
        begun: starts from the trained fp32 network.
        late: the activation is behind the pooling, as XNOR-Net has it.
    """
    title: str
    bits: str
    inputs: str
    weights: Callable[[], weights.Weights]
    activation: Callable[[], nn.Module]
    epochs: int
    rate: float = 1e-3
    begun: bool = True
    late: bool = False


def _bytes() -> activations.Clipped:
    """Return 8-bit activations of a range that is learned (PACT)."""
    return activations.Clipped(8, 4.0, learned=True)


SCHEMES = {
    "fp32": Scheme("fp32", "fp32", "fp32", weights.Weights, nn.ReLU, 6, 2e-3, begun=False),
    "xnor": Scheme("XNOR-Net", "1 bit", "1 bit", weights.Binary, activations.Sign, 5, 4e-3,
                   begun=False, late=True),
    "dorefa": Scheme("DoReFa-Net", "2 bits", "2 bits", lambda: weights.Dorefa(2),
                     lambda: activations.Clipped(2), 3, 2e-3),
    "twn": Scheme("Ternary (TWN)", "ternary", "8 bits", weights.Ternary, _bytes, 2),
    "inq": Scheme("Power of two (INQ)", "5 bits", "8 bits", lambda: weights.PowerOfTwo(5), _bytes,
                  2),
    "ttq": Scheme("Ternary, learned scales (TTQ)", "ternary", "8 bits", weights.TrainedTernary,
                  _bytes, 2),
    "fixed": Scheme("Dynamic fixed point", "8 bits", "8 bits", lambda: weights.Fixed(8),
                    lambda: nn.Sequential(nn.ReLU(), activations.FixedPoint(8)), 1, 5e-4),
}


def lenet(scheme: Scheme, widths: tuple[int, int, int] = (20, 50, 500)) -> nn.Sequential:
    """Return the network: image [N, 1, 28, 28] in 0..1 -> logits [N, 10].

    Args:
        scheme: of the middle layers.
        widths: channels of both convolutions, and units.
    """
    real = scheme.activation is nn.ReLU
    ends = weights.Weights if real else weights.Symmetric
    first, second, units = widths

    def pooled(channels: int) -> tuple[nn.Module, ...]:
        steps = (scheme.activation(), nn.MaxPool2d(2))
        return nn.BatchNorm2d(channels), *(reversed(steps) if scheme.late else steps)

    return nn.Sequential(
        nn.Identity() if real else activations.Pixels(),
        layers.Conv(1, first, 5, ends()), *pooled(first),
        layers.Conv(first, second, 5, scheme.weights()), *pooled(second), nn.Flatten(),
        layers.Dense(16 * second, units, scheme.weights()), nn.BatchNorm1d(units),
        _bytes() if scheme.late else scheme.activation(),
        layers.Dense(units, 10, ends(), bias=True))


def trained(name: str, folder: Path, images: torch.Tensor, labels: torch.Tensor, seed: int
            ) -> tuple[nn.Sequential, float]:
    """Return a trained network and the minutes it took; one of this seed that the folder holds
    is taken."""
    file = folder / f"{name}-{seed}.pt"
    if file.exists():
        kept = torch.load(file, weights_only=False)
        return kept["network"], kept["minutes"]
    scheme, started = SCHEMES[name], time.perf_counter()
    loop.seeded(seed)
    network = lenet(scheme)
    if scheme.begun:
        first, _ = trained("fp32", folder, images, labels, seed)
        network.load_state_dict(first.state_dict(), strict=False)
    print(f"{name}:", flush=True)
    loop.train(network, images, labels, epochs=scheme.epochs, rate=scheme.rate, seed=seed,
               augment=data.shifted, log=lambda line: print(f"  {line}", flush=True),
               hooks=(loop.Positive(),) if name == "ttq" else ())
    minutes = (time.perf_counter() - started) / 60
    torch.save({"network": network, "minutes": minutes}, file)
    return network, minutes


def measured(name: str, network: nn.Module, folder: Path, test: tuple[torch.Tensor, torch.Tensor],
             device: Device, minutes: float) -> dict:
    """Export and pack a network, and run the file over the test images; returns a row."""
    scheme, file = SCHEMES[name], folder / f"{name}.edge"
    export.write(network, folder / f"{name}.onnx", (1, 28, 28))
    pack(folder / f"{name}.onnx", file)
    images, labels = test
    found = packed.compare(file, images.numpy(), labels.numpy(),
                           loop.predict(network, images).numpy(), device)
    return {"scheme": scheme.title, "weights": scheme.bits, "activations": scheme.inputs,
            "accuracy %": found.right, "in training %": loop.accuracy(network, images, labels),
            "same prediction %": found.same, "file KiB": found.file_bytes / 1024,
            "epochs": scheme.epochs, "minutes": round(minutes, 1)}


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path)
    parser.add_argument("--schemes", nargs="+", choices=tuple(SCHEMES), default=tuple(SCHEMES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", help="index or part of a name; default: the best one found")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    train, test, device = data.images(args.train), data.images(args.test), Device(args.device)
    rows = []
    for name in args.schemes:
        network, minutes = trained(name, args.out, *train, args.seed)
        rows.append(measured(name, network, args.out, test, device, minutes))
        print(rows[-1], flush=True)
    results.write(args.results, "schemes-lenet", command=COMMAND, seeds=[args.seed],
                  minutes=sum(row["minutes"] for row in rows), ours=rows, published=PUBLISHED,
                  differs=DIFFERS, device=device.info.platform, merge=("scheme",))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
