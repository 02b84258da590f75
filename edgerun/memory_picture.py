"""The arena over time as a picture of characters, for a terminal."""
from __future__ import annotations

from edgerun import memory_map, text
from edgerun.model import Model

ROWS, COLUMNS, WIDEST = 14, 100, 3  # WIDEST: columns of an op
SHADES = "█▓▒░"  # tensors that touch differ


def picture(model: Model) -> list[str]:
    """Return lines: the arena from its top to byte 0, the ops from left to right.

    A cell shows what covers its middle; a column stands for several ops where there are many.
    """
    arena, steps = model.plan.arena_bytes, len(model.ops) + 2
    if not arena:
        return []
    columns = min(steps * WIDEST, COLUMNS // steps * steps or COLUMNS)
    cells = [[" "] * columns for _ in range(ROWS)]
    for number, block in enumerate(memory_map.blocks(model)):
        for row in range(ROWS):
            byte = (row + 0.5) * arena / ROWS
            if not block.offset <= byte < block.offset + block.bytes:
                continue
            for column in range(columns):
                first, last = column * steps // columns, ((column + 1) * steps - 1) // columns
                if block.first + 1 <= max(first, last) and first <= block.last + 1:
                    cells[row][column] = SHADES[number % len(SHADES)]
    labels = {ROWS - 1: text.size(arena), ROWS // 2: text.size(arena / 2), 0: "0 B"}
    width = max(len(label) for label in labels.values())
    lines = [f"{labels.get(row, ''):>{width}} |{''.join(cells[row])}"
             for row in range(ROWS - 1, -1, -1)]
    peak = (model.plan.peak_op + 1) * columns // steps
    lines.append(" " * width + " +" + "-" * peak + "^" + "-" * (columns - peak - 1))
    return [line.rstrip() for line in lines]
