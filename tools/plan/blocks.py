"""What must have a place in the arena, from when to when, and how much that is at least."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, Tensor, Views, root_of

ALIGNMENT = 64  # bytes: a cache line, and the widest vector a kernel loads


@dataclass(eq=False)
class Block:
    """Something that needs `size` bytes (aligned) from op `first` to op `last`, both included."""
    size: int
    first: int
    last: int
    offset: int = -1


def aligned(size: int) -> int:
    """Return bytes rounded up to ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lower_bound(blocks: list[Block]) -> tuple[int, int]:
    """Return the largest sum of live bytes and the op where it is met (-1 without blocks)."""
    best, peak = 0, -1
    for step in sorted({block.first for block in blocks}):
        live = sum(b.size for b in blocks if b.first <= step <= b.last)
        if live > best:
            best, peak = live, step
    return best, peak


def blocks_of(graph: Graph, views: Views) -> tuple[dict[Tensor, Block], dict[Op, Block]]:
    """Return what must have a place in the arena: root tensors, and scratch of ops.

    Args:
        graph: ops in execution order.
        views: where the tensors lie that have no bytes of their own.
    """
    blocks: dict[Tensor, Block] = {}

    def use(tensor: Tensor, step: int) -> None:
        if tensor.constant:
            return
        root = root_of(views, tensor)
        if root.constant:
            return
        block = blocks.setdefault(root, Block(aligned(root.bytes), step, step))
        block.first, block.last = min(block.first, step), max(block.last, step)

    for boundary in graph.inputs:
        if not boundary.pieces:  # they come right before the op that reads them
            use(boundary.tensor, -1)
    for tensor in graph.hidden():
        use(tensor, -1)
    for step, op in enumerate(graph.ops):
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                use(tensor, step)
    for boundary in graph.outputs:
        use(boundary.tensor, len(graph.ops))
    scratch = {op: Block(aligned(OPS[op.code].scratch(op)), step, step)
               for step, op in enumerate(graph.ops) if OPS[op.code].scratch(op)}
    return blocks, scratch
