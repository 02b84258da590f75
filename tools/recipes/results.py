"""What a recipe or a bench of a published system measured: docs/research/<name>.json.

    results.write(args.results, "bsq", command="python -m edgerun.tools.recipes.bsq ...",
                  seeds=[1, 2, 3], minutes=8.5, ours=[{"alpha": 1e-3, "accuracy %": 91.2}],
                  published=[{"alpha": 3e-3, "accuracy %": 92.6, "source": "paper, table 1"}],
                  differs=["a smaller network, 5 epochs instead of 350"])

docs/research.md is generated from these files (edgerun.tools.recipes.page).
"""
from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import files, text
from edgerun.errors import EdgerunError, InputError
from edgerun.tools.compare.machine import machine

Row = Mapping[str, Any]
# Field -> its type. A row is flat: column -> text, number, yes or no, or None for "unknown"; units
# belong into the name of the column. Rows with another "table" go into a table of that title.
FIELDS = {"name": str, "command": str, "seeds": list, "minutes": (int, float), "made": str,
          "machine": dict, "ours": list, "published": list, "differs": list}
TABLE, SOURCE = "table", "source"  # columns that say where a row belongs, and what was published
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option --results DIR (None if it is not given)."""
    parser.add_argument("--results", metavar="DIR", type=Path,
                        help="also write what was measured to a JSON file in this folder, from "
                             "which docs/research.md is generated")


def write(folder: str | Path | None, name: str, *, command: str, seeds: Sequence[int],
          minutes: float, ours: Iterable[Row], published: Iterable[Row] = (),
          differs: Iterable[str] | Callable[[list[Row]], Iterable[str]] = (), threads: int = 1,
          device: str | None = None, merge: Sequence[str] = ()) -> Path | None:
    """Write <folder>/<name>.json, whole or not at all; returns its path.

    Args:
        folder: made if it is missing; None writes nothing.
        name: lower-case words with hyphens.
        command: one line that measures it again; no path of one machine.
        seeds: of the runs behind the figures, empty if nothing is random.
        minutes: that the recipe took, training included.
        ours: what was measured.
        published: figures to set beside; each row has a "source". A column that is known to have
            been published but could not be read is None.
        differs: sentences: what is not as published; or what makes them of all rows of the file.
        threads: that computed.
        device: OpenCL device, where one was measured.
        merge: columns that name a row: rows of an existing file stay unless a new one has the same
            values there, minutes add up and seeds join. Empty: the file is replaced.

    Raises:
        InputError: a field is malformed, or rows to merge with were measured on another CPU.
        EdgerunError: the file cannot be written.
    """
    if folder is None:
        return None
    path = Path(folder) / f"{name}.json"
    facts = machine(threads)
    made = facts.pop("date")
    document = {
        "name": name, "command": command, "seeds": list(seeds), "minutes": round(minutes, 1),
        "made": made, "machine": facts | ({"device": device} if device else {}),
        "ours": [_plain(row) for row in ours], "published": [_plain(row) for row in published],
        "differs": [] if callable(differs) else list(differs)}
    check(document, path.name)
    if merge and path.is_file():
        before, cpu = read(path), document["machine"]["cpu"]
        if before["machine"]["cpu"] != cpu:
            raise InputError(f"{path}: was measured on {before['machine']['cpu']}, this is {cpu}: "
                             "a file tells one machine for all its rows; needed another folder, or "
                             "the file removed")
        document["ours"] = list({tuple(row.get(key) for key in merge): row
                                 for row in before["ours"] + document["ours"]}.values())
        document["minutes"] = round(before["minutes"] + document["minutes"], 1)
        document["seeds"] = sorted({*before["seeds"], *document["seeds"]})
    if callable(differs):
        document["differs"] = list(differs(document["ours"]))
        check(document, path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgerunError(f"{path.parent}: cannot be made ({error.strerror})") from None
    with files.replacing(path) as file:
        file.write((text.json_text(document) + "\n").encode())
    return path


def paired(rows: Sequence[Row], figure: str, column: str, names: Sequence[str]
           ) -> tuple[list[int], list[float], list[float]]:
    """Compare a figure of rows that differ in the name in one column, seed by seed.

    Returns:
        The seeds that both names have, the two means over them, and the first name's figure less
        the second's with each.
    """
    found = [{row["seed"]: row[figure] for row in rows if row[column] == name} for name in names]
    seeds = sorted(found[0].keys() & found[1].keys())
    return (seeds, [float(np.mean([of[seed] for seed in seeds])) for of in found],
            [found[0][seed] - found[1][seed] for seed in seeds])


def values(rows: Iterable[Row], column: str) -> str:
    """Return the different numbers that rows have in a column, for a sentence."""
    return " or ".join(f"{value:,}" for value in sorted(
        {row[column] for row in rows if row.get(column) is not None}))


def _plain(row: Row) -> dict[str, Any]:
    """Return a row with NumPy's numbers as Python's; what is not finite stays, to be refused."""
    return {column: value.item() if isinstance(value, np.generic) else value
            for column, value in row.items()}


def read(path: str | Path) -> dict[str, Any]:
    """Read and check one file.

    Raises:
        InputError: it cannot be read, or a field is missing or malformed.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    check(document, path.name)
    if document["name"] != path.stem:
        raise InputError(f"{path}: name is {document['name']!r}, needed that of the file")
    return document


def check(document: Any, where: str) -> None:
    """Raise InputError unless a document has every field as it must be."""
    def need(condition: bool, problem: str) -> None:
        if not condition:
            raise InputError(f"{where}: {problem}")

    need(isinstance(document, dict), f"is a {type(document).__name__}, needed an object")
    need(set(document) == set(FIELDS), f"has {', '.join(sorted(document))}; needed exactly "
                                       f"{', '.join(sorted(FIELDS))}")
    for field, kind in FIELDS.items():
        need(isinstance(document[field], kind) and not isinstance(document[field], bool),
             f"{field} is {document[field]!r}")
    need(bool(NAME.fullmatch(document["name"])),
         f"name is {document['name']!r}, needed lower-case words with hyphens")
    need(bool(document["command"].strip()) and "\n" not in document["command"],
         "command is empty or of several lines, needed one line")
    machine_paths = [word for word in document["command"].split()
                     if re.match(r"([\w-]+=)?[/~]", word)]
    need(not machine_paths, f"command names {' '.join(machine_paths)}: a path of one machine")
    need(all(isinstance(seed, int) for seed in document["seeds"]),
         f"seeds are {document['seeds']}, needed integers")
    need(math.isfinite(document["minutes"]) and document["minutes"] >= 0,
         f"minutes are {document['minutes']}")
    try:
        time.strptime(document["made"], "%Y-%m-%d")
    except ValueError:
        need(False, f"made is {document['made']!r}, needed a date YYYY-MM-DD")
    need("cpu" in document["machine"], "machine has no cpu")
    need(bool(document["ours"]), "ours has no row")
    for field in ("ours", "published"):
        for number, row in enumerate(document[field]):
            _check_row(row, f"{where}: {field}[{number}]")
            need((field == "published") == (SOURCE in row), f"{field}[{number}]: a row has a "
                 f"{SOURCE!r} if and only if it was published")
    for sentence in document["differs"]:
        need(isinstance(sentence, str) and bool(sentence.strip()),
             f"differs has {sentence!r}, needed sentences")


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict) or not row:
        raise InputError(f"{where}: is {row!r}, needed columns and values")
    for column, value in row.items():
        if not column.strip() or "\n" in column:
            raise InputError(f"{where}: a column is named {column!r}")
        if not (value is None or isinstance(value, (str, int, float))) or (
                isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{where}: {column} is {value!r}, needed text, a finite number, yes "
                             "or no, or null")
        if column in (TABLE, SOURCE) and not (isinstance(value, str) and value.strip()):
            raise InputError(f"{where}: {column} is {value!r}, needed text")
    if not any(column not in (TABLE, SOURCE) for column in row):
        raise InputError(f"{where}: has no figure")
