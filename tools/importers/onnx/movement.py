"""ONNX ops that move elements: reshapes, slices, padding, gathering; and those about shapes."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import helper

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, Value, need, normal_axis


def _identity(ctx: Context, node: Node) -> Value:
    return node.value(0)


def _dropout(ctx: Context, node: Node) -> list:
    training = node.opset >= 12 and node.given(2) and bool(node.known(2, "training_mode"))
    ratio = node.attr("ratio", 0.5)
    if node.opset >= 12 and node.given(1):
        ratio = float(node.known(1, "ratio")) if training else 0.0
    need(not training or ratio == 0, "it is in training mode")
    mask = np.ones(node.shape(0), bool if node.opset >= 10 else node.value(0).dtype)
    return [node.value(0), mask]


def _shape(ctx: Context, node: Node) -> np.ndarray:
    dims = node.shape(0)
    start, end = node.attr("start", 0), node.attr("end")
    return np.array(dims[start:end] if node.opset >= 15 else dims, np.int64)


def _size(ctx: Context, node: Node) -> np.ndarray:
    return np.array(math.prod(node.shape(0)), np.int64)


def _eye_like(ctx: Context, node: Node) -> np.ndarray:
    to = node.attr("dtype")
    dtype = helper.tensor_dtype_to_np_dtype(to) if to else node.value(0).dtype
    return np.eye(*node.shape(0), k=node.attr("k", 0), dtype=dtype)


def _trilu(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    k = int(node.single(1, "diagonal")) if node.given(1) else 0
    inside = np.ones(x.shape[-2:], bool)
    kept = np.triu(inside, k) if node.attr("upper", 1) else np.tril(inside, k)
    return ctx.add("where", [ctx.constant(kept), x, ctx.constant(np.array(0), like=x)])


def _run_time(what: str):
    """Return the function of an op that only the host computes."""
    def function(ctx: Context, node: Node):
        raise UnsupportedError(f"its {what} is computed at run time, needed constants")
    return function


def _reshape(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    shape = [int(n) for n in node.known(1, "shape").reshape(-1)]
    if not node.attr("allowzero", 0):
        if any(n == 0 and axis >= len(x.shape) for axis, n in enumerate(shape)):
            raise ModelError(f"the shape {shape} copies a dimension that {x.shape} has not")
        shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = math.prod(n for n in shape if n != -1)
        if rest == 0 or math.prod(x.shape) % rest:
            raise ModelError(f"the shape {x.shape} does not fit into {shape}")
        shape[shape.index(-1)] = math.prod(x.shape) // rest
    return ctx.reshape(x, shape)


def _flatten(ctx: Context, node: Node) -> Tensor:
    x, axis = ctx.tensor(0), node.attr("axis", 1)
    axis = axis if axis == len(x.shape) else normal_axis(axis, len(x.shape))
    return ctx.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(ctx: Context, node: Node) -> Tensor:
    x, axes = ctx.tensor(0), node.ints("axes", 1, 13)
    if axes is None:
        gone = {axis for axis, n in enumerate(x.shape) if n == 1}
    else:
        gone = {normal_axis(axis, len(x.shape)) for axis in axes}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ModelError(f"axes {axes} of the shape {x.shape} are not all 1")
    return ctx.reshape(x, [n for axis, n in enumerate(x.shape) if axis not in gone])


def _unsqueeze(ctx: Context, node: Node) -> Tensor:
    x, axes = ctx.tensor(0), node.ints("axes", 1, 13) or []
    rank = len(x.shape) + len(axes)
    new = {normal_axis(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise ModelError(f"axes {axes} name one axis twice")
    dims = iter(x.shape)
    return ctx.reshape(x, [1 if axis in new else next(dims) for axis in range(rank)])


def _transpose(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    return ctx.transpose(x, node.attr("perm") or list(range(len(x.shape)))[::-1])


def _expand(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    shape = [int(n) for n in node.known(1, "shape").reshape(-1)]
    need(0 not in shape, "its output has no elements")
    wide = np.broadcast_shapes(x.shape, tuple(shape))
    if wide == x.shape:
        return x
    if math.prod(wide) == math.prod(x.shape):
        return ctx.reshape(x, wide)
    return ctx.add("expand", [x], shape=list(wide))


def _tile(ctx: Context, node: Node) -> Tensor:
    x, repeats = ctx.tensor(0), [int(n) for n in node.known(1, "repeats").reshape(-1)]
    need(0 not in repeats, "its output has no elements")
    if all(n == 1 for n in repeats):
        return x
    return ctx.add("tile", [x], repeats=repeats)


def _concat(ctx: Context, node: Node) -> Tensor:
    rank = len(node.shape(0))
    axis = normal_axis(node.attr("axis", 1), rank)
    parts = [ctx.tensor(i) for i in range(len(node.inputs)) if 0 not in node.shape(i)]
    need(bool(parts), "its output has no elements")
    return parts[0] if len(parts) == 1 else ctx.add("concat", parts, axis=axis)


def cut(ctx: Context, x: Tensor, axis: int, start: int, size: int, step: int = 1) -> Tensor:
    """Return `size` elements of x along an axis."""
    starts, steps, sizes = [0] * len(x.shape), [1] * len(x.shape), list(x.shape)
    starts[axis], steps[axis], sizes[axis] = start, step, size
    return _slice_op(ctx, x, starts, steps, sizes)


def _slice_op(ctx: Context, x: Tensor, starts: Sequence[int], steps: Sequence[int],
              sizes: Sequence[int]) -> Tensor:
    need(0 not in sizes, "its output has no elements")
    if tuple(sizes) == x.shape and all(n == 1 or s == 1 for n, s in zip(sizes, steps)):
        return x
    return ctx.add("slice", [x], starts=list(starts), sizes=list(sizes),
                   steps=[1 if n == 1 else s for n, s in zip(sizes, steps)])


def _split(ctx: Context, node: Node) -> list:
    x = ctx.tensor(0)
    axis = normal_axis(node.attr("axis", 0), len(x.shape))
    sizes = node.ints("split", 1, 13)
    if not sizes:
        parts = node.attr("num_outputs") or len(node.outputs)
        each = -(-x.shape[axis] // parts)
        sizes = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    if sum(sizes) != x.shape[axis] or len(sizes) < len(node.outputs):
        raise ModelError(f"splits {x.shape[axis]} elements into {sizes} for {len(node.outputs)} "
                         "outputs")
    outputs, start = [], 0
    for index, size in enumerate(sizes[:len(node.outputs)]):
        if not size:
            outputs.append(_empty(x, [0 if at == axis else n for at, n in enumerate(x.shape)]))
        elif node.used(index):
            outputs.append(cut(ctx, x, axis, start, size))
        else:
            outputs.append(Value(lost=True))
        start += size
    return outputs


def _slice(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    begins, ends = node.ints("starts", 1, 10), node.ints("ends", 2, 10)
    axes, steps = node.ints("axes", 3, 10), node.ints("steps", 4, 10)
    if begins is None or ends is None or len(begins) != len(ends):
        raise ModelError(f"starts {begins} and ends {ends} do not fit")
    axes = list(range(len(begins))) if axes is None else axes
    steps = [1] * len(begins) if steps is None else steps
    if not len(axes) == len(steps) == len(begins):
        raise ModelError(f"starts {begins}, axes {axes} and steps {steps} do not fit")
    rank = len(x.shape)
    starts, strides, sizes = [0] * rank, [1] * rank, list(x.shape)
    for begin, end, axis, step in zip(begins, ends, axes, steps):
        axis = normal_axis(axis, rank)
        taken = range(*slice(begin, end, step).indices(x.shape[axis]))
        starts[axis], strides[axis], sizes[axis] = taken.start, step, len(taken)
    return _slice_op(ctx, x, starts, strides, sizes) if 0 not in sizes else _empty(x, sizes)


def _empty(x: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Return the elements of x that are none: known, like those of a constant."""
    return np.zeros(shape, dtypes.numpy_dtype(x.dtype))


def _pad(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    rank, mode = len(x.shape), node.attr("mode", "constant")
    pads = node.ints("pads", 1, 11)
    value = node.attr("value", 0.0)
    if node.opset >= 11:
        value = float(node.single(2, "value")) if node.given(2) else 0.0
    axes = list(range(rank))
    if node.opset >= 18 and node.given(3):
        axes = [normal_axis(int(a), rank) for a in node.known(3, "axes").reshape(-1)]
    if pads is None or len(pads) != 2 * len(axes):
        raise ModelError(f"pads {pads} do not fit {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    if any(n < 0 for n in before + after):  # cut first, so that the other modes repeat what is left
        starts = [max(-n, 0) for n in before]
        sizes = [n - s - max(-a, 0) for n, s, a in zip(x.shape, starts, after)]
        x = _slice_op(ctx, x, starts, [1] * rank, sizes)
    before, after = [max(n, 0) for n in before], [max(n, 0) for n in after]
    if not any(before + after):
        return x
    return ctx.add("pad", [x], mode=mode, before=before, after=after, value=value)


def _gather(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    axis = normal_axis(node.attr("axis", 0), len(x.shape))
    value = node.value(1)
    if value.known and value.array.size:
        size = x.shape[axis]
        if value.array.min() < -size or value.array.max() >= size:
            raise ModelError(f"an index is not in -{size} to {size - 1}")
        indices = np.where(value.array < 0, value.array + size, value.array).astype(np.int64)
        steps = np.diff(indices.reshape(-1))
        if indices.ndim <= 1 and (steps == steps[:1]).all() and 0 not in steps[:1]:
            step = int(steps[0]) if len(steps) else 1
            y = cut(ctx, x, axis, int(indices.reshape(-1)[0]), indices.size, step)
            return ctx.reshape(y, x.shape[:axis] + indices.shape + x.shape[axis + 1:])
        return ctx.add("gather", [x, ctx.constant(indices.astype(np.int32))], axis=axis)
    return ctx.add("gather", [x, ctx.tensor(1)], axis=axis)


def _depth_to_space(ctx: Context, node: Node) -> Tensor:
    x, block = _blocks(ctx, node)
    n, h, w, c = x.shape
    if c % (block * block):
        raise ModelError(f"{c} channels are not a multiple of the block's {block * block} elements")
    inner = c // (block * block)
    if node.attr("mode", "DCR") == "DCR":
        y = ctx.transpose(ctx.reshape(x, (n, h, w, block, block, inner)), (0, 1, 3, 2, 4, 5))
    else:
        y = ctx.transpose(ctx.reshape(x, (n, h, w, inner, block, block)), (0, 1, 4, 2, 5, 3))
    return ctx.channels_first(ctx.reshape(y, (n, h * block, w * block, inner)))


def _space_to_depth(ctx: Context, node: Node) -> Tensor:
    x, block = _blocks(ctx, node)
    n, h, w, c = x.shape
    if h % block or w % block:
        raise ModelError(f"an image of {h}x{w} is not a multiple of the block size {block}")
    y = ctx.reshape(x, (n, h // block, block, w // block, block, c))
    crd = node.attr("mode", "DCR") == "CRD"
    y = ctx.transpose(y, (0, 1, 3, 5, 2, 4) if crd else (0, 1, 3, 2, 4, 5))
    return ctx.channels_first(ctx.reshape(y, (n, h // block, w // block, block * block * c)))


def _blocks(ctx: Context, node: Node) -> tuple[Tensor, int]:
    x, block = ctx.tensor(0), node.attr("blocksize")
    if len(x.shape) != 4 or not block:
        raise ModelError(f"its input has {len(x.shape)} dimensions and its blocksize is {block}, "
                         "needed 4 dimensions and a blocksize")
    return ctx.channels_last(x), block


TABLE = {
    "Identity": _identity, "OptionalGetElement": _identity, "Dropout": _dropout,
    "Shape": _shape, "Size": _size,
    "EyeLike": _eye_like, "ConstantOfShape": _run_time("shape"), "Range": _run_time("range"),
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Expand": _expand, "Tile": _tile, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Pad": _pad, "Gather": _gather, "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth, "Trilu": _trilu,
}
