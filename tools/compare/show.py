"""Tables of a comparison for a terminal: with lines where there is one, plain text elsewhere."""
from __future__ import annotations

import sys
from collections.abc import Sequence

from edgerun import text
from edgerun.tools.compare.measure import Result
from edgerun.tools.compare.ratios import Ratio, summary

HEADER = ("model", "precision", "runtime", "latency", "+-", "first run", "memory",
          "launches", "difference", "peer / edgerun")
SUMMARY = ("precision", "peer", "edgerun on", "models", "geometric mean", "smallest", "of")


def _row(result: Result, shown: dict[str, float]) -> tuple[str, ...]:
    label = f"{result.runtime} ({result.device})" if result.device else result.runtime
    head = (result.model, result.precision, label)
    if result.error:
        return (*head, "-", "", "", "", "", "", result.error)
    ratio = shown.get(result.runtime)
    return (*head, text.duration(result.median_ns), f"{100 * result.spread:.1f} %",
            text.duration(result.first_ns), text.size(result.pss_bytes),
            str(result.facts.get("launches", "")), text.number(result.difference, 2),
            "" if ratio is None else f"{ratio:.2f}")


def rows(results: Sequence[Result], found: Sequence[Ratio]) -> list[tuple[str, ...]]:
    """Return a row per result; a peer's ratio is to edgerun on the device that is fastest."""
    lines = []
    for result in results:
        same = [r for r in found if (r.model, r.precision) == (result.model, result.precision)]
        shown: dict[str, float] = {}
        for ratio in same:  # the last one of a peer is that of the best device
            shown[ratio.peer] = ratio.value
        if result.runtime == "edgerun":
            shown = {"edgerun": r.value for r in same
                     if r.peer == "edgerun fp32" and r.device == result.device}
        lines.append(_row(result, shown))
    return lines


def summary_rows(found: Sequence[Ratio]) -> list[tuple[str, ...]]:
    """Return a row per precision, peer and device."""
    return [(s["precision"], s["peer"], s["device"], str(s["models"]),
             f"{s['geometric_mean']:.2f}", f"{s['smallest']:.2f}", s["smallest_model"])
            for s in summary(found)]


def print_tables(results: Sequence[Result], found: Sequence[Ratio]) -> None:
    """Print both tables."""
    tables = ((HEADER, rows(results, found), (0, 1, 2, 9)),
              (SUMMARY, summary_rows(found), (0, 1, 2, 6)))
    for header, lines, left in tables:
        if not lines:
            continue
        if sys.stdout.isatty():
            _print_rich(header, lines, left)
        else:
            print("\n".join([*text.table(header, lines, left=left, cut=90), ""]))


def _print_rich(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    table = Table(header_style="bold")
    for number, title in enumerate(header):
        table.add_column(title, justify="left" if number in left else "right")
    for line in lines:
        table.add_row(*(escape(text.clean(cell)) for cell in line),
                      style="dim" if line[3] == "-" else None)
    Console().print(table)
