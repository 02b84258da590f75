"""Ops that pick elements by an index or by a condition, of any dtype."""
from __future__ import annotations

from edgerun import dtypes
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, broadcast, broadcast_strides, collapse, count, i32, int8_arg,
    normal_axis, require, require_dtype, require_same_dtype)
from edgerun.ops.copy import GROUPED, TILE


def infer_gather(op: OpLike) -> Outputs:
    """The axis of x gives way to the dimensions of the indices."""
    x, indices = op.inputs
    require_dtype(indices, ("int32",), op)
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar, needed at least 1 dimension")
    axis = normal_axis(op.options["axis"], len(x.shape), op)
    known = getattr(indices, "data", None)  # of a constant, while packing
    if known is not None:
        n = x.shape[axis]
        require(bool(((known >= -n) & (known < n)).all()), op,
                f"{indices.name} has values from {known.min()} to {known.max()}, needed {-n} to "
                f"{n - 1} for axis {axis} of {x.name}")
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1:]
    require(len(shape) <= 8, op, f"the result has {len(shape)} dimensions, at most 8 are possible")
    return [(shape, x.dtype)]


def gather(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., m, ...] = x[..., indices_m, ...], the index at `axis` of x.

    x [..., n, ...] any dtype, indices [...] int32 -> y [x.shape[:axis], indices.shape,
    x.shape[axis + 1:]]. A negative index counts from the end. An index outside -n .. n - 1 is
    refused while packing if it is a constant, and clamped to the nearest element otherwise.
    """
    x, indices = op.inputs
    axis = normal_axis(op.options["axis"], len(x.shape), op)
    outer, n, inner = count(x.shape[:axis]), x.shape[axis], count(x.shape[axis + 1:])
    total = count(indices.shape)
    run, picks = facts.lanes, 1
    if facts.kind == "cpu":
        run, picks = min(inner, TILE), max(1, TILE // inner)
    return [Launch("gather", "gather", {"SIZE": dtypes.size(x.dtype), "VEC": facts.lanes},
                   (-(-inner // run), -(-total // picks), outer),
                   (x, indices, op.outputs[0], i32(n), i32(inner), i32(total), i32(run),
                    i32(picks)),
                   facts.one if min(run, inner) * min(picks, total) >= GROUPED else None)]


def infer_where(op: OpLike) -> Outputs:
    """y has the broadcast shape of all three inputs, and the dtype of a and b."""
    condition, a, b = op.inputs
    require_dtype(condition, ("bool",), op)
    require_same_dtype(op, a, b)
    return [(broadcast(op, condition.shape, a.shape, b.shape), a.dtype)]


def where(op: OpLike, facts: Facts) -> list[Launch]:
    """y = a where the condition is true, else b, with NumPy broadcasting.

    condition [...] bool, a [...], b [...] any dtype, equal -> y [broadcast shape].
    """
    y = op.outputs[0]
    dims, steps = collapse(y.shape, *(broadcast_strides(t.shape, y.shape) for t in op.inputs))
    run = min(dims[-1], TILE) if facts.kind == "cpu" else 1
    return [Launch("gather", "where", {"SIZE": dtypes.size(y.dtype), "VEC": facts.lanes},
                   (-(-dims[-1] // run), count(dims[:-1]), 1),
                   (*op.inputs, y, int8_arg(dims, 1), *map(int8_arg, steps), i32(run)),
                   facts.one if run >= GROUPED else None)]
