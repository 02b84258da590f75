"""Place blocks in the order of time, keeping the best layouts of what is live (a beam search)."""
from __future__ import annotations

from collections.abc import Iterable

from edgerun.tools.plan.blocks import Block


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
