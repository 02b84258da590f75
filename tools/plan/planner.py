"""Choose the best placement that greedy orders, sweeps, a search and an exact solver find."""
from __future__ import annotations

from dataclasses import dataclass, field

from edgerun.tools.graph import Graph, Op, Tensor, Views
from edgerun.tools.plan.blocks import ALIGNMENT, Block, blocks_of, lower_bound
from edgerun.tools.plan.greedy import place, search
from edgerun.tools.plan.sweep import sweep

SWEEP_WIDTHS = (1, 4, 16, 64, 256)
SWEEP_LAYOUTS = 150_000  # largest width times blocks: about two seconds
STARTS = 2  # orders that the search over orders begins with
EXACT_SECONDS = 20.0


@dataclass
class Plan:
    """Where everything lies.

    Attributes:
        arena_bytes: of the arena.
        lower_bound_bytes, peak_op: largest sum of live bytes, and the op where it is met.
        offsets: root tensor -> bytes from the start of the arena.
        scratch: op -> (offset, bytes) of its scratch.
        proven: no arena can be smaller for this order of ops.
    """
    arena_bytes: int
    lower_bound_bytes: int
    peak_op: int
    offsets: dict[Tensor, int]
    scratch: dict[Op, tuple[int, int]] = field(default_factory=dict)
    proven: bool = False


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
    tops = {}
    for number, order in enumerate(orders):
        tops[number] = place(order)
        if tops[number] == bound:
            return bound
    widths = [w for w in SWEEP_WIDTHS if w * len(blocks) <= SWEEP_LAYOUTS]
    if any(sweep(blocks, bound, width) for width in widths):
        return bound
    ranked = sorted(tops, key=tops.get)
    best = place(orders[ranked[0]])
    best = search(blocks, [orders[number] for number in ranked[:STARTS]], best, bound)
    low, high = bound, best
    while best > bound and widths and high - low > bound // 64 + ALIGNMENT:
        middle = (low + high) // 2 // ALIGNMENT * ALIGNMENT
        if sweep(blocks, middle, widths[-1]):
            high = middle
        else:
            low = middle
    return max(b.offset + b.size for b in blocks)


def prove(blocks: list[Block], bound: int, arena: int, seconds: float = EXACT_SECONDS
          ) -> tuple[int, bool]:
    """Return the arena size, perhaps smaller, and whether it is proven to be the smallest.

    Args:
        blocks: placed; see exact.improve().
        bound, arena: in bytes.
        seconds: most time to spend.
    """
    if arena == bound:
        return arena, True
    from edgerun.tools.plan import exact  # SciPy's solvers take 0.3 s to import, rarely needed
    return exact.improve(blocks, bound, arena, seconds)


def plan(graph: Graph, views: Views, seconds: float = EXACT_SECONDS) -> Plan:
    """Plan the arena of a graph.

    Args:
        graph, views: as for blocks_of().
        seconds: most time for the exact solver, where the other searches do not meet the bound.
    """
    blocks, scratch = blocks_of(graph, views)
    everything = [*blocks.values(), *scratch.values()]
    bound, peak = lower_bound(everything)
    arena = solve(everything, bound) if everything else 0
    arena, proven = prove(everything, bound, arena, seconds)
    return Plan(arena, bound, min(peak, len(graph.ops) - 1),
                {tensor: block.offset for tensor, block in blocks.items()},
                {op: (block.offset, block.size) for op, block in scratch.items()}, proven)
