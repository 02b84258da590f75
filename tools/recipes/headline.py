r"""Memory, time and accuracy of whole networks in every precision: the headline of mixed precision.

    python -m edgerun.tools.recipes.headline DATA --out DIR --results docs/research \
        [--only lenet] [--steps pack,time] [--again int8 "4 bits"]

DATA has models/caffe/lenet_mnist.prototxt, models/onnx/squeezenet_v1.0_dc.onnx and datasets/, as
for edgerun.tools.compare.curve; CaffeNet and the mixture of experts are made here, with random
weights. The step "pack" writes the files of a network into DIR and counts right answers, but for
those that DIR holds already, unless --again names their precision; "time" times those files by
turns, and wants the machine for itself.
"""
from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import arrays, files, loader, report, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.compare import curve
from edgerun.tools.pack import pack
from edgerun.tools.recipes import caffenet, comparison, results

COMMAND = ("python -m edgerun.tools.recipes.headline DATA --out DIR --results docs/research")
STEPS = ("pack", "time")
PRECISIONS = comparison.PRECISIONS
TURN_NS = 30e6  # one session's turn; a network that takes longer runs once
ROUNDS = 15
SOURCE = "abstract: up to, on certain devices"
# The same, of 16 bits alone: Das et al., "Mixed precision training of convolutional neural networks
# using integer operations", 2018.
INT16 = [{"network": name, "fp32 right %": fp32, "int16 right %": int16,
          "points lost": round(fp32 - int16, 2), "source": "the paper (from memory), ImageNet"}
         for name, fp32, int16 in (("ResNet-50", 75.70, 75.77), ("GoogLeNet v1", 69.26, 69.34),
                                   ("VGG-16", 68.23, 68.12), ("AlexNet", 57.43, 56.94))]
PUBLISHED = [{"network": None, "precision": None, "times smaller": 3.29, "times faster": 3.01,
              "source": SOURCE}]
DIFFERS = [
    "CPUs: the paper's devices are GPUs of boards and of desktop computers",
    "milliseconds are not those of performance.md; \"times faster\" is the median over turns that "
    "the files of a network take",
    "times are of one sample, memory of the batch in the network's name: weights, all constants "
    "and the arena; the driver's own memory is the same for every precision",
    "the published accuracy of integers is not readable, and CaffeNet has random weights here, so "
    "its column is the error of the output against fp32"]

DIFFERS_INT16 = [
    "inference only, after training in fp32; the paper trains in 16 bits",
    "a scale per tensor, and per output channel of weights, that need not be a power of two"]


@dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        title: for people.
        prepare: (DATA, folder) -> source model, samples of its input for calibration
            [count, *shape], labelled samples (none if its weights are random).
        timed: False for networks whose memory alone is wanted.
        beside: the network that it stands for, whose fp32 file it is compared with too.
        bits: numbers of bit planes of weights that are packed too, with activations of 8 bits.
    """
    title: str
    prepare: Callable[[Path, Path], tuple[Path, np.ndarray, Sequence[curve.Sample]]]
    timed: bool = True
    beside: str = ""
    bits: tuple[int, ...] = (4,)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What is packed, in the order of the table."""
        return *PRECISIONS, *(f"{n} bits" for n in self.bits)


def _study(study: curve.Study) -> Callable:
    def prepare(data: Path, folder: Path) -> tuple[Path, np.ndarray, Sequence[curve.Sample]]:
        study.check(data)
        seen, samples = study.load(data / "datasets")
        return data / "models" / study.model, np.stack(seen), samples
    return prepare


def _caffenet(batch: int) -> Callable:
    def prepare(_: Path, folder: Path) -> tuple[Path, np.ndarray, Sequence[curve.Sample]]:
        model = folder / "source.onnx"
        caffenet.write(model, batch)
        return model, caffenet.images(batch), ()
    return prepare


def _mixture(_: Path, folder: Path) -> tuple[Path, np.ndarray, Sequence[curve.Sample]]:
    from edgerun.tools.recipes import alexnet_moe
    alexnet_moe.write(folder / "source.onnx")
    return folder / "source.onnx", caffenet.images(1), ()


LENET = curve.Study("caffe/lenet_mnist.prototxt",
                    curve.gray("mnist_train.npz", "mnist_test_A.npz", 1 / 256),
                    "MNIST, half of the test set", ("mnist_train.npz", "mnist_test_A.npz"))
NETWORKS = {
    "lenet": Network("LeNet, MNIST", _study(LENET), bits=(6, 4)),
    "squeezenet": Network("SqueezeNet 1.0, ImageNet", _study(curve.STUDIES["squeezenet_v1.0"]),
                          bits=(6, 4)),
    "caffenet": Network("CaffeNet, random weights", _caffenet(1)),
    "caffenet16": Network("CaffeNet, batch 16", _caffenet(16), timed=False),
    "alexnet-moe": Network("AlexNet-MoE, 4 of 16 experts, random weights", _mixture,
                           beside="caffenet"),
}


def pack_step(name: str, data: Path, folder: Path, device: Device, again: Sequence[str] = ()
              ) -> None:
    """Write <precision>.edge for every precision, the first input, and what each file costs.

    What the folder holds already is kept, so that a run that was ended goes on where it was; but
    for the precisions to pack again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "packed.json"
    rows = [row for row in json.loads(kept.read_text()) if row["precision"] not in again
            ] if kept.is_file() else []
    missing = [p for p in NETWORKS[name].precisions
               if all(p != row["precision"] for row in rows)]
    if not missing:
        return
    model, seen, samples = NETWORKS[name].prepare(data, folder)
    for precision in missing:
        started = time.perf_counter()
        file, ranges = folder / f"{precision}.edge", folder / f"{PRECISIONS[0]}.edge"
        bits = int(precision.split()[0]) if precision.endswith("bits") else None
        low = {"bits": bits, "modes": {"all": bits}} if bits else {}  # scales of one mode only
        if precision == PRECISIONS[0]:
            info = curve.import_model(model).inputs[0]
            arrays.write_npz(folder / "samples.npz", {info.name: seen})
            arrays.write_npz(folder / "input.npz", {info.name: seen[0]})
        pack(model, file, "int8" if low else precision, device=device, **low,
             calibration=None if precision == "fp16" else
             folder / "samples.npz" if precision == PRECISIONS[0] else ranges)
        packed = loader.read(file)
        planned = report.planned_report(packed).as_dict()["planned"]
        row = {"precision": precision, "arena": planned["arena_bytes"],
               "weights": sum(planned["weights"].values()) + sum(planned["constants"].values()),
               "file": file.stat().st_size}
        with Session(packed, device) as session:
            if samples:
                row["right"], row["samples"] = curve.right(session, samples), len(samples)
            else:
                found = session.run(arrays.read_npz(folder / "input.npz"))
                if precision == PRECISIONS[0]:
                    arrays.write_npz(folder / "output.npz", found)
                expected = arrays.read_npz(folder / "output.npz")
                row["error"] = float(max(
                    np.linalg.norm(found[key] - y) / np.linalg.norm(y)
                    for key, y in expected.items()))
        rows.append(row | {"seconds": time.perf_counter() - started})
        print(name, rows[-1], flush=True)
        with files.replacing(kept) as file:
            file.write(text.json_text(rows).encode())


def turns(sessions: Sequence[Session], x: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Return the median time of a run in every turn, nanoseconds [rounds, sessions].

    Args:
        sessions: of models with one input.
        x: for all of them.
        rounds: turns of each.
    """
    def timed(session: Session) -> int:
        inputs = {session.inputs[0].name: x}
        start = time.perf_counter_ns()
        session.run(inputs)
        return time.perf_counter_ns() - start

    once = [min(timed(session) for _ in range(3)) for session in sessions]
    return np.array([[np.median([timed(session) for _ in range(max(1, int(TURN_NS // ns)))])
                      for session, ns in zip(sessions, once)] for _ in range(rounds)])


def time_step(name: str, out: Path, device: Device) -> list[dict[str, Any]]:
    """Time the files of a network by turns; returns the rows of the table."""
    network, packed = NETWORKS[name], _packed(out, name)
    measured = [(row, out / name / f"{row['precision']}.edge") for row in packed]
    if network.beside:
        first, = (row for row in _packed(out, network.beside) if row["precision"] == PRECISIONS[0])
        measured.append((first, out / network.beside / f"{PRECISIONS[0]}.edge"))
    ns = None
    if network.timed:
        x, = arrays.read_npz(out / name / "input.npz").values()
        with contextlib.ExitStack() as stack:
            ns = turns([stack.enter_context(Session(loader.read(file), device))
                        for _, file in measured], x)
    rows = []
    for at, row in enumerate(packed):
        found = {"network": network.title, "precision": row["precision"],
                 "weights KiB": row["weights"] / 1024, "arena KiB": row["arena"] / 1024,
                 "file KiB": row["file"] / 1024,
                 "times smaller": _total(packed[0]) / _total(row)}
        if ns is not None:
            found |= {"ms": float(np.median(ns[:, at]) / 1e6),
                      "times faster": float(np.median(ns[:, 0] / ns[:, at]))}
        if network.beside:
            other = NETWORKS[network.beside].title.split(",")[0]
            found |= {f"times smaller than {other} fp32": _total(measured[-1][0]) / _total(row),
                      f"times faster than {other} fp32": float(np.median(ns[:, -1] / ns[:, at]))}
        rows.append(found | ({"right %": 100 * row["right"] / row["samples"]} if "right" in row
                             else {"output error": row["error"]}))
    return rows


def _packed(out: Path, name: str) -> list[dict[str, Any]]:
    rows, order = json.loads((out / name / "packed.json").read_text()), NETWORKS[name].precisions
    return sorted((row for row in rows if row["precision"] in order),
                  key=lambda row: order.index(row["precision"]))


def _total(row: dict[str, Any]) -> int:
    return row["weights"] + row["arena"]


def _int16(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row of the table of 16 bits, none if the network has no labels."""
    right = {row["precision"]: row["right %"] for row in rows if "right %" in row}
    return [{"network": rows[0]["network"], "fp32 right %": right["fp32"],
             "int16 right %": right["int16"], "points lost": right["fp32"] - right["int16"]}
            ] if right else []


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--only", choices=NETWORKS, action="append",
                        help="a network (repeatable); default: all")
    parser.add_argument("--again", nargs="+", default=(), metavar="PRECISION",
                        choices={p for n in NETWORKS.values() for p in n.precisions},
                        help="pack these though --out holds them")
    parser.add_argument("--steps", default=",".join(STEPS), help="default: %(default)s")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    device = Device(args.device)
    for name in args.only or NETWORKS:
        if "pack" in args.steps.split(","):
            pack_step(name, args.data, args.out / name, device, args.again)
        if "time" not in args.steps.split(","):
            continue
        started = time.perf_counter()
        rows = time_step(name, args.out, device)
        print(shown(rows))
        facts = {"command": COMMAND, "seeds": (), "threads": device.info.compute_units,
                 "minutes": (time.perf_counter() - started + sum(
                     row["seconds"] for row in _packed(args.out, name))) / 60,
                 "device": device.info.platform}
        results.write(args.results, "headline", ours=rows, published=PUBLISHED, differs=DIFFERS,
                      merge=("network", "precision"), **facts)
        if half := _int16(rows):
            results.write(args.results, "int16", ours=half, published=INT16,
                          differs=DIFFERS_INT16, merge=("network",), **facts)
    return 0


def shown(rows: Iterable[dict[str, Any]]) -> str:
    """Return the rows for a terminal."""
    rows = list(rows)
    return "\n".join(text.table(tuple(rows[0]), [
        [value if isinstance(value, str) else f"{value:.5g}" for value in row.values()]
        for row in rows], left=(0, 1)))


if __name__ == "__main__":
    raise SystemExit(main())
