"""A process that holds one model in one runtime, and runs it when told to.

Reads one JSON document per line from stdin, answers each with one on stdout:
    {"runtime", "model", "inputs", "threads", "device"}  -> {"version", "facts", "load_ns", ...}
    {"runs": n}                                          -> {"ns": [n times]}
    {"outputs": file}                                    -> {}, after writing an .npz
An error is answered with {"error": message}.
"""
from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import smaps
from edgerun.tools.compare.peers import PEERS


def _pss() -> int:
    memory = smaps.process()
    return memory.pss_bytes if memory else 0


def _times(run, count: int) -> list[int]:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return times


class Worker:
    """Answers requests; see the module."""

    def __init__(self) -> None:
        self._peer: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        if "runtime" in request:
            return self._open(request)
        if "runs" in request:
            return {"ns": _times(self._peer.run, request["runs"])}
        np.savez(request["outputs"], *self._peer.outputs())
        return {}

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        with np.load(request["inputs"]) as arrays:
            inputs = {name: arrays[name] for name in arrays.files}
        before, start = _pss(), time.perf_counter_ns()
        self._peer = PEERS[request["runtime"]](Path(request["model"]), inputs, request["threads"],
                                               request["device"])
        loaded = time.perf_counter_ns()
        self._peer.run()
        first = time.perf_counter_ns()
        gc.collect()
        gc.disable()
        return {"version": self._peer.version, "facts": self._peer.facts,
                "load_ns": loaded - start, "first_ns": first - loaded,
                "pss_bytes": _pss() - before}


def main() -> int:
    """Answer until stdin ends; returns the exit status."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print; what they print must not look like an answer
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # whatever a runtime raises becomes a line of the table
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
