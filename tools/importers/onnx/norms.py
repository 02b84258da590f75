"""ONNX normalizations, softmax, and reductions."""
from __future__ import annotations

import math

import numpy as np

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need, normal_axis
from edgerun.tools.importers.onnx.elementwise import binary, unary

TINY = float(np.finfo(np.float32).tiny)


def _batch_normalization(ctx: Context, node: Node) -> Tensor | np.ndarray:
    """y = scale * (x - mean) / sqrt(variance + epsilon) + bias, all constants per channel.

    In training mode mean and variance are those of x, which is done for constants only: weights
    are standardized that way.
    """
    need(node.attr("spatial", 1) == 1, "spatial is 0")
    training = bool(node.attr("training_mode", 0))
    if node.opset < 14:  # told by the outputs before there was the attribute
        training = any(node.proto.output[1:])
    scale, bias, mean, variance = (node.known(i, name).astype(np.float64) for i, name in enumerate(
        ("scale", "bias", "mean", "variance"), start=1))
    rank = len(node.shape(0))
    if training:
        need(node.value(0).known, "it is in training mode")
        values = node.value(0).array.astype(np.float64)
        axes = (0, *range(2, rank))
        mean, variance = values.mean(axes), values.var(axes)
    factor = scale / np.sqrt(variance + node.attr("epsilon", 1e-5))
    offset = bias - mean * factor
    if node.value(0).known:
        per_channel = (-1,) + (1,) * (rank - 2)
        values = node.value(0).array
        return (values * factor.reshape(per_channel) + offset.reshape(per_channel)).astype(
            values.dtype)
    x = ctx.tensor(0)
    image = ctx.channels_last(x) if rank > 2 else x
    y = binary(ctx, "mul", image, ctx.constant(factor, like=x))
    y = binary(ctx, "add", y, ctx.constant(offset, like=x))
    return ctx.channels_first(y) if rank > 2 else y


def _instance_normalization(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    gamma, beta = ctx.tensor(1), ctx.tensor(2)
    y = ctx.add("instance_norm", [ctx.channels_last(x), gamma, beta],
                epsilon=node.attr("epsilon", 1e-5))
    return ctx.channels_first(y)


def _layer_normalization(ctx: Context, node: Node) -> Tensor | list[Tensor]:
    x = ctx.tensor(0)
    axis = normal_axis(node.attr("axis", -1), len(x.shape))
    normalized = x.shape[axis:]
    gamma = _normalized_shape(ctx, 1, "scale", normalized)
    beta = _normalized_shape(ctx, 2, "bias", normalized) if node.given(2) else None
    epsilon = node.attr("epsilon", 1e-5)
    y = ctx.add("layer_norm", [x, gamma, beta], axis=axis, epsilon=epsilon)
    if not (node.used(1) or node.used(2)):
        return y
    axes = list(range(axis, len(x.shape)))
    mean = ctx.add("reduce", [x], kind="mean", axes=axes, keep_dims=True)
    square = unary(ctx, "square", binary(ctx, "sub", x, mean))
    variance = ctx.add("reduce", [square], kind="mean", axes=axes, keep_dims=True)
    return [y, mean, unary(ctx, "rsqrt", unary(ctx, "affine", variance, 1.0, epsilon))]


def _normalized_shape(ctx: Context, index: int, what: str, shape: tuple[int, ...]) -> Tensor:
    """Return a scale or bias in the shape of the normalized axes."""
    if ctx.node.shape(index) == shape:
        return ctx.tensor(index)
    values = ctx.node.known(index, what)
    if len(values.shape) > len(shape):
        values = values.reshape(values.shape[-len(shape):])
    return ctx.constant(np.broadcast_to(values, shape))


def _group_normalization(ctx: Context, node: Node) -> Tensor:
    x, groups = ctx.tensor(0), node.attr("num_groups")
    channels = x.shape[1]
    if not groups or channels % groups:
        raise ModelError(f"{groups} groups do not divide {channels} channels")
    need(node.opset < 21 or node.attr("stash_type", 1) == 1, "stash_type is not float")
    y = ctx.reshape(x, (x.shape[0], groups, math.prod(x.shape[2:]) * (channels // groups)))
    y = ctx.add("layer_norm", [y], axis=2, epsilon=node.attr("epsilon", 1e-5))
    y = ctx.reshape(y, x.shape)
    for index, kind in ((1, "mul"), (2, "add")):
        values = node.known(index, "scale or bias")
        if node.opset < 21 and values.size != channels:  # one per group
            values = np.repeat(values, channels // groups)
        y = binary(ctx, kind, y, ctx.constant(
            values.reshape((channels,) + (1,) * (len(x.shape) - 2)), like=x))
    return y


def _lp_normalization(ctx: Context, node: Node) -> Tensor:
    x, p = ctx.tensor(0), node.attr("p", 2)
    axis = normal_axis(node.attr("axis", -1), len(x.shape))
    need(p in (1, 2), f"p is {p}, needed 1 or 2")
    if p == 2 and axis == len(x.shape) - 1:
        return ctx.add("l2_normalize", [x], axis=axis, epsilon=TINY)
    norm = ctx.add("reduce", [x], kind=f"l{p}", axes=[axis], keep_dims=True)
    return binary(ctx, "div", x, binary(ctx, "max", norm, ctx.constant(np.array(TINY), like=x)))


def _mean_variance_normalization(ctx: Context, node: Node) -> Tensor:
    """y = (x - mean) / (sqrt(mean of (x - mean)^2) + 1e-9)."""
    x = ctx.tensor(0)
    axes = sorted(normal_axis(a, len(x.shape)) for a in node.attr("axes", [0, 2, 3]))
    centred = binary(ctx, "sub", x, ctx.add("reduce", [x], kind="mean", axes=axes, keep_dims=True))
    variance = ctx.add("reduce", [unary(ctx, "square", centred)], kind="mean", axes=axes,
                       keep_dims=True)
    deviation = unary(ctx, "affine", unary(ctx, "sqrt", variance), 1.0, 1e-9)
    return binary(ctx, "div", centred, deviation)


def _lrn(ctx: Context, node: Node) -> Tensor:
    y = ctx.add("lrn", [ctx.channels_last(ctx.tensor(0))], size=node.attr("size"),
                alpha=node.attr("alpha", 1e-4), beta=node.attr("beta", 0.75),
                bias=node.attr("bias", 1.0))
    return ctx.channels_first(y)


def _softmax(log: bool):
    def function(ctx: Context, node: Node) -> Tensor:
        x = ctx.tensor(0)
        rank = len(x.shape)
        if node.opset >= 13:
            return ctx.add("softmax", [x], axis=normal_axis(node.attr("axis", -1), rank), log=log)
        axis = node.attr("axis", 1)
        axis = rank if axis == rank else normal_axis(axis, rank)
        if axis == rank - 1:  # flattening changes nothing then
            return ctx.add("softmax", [x], axis=axis, log=log)
        flat = ctx.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return ctx.reshape(ctx.add("softmax", [flat], axis=1, log=log), x.shape)
    return function


def _reduced_axes(node: Node, rank: int, since: int) -> list[int] | None:
    """Return the axes of a reduction, None for no reduction at all."""
    axes = node.ints("axes", 1, since)
    if not axes:
        if node.attr("noop_with_empty_axes", 0):
            return None
        return list(range(rank))
    return sorted({normal_axis(a, rank) for a in axes})


def _reduce(kind: str, since: int = 18):
    def function(ctx: Context, node: Node) -> Tensor:
        x = ctx.tensor(0)
        axes = _reduced_axes(node, len(x.shape), since)
        if axes is None or not x.shape:
            return _reduce_nothing(ctx, kind, x)
        return ctx.add("reduce", [x], kind=kind, axes=axes,
                       keep_dims=bool(node.attr("keepdims", 1)))
    return function


def _reduce_nothing(ctx: Context, kind: str, x: Tensor) -> Tensor:
    """Return the reduction of every element alone."""
    alone = {"l1": "abs", "l2": "abs", "sum_square": "square", "log_sum": "log"}
    return unary(ctx, alone[kind], x) if kind in alone else x


def _arg(kind: str):
    def function(ctx: Context, node: Node) -> Tensor:
        x = ctx.tensor(0)
        return ctx.add("arg", [x], kind=kind, axis=normal_axis(node.attr("axis", 0), len(x.shape)),
                       keep_dims=bool(node.attr("keepdims", 1)),
                       last=bool(node.attr("select_last_index", 0)))
    return function


TABLE = {
    "BatchNormalization": _batch_normalization, "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization, "GroupNormalization": _group_normalization,
    "LpNormalization": _lp_normalization, "LRN": _lrn,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "Softmax": _softmax(False), "LogSoftmax": _softmax(True),
    "ReduceMean": _reduce("mean"), "ReduceSum": _reduce("sum", 13), "ReduceMax": _reduce("max"),
    "ReduceMin": _reduce("min"), "ReduceProd": _reduce("prod"), "ReduceL1": _reduce("l1"),
    "ReduceL2": _reduce("l2"), "ReduceSumSquare": _reduce("sum_square"),
    "ReduceLogSum": _reduce("log_sum"), "ReduceLogSumExp": _reduce("log_sum_exp"),
    "ArgMax": _arg("max"), "ArgMin": _arg("min"),
}
