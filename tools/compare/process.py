"""A worker process seen from outside: started, asked, held still while it is not its turn.

A worker that is not asked is stopped (SIGSTOP). So a runtime may spin for work during its own turn,
as it does at its best, and cannot take a core from another one's.
"""
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgerun.cold import CACHES

WORKER = (sys.executable, "-m", "edgerun.tools.compare.worker")
OPEN_S, TURN_S, END_S = 90.0, 60.0, 20.0  # longest wait for a model to open, a turn, the end


class WorkerError(Exception):
    """A worker ended, did not answer in time, or answered with an error."""


def environment(threads: int, caches: Path | None = None) -> dict[str, str]:
    """Return the environment of a worker: OpenCL CPU drivers and OpenMP with so many threads.

    Args:
        threads: how many.
        caches: a folder for what runtimes and drivers keep of compiled kernels; None for theirs.
    """
    count = str(threads)
    kept = {}
    if caches is not None:
        kept = {name: str(caches / name.lower()) for name in (*CACHES, "XDG_CACHE_HOME")}
        for folder in kept.values():
            os.makedirs(folder, exist_ok=True)
    return {**os.environ, "POCL_MAX_PTHREAD_COUNT": count, "DPCPP_CPU_NUM_CUS": count,
            "OMP_NUM_THREADS": count, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            **kept}


class Process:
    """A worker.

    Args:
        threads: it may use so many CPUs, and is told to use so many threads.
        command: what to start; another one in tests.
        caches: see environment().
    """

    def __init__(self, threads: int, command: Sequence[str] = WORKER,
                 caches: Path | None = None):
        self._log = tempfile.TemporaryFile()
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=environment(threads, caches),
            preexec_fn=lambda: os.sched_setaffinity(0, cpus))

    def ask(self, request: dict[str, Any], limit_s: float = TURN_S) -> dict[str, Any]:
        """Let the worker go on, send a request, wait for the answer, stop the worker.

        Raises:
            WorkerError: see there; the worker is ended, unless it answered.
        """
        try:
            self._process.send_signal(signal.SIGCONT)
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ProcessLookupError):
            raise WorkerError(self._end()) from None
        line = self._line(limit_s)
        self._process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(" ".join(answer["error"].split())[:300])
        return answer

    def _line(self, limit_s: float) -> bytes:
        deadline, line = time.monotonic() + limit_s, b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._process.kill()
                self.close()
                raise WorkerError(f"gave no answer in {limit_s:g} s")
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise WorkerError(self._end())
            line += piece
        return line

    def _end(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return f"the process ended with {how}" + (f": {last[0][:200]}" if last else "")

    def close(self) -> None:
        """End the process; it may keep what it has compiled first, as programs do that end."""
        if not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._log.close()
