"""Functions of quantized integers that are looked up."""
from __future__ import annotations

from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, count, float_types, i32, require, require_dtype)

ENTRIES = {"uint8": 256, "int16": 513}  # of the table for a dtype of x
RESULTS = {"uint8": ("uint8", "int16"), "int16": ("int16",)}
RUN = 4096  # elements a work-item of a CPU looks up
LONG = 256  # elements; a work-item with fewer shares a work-group


def infer_table(op: OpLike) -> Outputs:
    """y has the shape of x and the dtype of the table."""
    x, table = op.inputs
    require_dtype(x, tuple(ENTRIES), op)
    require_dtype(table, RESULTS[x.dtype], op)
    require(tuple(table.shape) == (ENTRIES[x.dtype],), op,
            f"{table.name} has the shape {table.shape}, needed ({ENTRIES[x.dtype]},) for {x.dtype}")
    return [(x.shape, table.dtype)]


def table(op: OpLike, facts: Facts) -> list[Launch]:
    """y = table[x]; of an int16 x the high 9 bits choose two entries, the low 7 a point between.

    x [...] uint8, table [256] uint8, int16 -> y [...] of the table's dtype; or x [...]
    int16, table [513] int16 -> y [...] int16: y = a + (((b - a) (x & 127) + 64) >> 7) with
    a, b = table[(x >> 7) + 256], table[(x >> 7) + 257].
    """
    (x, values), y = op.inputs, op.outputs[0]
    n = count(x.shape)
    run = RUN if facts.kind == "cpu" else facts.lanes
    kernel = "interpolated" if x.dtype == "int16" else "table"
    return [Launch("table", kernel, {"VEC": facts.lanes, **float_types(x, y)},
                   (-(-n // run), 1, 1), (x, values, y, i32(n), i32(run)),
                   facts.one if n >= LONG else None)]
