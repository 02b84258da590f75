"""Plan the arena: a place for activations and scratch, and the bound no plan can beat."""
from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest vector a kernel loads
SEARCH_ROUNDS = 2000
SWEEP_WIDTHS = (1, 4, 16, 64, 256)
SWEEP_LAYOUTS = 150_000  # largest width times blocks: about two seconds


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


def sweep(blocks: list[Block], capacity: int, width: int) -> bool:
    """Place the blocks into `capacity` bytes in the order of time, if that succeeds.

    What is live is all that later blocks depend on. So this keeps the `width` best layouts of live
    blocks (a beam search), and tries each block at both ends of every gap.

    Returns:
        Whether all blocks have a place; if not, none is changed.
    """
    order = sorted(blocks, key=lambda b: (b.first, -b.last, -b.size))
    beam: list[tuple[tuple, tuple | None]] = [((), None)]  # (offset, end, last)..., path back
    for block in order:
        found: dict[tuple, tuple] = {}
        for layout, path in beam:
            live = [place for place in layout if place[2] >= block.first]
            for start, end in _gaps(live, capacity):
                for at in {start, end - block.size} if end - start >= block.size else ():
                    grown = tuple(sorted([*live, (at, at + block.size, block.last)]))
                    found.setdefault(grown, (at, path))
        beam = sorted(found.items(), key=lambda item: sum(
            (end - start) ** 2 for start, end in _gaps(item[0], capacity)), reverse=True)[:width]
    if not beam:
        return False
    path = beam[0][1]
    for block in reversed(order):
        block.offset, path = path
    return True


def _gaps(live: Iterable[tuple[int, int, int]], capacity: int) -> list[tuple[int, int]]:
    """Return (start, end) of the free places between sorted live blocks."""
    gaps, at = [], 0
    for start, end, _ in live:
        gaps.append((at, start))
        at = end
    return [*gaps, (at, capacity)]


def solve(blocks: list[Block], bound: int) -> int:
    """Place the blocks well: several greedy orders, then sweeps and a seeded search over orders.

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
            return place(best_order)
    widths = [w for w in SWEEP_WIDTHS if w * len(blocks) <= SWEEP_LAYOUTS]
    if any(sweep(blocks, bound, width) for width in widths):
        return bound
    best_order, best = _search(blocks, best_order, best, bound)
    low, high = bound, best
    while widths and high - low > bound // 64 + ALIGNMENT:
        middle = (low + high) // 2 // ALIGNMENT * ALIGNMENT
        if sweep(blocks, middle, widths[-1]):
            high = middle
        else:
            low = middle
    if high == best:
        return place(best_order)
    sweep(blocks, high, widths[-1])
    return max(b.offset + b.size for b in blocks)


def _search(blocks: list[Block], best_order: list[Block], best: int, bound: int
            ) -> tuple[list[Block], int]:
    """Return the best order found, and its arena size, among small changes of an order."""
    rng = random.Random(0)
    rounds = 0 if len(blocks) < 3 else min(SEARCH_ROUNDS, 4_000_000 // len(blocks) ** 2 + 50)
    for _ in range(rounds):
        order = list(best_order)
        for _ in range(rng.choice((1, 1, 2, 3))):
            order.insert(rng.randrange(len(order)), order.pop(rng.randrange(len(order))))
        top = place(order)
        if top <= best:
            best_order, best = order, top
        if best == bound:
            break
    return best_order, best


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
