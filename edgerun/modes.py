"""Precisions of one file: how many planes of its weights count, chosen between any two runs.

A file with planes has a tensor Model.used, int32 [n] in the arena. Ops with planes have one element
of it as an input, and read that many planes. A mode is a list of n numbers, which the session
copies there before each run: to switch costs nothing, and needs no other file, launch or memory.
Planes lie in the file in the order in which they come to count (Segment.parts), so a mode reads a
prefix of them. Pages behind that stay on disk.
"""
from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edgerun import dtypes
from edgerun.errors import InputError, ModelError
from edgerun.model import MAX_NAME, PAGE, Model, Op, Tensor
from edgerun.ops import OPS

if TYPE_CHECKING:
    from edgerun.session import Session

MAX_MODES = 256
MAX_PLANES = 16  # inputs of an op for planes of its weights
MIXED = "mixed"  # the precision of a session whose ops count planes as no mode and no number says


def planes_of(op: Op) -> tuple[tuple[Tensor, ...], ...]:
    """Return for the first, second, ... plane of an op the constants that hold it."""
    return tuple(tuple(op.inputs[index] for index in held) for held in OPS[op.code].planes(op))


def readers(model: Model) -> list[list[Op]]:
    """Return for each element of Model.used the ops that read it."""
    found: list[list[Op]] = [[] for _ in range(_count(model))]
    for op in model.ops:
        number = element(model, op)
        if number is not None:
            found[number].append(op)
    return found


def _count(model: Model) -> int:
    return 0 if model.used is None else model.used.elements


def element(model: Model, op: Op) -> int | None:
    """Return which element of Model.used says how many planes of an op count; None: none does."""
    at = OPS[op.code].used
    x = op.inputs[at] if 0 <= at < len(op.inputs) else None
    if x is None or x.constant or model.used is None or model.root_of(x) is not model.used:
        return None
    return (x.offset - model.used.offset) // dtypes.size("int32")


def check_used(model: Model) -> None:
    """Check the tensor that the session writes before each run.

    Raises:
        ModelError: what it is, and what was needed.
    """
    used = model.used
    if used is None:
        if model.modes:
            raise ModelError(f"the graph: has {len(model.modes)} modes, and no tensor that says "
                             "how many planes count")
        return
    where = f"tensor {used.index} ({used.name[:200]!r}), the number of planes"
    if used.constant or used.alias_of != -1:
        raise ModelError(f"{where}: is a constant or an alias, needed bytes of its own in the "
                         "arena")
    if used.dtype != "int32" or len(used.shape) != 1:
        raise ModelError(f"{where}: is {used.dtype} of the shape {used.shape}, needed int32 of one "
                         "dimension")


def check(model: Model) -> None:
    """Check modes, and where planes lie, in a model whose ops fit.

    Raises:
        ModelError: names the mode or op, what it is, and what was needed.
    """
    for op in model.ops:
        _check_planes(model, op)
    counts = [min((len(planes_of(op)) for op in ops), default=-1) for ops in readers(model)]
    for number, most in enumerate(counts):
        if most < 0:
            raise ModelError(f"the number of planes {number} of {model.used.name[:200]!r}: no op "
                             "reads it")
    if counts and not model.modes:
        raise ModelError("the graph: has no mode, needed at least one that says how many planes "
                         "count")
    if len(model.modes) > MAX_MODES:
        raise ModelError(f"the graph: has {len(model.modes)} modes, at most {MAX_MODES} are "
                         "allowed")
    names: set[str] = set()
    for mode in model.modes:
        where = f"mode {mode.name[:200]!r}"
        if not mode.name or len(mode.name) > MAX_NAME or mode.name.isdigit():
            raise ModelError(f"{where}: needed a name of 1 to {MAX_NAME} characters that is no "
                             "number")
        if mode.name in names:
            raise ModelError(f"{where}: is given twice")
        names.add(mode.name)
        if len(mode.planes) != len(counts):
            raise ModelError(f"{where}: says how many planes count for {len(mode.planes)} ops, "
                             f"needed {len(counts)}")
        for number, (planes, most) in enumerate(zip(mode.planes, counts)):
            if planes > most:
                op = min(readers(model)[number], key=lambda op: len(planes_of(op)))
                raise ModelError(f"{where}: uses {planes} planes of {op}, which has {most}")


def _check_planes(model: Model, op: Op) -> None:
    """What n planes need lies in the first n parts: a lower precision reads a prefix."""
    planes = planes_of(op)
    where = f"op {op.index} ({op.code} {op.name[:200]!r})"
    if len(planes) > MAX_PLANES:
        raise ModelError(f"{where}: has {len(planes)} planes, at most {MAX_PLANES} are allowed")
    for number, held in enumerate(planes):
        for tensor in held:
            if not tensor.constant:
                raise ModelError(f"{where}: plane {number}, {tensor.name[:200]!r}, is no constant")
            found = part_of(model, tensor)
            if found > number:
                raise ModelError(f"{where}: plane {number}, {tensor.name[:200]!r}, ends in part "
                                 f"{found} of its segment, needed one of the first {number + 1}")


def part_of(model: Model, tensor: Tensor) -> int:
    """Return the number of the part of its segment in which a constant ends."""
    ends = np.cumsum([part.bytes for part in model.segments[tensor.segment].parts])
    return int(np.searchsorted(ends, tensor.offset + tensor.bytes - 1, "right"))


def check_parts(model: Model, index: int) -> None:
    """Check the parts of a segment, which follow each other and fill it.

    Raises:
        ModelError: names the segment and part, what it is, and what was needed.
    """
    segment = model.segments[index]
    where = f"segment {index} ({segment.dtype})"
    if (segment.dtype == "bits") != bool(segment.parts):
        raise ModelError(f"{where}: has {len(segment.parts)} parts, needed "
                         + ("at least one" if segment.dtype == "bits" else "none: it has no bits"))
    if len(segment.parts) > MAX_PLANES:
        raise ModelError(f"{where}: has {len(segment.parts)} parts, at most {MAX_PLANES} are "
                         "allowed")
    for number, part in enumerate(segment.parts):
        if part.bytes == 0 or part.bytes % model.plan.alignment:
            raise ModelError(f"{where}: part {number} has {part.bytes} bytes, needed a multiple of "
                             f"{model.plan.alignment}")
    total = sum(part.bytes for part in segment.parts)
    if segment.parts and total != len(segment.data):
        raise ModelError(f"{where}: has parts of {total} bytes together, needed its "
                         f"{len(segment.data)}")
