"""Ops that pick elements by index, run backwards or add up along an axis."""
from __future__ import annotations

import math

import numpy as np

from edgerun.tools.graph import Tensor
from edgerun.tools.importers.tflite.context import Context, Rule
from edgerun.tools.importers.tflite.source import SourceOp


def _flat(ctx: Context, op: SourceOp, positions: list[Tensor], sizes: tuple[int, ...]) -> Tensor:
    """Return sum of positions_k * (product of sizes behind k), int32."""
    total = positions[-1]
    for k, position in enumerate(positions[:-1]):
        step = ctx.graph.constant(np.int32(math.prod(sizes[k + 1:])), "step")
        scaled = ctx.add("binary", [position, step], op, kind="mul")
        total = ctx.add("binary", [total, scaled], op, kind="add")
    return total


def gather(ctx: Context, op: SourceOp) -> Tensor:
    """Entries of one axis by index; with batch_dims, leading axes that x and the indices share."""
    x, indices = ctx.input(op, 0), ctx.input(op, 1)
    axis = ctx.axis(op, op.option("Axis"), len(x.shape))
    batch = op.option("BatchDims")
    batch += len(indices.shape) if batch < 0 else 0
    if not batch:
        return ctx.add("gather", [x, indices], op, axis=axis)
    if not 0 < batch <= min(axis, len(indices.shape)) or x.shape[:batch] != indices.shape[:batch]:
        raise ctx.damaged(op, f"batch_dims {batch} and axis {axis} of {x.shape} by the indices "
                              f"{indices.shape}")
    order = [k for k in range(len(x.shape)) if k != axis]
    order.insert(batch, axis)
    turned = ctx.transpose(x, order, op)
    batches, n, picked = math.prod(x.shape[:batch]), x.shape[axis], indices.shape[batch:]
    first = ctx.graph.constant(np.arange(batches, dtype=np.int32)[:, None] * np.int32(n), "first")
    rows = ctx.add("binary", [ctx.reshape(indices, (batches, math.prod(picked)), op), first], op,
                   kind="add")
    y = ctx.add("gather", [ctx.reshape(turned, (batches * n, *turned.shape[batch + 1:]), op), rows],
                op, axis=0)
    y = ctx.reshape(y, (*x.shape[:batch], *picked, *turned.shape[batch + 1:]), op)
    front = [*range(batch), *range(batch + len(picked), axis + len(picked))]
    return ctx.transpose(y, (*front, *range(batch, batch + len(picked)),
                             *range(axis + len(picked), len(y.shape))), op)


def gather_nd(ctx: Context, op: SourceOp) -> Tensor:
    """x [d_0 .. d_k-1, rest], indices [.., k]: the rest at the position each index row names."""
    x, indices = ctx.input(op, 0), ctx.input(op, 1)
    depth = indices.shape[-1] if indices.shape else 0
    if not 0 < depth <= len(x.shape):
        raise ctx.damaged(op, f"indices of the shape {indices.shape} into {x.shape}")
    outer, last = indices.shape[:-1], len(indices.shape) - 1
    positions = [ctx.reshape(ctx.slice(indices, [0] * last + [k], [*outer, 1], op), outer, op)
                 for k in range(depth)]
    table = ctx.reshape(x, (math.prod(x.shape[:depth]), *x.shape[depth:]), op)
    return ctx.add("gather", [table, _flat(ctx, op, positions, x.shape[:depth])], op, axis=0)


def embedding_lookup(ctx: Context, op: SourceOp) -> Tensor:
    """Indices, table: entries of the table's first axis."""
    return ctx.add("gather", [ctx.input(op, 1), ctx.input(op, 0)], op, axis=0)


def one_hot(ctx: Context, op: SourceOp) -> Tensor:
    """Indices, depth, on, off: a new axis, `on` where its position is the index."""
    indices, sizes = ctx.input(op, 0), ctx.ints(op, 1, "the depth")
    axis, depth = op.option("Axis"), sizes[0]
    axis = len(indices.shape) if axis == -1 else axis
    if not 0 <= axis <= len(indices.shape) or len(sizes) != 1 or depth < 1:
        raise ctx.damaged(op, f"axis {axis} of {len(indices.shape) + 1} dimensions, depth {sizes}")
    ctx.limit(op, depth)
    wide = ctx.reshape(indices, indices.shape[:axis] + (1,) + indices.shape[axis:], op)
    position = np.arange(depth, dtype=np.int32).reshape(-1, *[1] * (len(indices.shape) - axis))
    hit = ctx.add("binary", [wide, ctx.graph.constant(position, "position")], op, kind="equal")
    return ctx.add("where", [hit, ctx.input(op, 2), ctx.input(op, 3)], op)


def reverse_v2(ctx: Context, op: SourceOp) -> Tensor:
    """x backwards along some axes."""
    x = ctx.input(op, 0)
    axes = {ctx.axis(op, axis, len(x.shape)) for axis in ctx.ints(op, 1, "the axes")}
    starts = [n - 1 if axis in axes else 0 for axis, n in enumerate(x.shape)]
    steps = [-1 if axis in axes and n > 1 else 1 for axis, n in enumerate(x.shape)]
    return ctx.slice(x, starts, x.shape, op, steps)


def cumsum(ctx: Context, op: SourceOp) -> Tensor:
    """Sums of everything up to each position, by doubling: log2(n) shifted additions."""
    x, axes = ctx.input(op, 0), ctx.ints(op, 1, "the axis")
    axis, backwards = ctx.axis(op, axes[0], len(x.shape)), bool(op.option("Reverse"))
    n = x.shape[axis]

    def shifted(y: Tensor, by: int) -> Tensor:
        starts = [by if backwards and k == axis else 0 for k in range(len(y.shape))]
        sizes = [size - by if k == axis else size for k, size in enumerate(y.shape)]
        amounts = tuple(by if k == axis else 0 for k in range(len(y.shape)))
        none = (0,) * len(y.shape)
        before, after = (none, amounts) if backwards else (amounts, none)
        return ctx.add("pad", [ctx.slice(y, starts, sizes, op)], op, mode="constant",
                       before=before, after=after)

    y = x
    if op.option("Exclusive"):
        y = (shifted(x, 1) if n > 1 else
             ctx.graph.constant(np.zeros(x.shape, ctx.output_type(op)), op.name))
    step = 1
    while step < n:
        y = ctx.add("binary", [y, shifted(y, step)], op, kind="add")
        step *= 2
    return y


RULES: dict[str, Rule] = {
    "GATHER": Rule(gather, (2, 2)),
    "GATHER_ND": Rule(gather_nd, (2, 2)),
    "EMBEDDING_LOOKUP": Rule(embedding_lookup, (2, 2)),
    "ONE_HOT": Rule(one_hot, (4, 4)),
    "REVERSE_V2": Rule(reverse_v2, (2, 2)),
    "CUMSUM": Rule(cumsum, (2, 2)),
}
