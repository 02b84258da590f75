"""The smallest arena, proven: an integer program of which of two blocks lies below the other.

For every two blocks that are live at once: offset_i + size_i <= offset_j, or the reverse.
"""
from __future__ import annotations

import math

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from edgerun.tools.plan.blocks import Block

MAX_PAIRS = 3000  # of blocks live at once: beyond that no proof ends in the time there is


def improve(blocks: list[Block], bound: int, arena: int, seconds: float) -> tuple[int, bool]:
    """Search an arena below a known one until none can exist, or the time is over.

    Args:
        blocks: placed; offsets are changed where a smaller arena is found.
        bound: the largest sum of live bytes.
        arena: of the placement.
        seconds: most time to spend.

    Returns:
        Bytes of the arena, and whether it is proven that none is smaller.
    """
    pairs = [(i, j) for i, a in enumerate(blocks) for j, b in enumerate(blocks[:i])
             if a.first <= b.last and b.first <= a.last]
    if len(pairs) > MAX_PAIRS:
        return arena, False
    unit = math.gcd(*(block.size for block in blocks))
    sizes = np.array([block.size // unit for block in blocks])
    # variables: an offset per block, the arena, and per pair whether the first lies below
    n, top = len(blocks), arena // unit
    rows, low = [], []
    for k, (i, j) in enumerate(pairs):
        rows.append({j: 1, i: -1, n + 1 + k: -top})  # below: offset_j - offset_i >= size_i
        low.append(sizes[i] - top)
        rows.append({i: 1, j: -1, n + 1 + k: top})
        low.append(sizes[j])
    for i in range(n):
        rows.append({n: 1, i: -1})
        low.append(sizes[i])
    entries = [(r, c, v) for r, row in enumerate(rows) for c, v in row.items()]
    r, c, v = zip(*entries)
    count = n + 1 + len(pairs)
    result = milp(
        c=np.eye(1, count, n)[0],
        constraints=LinearConstraint(coo_matrix((v, (r, c)), (len(rows), count)).tocsr(), low),
        integrality=np.ones(count),
        bounds=Bounds([0] * n + [-(-bound // unit)] + [0] * len(pairs),
                      [top] * (n + 1) + [1] * len(pairs)),
        options={"time_limit": seconds})
    proven = result.status == 0
    if result.x is None:
        return arena, proven
    offsets = np.rint(result.x[:n]).astype(int)
    found = int((offsets + sizes).max()) * unit
    if found >= arena or not _valid(offsets, sizes, pairs):
        return arena, proven and found >= arena
    for block, offset in zip(blocks, offsets):
        block.offset = int(offset) * unit
    return found, proven


def _valid(offsets: np.ndarray, sizes: np.ndarray, pairs: list[tuple[int, int]]) -> bool:
    """Whether no two blocks overlap: the solver computes with rounded numbers."""
    return all(offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
               for i, j in pairs)
