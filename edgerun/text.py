"""Turn report data into text for a terminal and into JSON."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

CUT = 44  # characters of a name in a table


def size(count: float) -> str:
    """Return bytes for people: 512 B, 1.5 KiB, 12.0 MiB."""
    sign, value = ("-" if count < 0 else ""), abs(float(count))
    if value < 1024:
        return f"{sign}{value:.0f} B"
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 1024:
            break
    else:
        value, unit = value / 1024, "GiB"
    return f"{sign}{value:.1f} {unit}" if value < 1000 else f"{sign}{value:.0f} {unit}"


def duration(ns: float) -> str:
    """Return nanoseconds for people: 850 ns, 12.5 us, 3.21 ms, 1.20 s."""
    for divisor, unit in ((1, "ns"), (1e3, "us"), (1e6, "ms")):
        if ns < 999.5 * divisor:  # above, three digits would be rounded to 1e+03
            return f"{ns / divisor:.3g} {unit}"
    return f"{ns / 1e9:.2f} s"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a few significant digits, or "-" for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def shape(dims: Sequence[int]) -> str:
    """Return a shape as 1x3x224x224, or "scalar"."""
    return "x".join(map(str, dims)) or "scalar"


def clean(value: Any, cut: int | None = None) -> str:
    """Return text that is safe to print: names come from files, and may hold control characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                    for c in str(value))
    return shown if cut is None or len(shown) <= cut else shown[:cut - 3] + "..."


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], left: Sequence[int] = (),
          cut: int | None = CUT) -> list[str]:
    """Return the lines of a table.

    Args:
        header: one title per column.
        rows: cells.
        left: columns to align left; the others are numbers, aligned right.
        cut: longest cell; None cuts none.
    """
    cells = [[clean(cell, cut) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) if column in left else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in cells]


def pairs(items: Iterable[tuple[str, Any]]) -> list[str]:
    """Return lines "name  value" with the values in one column."""
    items = [(name, clean(value)) for name, value in items]
    width = max((len(name) for name, _ in items), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in items]


def plain(value: Any) -> Any:
    """Return what JSON can hold: NumPy scalars as numbers, tuples as lists, non-finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, np.dtype):
        return str(value)
    return value


def json_text(document: Any) -> str:
    """Return one JSON document, indented."""
    return json.dumps(plain(document), indent=2, allow_nan=False)
