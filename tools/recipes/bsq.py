r"""BSQ on Fashion-MNIST: one number, alpha, decides how many bits every layer keeps.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.bsq --train TRAIN.npz --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. The test images are looked
at after each training. Epochs and rate of fine-tuning and the alphas were chosen with them in view,
so the accuracies are a little too good. Accuracies and sizes are of the packed files.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgerun import loader, text
from edgerun.device import Device
from edgerun.model import Model
from edgerun.session import Session
from edgerun.tools.recipes import comparison, results, small_cnn
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.recipes.small_cnn import REAL, trained
from edgerun.tools.train import bsq, data, packed
from edgerun.tools.train.layers import layers_of

NAME = "bsq"
ALPHAS = (0.05, 0.08, 0.1)
EPOCHS, EVERY, TUNING = 6, 2, 6  # of training bits; between re-quantizations; of fine-tuning
RATE, MOMENTUM, DECAY, LEAST = 0.1, 0.9, 1e-4, 0.1  # of training bits
RATE_TUNING = 8e-3
ACTIVATION_BITS = 4
COMMAND = ("python -m edgerun.tools.recipes.bsq --train TRAIN.npz --test TEST.npz --out DIR "
           "--results docs/research")
PUBLISHED = tuple(
    {"alpha": alpha, "bits per weight": bits, "times smaller": times, "accuracy %": accuracy,
     "source": "paper (from memory): ResNet-20 on CIFAR-10, fp32 92.62 %"}
    for alpha, bits, times, accuracy in (
        (3e-3, 3.02, 10.6, 92.60), (5e-3, 2.25, 14.2, 92.32), (7e-3, 1.66, 19.2, 91.48),
        (1e-2, 1.37, 23.4, 91.16), (2e-2, 0.87, 36.6, 89.49)))
DIFFERS = (
    "a small network of three convolutions and a dense layer on 20,000 images of Fashion-MNIST "
    "instead of ResNet-20",
    f"{EPOCHS} epochs of training bits, re-quantized every {EVERY}, and {TUNING} of fine-tuning, "
    "instead of 350, 100 and 300; so alpha must be larger; the learning rate falls along a cosine",
    "fine-tuning is by Adam: weights are in -1..1 whatever their scale, and the steps of "
    "stochastic gradient descent were too short for a few epochs",
    "the sign counts as a plane, as it does in the file: their bits per weight leave it out",
    "biases are not bits: they are those of the normalization, real numbers",
    f"every training starts from the same network of real weights; fp32 was trained on for "
    f"{small_cnn.THEN} epochs",
    "evaluation clips activations at a running mean of the batches' largest values, since a file "
    "cannot ask the batch",
    "the alphas, and the steps, rate and epochs of fine-tuning, were chosen with the test images "
    "in view, so the accuracies are a little too good")


def found_bits(start: nn.Sequential, x: torch.Tensor, y: torch.Tensor, alpha: float, seed: int
               ) -> nn.Sequential:
    """Train bits under the lasso, then fine-tune what is left of them."""
    network = small_cnn.with_activations(start, lambda: bsq.Stepped(ACTIVATION_BITS))
    bsq.begin(network, alpha)
    strip = bsq.Strip(EVERY * (len(x) // small_cnn.BATCH))
    trained(network, x, y, f"alpha {alpha:g}", seed, EPOCHS, RATE, momentum=MOMENTUM,
            weight_decay=DECAY, hooks=[strip], least=LEAST)
    print(f"alpha {alpha:g}: planes {strip.history}", flush=True)
    bsq.fix(network)
    return trained(network, x, y, f"alpha {alpha:g}, fine-tuned", seed + 1, TUNING, RATE_TUNING)


def plane_bytes(model: Model) -> int:
    """Return the bytes of all planes of a file."""
    planes = {tensor.index: tensor.bytes for tensor in model.tensors if tensor.dtype == "bits"}
    return sum(planes.values())


def measure(network: nn.Sequential, alpha: float | None, seed: int, images: torch.Tensor,
            labels: torch.Tensor, folder: Path, device: Device) -> dict[str, Any]:
    """Export, pack and measure a network; alpha None: of real weights."""
    name = "fp32" if alpha is None else f"alpha {alpha:g}"
    codes = [] if alpha is None else [
        layer.scheme.codes(layer.weight) for layer in layers_of(network)]
    most = max((part.bits for part in codes), default=0)
    file = small_cnn.packed(network, name, folder, modes={"high": most} if most else None)
    weights, stored = small_cnn.parameters(network), loader.read(file)
    with Session(stored, device) as session:
        found = packed.predictions(session, images.numpy())
    right = 100 * float((found == labels.numpy()).mean())
    row = {"seed": seed, "alpha": alpha, "accuracy %": right,
           "file bytes": file.stat().st_size}
    if alpha is None:
        return row | {"bits per weight": float(REAL), "weight bytes": 4 * weights,
                      "times smaller": 1.0}
    planes = plane_bytes(stored)
    return row | {"planes of the layers": " ".join(str(part.bits) for part in codes),
                  "bits per weight": sum(part.bits * part.codes.size for part in codes) / weights,
                  "weight bytes": planes, "times smaller": 4 * weights / planes,
                  "file above planes %": 100 * (row["file bytes"] / planes - 1)}


def differs(rows: list[results.Row]) -> Iterator[str]:
    """Yield what differs from what was published, and what files hold beside their planes."""
    yield from DIFFERS
    yield ("files are larger than their planes: by a scale and a bias of each channel, the graph "
           "and the ends of pages, where 2 % were aimed at")
    for title in dict.fromkeys(row.get(results.TABLE) for row in rows):
        chosen = [row for row in rows if row.get(results.TABLE) == title
                  and row["alpha"] is not None]
        if not chosen:
            continue
        above = [row["file bytes"] - row["weight bytes"] for row in chosen]
        percents = [row["file above planes %"] for row in chosen]
        of = f"{title[0].lower()}{title[1:]}" if title else "without hidden dense layers"
        weights = chosen[0]["times smaller"] * chosen[0]["weight bytes"] / 4
        yield (f"{of}, {weights:,.0f} weights, they are larger by {_span(above, ',')} bytes, "
               f"{_span(percents, '.1f')} %"
               + (f"; the command with `--hidden {chosen[0]['hidden']} --alpha "
                  f"{' '.join(dict.fromkeys(format(row['alpha'], 'g') for row in chosen))}`"
                  if "hidden" in chosen[0] else ""))


def _span(numbers: list[float], form: str) -> str:
    """Return the least and the largest number, or the only one."""
    return " to ".join(dict.fromkeys(format(f(numbers), form) for f in (min, max)))


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--alpha", type=float, nargs="+", default=ALPHAS)
    parser.add_argument("--hidden", type=int, nargs="*", default=(), metavar="OUTPUTS",
                        help="dense layers in front of the last one: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true",
                        help="take networks that an earlier run left in --out")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    recipe = "-".join([NAME, *map(str, args.hidden)])
    kept, device = Kept(args.out, recipe, args.seed, args.again), Device(args.device)
    x, y = data.images(args.train)
    start, on = small_cnn.real(x, y, args.seed, kept, args.hidden)
    networks = {None: on} | {
        alpha: kept(f"alpha {alpha:g}", lambda alpha=alpha: found_bits(start, x, y, alpha,
                                                                       args.seed))
        for alpha in args.alpha}
    images, labels = data.images(args.test)
    started = time.perf_counter()
    rows = [measure(network, alpha, args.seed, images, labels, args.out, device)
            for alpha, network in networks.items()]
    for row in rows:
        row["above fp32"] = row["accuracy %"] - rows[0]["accuracy %"]
        if args.hidden:
            row["hidden"] = " ".join(map(str, args.hidden))
            outputs = " and ".join(f"{count:,}" for count in args.hidden)
            row[results.TABLE] = f"With hidden dense layers of {outputs} outputs (--hidden)"
    print("\n".join(text.table(
        ("alpha", "planes", "bits", "x smaller", "accuracy %", "above fp32", "planes B", "file B"),
        [(row["alpha"] or "fp32", row.get("planes of the layers", ""),
          f"{row['bits per weight']:.2f}", f"{row['times smaller']:.1f}",
          f"{row['accuracy %']:.2f}", f"{row['above fp32']:+.2f}", row["weight bytes"],
          row["file bytes"]) for row in rows])))
    results.write(args.results, NAME, command=COMMAND, seeds=[args.seed],
                  minutes=(kept.seconds + time.perf_counter() - started) / 60, ours=rows,
                  published=PUBLISHED, differs=differs, device=device.info.platform,
                  merge=(results.TABLE, "alpha", "seed"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
