"""The choice of types as an integer linear program, solved exactly.

x[g, d] = 1 if the ops of group g compute in type d. A group is an op that computes, with the ops
behind it that only move its numbers. All else follows and needs no integer variables, since it is
pushed down by the objective or by the bound:

    u[t, d, j] >= x[r, d] of every reader r from the j-th on: tensor t is kept in d until the last
        reader that wants it so; u[t, d, 0] >= x[p, d] if the op p that writes t cannot write what
        its readers want
    n[t, d] >= u[t, d, 0]: t is rounded to d; less x[p, d] if p only moves numbers
    w[c, d] >= x[r, d] of the readers r of constant c: the constant is in the file in d
    s[d] >= x[r, d] of all r with constants: the file has constants in d
    A >= sum of bytes u over the tensors that are live at a step, and scratch: for every step; no
        plan has a smaller arena
    sum n[t, d] noise[t, d] + sum x[g, d] noise of constants <= allowance: for every output

    minimize sum w bytes + SEGMENT_BYTES sum s + A + OP_BYTES (sum u[t, d, 0] - 1)
        + TRAFFIC sum u[t, d, 0] bytes
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.mixed.sensitivity import INTEGER_OPERANDS, Noise, Sensitivity
from edgerun.tools.plan import aligned
from edgerun.tools.precision import FP32_INPUTS
from edgerun.tools.quantize.assign import INTEGERS, WEIGHTED, keeps_grid
from edgerun.tools.quantize.grids import WEIGHT_AXIS
from edgerun.tools.quantize.insert import REAL_RESULTS, follows_readers

DTYPES = ("fp32", "fp16", "int16", "int8")  # from the largest to the smallest
REAL = {"fp32", "fp16"}
BYTES = {"fp32": 4, "fp16": 2, "int16": 2, "int8": 1}
OP_BYTES = 320  # of one more op and its tensor in a file
SEGMENT_BYTES = 2112  # of one more type of constants in a file: half a page on average, and slack
TRAFFIC = 1e-3  # worth of a byte that is written and read, beside a byte of size: breaks ties
BLOCKED = ("conv2d", "conv_transpose2d", "dense")  # their weights fill up words of input channels


@dataclass(eq=False)
class Held:
    """A tensor with those that share its bytes.

    Attributes:
        tensor: whose bytes they are.
        writer: op, None for an input of the graph.
        readers: (step, op) of the readers that want a type, in order.
        first, last: steps between which it exists.
        output: whether it is an output of the graph.
    """
    tensor: Tensor
    writer: Op | None
    first: int
    last: int
    readers: list[tuple[int, Op]] = field(default_factory=list)
    output: bool = False

    def bytes(self, dtype: str) -> int:
        """Bytes in the arena."""
        return aligned(int(np.prod(self.tensor.shape, dtype=np.int64)) * BYTES[dtype])


@dataclass(frozen=True)
class Cost:
    """What a choice of types costs.

    Attributes:
        flash: bytes in the file: constants, the segments they need, ops that convert.
        live: bytes in the arena at each step.
        traffic: bytes that are written once.
        noise: at each output.
    """
    flash: int
    live: list[int]
    traffic: int
    noise: Noise


class Problem:
    """What the choice of types costs, and how much it disturbs.

    Attributes:
        groups: the first op of each group.
        group: op -> the first op of its group; ops that write real numbers only.
        allowed: first op of a group -> types to choose from.
    """

    def __init__(self, graph: Graph, sensitivity: Sensitivity,
                 allowed: Mapping[Op, Sequence[str]]):
        """
        Args:
            graph: optimized, in fp32.
            sensitivity: of its tensors and ops.
            allowed: op that writes real numbers -> types it may have.
        """
        self.graph, self.sensitivity = graph, sensitivity
        self.group: dict[Op, Op] = {}
        self.allowed: dict[Op, tuple[str, ...]] = {}
        self._find_groups(allowed)
        self.groups = list(self.allowed)
        self.held = self._find_held()
        self.constants = self._find_constants()

    def _find_groups(self, allowed: Mapping[Op, Sequence[str]]) -> None:
        producers = self.graph.producers()
        for op in self.graph.ops:
            if op not in allowed:
                continue
            source = producers.get(op.inputs[0]) if keeps_grid(op) else None
            head = self.group.get(source)
            common = tuple(d for d in allowed[op] if head and d in self.allowed[head])
            if head is not None and common and len(common) == len(self.allowed[head]):
                self.group[op] = head
            else:
                self.group[op] = op
                self.allowed[op] = tuple(allowed[op])

    def _find_held(self) -> list[Held]:
        """Return the real tensors, in the order in which they are written."""
        roots: dict[Tensor, Held] = {}
        found = []

        def hold(tensor: Tensor, writer: Op | None, step: int) -> None:
            if tensor.dtype == "fp32" and not tensor.constant:
                roots[tensor] = Held(tensor, writer, step, step)
                found.append(roots[tensor])

        for boundary in self.graph.inputs:
            hold(boundary.tensor, None, -1)
        for step, op in enumerate(self.graph.ops):
            if op.code == "reshape" and op.inputs[0] in roots:
                roots[op.outputs[0]] = roots[op.inputs[0]]
                continue
            for x in dict.fromkeys(op.inputs):
                if x in roots:
                    roots[x].last = step
                    if op in self.group:
                        roots[x].readers.append((step, op))
            for y in op.outputs:
                hold(y, op, step)
        for boundary in self.graph.outputs:
            if boundary.tensor in roots:
                roots[boundary.tensor].last = len(self.graph.ops)
                roots[boundary.tensor].output = True
        return found

    def _find_constants(self) -> dict[Tensor, list[tuple[Op, int]]]:
        """Return constant -> (op, index) of its readers that want a type."""
        found: dict[Tensor, list[tuple[Op, int]]] = {}
        for op in self.group:
            for index, x in enumerate(op.inputs):
                if x is not None and x.constant and x.dtype == "fp32":
                    found.setdefault(x, []).append((op, index))
        return found

    def constant_bytes(self, op: Op, index: int, dtype: str) -> int:
        """Return the bytes that an op's constant has in the file, with its scales."""
        x = op.inputs[index]
        size = int(np.prod(x.shape, dtype=np.int64))
        if index in FP32_INPUTS.get(op.code, ()):
            return aligned(size * 4)
        if dtype not in INTEGERS:
            return aligned(size * BYTES[dtype])
        if op.code in WEIGHTED:
            layout = dtypes.BLOCKED[dtype] if op.code in BLOCKED else "rows"
            channels = x.shape[WEIGHT_AXIS[op.code]]
            return (aligned(dtypes.stored_bytes(x.shape, dtype, layout))
                    + aligned(4 * channels) + aligned(channels))
        return aligned(size * (BYTES[dtype] if op.code in INTEGER_OPERANDS else 4))

    def segment(self, op: Op, index: int, dtype: str) -> str:
        """Return the type of which an op's constant is in the file."""
        if index in FP32_INPUTS.get(op.code, ()):
            return "int32" if dtype in INTEGERS else "fp32"
        if dtype not in INTEGERS or op.code in WEIGHTED:
            return dtype
        if op.code not in INTEGER_OPERANDS:
            return "fp32"
        return "uint8" if dtype == "int8" else dtype

    def written(self, held: Held, own: str, kinds: set[str]) -> set[str]:
        """Return the type, if any, in which a tensor exists although no reader wants it.

        Args:
            held: the tensor.
            own: type of the op that writes it, "" if no op of the problem does.
            kinds: types its readers want.
        """
        if not own or held.writer is None:
            return set()
        if own in INTEGERS:
            return set() if self.real_result(held) else {own}
        free = OPS[held.writer.code].mixed and bool(kinds & REAL - {own})
        return set() if free else {own}

    def scratch(self, step: int) -> int:
        """Return the bytes of scratch that an op needs."""
        return aligned(OPS[self.graph.ops[step].code].scratch(self.graph.ops[step]))

    def noises(self, op: Op, dtype: str) -> Noise:
        """Return the noise of storing the constants of an op in a type."""
        return self.sensitivity.weights.get((op.outputs[0].name, dtype), {})

    def roundings(self, held: Held, dtype: str) -> Noise:
        """Return the noise of storing a tensor in a type."""
        return self.sensitivity.stored.get((held.tensor.name, dtype), {})

    def real_result(self, held: Held) -> bool:
        """Whether an op on integers writes real numbers if nobody reads integers."""
        return held.writer.code in REAL_RESULTS or follows_readers(held.writer)

    def follows(self, held: Held) -> bool:
        """Whether a tensor has the very numbers of another one."""
        return held.writer is not None and keeps_grid(held.writer)

    def types(self, choice: Mapping[Op, str]) -> dict[Op, str]:
        """Return the type of every op that writes real numbers, of a choice by groups."""
        dtypes = {op: choice[head] for op, head in self.group.items()}
        producers, users = self.graph.producers(), self.graph.consumers()
        for op in self.graph.ops:
            if op.code == "reshape" and op.outputs[0].dtype == "fp32":
                source = dtypes.get(producers.get(op.inputs[0]))
                wanted = {dtypes[user] for user in users.get(op.outputs[0], ()) if user in dtypes}
                dtypes[op] = source or (wanted.pop() if len(wanted) == 1 else "fp32")
        return dtypes

    def evaluate(self, chosen: Mapping[Op, str]) -> tuple[float, Noise]:
        """Return (value of the objective in bytes, noise at each output) of a choice.

        Args:
            chosen: first op of a group -> type.
        """
        cost = self.cost(chosen)
        return cost.flash + max(cost.live, default=0) + TRAFFIC * cost.traffic, cost.noise

    def cost(self, chosen: Mapping[Op, str]) -> Cost:
        """Return what a choice costs, and how much it disturbs.

        Args:
            chosen: first op of a group -> type.
        """
        dtype = {op: chosen[head] for op, head in self.group.items()}
        noise: dict[str, float] = {}
        size, traffic, extra = 0, 0, 0
        live = [self.scratch(step) for step in range(len(self.graph.ops))]

        def add(more: Noise) -> None:
            for output, value in more.items():
                noise[output] = noise.get(output, 0.0) + value

        for op, kind in dtype.items():
            add(self.noises(op, kind))
        size += SEGMENT_BYTES * len({self.segment(op, index, dtype[op]) for readers in
                                     self.constants.values() for op, index in readers})
        for readers in self.constants.values():
            size += sum({dtype[op]: self.constant_bytes(op, index, dtype[op])
                         for op, index in readers}.values())
        for held in self.held:
            kinds = {dtype[op] for _, op in held.readers}
            own = dtype.get(held.writer, "")
            for number, (start, end, wanted) in enumerate(self.spans(held)):
                present = {dtype[op] for op in wanted}
                if number == 0:
                    present |= self.written(held, own, kinds)
                if held.output or not present:
                    present.add(self.kept(held, own))
                here = sum(held.bytes(kind) for kind in present)
                for step in range(max(start, 0), min(end, len(live))):
                    live[step] += here
                if number == 0:
                    extra += len(present) - 1
                    traffic += here
                    for kind in present:
                        if not (self.follows(held) and own == kind):
                            add(self.roundings(held, kind))
        return Cost(size + OP_BYTES * extra, live, traffic, noise)

    def kept(self, held: Held, own: str) -> str:
        """Return the type in which a tensor is kept that only the caller reads, or nobody."""
        if not own or own in INTEGERS and self.real_result(held):
            return "fp32"
        return own

    def spans(self, held: Held) -> list[tuple[int, int, list[Op]]]:
        """Cut the life of a tensor where its readers are: (first step, step behind the last, the
        readers from there on)."""
        spans, start = [], held.first
        for number, (step, _) in enumerate(held.readers):
            if step + 1 > start:
                spans.append((start, step + 1, [op for _, op in held.readers[number:]]))
                start = step + 1
        if held.last + 1 > start:
            spans.append((start, held.last + 1, []))
        return spans


def excess(noise: Noise, allowance: Mapping[str, float]) -> float:
    """Return the largest share of an output's allowance that a noise takes."""
    return max((value / allowance[output] if allowance[output] > 0 else
                (math.inf if value else 0.0) for output, value in noise.items()), default=0.0)
