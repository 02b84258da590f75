"""Place blocks one by one at the lowest free place, in an order; and search for a good order."""
from __future__ import annotations

import math
import random
from collections.abc import Sequence

from edgerun.tools.plan.blocks import Block

SEARCH_ROUNDS = 4000
SEARCH_STEPS = 12_000_000  # of all rounds: neighbours that are looked at; about five seconds
HEAT = 1 / 64  # of the bound: by how much a round may be worse at first, in bytes beyond it


def place(order: Sequence[Block]) -> int:
    """Give each block, in this order, the lowest free place; returns the bytes used."""
    return _place(order, neighbours(order))


def neighbours(blocks: Sequence[Block]) -> dict[Block, list[Block]]:
    """Return for each block the others that are live at the same time."""
    found: dict[Block, list[Block]] = {block: [] for block in blocks}
    for n, a in enumerate(blocks):
        for b in blocks[:n]:
            if a.first <= b.last and b.first <= a.last:
                found[a].append(b)
                found[b].append(a)
    return found


def _place(order: Sequence[Block], near: dict[Block, list[Block]]) -> int:
    top, placed = 0, set()
    for block in order:
        at = 0
        for start, end in sorted((other.offset, other.offset + other.size)
                                 for other in near[block] if other in placed):
            if at + block.size <= start:
                break
            at = max(at, end)
        block.offset = at
        top = max(top, at + block.size)
        placed.add(block)
    return top


def search(blocks: list[Block], orders: Sequence[list[Block]], best: int, bound: int) -> int:
    """Anneal orders until one meets the bound or the rounds are over; returns the arena's bytes.

    A block that ends beyond the bound, or one that it shares time with, is put elsewhere into the
    order. What is minimized are the bytes of all blocks beyond the bound: unlike the arena they
    tell one step from the next. Seeded: the same blocks get the same places.

    Args:
        blocks: offsets are set to the best that is found, if it is below `best`.
        orders: to start from, an equal number of rounds each.
        best: bytes of the best placement that is known.
        bound: where to stop.
    """
    near = neighbours(blocks)
    steps = sum(map(len, near.values())) + len(blocks)
    rounds = min(SEARCH_ROUNDS, SEARCH_STEPS // steps) // len(orders) if len(blocks) > 2 else 0
    found = None
    rng = random.Random(0)
    for order in orders:
        order = list(order)
        _place(order, near)
        beyond = _beyond(blocks, bound)
        for left in range(rounds, 0, -1):
            trial = list(order)
            for _ in range(rng.choice((1, 1, 2, 3))):
                _move(trial, list(beyond), near, rng)
            top = _place(trial, near)
            other = _beyond(blocks, bound)
            worse = sum(other.values()) - sum(beyond.values())
            heat = max(1, HEAT * bound * left / rounds)
            if worse <= 0 or rng.random() < math.exp(-worse / heat):
                order, beyond = trial, other
            if top < best:
                best, found = top, [block.offset for block in blocks]
            if best <= bound:
                break
        if best <= bound:
            break
    for block, offset in zip(blocks, found or ()):
        block.offset = offset
    return best


def _beyond(blocks: Sequence[Block], bound: int) -> dict[Block, int]:
    """Return the blocks that end beyond the bound, and by how many bytes."""
    return {block: block.offset + block.size - bound for block in blocks
            if block.offset + block.size > bound}


def _move(order: list[Block], beyond: list[Block], near: dict[Block, list[Block]],
          rng: random.Random) -> None:
    """Put a block elsewhere into an order: mostly one that is in the way."""
    block = rng.choice(order)
    if beyond and rng.random() < 0.7:
        block = rng.choice(beyond)
        if near[block] and rng.random() < 0.5:
            block = rng.choice(near[block])
    order.remove(block)
    if near[block] and rng.random() < 0.5:
        at = order.index(rng.choice(near[block]))
    else:
        at = rng.randrange(len(order) + 1)
    order.insert(at, block)
