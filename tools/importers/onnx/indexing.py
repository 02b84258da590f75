"""ONNX ops that read or write elements at given indices: OneHot, GatherND, ScatterND."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need, normal_axis
from edgerun.tools.importers.onnx.elementwise import binary, cast
from edgerun.tools.importers.onnx.movement import cut


def _one_hot(ctx: Context, node: Node) -> Tensor:
    """y = on where the index (or the index + depth) is the place along the new axis, else off."""
    indices = ctx.tensor(0)
    depth = int(node.known(1, "depth").reshape(-1)[0])
    values = node.value(2)
    need(depth > 0, "its output has no elements")
    axis = normal_axis(node.attr("axis", -1), len(indices.shape) + 1)
    indices = cast(ctx, ctx.reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:])),
                   "int32")
    places = np.arange(depth, dtype=np.int32).reshape(depth, *[1] * (len(indices.shape) - axis - 1))
    hot = binary(ctx, "or", binary(ctx, "equal", indices, ctx.constant(places)),
                 binary(ctx, "equal", indices, ctx.constant(places - np.int32(depth))))
    if values.known and np.array_equal(values.array, [0, 1]):
        return cast(ctx, hot, ctx.tensor(2).dtype)
    off, on = (ctx.reshape(cut(ctx, ctx.tensor(2), 0, i, 1), ()) for i in (0, 1))
    return ctx.add("where", [hot, on, off])


def _places(indices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return index tuples [..., k] as places in the flattened first k axes of a shape.

    Raises:
        ModelError: a tuple is too long, or an index lies outside.
    """
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= depth <= len(shape):
        raise ModelError(f"index tuples of {depth} numbers do not fit the shape {tuple(shape)}")
    sizes = np.array(shape[:depth])
    if indices.size and not ((indices >= -sizes) & (indices < sizes)).all():
        raise ModelError(f"an index lies outside of the shape {tuple(shape)}")
    wrapped = np.where(indices < 0, indices + sizes, indices)
    return np.ravel_multi_index(tuple(np.moveaxis(wrapped, -1, 0)), tuple(sizes)).astype(np.int32)


def _gather_nd(ctx: Context, node: Node) -> Tensor:
    x, batch = ctx.tensor(0), node.attr("batch_dims", 0)
    shape = node.shape(1)
    if not node.value(1).known and batch == 0 and shape[-1:] == (1,):
        return ctx.add("gather", [x, ctx.reshape(ctx.tensor(1), shape[:-1])], axis=0)
    indices = node.known(1, "index input")
    if not 0 <= batch < min(len(x.shape), indices.ndim) or indices.shape[:batch] != x.shape[:batch]:
        raise ModelError(f"{batch} batch axes do not fit the shapes {x.shape} and {shape}")
    need(0 not in shape, "its output has no elements")
    batches = np.meshgrid(*(np.arange(n) for n in shape[:-1]), indexing="ij")[:batch]
    indices = np.concatenate([*(b[..., None] for b in batches), indices], axis=-1)
    depth = indices.shape[-1]
    rows = ctx.reshape(x, (math.prod(x.shape[:depth]), *x.shape[depth:]))
    return ctx.add("gather", [rows, ctx.constant(_places(indices, x.shape))], axis=0)


def _scatter_nd(ctx: Context, node: Node) -> Tensor:
    """y = x, but the rows that the indices name come from the updates."""
    x, updates = ctx.tensor(0), ctx.tensor(2)
    need(node.attr("reduction", "none") == "none", f"reduction is {node.attr('reduction')!r}")
    indices = node.known(1, "index input")
    places = _places(indices, x.shape)
    depth = indices.shape[-1]
    rest = x.shape[depth:]
    if updates.shape != places.shape + rest:
        raise ModelError(f"the shapes {indices.shape} and {updates.shape} of its indices and "
                         f"updates do not fit {x.shape}")
    box = _box(places, x.shape[:depth])
    if box is not None:
        starts, sizes = box
        return _put(ctx, x, ctx.reshape(updates, (*sizes, *rest)), starts)
    count = math.prod(x.shape[:depth])
    both = ctx.add("concat", [ctx.reshape(x, (count, *rest)),
                              ctx.reshape(updates, (places.size, *rest))], axis=0)
    source = np.arange(count, dtype=np.int32)
    source[places.reshape(-1)] = np.arange(count, count + places.size)
    return ctx.reshape(ctx.add("gather", [both, ctx.constant(source)], axis=0), x.shape)


def _box(places: np.ndarray, shape: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Return the start and the size along each axis if the places are a box in row-major order."""
    axes = np.unravel_index(places.reshape(-1), tuple(shape))
    starts = [int(a.min()) for a in axes]
    sizes = [int(a.max()) - start + 1 for a, start in zip(axes, starts)]
    if math.prod(sizes) != places.size:
        return None
    grid = np.ravel_multi_index(np.ix_(*(np.arange(s, s + n) for s, n in zip(starts, sizes))),
                                tuple(shape))
    return (starts, sizes) if np.array_equal(grid.reshape(-1), places.reshape(-1)) else None


def _put(ctx: Context, x: Tensor, updates: Tensor, starts: Sequence[int]) -> Tensor:
    """Return x with a box of it, which starts at `starts`, replaced by the updates."""
    for axis, start in enumerate(starts):
        size, end = updates.shape[axis], start + updates.shape[axis]
        if size == x.shape[axis]:
            continue
        middle = updates
        if updates.shape[axis + 1:] != x.shape[axis + 1:]:
            inside = [*[0] * (axis + 1), *starts[axis + 1:]]
            middle = _put(ctx, cut(ctx, x, axis, start, size), updates, inside)
        parts = [middle]
        if start:
            parts.insert(0, cut(ctx, x, axis, 0, start))
        if end < x.shape[axis]:
            parts.append(cut(ctx, x, axis, end, x.shape[axis] - end))
        return ctx.add("concat", parts, axis=axis)
    return updates


TABLE = {"OneHot": _one_hot, "GatherND": _gather_nd, "ScatterND": _scatter_nd}
