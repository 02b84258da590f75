"""The memory report: what the file plans, what the session allocated, what the system measures."""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import arrays, loader, mixture, modes, routes, smaps, text
from edgerun.device import Device, opencl
from edgerun.memory import IN_PLACE
from edgerun.model import Model, Op
from edgerun.ops import OPS
from edgerun.session import Session
from edgerun.validate import lifetimes

NO_SMAPS = ("this platform has no /proc/self/smaps, so the memory of the process cannot be "
            "measured; planned and allocated bytes hold all the same")
START, IMPORTED, OPENED = "Python, numpy, edgerun", "pyopencl imported", "OpenCL driver loaded"
READ, PREPARED, FIRST, STEADY = "model file read", "session prepared", "first run", "steady"
STEADY_RUNS = 10


@dataclass(frozen=True)
class MemoryReport:
    """Memory of a model, in bytes.

    Attributes:
        planned: from the model file: "file_bytes", "weights" and "constants" (dtype -> bytes),
            "padding_bytes", "arena_bytes", "lower_bound_bytes", "proven" (no arena is
            smaller for these ops in this order), "device_bytes" (what a session will ask of
            OpenCL: arena and segments), "scratch_bytes" (largest, inside the arena),
            "io_bytes" (the caller's arrays), "peak" (op, bytes, tensors there), "modes" (what each
            reads of the constants, see edgerun.modes.described()).
        allocated: what the session asked OpenCL for: "categories" ("arena", "weights fp32", ... ->
            bytes), "rungs" (how weights got there), "total_bytes", "programs", "kernels",
            "buffers", "route" (how launches reach the device), "arena_sessions" (how many share
            the arena), "precision" (of the runs); empty without a session.
        measured: "stages" (label -> pss, private dirty, anonymous, file bytes), "parts" (Python and
            libraries, driver, session), "model_file" (its mapping), "explained" (what the session's
            part consists of), "gpu_bytes" (if the kernel's GPU driver tells), "notes"; only notes
            where the platform measures nothing, empty if nothing was measured.
    """
    planned: dict[str, Any] = field(default_factory=dict)
    allocated: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the three parts as one dict that JSON can hold."""
        return text.plain({"planned": self.planned, "allocated": self.allocated,
                           "measured": self.measured})

    def text(self) -> str:
        """Return the report for a terminal."""
        parts = [_planned_lines(self.planned), _allocated_lines(self.allocated),
                 _measured_lines(self.measured)]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)


class Stages:
    """Takes the memory of the process at named moments."""

    def __init__(self) -> None:
        self.taken: dict[str, smaps.Memory] = {}

    def take(self, label: str) -> None:
        """Measure now, under a label; where the platform does not tell, nothing is kept."""
        memory = smaps.process()
        if memory is not None:
            self.taken[label] = memory


def planned_report(model: Model) -> MemoryReport:
    """Return the report of a model file alone; needs no device."""
    return MemoryReport(planned=_planned(model))


def memory_report(session: Session, stages: Stages | None = None) -> MemoryReport:
    """Return the report of a session.

    Args:
        session: prepared, still open.
        stages: moments measured so far; without them the process is measured once, now.
    """
    if stages is None:
        stages = Stages()
        stages.take("now")
    # before anything else is asked of the driver: telling the size of a binary costs memory
    mapped = smaps.mapping(session.model.path) if Path(session.model.path).exists() else None
    allocated = _allocated(session)
    planned = _planned(session.model)
    return MemoryReport(planned, allocated, _measured(session, stages, mapped, planned))


def measure(path: str | os.PathLike, device: str | int | None = None,
            precision: str | int | None = None) -> MemoryReport:
    """Load a model, run it on random inputs, and measure the process on the way.

    Best called in a fresh process: what was loaded before belongs to no part of the report.

    Args:
        path, device, precision: as for edgerun.load().

    Raises:
        ModelError: the file is not a valid model.
        InputError: there is no such precision.
        DeviceError: there is no such device, or it cannot run the model.
    """
    loader.map_file(path)  # a missing file must not cost the start of a driver
    stages = Stages()
    fresh = "pyopencl" not in sys.modules
    if fresh:
        stages.take(START)
    opencl(str(device) if device is not None else os.environ.get("EDGERUN_DEVICE"))
    if fresh:
        stages.take(IMPORTED)
    opened = Device(device)
    stages.take(OPENED)
    model = loader.read(path)
    stages.take(READ)
    with Session(model, opened, precision=precision) as session:
        stages.take(PREPARED)
        inputs = arrays.random_inputs(session.inputs)
        outputs = session.run(inputs)
        stages.take(FIRST)
        for _ in range(STEADY_RUNS):
            outputs = session.run(inputs)  # kept, as a caller would
        stages.take(STEADY)
        report = memory_report(session, stages)
        del outputs
        return report


def together(sessions: Sequence[Session]) -> dict[str, Any]:
    """Return what open sessions asked of OpenCL together, each byte once.

    An arena that several share counts once, and so do weights that are used in place in one mapping
    of one file.

    Returns:
        "categories" (as in MemoryReport.allocated), "total_bytes", "arenas", "mapped_files".
    """
    categories: dict[str, int] = {}
    arenas, files, seen = set(), set(), set()
    for session in sessions:
        parts = list(session.buffers.bytes_by_category.items())
        if id(session.arena) not in arenas:
            arenas.add(id(session.arena))
            parts += _shared_arena(session).items()
        for category, size in parts:
            if session.buffers.rung.get(category) == IN_PLACE:
                files.add(id(session.model.data))
                if (id(session.model.data), category) in seen:
                    continue
                seen.add((id(session.model.data), category))
            categories[category] = categories.get(category, 0) + size
    return {"categories": categories, "total_bytes": sum(categories.values()),
            "arenas": len(arenas), "mapped_files": len(files)}


def _shared_arena(session: Session) -> dict[str, int]:
    """The account of an arena that is not in the session's own."""
    account = session.arena.buffers
    return {} if account is session.buffers else dict(account.bytes_by_category)


def _planned(model: Model) -> dict[str, Any]:
    seen: set[tuple[int, int]] = set()
    weights: dict[str, int] = {}
    constants: dict[str, int] = {}
    for op in model.ops:
        held = {index for plane in OPS[op.code].planes(op) for index in plane} or {1}
        for number, tensor in enumerate(op.inputs):
            if tensor is None or not tensor.constant or (tensor.segment, tensor.offset) in seen:
                continue
            seen.add((tensor.segment, tensor.offset))
            group = weights if number in held and OPS[op.code].macs(op) else constants
            group[tensor.dtype] = group.get(tensor.dtype, 0) + tensor.bytes
    used = sum(weights.values()) + sum(constants.values())
    plan = model.plan
    return {
        "file_bytes": model.file_bytes,
        "segments": {segment.dtype: len(segment.data) for segment in model.segments},
        "weights": weights, "constants": constants,
        "padding_bytes": sum(len(segment.data) for segment in model.segments) - used,
        "arena_bytes": plan.arena_bytes, "lower_bound_bytes": plan.lower_bound_bytes,
        "proven": plan.proven,
        "device_bytes": max(plan.arena_bytes, 1) + sum(len(s.data) for s in model.segments),
        "scratch_bytes": max((op.scratch_bytes for op in model.ops), default=0),
        "io_bytes": sum(int(info.dtype.itemsize) * int(np.prod(info.shape, dtype=object))
                        for info in (*model.inputs, *model.outputs)),
        "modes": modes.described(model), "peak": _peak(model), "mixtures": mixture.planned(model)}


def _peak(model: Model) -> dict[str, Any]:
    """What lives in the arena at the op where the lower bound is met."""
    step = model.plan.peak_op
    live = [model.tensors[index] for index, (first, last) in lifetimes(model).items()
            if first <= step <= last]
    tensors = [{"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype,
                "bytes": tensor.bytes} for tensor in live]
    op: Op | None = model.ops[step] if 0 <= step < len(model.ops) else None
    if op is not None and op.scratch_bytes:
        tensors.append({"name": "scratch", "shape": (op.scratch_bytes,), "dtype": "uint8",
                        "bytes": op.scratch_bytes})
    tensors.sort(key=lambda entry: -entry["bytes"])
    return {"op": step, "code": op.code if op else "", "name": op.name if op else "",
            "bytes": sum(entry["bytes"] for entry in tensors), "tensors": tensors}


def _allocated(session: Session) -> dict[str, Any]:
    device, buffers, shared = session.device, session.buffers, _shared_arena(session)
    categories = buffers.bytes_by_category | shared
    return {
        "device": device.info.name, "platform": device.info.platform,
        "categories": categories, "rungs": dict(buffers.rung),
        "total_bytes": sum(categories.values()), "arena_sessions": session.arena.sessions,
        "buffers": len(buffers.buffers) + len(shared), "kernels": session.route.kernels,
        "route": session.route.as_dict(), "precision": session.precision,
        "programs": {"count": len(device.programs), "built": device.programs.built,
                     "cached": device.programs.cached, "bytes": device.programs.binary_bytes()}}


def _measured(session: Session, stages: Stages, mapped: smaps.Memory | None,
              planned: dict[str, Any]) -> dict[str, Any]:
    taken = stages.taken
    if not taken:
        return {"notes": [NO_SMAPS]}
    measured: dict[str, Any] = {
        "stages": {label: memory.as_dict() for label, memory in taken.items()},
        "parts": {}, "model_file": mapped.as_dict() if mapped else {}, "explained": {}, "notes": []}
    gpu = smaps.gpu_bytes()
    if gpu is not None:
        measured["gpu_bytes"] = gpu
    if session.device.programs.built:
        measured["notes"].append(
            f"{session.device.programs.built} programs were compiled in this process, and the "
            "compiler's memory stays: measure again, with the binaries cached on disk")
    if OPENED not in taken:
        return measured
    last = list(taken.values())[-1]
    opened = taken[OPENED].pss_bytes
    parts = measured["parts"]
    if IMPORTED in taken:
        parts["python and libraries"] = taken[IMPORTED].pss_bytes
        parts["opencl driver"] = opened - taken[IMPORTED].pss_bytes
    else:
        parts["python, libraries, opencl driver"] = opened
        measured["notes"].append("pyopencl was imported before the measurement: Python and the "
                                 "driver cannot be told apart")
    parts["session"] = last.pss_bytes - opened
    measured["explained"] = _explain(session, taken, mapped, planned, measured["notes"])
    return measured


def _explain(session: Session, taken: dict[str, smaps.Memory], mapped: smaps.Memory | None,
             planned: dict[str, Any], notes: list[str]) -> dict[str, int]:
    """Divide the growth of the process since the driver was loaded; the last line is the rest."""
    stages = list(taken.values())
    explained = {"pages of the model file": mapped.pss_bytes if mapped else 0}
    if session.device.info.kind == "cpu":
        explained["arena"] = planned["arena_bytes"]
    else:
        notes.append(f"buffers belong to the {session.device.info.kind}: the system may not count "
                     "them as memory of this process")
    explained["input and output arrays"] = planned["io_bytes"]
    if READ in taken and PREPARED in taken:
        explained["model as Python objects"] = (
            taken[READ].anonymous_bytes - taken[OPENED].anonymous_bytes)
        explained["programs and kernels"] = (
            taken[PREPARED].anonymous_bytes - taken[READ].anonymous_bytes)
    growth = stages[-1].pss_bytes - taken[OPENED].pss_bytes
    explained["the rest (threads and libraries of the driver)"] = growth - sum(explained.values())
    if mapped and all(rung == IN_PLACE for rung in session.buffers.rung.values()):
        notes.append("weights are used in the mapped file: of its pages "
                     f"{text.size(mapped.anonymous_bytes)} were copied, and clean ones can be "
                     "dropped by the system at any time")
    return explained


def _planned_lines(planned: dict[str, Any]) -> list[str]:
    rows = [("model file", planned["file_bytes"])]
    for dtype, count in planned["segments"].items():
        rows.append((f"  constants of {dtype}", count))
    rows += [("    weights", sum(planned["weights"].values())),
             ("    biases and other constants", sum(planned["constants"].values())),
             ("    padding", planned["padding_bytes"])] if planned["segments"] else []
    arena, bound = planned["arena_bytes"], planned["lower_bound_bytes"]
    rows += [("arena", arena), ("  lower bound", bound),
             ("  largest scratch in it", planned["scratch_bytes"]),
             ("input and output arrays (the caller's)", planned["io_bytes"])]
    lines = ["planned (from the model file)", *_sizes(rows), *mixture.lines(planned["mixtures"])]
    if bound:
        lines.append(f"  the arena is {arena / bound:.3f} times its lower bound"
                     + (": no smaller one exists" if planned["proven"] else ""))
    lines += ["  " + line for line in modes.lines(planned["modes"])]
    peak = planned["peak"]
    if peak["tensors"]:
        where = (f"op {peak['op']} ({peak['code']} {text.clean(peak['name'], text.CUT)!r})"
                 if peak["code"] else "the boundary")
        lines.append(f"  peak at {where}: {text.size(peak['bytes'])} live")
        lines += ["    " + line for line in text.table(
            ("bytes", "tensor", "shape", "dtype"),
            [(t["bytes"], t["name"], text.shape(t["shape"]), t["dtype"]) for t in peak["tensors"]],
            left=(1, 2, 3))]
    return lines


def _sizes(rows: list[tuple[str, int]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name.ljust(width)}  {count:>13,} B  {text.size(count):>10}"
            for name, count in rows]


def _allocated_lines(allocated: dict[str, Any]) -> list[str]:
    if not allocated:
        return []
    programs = allocated["programs"]
    lines = [f"allocated (asked of OpenCL, on {allocated['device']}, {allocated['platform']})",
             *_sizes([*allocated["categories"].items(), ("total", allocated["total_bytes"])])]
    lines += [f"  {category}: {rung}" for category, rung in allocated["rungs"].items()]
    lines.append(f"  {allocated['buffers']} buffers, {allocated['kernels']} kernels, "
                 f"{programs['count']} programs ({programs['built']} built, {programs['cached']} "
                 f"cached, {text.size(programs['bytes'])} of binaries)")
    lines.append("  " + routes.described(allocated["route"]))
    if allocated["precision"] is not None:
        lines.append(f"  runs have the precision {allocated['precision']}")
    if allocated["arena_sessions"] > 1:
        lines.append(f"  the arena is shared by {allocated['arena_sessions']} sessions that take "
                     "turns: together they have it once")
    return lines


def _measured_lines(measured: dict[str, Any]) -> list[str]:
    if not measured:
        return []
    lines = ["measured (/proc/self/smaps)"]
    if measured.get("stages"):
        columns = ("pss_bytes", "private_dirty_bytes", "anonymous_bytes", "file_bytes")
        lines += ["  " + line for line in text.table(
            ("at", "PSS", "private dirty", "anonymous", "file-backed"),
            [(label, *(text.size(stage[column]) for column in columns))
             for label, stage in measured["stages"].items()], left=(0,))]
    if measured.get("parts"):
        lines += ["  PSS by part",
                  *("  " + line for line in _sizes(list(measured["parts"].items())))]
    if measured.get("explained"):
        lines += ["  the session's part",
                  *("  " + line for line in _sizes(list(measured["explained"].items())))]
    if "gpu_bytes" in measured:
        lines += _sizes([("held by the GPU driver for this process", measured["gpu_bytes"])])
    return lines + [f"  note: {note}" for note in measured.get("notes", ())]
