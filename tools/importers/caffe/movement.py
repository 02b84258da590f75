"""Caffe's layers that move, cut, join and reduce; and the boxes of detectors."""
from __future__ import annotations

import math

import numpy as np

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.caffe.context import Context, Value, need


def same(ctx: Context) -> Value:
    """y = x: dropout while testing."""
    return ctx.bottoms[0]


def split(ctx: Context) -> list[Value]:
    """Every top is the bottom."""
    return [ctx.bottoms[0]] * len(ctx.layer.tops)


def concat(ctx: Context) -> Value:
    """Join along an axis."""
    param = ctx.param("concat")
    axis = param.concat_dim if param.HasField("concat_dim") else param.axis
    axis = ctx.axis(axis, len(ctx.bottoms[0].shape))
    if all(isinstance(value, np.ndarray) for value in ctx.bottoms):
        shapes = [value.shape for value in ctx.bottoms]
        if len({(*shape[:axis], *shape[axis + 1:]) for shape in shapes}) > 1 \
                or len({len(shape) for shape in shapes}) > 1:
            raise ModelError(f"joins the shapes {shapes} along axis {axis}, which do not fit")
        return np.concatenate(ctx.bottoms, axis)
    tensors = [ctx.bottom(i) for i in range(len(ctx.bottoms))]
    return tensors[0] if len(tensors) == 1 else ctx.add("concat", tensors, axis=axis)


def slice_(ctx: Context) -> list[Tensor]:
    """Cut along an axis, at given points or into equal parts."""
    param, x = ctx.param("slice"), ctx.bottom()
    axis = param.slice_dim if param.HasField("slice_dim") else param.axis
    axis, count = ctx.axis(axis, len(x.shape)), len(ctx.layer.tops)
    points = list(param.slice_point)
    if not points:
        if x.shape[axis] % count:
            raise ModelError(f"{count} tops do not divide the {x.shape[axis]} elements of axis "
                             f"{axis}")
        points = [x.shape[axis] // count * i for i in range(1, count)]
    edges = [0, *points, x.shape[axis]]
    if len(edges) != count + 1 or any(a >= b for a, b in zip(edges, edges[1:])):
        raise ModelError(f"the slice points {points} do not cut {x.shape[axis]} elements into "
                         f"{count} tops")
    return [_part(ctx, x, axis, start, end) for start, end in zip(edges, edges[1:])]


def _part(ctx: Context, x: Tensor, axis: int, start: int, end: int) -> Tensor:
    starts, sizes = [0] * len(x.shape), list(x.shape)
    starts[axis], sizes[axis] = start, end - start
    return ctx.add("slice", [x], starts=starts, steps=[1] * len(starts), sizes=sizes)


def crop(ctx: Context) -> Tensor:
    """Cut the first bottom, from `axis` on, to the shape of the second."""
    param, x, like = ctx.param("crop"), ctx.bottom(), ctx.bottoms[1]
    rank = len(x.shape)
    axis, offsets = ctx.axis(param.axis, rank), list(param.offset)
    if len(offsets) not in (0, 1, rank - axis) or len(like.shape) != rank:
        raise ModelError(f"has {len(offsets)} offsets from axis {axis} of {x.shape} and "
                         f"{like.shape}, needed one, or one per axis")
    offsets = offsets * (rank - axis) if len(offsets) == 1 else offsets or [0] * (rank - axis)
    starts = [0] * axis + [int(n) for n in offsets]
    sizes = [*x.shape[:axis], *like.shape[axis:]]
    if any(start + size > n for start, size, n in zip(starts, sizes, x.shape)):
        raise ModelError(f"cuts {sizes} at {starts} from {x.shape}, which is smaller")
    return ctx.add("slice", [x], starts=starts, steps=[1] * rank, sizes=sizes)


def permute(ctx: Context) -> Tensor:
    """Axes in another order; those not named follow."""
    x, order = ctx.bottom(), [int(n) for n in ctx.param("permute").order]
    order += [axis for axis in range(len(x.shape)) if axis not in order]
    if sorted(order) != list(range(len(x.shape))):
        raise ModelError(f"the order {order} is no permutation of {len(x.shape)} axes")
    return ctx.transpose(x, order)


def flatten(ctx: Context) -> Tensor:
    """Axes from `axis` to `end_axis` become one."""
    param, x = ctx.param("flatten"), ctx.bottom()
    first, last = ctx.axis(param.axis, len(x.shape)), ctx.axis(param.end_axis, len(x.shape))
    return ctx.reshape(x, (*x.shape[:first], math.prod(x.shape[first:last + 1]),
                           *x.shape[last + 1:]))


def reshape(ctx: Context) -> Value:
    """Another shape: 0 keeps a dimension, -1 takes what is left."""
    param, value = ctx.param("reshape"), ctx.bottoms[0]
    rank = len(value.shape)
    first = param.axis if param.axis >= 0 else rank + param.axis + 1
    last = rank if param.num_axes == -1 else first + param.num_axes
    if not 0 <= first <= last <= rank:
        raise ModelError(f"axis {param.axis} and num_axes {param.num_axes} of {rank} dimensions")
    dims = [int(n) for n in param.shape.dim]
    for number, dim in enumerate(dims):
        if dim == 0:
            if first + number >= rank:
                raise ModelError(f"keeps dimension {first + number} of {rank}")
            dims[number] = value.shape[first + number]
    shape = [*value.shape[:first], *dims, *value.shape[last:]]
    if shape.count(-1) == 1:
        known = math.prod(n for n in shape if n != -1)
        if not known or math.prod(value.shape) % known:
            raise ModelError(f"the shape {value.shape} does not fit into {shape}")
        shape[shape.index(-1)] = math.prod(value.shape) // known
    if min(shape, default=1) < 1 or math.prod(shape) != math.prod(value.shape):
        raise ModelError(f"the shape {value.shape} does not fit into {shape}")
    if isinstance(value, np.ndarray):
        return value.reshape(shape)
    return ctx.reshape(value, shape)


def tile(ctx: Context) -> Tensor:
    """Repeat along an axis."""
    param, x = ctx.param("tile"), ctx.bottom()
    repeats = [1] * len(x.shape)
    repeats[ctx.axis(param.axis, len(x.shape))] = param.tiles
    return ctx.add("tile", [x], repeats=repeats)


def reduction(ctx: Context) -> Tensor:
    """Sum, sum of magnitudes, of squares, or mean over the axes from `axis` on."""
    param, x = ctx.param("reduction"), ctx.bottom()
    kind = {1: "sum", 2: "l1", 3: "sum_square", 4: "mean"}.get(param.operation)
    if kind is None:
        raise ModelError(f"operation {param.operation} is not known")
    axis = ctx.axis(param.axis, len(x.shape))
    y = ctx.add("reduce", [x], kind=kind, axes=tuple(range(axis, len(x.shape))), keep_dims=False)
    return ctx.affine(y, param.coeff)


def arg_max(ctx: Context) -> Tensor:
    """Index of the largest element, as a real number; without an axis, [N, 1, 1, ...].

    Of equal elements the last one counts: Caffe sorts pairs of value and index, the largest first.
    """
    param, x = ctx.param("argmax"), ctx.bottom()
    need(param.top_k == 1 and not param.out_max_val, "it gives more than one index")
    if param.HasField("axis"):
        axis = ctx.axis(param.axis, len(x.shape))
        y = ctx.add("arg", [x], kind="max", axis=axis, keep_dims=True, last=True)
    else:
        flat = ctx.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
        y = ctx.add("arg", [flat], kind="max", axis=1, keep_dims=True, last=True)
        y = ctx.reshape(y, (x.shape[0], *[1] * (max(len(x.shape), 3) - 1)))
    return ctx.add("cast", [y], dtype="fp32")


def prior_box(ctx: Context) -> np.ndarray:
    """Boxes of an SSD detector [1, 2, pixels * boxes * 4]: corners, and variances.

    Per pixel of the first bottom and per min_size s: a square of s, one of sqrt(s * max_size), and
    one of width s sqrt(r) and height s / sqrt(r) per aspect ratio r; all relative to the image,
    which is the second bottom. Source: Liu et al., "SSD", 2016, section 2.2, and its Caffe branch.
    """
    param, layer, image = ctx.param("prior_box"), ctx.bottoms[0].shape, ctx.bottoms[1].shape
    if len(layer) != 4 or len(image) != 4:
        raise ModelError(f"reads {layer} and {image}, needed 4 dimensions")
    height = param.img_h or param.img_size or image[2]
    width = param.img_w or param.img_size or image[3]
    step_h = param.step_h or param.step or height / layer[2]
    step_w = param.step_w or param.step or width / layer[3]
    sizes = _prior_sizes(param)
    y, x = np.meshgrid((np.arange(layer[2]) + param.offset) * step_h,
                       (np.arange(layer[3]) + param.offset) * step_w, indexing="ij")
    centers = np.stack([x, y], -1)[:, :, None]
    half = sizes[None, None] / 2
    boxes = np.concatenate([centers - half, centers + half], -1) / [width, height, width, height]
    if param.clip:
        boxes = boxes.clip(0, 1)
    variance = list(param.variance) or [0.1]
    if len(variance) not in (1, 4):
        raise ModelError(f"has {len(variance)} variances, needed 1 or 4")
    spread = np.broadcast_to(variance if len(variance) == 4 else variance * 4, boxes.shape)
    return np.stack([boxes.reshape(-1), spread.reshape(-1)])[None].astype(np.float32)


def _prior_sizes(param) -> np.ndarray:
    """Return width and height of the boxes of a pixel."""
    for name in ("aspect_ratio", "min_size", "max_size"):
        numbers = list(getattr(param, name))
        if not all(0 < number < math.inf for number in numbers):
            raise ModelError(f"{name} is {numbers}, needed positive numbers")
    ratios = [1.0]
    for ratio in param.aspect_ratio:
        for candidate in (ratio, 1 / ratio) if param.flip else (ratio,):
            if all(abs(candidate - known) >= 1e-6 for known in ratios):
                ratios.append(candidate)
    largest = list(param.max_size)
    if not param.min_size or len(largest) not in (0, len(param.min_size)):
        raise ModelError(f"has {len(param.min_size)} min_size and {len(largest)} max_size, needed "
                         "one or more, and as many or none")
    sizes = []
    for number, least in enumerate(param.min_size):
        sizes.append((least, least))
        if largest:
            sizes.append((math.sqrt(least * largest[number]),) * 2)
        sizes += [(least * math.sqrt(r), least / math.sqrt(r)) for r in ratios[1:]]
    return np.array(sizes)


TABLE = {
    "Dropout": same, "Split": split, "Concat": concat, "Slice": slice_, "Crop": crop,
    "Permute": permute, "Flatten": flatten, "Reshape": reshape, "Tile": tile,
    "Reduction": reduction, "ArgMax": arg_max, "PriorBox": prior_box,
}
