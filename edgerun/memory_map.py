"""What lies where in the arena at which op, and which constants the file holds: for pictures."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.model import Model, Op
from edgerun.ops import OPS
from edgerun.validate import lifetimes

INPUT, OUTPUT, SCRATCH, INNER = "input", "output", "scratch", "activation"


@dataclass(frozen=True)
class Block:
    """A tensor, or the scratch of an op, in the arena.

    Attributes:
        name: of the tensor, or "scratch of <op>".
        role: INPUT, OUTPUT, SCRATCH or INNER.
        dtype, shape: of the tensor.
        offset, bytes: its place in the arena.
        first, last: the ops between which it exists, both included; -1 is before the first op, the
            number of ops is after the last.
    """
    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Constant:
    """A constant in the file: the op that reads it first, what it is for, and its bytes."""
    op: int
    code: str
    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def blocks(model: Model) -> list[Block]:
    """Return everything that has a place in the arena, in the order in which it comes to exist."""
    inputs = {model.root_of(model.tensors[index]).index
              for info in model.inputs for index in info.tensors}
    outputs = {model.root_of(model.tensors[info.tensor]).index for info in model.outputs}
    found = []
    for index, (first, last) in lifetimes(model).items():
        tensor = model.tensors[index]
        role = INPUT if index in inputs else OUTPUT if index in outputs else INNER
        found.append(Block(tensor.name, role, tensor.dtype, tensor.shape, tensor.offset,
                           tensor.bytes, first, last))
    found += [Block(f"scratch of {op.name}", SCRATCH, "", (op.scratch_bytes,), op.scratch_offset,
                    op.scratch_bytes, op.index, op.index) for op in model.ops if op.scratch_bytes]
    return sorted(found, key=lambda block: (block.first, block.offset))


def live_bytes(model: Model) -> list[int]:
    """Return the bytes that exist before the first op, at every op, and after the last."""
    changes = [0] * (len(model.ops) + 3)
    for block in blocks(model):
        size = -(-block.bytes // model.plan.alignment) * model.plan.alignment
        changes[block.first + 1] += size
        changes[block.last + 2] -= size
    live, total = [], 0
    for change in changes[:-1]:
        total += change
        live.append(total)
    return live


def constants(model: Model) -> list[Constant]:
    """Return every constant once, with the first op that reads it."""
    seen: set[tuple[int, int]] = set()
    found = []
    for op in model.ops:
        for number, tensor in enumerate(op.inputs):
            if tensor is None or not tensor.constant or (tensor.segment, tensor.offset) in seen:
                continue
            seen.add((tensor.segment, tensor.offset))
            found.append(Constant(op.index, op.code, tensor.name, _role(op, number), tensor.dtype,
                                  tensor.shape, tensor.bytes))
    return found


def _role(op: Op, number: int) -> str:
    planes = {index for held in OPS[op.code].planes(op) for index in held} or {1}
    return "weights" if number in planes and OPS[op.code].macs(op) else "constant"
