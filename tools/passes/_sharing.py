"""Who shares bytes with whom, and how many bytes are live at most, while views are made."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.ops._base import OUTPUT, count
from edgerun.tools import mixture
from edgerun.tools.graph import Graph, Op, Tensor, View, Views, root_of
from edgerun.tools.plan import aligned


class Sharing:
    """The tensors of a graph by the root in whose bytes they lie.

    Attributes:
        views: where the tensors lie that have no bytes of their own; changed in place.
        uses: tensor -> (op, index of the input, or OUTPUT).
        step: op -> its place in the order; what replaces an op takes its place over.
        members: root -> the tensors in its bytes, itself among them.
        inputs, outputs: tensors at the boundary.
        pieces: those of the inputs that are not there before the first op.
    """

    def __init__(self, graph: Graph, views: Views):
        self.graph, self.views = graph, views
        self.inputs = {*graph.hidden(), *(t for b in graph.inputs for t in b.tensors)}
        self.pieces = {piece for boundary in graph.inputs for piece, _ in boundary.pieces}
        self.outputs = {boundary.tensor for boundary in graph.outputs}
        self.uses: dict[Tensor, list[tuple[Op, int]]] = {}
        self.step: dict[Op, int] = {}
        self.steps = len(graph.ops)
        self._experts = mixture.experts(graph)
        self.members: dict[Tensor, list[Tensor]] = {}
        self._scratch = np.zeros(self.steps + 2, np.int64)
        self._spans: dict[Tensor, tuple[int, int, int]] = {}
        for tensor in (*self.inputs, *self.outputs):
            self._know(tensor)
        for number, op in enumerate(graph.ops):
            self._scratch[number + 1] += aligned(OPS[op.code].scratch(op))
            self.add(op, number)
        for root in self.members:
            self._measure(root)

    def _know(self, tensor: Tensor) -> None:
        if tensor.constant or tensor in self.uses:
            return
        self.uses[tensor] = []
        root = root_of(self.views, tensor)
        members = self.members.setdefault(root, [])
        members += [t for t in dict.fromkeys((root, tensor)) if t not in members]
        self.uses.setdefault(root, [])

    def add(self, op: Op, step: int) -> None:
        """Take an op into account that runs at a step."""
        self.step[op] = step
        for index, tensor in (*enumerate(op.inputs), *((OUTPUT, y) for y in op.outputs)):
            if tensor is not None and not tensor.constant:
                self._know(tensor)
                self.uses[tensor].append((op, index))

    def remove(self, op: Op) -> None:
        """Forget an op."""
        for tensor in dict.fromkeys((*op.inputs, *op.outputs)):
            if tensor is not None and not tensor.constant:
                self.uses[tensor] = [use for use in self.uses[tensor] if use[0] is not op]
        del self.step[op]

    def times(self, tensor: Tensor) -> list[int]:
        """Return the steps at which one tensor is read or written."""
        return ([self.step[op] for op, _ in self.uses[tensor]]
                + [-1] * (tensor in self.inputs and tensor not in self.pieces)
                + [self.steps] * (tensor in self.outputs))

    def _measure(self, root: Tensor) -> None:
        times = [step for tensor in self.members.get(root, ()) for step in self.times(tensor)]
        if times:
            self._spans[root] = min(times), max(times), aligned(root.bytes)
        else:
            self._spans.pop(root, None)

    def bound(self, roots: Iterable[Tensor] = ()) -> int:
        """Return the largest sum of live bytes, after something changed in groups of some roots."""
        for root in roots:
            self._measure(root)
        change = np.zeros(self.steps + 3, np.int64)
        if self._spans:
            first, last, size = np.array(list(self._spans.values()), np.int64).T
            np.add.at(change, first + 1, size)
            np.subtract.at(change, last + 2, size)
        return int((np.cumsum(change)[:-1] + self._scratch).max())

    def pitched(self, tensor: Tensor) -> bool:
        """Whether all that use a tensor can where its rows lie apart."""
        return (tensor not in self.inputs and tensor not in self.outputs
                and all(index in OPS[op.code].pitched(op) for op, index in self.uses[tensor]))

    def moved(self, root: Tensor, to: Tensor, at: int, pitch: int) -> Views | None:
        """Return where the members of a group lie when their root becomes a view.

        Args:
            root: of the group.
            to: the new root.
            at: bytes from its start.
            pitch: elements from one position of the last axis of `root` to the next; 0: dense.

        Returns:
            None where a member, or an op that uses it, cannot have its rows apart, or where an
            expert would write into what others use.
        """
        if self._experts and not self._apart(root, to):
            return None
        found, size = {}, dtypes.size(root.dtype)
        width = root.shape[-1] if root.shape else 1
        for tensor in self.members[root]:
            view = self.views.get(tensor, View(root))
            if not pitch:
                found[tensor] = View(to, at + view.at, view.pitch)
                continue
            (row, column), elements = divmod(view.at // size, width), count(tensor.shape)
            apart = 0
            if elements + column > width:  # more than a part of one row
                if view.pitch != width and (view.pitch or column or tensor.shape[-1] != width):
                    return None
                apart = pitch
            if apart and not self.pitched(tensor):
                return None
            found[tensor] = View(to, at + (row * pitch + column) * size, apart)
        return found

    def _apart(self, *roots: Tensor) -> bool:
        """Whether what an expert writes in some groups together is used by that expert only."""
        uses = [(self._experts.get(self.step[op]), index, op.code) for root in roots
                for tensor in self.members[root] for op, index in self.uses[tensor]]
        writers = {who for who, index, code in uses
                   if index == OUTPUT and who is not None and code != "blend"}
        outer = any(tensor in held for root in roots for tensor in self.members[root]
                    for held in (self.inputs, self.outputs))
        return not writers or not outer and {who for who, _, _ in uses} == writers

    def join(self, root: Tensor, views: Views) -> None:
        """Make the views that moved() has returned for the group of a root."""
        to = views[root].root
        self.views |= views
        self.members[to] += self.members.pop(root)
        self._spans.pop(root, None)

    def saved(self) -> tuple:
        """Return what restore() needs to undo everything that follows."""
        return (dict(self.views), {tensor: list(uses) for tensor, uses in self.uses.items()},
                dict(self.step), {root: list(m) for root, m in self.members.items()},
                dict(self._spans), list(self.graph.ops))

    def restore(self, saved: tuple) -> None:
        """Go back to what was saved."""
        views, self.uses, self.step, self.members, self._spans, self.graph.ops = saved
        self.views.clear()
        self.views |= views
