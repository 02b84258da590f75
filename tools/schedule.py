"""Order the ops so that as few bytes as possible are live at once.

What is live before an op depends only on which ops have run, not on their order. So the best order
is a path through sets of ops whose largest step is smallest, which a best-first search finds (a
bottleneck shortest path). An op that frees at least as many bytes as it needs, without a new peak,
can always run at once: most graphs have few real choices left then.
"""
from __future__ import annotations

import heapq
from dataclasses import dataclass

from edgerun.ops import OPS
from edgerun.regions import Region, shared
from edgerun.tools import mixture
from edgerun.tools.graph import Graph, Op, Tensor, Views, placed, root_of
from edgerun.tools.plan import aligned

SEARCHED_SETS = 30_000  # about two seconds


@dataclass(frozen=True)
class Schedule:
    """An order of ops.

    Attributes:
        order: numbers of the ops, as they were, in their new order.
        peak_bytes: largest sum of live bytes at any op.
        proven: no order has a smaller one.
    """
    order: list[int]
    peak_bytes: int
    proven: bool


class Liveness:
    """The bytes that come and go with every op of a graph; sets of ops are bits of an int.

    Args:
        graph: ops in any valid order, none of which writes over what another has written.
        views: where the tensors lie that have no bytes of their own.
    """

    def __init__(self, graph: Graph, views: Views):
        self.count = len(graph.ops)
        writers: dict[Tensor, list[tuple[int, Region]]] = {}
        self._users: dict[Tensor, int] = {}
        for number, op in enumerate(graph.ops):
            for tensor in op.outputs:
                root, place = placed(views, tensor)
                writers.setdefault(root, []).append((number, place))
            for tensor in (*op.inputs, *op.outputs):
                if tensor is not None and not root_of(views, tensor).constant:
                    root = root_of(views, tensor)
                    self._users[root] = self._users.get(root, 0) | 1 << number
        kept = {root_of(views, boundary.tensor) for boundary in graph.outputs}
        inputs = {root_of(views, boundary.tensor) for boundary in graph.inputs
                  if not boundary.pieces} | {root_of(views, t) for t in graph.hidden()}
        pieces = {piece for boundary in graph.inputs for piece, _ in boundary.pieces}
        self.start = sum(aligned(t.bytes) for t in inputs if not t.constant)
        self.needs = [0] * self.count  # ops that must have run before
        # (users, bytes) of what comes to exist with an op, if none of its users has run
        self.grows: list[list[tuple[int, int]]] = [[] for _ in range(self.count)]
        self.frees: list[list[tuple[int, int]]] = [[] for _ in range(self.count)]
        self.scratch = [aligned(OPS[op.code].scratch(op)) for op in graph.ops]
        for tensor, users in self._users.items():
            size = aligned(tensor.bytes)
            first = _bits(users) if tensor in pieces else [
                number for number, _ in writers.get(tensor, ())]
            for number in {*first}:
                if tensor not in inputs:
                    self.grows[number].append((users, size))
            if tensor not in kept:
                for number in _bits(users):
                    self.frees[number].append((users, size))
        for number, op in enumerate(graph.ops):
            for x in op.inputs:
                if x is not None and not x.constant:
                    root, place = placed(views, x)
                    for writer, other in writers.get(root, ()):
                        if writer < number and shared(place, other) != 0:
                            self.needs[number] |= 1 << writer
        _keep_sections(graph, self.needs)
        self.after: list[list[int]] = [[] for _ in range(self.count)]  # that need an op
        for number, needs in enumerate(self.needs):
            for writer in _bits(needs):
                self.after[writer].append(number)

    def step(self, number: int, done: int, live: int) -> tuple[int, int]:
        """Return the live bytes while an op runs, and after it.

        Args:
            number: of the op.
            done: the ops that have run.
            live: bytes live before.
        """
        during = live + sum(size for users, size in self.grows[number] if not users & done)
        after = done | 1 << number
        freed = sum(size for users, size in self.frees[number] if users & after == users)
        return during + self.scratch[number], during - freed

    def peak(self, order: list[int]) -> int:
        """Return the largest sum of live bytes of an order."""
        done, live, peak = 0, self.start, self.start
        for number in order:
            during, live = self.step(number, done, live)
            done |= 1 << number
            peak = max(peak, during)
        return peak

    def first(self) -> int:
        """Return the ops that can run at first, as bits."""
        return sum(1 << n for n, needs in enumerate(self.needs) if not needs)

    def following(self, ready: int, number: int, done: int) -> int:
        """Return the ops that can run after one of those that could, as bits.

        Args:
            ready: the ops that could run before.
            number: of the op that has run.
            done: all that have run.
        """
        ready &= ~(1 << number)
        for other in self.after[number]:
            if self.needs[other] & done == self.needs[other]:
                ready |= 1 << other
        return ready


def _keep_sections(graph: Graph, needs: list[int]) -> None:
    """Let every op need those of the section before its own; see tools/mixture.py."""
    numbers = mixture.sections(graph)
    members = {section: 0 for section in numbers}
    for number, section in enumerate(numbers):
        members[section] |= 1 << number
    before = dict(zip([*members][1:], members.values()))
    for number, section in enumerate(numbers):
        needs[number] |= before.get(section, 0)


def _bits(users: int) -> list[int]:
    found = []
    while users:
        low = users & -users
        found.append(low.bit_length() - 1)
        users ^= low
    return found


def best(liveness: Liveness, limit: int = SEARCHED_SETS) -> Schedule:
    """Return the order with the smallest peak; the given one if none is smaller.

    Args:
        liveness: of the graph.
        limit: of sets of ops to look at; what is left over after that is searched no further.
    """
    given = list(range(liveness.count))
    bound = liveness.peak(given)
    # (peak so far, ops left, live bytes, ops that ran, path back, ops that can run)
    heap: list[tuple] = [(liveness.start, liveness.count, liveness.start, 0, None,
                          liveness.first())]
    seen = {0: liveness.start}
    while heap:
        peak, left, live, done, path, ready = heapq.heappop(heap)
        if peak >= bound:
            return Schedule(given, bound, True)
        if not left:
            return Schedule(_order(path), peak, True)
        if len(seen) > limit:
            return _greedy(liveness, given, bound, heap)
        for now, after, number in _moves(liveness, peak, live, done, ready):
            then, highest = done | 1 << number, max(peak, now)
            if highest < bound and highest < seen.get(then, bound):
                seen[then] = highest
                heapq.heappush(heap, (highest, left - 1, after, then, (number, path),
                                      liveness.following(ready, number, then)))
    return Schedule(given, bound, True)


def _moves(liveness: Liveness, peak: int, live: int, done: int, ready: int
           ) -> list[tuple[int, int, int]]:
    """Return (bytes during, bytes after, op) of the ops worth trying next."""
    moves = []
    for number in _bits(ready):
        during, after = liveness.step(number, done, live)
        if after <= live and during <= peak:
            return [(during, after, number)]
        moves.append((during, after, number))
    return moves


def _greedy(liveness: Liveness, given: list[int], bound: int, heap: list[tuple]) -> Schedule:
    """Finish the most promising unfinished orders step by step, by what they leave live."""
    order = given
    for peak, _, live, done, path, ready in heapq.nsmallest(32, heap, key=lambda s: s[:3]):
        while path is None or done != (1 << liveness.count) - 1:
            moves = _moves(liveness, peak, live, done, ready)
            during, live, number = min(moves, key=lambda move: (max(peak, move[0]), move[1]))
            peak, done, path = max(peak, during), done | 1 << number, (number, path)
            ready = liveness.following(ready, number, done)
            if peak >= bound:
                break
        else:
            order, bound = _order(path), peak
    return Schedule(order, bound, False)


def _order(path: tuple | None) -> list[int]:
    order = []
    while path is not None:
        number, path = path
        order.append(number)
    return order[::-1]


def apply(graph: Graph, views: Views, limit: int = SEARCHED_SETS) -> Schedule:
    """Put the ops of a graph into the order with the smallest peak.

    Args:
        graph: its ops are reordered in place.
        views: where the tensors lie that have no bytes of their own.
    """
    found = best(Liveness(graph, views), limit)
    ops: list[Op] = [graph.ops[number] for number in found.order]
    graph.ops = ops
    return found
