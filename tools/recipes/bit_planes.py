"""What each number of bit planes gives without training: errors, and the demo network's accuracy.

    python -m edgerun.tools.recipes.bit_planes --out DIR --results docs/research

Errors are of products with random Gaussian weights 256 x 1024; the network and its images are those
of `edgerun demo`.
"""
from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import arrays, loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools import demo
from edgerun.tools.pack import pack
from edgerun.tools.planes import SIGNS, curve
from edgerun.tools.planes.quantizer import quantize
from edgerun.tools.recipes import comparison, results

NAME = "bit-planes-curve"
SEED, SHAPE, SPREAD, COLUMNS = 2, (256, 1024), 0.8, 50
PLANES = 8
THEIRS = "quantizer of PrecisionBatching"
COMMAND = "python -m edgerun.tools.recipes.bit_planes --out DIR --results docs/research"
ERRORS = "Relative error of products, Gaussian weights 256 x 1024"
ACCURACY = "Accuracy of the demo's network in %, one file of --precision int8 --bits 8 each"
DIFFERS = (
    f"the {THEIRS} is modelled after its public code, each number of planes alone: its n bits are "
    "n + 1 planes. Its error changes by about a factor of two with where the largest weight lies "
    f"between powers of two; the spread of weights here, {SPREAD}, is the best for it of seven "
    "from 0.48 to 0.96. What ours have does not depend on it",
    "`pairs` counts pairs of planes; the first plane of `magnitude` is the sign alone",
    f"accuracy is of 400 images, of which {demo.CALIBRATION} also calibrated the file: an image is "
    "0.25 points")


def precision_batching(w: np.ndarray, bits: int) -> np.ndarray:
    """Return weights as the quantizer of PrecisionBatching leaves them: a grid of 2^bits magnitudes
    up to twice the power of two above the largest weight, whose last bin, 0, is clamped away."""
    fixed = np.trunc(w * 2**16)
    step = 2.0 ** (np.ceil(np.log2(np.abs(fixed).max())) + 1 - bits)
    return np.sign(fixed) * np.clip(np.rint(np.abs(fixed) / step), 1, 2**bits - 1) * step / 2**16


def row(table: str, packed: str, found: Mapping[int, float]) -> dict[str, Any]:
    """Return a row with a column per number of planes."""
    return {"table": table, "packed with": packed,
            **{f"{t} plane{'s' * (t > 1)}": found.get(t) for t in range(1, PLANES + 1)}}


def errors() -> list[dict[str, Any]]:
    """Return rows of the norm of what a product is off, in that of the product."""
    rng = np.random.default_rng(SEED)
    w, x = SPREAD * rng.normal(size=SHAPE), rng.normal(size=(SHAPE[1], COLUMNS))

    def error(other: np.ndarray) -> float:
        return float(np.linalg.norm((other - w) @ x) / np.linalg.norm(w @ x))

    rows = []
    for bits, signs in ((4, "twos"), *((PLANES, signs) for signs in SIGNS)):
        q, planes = quantize(w, bits, signs)
        rows.append(row(ERRORS, f"--bits {bits} --signs {signs}", {
            t: error(planes.reals(q, t)) for t in range(1, bits + 1)}))
    return [*rows, row(ERRORS, THEIRS, {
        n + 1: error(precision_batching(w, n)) for n in range(1, PLANES)})]


def accuracies(folder: Path, device: Device) -> list[dict[str, Any]]:
    """Return rows of the demo's network: each file with every number of its planes."""
    folder.mkdir(parents=True, exist_ok=True)
    sample, rows = demo.Sample.read(), []
    images = [sample.input(index) for index in range(len(sample.images))]
    ranges = folder / "calibration.npz"
    arrays.write_npz(ranges, {name: np.stack([image[name] for image in images[:demo.CALIBRATION]])
                              for name in images[0]})
    for signs, improve in (*((signs, ()) for signs in SIGNS), ("twos", ("correct-bias",))):
        name = " ".join(["--signs", signs, *(f"--improve {step}" for step in improve)])
        file = folder / f"{name.replace('--', '').replace(' ', '-')}.edge"
        pack(sample.model, file, "int8", calibration=ranges, device=device, bits=PLANES,
             signs=signs, improve=improve)
        with Session(loader.read(file), device) as session:
            points = curve.measure(session, images, sample.labels)
        rows.append(row(ACCURACY, name, {p.planes: 100 * p.accuracy for p in points}))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    results.add_argument(parser)
    args = parser.parse_args(argv)
    started, device = time.perf_counter(), Device(args.device)
    rows = [*errors(), *accuracies(args.out, device)]
    print("\n".join(text.table(tuple(rows[0])[1:], [
        [value if isinstance(value, str) else "-" if value is None else f"{value:.4g}"
         for value in list(found.values())[1:]] for found in rows], left=(0,))))
    results.write(args.results, NAME, command=COMMAND, seeds=[SEED],
                  minutes=(time.perf_counter() - started) / 60, ours=rows, differs=DIFFERS,
                  threads=device.info.compute_units, device=device.info.platform)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
