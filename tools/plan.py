"""Plan the arena: a place for activations and scratch, and the bound no plan can beat."""
from __future__ import annotations

import random
from dataclasses import dataclass, field

from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest vector a kernel loads
SEARCH_ROUNDS = 2000


@dataclass(eq=False)
class Block:
    """Something that needs `size` bytes (aligned) from op `first` to op `last`, both included."""
    size: int
    first: int
    last: int
    offset: int = -1


@dataclass
class Plan:
    """Offsets in bytes per root tensor and per op's scratch, arena size, bound and peak op."""
    arena_bytes: int
    lower_bound_bytes: int
    peak_op: int
    offsets: dict[Tensor, int]
    scratch: dict[Op, tuple[int, int]] = field(default_factory=dict)


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


def place(order: list[Block]) -> int:
    """Give each block, in this order, the lowest free place; returns the bytes used."""
    placed: list[Block] = []
    top = 0
    for block in order:
        at = 0
        for other in placed:  # kept sorted by offset
            if other.first <= block.last and block.first <= other.last:
                if at + block.size <= other.offset:
                    break
                at = max(at, other.offset + other.size)
        block.offset = at
        top = max(top, at + block.size)
        placed.append(block)
        placed.sort(key=lambda b: b.offset)
    return top


def solve(blocks: list[Block], bound: int) -> int:
    """Place the blocks well: several greedy orders, then a seeded search over orders.

    Returns:
        The arena size in bytes; each block's offset is set.
    """
    orders = [
        sorted(blocks, key=lambda b: (-b.size, b.first)),
        sorted(blocks, key=lambda b: (-b.size * (b.last - b.first + 1), b.first)),
        sorted(blocks, key=lambda b: (b.first, -b.size)),
        sorted(blocks, key=lambda b: (-(b.last - b.first), -b.size)),
        sorted(blocks, key=lambda b: (-b.last, -b.size)),
    ]
    best_order, best = [], None
    for order in orders:
        top = place(order)
        if best is None or top < best:
            best_order, best = order, top
        if best == bound:
            break
    rng = random.Random(0)
    rounds = 0 if best == bound or len(blocks) < 3 else min(
        SEARCH_ROUNDS, 4_000_000 // len(blocks) ** 2 + 50)
    for _ in range(rounds):
        order = list(best_order)
        for _ in range(rng.choice((1, 1, 2, 3))):
            order.insert(rng.randrange(len(order)), order.pop(rng.randrange(len(order))))
        top = place(order)
        if top <= best:
            best_order, best = order, top
        if best == bound:
            break
    return place(best_order)


def blocks_of(graph: Graph, aliases: dict[Tensor, Tensor],
              ) -> tuple[dict[Tensor, Block], dict[Op, Block]]:
    """Return what must have a place in the arena: root tensors, and scratch of ops.

    Args:
        graph: ops in execution order.
        aliases: tensor -> the root tensor whose bytes it uses.
    """
    blocks: dict[Tensor, Block] = {}

    def use(tensor: Tensor, step: int) -> None:
        if tensor.constant:
            return
        root = aliases.get(tensor, tensor)
        if root.constant:
            return
        block = blocks.setdefault(root, Block(aligned(root.bytes), step, step))
        block.first, block.last = min(block.first, step), max(block.last, step)

    for boundary in graph.inputs:
        use(boundary.tensor, -1)
    for step, op in enumerate(graph.ops):
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                use(tensor, step)
    for boundary in graph.outputs:
        use(boundary.tensor, len(graph.ops))
    scratch = {op: Block(aligned(OPS[op.code].scratch(op)), step, step)
               for step, op in enumerate(graph.ops) if OPS[op.code].scratch(op)}
    return blocks, scratch


def plan(graph: Graph, aliases: dict[Tensor, Tensor]) -> Plan:
    """Plan the arena of a graph; arguments as for blocks_of()."""
    blocks, scratch = blocks_of(graph, aliases)
    everything = [*blocks.values(), *scratch.values()]
    bound, peak = lower_bound(everything)
    arena = solve(everything, bound) if everything else 0
    return Plan(arena, bound, min(peak, len(graph.ops) - 1),
                {tensor: block.offset for tensor, block in blocks.items()},
                {op: (block.offset, block.size) for op, block in scratch.items()})
