"""Write docs/research.md from the JSON files that the recipes wrote.

    python -m edgerun.tools.recipes.page docs/research docs/research.md

The page follows from the files alone, and from what edgerun.tools.recipes.systems says of each
system: a test checks that it is what they give.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerun import files
from edgerun.errors import EdgerunError, InputError
from edgerun.tools.compare.report import table
from edgerun.tools.recipes import results
from edgerun.tools.recipes.systems import SYSTEMS, System

Document = Mapping[str, Any]
OURS = "here"


def read(folder: Path) -> dict[str, Document]:
    """Return name -> what a recipe measured, in the order of names.

    Raises:
        InputError: a file is malformed, or belongs to no system.
    """
    found = {path.stem: results.read(path) for path in sorted(folder.glob("*.json"))}
    for name in found:
        system_of(name)
    return found


def system_of(name: str) -> System:
    """Return the system with one of whose names a file's begins."""
    for system in SYSTEMS:
        if any(name == prefix or name.startswith(f"{prefix}-") for prefix in system.names):
            return system
    known = ", ".join(prefix for system in SYSTEMS for prefix in system.names)
    raise InputError(f"{name}.json: belongs to no system; its name must begin with one of {known}")


def cell(value: Any, column: str) -> str:
    """Return a figure for people: percents with two digits behind the point, others with four."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if column.endswith("%"):
            return f"{value:.2f}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return value


def tables(document: Document) -> list[str]:
    """Return a table per title: our rows, and below them what was published."""
    lines: list[str] = []
    rows = [*document["ours"], *document["published"]]
    published = bool(document["published"])
    for title in dict.fromkeys(row.get(results.TABLE) for row in rows):
        chosen = [row for row in rows if row.get(results.TABLE) == title]
        columns = [column for column in dict.fromkeys(c for row in chosen for c in row)
                   if column not in (results.TABLE, results.SOURCE)]
        # text first: report.table() aligns so many columns to the left
        words = [c for c in columns if all(isinstance(row.get(c), (str, bool, type(None)))
                                           for row in chosen)]
        columns = [*words, *(c for c in columns if c not in words)]
        if published:
            header = ["from", *columns]
            cells = [[row.get(results.SOURCE, OURS),
                      *(_published(row, c) for c in columns)] for row in chosen]
        else:
            header, cells = columns, [[cell(row.get(c), c) for c in columns] for row in chosen]
        lines += [f"**{title}**", ""] if title else []
        lines += table(header, cells, len(words) + published)
    return lines


def _published(row: Mapping[str, Any], column: str) -> str:
    """Return a cell; a published figure that is known to exist but could not be read says so."""
    if results.SOURCE in row and column in row and row[column] is None:
        return "not readable"
    return cell(row.get(column), column)


def section(document: Document, folder: Path | None) -> list[str]:
    """Return the lines of one file."""
    machine, seeds = document["machine"], ", ".join(map(str, document["seeds"]))
    device = f", {machine['device']}" if "device" in machine else ""
    took = f"{document['minutes']:.0f} minutes" if document["minutes"] >= 1.5 else \
        "about a minute" if document["minutes"] >= 0.5 else "less than a minute"
    lines = [f"    {document['command']}", "",
             f"Measured {document['made']} on {machine['cpu']}{device}, in {took}"
             + (f", seeds {seeds}." if seeds else "."), "", *tables(document)]
    picture = f"{document['name']}.svg"
    if folder is not None and (folder / picture).is_file():
        lines += [f"![{document['name']}]({folder.name}/{picture})", ""]
    if not document["published"]:
        lines += ["Published figures: none that could be read.", ""]
    if document["differs"]:
        lines += ["What differs from what was published:", "",
                  *(f"- {sentence}" for sentence in document["differs"]), ""]
    return lines


def page(documents: Mapping[str, Document], folder: Path | None = None) -> str:
    """Return the whole page; pictures are those of the folder."""
    lines = ["# Research", "",
             "Published systems that run from the same file format and the same runtime, each with "
             "the command that makes its model and what we measured beside what was published.", "",
             "Generated by `python -m edgerun.tools.recipes.page` from the files in "
             "[research](research), which the recipes wrote; a test keeps it true. Recipes train "
             "on two CPU cores in minutes, so networks are small and epochs few; each says what "
             "differs. `-`: does not apply, or was not published. DIR is a folder of yours; .npz "
             "files of images hold `images` and `labels`.", ""]
    for system in SYSTEMS:
        chosen = [d for name, d in documents.items() if system_of(name) is system]
        lines += [f"## {system.title}", "", *_paper(system), *_paragraphs(system.what)]
        if not chosen:
            lines += ["Not measured yet.", ""]
        for document in chosen:
            lines += [*([f"### {document['name']}", ""] if len(chosen) > 1 else []),
                      *section(document, folder)]
        lines += _paragraphs(system.unknown)
    return "\n".join(lines).rstrip() + "\n"


def _paper(system: System) -> list[str]:
    link = f"[arXiv {system.arxiv}](https://arxiv.org/abs/{system.arxiv})"
    return [f"{system.paper} ({link}).", ""] if system.paper else []


def _paragraphs(words: str) -> list[str]:
    return [line for part in words.split("\n\n") if part.strip()
            for line in (" ".join(part.split()), "")]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.recipes.page", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the JSON files are")
    parser.add_argument("page", metavar="PAGE.md", type=Path, help="the page to write")
    args = parser.parse_args(argv)
    try:
        content = page(read(args.folder), args.folder)
        with files.replacing(args.page) as file:
            file.write(content.encode())
    except EdgerunError as error:
        print(f"page: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
