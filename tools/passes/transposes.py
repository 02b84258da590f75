"""Remove transposes: store tensors in the order that needs the fewest and smallest of them.

Around a transpose lies a region of ops that can work in its input's order as well as in its
output's (_turn.py says how). Every op of the region gets one of the two orders such that the
transposes between ops of different orders cost least: a minimum cut (Kolmogorov and Zabih, "What
energy functions can be minimized via graph cuts?", 2004).
"""
from __future__ import annotations

from collections import deque

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes import dead_code, duplicates
from edgerun.tools.passes._rewrite import Rewriter, moved_axes, rewrite
from edgerun.tools.passes._turn import Perm, Turned, compose, identity, inverse, turn
from edgerun.tools.passes.identities import is_same, two_transposes

LAUNCH = 1000           # cost of a launch, in units of 64 bytes copied
NOTHING = 1             # of a transpose that moves no element, so that it goes if it can
LARGEST = 2**20
UNCUT = 2**30


def apply(graph: Graph) -> None:
    """Turn regions until no transpose becomes cheaper; fold what is left into the boundary."""
    _tidy(graph)
    before = None
    while before is None or cost_of(graph) < before:
        before = cost_of(graph)
        tried: set[tuple[Tensor, Perm]] = set()
        while _turn_one(graph, tried):
            pass
        _fold_outputs(graph)
        _tidy(graph)


def _tidy(graph: Graph) -> None:
    rewrite(graph, {"transpose": (two_transposes, is_same)})
    duplicates.apply(graph)
    dead_code.apply(graph)


def _cost(shape: tuple[int, ...], perm: Perm) -> int:
    """Return what a transpose costs, in units of 64 bytes."""
    if perm == identity(len(perm)):
        return 0
    shape = (1,) * (len(perm) - len(shape)) + tuple(shape)
    if not moved_axes(perm, shape):
        return NOTHING
    return min(LAUNCH + int(np.prod(shape, dtype=np.int64)) // 16, LARGEST)


def cost_of(graph: Graph) -> int:
    """Return what the transposes of a graph cost together, in units of 64 bytes."""
    return sum(_cost(op.inputs[0].shape, op.options["perm"]) for op in graph.ops
               if op.code == "transpose")


def _turn_one(graph: Graph, tried: set[tuple[Tensor, Perm]]) -> bool:
    """Turn the first region that becomes cheaper."""
    rewriter = Rewriter(graph)
    for op in [op for op in graph.ops if op.code == "transpose"]:
        perm = op.options["perm"]
        for seed in ((op.outputs[0], inverse(perm)), (op.inputs[0], perm)):
            if seed in tried or seed[0].constant:
                continue
            tried.add(seed)
            for careful in (False, True):
                region = _Region(rewriter, *seed)
                chosen = region.cheaper(careful)
                if not chosen:
                    continue
                before, saved = cost_of(graph), _Saved(graph)
                region.turn(chosen)
                _tidy(graph)
                if cost_of(graph) < before:
                    return True
                saved.restore()
                rewriter = Rewriter(graph)
    return False


class _Saved:
    """A graph as it was: the cut only estimates costs, what did not get cheaper is taken back."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.ops = [(op, list(op.inputs), list(op.outputs), dict(op.options)) for op in graph.ops]
        self.boundaries = [(boundary, boundary.tensor, boundary.perm)
                           for boundary in (*graph.inputs, *graph.outputs)]
        self.names = [(tensor, tensor.name) for tensor in graph.tensors()]

    def restore(self) -> None:
        self.graph.ops = [op for op, *_ in self.ops]
        for op, inputs, outputs, options in self.ops:
            op.inputs, op.outputs, op.options = inputs, outputs, options
        for boundary, tensor, perm in self.boundaries:
            boundary.tensor, boundary.perm = tensor, perm
        for tensor, name in self.names:
            tensor.name = name


def _fold_outputs(graph: Graph) -> None:
    """A graph output behind a transpose is read in the other order."""
    rewriter = Rewriter(graph)
    for boundary in graph.outputs:
        op = rewriter.producer(boundary.tensor, "transpose")
        if op is not None:
            perm = boundary.perm or identity(len(boundary.shape))
            boundary.perm = compose(perm, inverse(op.options["perm"]))
            rewriter.rebind(boundary, op.inputs[0])


class _Cut:
    """A minimum cut between the turned (source) and the others (sink)."""

    def __init__(self) -> None:
        self.nodes = {"turned": 0, "others": 1}
        self.edges: dict[tuple[int, int], int] = {}

    def node(self, key: object) -> int:
        return self.nodes.setdefault(key, len(self.nodes))

    def edge(self, start: object, end: object, cost: int) -> None:
        """Add the cost of `start` being turned and `end` not."""
        key = self.node(start), self.node(end)
        if cost:
            self.edges[key] = min(self.edges.get(key, 0) + cost, UNCUT)

    def solve(self) -> tuple[int, set[object]]:
        """Return how much cheaper than turning nothing the best choice is, and the keys turned."""
        n = len(self.nodes)
        if not self.edges:
            return 0, set()
        rows, columns = zip(*self.edges)
        capacity = csr_matrix((np.array(list(self.edges.values()), np.int32), (rows, columns)),
                              shape=(n, n))
        result = maximum_flow(capacity, 0, 1)
        left = (capacity - result.flow).tocsr()
        reached, queue = {0}, deque([0])
        while queue:
            node = queue.popleft()
            for at in range(left.indptr[node], left.indptr[node + 1]):
                if left.data[at] > 0 and left.indices[at] not in reached:
                    reached.add(int(left.indices[at]))
                    queue.append(int(left.indices[at]))
        unturned = sum(cost for (start, _), cost in self.edges.items() if start == 0)
        return unturned - int(result.flow_value), {
            key for key, node in self.nodes.items() if node in reached}


class _Region:
    """The ops around a tensor that can work with it, and with each other, in another order."""

    def __init__(self, rewriter: Rewriter, tensor: Tensor, perm: Perm):
        self.rewriter = rewriter
        self.order: dict[Tensor, Perm] = {tensor: perm}
        self.turned: dict[Op, Turned] = {}
        self.inputs = {boundary.tensor for boundary in rewriter.graph.inputs}
        self._made: dict[Tensor, tuple[Tensor, Perm]] = {}     # the turned form and its order
        self._stored: dict[tuple[Tensor, Perm], Tensor] = {}   # other orders that readers got
        queue, refused = deque([tensor]), set()
        while queue:
            tensor = queue.popleft()
            producer = rewriter.producer(tensor)
            for op in (*rewriter.users(tensor), *([producer] if producer else [])):
                if op in self.turned or op in refused or op.code == "transpose":
                    continue
                index = None if op is producer else op.inputs.index(tensor)
                found = turn(rewriter, op, index, self.order[tensor])
                if found is None:
                    refused.add(op)
                    continue
                self.turned[op] = found
                for other, order in ((op.outputs[0], found.output), *zip(op.inputs, found.inputs)):
                    if self._joins(other, order) and other not in self.order:
                        self.order[other] = order
                        queue.append(other)

    def _joins(self, tensor: Tensor | None, perm: Perm | None) -> bool:
        return (tensor is not None and perm is not None and not tensor.constant
                and len(perm) == len(tensor.shape) and perm != identity(len(perm)))

    def cheaper(self, careful: bool) -> set[Op | Tensor]:
        """Return the ops and graph inputs to turn, or nothing if that would not pay.

        Args:
            careful: assume that a transpose within the region goes on reading what it reads, which
                is never too cheap; else it counts on both sides, each as if the other stayed.
        """
        cut = _Cut()
        for op, turned in self.turned.items():
            for tensor, perm in zip(op.inputs, turned.inputs):
                agrees = not self._joins(tensor, perm) or self.order[tensor] == perm
                if tensor is None or perm is None or tensor.constant or (
                        agrees and len(perm) == len(tensor.shape)):
                    continue
                cut.edge(op, "others", _cost(tensor.shape, perm))
            agrees = turned.output == self.order.get(op.outputs[0], turned.output)
            if not agrees:
                cut.edge(op, "others", UNCUT)
        for tensor, perm in self.order.items():
            self._add(cut, tensor, perm, careful)
        saved, keys = cut.solve()
        return {key for key in keys if isinstance(key, (Op, Tensor))} if saved > 0 else set()

    def _add(self, cut: _Cut, tensor: Tensor, perm: Perm, careful: bool) -> None:
        """Add what one tensor costs, depending on who reads and writes it in which order."""
        alike, fixed, transposed = [], False, []
        for op in self.rewriter.users(tensor):
            turned = self.turned.get(op)
            if op.code == "transpose" and careful and op.outputs[0] in self.order:
                fixed = True
            elif op.code == "transpose":
                transposed.append(op)
            elif turned is not None and turned.inputs[op.inputs.index(tensor)] == perm:
                alike.append(op)
            else:
                fixed = True
        producer = self.rewriter.producer(tensor)
        here, there = ("here", tensor), ("there", tensor)
        for op in alike:
            cut.edge(here, op, UNCUT)   # `here` is turned only if all readers are
            cut.edge(op, there, UNCUT)  # `there` is turned if any reader is
        own = producer if producer in self.turned else tensor if tensor in self.inputs else None
        cost = _cost(tensor.shape, perm)
        if own is not None:
            cut.edge(own, here, cost)
            cut.edge(there, own, cost)
            if fixed:
                cut.edge(here, "others", UNCUT)
            for op in transposed:
                direct = op.options["perm"]
                cut.edge("turned", own, _cost(tensor.shape, direct))
                turned_shape = tuple(tensor.shape[axis] for axis in perm)
                cut.edge(own, "others", _cost(turned_shape, compose(inverse(perm), direct)))
        elif producer is not None and producer.code == "transpose":
            source, direct = producer.inputs[0], producer.options["perm"]
            if not fixed:
                cut.edge("turned", here, _cost(source.shape, direct))
            cut.edge(there, "others", _cost(source.shape, compose(direct, perm)))
        else:
            cut.edge(there, "others", cost)

    def turn(self, chosen: set[Op | Tensor]) -> None:
        """Rewrite the graph with the chosen ops and graph inputs in their other order."""
        ops = list(self.rewriter.graph.ops)
        for boundary in reversed(self.rewriter.graph.inputs):
            if boundary.tensor in chosen:
                tensor, perm = boundary.tensor, self.order[boundary.tensor]
                boundary.perm = compose(boundary.perm or identity(len(perm)), perm)
                boundary.tensor = self._other(tensor, perm, 0)
        for op in ops:
            if op not in chosen:
                continue
            turned = self.turned[op]
            inputs = [self._version(op, tensor, perm)
                      for tensor, perm in zip(op.inputs, turned.inputs)]
            self.rewriter.set_inputs(op, inputs)
            op.options.update(turned.options)
            if turned.weights is not None:
                user, index, values = turned.weights
                old = user.inputs[index]
                constant = self.rewriter.graph.constant(values, old.name, old.dtype,
                                                        old.quantization)
                self.rewriter.set_input(user, index, constant)
            y = op.outputs[0]
            if turned.output != identity(len(turned.output)):
                other = self._other(y, turned.output, self.rewriter.graph.ops.index(op) + 1)
                self.rewriter.set_output(op, other)

    def _other(self, tensor: Tensor, perm: Perm, at: int) -> Tensor:
        """Make the turned form of a tensor, and insert its transpose back, which may go later."""
        graph = self.rewriter.graph
        other = Tensor(tensor.name, tuple(tensor.shape[axis] for axis in perm), tensor.dtype,
                       quantization=tensor.quantization)  # of activations: one for all axes
        tensor.name = graph.unique(tensor.name)
        self._made[tensor] = other, perm
        back = Op("transpose", tensor.name, [other], [tensor], {"perm": inverse(perm)})
        self.rewriter.adopt(at, back)
        for boundary in graph.outputs:
            if boundary.tensor is tensor:
                own = boundary.perm or identity(len(perm))
                boundary.perm = compose(own, perm)
                self.rewriter.rebind(boundary, other)
        return other

    def _version(self, op: Op, tensor: Tensor | None, perm: Perm | None) -> Tensor | None:
        """Return a tensor in some order, with a transpose in front of op if it must be made."""
        if tensor is None or perm is None:
            return tensor
        key = tensor, perm
        if key in self._stored:
            return self._stored[key]
        rewriter, rank = self.rewriter, len(perm)
        if tensor.constant:
            data = tensor.data.reshape((1,) * (rank - len(tensor.shape)) + tensor.shape)
            given = tensor.quantization  # of a tensor of this rank: dequantize adds no axes
            found = rewriter.graph.constant(data.transpose(perm), tensor.name, tensor.dtype,
                                            given and given.transposed(perm))
        else:
            found = tensor
            if rank > len(tensor.shape):
                found = rewriter.add(op, "reshape", [found], tensor.name,
                                     shape=(1,) * (rank - len(tensor.shape)) + tensor.shape)
            elif tensor in self._made:
                found, made = self._made[tensor]
                perm = compose(inverse(made), perm)
            elif rewriter.producer(tensor, "transpose"):
                before = rewriter.producer(tensor)
                found, perm = before.inputs[0], compose(before.options["perm"], perm)
            if perm != identity(rank):
                found = rewriter.add(op, "transpose", [found], tensor.name, perm=perm)
        self._stored[key] = found
        return found
