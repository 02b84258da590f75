"""Measure how a model file is best read from disk: advice to the system, and with checksums or not.

    python -m edgerun.tools.compare.pages model.edge --device portable,intel --json pages.json

A copy of the file is dropped from the page cache (posix_fadvise, which needs no rights), then it is
loaded and run once. edgerun.loader gives no advice; here its mapping gets some.
"""
from __future__ import annotations

import argparse
import contextlib
import gc
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from edgerun import files, loader, text
from edgerun.device import Device
from edgerun.errors import EdgerunError, InputError
from edgerun.session import Session
from edgerun.tools.compare.machine import machine

ROUNDS = 7
NONE = "none"
# name -> what is asked of the system; what this system has not is left out
ADVICE: dict[str, Callable[[mmap.mmap, int], object]] = {
    NONE: lambda mapping, file: None,
    "madvise WILLNEED": lambda mapping, file: mapping.madvise(mmap.MADV_WILLNEED),
    "madvise SEQUENTIAL": lambda mapping, file: mapping.madvise(mmap.MADV_SEQUENTIAL),
    "madvise RANDOM": lambda mapping, file: mapping.madvise(mmap.MADV_RANDOM),
    "fadvise WILLNEED": lambda mapping, file: os.posix_fadvise(
        file, 0, 0, os.POSIX_FADV_WILLNEED),
}


@contextlib.contextmanager
def advised(name: str) -> Iterator[None]:
    """Let the loader's mapping get advice while this is open."""
    def mapped(file: int, *args, **kwargs) -> mmap.mmap:
        mapping = mmap.mmap(file, *args, **kwargs)
        ADVICE[name](mapping, file)
        return mapping
    with mock.patch.object(loader, "mmap", SimpleNamespace(
            mmap=mapped, ACCESS_READ=mmap.ACCESS_READ)):
        yield


def start(path: str, device: Device, advice: str, check: bool) -> dict[str, int]:
    """Load and run once, the file not being in memory; returns "load_ns" and "total_ns"."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with advised(advice):
        begun = time.perf_counter_ns()
        model = loader.read(path, check)
        loaded = time.perf_counter_ns()
        with Session(model, device) as session:
            session.run({i.name: np.zeros(i.shape, i.dtype) for i in session.inputs})
            ended = time.perf_counter_ns()
    del model, session
    gc.collect()  # the mapping goes with the last that refers to it
    return {"load_ns": loaded - begun, "total_ns": ended - begun}


def measure(path: str | os.PathLike, device: Device, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Return the median of every kind of start: "advice", "checksums", "load_ns", "total_ns"."""
    ways = [(advice, check) for check in (True, False) for advice in ADVICE]
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, Path(folder, "model.edge"))
        start(copy, device, NONE, True)
        found = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                found[way].append(start(copy, device, *way))
    return [{"advice": advice, "checksums": check,
             **{key: statistics.median(once[key] for once in times) for key in times[0]}}
            for (advice, check), times in found.items()]


def _each(model: str, devices: Sequence[str]) -> list[dict[str, Any]]:
    """Measure every device in a process of its own: one driver is loaded in each."""
    results = []
    for device in devices:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "one.json")
            subprocess.run([sys.executable, "-m", "edgerun.tools.compare.pages", model, "--device",
                            device, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
            results += json.loads(out.read_text())["results"]
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgerun.tools.compare.pages",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL.edge", help="a packed model")
    parser.add_argument("--device", metavar="D[,D...]", default=os.environ.get("EDGERUN_DEVICE"),
                        help="as for edgerun run; each is measured in a process of its own")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    args = parser.parse_args(argv)
    if not Path(args.model).is_file():
        raise InputError(f"{args.model}: no such file; needed a model file (.edge)")
    if "," in (args.device or ""):
        results = _each(args.model, args.device.split(","))
    else:
        opened = Device(args.device)
        results = [{"device": args.device or opened.info.platform} | row
                   for row in measure(args.model, opened)]
    if args.json:
        with files.replacing(args.json) as file:
            file.write((json.dumps({
                "machine": machine(os.cpu_count()), "model": Path(args.model).name.split("-")[0],
                "bytes": os.path.getsize(args.model), "rounds": ROUNDS, "results": results},
                indent=1) + "\n").encode())
    print("\n".join(text.table(("device", "advice", "checksums", "load ms", "load and run ms"), [
        (r["device"], r["advice"], "yes" if r["checksums"] else "no", f"{r['load_ns'] / 1e6:.1f}",
         f"{r['total_ns'] / 1e6:.1f}") for r in results], left=(0, 1, 2))))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgerunError as error:
        sys.exit(f"pages: {error}")
