"""Pack one model in four precisions and print what each costs and what each gets wrong."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerun import loader, report, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.pack import pack
from edgerun.tools.recipes import results

PRECISIONS = ("fp32", "fp16", "int16", "int8")
NAMES = {"fp32": "float", "fp16": "half", "int16": "int16", "int8": "int8"}


@dataclass(frozen=True)
class Row:
    """One precision: bytes of weights with all other constants, of the arena with its scratch, and
    the metrics."""
    precision: str
    weight_bytes: int
    arena_bytes: int
    metrics: dict[str, float]

    @property
    def total_bytes(self) -> int:
        """Everything the model needs on the device."""
        return self.weight_bytes + self.arena_bytes


def compare(model: Path, calibration: Path, measure: Callable[[Session], dict[str, float]],
            folder: Path, device: Device | str | int | None = None,
            precisions: Sequence[str] = PRECISIONS) -> list[Row]:
    """Pack a model in several precisions, all from one calibrated file, and measure each.

    Args:
        model: source model.
        calibration: .npz of samples. The fp32 file keeps the ranges; the others take them from it.
        measure: session -> metric name -> value.
        folder: where <precision>.edge are written.
        device: where everything runs.
        precisions: the first must be fp32.
    """
    device = device if isinstance(device, Device) else Device(device)
    rows = []
    for precision in precisions:
        file, ranges = folder / f"{precision}.edge", folder / f"{precisions[0]}.edge"
        source = calibration if precision == precisions[0] else ranges
        pack(model, file, precision, calibration=None if precision == "fp16" else source,
             device=device)
        packed = loader.read(file)
        planned = report.planned_report(packed).as_dict()["planned"]
        with Session(packed, device) as session:
            stored = sum(planned["weights"].values()) + sum(planned["constants"].values())
            rows.append(Row(precision, stored, planned["arena_bytes"], measure(session)))
    return rows


def table(rows: Iterable[Row]) -> str:
    """Return the rows for a terminal; sizes also relative to the first."""
    rows = list(rows)
    names = list(rows[0].metrics)
    cells = [(NAMES[r.precision], text.size(r.weight_bytes), text.size(r.arena_bytes),
              f"{text.size(r.total_bytes)} ({rows[0].total_bytes / r.total_bytes:.2f} x smaller)",
              *(f"{r.metrics[name]:.6g}" for name in names)) for r in rows]
    return "\n".join(text.table(("precision", "weights", "arena", "total", *names), cells,
                                left=(0,)))


def accuracy(images: np.ndarray, labels: np.ndarray) -> Callable[[Session], dict[str, float]]:
    """Return a measure: the share of images whose largest output is at their label, in percent.

    Args:
        images: [N, ...], each as the model's only input takes it.
        labels: int [N].
    """
    def measure(session: Session) -> dict[str, float]:
        name, right = session.inputs[0].name, 0
        for image, label in zip(images, labels):
            (output,) = session.run({name: image}).values()
            right += int(output.argmax() == label)
        return {"right %": 100 * right / len(labels)}

    return measure


def beside(rows: Iterable[results.Row], figure: str, ours: str, other: str, most: float,
           settings: Sequence[str] = ()) -> Iterator[str]:
    """Yield a sentence on a figure in percent of two networks in fp32: means of seeds, and how far
    they are apart with each. Seeds that one of them lacks do not count.

    Args:
        rows: of a file of results, each with "network", "precision" and "seed".
        most: how far they were to be apart.
        settings: columns that say how a network was trained: rows that differ there are not set
            beside each other; every combination of values with a seed of both has its sentence.
    """
    groups: dict[tuple, list[results.Row]] = {}
    for row in rows:
        if row["precision"] == "fp32":
            groups.setdefault(tuple(row[column] for column in settings), []).append(row)
    for found, group in groups.items():
        if not {row["seed"] for row in group if row["network"] == ours}.intersection(
                row["seed"] for row in group if row["network"] == other):
            continue
        seeds, means, apart = results.paired(group, figure, "network", (ours, other))
        how = ", ".join(
            f"{column} {'yes' if value is True else 'no' if value is False else value}"
            for column, value, all_values in zip(settings, found, zip(*groups))
            if len(set(all_values)) > 1)
        yield (f"{figure.capitalize()} in fp32{f' with {how}' if how else ''}, mean of "
               f"seeds {', '.join(map(str, seeds))}: {ours} {means[0]:.2f}, {other} "
               f"{means[1]:.2f}; that is {abs(np.mean(apart)):.2f} points apart "
               f"({', '.join(f'{d:+.2f}' for d in apart)}), where at most {most} was aimed at.")


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every recipe has."""
    result = argparse.ArgumentParser(description=doc.splitlines()[0])
    result.add_argument("--out", required=True, metavar="DIR", type=Path,
                        help="folder for the model, the samples and the packed files")
    result.add_argument("--device", help="index or part of a name; default: the best one found")
    return result
