"""ONNX ops that choose, sort or move whole rows, as gathers and comparisons."""
from __future__ import annotations

import math

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need, normal_axis
from edgerun.tools.importers.onnx.elementwise import INF, NARROW, binary, cast
from edgerun.tools.importers.onnx.indexing import put_rows

MOST_TOP = 128  # each of the largest takes ops of its own


def _counting(shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Return int32 that count along an axis and broadcast along the others."""
    return np.arange(shape[axis], dtype=np.int32).reshape(
        [-1 if at == axis else 1 for at in range(len(shape))])


def _lowest(dtype: str, largest: bool) -> np.ndarray:
    """Return what is never chosen."""
    if dtype in dtypes.FLOAT:
        return np.array(-INF if largest else INF, np.float32)
    info = np.iinfo(np.int32)
    return np.array(info.min if largest else info.max, np.int32)


def _top_k(ctx: Context, node: Node) -> list[Tensor]:
    """Take the largest, put it out of the way, take the next.

    Where what is left is as low as what is out of the way, the next is the first place not taken.
    """
    x = ctx.tensor(0)
    k = node.attr("k") if node.opset < 10 else int(node.single(1, "k"))
    axis = normal_axis(node.attr("axis", -1), len(x.shape))
    if k is None or not 0 <= k <= x.shape[axis]:
        raise ModelError(f"k is {k} for {x.shape[axis]} elements")
    need(k > 0, "its output has no elements")
    need(k <= MOST_TOP, f"k is {k}, needed at most {MOST_TOP}")
    largest = bool(node.attr("largest", 1))
    dtype, rest = x.dtype, x if x.dtype in dtypes.FLOAT else cast(ctx, x, "int32")
    places, gone, free = ctx.constant(_counting(x.shape, axis)), None, None
    reaches = dtype not in (*NARROW, "bool")  # as low as what is gone
    zero, one = (ctx.constant(np.int32(n)) if reaches and k > 1 else None for n in (0, 1))
    values, indices = [], []
    for number in range(k):
        index = ctx.add("arg", [rest], kind="max" if largest else "min", axis=axis, keep_dims=True)
        values.append(ctx.add("reduce", [rest], kind="max" if largest else "min", axes=[axis],
                              keep_dims=True))
        if free is not None:
            first = ctx.add("arg", [free], kind="max", axis=axis, keep_dims=True)
            index = ctx.add("where", [binary(ctx, "equal", values[-1], gone), first, index])
        indices.append(index)
        if number + 1 < k:
            gone = gone or ctx.constant(_lowest(rest.dtype, largest), like=rest)
            taken = binary(ctx, "equal", places, index)
            rest = ctx.add("where", [taken, gone, rest])
            if reaches:
                free = ctx.add("where", [taken, zero, free or one])
    joined = [parts[0] if k == 1 else ctx.add("concat", parts, axis=axis)
              for parts in (values, indices)]
    return [cast(ctx, joined[0], dtype), joined[1]]


def _hardmax(ctx: Context, node: Node) -> Tensor:
    """y = 1 at the first largest element, else 0."""
    x = ctx.tensor(0)
    shape, rank = x.shape, len(x.shape)
    axis = node.attr("axis", -1 if node.opset >= 13 else 1)
    if node.opset < 13:
        axis = rank if axis == rank else normal_axis(axis, rank)
        x = ctx.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
        axis = 1
    axis = normal_axis(axis, len(x.shape))
    first = ctx.add("arg", [x], kind="max", axis=axis, keep_dims=True)
    hot = binary(ctx, "equal", ctx.constant(_counting(x.shape, axis)), first)
    return ctx.reshape(cast(ctx, hot, x.dtype), shape)


def _compress(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    chosen = np.flatnonzero(node.known(1, "condition"))
    axis = node.attr("axis")
    if axis is None:
        x, axis = ctx.reshape(x, (math.prod(x.shape),)), 0
    axis = normal_axis(axis, len(x.shape))
    if chosen.size and chosen[-1] >= x.shape[axis]:
        raise ModelError(f"the condition chooses element {chosen[-1]} of {x.shape[axis]}")
    need(chosen.size > 0, "its output has no elements")
    return ctx.add("gather", [x, ctx.constant(chosen.astype(np.int32))], axis=axis)


def _reverse_sequence(ctx: Context, node: Node) -> Tensor:
    """y[t, n] = x[length_n - 1 - t, n] for t < length_n, else x[t, n]."""
    x, lengths = ctx.tensor(0), cast(ctx, ctx.tensor(1), "int32")
    time = normal_axis(node.attr("time_axis", 0), len(x.shape))
    batch = normal_axis(node.attr("batch_axis", 1), len(x.shape))
    if {time, batch} != {0, 1}:
        raise ModelError(f"its axes are {time} and {batch}, needed 0 and 1")
    if lengths.shape != (x.shape[batch],):
        raise ModelError(f"the lengths have the shape {lengths.shape}, needed {(x.shape[batch],)}")
    at = ctx.constant(_counting(x.shape[:2], time))
    lengths = ctx.reshape(lengths, (x.shape[0], 1) if batch == 0 else (1, x.shape[1]))
    last = binary(ctx, "sub", lengths, ctx.constant(np.int32(1)))
    at = ctx.add("where", [binary(ctx, "less", at, lengths), binary(ctx, "sub", last, at), at])
    stride = x.shape[1] if time == 0 else 1
    other = _counting(x.shape[:2], batch) * np.int32(x.shape[1] if batch == 0 else 1)
    places = binary(ctx, "add", binary(ctx, "mul", at, ctx.constant(np.int32(stride))),
                    ctx.constant(other))
    rows = ctx.reshape(x, (math.prod(x.shape[:2]), *x.shape[2:]))
    return ctx.add("gather", [rows, places], axis=0)


def _tensor_scatter(ctx: Context, node: Node) -> Tensor:
    """y = past, but rows written .. written + steps - 1 of every sample are those of the update."""
    past, update = ctx.tensor(0), ctx.tensor(1)
    axis = normal_axis(node.attr("axis", -2), len(past.shape))
    shape, size, steps = past.shape, past.shape[axis], update.shape[axis]
    if axis == 0 or (*update.shape[:axis], size, *update.shape[axis + 1:]) != shape:
        raise ModelError(f"an update of the shape {update.shape} does not fit {shape} at axis "
                         f"{axis}")
    batch, middle = shape[0], math.prod(shape[1:axis])
    rest = shape[axis + 1:]
    circular = node.attr("mode", "linear") == "circular"
    places = ctx.constant(np.arange(size, dtype=np.int32).reshape(1, 1, size))
    since = places
    if node.given(2):
        written = ctx.reshape(cast(ctx, ctx.tensor(2), "int32"), (batch, 1, 1))
        since = binary(ctx, "sub", places, written)
    if circular:
        since = binary(ctx, "floor_mod", since, ctx.constant(np.int32(size)))
    new = binary(ctx, "and", binary(ctx, "greater_equal", since, ctx.constant(np.int32(0))),
                 binary(ctx, "less", since, ctx.constant(np.int32(steps))))
    at = ctx.add("where", [new, binary(ctx, "add", since, ctx.constant(np.int32(size))), places])
    first = np.arange(batch * middle, dtype=np.int32).reshape(batch, middle, 1) * (size + steps)
    at = binary(ctx, "add", at, ctx.constant(first.astype(np.int32)))
    both = ctx.add("concat", [past, update], axis=axis)
    rows = ctx.reshape(both, (batch * middle * (size + steps), *rest))
    return ctx.reshape(ctx.add("gather", [rows, at], axis=0), shape)


def _max_unpool(ctx: Context, node: Node) -> Tensor:
    """y = 0, but x at its places in the flattened output."""
    x, places = ctx.tensor(0), node.known(1, "index input")
    rank = len(x.shape) - 2
    kernel = node.attr("kernel_shape")
    if rank < 1 or kernel is None or len(kernel) != rank or places.shape != x.shape:
        raise ModelError(f"the kernel {kernel} or the indices {places.shape} do not fit {x.shape}")
    strides, pads = node.attr("strides") or [1] * rank, node.attr("pads") or [0] * 2 * rank
    if len(strides) != rank or len(pads) != 2 * rank:
        raise ModelError(f"strides {strides} or pads {pads} do not fit {rank} spatial axes")
    natural = [(n - 1) * s + k - pads[i] - pads[i + rank] for i, (n, s, k) in enumerate(
        zip(x.shape[2:], strides, kernel))]
    shape = (*x.shape[:2], *natural)
    if places.min() < 0 or places.max() >= math.prod(shape):
        raise ModelError(f"an index lies outside of the shape {shape}")
    if node.given(2):  # the places count in the natural shape
        shape = tuple(int(n) for n in node.known(2, "output shape").reshape(-1))
        if len(shape) != len(x.shape) or any(n < m for n, m in zip(shape[2:], natural)):
            raise ModelError(f"the output shape {shape} does not fit {(*x.shape[:2], *natural)}")
        at = np.unravel_index(places, (*x.shape[:2], *natural))
        places = np.ravel_multi_index(at, shape)
    zeros = ctx.constant(np.zeros(shape), like=x)
    return put_rows(ctx, zeros, x, places, len(shape))


def _array_feature_extractor(ctx: Context, node: Node) -> Tensor:
    x, chosen = ctx.tensor(0), ctx.reshape(cast(ctx, ctx.tensor(1), "int32"),
                                           (math.prod(node.shape(1)),))
    y = ctx.add("gather", [x, chosen], axis=len(x.shape) - 1)
    return ctx.reshape(y, (1, *y.shape)) if len(x.shape) == 1 else y


def _binarizer(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    edge = ctx.constant(np.array(node.attr("threshold", 0.0)), like=x)
    return cast(ctx, binary(ctx, "greater", x, edge), x.dtype)


TABLE = {"TopK": _top_k, "Hardmax": _hardmax, "Compress": _compress,
         "ReverseSequence": _reverse_sequence, "TensorScatter": _tensor_scatter,
         "MaxUnpool": _max_unpool}
ML = {"ArrayFeatureExtractor": _array_feature_extractor, "Binarizer": _binarizer}
