"""ONNX Fourier transforms as products with constant matrices, Col2Im, LpPool and Det."""
from __future__ import annotations

import math

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need, normal_axis
from edgerun.tools.importers.onnx.elementwise import binary, unary
from edgerun.tools.importers.onnx.layers import Window, resolve_padding, window_of
from edgerun.tools.importers.onnx.movement import cut

LARGEST_DET = 4  # rows: the number of products grows with the factorial


def _fourier(length: int, parts: int, bins: int, inverse: bool,
             window: np.ndarray | None = None) -> np.ndarray:
    """Return the matrix [bins * 2, length * parts] from samples to bins.

    Args:
        length: samples.
        parts: 1 for real samples, 2 for pairs of real and imaginary part, as the bins are.
        bins: how many of `length`.
        inverse: with the other sign, divided by the length.
        window: factors of the samples.
    """
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(length)) / length
    wave = np.exp((1j if inverse else -1j) * angle) / (length if inverse else 1)
    if window is not None:
        wave = wave * window
    columns = np.stack([wave, 1j * wave][:parts], -1)  # [bins, length, parts]
    return np.stack([columns.real, columns.imag], 1).reshape(2 * bins, length * parts)


def _transform(ctx: Context, x: Tensor, length: int, bins: int, inverse: bool,
               window: np.ndarray | None = None) -> Tensor:
    """Return the bins [..., bins, 2] of samples [..., length, 1 or 2]."""
    matrix = _fourier(length, x.shape[-1], bins, inverse, window).astype(np.float32)
    flat = ctx.reshape(x, (*x.shape[:-2], length * x.shape[-1]))
    y = ctx.add("dense", [flat, ctx.constant(matrix, like=x)])
    return ctx.reshape(y, (*x.shape[:-2], bins, 2))


def _dft(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    rank = len(x.shape)
    need(x.dtype in dtypes.FLOAT, f"it computes with {x.dtype}, needed float")
    if rank < 2 or x.shape[-1] not in (1, 2):
        raise ModelError(f"its input has the shape {x.shape}, needed 1 or 2 numbers in the last "
                         "axis")
    axis = node.attr("axis", 1) if node.opset < 20 else -2
    if node.opset >= 20 and node.given(2):
        axis = int(node.single(2, "axis"))
    axis = normal_axis(axis, rank)
    if axis == rank - 1:
        raise ModelError("it transforms the axis of real and imaginary part")
    inverse, one_sided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    half = inverse and one_sided
    length = 2 * (x.shape[axis] - 1) if half else x.shape[axis]
    if node.given(1):
        length = int(node.single(1, "dft_length"))
    if length < 1 or (half and x.shape[-1] != 2):
        raise ModelError(f"its length is {length}, its input has the shape {x.shape}")
    taken = length // 2 + 1 if half else length
    if taken < x.shape[axis]:
        x = cut(ctx, x, axis, 0, taken)
    elif taken > x.shape[axis]:
        after = [taken - n if at == axis else 0 for at, n in enumerate(x.shape)]
        x = ctx.add("pad", [x], mode="constant", before=[0] * rank, after=after)
    order = [at for at in range(rank - 1) if at != axis] + [axis, rank - 1]
    x = ctx.transpose(x, order)
    if half:
        flat = ctx.reshape(x, (*x.shape[:-2], 2 * taken))
        y = ctx.add("dense", [flat, ctx.constant(_from_half(length), like=x)])
        y = ctx.reshape(y, (*y.shape, 1))
    else:
        y = _transform(ctx, x, length, length // 2 + 1 if one_sided else length, inverse)
    return ctx.transpose(y, np.argsort(order).tolist())


def _from_half(length: int) -> np.ndarray:
    """Return the matrix [length, bins * 2] from the first half of the bins to real samples; the
    others are their mirror image."""
    bins = length // 2 + 1
    angle = 2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / length
    twice = np.full(bins, 2.0)
    twice[0] = 1
    if length % 2 == 0:
        twice[-1] = 1
    wave = np.stack([np.cos(angle), -np.sin(angle)], -1) * twice[:, None] / length
    return wave.reshape(length, 2 * bins)


def _stft(ctx: Context, node: Node) -> Tensor:
    """Bins [N, frames, bins, 2] of frames that start every few samples."""
    x, step = ctx.tensor(0), int(node.single(1, "frame_step"))
    if len(x.shape) == 2:
        x = ctx.reshape(x, (*x.shape, 1))
    if len(x.shape) != 3 or x.shape[2] not in (1, 2) or step < 1:
        raise ModelError(f"its input has the shape {x.shape} and its step is {step}")
    window = node.known(2, "window") if node.given(2) else None
    length = len(window) if window is not None else x.shape[1]
    if node.given(3):
        length = int(node.single(3, "frame_length"))
    if not 1 <= length <= x.shape[1] or (window is not None and window.shape != (length,)):
        raise ModelError(f"frames of {length} samples do not fit a window of the shape "
                         f"{None if window is None else window.shape} or {x.shape[1]} samples")
    starts = step * np.arange((x.shape[1] - length) // step + 1)
    frames = (starts[:, None] + np.arange(length)).astype(np.int32)
    x = ctx.add("gather", [x, ctx.constant(frames)], axis=1)
    bins = length // 2 + 1 if node.attr("onesided", 1) else length
    return _transform(ctx, x, length, bins, False, window)


def _col2im(ctx: Context, node: Node) -> Tensor:
    """Add up the columns of all places of a block: a transposed convolution with ones."""
    x = ctx.tensor(0)
    image = [int(n) for n in node.known(1, "image shape").reshape(-1)]
    block = [int(n) for n in node.known(2, "block shape").reshape(-1)]
    if (len(x.shape) != 3 or len(image) != len(block) or min(block, default=0) < 1
            or x.shape[1] % math.prod(block)):
        raise ModelError(f"blocks of {block} of an image of {image} do not fit the shape {x.shape}")
    channels, rank = x.shape[1] // math.prod(block), len(image)
    window = window_of(node, (1, channels, *image), block)
    places = [(n + before + after - d * (k - 1) - 1) // s + 1 for n, before, after, d, k, s in zip(
        image, window.before, window.after, window.dilations, block, window.strides)]
    if math.prod(places) != x.shape[2]:
        raise ModelError(f"blocks of {block} lie at {places} places of an image of {image}, its "
                         f"input has {x.shape[2]}")
    y = ctx.channels_last(ctx.reshape(x, (*x.shape[:2], *places)))
    if rank == 1:
        y = ctx.reshape(y, (y.shape[0], 1, *y.shape[1:]))
    size = math.prod(block)
    ones = np.broadcast_to(np.eye(size).reshape(1, *[1] * (2 - rank), *block, size),
                           (channels, *[1] * (2 - rank), *block, size))
    rest = [n + before + after - s * (p - 1) - d * (k - 1) - 1
            for n, before, after, s, p, d, k in zip(image, window.before, window.after,
                                                    window.strides, places, window.dilations,
                                                    block)]
    extra_h, extra_w = [0] * (2 - rank) + rest
    y = ctx.add("conv_transpose2d", [y, ctx.constant(ones, like=x)], groups=channels,
                output_pad_h=extra_h, output_pad_w=extra_w, **window.options())
    return ctx.from_image(y, rank + 2)


def _lp_pool(ctx: Context, node: Node) -> Tensor:
    """y = (sum of |x|^p over the window)^(1/p)."""
    x, p, kernel = ctx.tensor(0), node.attr("p", 2), node.attr("kernel_shape")
    if kernel is None:
        raise ModelError("has no kernel_shape")
    _check_norm(p)
    window = window_of(node, x.shape, kernel)
    resolve_padding(node, window, x.shape[2:])
    if node.attr("ceil_mode", 0):
        _round_up(window, x.shape[2:])
    powers = _power(ctx, unary(ctx, "abs", x), p)
    ones = np.ones((*[1] * (2 - window.rank), *kernel, x.shape[1]))
    y = ctx.add("depthwise_conv2d", [ctx.image(powers), ctx.constant(ones, like=x)],
                **window.options())
    return _power(ctx, ctx.from_image(y, len(x.shape)), 1 / p)


def _check_norm(p: float) -> None:
    if not p > 0:
        raise ModelError(f"p is {p}, needed a positive number")


def _round_up(window: Window, spatial: tuple[int, ...]) -> None:
    """Pad behind, until windows that reach over the end are there."""
    for axis, size in enumerate(spatial):
        reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
        room = size + window.before[axis] + window.after[axis] - reach
        window.after[axis] += -room % window.strides[axis]


def _power(ctx: Context, x: Tensor, exponent: float) -> Tensor:
    kind = {2.0: "square", 0.5: "sqrt"}.get(float(exponent))
    if exponent == 1 or kind:
        return unary(ctx, kind, x) if kind else x
    return binary(ctx, "pow", x, ctx.constant(np.array(exponent), like=x))


def _global_lp_pool(ctx: Context, node: Node) -> Tensor:
    x, p = ctx.tensor(0), node.attr("p", 2)
    need(len(x.shape) > 2, f"its input has {len(x.shape)} dimensions, needed at least 3")
    _check_norm(p)
    powers = _power(ctx, unary(ctx, "abs", x), p)
    total = ctx.add("reduce", [powers], kind="sum", axes=list(range(2, len(x.shape))),
                    keep_dims=True)
    return _power(ctx, total, 1 / p)


def _det(ctx: Context, node: Node) -> Tensor:
    """The determinant, expanded along rows."""
    x = ctx.tensor(0)
    rank = len(x.shape)
    if rank < 2 or x.shape[-1] != x.shape[-2]:
        raise ModelError(f"its input has the shape {x.shape}, needed square matrices")
    size = x.shape[-1]
    need(size <= LARGEST_DET, f"its matrices have {size} rows, needed at most {LARGEST_DET}")
    element = [[ctx.reshape(cut(ctx, cut(ctx, x, rank - 2, i, 1), rank - 1, j, 1), x.shape[:-2])
                for j in range(size)] for i in range(size)]

    def minor(row: int, columns: tuple[int, ...]) -> Tensor:
        total = None
        for number, column in enumerate(columns):
            term = element[row][column]
            if row + 1 < size:
                rest = columns[:number] + columns[number + 1:]
                term = binary(ctx, "mul", term, minor(row + 1, rest))
            total = term if total is None else binary(ctx, "sub" if number % 2 else "add", total,
                                                      term)
        return total
    return minor(0, tuple(range(size)))


TABLE = {"DFT": _dft, "STFT": _stft, "Col2Im": _col2im, "LpPool": _lp_pool,
         "GlobalLpPool": _global_lp_pool, "Det": _det}
