"""Mixture of experts at run time: which experts run for which sample, and which pages they touch.

The ops of an expert are a span of the graph's ops, and their launches a part of the session's (see
Session.parts). A run enqueues everything up to the route op, reads from it which experts are
chosen, once, and enqueues their parts: expert by expert, and for each sample that chose it. Which
sample an expert runs for is in a slot of the arena, which the queue fills in front of each part.

Where the launches are a chain, it does the same on the device, see edgerun/chain.py: the host reads
the choice only if the chain stops, at an expert whose weights were not read from disk yet.
"""
from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun import modes, pages, text
from edgerun.errors import DeviceError, ModelError
from edgerun.memory import SLACK
from edgerun.model import Mixture, Model, Op, Span, Tensor
from edgerun.ops import OPS
from edgerun.ops.mixture import CHOSEN, SLOT, SLOTS, WEIGHTS, Y
from edgerun.regions import region_of, shared

CODES = ("route", "blend")
KEPT = SLOT + 1  # inputs of a blend from here on: what the expert's ops read, for the next sample


def read(tables: list[dict[str, Any]]) -> tuple[Mixture, ...]:
    """Return the mixtures of a Graph table."""
    return tuple(Mixture(t["gates"], t["chosen"], t["slot"], t["route"],
                         tuple(Span(**span) for span in t["experts"])) for t in tables)


def check(model: Model) -> None:
    """Check that the spans are whole, in order, and touch nothing that others need.

    Raises:
        ModelError: names the mixture and what was needed.
    """
    inside: dict[int, tuple[int, int]] = {}  # op -> mixture, expert
    at = 0
    for number, mixture in enumerate(model.mixtures):
        at = _check_spans(model, number, mixture, at, inside)
    for op in model.ops:
        if op.code == "blend" and op.index not in inside:
            raise ModelError(f"op {op.index} ({op}): belongs to no mixture")
    if inside:
        _check_apart(model, inside)


def _check_spans(model: Model, number: int, mixture: Mixture, at: int,
                 inside: dict[int, tuple[int, int]]) -> int:
    """Check one mixture, whose route is op `at` or later; returns the op behind it."""
    where, ops = f"mixture {number}", model.ops

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise ModelError(f"{where}: {message}")

    need(at <= mixture.route < len(ops), f"is routed by op {mixture.route}, needed {at} to "
                                         f"{len(ops) - 1}, behind the mixture before it")
    route = ops[mixture.route]
    need(route.code == "route", f"is routed by {route}, needed a route")
    gates, batch = route.inputs[0], route.inputs[0].shape[0]
    slots = route.outputs[SLOTS].index if batch > 1 else -1
    for what, given, right in (("gates", mixture.gates, gates.index),
                               ("chosen experts", mixture.chosen, route.outputs[CHOSEN].index),
                               ("slots", mixture.slot, slots)):
        need(given == right, f"has the {what} in tensor {given}, its route in {right}")
    need(len(mixture.experts) == gates.shape[1],
         f"has {len(mixture.experts)} experts, its gates {gates.name!r} are of {gates.shape[1]}")
    before, end = route.outputs[Y], mixture.route + 1
    for expert, span in enumerate(mixture.experts):
        who = f"expert {expert}"
        need(span.first == end, f"{who} starts at op {span.first}, needed {end}, behind the one "
                                "before it")
        need(1 <= span.ops <= len(ops) - span.first,
             f"{who} has {span.ops} ops, needed 1 to {len(ops) - span.first}")
        end = span.first + span.ops
        inside.update(dict.fromkeys(range(span.first, end), (number, expert)))
        *others, blend = ops[span.first:end]
        need(blend.code == "blend" and blend.options["expert"] == expert,
             f"{who} ends with {blend}, needed the blend of expert {expert}")
        need(all(op.code not in CODES for op in others),
             f"{who} has a route or a blend before its end")
        need(blend.inputs[0] is before and blend.inputs[2] is route.outputs[WEIGHTS],
             f"{who} does not add to {before.name!r} with the weights of its route")
        y = blend.outputs[0]
        need(model.root_of(y) is model.root_of(before) and region_of(y) == region_of(before),
             f"{who} writes {y.name!r} elsewhere than in place of {before.name!r}")
        if batch > 1:
            _check_slot(model, f"{where}: {who}", route.outputs[SLOTS], expert, others, blend)
        before = y
    return end


def _check_slot(model: Model, where: str, slots: Tensor, expert: int, others: list[Op],
                blend: Op) -> None:
    """An expert that runs sample by sample finds its slot, and all it reads as it was."""
    slot = blend.inputs[SLOT]
    if model.root_of(slot) is not model.root_of(slots) or (
            slot.offset != slots.offset + slot.bytes * expert):
        raise ModelError(f"{where} has its slot in {slot.name!r}, needed element {expert} of "
                         f"{slots.name!r}")
    written = {t.index for op in (*others, blend) for t in op.outputs}
    kept = {t.index for t in blend.inputs if t is not None}
    for op in others:
        for t in op.inputs:
            if t is not None and not t.constant and t.index not in written | kept:
                raise ModelError(f"{where} reads {t.name!r}, which its blend does not keep for the "
                                 "next sample")


def _check_apart(model: Model, inside: dict[int, tuple[int, int]]) -> None:
    """What an expert writes, but for the sum, is written and read by itself only."""
    users: dict[int, set[tuple[int, int] | None]] = {}
    # of each mixture; all its blends write the same bytes
    sums = [model.ops[m.route].outputs[Y] for m in model.mixtures]

    def use(tensor: Tensor, who: tuple[int, int] | None) -> None:
        users.setdefault(model.root_of(tensor).index, set()).add(who)

    def meet(a: Tensor, b: Tensor) -> bool:
        return (not a.constant and model.root_of(a) is model.root_of(b)
                and shared(region_of(a), region_of(b)) != 0)

    for op in model.ops:
        who = inside.get(op.index)
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None and not tensor.constant:
                use(tensor, who)
        # only ops of experts run before every expert has added to it
        if who is not None and op.code != "blend" and any(
                t is not None and meet(t, sums[who[0]]) for t in op.inputs):
            raise ModelError(f"op {op.index} ({op}): expert {who[1]} reads the sum of the experts")
    for info in (*model.inputs, *model.outputs):
        for index in info.tensors:
            if not model.tensors[index].constant:
                use(model.tensors[index], None)
    for op in model.ops:
        who = inside.get(op.index)
        for tensor in op.outputs if who is not None and op.code != "blend" else ():
            if users[model.root_of(tensor).index] != {who}:
                raise ModelError(f"op {op.index} ({op}): expert {who[1]} of mixture {who[0]} "
                                 f"writes {tensor.name!r}, whose bytes others use")
    for info in model.inputs:
        for piece in info.pieces:
            if piece.op in inside:
                raise ModelError(f"input {info.name!r}: a piece arrives before op {piece.op}, "
                                 "between the ops of experts")


def stops(model: Model) -> set[int]:
    """Return the ops at which a part of the launches starts: each expert, and what follows."""
    found = {span.first for mixture in model.mixtures for span in mixture.experts}
    return found | {span.first + span.ops for mixture in model.mixtures
                    for span in mixture.experts[-1:] if span.first + span.ops < len(model.ops)}


def order(model: Model) -> Iterator[tuple[Op, tuple[Mixture, int, int] | None]]:
    """Yield every op as often as it runs if every expert runs for every sample.

    Yields:
        The op; at the first one of an expert that has a slot: the mixture, the expert, the sample.
    """
    starts = {span.first: (mixture, expert, span) for mixture in model.mixtures
              for expert, span in enumerate(mixture.experts) if mixture.slot >= 0}
    at = 0
    while at < len(model.ops):
        if at not in starts:
            yield model.ops[at], None
            at += 1
            continue
        mixture, expert, span = starts[at]
        for sample in range(model.tensors[mixture.gates].shape[0]):
            for op in model.ops[span.first:span.first + span.ops]:
                yield op, (mixture, expert, sample) if op.index == span.first else None
        at = span.first + span.ops


@dataclass(frozen=True)
class Choosing:
    """A mixture among the launches of a session.

    Attributes:
        route: number of the launch that writes `chosen`.
        chosen: int32 [batch, k].
        slots: int32 [experts], None for one sample.
        experts: numbers of the launches of each.
    """
    route: int
    chosen: Tensor
    slots: Tensor | None
    experts: list[range]

    @property
    def batch(self) -> int:
        """How many samples."""
        return self.chosen.shape[0]

    @property
    def k(self) -> int:
        """How many experts a sample takes."""
        return self.chosen.shape[1]


def choosing(model: Model, ops: Sequence[int]) -> list[Choosing]:
    """Return the mixtures of a model.

    Args:
        ops: of each launch, in order, the index of its op.
    """
    def at(op: int) -> int:
        return bisect.bisect_left(ops, op)
    tensors = model.tensors
    return [Choosing(at(m.route), tensors[m.chosen], tensors[m.slot] if m.slot >= 0 else None,
                     [range(at(span.first), at(span.first + span.ops)) for span in m.experts])
            for m in model.mixtures]


def point(session, mixture: Mixture, expert: int, sample: int, queue=None) -> None:
    """Enqueue that an expert runs for a sample.

    Raises:
        DeviceError: the device refuses it.
    """
    device, slots = session.device, session.model.tensors[mixture.slot]
    try:
        device.cl.enqueue_fill_buffer(
            queue or device.queue, session.memory_objects[0], np.int32(sample),
            slots.offset + 4 * expert, 4)
    except device.cl.Error as error:
        raise DeviceError(f"{session.model.path}: {device.info.name} refuses to choose a sample: "
                          f"{error}") from None


class Experts:
    """Which parts of a session's launches a run enqueues.

    Attributes:
        every: run every expert for every sample, those of weight 0 too: the result has the same
            bits. For measurements.
        kept: of each mixture where the device keeps what the last run has chosen, int32 [batch, k];
            None if the host chooses the parts.
    """

    def __init__(self, model: Model, starts: list[int], in_place: bool):
        """Find the parts.

        Args:
            model: of the session.
            starts: the op at which each part of the launches starts.
            in_place: the device works on the mapped file.
        """
        self.every = False
        self._mixtures = model.mixtures
        self._chosen: list[np.ndarray | None] = [None] * len(model.mixtures)
        self.kept: list[np.ndarray] | None = None
        whose = {span.first: (number, expert) for number, mixture in enumerate(model.mixtures)
                 for expert, span in enumerate(mixture.experts)}
        self._parts = [whose.get(start) for start in starts]
        self._cold = runs(model) if in_place and model.mixtures else {}
        if self._cold:  # pages are read when they are touched, what every run needs at once
            pages.only_what_is_touched(model.data)
            pages.ahead(model.data, _others(model, self._cold))
            planes = [range(s.file_offset, s.file_offset + len(s.data)) for s in model.segments
                      if s.dtype == "bits"]
            self._cold = {who: [run for run in held if all(run[0] not in part for part in planes)]
                          for who, held in self._cold.items()}

    def walk(self, session, all_once: bool = False
             ) -> Iterator[tuple[int, tuple[Mixture, int, int] | None]]:
        """Yield the parts to enqueue, each before the next one is asked for.

        Where the device chooses, what it has left, at a cold expert, is enqueued in between.

        Args:
            session: theirs.
            all_once: every part once, as for a profile.

        Yields:
            Number of the part; mixture, expert, sample for point() if it needs that first.
        """
        for number, whose in enumerate(self._parts):
            if whose is None:
                yield number, None
                if self.kept is not None and not all_once:
                    self._go_on(session)
                continue
            which, expert = whose
            mixture = self._mixtures[which]
            for sample in self._samples(session, which, expert, all_once):
                yield number, (mixture, expert, sample) if mixture.slot >= 0 else None

    def _samples(self, session, which: int, expert: int, all_once: bool) -> list[int]:
        if all_once:
            return [0]
        if self.every:
            return list(range(session.model.tensors[self._mixtures[which].gates].shape[0]))
        if expert == 0:
            tensor = session.model.tensors[self._mixtures[which].chosen]
            with session.access(tensor, session.device.cl.map_flags.READ) as found:
                self._chosen[which] = np.array(found)
            self._warm(session, which, self._chosen[which])
        return np.flatnonzero((self._chosen[which] == expert).any(axis=1)).tolist()

    @property
    def chosen(self) -> list[np.ndarray | None]:
        """Of each mixture what the last run has chosen: int32 [batch, k], or None."""
        if self.kept is None:
            return list(self._chosen)
        return [None if found.min() < 0 else np.array(found) for found in self.kept]

    @property
    def cold(self) -> Iterable[tuple[int, int]]:
        """(mixture, expert) of those whose weights the system was not asked to read yet."""
        return self._cold.keys()

    def _go_on(self, session) -> None:
        """Enqueue what a part has left as long as it stops at cold experts. Waits for it; no run
        does any more once all experts were chosen."""
        while self._cold and not self.every:
            session.finish()
            which = session.route.stopped()
            if which < 0:
                break
            self._warm(session, which, self.kept[which])
            session.arena.launched(session.device.queue)
            session.route.go_on(which, np.unique(self.kept[which]).tolist())

    def _warm(self, session, which: int, chosen: np.ndarray) -> None:
        """Let the system read the weights of experts that are chosen for the first time: of planes
        those that count now. What counts later is read when it is touched."""
        model = session.model
        for expert in np.unique(chosen).tolist() if self._cold else ():
            held = self._cold.pop((which, expert), None)
            if held is not None:
                span = self._mixtures[which].experts[expert]
                pages.ahead(model.data, [*held, *modes.spans(model, [
                    t for op in model.ops[span.first:span.first + span.ops]
                    for t in session.counted(op).inputs
                    if t is not None and t.constant and t.dtype == "bits"])])


def runs(model: Model) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the weights that only one expert reads.

    Returns:
        (mixture, expert) -> (first byte in the file, byte behind the last), one for each segment;
        of bits one for each plane, between which those of others lie.
    """
    whose = {index: (number, expert) for number, mixture in enumerate(model.mixtures)
             for expert, span in enumerate(mixture.experts)
             for index in range(span.first, span.first + span.ops)}
    readers: dict[tuple[int, int], set[tuple[int, int] | None]] = {}
    ends: dict[tuple[int, int], int] = {}
    for op in model.ops:
        for tensor in op.inputs:
            if tensor is not None and tensor.constant:
                at = tensor.segment, tensor.offset
                readers.setdefault(at, set()).add(whose.get(op.index))
                ends[at] = max(ends.get(at, 0), tensor.offset + tensor.bytes)
    found: dict[tuple[int, int], dict[tuple[int, int], tuple[int, int]]] = {
        who: {} for who in dict.fromkeys(whose.values())}
    for (segment, start), who in readers.items():
        if len(who) == 1 and None not in who:
            held = found[next(iter(who))]
            run = segment, start if model.segments[segment].dtype == "bits" else -1
            low, high = held.get(run, (start, start))
            held[run] = min(low, start), max(high, ends[segment, start])
    at = [segment.file_offset for segment in model.segments]
    return {who: [(at[number] + low, at[number] + high) for (number, _), (low, high)
                  in sorted(held.items())] for who, held in found.items()}


def _others(model: Model, found: dict[tuple[int, int], list[tuple[int, int]]]
            ) -> list[tuple[int, int]]:
    """Return the bytes of the file between those that runs() has found, of all segments."""
    left = []
    for segment in model.segments:
        if segment.dtype == "bits":
            continue  # which of them are needed depends on the precision: see edgerun/modes.py
        at, stop = segment.file_offset, segment.file_offset + len(segment.data)
        for start, end in sorted(run for held in found.values() for run in held
                                 if at <= run[0] < stop):
            left.append((at, start))
            at = end
        left.append((at, stop))
    # of pages that an expert shares with nothing but the padding behind it, nothing is needed
    most = pages.PAGE + SLACK
    return [(start, end) for start, end in left if end - start > most or not found]


def macs(model: Model) -> int:
    """Return the multiply-accumulates of a run, of the experts as many as are chosen."""
    total = sum(OPS[op.code].macs(op) for op in model.ops)
    for mixture in model.mixtures:
        inside = sum(OPS[op.code].macs(op) for span in mixture.experts
                     for op in model.ops[span.first:span.first + span.ops])
        batch, k = model.tensors[mixture.chosen].shape
        total += inside * batch * k // len(mixture.experts) - inside
    return total


def planned(model: Model) -> list[dict[str, Any]]:
    """Return per mixture: how many experts, how many a sample takes, bytes of weights of each."""
    sizes = {who: sum(end - start for start, end in held) for who, held in runs(model).items()}
    return [{"experts": len(mixture.experts), "chosen": model.tensors[mixture.chosen].shape[1],
             "weight_bytes": [sizes[number, expert] for expert in range(len(mixture.experts))]}
            for number, mixture in enumerate(model.mixtures)]


def lines(mixtures: list[dict[str, Any]]) -> list[str]:
    """Return what planned() found, a line per mixture."""
    return [f"  {found['chosen']} of {found['experts']} experts run for a sample: they touch at "
            f"most {text.size(sum(sorted(found['weight_bytes'])[-found['chosen']:]))} of the "
            f"{text.size(sum(found['weight_bytes']))} of their weights" for found in mixtures]
