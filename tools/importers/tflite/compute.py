"""Convolutions, matrix products, pooling, resizing, normalization and reductions."""
from __future__ import annotations

import math
import struct
from typing import Any

import tflite

from edgerun import dtypes
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.tflite.context import Context, Rule
from edgerun.tools.importers.tflite.source import SourceOp


def _window(ctx: Context, op: SourceOp, x: Tensor, kernel: tuple[int, int],
            dilated: bool = False) -> dict[str, Any]:
    """Return strides, dilations and padding of a window sliding over x [N, H, W, C]."""
    stride = op.option("StrideH"), op.option("StrideW")
    dilation = (op.option("DilationHFactor"), op.option("DilationWFactor")) if dilated else (1, 1)
    if len(x.shape) != 4:
        raise ctx.damaged(op, f"{x.name} has the shape {x.shape}, needed 4 dimensions")
    if min(*stride, *dilation, *kernel) < 1:
        raise ctx.damaged(op, f"stride {stride}, dilation {dilation}, kernel {kernel}: needed at "
                              "least 1")
    before, after = zip(*(_padding(ctx, op, *axis)
                          for axis in zip(x.shape[1:3], kernel, stride, dilation)))
    options = {"stride_h": stride[0], "stride_w": stride[1], "pad_top": before[0],
               "pad_left": before[1], "pad_bottom": after[0], "pad_right": after[1]}
    if dilated:
        options |= {"dilation_h": dilation[0], "dilation_w": dilation[1]}
    return options


def _padding(ctx: Context, op: SourceOp, size: int, kernel: int, stride: int,
             dilation: int) -> tuple[int, int]:
    """Return the elements before and behind one axis; with SAME, an odd one goes behind."""
    if not _same(ctx, op):
        return 0, 0
    steps = -(-size // stride)
    total = max(0, (steps - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def _same(ctx: Context, op: SourceOp) -> bool:
    padding = op.option("Padding")
    if padding not in (tflite.Padding.SAME, tflite.Padding.VALID):
        raise ctx.damaged(op, f"padding scheme {padding}, needed SAME (0) or VALID (1)")
    return padding == tflite.Padding.SAME


def _filter(ctx: Context, op: SourceOp) -> Tensor:
    """Return the filter [.., KH, KW, ..] of a convolution."""
    w = ctx.weights(op, 1)
    if len(w.shape) != 4:
        raise ctx.damaged(op, f"its filter {w.name} has the shape {w.shape}, needed 4 dimensions")
    return w


def conv_2d(ctx: Context, op: SourceOp) -> Tensor:
    """x [N,H,W,IC], w [OC,KH,KW,IC/groups]; the groups follow from the shapes."""
    x, w = ctx.input(op, 0), _filter(ctx, op)
    window = _window(ctx, op, x, w.shape[1:3], dilated=True)
    if not w.shape[3] or x.shape[3] % w.shape[3]:
        raise ctx.damaged(op, f"{x.shape[3]} input channels do not divide into filters of "
                              f"{w.shape[3]}")
    taps = ctx.own(op, w, "conv2d weights")
    return ctx.add("conv2d", [x, taps, ctx.bias(op, 2, x, taps, w.shape[0])], op,
                   groups=x.shape[3] // w.shape[3], **window, **ctx.activation(op))


def depthwise_conv_2d(ctx: Context, op: SourceOp) -> Tensor:
    """x [N,H,W,C], w [1,KH,KW,C*M]."""
    x, w = ctx.input(op, 0), _filter(ctx, op)
    window = _window(ctx, op, x, w.shape[1:3], dilated=True)
    if w.shape[0] != 1:
        raise ctx.damaged(op, f"its filter {w.name} has the shape {w.shape}, needed 1 first")
    taps = ctx.own(op, w, "depthwise weights", w.shape[1:])
    return ctx.add("depthwise_conv2d", [x, taps, ctx.bias(op, 2, x, taps, w.shape[3])], op,
                   **window, **ctx.activation(op))


def transpose_conv(ctx: Context, op: SourceOp) -> Tensor:
    """Output shape, w [OC,KH,KW,IC], x [N,H,W,IC], bias; cut so that the output shape results.

    Where the shape is an input of the model, the one that the file declares is packed.
    """
    w, x, declared = _filter(ctx, op), ctx.input(op, 2), ctx.source.tensors[op.outputs[0]]
    if op.inputs[0] in ctx.source.inputs and declared.shape and not declared.dynamic:
        shape = list(declared.shape)
        ctx.graph.notes.append(f"{op} reads its output shape from an input of the model; packed "
                               f"for {declared.shape}, whatever that input says")
    else:
        shape = ctx.ints(op, 0, "the output shape")
    stride = op.option("StrideH"), op.option("StrideW")
    if len(shape) != 4 or len(x.shape) != 4 or min(stride) < 1:
        raise ctx.damaged(op, f"output shape {shape}, {x.name} of the shape {x.shape}, stride "
                              f"{stride}: needed 4 dimensions and strides of at least 1")
    return _transpose_conv(ctx, op, x, w, stride, (shape[1], shape[2]), 3, _same(ctx, op))


def transpose_conv_bias(ctx: Context, op: SourceOp) -> Tensor:
    """MediaPipe's custom op: x [N,H,W,IC], w [OC,KH,KW,IC], bias [OC].

    Its options are the C structure TfLiteTransposeConvParams: int32 padding (1 SAME, 2 VALID),
    stride_w, stride_h, and what later versions put behind. SAME cuts max(0, KH - 1 - (H - 1) mod
    stride_h) rows, the smaller half at the top: the smallest image that a convolution with SAME
    brings to H rows.
    """
    x, w, stored = ctx.input(op, 0), _filter(ctx, op), op.options.get("CustomOptions", b"")
    if len(stored) < 12 or len(x.shape) != 4:
        raise ctx.damaged(op, f"{len(stored)} bytes of options, needed 12; {x.name} of the shape "
                              f"{x.shape}, needed 4 dimensions")
    padding, stride_w, stride_h = struct.unpack_from("<3i", stored)
    if padding not in (1, 2) or min(stride_h, stride_w) < 1:
        raise ctx.damaged(op, f"padding scheme {padding}, needed SAME (1) or VALID (2); stride "
                              f"{(stride_h, stride_w)}, needed at least 1")
    sizes = []
    for size, kernel, step in zip(x.shape[1:3], w.shape[1:3], (stride_h, stride_w)):
        cut = max(0, kernel - (size - 1) % step - 1) if padding == 1 else 0
        sizes.append((size - 1) * step + kernel - cut)
    return _transpose_conv(ctx, op, x, w, (stride_h, stride_w), (sizes[0], sizes[1]), 2,
                           padding == 1)


def _transpose_conv(ctx: Context, op: SourceOp, x: Tensor, w: Tensor, stride: tuple[int, int],
                    out: tuple[int, int], bias: int, same: bool) -> Tensor:
    """Add a conv_transpose2d that writes `out` rows and columns; with SAME it cuts both sides.

    `bias` is the number of the input.
    """
    before, after, more = [], [], []
    for size, kernel, step, rows in zip(x.shape[1:3], w.shape[1:3], stride, out):
        extra = (size - 1) * step + kernel - rows  # rows of the full result that do not fit
        top = max(0, extra) // 2 if same else 0
        before.append(top)
        after.append(max(0, extra - top))
        more.append(max(0, -extra))
    taps = ctx.own(op, w, "conv_transpose2d weights")
    return ctx.add("conv_transpose2d", [x, taps, ctx.bias(op, bias, x, taps, w.shape[0])], op,
                   stride_h=stride[0], stride_w=stride[1], pad_top=before[0], pad_left=before[1],
                   pad_bottom=after[0], pad_right=after[1], output_pad_h=more[0],
                   output_pad_w=more[1], **ctx.activation(op))


def fully_connected(ctx: Context, op: SourceOp) -> Tensor:
    """x [...] as [rows, IC], w [OC,IC] -> [rows, OC], or [..., OC] with keep_num_dims."""
    x, w = ctx.input(op, 0), ctx.weights(op, 1)
    if op.option("WeightsFormat") != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise ctx.unsupported(op, "has shuffled weights; convert the model without them")
    if len(w.shape) != 2:
        raise ctx.damaged(op, f"its weights {w.name} have the shape {w.shape}, needed 2 dimensions")
    out, width = w.shape
    if not (op.option("KeepNumDims") and x.shape and x.shape[-1] == width):
        x = ctx.reshape(x, _rows(ctx, op, x, width), op)
    if w.data is not None:
        rows = ctx.own(op, w, "dense weights")
        if (rounds_rows(op) and ctx.source.tensors[op.inputs[1]].integer_quantized
                and ctx.integers(x) is x):
            x = ctx.add("round_rows", [x], op)
        return ctx.add("dense", [x, rows, ctx.bias(op, 2, x, rows, out)], op, **ctx.activation(op))
    y = x if len(x.shape) > 1 else ctx.reshape(x, (1, width), op)
    y = ctx.add("matmul", [y, w], op, transpose_b=True)
    if len(x.shape) < 2:
        y = ctx.reshape(y, (out,), op)
    if not ctx.has(op, 2):
        return ctx.activate(y, op)
    bias = ctx.stored(op, 2)
    if bias.dtype not in dtypes.FLOAT:
        bias = ctx.bias(op, 2, x, w, out)
    return ctx.add("binary", [y, bias], op, kind="add", **ctx.activation(op))


def rounds_rows(op: SourceOp) -> bool:
    """Whether TFLite rounds the rows of what an op multiplies with integer weights to 8 bits, by
    the largest magnitude of each."""
    return (op.type == "FULLY_CONNECTED" or op.type.endswith("LSTM")) and not op.option(
        "AsymmetricQuantizeInputs")


def _rows(ctx: Context, op: SourceOp, x: Tensor, width: int) -> tuple[int, int]:
    elements = math.prod(x.shape)
    if width < 1 or elements % width:
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape}, needed rows of {width}")
    return elements // width, width


def batch_matmul(ctx: Context, op: SourceOp) -> Tensor:
    """a [..,M,K], b [..,K,N], transposed flags; a constant 2-D b becomes dense weights."""
    a, b = ctx.weights(op, 0), ctx.weights(op, 1)
    adj_a, adj_b = bool(op.option("AdjX")), bool(op.option("AdjY"))
    if b.data is not None and len(b.shape) == 2 and not adj_a and len(a.shape) >= 2:
        w = ctx.real(b) if adj_b else ctx.transpose(ctx.real(b), (1, 0), op)
        return ctx.add("dense", [ctx.real(a), ctx.own(op, w, "dense weights")], op)
    return ctx.add("matmul", [ctx.real(a), ctx.real(b)], op, transpose_a=adj_a, transpose_b=adj_b)


def _pool(kind: str) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        x = ctx.input(op, 0)
        kernel = op.option("FilterHeight"), op.option("FilterWidth")
        return ctx.add("pool2d", [x], op, kind=kind, kernel_h=kernel[0], kernel_w=kernel[1],
                       **_window(ctx, op, x, kernel), **ctx.activation(op))
    return Rule(convert, (1, 1))


def _resize(ctx: Context, op: SourceOp, kind: str, coordinate_mode: str,
            nearest_mode: str) -> Tensor:
    x, size = ctx.input(op, 0), ctx.ints(op, 1, "the size")
    if len(x.shape) != 4 or len(size) != 2 or min(size) < 1:
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape} to the size {size}")
    return ctx.add("resize", [x], op, kind=kind, height=size[0], width=size[1],
                   scale_h=size[0] / x.shape[1], scale_w=size[1] / x.shape[2],
                   coordinate_mode=coordinate_mode, nearest_mode=nearest_mode)


def resize_bilinear(ctx: Context, op: SourceOp) -> Tensor:
    """Linear in both axes; corners aligned, pixel centres at half, or neither."""
    align, half = op.option("AlignCorners"), op.option("HalfPixelCenters")
    if align and half:
        raise ctx.damaged(op, "align_corners and half_pixel_centers exclude each other")
    mode = "align_corners" if align else "half_pixel" if half else "asymmetric"
    return _resize(ctx, op, "linear", mode, "floor")


def resize_nearest_neighbor(ctx: Context, op: SourceOp) -> Tensor:
    """Index floor(i * in / out), floor((i + 0.5) * in / out) or round(i * (in - 1) / (out - 1))."""
    align, half = op.option("AlignCorners"), op.option("HalfPixelCenters")
    if align and half:
        raise ctx.unsupported(op, "align_corners together with half_pixel_centers; export it with "
                                  "one of them")
    if align:
        return _resize(ctx, op, "nearest", "align_corners", "round_prefer_ceil")
    return _resize(ctx, op, "nearest", "tf_half_pixel_for_nn" if half else "asymmetric", "floor")


def _softmax(log: bool) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        scale = 1.0 if log else op.option("Beta")
        return ctx.add("softmax", [ctx.input(op, 0)], op, axis=-1, log=log, scale=scale)
    return Rule(convert, (1, 1))


def l2_normalization(ctx: Context, op: SourceOp) -> Tensor:
    """x / max(1e-6, sqrt(sum x^2)) over the last axis; the op's epsilon is that of the square."""
    y = ctx.add("l2_normalize", [ctx.input(op, 0)], op, axis=-1, epsilon=1e-12)
    return ctx.activate(y, op)


def local_response_normalization(ctx: Context, op: SourceOp) -> Tensor:
    """x / (bias + alpha * sum of squares within radius)^beta; the op divides alpha by the size."""
    radius = op.option("Radius")
    if radius < 0:
        raise ctx.damaged(op, f"radius {radius}, needed at least 0")
    size = 2 * radius + 1
    return ctx.add("lrn", [ctx.input(op, 0)], op, size=size, alpha=op.option("Alpha") * size,
                   beta=op.option("Beta"), bias=op.option("Bias"))


def _reduced(ctx: Context, op: SourceOp, x: Tensor, kind: str) -> Tensor:
    axes = {ctx.axis(op, axis, len(x.shape)) for axis in ctx.ints(op, 1, "the axes")}
    if not axes:
        return x
    return ctx.add("reduce", [x], op, kind=kind, axes=tuple(sorted(axes)),
                   keep_dims=bool(op.option("KeepDims")))


def _reduce(kind: str) -> Rule:
    return Rule(lambda ctx, op: _reduced(ctx, op, ctx.input(op, 0), kind), (2, 2))


def _reduce_bool(kind: str) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        number = ctx.add("cast", [ctx.input(op, 0)], op, dtype="int32")
        return ctx.add("cast", [_reduced(ctx, op, number, kind)], op, dtype="bool")
    return Rule(convert, (2, 2))


def _arg(kind: str) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        x, axes = ctx.input(op, 0), ctx.ints(op, 1, "the axis")
        if len(axes) != 1:
            raise ctx.damaged(op, f"axes {axes}, needed one")
        return ctx.add("arg", [x], op, kind=kind, axis=ctx.axis(op, axes[0], len(x.shape)),
                       keep_dims=False)
    return Rule(convert, (2, 2))


RULES: dict[str, Rule] = {
    "CONV_2D": Rule(conv_2d, (2, 3)),
    "DEPTHWISE_CONV_2D": Rule(depthwise_conv_2d, (2, 3)),
    "TRANSPOSE_CONV": Rule(transpose_conv, (3, 4)),
    "CUSTOM(Convolution2DTransposeBias)": Rule(transpose_conv_bias, (3, 3)),
    "FULLY_CONNECTED": Rule(fully_connected, (2, 3)),
    "BATCH_MATMUL": Rule(batch_matmul, (2, 2)),
    "MAX_POOL_2D": _pool("max"),
    "AVERAGE_POOL_2D": _pool("average"),
    "RESIZE_BILINEAR": Rule(resize_bilinear, (2, 2)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(resize_nearest_neighbor, (2, 2)),
    "SOFTMAX": _softmax(log=False),
    "LOG_SOFTMAX": _softmax(log=True),
    "L2_NORMALIZATION": Rule(l2_normalization, (1, 1)),
    "LOCAL_RESPONSE_NORMALIZATION": Rule(local_response_normalization, (1, 1)),
    "MEAN": _reduce("mean"),
    "SUM": _reduce("sum"),
    "REDUCE_MAX": _reduce("max"),
    "REDUCE_MIN": _reduce("min"),
    "REDUCE_PROD": _reduce("prod"),
    "REDUCE_ANY": _reduce_bool("max"),
    "REDUCE_ALL": _reduce_bool("min"),
    "ARG_MAX": _arg("max"),
    "ARG_MIN": _arg("min"),
}
