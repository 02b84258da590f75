"""What every pass needs to change a graph: who writes and who reads a tensor, kept current."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from edgerun.quantization import Quantization
from edgerun.tools.graph import Boundary, Graph, Op, Tensor

# Ops with the options activation, alpha, beta.
ACTIVATED = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "dense", "matmul", "binary",
             "pool2d", "fastfood")
# Ops with weights as input 1 and bias as input 2; those of them that have a residual as input 3.
WEIGHTED = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "dense")
RESIDUAL = ("conv2d", "depthwise_conv2d", "dense")


class Rewriter:
    """A graph with its producers and users kept current. All changes of ops go through it."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._producer: dict[Tensor, Op] = {}
        self._users: dict[Tensor, list[Op]] = {}
        self._outputs: dict[Tensor, list[Boundary]] = {}
        for op in graph.ops:
            self._register(op)
        for boundary in graph.outputs:
            self._outputs.setdefault(boundary.tensor, []).append(boundary)

    def _register(self, op: Op) -> None:
        for tensor in op.outputs:
            self._producer[tensor] = op
        for tensor in op.inputs:
            if tensor is not None:
                self._users.setdefault(tensor, []).append(op)

    def alive(self, op: Op) -> bool:
        """Whether the op is still in the graph."""
        return self._producer.get(op.outputs[0]) is op

    def producer(self, tensor: Tensor | None, code: str | None = None, **options: Any) -> Op | None:
        """Return the op that writes a tensor, if it has this code and these options."""
        op = self._producer.get(tensor) if tensor is not None else None
        if op is None or code not in (None, op.code):
            return None
        return op if all(op.options[key] == value for key, value in options.items()) else None

    def users(self, tensor: Tensor) -> Sequence[Op]:
        """Return the ops that read a tensor, once per use."""
        return tuple(self._users.get(tensor, ()))

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a graph output is this tensor."""
        return bool(self._outputs.get(tensor))

    def private(self, tensor: Tensor) -> bool:
        """Whether the tensor is read exactly once and is no graph output."""
        return len(self._users.get(tensor, ())) == 1 and not self.is_output(tensor)

    def only_user(self, tensor: Tensor) -> Op | None:
        """Return the op that reads the tensor, if there is one only and it is no graph output."""
        return self._users[tensor][0] if self.private(tensor) else None

    def private_producer(self, tensor: Tensor | None, code: str | None = None,
                         **options: Any) -> Op | None:
        """Like producer(), but None unless the tensor is read once only and is no graph output."""
        return self.producer(tensor, code, **options) if (
            tensor is not None and self.private(tensor)) else None

    def add(self, before: Op, /, code: str, inputs: Iterable[Tensor | None], name: str = "",
            quantization: Quantization | None = None, **options: Any) -> Tensor:
        """Insert an op in front of another; returns its output."""
        at = self.graph.ops.index(before)
        return self.insert(at, code, inputs, name, quantization, **options).outputs[0]

    def insert(self, at: int, code: str, inputs: Iterable[Tensor | None], name: str = "",
               quantization: Quantization | None = None, **options: Any) -> Op:
        """Insert an op at a position in the order; see Graph.insert()."""
        op = self.graph.insert(at, code, inputs, name, quantization, **options)
        self._register(op)
        return op

    def adopt(self, at: int, op: Op) -> None:
        """Insert an op that is already made, with its output, at a position in the order."""
        self.graph.ops.insert(at, op)
        self._register(op)

    def set_inputs(self, op: Op, inputs: Sequence[Tensor | None]) -> None:
        """Give an op other inputs; producers that nobody needs any more go."""
        old, op.inputs = op.inputs, list(inputs)
        for tensor in op.inputs:
            if tensor is not None:
                self._users.setdefault(tensor, []).append(op)
        for tensor in old:
            if tensor is not None:
                self._users[tensor].remove(op)
        for tensor in old:
            self._drop(tensor)

    def set_input(self, op: Op, index: int, tensor: Tensor | None) -> None:
        """Give an op another input at one place, which may be behind its last."""
        inputs = op.inputs + [None] * (index + 1 - len(op.inputs))
        inputs[index] = tensor
        self.set_inputs(op, inputs)

    def set_output(self, op: Op, tensor: Tensor) -> None:
        """Let an op write another tensor; who read the old one must get it from elsewhere."""
        if self._producer.get(op.outputs[0]) is op:
            del self._producer[op.outputs[0]]
        op.outputs[0] = tensor
        self._producer[tensor] = op

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Make all users and graph outputs use `new`, which must be computed before they are.

        The producer of `old` goes if nothing needs it any more.
        """
        for user in self._users.pop(old, []):
            user.inputs = [new if tensor is old else tensor for tensor in user.inputs]
            self._users.setdefault(new, []).append(user)
        for boundary in self._outputs.pop(old, []):
            boundary.tensor = new
            self._outputs.setdefault(new, []).append(boundary)
        self._drop(old)

    def rebind(self, boundary: Boundary, tensor: Tensor) -> None:
        """Let a graph output be another tensor."""
        self._outputs[boundary.tensor].remove(boundary)
        boundary.tensor = tensor
        self._outputs.setdefault(tensor, []).append(boundary)

    def move_before(self, op: Op, other: Op) -> None:
        """Move an op in the order; nothing between may need its output."""
        self.graph.ops.remove(op)
        self.graph.ops.insert(self.graph.ops.index(other), op)

    def absorb(self, op: Op, user: Op) -> None:
        """Let `op` take the place of `user`, the only reader of its output: who read the output of
        `user` reads that of `op`, which stays where it is in the order."""
        self.replace(user.outputs[0], op.outputs[0])

    def _drop(self, tensor: Tensor | None) -> None:
        """Remove the producer of a tensor, and theirs, as far as nothing needs them."""
        pending = [tensor]
        while pending:
            tensor = pending.pop()
            op = self.producer(tensor)
            if op is None or any(self._users.get(t) or self.is_output(t) for t in op.outputs):
                continue
            self.graph.ops.remove(op)
            for output in op.outputs:
                del self._producer[output]
            for read in op.inputs:
                if read is not None:
                    self._users[read].remove(op)
                    pending.append(read)


Rule = Callable[[Rewriter, Op], bool]


def rewrite(graph: Graph, rules: dict[str, Sequence[Rule]]) -> None:
    """Apply rules to every op until none applies.

    Args:
        rules: op code -> functions that try to change the graph around one op and say whether they
            did. Every rule must make the graph smaller by some measure that no other rule of the
            same set raises, so that this ends.
    """
    rewriter = Rewriter(graph)
    changed = True
    while changed:
        changed = False
        for op in list(graph.ops):
            for rule in rules.get(op.code, ()):
                if rewriter.alive(op) and op.code in rules and rule(rewriter, op):
                    changed = True


def is_float(tensor: Tensor | None) -> bool:
    """Whether the tensor is present and fp32, as importers leave every real number."""
    return tensor is not None and tensor.dtype == "fp32"


def scalar(tensor: Tensor | None) -> float | None:
    """Return the value of a constant all of whose elements are equal, else None."""
    if tensor is None or not tensor.constant or tensor.data.size == 0:
        return None
    first = tensor.data.reshape(-1)[0]
    if tensor.data.size > 1 and not (tensor.data == first).all():
        return None
    return float(first)


def channels(tensor: Tensor | None, width: int) -> np.ndarray | None:
    """Return a float constant as one value per index of the last axis [width], else None.

    The tensor may have any rank if its other axes have one element.
    """
    if not is_float(tensor) or not tensor.constant:
        return None
    if tensor.data.size == 1:
        return np.full(width, tensor.data.reshape(()), np.float32)
    if tensor.shape[-1] != width or tensor.data.size != width:
        return None
    return tensor.data.reshape(width).astype(np.float32)


def input_at(op: Op, index: int) -> Tensor | None:
    """Return an input, None if it is left out or behind the last."""
    return op.inputs[index] if index < len(op.inputs) else None


def moved_axes(perm: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether transposing a tensor of this shape changes the order of its elements in memory."""
    order = [axis for axis in perm if shape[axis] != 1]
    return order != sorted(order)
