"""`edgerun demo`: the whole path on a small bundled model and real images, told as a story.

The model and the images are made by tools/recipes/fashion_mnist.py, which also stores what PyTorch
predicts for each image: the demo counts how often the device agrees.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table
from rich.text import Text

import edgerun
from edgerun import arrays
from edgerun.tools.pack import PackReport, pack

DATA = Path(__file__).resolve().parent / "demo_data"
PRECISIONS = ("fp32", "fp16", "int8")
CALIBRATION = 100  # images whose ranges the int8 file is made from
SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Outcome:
    """What one precision did on the device.

    Attributes:
        precision: of the stored numbers.
        path: the packed file.
        file_bytes, weight_bytes, arena_bytes: as packed.
        device, platform: names of where it ran.
        launches: kernels that one run enqueues.
        allocated_bytes: all buffers of the session, counted where they are created.
        load_ns: validate the file, bind the weights, build the kernels, prepare the launches.
        built: programs compiled while loading; the others came from the cache on disk.
        median_ns: of one run, from the array given to the array returned.
        correct: images whose predicted class is their label.
        agree: images whose predicted class is PyTorch's.
        predictions: the class of each image.
        confidence: the probability given to that class.
    """
    precision: str
    path: str
    file_bytes: int
    weight_bytes: int
    arena_bytes: int
    device: str
    platform: str
    launches: int
    allocated_bytes: int
    load_ns: int
    built: int
    median_ns: int
    correct: int
    agree: int
    predictions: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Sample:
    """The bundled test images [N, 28, 28] uint8, their labels [N] and PyTorch's predictions [N]."""
    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    facts: dict

    @classmethod
    def read(cls) -> Sample:
        """Read what the recipe wrote."""
        with np.load(DATA / "fashion_mnist_images.npz") as kept:
            return cls(kept["images"], kept["labels"], kept["predictions"],
                       json.loads((DATA / "fashion_mnist.json").read_text(encoding="utf-8")))

    @property
    def model(self) -> Path:
        return DATA / self.facts["model"]

    def input(self, index: int) -> dict[str, np.ndarray]:
        """Return image `index` as the model wants it: [1, 1, 28, 28] fp32 in 0..1."""
        return {"image": (self.images[index][None, None] / 255).astype(np.float32)}


def run_all(report: PackReport, sample: Sample, device: str | None) -> Outcome:
    """Load a packed file on a device and run every image through it, one at a time."""
    started = time.perf_counter_ns()
    with edgerun.load(report.path, device) as session:
        load_ns = time.perf_counter_ns() - started
        session.run(sample.input(0))  # drivers put work off until the first launch
        times, rows = [], []
        for index in range(len(sample.images)):
            inputs = sample.input(index)
            started = time.perf_counter_ns()
            outputs = session.run(inputs)
            times.append(time.perf_counter_ns() - started)
            rows.append(outputs["probabilities"][0])
        probabilities = np.stack(rows)
        predictions = probabilities.argmax(1)
        return Outcome(
            precision=report.precision, path=report.path, file_bytes=report.file_bytes,
            weight_bytes=report.weight_bytes, arena_bytes=report.arena_bytes,
            device=session.device.info.name, platform=session.device.info.platform,
            launches=len(session.prepared),
            allocated_bytes=session.memory().allocated["total_bytes"],
            load_ns=load_ns, built=session.device.programs.built,
            median_ns=round(statistics.median(times)),
            correct=int((predictions == sample.labels).sum()),
            agree=int((predictions == sample.predictions).sum()),
            predictions=predictions, confidence=probabilities.max(1))


def picture(image: np.ndarray) -> list[str]:
    """Return an image [28, 28] uint8 as 14 lines of 28 characters: the darker, the more ink."""
    pairs = image.reshape(14, 2, 28).mean(1)
    return ["".join(SHADES[int(value * (len(SHADES) - 1) / 255)] for value in row) for row in pairs]


def _caption(sample: Sample, outcome: Outcome, index: int) -> str:
    classes = sample.facts["classes"]
    return (f"{classes[outcome.predictions[index]]} ({outcome.confidence[index]:.0%}), "
            f"is: {classes[sample.labels[index]]}")


def _pictures(console: Console, sample: Sample, outcome: Outcome) -> None:
    right = outcome.predictions == sample.labels
    chosen = {name: int(np.flatnonzero(group)[0])
              for name, group in (("Right", right), ("Wrong", ~right)) if group.any()}
    for rows in zip(*(picture(sample.images[index]) for index in chosen.values())):
        console.print(Text("      ".join(rows)))
    for name, index in chosen.items():
        console.print(f"{name}: image {index}, predicted {_caption(sample, outcome, index)}",
                      highlight=False)


def _kb(size: int) -> str:
    return f"{size / 1000:.1f} kB"


def _table(sample: Sample, outcomes: list[Outcome]) -> Table:
    count = len(sample.images)
    table = Table("", *(outcome.precision for outcome in outcomes))
    for column in table.columns[1:]:
        column.justify = "right"
    for label, cell in (
            (f"right, of {count} images", lambda o: f"{o.correct} ({o.correct / count:.1%})"),
            ("same class as PyTorch", lambda o: f"{o.agree} of {count}"),
            ("latency, median of one run", lambda o: f"{o.median_ns / 1e6:.2f} ms"),
            ("time to load", lambda o: f"{o.load_ns / 1e6:.0f} ms"),
            ("programs compiled for that", lambda o: str(o.built)),
            ("kernel launches in a run", lambda o: str(o.launches)),
            ("model file", lambda o: _kb(o.file_bytes)),
            ("weights (used inside the file)", lambda o: _kb(o.weight_bytes)),
            ("arena (all activations)", lambda o: _kb(o.arena_bytes)),
            ("allocated on the device", lambda o: _kb(o.allocated_bytes))):
        table.add_row(label, *(cell(outcome) for outcome in outcomes))
    return table


def _tell(console: Console, sample: Sample, reports: list[PackReport],
          outcomes: list[Outcome]) -> None:
    facts = sample.facts
    console.print(f"\n[bold]1. A trained model[/] {facts['model']}: names what is on a picture of "
                  f"{len(facts['classes'])} kinds of clothing. {facts['parameters']} parameters, "
                  f"trained with PyTorch; there {facts['test_correct']} of {facts['test_images']} "
                  f"test images are right ({facts['test_correct'] / facts['test_images']:.1%}), "
                  f"and {facts['demo_correct']} of the {len(sample.images)} used here "
                  f"({facts['demo_correct'] / len(sample.images):.1%}).")
    console.print("\n[bold]2. Packed[/] once, on the workstation, into one file that the device "
                  "maps: operators fused, weights laid out, every activation given its place.")
    operators = len(onnx.load(sample.model).graph.node)
    for report in reports:
        console.print(f"   {report.precision}: {operators} operators became {report.ops}; arena "
                      f"{_kb(report.arena_bytes)}, no plan could be under "
                      f"{_kb(report.lower_bound_bytes)}")
    console.print(f"\n[bold]3. Run[/] on {outcomes[0].device} ({outcomes[0].platform}):")
    console.print(_table(sample, outcomes))
    console.print("fp16 is how numbers are stored; the arithmetic is fp32 there too. int8 computes "
                  f"with integers, their scales from the first {CALIBRATION} of the images.")
    console.print(f"\n[bold]4. What it sees[/] ({outcomes[0].precision})")
    _pictures(console, sample, outcomes[0])


def _program() -> str:
    """Return how to call this program here: without its environment activated it is not in PATH."""
    if shutil.which("edgerun"):
        return "edgerun"
    return sys.argv[0] if Path(sys.argv[0]).name == "edgerun" else "python -m edgerun"


def _next(console: Console, keep: Path | None) -> None:
    console.print("\n[bold]Next[/]")
    file = "MODEL.edge" if keep is None else str(keep / "fashion_mnist_fp16.edge")
    program = _program()
    rows = [(f"{program} {rest}", meaning) for rest, meaning in (
        ("demo --keep DIR", "this again; the packed files stay in DIR"),
        ("devices", "what OpenCL offers here"),
        ("pack MODEL.onnx -o MODEL.edge", "your own model"),
        (f"memory {file}", "where every byte goes"),
        (f"bench --per-op {file}", "latency, and the time of every operator"))]
    width = max(len(command) for command, _ in rows)
    for command, meaning in rows:
        console.print(f"   {command:<{width}}  {meaning}", highlight=False, soft_wrap=True)


def play(folder: Path, sample: Sample,
         device: str | None) -> tuple[list[PackReport], list[Outcome]]:
    """Pack the bundled model at every precision into a folder and run each file."""
    samples = folder / "calibration.npz"
    arrays.write_npz(samples, {name: np.stack([sample.input(i)[name] for i in range(CALIBRATION)])
                               for name in sample.input(0)})
    reports = [pack(sample.model, folder / f"fashion_mnist_{precision}.edge", precision,
                    **({"calibration": samples, "device": device} if precision == "int8" else {}))
               for precision in PRECISIONS]
    return reports, [run_all(report, sample, device) for report in reports]


def _as_json(sample: Sample, reports: list[PackReport], outcomes: list[Outcome]) -> str:
    runs = []
    for report, outcome in zip(reports, outcomes):
        run = dataclasses.asdict(outcome)
        run["path"] = outcome.path if Path(outcome.path).exists() else None
        run["predictions"] = outcome.predictions.tolist()
        run["confidence"] = [round(float(value), 6) for value in outcome.confidence]
        run["ops"], run["source_ops"] = report.ops, report.source_ops
        runs.append(run)
    return json.dumps({"model": sample.facts, "images": len(sample.images), "runs": runs})


def main(argv: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        The exit status: 0, or 1 if the device's fp32 predictions are not PyTorch's on at least 99 %
        of the images.

    Raises:
        DeviceError: there is no such device, or it cannot run the model.
    """
    parser = argparse.ArgumentParser(
        prog="edgerun demo", description=__doc__.splitlines()[0], allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  edgerun demo\n  edgerun demo --device pocl --keep packed")
    parser.add_argument("--device", metavar="D", help="index, or part of the device's or driver's "
                                                      "name")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the packed files in DIR")
    parser.add_argument("--json", action="store_true", help="print numbers instead of the story")
    args = parser.parse_args(argv)
    sample = Sample.read()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        reports, outcomes = play(args.keep, sample, args.device)
    else:
        with tempfile.TemporaryDirectory() as folder:
            reports, outcomes = play(Path(folder), sample, args.device)
    if args.json:
        print(_as_json(sample, reports, outcomes))
    else:
        console = Console(width=min(100, Console().width))
        _tell(console, sample, reports, outcomes)
        _next(console, args.keep)
    agree, count = outcomes[0].agree, len(sample.images)
    if agree < 0.99 * count:
        print(f"edgerun demo: fp32 on {outcomes[0].device} agrees with PyTorch on {agree} of "
              f"{count} images, needed 99 %", file=sys.stderr)
        return 1
    return 0

