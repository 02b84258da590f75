"""ONNX ops that read or write elements at given indices, and running sums and products."""
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
    depth = int(node.single(1, "depth"))
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
    if not 0 <= batch < min(len(x.shape), len(shape)) or shape[:batch] != x.shape[:batch]:
        raise ModelError(f"{batch} batch axes do not fit the shapes {x.shape} and {shape}")
    depth = batch + shape[-1]
    if not batch < depth <= len(x.shape):
        raise ModelError(f"index tuples of {shape[-1]} numbers do not fit the shape {x.shape}")
    need(0 not in shape, "its output has no elements")
    batches = np.meshgrid(*(np.arange(n) for n in shape[:-1]), indexing="ij")[:batch]
    if node.value(1).known:
        indices = np.concatenate([*(b[..., None] for b in batches), node.value(1).array], axis=-1)
        at = ctx.constant(_places(indices, x.shape))
    else:
        at = _places_at_run_time(ctx, ctx.tensor(1), x.shape[batch:depth])
        if batch:
            first = np.ravel_multi_index(tuple(batches), x.shape[:batch])
            first = first * math.prod(x.shape[batch:depth])
            at = binary(ctx, "add", at, ctx.constant(first.astype(np.int32)))
    rows = ctx.reshape(x, (math.prod(x.shape[:depth]), *x.shape[depth:]))
    return ctx.add("gather", [rows, at], axis=0)


def _places_at_run_time(ctx: Context, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what _places() does for index tuples that are computed at run time."""
    strides = [math.prod(shape[axis + 1:]) for axis in range(len(shape))]
    at = binary(ctx, "floor_mod", cast(ctx, indices, "int32"),  # negative: from the end
                ctx.constant(np.array(shape, np.int32)))
    if len(shape) == 1:
        return ctx.reshape(at, indices.shape[:-1])
    at = binary(ctx, "mul", at, ctx.constant(np.array(strides, np.int32)))
    return ctx.add("reduce", [at], kind="sum", axes=[len(indices.shape) - 1], keep_dims=False)


def _element_places(shape: Sequence[int], indices: Sequence[int], axis: int) -> np.ndarray:
    """Return the places in a flattened shape of elements whose index along the axis is 0.

    Args:
        shape: of what is indexed.
        indices: shape of the indices.
        axis: along which they count.

    Raises:
        ModelError: the shapes do not fit.
    """
    if len(shape) != len(indices) or any(
            i > n for at, (i, n) in enumerate(zip(indices, shape)) if at != axis):
        raise ModelError(f"indices of the shape {tuple(indices)} do not fit {tuple(shape)}")
    grid = [np.arange(1 if at == axis else n) for at, n in enumerate(indices)]
    places = np.ravel_multi_index(np.ix_(*grid), tuple(shape))
    return np.broadcast_to(places, tuple(indices)).astype(np.int32)


def _gather_elements(ctx: Context, node: Node) -> Tensor | np.ndarray:
    """y[i, j, k] = x[i, index[i, j, k], k] for axis 1."""
    shape = node.shape(0)
    axis = normal_axis(node.attr("axis", 0), len(shape))
    places = _element_places(shape, node.shape(1), axis)
    need(0 not in places.shape, "its output has no elements")
    stride = math.prod(shape[axis + 1:])
    if node.value(1).known:
        places = places + stride * _wrapped(node.value(1).array, shape[axis])
        if node.value(0).known:
            return node.value(0).array.reshape(-1)[places]
        at = ctx.constant(places.astype(np.int32))
    else:  # an index from the end is negative
        at = binary(ctx, "floor_mod", cast(ctx, ctx.tensor(1), "int32"),
                    ctx.constant(np.int32(shape[axis])))
        if stride > 1:
            at = binary(ctx, "mul", at, ctx.constant(np.int32(stride)))
        if places.any():
            at = binary(ctx, "add", at, ctx.constant(places))
    return ctx.add("gather", [ctx.reshape(ctx.tensor(0), (math.prod(shape),)), at], axis=0)


def _wrapped(indices: np.ndarray, size: int) -> np.ndarray:
    """Return indices counted from the front.

    Raises:
        ModelError: one lies outside.
    """
    if not ((indices >= -size) & (indices < size)).all():
        raise ModelError(f"an index is not in -{size} to {size - 1}")
    return np.where(indices < 0, indices + size, indices)


def _scatter_elements(ctx: Context, node: Node) -> Tensor:
    """y = x, but y[i, index[i, j, k], k] = updates[i, j, k] for axis 1."""
    x, updates = ctx.tensor(0), ctx.tensor(2)
    indices = node.known(1, "index input")
    axis = normal_axis(node.attr("axis", 0), len(x.shape))
    places = _element_places(x.shape, indices.shape, axis)
    if updates.shape != indices.shape:
        raise ModelError(f"updates of the shape {updates.shape} do not fit {indices.shape}")
    places = places + math.prod(x.shape[axis + 1:]) * _wrapped(indices, x.shape[axis])
    return _combined(ctx, node, x, updates, places, len(x.shape))


def _scatter_nd(ctx: Context, node: Node) -> Tensor:
    """y = x, but the rows that the indices name come from the updates."""
    x, updates = ctx.tensor(0), ctx.tensor(2)
    indices = node.known(1, "index input")
    places = _places(indices, x.shape)
    depth = indices.shape[-1]
    rest = x.shape[depth:]
    if updates.shape != places.shape + rest:
        raise ModelError(f"the shapes {indices.shape} and {updates.shape} of its indices and "
                         f"updates do not fit {x.shape}")
    box = _box(places, x.shape[:depth])
    if box is not None and node.attr("reduction", "none") == "none":
        starts, sizes = box
        return _put(ctx, x, ctx.reshape(updates, (*sizes, *rest)), starts)
    return _combined(ctx, node, x, updates, places, depth)


def _combined(ctx: Context, node: Node, x: Tensor, updates: Tensor, places: np.ndarray, depth: int
              ) -> Tensor:
    """Return x with rows replaced by the updates, or by what a reduction makes of both.

    A place that is named several times takes part in as many rounds.
    """
    reduction = node.attr("reduction", "none")
    if reduction == "none":
        return put_rows(ctx, x, updates, places, depth)
    if reduction not in ("add", "mul", "min", "max"):
        raise ModelError(f"reduction {reduction!r} is not known")
    count, rest, flat = math.prod(x.shape[:depth]), x.shape[depth:], places.reshape(-1)
    rows = ctx.reshape(x, (count, *rest))
    updates = ctx.reshape(updates, (flat.size, *rest))
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], flat[order])
    turns = np.empty(flat.size, np.int64)
    turns[order] = np.arange(flat.size) - first
    for turn in range(int(turns.max()) + 1):
        chosen = np.flatnonzero(turns == turn)
        now = ctx.add("gather", [rows, ctx.constant(flat[chosen].astype(np.int32))], axis=0)
        new = ctx.add("gather", [updates, ctx.constant(chosen.astype(np.int32))], axis=0)
        rows = put_rows(ctx, rows, binary(ctx, reduction, now, new), flat[chosen], 1)
    return ctx.reshape(rows, x.shape)


def put_rows(ctx: Context, x: Tensor, updates: Tensor, places: np.ndarray, depth: int) -> Tensor:
    """Return x with rows replaced, at places of its flattened first `depth` axes."""
    count, rest = math.prod(x.shape[:depth]), x.shape[depth:]
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


def _cumulative(kind: str, neutral: int):
    """Return the function of CumSum or CumProd: y[i] = x[0] + ... + x[i], by adding x shifted by 1,
    2, 4, ..."""
    def function(ctx: Context, node: Node) -> Tensor:
        x = ctx.tensor(0)
        axis = normal_axis(int(node.single(1, "axis")), len(x.shape))
        reverse = bool(node.attr("reverse", 0))
        if node.attr("exclusive", 0):
            if x.shape[axis] == 1:
                return ctx.constant(np.full(x.shape, neutral), like=x)
            x = _shifted(ctx, x, axis, 1, reverse, neutral)
        shift = 1
        while shift < x.shape[axis]:
            x = binary(ctx, kind, x, _shifted(ctx, x, axis, shift, reverse, neutral))
            shift *= 2
        return x
    return function


def _shifted(ctx: Context, x: Tensor, axis: int, shift: int, back: bool, fill: int) -> Tensor:
    """Return x moved along the axis, what fills it behind it."""
    kept = cut(ctx, x, axis, shift if back else 0, x.shape[axis] - shift)
    amount = [shift if at == axis else 0 for at in range(len(x.shape))]
    none = [0] * len(x.shape)
    return ctx.add("pad", [kept], mode="constant", before=none if back else amount,
                   after=amount if back else none, value=float(fill))


TABLE = {"OneHot": _one_hot, "GatherND": _gather_nd, "GatherElements": _gather_elements,
         "ScatterND": _scatter_nd, "ScatterElements": _scatter_elements,
         "Scatter": _scatter_elements, "CumSum": _cumulative("add", 0),
         "CumProd": _cumulative("mul", 1)}
