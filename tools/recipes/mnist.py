r"""MNIST by two dense layers, or by LeNet, in four precisions.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.mnist --network lenet --train TRAIN.npz --test TEST.npz \
        --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. The two networks are the
second and third of the worked examples in Tschopp, "Tuning of mixture-of-experts mixed-precision
neural networks", 2022: `simple` has 784 -> 30 -> 10 without a nonlinearity between, `lenet` is
LeCun et al., 1998, in Caffe's form.
"""
from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgerun.tools.recipes import comparison
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.train import data, loop

NETWORKS = {
    "simple": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Linear(30, 10)),
    "lenet": lambda: nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
}
CALIBRATION = 100  # training images
AGAIN = ("take networks that an earlier run left in --out: of these epochs, rates and shift, "
         "with or without bfloat16; what else a recipe says, and TRAIN, must be the same")


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images fp32 [N, 1, 1, 28, 28] in 0..1 and labels int64 [N] of an .npz file."""
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise SystemExit(f"{path}: images {images.dtype} {images.shape}, labels {labels.shape}; "
                         "needed images uint8 [N, 28, 28] and labels [N]")
    return images[:, None, None].astype(np.float32) / 255, labels


def train(network: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    """Train in place with Adam, the learning rate falling to 0 along a cosine."""
    x, y, batch = torch.from_numpy(images[:, 0]), torch.from_numpy(labels), 128
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for at in range(0, len(x) - batch + 1, batch):
            chosen = order[at:at + batch]
            loss = functional.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(x) // batch):.4f}", flush=True)


def trained(kept: Kept, name: str, make: Callable[[], nn.Module], x: torch.Tensor,
            y: torch.Tensor, *, seed: int, epochs: int, rate: float, shift: int,
            bfloat16: bool = False, parts: Callable[[nn.Module], Sequence] = lambda network: (),
            objective: loop.Objective = loop.cross_entropy) -> nn.Module:
    """Return a network that `kept` has, or that is trained now.

    Args:
        name: of the network. Its file is named by epochs, rate, shift and bfloat16, too, but not
            by the parts, the objective and the images: a folder is for one value of those.
        x, y: images [N, 1, 28, 28] and labels [N].
        shift: pixels: every image is moved by up to so many in each direction, each time anew.
        bfloat16: as in loop.train().
        parts: network -> parameters with a rate of their own, as in loop.train().
        objective: as in loop.train().
    """
    def train() -> nn.Module:
        loop.seeded(seed)
        network = make()
        loop.train(network, x, y, epochs=epochs, rate=rate, seed=seed, objective=objective,
                   parts=parts(network), bfloat16=bfloat16,
                   augment=partial(data.shifted, reach=shift) if shift else None,
                   log=lambda line: print(name, line, flush=True))
        return network

    how = f"{epochs} epochs rate {rate:g} shift {shift}"
    return kept(f"{name} {how}{' bfloat16' if bfloat16 else ''}", train)


def add_bfloat16(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option --bfloat16."""
    parser.add_argument("--bfloat16", action="store_true",
                        help="multiply in bfloat16 while training: 1.5 times as fast on a CPU with "
                             "AVX-512 BF16, slow on others")


def export(network: nn.Module, path: Path) -> None:
    """Write the network as ONNX opset 13: image [1, 1, 28, 28] -> logits [1, 10]."""
    with warnings.catch_warnings():
        # The newer exporter needs one more package; this one is deprecated but writes what we need.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network.eval(), (torch.zeros(1, 1, 28, 28),), str(path), dynamo=False,
                          opset_version=13, input_names=["image"], output_names=["logits"])


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="lenet")
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    images, labels = load(args.train)
    network = NETWORKS[args.network]()
    train(network, images, labels, args.epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    model = args.out / f"{args.network}.onnx"
    export(network, model)
    np.savez(args.out / "samples.npz", image=images[:CALIBRATION])
    rows = comparison.compare(model, args.out / "samples.npz",
                              comparison.accuracy(*load(args.test)), args.out, args.device)
    print(comparison.table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
