"""Choose which ops run strip by strip: the smallest arena for little extra work.

What a stage needs is what lies in the arena while it runs: what was there before and is needed
later, its results, and the most that one strip has at once. That is computed for every run of
neighbouring ops and several numbers of strips; a path through the ops then combines those stages
that bring all of them below a number of bytes with the least extra work.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.patch.rewrite import Stage, demands, own_rows, results, streamable
from edgerun.tools.patch.rows import Span, can_cut, height
from edgerun.tools.plan import aligned

MOST_EXTRA = 0.25  # multiply-adds, of all those of the network
STRIPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56)
LONGEST = 12  # ops of a stage
MOST_RESULTS = 2
LEAST_PART = 16  # stages that begin to pay below this part of the peak are not looked at
APART = 1.01  # sizes that are tried, from one to the next
LAUNCH_MACS = 100_000  # multiply-adds that take as long as one more launch, about


@dataclass(frozen=True)
class Cost:
    """What a stage, or several, cost.

    Attributes:
        live_bytes: most that lies in the arena at once, as far as can be told without planning.
        extra_macs: multiply-adds of the rows that several strips compute.
        extra_ops: how many more ops the graph has.
    """
    live_bytes: int
    extra_macs: int
    extra_ops: int

    @property
    def work(self) -> int:
        """The extra work, in multiply-adds."""
        return self.extra_macs + LAUNCH_MACS * self.extra_ops


@dataclass(frozen=True)
class Candidate(Cost):
    """A stage with what it costs; its bytes are those while it runs."""
    stage: Stage


@dataclass(frozen=True)
class Choice(Cost):
    """Stages that go together, in the order of the ops; without any, the graph as it is."""
    stages: tuple[Stage, ...]


class Outline:
    """What lies in the arena at every op of a graph, and what would with stages.

    Args:
        graph: lowered, reshapes still ops; not changed.
        size_of: bytes of a tensor as it will be stored.
    """

    def __init__(self, graph: Graph, size_of: Callable[[Tensor], int] = lambda t: t.bytes):
        self.graph, self.size_of = graph, size_of
        self.macs = [OPS[op.code].macs(op) for op in graph.ops]
        self._roots: dict[Tensor, Tensor] = {}
        for op in graph.ops:
            if op.code == "reshape":
                self._roots[op.outputs[0]] = self._root(op.inputs[0])
        self._spans: dict[Tensor, tuple[int, int]] = {}
        for boundary in graph.inputs:
            self._use(boundary.tensor, -1)
        for number, op in enumerate(graph.ops):
            for tensor in (*op.inputs, *op.outputs):
                if tensor is not None:
                    self._use(tensor, number)
        for boundary in graph.outputs:
            self._use(boundary.tensor, len(graph.ops))
        self.live = [sum(aligned(size_of(t)) for t, (first, last) in self._spans.items()
                         if first <= number <= last) for number in range(len(graph.ops))]

    def _root(self, tensor: Tensor) -> Tensor:
        return self._roots.get(tensor, tensor)

    def _use(self, tensor: Tensor, number: int) -> None:
        root = self._root(tensor)
        if not root.constant:
            first, last = self._spans.get(root, (number, number))
            self._spans[root] = min(first, number), max(last, number)

    @cached_property
    def total_macs(self) -> int:
        """Multiply-adds of the network."""
        return sum(self.macs)

    def candidates(self, most_extra: float = MOST_EXTRA,
                   strips: tuple[int, ...] = STRIPS) -> list[Candidate]:
        """Return the stages that could lower the peak.

        Args:
            most_extra: part of the multiply-adds of the network that a stage may add.
            strips: numbers to try.
        """
        able = [can_cut(op) for op in self.graph.ops]
        floor = max([live for live, cut in zip(self.live, able) if not cut],
                    default=0)
        floor = max(floor, max(self.live, default=0) // LEAST_PART)
        found = []
        for first in range(len(able)):
            for last in range(first, min(first + LONGEST, len(able))):
                if not able[last]:
                    break
                if max(self.live[first:last + 1]) > floor:
                    found += self._stages(first, last, most_extra, strips)
        return found

    def _stages(self, first: int, last: int, most_extra: float, strips: tuple[int, ...]
                ) -> list[Candidate]:
        """Return the stages of some ops."""
        ops, wanted = self.graph.ops[first:last + 1], results(self.graph, first, last)
        if not 1 <= len(wanted) <= MOST_RESULTS:
            return []
        streams = {boundary.tensor for boundary in streamable(self.graph, first, last)}
        around = sum(aligned(self.size_of(t)) for t, (born, dies) in self._spans.items()
                     if born < first <= dies)
        around += sum(aligned(self.size_of(t)) for t in {*map(self._root, wanted)})
        saved = sum(aligned(self.size_of(t)) for t in streams)
        found, rows = [], max(map(height, wanted))
        before = [max(self.live[first:last + 1])] * 2  # the least so far, whole and streamed
        for count in strips:
            if count > rows:
                break
            each = [demands(ops, wanted, k, count) for k in range(count)]
            if None in each:
                continue
            macs = made = 0
            for needs in each:
                for number, op in enumerate(ops, first):
                    span = needs.get(op.outputs[0])
                    if span is not None:
                        made += 1
                        macs += self.macs[number] * (span[1] - span[0]) // height(op.outputs[0])
            extra = max(0, macs - sum(self.macs[first:last + 1]))
            if extra > most_extra * max(self.total_macs, 1):
                break
            for streamed in ((False, True) if streams else (False,)):
                live = around - (saved if streamed else 0) + max(
                    self._strip(ops, wanted, needs, k, count, streams if streamed else ())
                    for k, needs in enumerate(each))
                if live < before[streamed]:
                    before[streamed] = live
                    found.append(Candidate(live, extra, made - len(ops),
                                           Stage(first, last, count, streamed)))
        return found

    def _strip(self, ops: list[Op], wanted: list[Tensor], needs: dict[Tensor, Span], strip: int,
               strips: int, streams) -> int:
        """Return the most bytes that a strip has at once, beside whole tensors."""
        used: dict[Tensor, tuple[int, int]] = {}
        for number, op in enumerate(ops):
            if op.outputs[0] not in needs:
                continue
            for tensor in (*op.inputs, op.outputs[0]):
                if tensor in needs:
                    used[tensor] = used.get(tensor, (number, number))[0], number
        inner = {op.outputs[0] for op in ops}
        changes = [0] * (len(ops) + 1)
        for tensor, (born, dies) in used.items():
            span = needs[tensor]
            if tensor not in inner and tensor not in streams:
                continue  # rows of a whole tensor are a view
            if tensor in wanted:
                if span == own_rows(tensor, strip, strips):
                    continue
                dies = len(ops) - 1
            size = aligned(self.size_of(tensor) * (span[1] - span[0]) // height(tensor))
            changes[born] += size
            changes[dies + 1] -= size
        most = live = 0
        for change in changes:
            live += change
            most = max(most, live)
        return most


def below(outline: Outline, found: list[Candidate], most_bytes: int,
          most_extra: float = MOST_EXTRA) -> Choice | None:
    """Return the stages with the least work that keep every op below some bytes.

    Args:
        outline: of the graph.
        found: its candidates.
        most_bytes: that may lie in the arena at once.
        most_extra: part of the multiply-adds of the network that may be added.

    Returns:
        None if there are none.
    """
    for work in (lambda c: c.work, lambda c: c.extra_macs):  # the second where that is too much
        choice = _path(outline, found, most_bytes, work)
        if choice is None or choice.extra_macs <= most_extra * max(outline.total_macs, 1):
            return choice
    return None


def _path(outline: Outline, found: list[Candidate], most_bytes: int,
          work: Callable[[Candidate], int]) -> Choice | None:
    """Return the choice with the least work, by the least work up to each op."""
    ending: dict[int, list[Candidate]] = {}
    for candidate in found:
        if candidate.live_bytes <= most_bytes:
            ending.setdefault(candidate.stage.last, []).append(candidate)
    best: list[tuple[int, tuple[Candidate, ...]] | None] = [(0, ())]
    for number, live in enumerate(outline.live):
        options = [best[number]] if live <= most_bytes else []
        for candidate in ending.get(number, ()):
            before = best[candidate.stage.first]
            if before is not None:
                options.append((before[0] + work(candidate), (*before[1], candidate)))
        options = [option for option in options if option is not None]
        best.append(min(options, key=lambda option: option[0], default=None))
    if best[-1] is None:
        return None
    chosen = best[-1][1]
    outside = [live for number, live in enumerate(outline.live) if not any(
        c.stage.first <= number <= c.stage.last for c in chosen)]
    return Choice(max([*outside, *(c.live_bytes for c in chosen)], default=0),
                  sum(c.extra_macs for c in chosen), sum(c.extra_ops for c in chosen),
                  tuple(c.stage for c in chosen))


def frontier(outline: Outline, found: list[Candidate], most_extra: float = MOST_EXTRA
             ) -> list[Choice]:
    """Return the choices of which none is both smaller and less work, the smallest first.

    The last is the graph as it is.
    """
    sizes = sorted({*outline.live, *(candidate.live_bytes for candidate in found)})
    low, high = 0, len(sizes) - 1  # the largest size is always possible
    while low < high:
        middle = (low + high) // 2
        if below(outline, found, sizes[middle], most_extra) is None:
            low = middle + 1
        else:
            high = middle
    choices: list[Choice] = []
    tried = 0
    for size in sizes[low:] if sizes else ():
        if size < tried * APART and size != sizes[-1]:
            continue
        tried = size
        choice = below(outline, found, size, most_extra)
        if choice is not None and (not choices or choice.stages != choices[-1].stages):
            choices.append(choice)
            if not choice.stages:
                break
    return choices
