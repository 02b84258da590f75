r"""Fashion-MNIST in two precisions that share their bits: in two phases, jointly, and apart.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.dual_precision --train TRAIN.npz --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. The test images are looked
at after each training: nothing is selected by them. What is measured are packed files, their
precisions by switching modes in one session.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgerun import loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.recipes import comparison, results, small_cnn
from edgerun.tools.recipes.kept import Kept
from edgerun.tools.recipes.small_cnn import REAL, trained
from edgerun.tools.train import activations, data, dual, loop, packed

NAME = "dual-precision"
HIGH, LOW, LEAST = 8, 4, 2  # bits
MODES = {"least": LEAST, "low": LOW, "high": HIGH}
REACH = 6.0  # outputs of hidden layers are clipped to 0..6 and rounded to 8 bits
ALONE = f"{LOW} bits alone"
EPOCHS = 4  # of each phase, and of joint training
COMMAND = ("python -m edgerun.tools.recipes.dual_precision --train TRAIN.npz --test TEST.npz "
           "--out DIR --results docs/research")
DIFFERS = (
    "a small network of three convolutions and a dense layer on 20,000 images of Fashion-MNIST; "
    "what the authors trained is unknown",
    f"every training starts from the same network of real weights, after {small_cnn.FIRST} epochs; "
    f"fp32 and {ALONE} were trained {small_cnn.THEN} more, each phase and all precisions together "
    f"{EPOCHS} more",
    "activations have 8 bits in every mode, and one scale for all modes",
    "in the second phase the scale of the weights stays: the gain of the high precision's "
    "normalization is what is trained in its place",
    "2 bits after two phases of 8 and 4 were not trained: only their normalization has seen the "
    "training images",
    "beside one precision of 8 bits, a second one adds 976 bytes of scales and biases to 56,400 of "
    "constants, 1.7 %, and 960 to a file of 66,624, 1.4 % (tests/test_dual_precision.py)")


def rounded() -> nn.Module:
    """Return the activation of the networks of integers."""
    return activations.Clipped(8, REACH)


def nested(start: nn.Sequential, high: int, modes: tuple[int, ...], fitted: int) -> nn.Sequential:
    """Return a copy of a network of real weights that has these precisions."""
    network = small_cnn.with_activations(start, rounded)
    dual.nest(network, high, modes, fitted)
    return network


def low_phase(start: nn.Sequential, x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Sequential:
    """Return a network of all precisions, of which the low one alone is trained."""
    network = nested(start, HIGH, (LOW, HIGH, LEAST), LOW)
    return trained(network, x, y, f"phase 1, {LOW} bits", seed, EPOCHS)


def high_phase(network: nn.Sequential, x: torch.Tensor, y: torch.Tensor, seed: int
               ) -> nn.Sequential:
    """Train the other bits in place, with those of the low precision frozen."""
    dual.use(network, LOW)
    low = loop.outputs(network, x[:500])
    dual.freeze(network, LOW, HIGH)
    trained(network, x, y, f"phase 2, {HIGH} bits", seed + 1, EPOCHS)
    dual.observe(network, LEAST, x)
    dual.use(network, LOW)
    if not torch.equal(loop.outputs(network, x[:500]), low):
        raise RuntimeError("the second phase changed the low precision")
    return network


def joint(start: nn.Sequential, x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Sequential:
    """Train all precisions at once."""
    modes = (HIGH, LOW, LEAST)
    network = nested(start, HIGH, modes, LOW)
    return trained(network, x, y, "jointly", seed, EPOCHS, objective=dual.joint(modes))


def train_all(x: torch.Tensor, y: torch.Tensor, seed: int, kept: Kept
              ) -> dict[str, nn.Sequential]:
    """Return the trained networks by name."""
    start, on = small_cnn.real(x, y, seed, kept)
    alone = kept(ALONE, lambda: trained(nested(start, LOW, (LOW,), LOW), x, y, ALONE, seed))
    low = kept("phase 1", lambda: low_phase(start, x, y, seed))
    return {"fp32": on, ALONE: alone,
            "two phases": kept("two phases", lambda: high_phase(low, x, y, seed)),
            "jointly": kept("jointly", lambda: joint(start, x, y, seed))}


def measure(name: str, network: nn.Sequential, seed: int, images: torch.Tensor,
            labels: torch.Tensor, folder: Path, device: Device) -> list[dict[str, Any]]:
    """Export, pack and measure a network in every mode that it has; returns a row each."""
    nested_in = next(dual.norms_of(network), None)
    modes = MODES if nested_in is not None and LEAST in map(int, nested_in.norms) else None
    file, rows = small_cnn.packed(network, name, folder, modes=modes), []
    with Session(loader.read(file), device) as session:
        for mode in reversed(modes or [None]):
            bits = REAL
            if mode is not None:
                session.set_precision(mode)
            if nested_in is not None:
                bits = modes[mode] if mode else LOW
                dual.use(network, bits)
            found = torch.from_numpy(packed.predictions(session, images.numpy()))
            rows.append({"seed": seed, "trained": name, "bits": bits,
                         "accuracy %": 100 * float((found == labels).double().mean()),
                         "as PyTorch %": 100 * float(
                             (found == loop.predict(network, images)).double().mean()),
                         "file bytes": file.stat().st_size})
    return rows


def against(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what the aims ask: points above fp32, and above the 4 bits that were trained alone."""
    accuracy = {(row["trained"], row["bits"]): row["accuracy %"] for row in rows}
    for row in rows:
        row["above fp32"] = row["accuracy %"] - accuracy["fp32", REAL]
        if row["bits"] == LOW:
            row["above 4 bits alone"] = row["accuracy %"] - accuracy[ALONE, LOW]
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true",
                        help="take networks that an earlier run left in --out")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    kept, device = Kept(args.out, NAME, args.seed, args.again), Device(args.device)
    networks = train_all(*data.images(args.train), args.seed, kept)
    started = time.perf_counter()
    images, labels = data.images(args.test)
    rows = against([row for name, network in networks.items()
                    for row in measure(name, network, args.seed, images, labels, args.out,
                                       device)])
    print("\n".join(text.table(
        ("trained", "bits", "accuracy %", "above fp32", "as PyTorch %", "file bytes"),
        [(row["trained"], row["bits"], f"{row['accuracy %']:.2f}", f"{row['above fp32']:+.2f}",
          f"{row['as PyTorch %']:.2f}", row["file bytes"]) for row in rows], left=(0,))))
    results.write(args.results, NAME, command=COMMAND, seeds=[args.seed],
                  minutes=(kept.seconds + time.perf_counter() - started) / 60, ours=rows,
                  differs=DIFFERS, device=device.info.platform, merge=("trained", "bits", "seed"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
