"""Accuracy against RAM and against flash, as a picture: a row per model, a point per file."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerun import files

COLORS = {"fp32": "#1f77b4", "fp16": "#2ca02c", "int16": "#9467bd", "int8": "#d62728",
          "mixed": "#ff7f0e"}
PANEL = 3.6, 2.5  # inches
MARGIN = 1.0  # percentage points: less would make much of a few images


def points(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is drawn of a study: its files with their label and sizes."""
    return [{"ram": p["ram"], "flash": p["flash"], "right": 100 * p["accuracy"],
             "types": next(iter(p["types"])) if len(p["types"]) == 1 else "mixed",
             "how": p["how"]} for p in study["points"]]


def frontier(drawn: Sequence[Mapping[str, Any]], axis: str) -> list[tuple[float, float]]:
    """Return the files that none with less bytes is as right as: (bytes, percent), ascending."""
    found: list[tuple[float, float]] = []
    for point in sorted(drawn, key=lambda p: (p[axis], -p["right"])):
        if not found or point["right"] > found[-1][1]:
            found.append((point[axis], point["right"]))
    return found


def plot(studies: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Write the picture; its kind is that of the file's name, as .svg or .png."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    matplotlib.rcParams.update({"svg.hashsalt": "edgerun", "font.size": 8, "svg.fonttype": "none"})
    studies = list(studies)
    figure, axes = pyplot.subplots(len(studies), 2, squeeze=False,
                                   figsize=(2 * PANEL[0], len(studies) * PANEL[1] + 0.5))
    used: dict[str, None] = {}
    for row, study in zip(axes, studies):
        drawn = points(study)
        for axis, name in zip(row, ("ram", "flash")):
            line = frontier(drawn, name)
            axis.step([x / 1024 for x, _ in line], [y for _, y in line], where="post",
                      color="#bbbbbb", linewidth=1, zorder=1)
            for point in drawn:
                used[point["types"]] = None
                axis.plot(point[name] / 1024, point["right"], "s" if point["how"] else "o",
                          color=COLORS[point["types"]], markersize=5)
            axis.set(title=study["model"], xscale="log", ylabel="right, %",
                     xlabel=f"{'RAM' if name == 'ram' else name}, KiB")
            rights = [point["right"] for point in drawn]
            axis.set_ylim(min(rights) - MARGIN, max(rights) + MARGIN)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("{x:g}")
            axis.tick_params(axis="x", which="minor", labelsize=6)
            axis.grid(True, which="both", linewidth=0.3)
    handles = [Line2D([], [], color=COLORS[name], marker="o", linestyle="", label=name)
               for name in COLORS if name in used]
    if any(p["how"] for study in studies for p in points(study)):
        handles.append(Line2D([], [], color="black", marker="s", linestyle="", label="in strips"))
    figure.legend(handles=handles, loc="lower center", ncols=6, frameon=False)
    figure.tight_layout(rect=(0, 0.12 / len(studies), 1, 1))
    kind = Path(path).suffix[1:]
    with files.replacing(path) as file:
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)
