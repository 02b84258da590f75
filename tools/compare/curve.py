"""Accuracy against RAM and flash: files packed to budgets and run on labelled images.

    python -m edgerun.tools.compare.curve DATA docs/footprint/budget.json
    python -m edgerun.tools.compare.curve DATA FILE --only fashion_mnist_cnn --sweep ram

What FILE holds already is kept, and added to: a run that was ended goes on where it was.

DATA is a folder with models/ and datasets/. Images for calibration are others than those counted.
"""
from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import arrays, files, loader, text
from edgerun.device import Device
from edgerun.errors import EdgerunError, InputError
from edgerun.session import Session
from edgerun.tools import budget as budgets
from edgerun.tools.budget.report import Budget, BudgetError
from edgerun.tools.compare.machine import machine
from edgerun.tools.pack import import_model

CALIBRATION = 100  # images
# Parts of what fp32 takes, the largest first: of RAM and file, of RAM alone, of the file alone.
SWEEPS = {"both": (1.0, 0.7, 0.55, 0.45, 0.4, 0.35, 0.3, 0.27, 0.2),
          "ram": (0.6, 0.35, 0.24, 0.15), "flash": (0.6, 0.4, 0.27)}

Sample = tuple[np.ndarray, int]  # what the model gets, its class
Curve = dict[str, Any]  # what measure() returns


@dataclass(frozen=True)
class Study:
    """A model with labelled data.

    Attributes:
        model: under models/.
        load: folder of data sets -> images for calibration, and those to count.
        about: what the data are, for people.
        files: that load() reads.
    """
    model: str
    load: Callable[[Path], tuple[list[np.ndarray], list[Sample]]]
    about: str
    files: tuple[str, ...] = ()

    def check(self, data: Path) -> None:
        """Raise InputError if a folder of models and data sets lacks what this needs."""
        paths = [Path("models", self.model), *(Path("datasets", name) for name in self.files)]
        missing = [str(path) for path in paths if not (data / path).exists()]
        if missing:
            raise InputError(f"{data}: has no {', no '.join(missing)}; needed "
                             f"{', '.join(map(str, paths))}")


def gray(train: str, test: str, scale: float) -> Callable:
    """Return what loads small gray images, multiplied by a number."""
    def load(folder: Path) -> tuple[list[np.ndarray], list[Sample]]:
        with np.load(folder / train) as data:
            seen = data["images"][:CALIBRATION]
        with np.load(folder / test) as data:
            images, labels = data["images"], data["labels"]

        def given(image: np.ndarray) -> np.ndarray:
            return image[None, None].astype(np.float32) * np.float32(scale)

        return [given(i) for i in seen], [(given(i), int(n)) for i, n in zip(images, labels)]
    return load


def _cifar(folder: Path) -> tuple[list[np.ndarray], list[Sample]]:
    from PIL import Image
    with zipfile.ZipFile(folder / "cifar10_train_10k_jpeg.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        seen = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), np.float32)
                for name in names[::len(names) // CALIBRATION][:CALIBRATION]]
    with np.load(folder / "cifar10_test_A.npz") as data:
        images, labels = data["images"].astype(np.float32), data["labels"]
    return [i[None] for i in seen], [(i[None], int(n)) for i, n in zip(images, labels)]


def _imagenet(folder: Path) -> tuple[list[np.ndarray], list[Sample]]:
    """As SqueezeNet v1.0 wants them: BGR minus the mean, the middle 227 x 227."""
    from PIL import Image
    with open(folder / "imagenet_A" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        image = np.asarray(Image.open(folder / "imagenet_A" / row["file"]).convert("RGB"),
                           np.float32)
        top, left = (image.shape[0] - 227) // 2, (image.shape[1] - 227) // 2
        crop = image[top:top + 227, left:left + 227, ::-1] - np.float32([104, 117, 123])
        found.append((np.ascontiguousarray(crop.transpose(2, 0, 1))[None],
                      int(row["class_index_0_999"])))
    return ([image for image, _ in found[::len(found) // CALIBRATION]],
            [sample for i, sample in enumerate(found) if i % (len(found) // CALIBRATION)])


STUDIES = {
    "mnist_cntk": Study("onnx/mnist_cntk_op13.onnx",
                        gray("mnist_train.npz", "mnist_test_A.npz", 1.0),
                        "MNIST, half of the test set",
                        ("mnist_train.npz", "mnist_test_A.npz")),
    "fashion_mnist_cnn": Study("onnx/fashion_mnist_cnn.onnx",
                               gray("fashion_mnist_train_20k.npz", "fashion_mnist_test_A.npz",
                                     1 / 255), "Fashion-MNIST, half of the test set",
                               ("fashion_mnist_train_20k.npz", "fashion_mnist_test_A.npz")),
    "ic01_resnet8": Study("tflite/ic01_resnet8_fp32.tflite", _cifar,
                          "CIFAR-10, 2000 test images from JPEG",
                          ("cifar10_train_10k_jpeg.zip", "cifar10_test_A.npz")),
    "squeezenet_v1.0": Study("onnx/squeezenet_v1.0_dc.onnx", _imagenet,
                             "ImageNet, a sample of 400 images",
                             ("imagenet_A/labels.csv",)),
}


def right(session: Session, samples: Sequence[Sample]) -> int:
    """Return how many samples the first output of a model classifies as labelled."""
    name = session.inputs[0].name
    return sum(int(next(iter(session.run({name: image}).values())).argmax()) == label
               for image, label in samples)


def measure(study: Study, data: Path, device: Device, folder: Path,
            sweeps: Sequence[str] = tuple(SWEEPS), keep: Callable[[Curve], None] = lambda _: None,
            found: Curve | None = None) -> Curve:
    """Pack a model to many budgets, and count its right answers.

    Args:
        study: the model.
        data: folder of models and data sets.
        device: where to run.
        folder: for the files.
        sweeps: of SWEEPS.
        keep: called with the result so far after every file.
        found: what was measured before; changed in place.

    Returns:
        "model", "about", "samples", "points" (a dict per different file that fits: its budgets,
        ram, flash, arena as allocated, types, errors, share of right answers) and "refused" (the
        largest budget of each sweep that nothing fits, with what is lacking and what would help).
    """
    seen, samples = study.load(data / "datasets")
    model = data / "models" / study.model
    calibration = folder / "calibration.npz"
    arrays.write_npz(calibration, {import_model(model).inputs[0].name: np.stack(seen)})
    finder = budgets.Finder(budgets.Source(model, calibration=calibration, device=device))
    whole, _ = finder.find(Budget(ram=1 << 40))  # fp32
    found = found or {"model": Path(study.model).stem, "about": study.about,
                      "samples": len(samples), "points": [], "refused": []}
    for sweep in sweeps:
        for part in SWEEPS[sweep]:
            budget = Budget(int(whole.ram * part) if sweep != "flash" else None,
                            int(whole.flash * part) if sweep != "ram" else None)
            if any([budget.ram, budget.flash] in p["budgets"] for p in found["points"]):
                continue
            if any((budget.ram, budget.flash) == (r["ram"], r["flash"]) for r in found["refused"]):
                break
            out = folder / "m.edge"
            try:
                _, report = finder.pack(out, budget)
            except BudgetError as error:
                report = error.report
                found["refused"].append({
                    "ram": budget.ram, "flash": budget.flash, "over_ram": report.over_ram,
                    "over_flash": report.over_flash,
                    "suggestions": [s.what for s in report.suggestions]})
                keep(found)
                break  # nothing fits a smaller one either
            point = {"budgets": [[budget.ram, budget.flash]], "ram": report.ram,
                     "flash": report.flash, "types": report.types, "how": report.how,
                     "estimated": report.estimated, "error": report.error, "drop": report.drop}
            known = next((p for p in found["points"] if all(
                p[key] == point[key] for key in ("ram", "flash", "types", "how"))), None)
            if known is not None:
                known["budgets"] += point["budgets"]
                keep(found)
                continue
            with Session(loader.read(out), device) as session:
                point["accuracy"] = right(session, samples) / len(samples)
                point["allocated"] = session.buffers.bytes_by_category["arena"]
            found["points"].append(point)
            keep(found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the file after every model; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgerun.tools.compare.curve",
                                     description=__doc__.splitlines()[0])
    needed = "; ".join(f"models/{study.model} with datasets/ {' and '.join(study.files)}"
                       for study in STUDIES.values())
    parser.add_argument("data", metavar="DATA", type=Path, help=f"folder that holds {needed}")
    parser.add_argument("out", metavar="FILE.json", type=Path, help="what is written and added to")
    parser.add_argument("--only", metavar="NAME", choices=STUDIES, action="append",
                        help=f"one of {', '.join(STUDIES)} (repeatable); default: all")
    parser.add_argument("--sweep", metavar="NAME", choices=SWEEPS, action="append",
                        help=f"one of {', '.join(SWEEPS)}; default: all")
    parser.add_argument("--device", metavar="D", help="as for edgerun run")
    args = parser.parse_args(argv)
    for name in args.only or STUDIES:
        STUDIES[name].check(args.data)
    device = Device(args.device)
    document = json.loads(args.out.read_text()) if args.out.is_file() else {"studies": {}}
    document["machine"] = machine(device.info.compute_units) | {
        "device": f"{device.info.platform}, {device.info.name}"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only or STUDIES:
        def keep(found: Curve, name: str = name) -> None:
            document["studies"][name] = found
            with files.replacing(args.out) as file:
                file.write((text.json_text(document) + "\n").encode())
            print(f"{name}: {len(found['points'])} files, {len(found['refused'])} refused",
                  file=sys.stderr)

        with tempfile.TemporaryDirectory(prefix="edgerun-") as folder:
            measure(STUDIES[name], args.data, device, Path(folder), args.sweep or tuple(SWEEPS),
                    keep, document["studies"].get(name))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgerunError as error:
        sys.exit(f"curve: {error}")
