"""Write docs/performance.md from the JSON files that edgerun.tools.compare.suite wrote.

    python -m edgerun.tools.compare.report docs/performance docs/performance.md

Also draws performance.svg beside the page. The page follows from the files alone: a test checks
that it is what they give.
"""
from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerun import files, text
from edgerun.tools.compare import suite
from edgerun.tools.compare.ratios import Ratio, geometric_mean, summary

Document = Mapping[str, Any]
TRIED = "tried.json"  # written by hand: [{"what", "measured", "why"}]
PEER_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT",
              "mnn": "MNN", "ncnn": "ncnn", "tinygrad": "tinygrad"}


def read(folder: Path) -> dict[str, Document]:
    """Return part -> its document, in the order of the suite, and the hand-written lines."""
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in suite.PARTS
             if (folder / f"{name}.json").is_file()}
    if (folder / TRIED).is_file():
        found["tried"] = json.loads((folder / TRIED).read_text())
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> list[str]:
    """Return a Markdown table; the first `left` columns are text, the others numbers."""
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---" if i < left else "---:" for i in range(len(header))) + "|"]
    cells = [[text.clean(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [*lines, *("| " + " | ".join(row) + " |" for row in cells), ""]


def milliseconds(ns: float) -> str:
    """Return a time in ms with three digits."""
    ms = ns / 1e6
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def _columns(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    return list(dict.fromkeys((r["runtime"], r["device"]) for r in results))


def _title(column: tuple[str, str | None]) -> str:
    runtime, device = column
    return f"edgerun, {device}" if runtime == "edgerun" else PEER_NAMES[runtime]


def latency_table(results: Sequence[Mapping[str, Any]], precision: str) -> list[str]:
    """Return a row per model, a column per runtime: ms, and the spread of the worst."""
    chosen = [r for r in results if r["precision"] == precision]
    columns = [c for c in _columns(chosen) if any(
        not r["error"] for r in chosen if (r["runtime"], r["device"]) == c)]
    rows = []
    for model in dict.fromkeys(r["model"] for r in chosen):
        found = {(r["runtime"], r["device"]): r for r in chosen if r["model"] == model}
        cells = ["-" if c not in found or found[c]["error"]
                 else milliseconds(found[c]["median_ns"]) for c in columns]
        worst = max((r["spread"] for r in found.values() if not r["error"]), default=0.0)
        launches = next((_launches(r["facts"]) for r in found.values()
                         if "launches" in r["facts"]), "-")
        rows.append([model, *cells, launches, f"{100 * worst:.1f} %"])
    return table(["ms", *map(_title, columns), "launches", "spread"], rows)


def _launches(facts: Mapping[str, Any]) -> str:
    """Return the launches of a run, and how many commands they are if those are fewer."""
    launches, commands = facts["launches"], facts.get("commands", facts["launches"])
    return str(launches) if launches == commands else f"{launches} as {commands}"


def ratio_table(ratios: Sequence[Ratio]) -> list[str]:
    """Return a row per peer and device of edgerun: geometric mean, smallest."""
    rows = [(PEER_NAMES.get(s["peer"], s["peer"]), s["device"], s["models"],
             f"**{s['geometric_mean']:.2f}**", f"{s['smallest']:.2f}", s["smallest_model"])
            for s in summary(ratios)]
    return table(["against", "edgerun on", "models", "geometric mean", "smallest", "of"], rows, 2)


def _ratios(documents: Iterable[Document]) -> list[Ratio]:
    return [Ratio(**r) for document in documents for r in document["ratios"]]


def _results(documents: Iterable[Document]) -> list[Mapping[str, Any]]:
    return [r for document in documents for r in document["results"]]


def head(parts: Mapping[str, Document]) -> list[str]:
    """Return what was measured on what, and how."""
    machines = [d["machine"] for name, d in parts.items() if name != "tried"]
    first = machines[0]
    dates = sorted({m["date"] for m in machines})
    results = _results(d for d in parts.values() if "results" in d)
    versions = {PEER_NAMES.get(r["runtime"], r["runtime"]): r["version"] for r in results
                if not r["error"]}
    drivers = {r["device"]: f"{r['facts']['platform']}, {r['facts']['device']}" for r in results
               if r["runtime"] == "edgerun" and not r["error"]}
    return [
        "# Performance", "",
        "Generated by `python -m edgerun.tools.compare.report` from the files in "
        "[performance](performance); a test keeps it true. To measure again:", "",
        "    python -m edgerun.tools.compare.suite docs/performance --models MODELS --prepare",
        "    python -m edgerun.tools.compare.suite docs/performance --models MODELS",
        "    python -m edgerun.tools.compare.report docs/performance docs/performance.md", "",
        f"Measured on {first['cpu']}, {first['threads']} of its cores, {first['system']}, "
        f"Python {first['python']}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.", "",
        *(f"- {device}: {name}" for device, name in drivers.items()),
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items()), "",
        "Every runtime has a process of its own and the same number of threads on the same CPUs. "
        "They take turns of about 30 ms; one whose turn it is not is stopped by the kernel, so "
        "that its threads may spin in its own turn (ONNX Runtime's and OpenVINO's do) and take "
        "nothing from another's. A latency is the median over the turns of the median in a turn, "
        "from arrays in to arrays out; the spread is half the distance of the quartiles over the "
        "turns, of the runtime where it is largest. A ratio is the median over the rounds of "
        "(peer's time / edgerun's time): **above 1 edgerun is faster**. `best` is the faster "
        "driver for each model. Networks by name have the shape of the paper and random weights; "
        "the others are real models.", ""]


def speed(parts: Mapping[str, Document]) -> list[str]:
    """Return the tables of latencies and ratios."""
    lines: list[str] = []
    floats = [d for name, d in parts.items() if name.startswith("fp32")]
    if floats:
        bar = [d for name, d in parts.items() if name in ("fp32", "fp32-real")]
        lines += ["## fp32", "", *latency_table(_results(floats), "fp32"),
                  "The seven models of the first two parts of the benchmark:", "",
                  *ratio_table(_ratios(bar)), "All of them:", "", *ratio_table(_ratios(floats))]
    mixed = [d for name, d in parts.items() if name.startswith("precisions-")]
    for precision, title in (("int8", "## int8"), ("int16", "## int16"),
                             ("fp16", "## fp16 storage")):
        if mixed:
            ratios = [r for r in _ratios(mixed) if r.precision == precision]
            lines += [title, "", *latency_table(_results(mixed), precision),
                      *ratio_table(ratios), *_each(ratios)]
    if "litert" in parts:
        lines += ["## Quantized models of TensorFlow Lite", "",
                  *latency_table(parts["litert"]["results"], "source"),
                  *ratio_table(_ratios([parts["litert"]])),
                  *_each(_ratios([parts["litert"]]))]
    slow = [d for name, d in parts.items() if name in suite.TINYGRAD]
    if slow:
        lines += ["## tinygrad on OpenCL", "",
                  "tinygrad runs on PoCL, its launches captured and replayed (TinyJit). First "
                  "result: importing, opening, compiling and running once, when no runtime and no "
                  "driver has kept anything compiled, and in the next process. In brackets how "
                  "many times as long tinygrad takes.", "", *_starts(_results(slow))]
    return lines


def _each(ratios: Sequence[Ratio]) -> list[str]:
    """Return a row per model, a column per peer and device."""
    columns = list(dict.fromkeys((r.peer, r.device) for r in ratios))
    rows = []
    for model in dict.fromkeys(r.model for r in ratios):
        found = {(r.peer, r.device): r.value for r in ratios if r.model == model}
        rows.append([model, *(f"{found[c]:.2f}" if c in found else "-" for c in columns)])
    return table(["ratio", *(f"{PEER_NAMES.get(p, p)}, {d}" for p, d in columns)], rows)


def _starts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a row per model and runtime: first results, later runs, and tinygrad's beside them."""
    def times(r: Mapping[str, Any]) -> tuple[float, ...]:
        return r["empty_ns"], r["load_ns"] + r["first_ns"], r["median_ns"]

    rows = []
    for r in results:
        label = _title((r["runtime"], r["device"]))
        if r["error"]:
            rows.append([r["model"], label, "-", "-", "-", r["error"]])
            continue
        other = next((o for o in results if (o["model"], o["runtime"]) == (r["model"], "tinygrad")
                      and not o["error"] and o is not r), None)
        cells = [milliseconds(ns) for ns in times(r)]
        if other is not None:
            cells = [f"{cell} ({theirs / ours:.1f})"
                     for cell, ours, theirs in zip(cells, times(r), times(other))]
        rows.append([r["model"], label, *cells, ""])
    return table(["model", "runtime", "first result, empty caches, ms", "next process, ms",
                  "later run, ms", ""], rows, 2)


def layer_class(op: Mapping[str, Any]) -> str:
    """Return the class of layers that an op of a roofline belongs to."""
    if op["code"] in ("conv2d", "depthwise_conv2d", "conv_transpose2d"):
        kernel = re.match(r"[\dx]+/\d+", op["shape"])
        return f"{op['code']} {kernel[0]}"
    return op["code"]


def roofline_tables(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the peaks, and the attained share by class of layers."""
    peaks = {e["driver"]: e["peaks"] for e in entries}
    rows = []
    for driver, p in peaks.items():
        at = len(p["sizes"]) - 1
        rows.append([driver, f"{p['fma_ops']:.0f}", f"{p['dot4_ops']:.0f} ({p['dot']})",
                     f"{p['dot2_ops']:.0f}", f"{p['read'][0]:.0f} / {p['copy'][0]:.0f}",
                     f"{p['read'][at]:.0f} / {p['copy'][at]:.0f}",
                     f"{p['launch_ns'] / 1e3:.1f}"])
    lines = ["## Roofline", "",
             "What the devices can do at most, measured by `kernels/roofline.cl`:", "",
             *table(["driver", "fp32 GFLOP/s", "int8 GOP/s", "int16 GOP/s",
                     "read / copy GB/s in cache", "in memory", "launch us"], rows)]
    lines += ["Time, and the share of what these peaks allow, by class of layers (kernel size / "
              "stride). An op is limited by computing, by memory, or, where it takes less than "
              "three launches, by launching. More than 100 %: weights were partly in a cache.", ""]
    for e in entries:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for op in e["ops"]:
            if op["limit"]:
                groups.setdefault(layer_class(op), []).append(op)
        whole = sum(op["ns"] for op in e["ops"]) or 1
        rows = []
        for name, ops in sorted(groups.items(), key=lambda g: -sum(op["ns"] for op in g[1])):
            ns, macs = sum(op["ns"] for op in ops), sum(op["macs"] for op in ops)
            limits: dict[str, float] = {}
            for op in ops:
                limits[op["limit"]] = limits.get(op["limit"], 0) + op["ns"]
            rows.append([name, len(ops), f"{ns / 1e3:.0f}", f"{100 * ns / whole:.0f}",
                         f"{2 * macs / ns:.0f}" if macs and ns else "",
                         f"{sum(op['bytes'] for op in ops) / ns:.0f}" if ns else "",
                         f"{100 * sum(op['possible_ns'] for op in ops) / ns:.0f}" if ns else "",
                         max(limits, key=limits.get)])
        lines += [f"### {e['network']} {e['precision']}, {e['driver']}", "",
                  f"{milliseconds(e['total']['median'])} ms, {e['launches']} launches "
                  f"({100 * e['launch_share']:.0f} % of the latency), host "
                  f"{milliseconds(e['host']['median'])} ms, attained {100 * e['attained']:.0f} %.",
                  "", *table(["layers", "ops", "us", "% of time", "GFLOP/s", "GB/s",
                              "% of possible", "mostly limited by"], rows)]
    return lines


def bandwidth_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return ops beside kernels that move as much memory in the same way."""
    rows = [(r["op"], entry["driver"], f"{r['bytes'] / 1e6:.0f}", f"{r['bytes'] / r['ns']:.1f}",
             f"{r['bytes'] / r['bound_ns']:.1f}", f"**{100 * r['share']:.0f}**",
             f"{100 * r['low']:.0f} to {100 * r['high']:.0f}", r["bound"])
            for number in range(len(entries[0]["ops"])) for entry in entries
            for r in [entry["ops"][number]]]
    return ["## Memory", "",
            "Ops that mostly move memory, each beside a kernel that moves as much in the same way, "
            f"by turns in one process, {entries[0]['rounds']} rounds "
            "(`python -m edgerun.tools.compare.bandwidth`). Each byte counts once: reading a line "
            "before it is written does not. The share is the median over the rounds, with its "
            "quartiles. Bounds that write take the faster of ordinary stores and stores past the "
            "caches; above 100 % the bound itself was slower than the op.", "",
            *table(["op", "driver", "MB", "GB/s", "of the bound", "%", "quartiles", "bound"],
                   rows, 2)]


def cold_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how long fresh processes take."""
    rows = []
    for e in entries:
        for label, key in (("none", "without_cache"), ("warm", "with_cache")):
            found = e[key]
            rows.append([f"{e['network']} {e['precision']}", e["driver"], label,
                         *(milliseconds(found[name]) for name in ("total_ns", "own_ns")),
                         *map(milliseconds, found["stages"].values()), found["built"]])
    stages = [name.removesuffix("_ns").replace("_", " ")
              for name in entries[0]["with_cache"]["stages"]]
    return ["## Cold start", "",
            "From the start of a process to the first result, in ms (`edgerun bench --cold`); own "
            "is without Python, its imports and the driver. Caches: edgerun's and the driver's.",
            "", *table(["model", "driver", "caches", "first result", "own", *stages, "built"],
                       rows, 3)]


def tried(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what was tried and did not pay."""
    return ["## Tried, and did not pay", "",
            *table(["what", "measured"], [(entry["what"], entry["measured"]) for entry in lines],
                   2)]


def page(parts: Mapping[str, Document]) -> str:
    """Return the whole page."""
    lines = [*head(parts), *overview(parts), *speed(parts)]
    if any(name.startswith("precisions-") for name in parts):
        lines += ["## Latency and memory", "",
                  "Memory is the growth of the process (PSS) by importing the runtime, opening the "
                  "model and running it; of edgerun's, most is the OpenCL driver and its compiler. "
                  "Hollow: edgerun's arena and weights alone.", "",
                  "![Latency against memory](performance.svg)", ""]
    if "roofline" in parts:
        lines += roofline_tables(parts["roofline"]["roofline"])
    if "bandwidth" in parts:
        lines += bandwidth_table(parts["bandwidth"]["bandwidth"])
    cold = [entry for name, d in parts.items() if name in suite.COLD for entry in d["cold"]]
    if cold:
        lines += cold_table(cold)
    if parts.get("tried"):
        lines += tried(parts["tried"])
    return "\n".join(lines).rstrip() + "\n"


def overview(parts: Mapping[str, Document]) -> list[str]:
    """Return the few numbers that matter most."""
    rows = []

    def add(what: str, names: Sequence[str], precision: str, peer: str, device: str) -> None:
        ratios = [r for r in _ratios(parts[n] for n in names if n in parts)
                  if (r.precision, r.peer, r.device) == (precision, peer, device)]
        if ratios:
            least = min(ratios, key=lambda r: r.value)
            rows.append([what, len(ratios), f"**{geometric_mean(r.value for r in ratios):.2f}**",
                         f"{least.value:.2f} ({least.model})"])

    mixed = [name for name in parts if name.startswith("precisions-")]
    devices = list(dict.fromkeys(
        r["device"] for d in parts.values() if "results" in d for r in d["results"]
        if r["runtime"] == "edgerun"))
    for peer in ("onnxruntime", "openvino", "mnn", "ncnn"):
        add(f"fp32 against {PEER_NAMES[peer]}", ("fp32", "fp32-real"), "fp32", peer, "best")
    for peer in suite.NATIVE:
        add(f"int8 against {PEER_NAMES[peer]}", mixed, "int8", peer, "best")
    for precision in ("int8", "int16", "fp16"):
        for device in devices:
            add(f"{precision} against own fp32, {device}", mixed, precision, "edgerun fp32", device)
    add("TensorFlow Lite's quantized models against LiteRT", ("litert",), "source", "litert",
        "best")
    return table(["ratio of latencies", "models", "geometric mean", "smallest"], rows) if rows \
        else []


def main(argv: list[str] | None = None) -> int:
    """Write the page and the picture; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.compare.report", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the JSON files are")
    parser.add_argument("page", metavar="PAGE.md", type=Path, help="the page to write")
    args = parser.parse_args(argv)
    parts = read(args.folder)
    with files.replacing(args.page) as file:
        file.write(page(parts).encode())
    mixed = [d for name, d in parts.items() if name.startswith("precisions-")]
    if mixed:
        from edgerun.tools.compare.plot import plot
        plot(_results(mixed), args.page.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
