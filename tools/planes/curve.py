"""Accuracy against planes: one file, run with 1, 2, ... planes of its weights."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerun import arrays, modes, text
from edgerun.errors import EdgerunError, InputError
from edgerun.session import Session
from edgerun.tools.runtimes import Runtime
from edgerun.tools.verify import samples_of

LABELS = "labels"  # name of the array of classes in a file of samples


@dataclass(frozen=True)
class Point:
    """What one number of planes gives.

    Attributes:
        planes: that count, of the ops that have so many.
        modes: names of the file's precisions that are this one.
        constant_bytes: of constants that a run reads.
        accuracy: share of samples whose largest output is the label; None without labels.
        agreement: share of samples whose largest output is that of the reference.
        error: root mean square of the outputs' difference from the reference, in that of the
            reference; over all samples and outputs of real numbers.
    """
    planes: int
    modes: tuple[str, ...]
    constant_bytes: int
    accuracy: float | None
    agreement: float
    error: float


def read(path: str | os.PathLike, session: Session
         ) -> tuple[list[dict[str, np.ndarray]], np.ndarray | None]:
    """Read samples, and their labels if there are any.

    Args:
        path: .npz file with an array per input, with an axis of samples in front, and maybe an
            array "labels" of a class per sample.
        session: of the model.

    Raises:
        InputError: the arrays do not fit.
    """
    given = dict(arrays.read_npz(path))
    labels = given.pop(LABELS, None)
    samples = samples_of(given, session.inputs, os.fspath(path))
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(samples),)):
        raise InputError(f"{path}: {LABELS!r} is {labels.dtype} of the shape {labels.shape}, "
                         f"needed one integer for each of the {len(samples)} samples")
    return samples, labels


def measure(session: Session, samples: Sequence[Mapping[str, np.ndarray]],
            labels: np.ndarray | None = None, reference: Runtime | None = None,
            progress: Callable[[int, int], None] = lambda done, total: None) -> list[Point]:
    """Run a model with every number of planes that it has scales for.

    Args:
        session: its precision is as before afterwards.
        samples: input name -> array, each.
        labels: class of each sample, for the first output.
        reference: what outputs are compared with; None: those with all planes.
        progress: called after each sample with the number done and of all.

    Raises:
        InputError: the weights have no planes, or the reference has other outputs.
    """
    model = session.model
    if not session.planes:
        raise InputError(f"{model.path}: has no planes of weights, needed a model packed with "
                         "--bits, or one whose weights are planes")
    ops = [op for op in model.ops if modes.element(model, op) is not None]
    most = max(len(modes.planes_of(op)) for op in ops)
    counts = [planes for planes in range(min(1, most), most + 1) if all(
        min(planes, len(modes.planes_of(op))) in modes.counts_of(op) for op in ops)]
    before = session.planes
    total, done = len(samples) * (len(counts) + (reference is not None)), 0

    def run(compute: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
            ) -> list[list[np.ndarray]]:
        nonlocal done
        found = []
        for sample in samples:
            outputs = compute(sample)
            found.append([np.array(outputs[info.name]) for info in session.outputs])
            done += 1
            progress(done, total)
        return found

    wanted = None
    if reference is not None:
        names = [info.name for info in session.outputs]
        theirs = [info.name for info in reference.outputs]
        if not {*names} <= {*theirs}:
            raise InputError(f"{reference.name}: the source model has the outputs "
                             f"{', '.join(theirs)}, needed those of {model.path}: "
                             f"{', '.join(names)}")
        wanted = run(reference.run)
    points: list[Point] = []
    try:
        for planes in reversed(counts):
            session.set_precision(planes)
            found = run(session.run)
            wanted = found if wanted is None else wanted
            points.append(_point(session, planes, found, wanted, labels))
    finally:
        for op, planes in before.items():
            session.set_precision(planes, ops=op)
    return points[::-1]


def _point(session: Session, planes: int, found: list[list[np.ndarray]],
           wanted: list[list[np.ndarray]], labels: np.ndarray | None) -> Point:
    model = session.model
    counts = [0] * len(model.modes[-1].planes)
    for op in model.ops:
        number = modes.element(model, op)
        if number is not None:
            counts[number] = session.planes[op.name]
    best = np.array([outputs[0].reshape(-1).argmax() for outputs in found])
    theirs = np.array([outputs[0].reshape(-1).argmax() for outputs in wanted])
    noise = signal = 0.0
    for outputs, others in zip(found, wanted):
        for a, b in zip(outputs, others):
            if a.dtype.kind == "f":
                noise += float(np.square(np.float64(a) - b).sum())
                signal += float(np.square(np.float64(b)).sum())
    return Point(planes, tuple(mode.name for mode in model.modes if mode.planes == tuple(counts)),
                 sum(t.bytes for t in modes.constants(model, counts).values()),
                 None if labels is None else float(np.mean(best == labels)),
                 float(np.mean(best == theirs)), float(np.sqrt(noise / signal)) if signal else 0.0)


def lines(points: Sequence[Point], reference: str) -> list[str]:
    """Return the curve as a table.

    Args:
        points: from measure().
        reference: what agreement and error are of.
    """
    labelled = any(point.accuracy is not None for point in points)
    header = ("planes", "mode", "constants", *["accuracy"] * labelled, f"as {reference}", "error")
    rows = [(p.planes, ", ".join(p.modes) or "-", text.size(p.constant_bytes),
             *[f"{100 * p.accuracy:.2f} %" for _ in range(labelled)],
             f"{100 * p.agreement:.2f} %", f"{p.error:.3g}") for p in points]
    return text.table(header, rows, left=(1,))


def plot(points: Sequence[Point], path: str | os.PathLike, title: str) -> None:
    """Draw the curve into a .svg or .png file.

    Raises:
        EdgerunError: matplotlib is not installed, or the file's kind is not known.
    """
    if not os.fspath(path).endswith((".svg", ".png")):
        raise InputError(f"{path}: needed a name that ends with .svg or .png")
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise EdgerunError("the Python package 'matplotlib' is missing, which draws the plot: "
                           "pip install \"edgerun[compare]\"") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    matplotlib.rcParams.update({"svg.hashsalt": "edgerun", "font.size": 8, "svg.fonttype": "none"})
    figure, left = pyplot.subplots(figsize=(4.8, 3.2))
    planes = [p.planes for p in points]
    shown = [p.agreement if p.accuracy is None else p.accuracy for p in points]
    left.plot(planes, [100 * value for value in shown], "o-", color="#d62728")
    left.set(title=title, xlabel="planes that count", xticks=planes,
             ylabel="accuracy, %" if points[0].accuracy is not None else "same class, %")
    left.grid(True, linewidth=0.3)
    right = left.twinx()
    right.plot(planes, [p.constant_bytes / 1024 for p in points], "s--", color="#7f7f7f")
    right.set(ylabel="constants that a run reads, KiB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if os.fspath(path).endswith(".svg") else None)
    pyplot.close(figure)
