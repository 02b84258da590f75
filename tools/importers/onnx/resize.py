"""ONNX Resize (opsets 10 to 28) and Upsample (7 to 9)."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need, normal_axis
from edgerun.tools.reference.resize import coordinate


def _upsample(ctx: Context, node: Node) -> Tensor:
    scales = node.attr("scales")
    if node.opset >= 9:
        scales = [float(s) for s in node.known(1, "scales").reshape(-1)]
    return _resize_old(ctx, node, scales)


def _resize_old(ctx: Context, node: Node, scales: Sequence[float] | None) -> Tensor:
    shape = ctx.tensor(0).shape
    if scales is None or len(scales) != len(shape):
        raise ModelError(f"scales {scales} do not fit the shape {shape}")
    kind = {"linear": "linear", "bilinear": "linear", "nearest": "nearest"}.get(
        node.attr("mode", "nearest"))
    sizes = [math.floor(n * s) for n, s in zip(shape, scales)]
    # ONNX left the rounding open then; its tests round up where it shrinks, as ONNX Runtime does.
    shrinks, enlarges = min(scales) < 1, max(scales) > 1
    need(not (kind == "nearest" and shrinks and enlarges),
         "it enlarges one axis and shrinks another, with the rounding of opset 10")
    return _emit(ctx, kind, sizes, scales, coordinate_mode="asymmetric",
                 nearest_mode="ceil" if shrinks else "floor")


def _resize(ctx: Context, node: Node) -> Tensor:
    if node.opset < 11:
        return _resize_old(ctx, node, [float(s) for s in node.known(1, "scales").reshape(-1)])
    shape = ctx.tensor(0).shape
    rank, mode = len(shape), node.attr("mode", "nearest")
    axes = [normal_axis(a, rank) for a in node.attr("axes") or range(rank)]
    sizes, scales = list(shape), [1.0] * rank
    if node.given(2) and node.value(2).shape != (0,):
        given = node.known(2, "scales").reshape(-1)
        _fits(given, axes)
        for axis, scale in zip(axes, given):
            scales[axis] = float(scale)
            sizes[axis] = math.floor(shape[axis] * float(scale))
    elif node.given(3):
        given = [int(n) for n in node.known(3, "sizes").reshape(-1)]
        _fits(given, axes)
        _fit_sizes(node, shape, axes, given, sizes, scales)
    else:
        raise ModelError("has neither scales nor sizes")
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    options = {"coordinate_mode": coordinates,
               "nearest_mode": node.attr("nearest_mode", "round_prefer_floor")}
    shrinks = any(s < 1 for s in scales)
    need(not (node.attr("antialias", 0) and shrinks and mode != "nearest"),
         "antialias is set and it shrinks")
    if coordinates == "tf_crop_and_resize":
        roi = [0.0] * rank + [1.0] * rank
        given = [float(v) for v in node.known(1, "roi").reshape(-1)]
        _fits(given, [*axes, *axes])
        for position, axis in enumerate(axes):
            roi[axis], roi[rank + axis] = given[position], given[position + len(axes)]
        options |= {"roi": roi, "extrapolation_value": node.attr("extrapolation_value", 0.0)}
    if mode == "cubic":
        need(coordinates != "tf_crop_and_resize", "mode is 'cubic' with tf_crop_and_resize")
        return _cubic(ctx, sizes, scales, coordinates)
    return _emit(ctx, mode if mode in ("nearest", "linear") else None, sizes, scales, **options)


def _fits(given: Sequence, axes: Sequence[int]) -> None:
    if len(given) != len(axes):
        raise ModelError(f"has {len(given)} scales, sizes or roi values, needed {len(axes)}")


def _fit_sizes(node: Node, shape: Sequence[int], axes: Sequence[int], given: Sequence[int],
               sizes: list[int], scales: list[float]) -> None:
    """Set sizes and scales from the wanted sizes and the policy about the aspect ratio."""
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    ratios = [n / shape[axis] for axis, n in zip(axes, given)]
    if policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        given = [math.floor(shape[axis] * ratio + 0.5) for axis in axes]
    for axis, n, ratio in zip(axes, given, ratios):
        sizes[axis], scales[axis] = n, ratio


def _emit(ctx: Context, kind: str | None, sizes: Sequence[int], scales: Sequence[float],
          roi: Sequence[float] = (), **options) -> Tensor:
    """Resize the tensor, of any rank, along the axes that change (at most two)."""
    x = ctx.tensor(0)
    mode = ctx.node.attr("mode", "nearest")
    need(kind is not None, f"mode is {mode!r}, needed nearest or linear")
    need(0 not in sizes, "its output has no elements")
    rank = len(x.shape)
    cropped = [a for a in range(rank) if roi and (roi[a], roi[rank + a]) != (0.0, 1.0)]
    moving = [a for a in range(rank) if scales[a] != 1 or sizes[a] != x.shape[a] or a in cropped]
    need(len(moving) <= 2, f"it resizes {len(moving)} axes, needed at most 2")
    if not moving:
        return x
    if rank == 4 and set(moving) <= {2, 3}:
        height, width = 2, 3
        image = ctx.channels_last(x)
    else:  # any other axes: to the front as height and width, the rest as channels
        height, width = moving if len(moving) == 2 else (None, moving[0])
        rest = [a for a in range(rank) if a not in moving]
        order = [*moving, *rest]
        image = ctx.reshape(ctx.transpose(x, order), (
            1, 1 if height is None else x.shape[height], x.shape[width],
            math.prod(x.shape[a] for a in rest)))
    box = [] if not roi else [
        0.0 if height is None else roi[height], roi[width],
        1.0 if height is None else roi[rank + height], roi[rank + width]]
    y = ctx.add("resize", [image], kind=kind, height=1 if height is None else sizes[height],
                width=sizes[width], scale_h=1.0 if height is None else scales[height],
                scale_w=scales[width], roi=box, **options)
    if (height, width) == (2, 3) and rank == 4:
        return ctx.channels_first(y)
    y = ctx.reshape(y, [*(sizes[a] for a in moving), *(x.shape[a] for a in rest)])
    return ctx.transpose(y, [order.index(a) for a in range(rank)])


def _cubic(ctx: Context, sizes: Sequence[int], scales: Sequence[float], mode: str) -> Tensor:
    """Resize along each axis that changes by a matrix that holds the four taps of each output."""
    x, node, rank = ctx.tensor(0), ctx.node, len(sizes)
    need(x.dtype in dtypes.FLOAT, f"it computes with {x.dtype}, needed float")
    axes = list(range(rank)) if rank < 3 else [0, *range(2, rank), 1]  # channels last
    y = ctx.transpose(x, axes)
    for at, axis in enumerate(axes):
        before, size, after = y.shape[:at], y.shape[at], y.shape[at + 1:]
        if sizes[axis] == size and scales[axis] == 1:
            continue
        weights = cubic_weights(size, sizes[axis], scales[axis], mode,
                                node.attr("cubic_coeff_a", -0.75), node.attr("exclude_outside", 0))
        rows = ctx.reshape(y, (math.prod(before), size, math.prod(after)))
        rows = ctx.add("matmul", [ctx.constant(weights, like=x), rows])
        y = ctx.reshape(rows, (*before, sizes[axis], *after))
    return ctx.transpose(y, [axes.index(axis) for axis in range(rank)])


def cubic_weights(size: int, out_size: int, scale: float, mode: str, a: float,
                  exclude_outside: bool) -> np.ndarray:
    """Return [out_size, size]: what each input adds to each output of a cubic resize.

    The taps are Keys' kernel, "Cubic convolution interpolation for digital image processing"
    (1981), with the parameter a.
    """
    weights = np.zeros((out_size, size))
    for i in range(out_size):
        at = float(coordinate(i, mode, size, out_size, scale, (0.0, 1.0)))
        taps = np.arange(math.floor(at) - 1, math.floor(at) + 3)
        d = np.abs(taps - at)
        values = np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1,
                          ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)
        if exclude_outside:
            values = np.where((taps >= 0) & (taps < size), values, 0)
            values /= values.sum()
        np.add.at(weights[i], np.clip(taps, 0, size - 1), values)
    return weights


TABLE = {"Resize": _resize, "Upsample": _upsample}
