"""Precisions of one file: how many planes of its weights count, chosen between any two runs.

A file with planes has a tensor Model.used, int32 [n] in the arena. Ops with planes have one element
of it as an input, and read that many planes. A mode is a list of n numbers, which the session
copies there before each run: to switch needs no other file, launch or memory.
Planes lie in the file in the order in which they come to count (Segment.parts), so a mode reads a
prefix of them. Pages behind that stay on disk.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerun import dtypes, pages, text
from edgerun.errors import InputError, ModelError
from edgerun.model import MAX_NAME, Model, Op, Tensor
from edgerun.ops import OPS

if TYPE_CHECKING:
    from edgerun.session import Session

MAX_MODES = 256
MAX_PLANES = 16  # inputs of an op for planes of its weights
LEVELS = 1  # input of an op with planes: a row for each number of them that may count
MIXED = "mixed"  # the precision of a session whose ops count planes as no mode and no number says


def planes_of(op: Op) -> tuple[tuple[Tensor, ...], ...]:
    """Return for the first, second, ... plane of an op the constants that hold it."""
    return tuple(tuple(op.inputs[index] for index in held) for held in OPS[op.code].planes(op))


def counts_of(op: Op) -> tuple[int, ...]:
    """Return how many planes of an op may count, ascending: those that its levels have rows for."""
    most = len(planes_of(op))
    given = tuple(op.options.get("counts") or ())
    return given or tuple(range(most + 1 - op.inputs[LEVELS].shape[0], most + 1))


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
    users = readers(model)
    for number, ops in enumerate(users):
        if not ops:
            raise ModelError(f"the number of planes {number} of {model.used.name[:200]!r}: no op "
                             "reads it")
    if users and not model.modes:
        raise ModelError("the graph: has no mode, needed at least one that says how many planes "
                         "count")
    if len(model.modes) > MAX_MODES:
        raise ModelError(f"the graph: has {len(model.modes)} modes, at most {MAX_MODES} are "
                         "allowed")
    names: set[str] = set()
    may = [frozenset.intersection(*(frozenset(counts_of(op)) for op in ops)) for ops in users]
    for mode in model.modes:
        where = f"mode {mode.name[:200]!r}"
        if not mode.name or len(mode.name) > MAX_NAME or mode.name.isdecimal():
            raise ModelError(f"{where}: needed a name of 1 to {MAX_NAME} characters that is no "
                             "number")
        if mode.name == MIXED:
            raise ModelError(f"{where}: needed another name: sessions say this one where ops "
                             "count planes as no mode does")
        if mode.name in names:
            raise ModelError(f"{where}: is given twice")
        names.add(mode.name)
        if len(mode.planes) != len(users):
            raise ModelError(f"{where}: says how many planes count for {len(mode.planes)} ops, "
                             f"needed {len(users)}")
        for planes, ops, counts in zip(mode.planes, users, may):
            if planes not in counts:
                op = next(op for op in ops if planes not in counts_of(op))
                raise ModelError(f"{where}: uses {planes} planes of {op}, needed one of "
                                 f"{counts_of(op)}")


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


def counting(model: Model, counts: Sequence[int], op: Op) -> int | None:
    """Return how many planes of an op count; None if that is not for the session to say.

    Args:
        counts: per element of Model.used.
    """
    number = element(model, op)
    return None if number is None else int(counts[number])


def constants(model: Model, counts: Sequence[int], ops: Iterable[Op] | None = None
              ) -> dict[tuple[int, int], Tensor]:
    """Return what ops read of the constants: (segment, offset) -> one constant that lies there.

    Args:
        counts: per element of Model.used; [] for all planes.
        ops: of the model; None for all.
    """
    found: dict[tuple[int, int], Tensor] = {}
    for op in model.ops if ops is None else ops:
        count = counting(model, counts, op) if len(counts) else None
        left = {index for held in OPS[op.code].planes(op)[count:] for index in held
                } if count is not None else ()
        for index, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.constant and index not in left:
                found.setdefault((tensor.segment, tensor.offset), tensor)
    return found


def spans(model: Model, found: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return the first byte in the file of each of some constants, and the one behind the last."""
    starts = [model.segments[t.segment].file_offset + t.offset for t in found]
    return [(start, start + t.bytes) for start, t in zip(starts, found)]


def counted(model: Model, counts: Sequence[int], op: Op) -> Op:
    """Return an op without the inputs that do not count; `counts` as for constants()."""
    left = set(constants(model, (), [op])) - set(constants(model, counts, [op]))
    return replace(op, inputs=tuple(
        None if t is not None and t.constant and (t.segment, t.offset) in left else t
        for t in op.inputs)) if left else op


def described(model: Model) -> list[dict[str, Any]]:
    """Return for each mode its "name", "planes" (name of an op -> how many count), and the bytes of
    constants that a run reads: "plane_bytes" of them planes, "constant_bytes" all."""
    ops = [(op, number) for op in model.ops if (number := element(model, op)) is not None]
    planes = {(t.segment, t.offset) for op, _ in ops for held in planes_of(op) for t in held}
    found = []
    for mode in model.modes:
        read = constants(model, mode.planes)
        found.append({
            "name": mode.name, "planes": {op.name: mode.planes[number] for op, number in ops},
            "plane_bytes": sum(t.bytes for place, t in read.items() if place in planes),
            "constant_bytes": sum(t.bytes for t in read.values())})
    return found


def lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return what described() found as a table for a terminal."""
    return text.table(("mode", "planes", "bytes of planes", "of all constants"), [
        (entry["name"] + (" (default)" if entry is found[-1] else ""),
         _few(list(entry["planes"].values())), f"{entry['plane_bytes']:,}",
         f"{entry['constant_bytes']:,}") for entry in found], left=(0,)) if found else []


def _few(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def parsed(value: str | None) -> str | int | None:
    """Return a precision as it was typed: the name of a mode, or a number of bits."""
    return int(value) if value is not None and value.isdecimal() else value


class Precision:
    """How many planes count in the runs of a session.

    Attributes:
        counts: int32, per element of Model.used.
    """

    def __init__(self, session: Session, precision: str | int | None):
        self._model = model = session.model
        self.counts = np.array(model.modes[-1].planes if model.modes else (), np.int32)
        self._memory = None if model.used is None else session.in_reach(model.used)
        self._ops = [(op, number) for op in model.ops
                     if (number := element(model, op)) is not None]
        self._in_place = session.buffers.in_place
        self._most = np.array([min(len(planes_of(op)) for op in ops)
                               for ops in readers(model)], np.int32)
        self._may = [(op, number, frozenset(counts_of(op))) for op, number in self._ops]
        # the counts whose planes the system was told to read; None: pages are read as usual
        self._read: np.ndarray | None = None
        if precision is None:
            self._advise()
        else:
            self.set(precision)

    def set(self, precision: str | int, ops: Iterable[str] | str | None = None) -> None:
        """As Session.set_precision()."""
        wanted = self._wanted(precision)
        numbers = range(len(self.counts)) if ops is None else self._numbers(ops)
        for op, number, may in self._may:
            if number in numbers and int(wanted[number]) not in may:
                raise InputError(f"{self._model.path}: a precision of {wanted[number]} bits: of "
                                 f"the planes of {op} one of {counts_of(op)} may count")
        self.counts[numbers] = wanted[numbers]
        self._advise()

    def _wanted(self, precision: str | int) -> np.ndarray:
        model = self._model
        if model.used is None:
            raise InputError(f"{model.path}: has no planes of weights: it runs in the one "
                             "precision that it was packed in")
        if isinstance(precision, str):
            for mode in model.modes:
                if mode.name == precision:
                    return np.array(mode.planes, np.int32)
            raise InputError(f"{model.path}: has no mode {precision!r}: needed one of "
                             f"{', '.join(repr(mode.name) for mode in model.modes)}, or a number "
                             "of bits")
        if isinstance(precision, bool) or not hasattr(precision, "__index__"):
            raise InputError(f"a precision of {precision!r}: needed the name of a mode or a whole "
                             "number of bits")
        bits, most = precision.__index__(), int(self._most.max())
        if not 0 <= bits <= most:
            raise InputError(f"{model.path}: a precision of {bits} bits: its weights have {most} "
                             f"planes at most, needed 0 to {most}")
        return np.minimum(self._most, bits)

    def _numbers(self, ops: Iterable[str] | str) -> list[int]:
        names = [ops] if isinstance(ops, str) else list(ops)
        known = {op.name for op, _ in self._ops}
        for name in names:
            if name not in known:
                raise InputError(f"{self._model.path}: has no op {name!r} with planes of weights: "
                                 f"needed some of {', '.join(sorted(map(repr, known)))}")
        return sorted({number for op, number in self._ops if op.name in names})

    @property
    def name(self) -> str | int | None:
        """The mode that is in effect, else the number of bits, else MIXED; None without planes."""
        if self._model.used is None:
            return None
        for mode in reversed(self._model.modes):
            if mode.planes == tuple(self.counts):
                return mode.name
        bits = int(self.counts.max())
        return bits if np.array_equal(self.counts, np.minimum(self._most, bits)) else MIXED

    @property
    def planes(self) -> dict[str, int]:
        """Name of an op -> how many planes of its weights count."""
        return {op.name: int(self.counts[number]) for op, number in self._ops}

    def put(self, session: Session) -> None:
        """Write the numbers into the arena, where the kernels read them."""
        if self._memory is not None:
            self._memory[...] = self.counts
        elif self._model.used is not None:
            with session.access(self._model.used, session.device.cl.map_flags.
                                WRITE_INVALIDATE_REGION) as mapped:
                mapped[...] = self.counts

    def _advise(self) -> None:
        """Have the planes that count read from disk, and no pages around them."""
        model = self._model
        if not self._in_place:
            return  # the device has a copy
        # beside a mixture no page is read before it is touched: see edgerun/mixture.py
        mixed = model.mixtures and any(segment.dtype == "bits" for segment in model.segments)
        if self._read is None and np.array_equal(self.counts, self._most) and not mixed:
            return  # everything counts, as without planes
        if self._read is not None and (self.counts <= self._read).all():
            return
        experts = {index for mixture in model.mixtures for span in mixture.experts
                   for index in range(span.first, span.first + span.ops)}
        ops = [op for op in model.ops if op.index not in experts]  # theirs are read when chosen
        if self._read is None:
            pages.only_what_is_touched(model.data)
            before: dict[tuple[int, int], Tensor] = {}
            self._read = self.counts.copy()
        else:
            before = constants(model, self._read, ops)
            self._read = np.maximum(self._read, self.counts)
        pages.ahead(model.data, spans(model, [
            t for place, t in constants(model, self._read, ops).items() if place not in before]))
