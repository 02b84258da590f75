"""ONNX ops that read an image between its pixels: GridSample, RoiAlign, DeformConv."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need
from edgerun.tools.importers.onnx.elementwise import binary, cast, unary
from edgerun.tools.importers.onnx.layers import window_of
from edgerun.tools.importers.onnx.movement import cut

SHARPNESS = -0.75  # of cubic interpolation


def _affine(ctx: Context, x: Tensor, factor: float, offset: float) -> Tensor:
    return unary(ctx, "affine", x, factor, offset)


def _reflected(ctx: Context, x: Tensor, low: float, high: float) -> Tensor:
    """Return coordinates folded back at both ends, as often as it takes."""
    span = high - low
    if span <= 0:
        return ctx.constant(np.full(x.shape, low), like=x)
    turn = binary(ctx, "floor_mod", _affine(ctx, x, 1.0, -low),
                  ctx.constant(np.array(2 * span), like=x))
    away = unary(ctx, "abs", _affine(ctx, turn, 1.0, -span))
    return _affine(ctx, away, -1.0, low + span)


class Axis:
    """One axis of an image, and coordinates on it in pixels.

    Attributes:
        taps: (index as int32, weight or None) of every pixel that a coordinate reads.
    """

    def __init__(self, ctx: Context, at: Tensor, size: int, mode: str, padding: str,
                 ends: tuple[float, float]):
        self.ctx, self.size, self.padding, self.ends = ctx, size, padding, ends
        if mode == "nearest":
            at = unary(ctx, "round", at)
        if padding == "border" and mode != "cubic":  # whose weights go on outside
            at = unary(ctx, "clip", at, 0.0, size - 1.0)
        elif padding == "reflection":
            at = _reflected(ctx, at, *ends)
        if mode == "nearest":
            self.taps = [self._tap(at, None)]
            return
        base = unary(ctx, "floor", at)
        part = binary(ctx, "sub", at, base)
        if mode == "linear":
            weights = {0: _affine(ctx, part, -1.0, 1.0), 1: part}
        else:
            weights = {offset: _cubic(ctx, part, offset) for offset in (-1, 0, 1, 2)}
        self.taps = [self._tap(_affine(ctx, base, 1.0, offset), weight)
                     for offset, weight in weights.items()]

    def _tap(self, index: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        ctx, last = self.ctx, self.size - 1.0
        if self.padding == "reflection":
            index = _reflected(ctx, index, *self.ends)
        inside = unary(ctx, "clip", index, 0.0, last)
        if self.padding == "zeros":
            there = cast(ctx, binary(ctx, "equal", index, inside), index.dtype)
            weight = there if weight is None else binary(ctx, "mul", weight, there)
        return cast(ctx, inside, "int32"), weight


def _cubic(ctx: Context, part: Tensor, offset: int) -> Tensor:
    """Return the weight of the pixel at an offset from the one before a coordinate."""
    a = SHARPNESS
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    x = unary(ctx, "abs", _affine(ctx, part, 1.0, -offset))
    y, *rest = near if offset in (0, 1) else far
    total = _affine(ctx, x, y, rest[0])
    for number in rest[1:]:
        total = _affine(ctx, binary(ctx, "mul", total, x), 1.0, number)
    return total


def _sampled(ctx: Context, image: Tensor, axes: Sequence[Axis], first: Tensor,
             kind: str = "add") -> Tensor:
    """Return the sum ("add") or the maximum ("max") over all combinations of taps.

    Args:
        image: [N, spatial..., C].
        axes: spatial axes; coordinates of any one shape.
        first: sample that a coordinate reads, int32, broadcast to that shape.

    Returns:
        [shape of the coordinates..., C].
    """
    sizes, channels = image.shape[:-1], image.shape[-1]
    rows, total = ctx.reshape(image, (math.prod(sizes), channels)), None
    for taps in itertools.product(*(axis.taps for axis in axes)):
        at, weight = first, None
        for size, (index, factor) in zip(sizes[1:], taps):
            at = binary(ctx, "mul", at, ctx.constant(np.int32(size)))
            at = binary(ctx, "add", at, index)
            if factor is not None:
                weight = factor if weight is None else binary(ctx, "mul", weight, factor)
        y = ctx.add("gather", [rows, at], axis=0)
        if weight is not None:
            y = binary(ctx, "mul", y, ctx.reshape(weight, (*weight.shape, 1)))
        total = y if total is None else binary(ctx, kind, total, y)
    return total


def _samples(count: int, rank: int) -> np.ndarray:
    """Return 0 .. count - 1 along the first of several axes."""
    return np.arange(count, dtype=np.int32).reshape(count, *[1] * (rank - 1))


def _grid_sample(ctx: Context, node: Node) -> Tensor:
    x, grid = ctx.tensor(0), ctx.tensor(1)
    rank = len(x.shape) - 2
    if rank < 1 or len(grid.shape) != rank + 2 or grid.shape[-1] != rank or (
            grid.shape[0] != x.shape[0]):
        raise ModelError(f"a grid of the shape {grid.shape} does not fit {x.shape}")
    need(x.dtype in dtypes.FLOAT, f"it computes with {x.dtype}, needed float")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        node.attr("mode", "linear"), node.attr("mode", "linear"))
    padding, align = node.attr("padding_mode", "zeros"), bool(node.attr("align_corners", 0))
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border",
                                                                     "reflection"):
        raise ModelError(f"the mode {mode!r} or the padding_mode {padding!r} is not known")
    axes = []
    for number, size in enumerate(x.shape[2:]):
        at = ctx.reshape(cut(ctx, grid, rank + 1, rank - 1 - number, 1), grid.shape[:-1])
        if align:
            at, ends = _affine(ctx, at, (size - 1) / 2, (size - 1) / 2), (0.0, size - 1.0)
        else:
            at, ends = _affine(ctx, at, size / 2, (size - 1) / 2), (-0.5, size - 0.5)
        axes.append(Axis(ctx, at, size, mode, padding, ends))
    first = ctx.constant(_samples(x.shape[0], rank + 1))
    return ctx.channels_first(_sampled(ctx, ctx.channels_last(x), axes, first))


def _roi_align(ctx: Context, node: Node) -> Tensor:
    """The mean of a grid of samples in every bin of a region, or the largest product of a pixel and
    its weight there."""
    x, rois, batch = ctx.tensor(0), ctx.tensor(1), cast(ctx, ctx.tensor(2), "int32")
    if len(x.shape) != 4 or len(rois.shape) != 2 or rois.shape[1] != 4 or (
            batch.shape != rois.shape[:1]):
        raise ModelError(f"regions of the shapes {rois.shape} and {batch.shape} do not fit "
                         f"{x.shape}")
    mode, density = node.attr("mode", "avg"), node.attr("sampling_ratio", 0)
    if mode not in ("avg", "max"):
        raise ModelError(f"its mode is {mode!r}, needed 'avg' or 'max'")
    need(density > 0, "its sampling_ratio is 0: the number of samples depends on the regions")
    half = (node.opset >= 16 and
            node.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel")
    scale, count = node.attr("spatial_scale", 1.0), rois.shape[0]
    bins = node.attr("output_height", 1), node.attr("output_width", 1)
    coordinates, inside = [], None
    for axis, (size, number) in enumerate(zip(x.shape[2:], bins)):
        start, end = (_affine(ctx, cut(ctx, rois, 1, column, 1), scale, -0.5 if half else 0.0)
                      for column in (1 - axis, 3 - axis))  # x1, y1, x2, y2
        length = binary(ctx, "sub", end, start)
        if not half:
            length = binary(ctx, "max", length, ctx.constant(np.array(1.0), like=length))
        points = (np.arange(number * density) + 0.5) / (number * density)
        at = binary(ctx, "add", start, binary(ctx, "mul", length, ctx.constant(
            points.reshape(1, -1), like=length)))  # [regions, bins * density]
        valid = binary(ctx, "equal", at, unary(ctx, "clip", at, -1.0, float(size)))
        shape = [count, 1, 1]
        shape[1 + axis] = number * density
        valid = ctx.reshape(cast(ctx, valid, at.dtype), shape)
        inside = valid if inside is None else binary(ctx, "mul", inside, valid)
        coordinates.append(ctx.reshape(at, shape))
    axes = [Axis(ctx, at, size, "linear", "border", (0.0, 0.0))
            for at, size in zip(coordinates, x.shape[2:])]
    y = _sampled(ctx, ctx.channels_last(x), axes, ctx.reshape(batch, (count, 1, 1)),
                 "add" if mode == "avg" else "max")
    y = binary(ctx, "mul", y, ctx.reshape(inside, (*inside.shape, 1)))
    y = ctx.reshape(y, (count, bins[0], density, bins[1], density, x.shape[1]))
    y = ctx.add("reduce", [y], kind="mean" if mode == "avg" else "max", axes=[2, 4],
                keep_dims=False)
    return ctx.channels_first(y)


def _deform_conv(ctx: Context, node: Node) -> Tensor:
    """A convolution whose window reads, for every place of its own, where the offsets say."""
    x, w, offset = ctx.tensor(0), node.known(1, "weight"), ctx.tensor(2)
    window = window_of(node, x.shape, w.shape[2:])
    need(window.rank == 2, f"it has {window.rank} spatial axes, needed 2")
    groups, parts = node.attr("group", 1), node.attr("offset_group", 1)
    places = [(n + before + after - d * (k - 1) - 1) // s + 1 for n, before, after, d, k, s in zip(
        x.shape[2:], window.before, window.after, window.dilations, window.kernel, window.strides)]
    samples, channels, taps = x.shape[0], x.shape[1], math.prod(window.kernel)
    if offset.shape != (samples, parts * taps * 2, *places) or channels % parts or (
            w.shape[1] * groups != channels):
        raise ModelError(f"offsets of the shape {offset.shape} and weights of {w.shape} in "
                         f"{groups} groups do not fit {x.shape}")
    offset = ctx.reshape(offset, (samples, parts, taps, 2, *places))
    offset = ctx.transpose(offset, (0, 1, 4, 5, 2, 3))  # [N, parts, OH, OW, taps, 2]
    axes, shape = [], (samples, parts, *places, taps)
    for number, size in enumerate(x.shape[2:]):
        start = window.strides[number] * np.arange(places[number]) - window.before[number]
        tap = np.indices(window.kernel)[number].reshape(-1) * window.dilations[number]
        own = start.reshape((-1, 1, 1) if number == 0 else (1, -1, 1)) + tap
        at = ctx.reshape(cut(ctx, offset, 5, number, 1), shape)
        at = binary(ctx, "add", at, ctx.constant(own, like=at))
        axes.append(Axis(ctx, at, size, "linear", "zeros", (0.0, 0.0)))
    image = ctx.reshape(x, (samples, parts, channels // parts, *x.shape[2:]))
    image = ctx.transpose(image, (0, 1, 3, 4, 2))
    image = ctx.reshape(image, (samples * parts, *x.shape[2:], channels // parts))
    first = np.arange(samples * parts, dtype=np.int32).reshape(samples, parts, 1, 1, 1)
    y = _sampled(ctx, image, axes, ctx.constant(first))  # [N, parts, OH, OW, taps, C / parts]
    if node.given(4):
        mask = ctx.transpose(ctx.reshape(ctx.tensor(4), (samples, parts, taps, *places)),
                             (0, 1, 3, 4, 2))
        y = binary(ctx, "mul", y, ctx.reshape(mask, (*shape, 1)))
    y = ctx.transpose(y, (0, 2, 3, 4, 1, 5))  # [N, OH, OW, taps, C]
    y = ctx.reshape(y, (samples * places[0], places[1], taps, channels))
    weights = w.reshape(w.shape[0], w.shape[1], 1, taps).transpose(0, 3, 2, 1)
    y = ctx.transpose(y, (0, 2, 1, 3))  # taps and places as an image, taps covered by the window
    bias = ctx.derived(3, "bias", lambda a: a, dtype="fp32") if node.given(3) else None
    y = ctx.add("conv2d", [y, ctx.constant(weights, like=x), bias], groups=groups)
    return ctx.channels_first(ctx.reshape(y, (samples, *places, w.shape[0])))


TABLE = {"GridSample": _grid_sample, "RoiAlign": _roi_align, "DeformConv": _deform_conv}
