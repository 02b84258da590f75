"""Ranges of tensors of which readers do not tell large numbers apart, as sigmoid and tanh."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.tools.graph import MOVES, Graph, Op, Tensor
from edgerun.tools.quantize.chains import BITS, Link, Range
from edgerun.tools.quantize.grids import activation_quantization

POINTS = 2048  # of a range at which a function is looked at
ROUNDS = 3  # each within what the one before left
TOLERANCE = 0.25  # steps of y

Ends = tuple[float, float]


class Saturation:
    """Ranges that end where no reader sees a difference any more.

    Args:
        graph: real.
        links, between: of the graph, from chains.links().
        range_of: (name of a tensor, bits) -> (low, high).
    """

    def __init__(self, graph: Graph, links: Mapping[Op, Link], between: set[Tensor],
                 range_of: Range):
        self.range_of = range_of
        self.users = graph.consumers()
        self.kept = {boundary.tensor for boundary in graph.outputs}
        self.links = links
        self.last: dict[Tensor, list[Op]] = {}  # tensor -> the ends of chains that start at it
        for op, link in links.items():
            if op.outputs[0] not in between:
                self.last.setdefault(link.root, []).append(op)
        self.tensors = {t.name: t for op in graph.ops for t in op.outputs}
        self.known: dict[tuple[str, int], Ends] = {}

    def range(self, name: str, bits: int) -> Ends:
        """Return (low, high) of a tensor as its integers need it."""
        if (name, bits) not in self.known:
            found = self._needed(self.tensors[name], bits) if name in self.tensors else None
            self.known[name, bits] = found or self.range_of(name, bits)
        return self.known[name, bits]

    def _needed(self, x: Tensor, bits: int) -> Ends | None:
        """Return what the readers of a tensor need of it; None is all."""
        ends: list[Ends | None] = []
        for user in self.users.get(x, ()):
            if user.code in MOVES and user.inputs[0] is x:
                ends.append(self._needed(user.outputs[0], bits))
            elif user not in self.links or self.links[user].root is not x:
                return None
        ends += [self._told_apart(x, op, bits) for op in self.last.get(x, ())]
        if not ends or None in ends or x in self.kept:
            return None
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _told_apart(self, x: Tensor, op: Op, bits: int) -> Ends | None:
        """Return the part of a range outside of which a function of x does not change."""
        low, high = self.range_of(x.name, bits)
        dtype = next(dtype for dtype, n in BITS.items() if n == bits)
        y = self.range_of(op.outputs[0].name, bits)
        tolerance = TOLERANCE * activation_quantization(*y, dtype).step
        for _ in range(ROUNDS):
            points = np.linspace(low, high, POINTS)
            with np.errstate(all="ignore"):
                values = np.asarray(self.links[op].function(points), np.float64)
            if not np.isfinite(values).all():
                return None
            first, last = _flat(values, tolerance), POINTS - 1 - _flat(values[::-1], tolerance)
            if first >= last:
                return None
            low, high = points[first], points[last]
        return float(low), float(high)


def _flat(values: np.ndarray, tolerance: float) -> int:
    """Return the last index from which all values before differ by no more than a tolerance."""
    reach = np.maximum(np.maximum.accumulate(values) - values,
                       values - np.minimum.accumulate(values))
    return int(np.flatnonzero(reach <= tolerance)[-1])


__all__ = ["Saturation"]
