r"""MNIST by a multilayer perceptron in 1 to 8 bit planes, quantized after training.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.precision_batching --train TRAIN.npz --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. One file holds eight
planes; the session counts on fewer and fewer of them. After Lam et al., "PrecisionBatching", 2020,
whose network has 4,096 hidden units instead of 512.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgerun import arrays, loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.pack import pack
from edgerun.tools.recipes import comparison, results
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.train import data, export, loop, packed
from edgerun.tools.train.layers import Dense

NAME = "precision-batching-mlp"
HIDDEN, PLANES = 512, 8
ACTIVATIONS = {"int8": 8, "int16": 16}  # precision of the file -> bits of activations
CALIBRATION = 200  # training images
COMMAND = ("python -m edgerun.tools.recipes.precision_batching --train TRAIN.npz --test TEST.npz "
           "--out DIR --results docs/research")
PUBLISHED = tuple({"activation bits": bits, "planes": planes, "accuracy %": accuracy,
                   "source": "repository sample run, 784-4096-4096-10 on a GPU"}
                  for bits, planes, accuracy in ((32, 32, 98.42), (8, 4, 98.25), (8, 8, 98.41),
                                                 (16, 4, 98.25)))
DIFFERS = (
    "512 hidden units instead of 4,096, and 5,000 of the 10,000 test images",
    "a plane more or less is one of two's complement, the sign among them; theirs of n bits are "
    "n + 1 planes",
    "weights are clipped where the squared error wants it, and every number of planes has a scale "
    "and an offset per output channel of its own; theirs are rounded to a grid without 0, whose "
    "step is one power of two for all channels")


def network(hidden: int = HIDDEN) -> nn.Sequential:
    """Return 784 -> hidden -> hidden -> 10 with ReLUs between: [N, 1, 28, 28] -> logits."""
    return nn.Sequential(nn.Flatten(), Dense(784, hidden, bias=True), nn.ReLU(),
                         Dense(hidden, hidden, bias=True), nn.ReLU(), Dense(hidden, 10, bias=True))


def trained(x: torch.Tensor, y: torch.Tensor, epochs: int, seed: int) -> nn.Sequential:
    """Return the network, trained with real weights."""
    loop.seeded(seed)
    model = network()
    loop.train(model, x, y, epochs=epochs, seed=seed, augment=data.shifted)
    return model


def right(session: Session, images: np.ndarray, labels: np.ndarray) -> float:
    """Return how many images are classified as labelled, in percent."""
    return 100 * float((packed.predictions(session, images) == labels).mean())


def curve(file: Path, images: np.ndarray, labels: np.ndarray, device: Device) -> list[float]:
    """Return the accuracy of a file with 1, 2, ... planes, by switching in one session."""
    found = []
    with Session(loader.read(file), device) as session:
        for planes in range(1, PLANES + 1):
            session.set_precision(planes)
            found.append(right(session, images, labels))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true",
                        help="take the network that an earlier run left in --out")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    kept = Kept(args.out, "precision-batching", args.seed, args.again)
    device = Device(args.device)
    x, y = data.images(args.train)
    images, labels = (part.numpy() for part in data.images(args.test))
    model = kept(f"mlp {args.epochs} epochs", lambda: trained(x, y, args.epochs, args.seed))
    started = time.perf_counter()
    source, samples = args.out / "mlp.onnx", args.out / "samples.npz"
    export.write(model, source, x.shape[1:])
    arrays.write_npz(samples, {"image": x[:CALIBRATION, None].numpy()})
    rows: list[dict[str, Any]] = []
    pack(source, args.out / "fp32.edge", "fp32")
    with Session(loader.read(args.out / "fp32.edge"), device) as session:
        best = right(session, images, labels)
    rows.append({"activation bits": 32, "planes": 32, "accuracy %": best})
    for precision, bits in ACTIVATIONS.items():
        file = args.out / f"{precision}.edge"
        pack(source, file, precision, calibration=samples, device=device, bits=PLANES)
        rows += [{"activation bits": bits, "planes": planes, "accuracy %": accuracy}
                 for planes, accuracy in enumerate(curve(file, images, labels, device), 1)]
    for row in rows:
        row["above fp32"] = row["accuracy %"] - best
        row["seed"] = args.seed
    print("\n".join(text.table(("activation bits", "planes", "accuracy %", "above fp32"), [
        (row["activation bits"], row["planes"], f"{row['accuracy %']:.2f}",
         f"{row['above fp32']:+.2f}") for row in rows])))
    results.write(args.results, NAME, command=COMMAND, seeds=[args.seed],
                  minutes=(kept.seconds + time.perf_counter() - started) / 60, ours=rows,
                  published=PUBLISHED, differs=DIFFERS, device=device.info.platform,
                  merge=("activation bits", "planes", "seed"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
