"""Measure runtimes by turns: each runs a little, the others held still, round after round.

What disturbs one turn (another program, a hotter CPU) disturbs the neighbours in the same round
too, so ratios within a round hold where times alone do not.
"""
from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.tools.compare.files import Files, NoFile, Source
from edgerun.tools.compare.process import OPEN_S, Process, WorkerError

TURN_NS, WARM_NS = 30e6, 3e6  # measured and unmeasured running at the start of it, per turn
MOST_RUNS = 60  # in a turn
ROUNDS = 15
SLOW = {"tinygrad": 300.0}  # runtimes that compile for long when they open, and how long they may


@dataclass(frozen=True)
class Runner:
    """A runtime with a precision; for edgerun on a device."""
    runtime: str
    precision: str
    device: str | None = None

    @property
    def label(self) -> str:
        """How tables call it, without the precision."""
        return f"{self.runtime} ({self.device})" if self.device else self.runtime


@dataclass
class Result:
    """What was measured of one runner on one model.

    Attributes:
        model: its name.
        runtime, precision, device: of the runner.
        version: of the runtime; facts: what it says of itself.
        load_ns, first_ns: opening the model, and the first run.
        pss_bytes: growth of the process's memory by opening and running the model.
        turns_ns: the median latency of each round, in order.
        runs: runs behind each of them.
        difference: root mean square of the difference of the outputs from those of the first
            runner that has any, relative to theirs.
        error: why there are no numbers; "" if there are.
    """
    model: str
    runtime: str
    precision: str
    device: str | None
    version: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    load_ns: int = 0
    first_ns: int = 0
    pss_bytes: int = 0
    turns_ns: list[float] = field(default_factory=list)
    runs: int = 0
    difference: float | None = None
    error: str = ""

    @property
    def median_ns(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.turns_ns))

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        low, high = np.percentile(self.turns_ns, (25, 75))
        return float((high - low) / 2 / self.median_ns)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON keeps: with the median and the spread."""
        numbers = {} if self.error else {"median_ns": self.median_ns, "spread": self.spread}
        return {**asdict(self), **numbers}


class Turns:
    """Opened workers of one model.

    Args:
        source: the model.
        runners: what to open; one that cannot be opened gets an error.
        files: where models are converted.
        threads: of every runtime.
        start: makes a worker, of Process's form.
    """

    def __init__(self, source: Source, runners: Sequence[Runner], files: Files, threads: int,
                 start: Callable[[int], Process] = Process):
        self.results = [Result(source.name, r.runtime, r.precision, r.device) for r in runners]
        self._open: list[tuple[Result, Process]] = []
        for result in self.results:
            process = None
            try:
                path = files.file(source, result.runtime, result.precision)
                process = start(threads)
                answer = process.ask(
                    {"runtime": result.runtime, "model": os.fspath(path), "threads": threads,
                     "inputs": os.fspath(source.inputs), "device": result.device},
                    SLOW.get(result.runtime, OPEN_S))
            except (NoFile, WorkerError) as error:
                result.error = str(error)
                if process is not None:
                    process.close()
                continue
            for key in ("version", "facts", "load_ns", "first_ns", "pss_bytes"):
                setattr(result, key, answer[key])
            self._open.append((result, process))

    def measure(self, rounds: int) -> None:
        """Run `rounds` rounds, each runner once in each; the order turns from round to round."""
        counts = {id(result): self._counts(result, process) for result, process in self._open}
        for number in range(rounds):
            at = number % max(1, len(self._open))
            for result, process in self._open[at:] + self._open[:at]:
                if result.error:
                    continue
                warm, runs = counts[id(result)]
                times = self._ask(result, process, {"runs": warm + runs})
                if times:
                    result.turns_ns.append(float(np.median(times["ns"][warm:])))
                    result.runs = runs

    def _ask(self, result: Result, process: Process, request: dict) -> dict | None:
        try:
            return process.ask(request)
        except WorkerError as error:
            result.error = str(error)
            return None

    def _counts(self, result: Result, process: Process) -> tuple[int, int]:
        """Return how many runs of a turn are not measured, and how many are."""
        answer = self._ask(result, process, {"runs": 3})
        once = min(answer["ns"]) if answer else math.inf
        return (max(1, math.ceil(min(WARM_NS / once, MOST_RUNS))),
                max(1, math.ceil(min(TURN_NS / once, MOST_RUNS))))

    def compare_outputs(self) -> None:
        """Set the difference of every result from the first."""
        first: list[np.ndarray] | None = None
        with tempfile.TemporaryDirectory() as folder:
            for number, (result, process) in enumerate(self._open):
                path = Path(folder, f"{number}.npz")
                if result.error or self._ask(result, process, {"outputs": str(path)}) is None:
                    continue
                with np.load(path) as arrays:
                    found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
                first = found if first is None else first
                result.difference = difference(found, first)

    def close(self) -> None:
        """End the workers."""
        for _, process in self._open:
            process.close()


def difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float | None:
    """Return the RMS of found - wanted relative to that of wanted; None where sizes differ."""
    if [a.size for a in found] != [a.size for a in wanted]:
        return None
    both = [np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])
            for arrays in (found, wanted)]
    scale = float(np.sqrt(np.mean(both[1] ** 2))) or 1.0
    return float(np.sqrt(np.mean((both[0] - both[1]) ** 2))) / scale


def runners(precisions: Sequence[str], devices: Sequence[str | None], peers: Sequence[str]
            ) -> list[Runner]:
    """Return edgerun on every device and then every peer, in every precision."""
    return ([Runner("edgerun", p, device) for p in precisions for device in devices]
            + [Runner(peer, p) for p in precisions for peer in peers])


def compare(models: Sequence[str], files: Files, precisions: Sequence[str],
            devices: Sequence[str | None], peers: Sequence[str], threads: int,
            rounds: int = ROUNDS, progress: Callable[[str], None] = lambda model: None,
            start: Callable[[int], Process] = Process) -> list[Result]:
    """Measure every model.

    Args:
        models: names of networks, or paths.
        files: where converted models are kept.
        precisions: of edgerun.tools.compare.files.PRECISIONS; a quantized model keeps its own.
        devices: of edgerun.
        peers: of edgerun.tools.compare.peers.PEERS.
        threads: of every runtime.
        rounds: at least 1.
        progress: called with every model's name.
        start: see Turns.

    Raises:
        InputError: there is no such model.
    """
    results: list[Result] = []
    for model in models:
        source = files.source(model)
        progress(source.name)
        turns = Turns(source, runners(source.precisions(tuple(precisions)), devices, peers), files,
                      threads, start)
        try:
            turns.measure(rounds)
            turns.compare_outputs()
        finally:
            turns.close()
        results += turns.results
    return results
