"""Place blocks one by one at the lowest free place, in an order; and search for a good order."""
from __future__ import annotations

import random

from edgerun.tools.plan.blocks import Block

SEARCH_ROUNDS = 2000


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


def search(blocks: list[Block], best_order: list[Block], best: int, bound: int
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
