"""ONNX convolutions, pooling, and matrix products."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need
from edgerun.tools.importers.onnx.elementwise import binary, cast, unary


@dataclass
class Window:
    """A sliding window over one or two spatial axes, always kept as two (height 1 for one axis)."""
    rank: int
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    def options(self) -> dict[str, int]:
        """Return the options that conv2d, conv_transpose2d and pool2d share."""
        (top, left), (bottom, right) = self._two(self.before, 0), self._two(self.after, 0)
        stride_h, stride_w = self._two(self.strides, 1)
        dilation_h, dilation_w = self._two(self.dilations, 1)
        return {"stride_h": stride_h, "stride_w": stride_w, "dilation_h": dilation_h,
                "dilation_w": dilation_w, "pad_top": top, "pad_left": left, "pad_bottom": bottom,
                "pad_right": right}

    def kernel_options(self) -> dict[str, int]:
        """Return the window's size, for pool2d."""
        height, width = self._two(self.kernel, 1)
        return {"kernel_h": height, "kernel_w": width}

    @staticmethod
    def _two(values: Sequence[int], fill: int) -> list[int]:
        return [fill] * (2 - len(values)) + list(values)


def window_of(node: Node, shape: Sequence[int], kernel: Sequence[int]) -> Window:
    """Return the window of a node over an input [N, C, spatial...]."""
    spatial = list(shape[2:])
    rank = len(spatial)
    need(rank in (1, 2), f"it has {rank} spatial axes, needed 1 or 2")
    strides = node.attr("strides") or [1] * rank
    dilations = node.attr("dilations") or [1] * rank
    pads = node.attr("pads") or [0] * (2 * rank)
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise ModelError(f"kernel {list(kernel)}, strides {strides}, dilations {dilations} or pads "
                         f"{pads} do not fit {rank} spatial axes")
    if min(*kernel, *strides, *dilations) < 1:
        raise ModelError(f"kernel {list(kernel)}, strides {strides} or dilations {dilations}: "
                         "needed 1 or more")
    return Window(rank, list(kernel), strides, dilations, pads[:rank], pads[rank:])


def _auto_pad(node: Node) -> str:
    return node.attr("auto_pad", "NOTSET") or "NOTSET"


def _split(total: int, more_at_end: bool) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if more_at_end else (large, small)


def resolve_padding(node: Node, window: Window, spatial: Sequence[int]) -> None:
    """Put what auto_pad stands for into the window of a convolution or a pool."""
    mode = _auto_pad(node)
    if mode == "NOTSET":
        return
    if mode == "VALID":
        window.before, window.after = [0] * window.rank, [0] * window.rank
        return
    for axis, (size, k, s, d) in enumerate(zip(
            spatial, window.kernel, window.strides, window.dilations)):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        window.before[axis], window.after[axis] = _split(total, mode == "SAME_UPPER")


def _image_weights(w: np.ndarray) -> np.ndarray:
    """Return weights with two kernel axes."""
    return w[:, :, None, :] if w.ndim == 3 else w


def _conv(ctx: Context, node: Node) -> Tensor:
    x, w = ctx.tensor(0), node.known(1, "weight")
    window = window_of(node, x.shape, w.shape[2:])
    resolve_padding(node, window, x.shape[2:])
    groups = node.attr("group", 1)
    if w.shape[1] * groups != x.shape[1]:
        raise ModelError(f"weights of shape {w.shape} in {groups} groups do not fit {x.shape[1]} "
                         "channels")
    bias = _bias(ctx, node, 2)
    image = ctx.image(x)
    if groups == x.shape[1] and groups > 1:
        weights = ctx.derived(1, "depthwise", lambda a: _image_weights(a)[:, 0].transpose(1, 2, 0))
        y = ctx.add("depthwise_conv2d", [image, weights, bias], **window.options())
    else:
        weights = ctx.derived(1, "conv", lambda a: _image_weights(a).transpose(0, 2, 3, 1))
        y = ctx.add("conv2d", [image, weights, bias], groups=groups, **window.options())
    return ctx.from_image(y, len(x.shape))


def _bias(ctx: Context, node: Node, index: int) -> Tensor | None:
    if not node.given(index):
        return None
    node.known(index, "bias")
    return ctx.derived(index, "bias", lambda a: a, dtype="fp32")


def _conv_transpose(ctx: Context, node: Node) -> Tensor:
    x, w = ctx.tensor(0), node.known(1, "weight")
    window = window_of(node, x.shape, w.shape[2:])
    rank, groups = window.rank, node.attr("group", 1)
    extra = node.attr("output_padding") or [0] * rank
    wanted = node.attr("output_shape")
    full = [s * (n - 1) + (k - 1) * d + 1 for n, k, s, d in zip(
        x.shape[2:], window.kernel, window.strides, window.dilations)]
    mode = _auto_pad(node)
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(x.shape[2:], window.strides)]
    if wanted is not None:
        for axis, (size, target) in enumerate(zip(full, wanted[-rank:])):
            total = size + extra[axis] - target
            window.before[axis], window.after[axis] = _split(max(total, 0), mode == "SAME_UPPER")
            extra[axis] += max(-total, 0)
    elif mode == "VALID":
        window.before, window.after = [0] * rank, [0] * rank
    weights = ctx.derived(1, f"conv_transpose{groups}", lambda a: _grouped_out(
        _image_weights(a), groups))
    extra_h, extra_w = [0] * (2 - rank) + list(extra)
    y = ctx.add("conv_transpose2d", [ctx.image(x), weights, _bias(ctx, node, 2)], groups=groups,
                output_pad_h=extra_h, output_pad_w=extra_w, **window.options())
    return ctx.from_image(y, len(x.shape))


def _grouped_out(w: np.ndarray, groups: int) -> np.ndarray:
    """Return [IC, OC/groups, KH, KW] as [OC, KH, KW, IC/groups]."""
    in_c, per_group, height, width = w.shape
    split = w.reshape(groups, in_c // groups, per_group, height, width)
    return split.transpose(0, 2, 3, 4, 1).reshape(groups * per_group, height, width, in_c // groups)


def _max_pool(ctx: Context, node: Node) -> Tensor:
    return _pool(ctx, node, "max")


def _average_pool(ctx: Context, node: Node) -> Tensor:
    return _pool(ctx, node, "average", count_include_pad=bool(node.attr("count_include_pad", 0)))


def _pool(ctx: Context, node: Node, kind: str, **options) -> Tensor:
    x = ctx.tensor(0)
    kernel = node.attr("kernel_shape")
    if kernel is None:
        raise ModelError("has no kernel_shape")
    window = window_of(node, x.shape, kernel)
    resolve_padding(node, window, x.shape[2:])
    ceil_mode = bool(node.attr("ceil_mode", 0)) and _auto_pad(node) == "NOTSET"
    image = ctx.image(x)
    if x.dtype in ("int8", "uint8"):  # exact in float
        image = cast(ctx, image, "fp32")
    y = ctx.add("pool2d", [image], kind=kind, ceil_mode=ceil_mode, **options,
                **window.options(), **window.kernel_options())
    return ctx.from_image(cast(ctx, y, x.dtype), len(x.shape))


def _global_pool(kind: str):
    def function(ctx: Context, node: Node) -> Tensor:
        x = ctx.tensor(0)
        rank = len(x.shape)
        if rank < 3:
            raise ModelError(f"its input has {rank} dimensions, needed at least 3")
        y = ctx.add("reduce", [ctx.channels_last(x)], kind=kind, axes=list(range(1, rank - 1)),
                    keep_dims=True)
        return ctx.channels_first(y)
    return function


def _gemm(ctx: Context, node: Node) -> Tensor:
    a = ctx.tensor(0)
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    trans_a, trans_b = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    need(a.dtype in dtypes.FLOAT, f"it computes with {a.dtype}, needed float")
    bias, addend = None, None
    if node.value(1).known:
        if trans_a:
            a = ctx.transpose(a, (1, 0))
        weights = ctx.derived(1, f"dense{trans_b}", lambda b: b if trans_b else b.T, alpha)
        if node.given(2) and _is_bias(node, weights.shape[0]):
            bias = ctx.derived(2, f"bias{weights.shape[0]}", lambda c: np.broadcast_to(
                c.reshape(-1), (weights.shape[0],)), beta, "fp32")
        y = ctx.add("dense", [a, weights, bias])
    else:
        y = ctx.add("matmul", [a, ctx.tensor(1)], transpose_a=trans_a, transpose_b=trans_b)
        if alpha != 1.0:
            y = unary(ctx, "affine", y, alpha)
    if node.given(2) and bias is None:
        if node.value(2).known:
            addend = ctx.constant(beta * node.value(2).array, like=y)
        else:
            addend = ctx.tensor(2)
            addend = addend if beta == 1.0 else unary(ctx, "affine", addend, beta)
        y = binary(ctx, "add", y, addend)
    return y


def _is_bias(node: Node, channels: int) -> bool:
    """Whether Gemm's C is a constant that is the same in every row."""
    value = node.value(2)
    return value.known and value.array.size in (1, channels) and (
        len(value.shape) < 2 or value.shape[0] == 1)


def _matmul(ctx: Context, node: Node) -> Tensor:
    shape_a, shape_b = node.shape(0), node.shape(1)
    if not shape_a or not shape_b:
        raise ModelError("an input is a scalar, needed at least 1 dimension")
    if shape_a[-1] != shape_b[-2 if len(shape_b) > 1 else 0]:
        raise ModelError(f"the shapes {shape_a} and {shape_b} do not fit")
    a = ctx.tensor(0)
    need(a.dtype in dtypes.FLOAT, f"it computes with {a.dtype}, needed float")
    if len(shape_a) == 1:
        a = ctx.reshape(a, (1, *shape_a))
    rows, columns = shape_a[-2:-1], shape_b[-1:] if len(shape_b) > 1 else ()
    batch = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    if node.value(1).known and all(n == 1 for n in shape_b[:-2]):
        weights = ctx.derived(1, "dense", lambda b: (
            b.reshape(b.shape[-2:]).T if b.ndim > 1 else b[None]))
        y = ctx.add("dense", [a, weights])
    else:
        b = ctx.tensor(1)
        y = ctx.add("matmul", [a, b if len(shape_b) > 1 else ctx.reshape(b, (*shape_b, 1))])
    return ctx.reshape(y, (*batch, *rows, *columns))


TABLE = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool,
    "AveragePool": _average_pool, "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"), "Gemm": _gemm, "MatMul": _matmul,
}
