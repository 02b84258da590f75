"""Caffe's layers with weights, pooling, and normalizations."""
from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.caffe.context import Context, need


def _two(param: Any, name: str, default: int) -> tuple[int, int]:
    """Return a size along height and width: `name` (one number or two), or its parts."""
    short = "kernel" if name == "kernel_size" else name
    if param.HasField(f"{short}_h") or param.HasField(f"{short}_w"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return _repeated(param, name, default)


def _repeated(param: Any, name: str, default: int) -> tuple[int, int]:
    """Return a size along height and width that a field has as none, one number or two."""
    value = getattr(param, name)
    if isinstance(value, int):
        value = [value] if param.HasField(name) else []
    if len(value) > 2:
        raise ModelError(f"{name} has {len(value)} numbers, needed 2 at most")
    height, width = (*value, *value)[:2] if value else (default, default)
    return height, width


def _window(param: Any) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the kernel and the options that convolutions share."""
    kernel, stride, pad = (_two(param, name, default) for name, default in (
        ("kernel_size", 0), ("stride", 1), ("pad", 0)))
    dilation = _repeated(param, "dilation", 1)
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        raise ModelError(f"has the kernel {kernel}, the stride {stride} and the dilation "
                         f"{dilation}, needed 1 or more")
    return kernel, {"stride_h": stride[0], "stride_w": stride[1], "dilation_h": dilation[0],
                    "dilation_w": dilation[1], "pad_top": pad[0], "pad_bottom": pad[0],
                    "pad_left": pad[1], "pad_right": pad[1]}


def _channels(param, image: Tensor) -> tuple[int, int, int]:
    """Return the channels in and out, and the groups, of a convolution of an image."""
    need(param.axis == 1, f"its axis is {param.axis}, needed 1")
    in_c, out_c, groups = image.shape[3], param.num_output, param.group
    if groups < 1 or in_c % groups or out_c % groups or not out_c:
        raise ModelError(f"{groups} groups do not divide {in_c} channels into {out_c}")
    return in_c, out_c, groups


def convolution(ctx: Context) -> Tensor:
    """y = w * x + b, in groups."""
    param, image = ctx.param("convolution"), ctx.image()
    in_c, out_c, groups = _channels(param, image)
    kernel, options = _window(param)
    w = ctx.weights(0, (out_c, in_c // groups, *kernel), in_c // groups * kernel[0] * kernel[1])
    bias = ctx.constant(ctx.weights(1, (out_c,))) if param.bias_term else None
    if groups == in_c > 1:
        weights = ctx.constant(w[:, 0].transpose(1, 2, 0))
        y = ctx.add("depthwise_conv2d", [image, weights, bias], **options)
    else:
        weights = ctx.constant(w.transpose(0, 2, 3, 1))
        y = ctx.add("conv2d", [image, weights, bias], groups=groups, **options)
    return ctx.from_image(y)


def deconvolution(ctx: Context) -> Tensor:
    """The transposed convolution."""
    param, image = ctx.param("convolution"), ctx.image()
    in_c, out_c, groups = _channels(param, image)
    kernel, options = _window(param)
    w = ctx.weights(0, (in_c, out_c // groups, *kernel), in_c // groups * kernel[0] * kernel[1])
    split = w.reshape(groups, in_c // groups, out_c // groups, *kernel)
    weights = split.transpose(0, 2, 3, 4, 1).reshape(out_c, *kernel, in_c // groups)
    bias = ctx.constant(ctx.weights(1, (out_c,))) if param.bias_term else None
    y = ctx.add("conv_transpose2d", [image, ctx.constant(weights), bias], groups=groups, **options)
    return ctx.from_image(y)


def pooling(ctx: Context) -> Tensor:
    """Largest or average element of windows; the output size is rounded up."""
    param, image = ctx.param("pooling"), ctx.image()
    need(param.pool in (0, 1), "its pool is STOCHASTIC, needed MAX or AVE")
    kind = "max" if param.pool == 0 else "average"
    if param.global_pooling:
        y = ctx.add("reduce", [image], kind="max" if param.pool == 0 else "mean", axes=(1, 2),
                    keep_dims=True)
        return ctx.from_image(y)
    kernel, stride, pad = (_two(param, name, default) for name, default in (
        ("kernel_size", 0), ("stride", 1), ("pad", 0)))
    if min(kernel) < 1 or min(stride) < 1:
        raise ModelError(f"has the kernel {kernel} and the stride {stride}, needed 1 or more")
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise ModelError(f"has the padding {pad}, needed less than the kernel {kernel}")
    y = ctx.add("pool2d", [image], kind=kind, kernel_h=kernel[0], kernel_w=kernel[1],
                stride_h=stride[0], stride_w=stride[1], pad_top=pad[0], pad_bottom=pad[0],
                pad_left=pad[1], pad_right=pad[1], count_include_pad=kind == "average",
                ceil_mode=param.ceil_mode and param.round_mode == 0)
    return ctx.from_image(y)


def inner_product(ctx: Context) -> Tensor:
    """y = w x + b over the axes from `axis` on."""
    param, x = ctx.param("inner_product"), ctx.bottom()
    axis = ctx.axis(param.axis, len(x.shape))
    in_c, out_c = int(np.prod(x.shape[axis:])), param.num_output
    if not out_c:
        raise ModelError("num_output is 0")
    if param.transpose:
        w = ctx.weights(0, (in_c, out_c), in_c).T
    else:
        w = ctx.weights(0, (out_c, in_c), in_c)
    bias = ctx.constant(ctx.weights(1, (out_c,))) if param.bias_term else None
    flat = ctx.reshape(x, (*x.shape[:axis], in_c))
    return ctx.add("dense", [flat, ctx.constant(w), bias])


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return values whose first axis lies along an axis of a tensor, to be broadcast."""
    return values.reshape(values.shape + (1,) * (rank - axis - values.ndim))


def batch_norm(ctx: Context) -> Tensor:
    """y = (x - mean) / sqrt(variance + eps), per channel, with the statistics of training."""
    param, x = ctx.param("batch_norm"), ctx.bottom()
    need(param.use_global_stats, "use_global_stats is false, needed statistics of training")
    channels = x.shape[1] if len(x.shape) > 1 else 1
    mean, variance = ctx.weights(0, (channels,)), ctx.weights(1, (channels,), fill=1.0)
    factor = float(ctx.weights(2, (1,), fill=1.0)[0])
    factor = 1.0 / factor if factor else 0.0
    scale = 1.0 / np.sqrt(variance.astype(np.float64) * factor + param.eps)
    shift = -mean.astype(np.float64) * factor * scale
    rank = len(x.shape)
    y = ctx.binary("mul", x, ctx.constant(_along(scale, 1, rank)))
    return ctx.binary("add", y, ctx.constant(_along(shift, 1, rank)))


def _second(ctx: Context, axis: int) -> Tensor:
    """Return the second bottom with axes of 1 behind it, so that it lies along `axis`."""
    x, other = ctx.bottom(0), ctx.bottom(1)
    return ctx.reshape(other, other.shape + (1,) * (len(x.shape) - axis - len(other.shape)))


def _extent(x: Tensor, axis: int, count: int) -> tuple[int, ...]:
    return x.shape[axis:] if count == -1 else x.shape[axis:axis + count]


def scale(ctx: Context) -> Tensor:
    """y = x * gamma + beta, gamma along some axes: weights, or the second bottom."""
    param, x = ctx.param("scale"), ctx.bottom()
    rank = len(x.shape)
    axis = ctx.axis(param.axis, rank)
    if len(ctx.bottoms) > 1:
        factor, shape = _second(ctx, axis), ctx.bottoms[1].shape
        at = 0
    else:
        shape, at = _extent(x, axis, param.num_axes), 1
        factor = ctx.constant(_along(ctx.weights(0, shape, fill=1.0), axis, rank))
    y = ctx.binary("mul", x, factor)
    if param.bias_term:
        y = ctx.binary("add", y, ctx.constant(_along(ctx.weights(at, shape), axis, rank)))
    return y


def bias(ctx: Context) -> Tensor:
    """y = x + beta, beta along some axes: weights, or the second bottom."""
    param, x = ctx.param("bias"), ctx.bottom()
    axis = ctx.axis(param.axis, len(x.shape))
    if len(ctx.bottoms) > 1:
        return ctx.binary("add", x, _second(ctx, axis))
    values = ctx.weights(0, _extent(x, axis, param.num_axes))
    return ctx.binary("add", x, ctx.constant(_along(values, axis, len(x.shape))))


def lrn(ctx: Context) -> Tensor:
    """y = x / (k + alpha / n * sum of squares)^beta over n channels, or over n x n pixels."""
    param, image = ctx.param("lrn"), ctx.image()
    size = param.local_size
    if size % 2 == 0:
        raise ModelError(f"local_size is {size}, needed an odd number")
    if param.norm_region == 0:
        return ctx.from_image(ctx.add("lrn", [image], size=size, alpha=param.alpha,
                                      beta=param.beta, bias=param.k))
    half = size // 2
    mean = ctx.add("pool2d", [ctx.unary("square", image)], kind="average", kernel_h=size,
                   kernel_w=size, pad_top=half, pad_bottom=half, pad_left=half, pad_right=half,
                   count_include_pad=True)
    power = ctx.binary("pow", ctx.affine(mean, param.alpha, 1.0), ctx.constant(param.beta))
    return ctx.from_image(ctx.binary("div", image, power))


def mvn(ctx: Context) -> Tensor:
    """y = x - mean, and divided by (standard deviation + eps), per channel or per sample."""
    param, x = ctx.param("mvn"), ctx.bottom()
    axes = tuple(range(1 if param.across_channels else 2, len(x.shape)))
    mean = ctx.add("reduce", [x], kind="mean", axes=axes, keep_dims=True)
    y = ctx.binary("sub", x, mean)
    if not param.normalize_variance:
        return y
    variance = ctx.add("reduce", [ctx.unary("square", y)], kind="mean", axes=axes, keep_dims=True)
    return ctx.binary("div", y, ctx.affine(ctx.unary("sqrt", variance), 1.0, param.eps))


def normalize(ctx: Context) -> Tensor:
    """y = scale * x / sqrt(sum of squares + eps), over channels, or over the sample."""
    param, x = ctx.param("norm"), ctx.bottom()
    axes = tuple(range(1, len(x.shape))) if param.across_spatial else (1,)
    total = ctx.add("reduce", [x], kind="sum_square", axes=axes, keep_dims=True)
    y = ctx.binary("mul", x, ctx.unary("rsqrt", ctx.affine(total, 1.0, param.eps)))
    channels = 1 if param.channel_shared else x.shape[1]
    values = ctx.weights(0, (channels,), fill=1.0)
    return ctx.binary("mul", y, ctx.constant(_along(values, 1, len(x.shape))))


def softmax(ctx: Context) -> Tensor:
    """Softmax along an axis."""
    x = ctx.bottom()
    axis, rank = ctx.axis(ctx.param("softmax").axis, len(x.shape)), len(x.shape)
    perm = [*(a for a in range(rank) if a != axis), axis]
    y = ctx.add("softmax", [ctx.transpose(x, perm)], axis=rank - 1)
    return ctx.transpose(y, [perm.index(a) for a in range(rank)])


TABLE = {
    "Convolution": convolution, "ConvolutionDepthwise": convolution,
    "DepthwiseConvolution": convolution, "Deconvolution": deconvolution, "Pooling": pooling,
    "InnerProduct": inner_product, "BatchNorm": batch_norm, "Scale": scale, "Bias": bias,
    "LRN": lrn, "MVN": mvn, "Normalize": normalize, "Softmax": softmax,
}
