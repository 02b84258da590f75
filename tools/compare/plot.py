"""Latency against memory, as a picture: one panel per model, a point per runtime and precision."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerun import files

OWN = ("#d62728", "#f7a072", "#8b0000")  # edgerun, by device
COLORS = {"onnxruntime": "#1f77b4", "openvino": "#2ca02c",
          "litert": "#ff7f0e", "mnn": "#9467bd", "ncnn": "#8c564b", "tinygrad": "#7f7f7f"}
MARKERS = {"fp32": "o", "fp16": "s", "int16": "^", "int8": "D", "source": "D"}
PANEL = 4.2  # inches


def points(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is drawn of the results (dicts of measure.Result): the measured ones."""
    found = []
    for r in results:
        if r["error"] or not r["pss_bytes"]:
            continue
        label = f"{r['runtime']} ({r['device']})" if r["device"] else r["runtime"]
        planned = (r["facts"]["arena_bytes"] + r["facts"]["weight_bytes"]
                   if r["runtime"] == "edgerun" else None)
        found.append({"model": r["model"], "runtime": r["runtime"], "precision": r["precision"],
                      "label": label, "ms": r["median_ns"] / 1e6, "mib": r["pss_bytes"] / 2**20,
                      "planned_mib": None if planned is None else planned / 2**20})
    return found


def plot(results: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Write the picture; its kind is that of the file's name, as .svg or .png.

    Hollow points are edgerun's arena and weights alone, without driver and compiled kernels.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
    matplotlib.rcParams.update({"svg.hashsalt": "edgerun", "font.size": 8, "svg.fonttype": "none"})
    drawn = points(results)
    own = list(dict.fromkeys(p["label"] for p in drawn if p["runtime"] == "edgerun"))
    colors = {p["label"]: COLORS.get(p["label"]) or OWN[own.index(p["label"]) % len(OWN)]
              for p in drawn}
    models = list(dict.fromkeys(p["model"] for p in drawn))
    columns = min(2, len(models)) or 1
    rows = -(-len(models) // columns) or 1
    figure, axes = pyplot.subplots(rows, columns, squeeze=False,
                                   figsize=(PANEL * columns, 0.8 * PANEL * rows))
    for axis, model in zip(axes.flat, models):
        for point in (p for p in drawn if p["model"] == model):
            color, marker = colors[point["label"]], MARKERS[point["precision"]]
            axis.plot(point["mib"], point["ms"], marker, color=color, markersize=6)
            if point["planned_mib"]:
                axis.plot(point["planned_mib"], point["ms"], marker, color=color, markersize=6,
                          markerfacecolor="none")
        axis.set(title=model, xscale="log", yscale="log", xlabel="memory, MiB",
                 ylabel="latency, ms")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
            side.set_minor_formatter(NullFormatter())
        axis.grid(True, which="both", linewidth=0.3)
    for axis in axes.flat[len(models):]:
        axis.set_visible(False)
    precisions = list(dict.fromkeys(p["precision"] for p in drawn))
    handles = [Line2D([], [], color=color, marker="s", linestyle="", label=label)
               for label, color in colors.items()]
    handles += [Line2D([], [], color="black", marker=MARKERS[name], linestyle="", label=name)
                for name in precisions]
    handles.append(Line2D([], [], color=OWN[0], marker="o", linestyle="",
                          markerfacecolor="none", label="arena and weights alone"))
    figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), frameon=False)
    figure.tight_layout(rect=(0, 0.12 / rows, 1, 1))
    kind = Path(path).suffix[1:]
    with files.replacing(path) as file:
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)
