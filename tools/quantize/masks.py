"""Sums with masks before a softmax: integers need not reach down to a mask's -10^9."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.tools.graph import MOVES, Graph, Op, Tensor

MASKED = -1000.0  # a number below it, added to a score, means "not this one"
# What is so far below every score gets less than half a step of a softmax's result: exp(-BELOW).
BELOW = {8: 8.0, 16: 18.0}

Range = Callable[[str, int], tuple[float, float]]


class Masks:
    """Ranges that leave out what a mask adds.

    Args:
        graph: real.
        range_of: (name of a tensor, bits) -> (low, high).
    """

    def __init__(self, graph: Graph, range_of: Range):
        self.range_of = range_of
        self.scores: dict[str, tuple[str, float]] = {}  # name of a sum -> its scores, least mask
        self.added: dict[str, str] = {}  # name of a mask that only a sum reads -> that of the sum
        users, producers = graph.consumers(), graph.producers()
        for op in graph.ops:
            if op.code == "softmax" and op.options["scale"] > 0:
                self._follow(op.inputs[0], users, producers)

    def _follow(self, y: Tensor, users: dict[Tensor, list[Op]], producers: dict[Tensor, Op]
                ) -> None:
        """Look behind moves for a sum, or a choice, that only the softmax reads."""
        moved = []
        while True:
            op = producers.get(y)
            if op is None or len(users[y]) > 1:
                return
            moved.append(y.name)
            if op.code not in MOVES:
                break
            y = op.inputs[0]
        if op.code == "where":
            a, b = op.inputs[1:]
        elif op.code == "binary" and op.options["kind"] == "add" and not op.options["activation"]:
            a, b = op.inputs
        else:
            return
        for x, mask in ((a, b), (b, a)):
            if not x.constant and self._least(x) > MASKED >= self._least(mask):
                usual = 0.0
                if mask.constant and op.code == "binary":
                    usual = float(mask.data[mask.data > MASKED].min(initial=0.0))
                self.scores.update(dict.fromkeys(moved, (x.name, usual)))
                if op.code == "binary" and not mask.constant and len(users[mask]) == 1:
                    self.added[mask.name] = y.name
                return

    def _least(self, x: Tensor) -> float:
        return float(x.data.min(initial=0)) if x.constant else self.range_of(x.name, 16)[0]

    def least(self, total: str, bits: int) -> float:
        """Return what a mask may be cut off at: its sum, of that name, with the largest score is at
        the sum's lowest number. -inf for other sums."""
        if total not in self.scores:
            return -np.inf
        return self.range(total, bits)[0] - self.range_of(self.scores[total][0], bits)[1]

    def range(self, name: str, bits: int) -> tuple[float, float]:
        """Return (low, high) of a tensor as its integers need it."""
        low, high = self.range_of(name, bits)
        if name in self.scores:
            scores, usual = self.scores[name]
            low = max(low, self.range_of(scores, bits)[0] + usual - BELOW[bits])
        elif name in self.added:
            low = max(low, self.least(self.added[name], bits))
        return low, high


__all__ = ["Masks"]
