"""Time: per-op times by OpenCL events, and the latency distribution of whole runs."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgerun import host_ops, mixture, routes, text
from edgerun.errors import DeviceError, InputError
from edgerun.model import Op
from edgerun.ops import OPS
from edgerun.roofline import Roofline, bound, roofline
from edgerun.session import Session

PROFILE_RUNS = 5
HOST = "NumPy on the host"  # stands for the kernel of a host op


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
        possible_ns: how long the op would take at the device's peak, see edgerun.roofline; 0 if
            the peaks are not known, and at the shorter launches of an op.
        limit: what limits it: "compute", "memory", "launch"; "" as above.
        shape: kernel size, stride and channels where the op has them, and the size of its output.
    """
    op: int
    code: str
    name: str
    kernel: str
    ns: int
    macs: int
    bytes: int
    possible_ns: float = 0.0
    limit: str = ""
    shape: str = ""

    @property
    def attained(self) -> float | None:
        """Share of the possible speed, 0..1 but for errors of measurement; None if not known."""
        return self.possible_ns / self.ns if self.limit and self.ns else None

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second, two per multiply-accumulate."""
        return 2 * self.macs / self.ns if self.ns else 0.0

    @property
    def gbytes_per_s(self) -> float:
        """10^9 bytes per second."""
        return self.bytes / self.ns if self.ns else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, the two rates and the attained share as a dict."""
        return {**asdict(self), "gflops": self.gflops, "gbytes_per_s": self.gbytes_per_s,
                "attained": self.attained}


def op_bytes(op: Op) -> int:
    """Return the bytes of an op's distinct operands and results."""
    tensors = {tensor.index: tensor.bytes for tensor in (*op.inputs, *op.outputs)
               if tensor is not None}
    return sum(tensors.values())


def shape_of(op: Op) -> str:
    """Return an op's shape in short: 3x3/2 64->128 28x28 for a convolution with stride 2."""
    y = op.outputs[0].shape
    w = op.inputs[1] if len(op.inputs) > 1 else None
    if op.code == "dense":
        return f"{w.shape[1]}->{w.shape[0]} {text.shape(y[:-1])}"
    if op.code in ("conv2d", "conv_transpose2d", "depthwise_conv2d"):
        kernel = w.shape[:2] if op.code == "depthwise_conv2d" else w.shape[1:3]
        return (f"{text.shape(kernel)}/{op.options['stride_h']} {op.inputs[0].shape[-1]}->{y[-1]} "
                f"{text.shape(y[1:3])}")
    return text.shape(y)


def profile(session: Session, inputs: Mapping[str, np.ndarray], runs: int = PROFILE_RUNS,
            peaks: Roofline | None = None) -> list[OpTime]:
    """Time every launch with events, on a second queue that records times.

    Args:
        session: an open session.
        inputs: as for Session.run().
        runs: the median over this many runs is taken, after one that is not counted.
        peaks: of the device, to compare with.

    Returns:
        One OpTime per launch, in order, then one per host op.

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
    found = []
    for number, (step, ns) in enumerate(zip(session.steps, medians)):
        op, head = step.op, (step.op.index, step.op.code, step.op.name, step.label, int(ns))
        if longest[op.index] != number:
            found.append(OpTime(*head, 0, 0, shape=shape_of(op)))
            continue
        macs, read = OPS[op.code].macs(op), session.counted(op)
        limits: tuple[float, str] = (0.0, "")
        if peaks is not None:
            whole = sum(int(medians[n]) for n, s in enumerate(session.steps) if s.op is op)
            best = bound(read, macs, peaks, _model_bytes(session))
            limits = best.possible_ns, best.limit(whole, peaks.launch_ns)
        found.append(OpTime(*head, macs, op_bytes(read), *limits, shape_of(op)))
    return found + _host_times(session, runs)


def _host_times(session: Session, runs: int) -> list[OpTime]:
    """Return the times of what the host computes, of the outputs that are in the arena now."""
    model = session.model
    if not model.host_ops:
        return []
    outputs, times = session.copy_out(), []
    for _ in range(runs + 1):
        times.append([])
        host_ops.finish(model, outputs, times[-1])
    medians = np.median(np.array(times[1:], np.int64), axis=0).astype(int)
    return [OpTime(len(model.ops) + number, op.code, op.name, HOST, int(ns), 0, 0,
                   shape=text.shape(op.outputs[0].shape))
            for number, (op, ns) in enumerate(zip(model.host_ops, medians))]


def _model_bytes(session: Session) -> int:
    return (sum(len(segment.data) for segment in session.model.segments)
            + session.model.plan.arena_bytes)


def _one_profile(session: Session, checked: list[np.ndarray], queue) -> list[int]:
    events: list = []
    with session.turn():
        session.write(checked)  # again each time: another tensor may take an input's place
        session.device.queue.finish()
        session.enqueue(queue, events)
        session.finish()
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
        total: "min", "median", "p90", "mean", "max" of whole runs.
        write, enqueue, wait, read: the same of the parts of other runs: copying inputs in,
            enqueueing every launch, waiting for the device, copying outputs out.
        host: of all that but the waiting.
        launches: kernel launches a run; route: how they reach the device, see routes.described().
        programs: "built", "cached".
        created: OpenCL objects made during the counted runs; all 0, since run allocates nothing.
        macs: multiply-accumulates of the ops dominated by them.
        ops: one OpTime per launch, if asked for.
        peaks: of the device, likewise.
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
    wait: dict[str, float]
    read: dict[str, float]
    host: dict[str, float]
    launches: int
    route: dict[str, Any]
    programs: dict[str, int]
    created: dict[str, int]
    macs: int
    ops: list[OpTime] = field(default_factory=list)
    peaks: Roofline | None = None

    @property
    def launch_share(self) -> float | None:
        """The cost of as many empty launches as a run enqueues, as a share of the latency.

        None if it is not known.
        """
        return (self.route["commands"] * self.peaks.launch_ns / self.total["median"]
                if self.peaks else None)

    @property
    def attained(self) -> float | None:
        """What all ops would take at the device's peak, as a share of the latency."""
        return (sum(op.possible_ns for op in self.ops) / self.total["median"]
                if self.peaks else None)

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second at the median latency."""
        return 2 * self.macs / self.total["median"] if self.total["median"] else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one dict that JSON can hold."""
        return text.plain({**asdict(self), "gflops": self.gflops, "attained": self.attained,
                           "launch_share": self.launch_share,
                           "ops": [op.as_dict() for op in self.ops]})

    def text(self) -> str:
        """Return the report for a terminal."""
        columns = ("min", "median", "p90", "mean", "max")
        rows = [(label, *(text.duration(times[column]) for column in columns))
                for label, times in (("whole run", self.total), ("  inputs in", self.write),
                                     ("  enqueue", self.enqueue),
                                     ("  wait for the device", self.wait),
                                     ("  outputs out", self.read),
                                     ("host: all but waiting", self.host))]
        lines = [f"{self.device} ({self.platform})",
                 f"{self.runs} runs after {self.warmup} of warm-up",
                 *text.table(("", *columns), rows, left=(0,)),
                 *text.pairs([
                     ("load", text.duration(self.load_ns)),
                     ("first run", text.duration(self.first_ns)),
                     ("launches", routes.described(self.route)),
                     ("programs", f"{self.programs['built']} built, "
                                  f"{self.programs['cached']} cached"),
                     ("multiply-adds", f"{self.macs / 1e6:.1f} million, {self.gflops:.1f} GFLOP/s"),
                     ("made during runs", _created(self.created))])]
        if self.peaks:
            lines += ["", self.peaks.text(), *text.pairs([
                ("launch share", f"{100 * self.launch_share:.0f} % of the latency"),
                ("attained", f"{100 * self.attained:.0f} % of what the peaks allow")])]
        return "\n".join([*lines, *_op_lines(self.ops)])


def _created(created: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in created.items() if count) or "nothing"


def _op_lines(ops: Sequence[OpTime]) -> list[str]:
    if not ops:
        return []
    total = sum(op.ns for op in ops) or 1
    rows = [(op.op, op.code, op.name, op.shape, op.kernel, f"{op.ns / 1e3:.1f}",
             f"{100 * op.ns / total:.1f}", f"{op.macs / 1e6:.2f}" if op.macs else "",
             f"{op.gflops:.1f}" if op.macs else "", f"{op.gbytes_per_s:.1f}" if op.bytes else "",
             "" if op.attained is None else f"{100 * op.attained:.0f}", op.limit) for op in ops]
    return ["", f"device time by events, sum {text.duration(total)}", *text.table(
        ("op", "code", "name", "shape", "kernel", "us", "%", "M macs", "GFLOP/s", "GB/s",
         "% possible", "limit"), rows, left=(1, 2, 3, 4, 11))]


def _spread(samples: Sequence[int]) -> dict[str, float]:
    values = np.array(samples, np.float64)
    return {"min": float(values.min()), "median": float(np.median(values)),
            "p90": float(np.percentile(values, 90)), "mean": float(values.mean()),
            "max": float(values.max())}


def bench(session: Session, inputs: Mapping[str, np.ndarray], runs: int = 50, warmup: int = 5,
          per_op: bool = False, load_ns: int = 0, again: bool = False) -> BenchReport:
    """Measure the latency of a session that has not run yet.

    Args:
        session: an open session.
        inputs: as for Session.run().
        runs: counted runs, at least 1.
        warmup: runs before them, besides the first.
        per_op: also profile every launch, and compare with the peaks of the device.
        load_ns: how long preparing the session took, for the report.
        again: measure the peaks even if they are known.

    Raises:
        InputError: the inputs or a count are wrong.
        DeviceError: the device refuses a launch.
    """
    if runs < 1 or warmup < 0:
        raise InputError(f"bench: {runs} runs and {warmup} of warm-up, needed at least 1 and 0")
    peaks = roofline(session.device, again) if per_op else None
    first_ns = _whole_run(session, inputs)
    for _ in range(warmup):
        _whole_run(session, inputs)
    before = dict(session.device.created)
    total, parts = [], []
    for _ in range(runs):
        total.append(_whole_run(session, inputs))
        parts.append(_parts_of_run(session, inputs))
    created = {kind: count - before[kind] for kind, count in session.device.created.items()}
    info, programs = session.device.info, session.device.programs
    write, enqueue, wait, read = zip(*parts)
    return BenchReport(
        info.name, info.platform, load_ns, first_ns, runs, warmup, _spread(total), _spread(write),
        _spread(enqueue), _spread(wait), _spread(read),
        _spread([w + e + r for w, e, _, r in parts]), len(session.prepared),
        session.route.as_dict(),
        {"built": programs.built, "cached": programs.cached}, created,
        mixture.macs(session.model),
        profile(session, inputs, peaks=peaks) if per_op else [], peaks)


def _whole_run(session: Session, inputs: Mapping[str, np.ndarray]) -> int:
    """Run once; returns nanoseconds."""
    start = time.perf_counter_ns()
    session.run(inputs)
    return time.perf_counter_ns() - start


def _parts_of_run(session: Session, inputs: Mapping[str, np.ndarray]
                  ) -> tuple[int, int, int, int]:
    """Run once; returns nanoseconds of writing, enqueueing, waiting and reading."""
    with session.turn():
        times = [time.perf_counter_ns()]
        for part in (lambda: session.write(session.check(inputs)), session.enqueue,
                     session.device.queue.finish, session.read):
            part()
            times.append(time.perf_counter_ns())
    return tuple(end - start for start, end in zip(times, times[1:]))
