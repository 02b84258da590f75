"""Time: per-op times by OpenCL events, and the latency distribution of whole runs."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgerun import text
from edgerun.errors import DeviceError, InputError
from edgerun.model import Op
from edgerun.ops import OPS
from edgerun.session import Session

PROFILE_RUNS = 5


@dataclass(frozen=True)
class OpTime:
    """The device time of one launch.

    Attributes:
        op: index of the op in the model file.
        code, name: of the op.
        kernel: name of the kernel.
        ns: nanoseconds on the device, median over the profiled runs.
        macs, bytes: multiply-accumulates and bytes (operands read once, results written once) of
            the op. An op with several launches has them at its longest one and 0 at the others, so
            that sums are right.
    """
    op: int
    code: str
    name: str
    kernel: str
    ns: int
    macs: int
    bytes: int

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second, two per multiply-accumulate."""
        return 2 * self.macs / self.ns if self.ns else 0.0

    @property
    def gbytes_per_s(self) -> float:
        """10^9 bytes per second."""
        return self.bytes / self.ns if self.ns else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the two rates as a dict."""
        return {**asdict(self), "gflops": self.gflops, "gbytes_per_s": self.gbytes_per_s}


def op_bytes(op: Op) -> int:
    """Return the bytes of an op's distinct operands and results."""
    tensors = {tensor.index: tensor.bytes for tensor in (*op.inputs, *op.outputs)
               if tensor is not None}
    return sum(tensors.values())


def profile(session: Session, inputs: Mapping[str, np.ndarray],
            runs: int = PROFILE_RUNS) -> list[OpTime]:
    """Time every launch with events, on a second queue that records times.

    Args:
        session: an open session.
        inputs: as for Session.run().
        runs: the median over this many runs is taken, after one that is not counted.

    Returns:
        One OpTime per launch, in order.

    Raises:
        InputError: the inputs are wrong, or `runs` is below 1.
        DeviceError: the device keeps no times, or refuses a launch.
    """
    if runs < 1:
        raise InputError(f"profile: {runs} runs, needed at least 1")
    checked = session.check(inputs)
    queue = session.device.profiling_queue()
    times = [_one_profile(session, checked, queue) for _ in range(runs + 1)][1:]
    medians = np.median(np.array(times, np.int64), axis=0).astype(int) if session.steps else []
    longest: dict[int, int] = {}
    for number, step in enumerate(session.steps):
        best = longest.setdefault(step.op.index, number)
        if medians[number] > medians[best]:
            longest[step.op.index] = number
    return [OpTime(step.op.index, step.op.code, step.op.name, step.label, int(ns),
                   OPS[step.op.code].macs(step.op) if longest[step.op.index] == number else 0,
                   op_bytes(step.op) if longest[step.op.index] == number else 0)
            for number, (step, ns) in enumerate(zip(session.steps, medians))]


def _one_profile(session: Session, checked: list[np.ndarray], queue) -> list[int]:
    session.write(checked)  # again each time: another tensor may take an input's place in the arena
    session.device.queue.finish()
    events: list = []
    session.enqueue(queue, events)
    queue.finish()
    try:
        return [event.profile.end - event.profile.start for event in events]
    except session.device.cl.Error as error:
        raise DeviceError(f"{session.device.info.name}: keeps no times of kernels ({error}); "
                          "measure without per-op times") from None


@dataclass(frozen=True)
class BenchReport:
    """How fast a model runs; times in nanoseconds.

    Attributes:
        device, platform: where it ran.
        load_ns: from opening the file to a prepared session; first_ns: the first run.
        runs, warmup: counted runs, and runs before them.
        total, write, enqueue, read: "min", "median", "p90", "mean", "max" of whole runs and of
            their parts: copying inputs in, enqueueing every launch (host time), waiting and copying
            out.
        launches: kernel launches a run; programs: "built", "cached".
        created: OpenCL objects made during the counted runs; all 0, since run allocates nothing.
        macs: multiply-accumulates of the ops dominated by them.
        ops: one OpTime per launch, if asked for.
    """
    device: str
    platform: str
    load_ns: int
    first_ns: int
    runs: int
    warmup: int
    total: dict[str, float]
    write: dict[str, float]
    enqueue: dict[str, float]
    read: dict[str, float]
    launches: int
    programs: dict[str, int]
    created: dict[str, int]
    macs: int
    ops: list[OpTime] = field(default_factory=list)

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second at the median latency."""
        return 2 * self.macs / self.total["median"] if self.total["median"] else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one dict that JSON can hold."""
        return text.plain({**asdict(self), "gflops": self.gflops,
                           "ops": [op.as_dict() for op in self.ops]})

    def text(self) -> str:
        """Return the report for a terminal."""
        columns = ("min", "median", "p90", "mean", "max")
        rows = [(label, *(text.duration(times[column]) for column in columns))
                for label, times in (("whole run", self.total), ("  inputs in", self.write),
                                     ("  enqueue (host)", self.enqueue),
                                     ("  wait, outputs out", self.read))]
        lines = [f"{self.device} ({self.platform})",
                 f"{self.runs} runs after {self.warmup} of warm-up",
                 *text.table(("", *columns), rows, left=(0,)),
                 *text.pairs([
                     ("load", text.duration(self.load_ns)),
                     ("first run", text.duration(self.first_ns)),
                     ("launches", self.launches),
                     ("programs", f"{self.programs['built']} built, "
                                  f"{self.programs['cached']} cached"),
                     ("multiply-adds", f"{self.macs / 1e6:.1f} million, {self.gflops:.1f} GFLOP/s"),
                     ("made during runs", _created(self.created))])]
        return "\n".join([*lines, *_op_lines(self.ops)])


def _created(created: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in created.items() if count) or "nothing"


def _op_lines(ops: Sequence[OpTime]) -> list[str]:
    if not ops:
        return []
    total = sum(op.ns for op in ops) or 1
    rows = [(op.op, op.code, op.name, op.kernel, f"{op.ns / 1e3:.1f}", f"{100 * op.ns / total:.1f}",
             f"{op.macs / 1e6:.2f}" if op.macs else "", f"{op.gflops:.1f}" if op.macs else "",
             f"{op.gbytes_per_s:.1f}" if op.bytes else "") for op in ops]
    return ["", f"device time by events, sum {text.duration(total)}", *text.table(
        ("op", "code", "name", "kernel", "us", "%", "M macs", "GFLOP/s", "GB/s"), rows,
        left=(1, 2, 3))]


def _spread(samples: Sequence[int]) -> dict[str, float]:
    values = np.array(samples, np.float64)
    return {"min": float(values.min()), "median": float(np.median(values)),
            "p90": float(np.percentile(values, 90)), "mean": float(values.mean()),
            "max": float(values.max())}


def bench(session: Session, inputs: Mapping[str, np.ndarray], runs: int = 50, warmup: int = 5,
          per_op: bool = False, load_ns: int = 0) -> BenchReport:
    """Measure the latency of a session that has not run yet.

    Args:
        session: an open session.
        inputs: as for Session.run().
        runs: counted runs, at least 1.
        warmup: runs before them, besides the first.
        per_op: also profile every launch.
        load_ns: how long preparing the session took, for the report.

    Raises:
        InputError: the inputs or a count are wrong.
        DeviceError: the device refuses a launch.
    """
    if runs < 1 or warmup < 0:
        raise InputError(f"bench: {runs} runs and {warmup} of warm-up, needed at least 1 and 0")
    first_ns = _timed_run(session, inputs)[-1]
    for _ in range(warmup):
        _timed_run(session, inputs)
    before = dict(session.device.created)
    write, enqueue, read, total = zip(*(_timed_run(session, inputs) for _ in range(runs)))
    created = {kind: count - before[kind] for kind, count in session.device.created.items()}
    info, programs = session.device.info, session.device.programs
    return BenchReport(
        info.name, info.platform, load_ns, first_ns, runs, warmup, _spread(total), _spread(write),
        _spread(enqueue), _spread(read), len(session.steps),
        {"built": programs.built, "cached": programs.cached}, created,
        sum(OPS[op.code].macs(op) for op in session.model.ops),
        profile(session, inputs) if per_op else [])


def _timed_run(session: Session, inputs: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
    """Run once; returns nanoseconds of writing, enqueueing, reading, and all together."""
    start = time.perf_counter_ns()
    session.write(session.check(inputs))
    written = time.perf_counter_ns()
    session.enqueue()
    enqueued = time.perf_counter_ns()
    session.read()
    end = time.perf_counter_ns()
    return written - start, enqueued - written, end - enqueued, end - start
