"""What would make a model smaller: every alternative is packed, nothing is guessed."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgerun.errors import EdgerunError
from edgerun.memory_page import Smaller
from edgerun.tools import patch
from edgerun.tools.pack import PackReport, pack

Options = Mapping[str, Any]


def smaller(source: str | os.PathLike, given: Options, report: PackReport,
            progress: Callable[..., None] = lambda stage, *of: None) -> list[Smaller]:
    """Return the alternatives that need less memory, the smallest arena first.

    Args:
        source: the model that was packed.
        given: the arguments of edgerun.tools.pack.pack it was packed with, after the first two.
        report: what came of it.
        progress: called with the name of each alternative.
    """
    found = []
    for what, changed in _alternatives(given, report):
        progress(f"planning {what}")
        options = {**given, **changed, "tune": False, "vectors": ()}
        try:
            with tempfile.TemporaryDirectory() as folder:
                other = pack(source, Path(folder, "other.edge"), **options)
        except EdgerunError:
            continue  # this model cannot be had that way
        if other.arena_bytes < report.arena_bytes or other.file_bytes < report.file_bytes:
            found.append(Smaller(what, other.arena_bytes, other.file_bytes))
    return sorted(found, key=lambda each: (each.arena_bytes, each.file_bytes))


def _alternatives(given: Options, report: PackReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments that differ from the given ones, and how they are said on the command line."""
    if given.get("without"):
        yield "without --without", {"without": ()}
    cut = given.get("patch", patch.OFF) == patch.OFF and "patch" not in given.get("without", ())
    if cut:
        yield "--patch auto", {"patch": "auto"}
    types = ["fp16"] if report.precision == "fp32" else []
    if report.precision in ("fp32", "fp16") and given.get("calibration") is not None:
        types += ["int16", "int8"]
    for dtype in types:
        yield f"--precision {dtype}", {"precision": dtype}
        if cut:
            yield f"--precision {dtype} --patch auto", {"precision": dtype, "patch": "auto"}
