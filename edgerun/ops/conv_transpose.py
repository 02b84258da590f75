"""Transposed convolutions of NHWC images."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Outputs, count, f32, float_types, i32, int8_arg, require,
    require_dtype, require_rank, require_same_dtype)
from edgerun.ops._integer import RESIDUAL, ZEROS, infer_integer, is_integer, optional
from edgerun.ops.conv import MAX_INDEX, require_bias, require_blocks, require_no_scales
from edgerun.ops.conv_transpose_integer import conv_transpose_integer
from edgerun.ops.elementwise import activation

LIMIT = 2**30  # rows or columns: sums of two of them are 32-bit integers


def _output_size(op: OpLike, axis: str, before: str, after: str, size: int, taps: int) -> int:
    """Return the output size along one axis after checking its options."""
    o = op.options
    stride, dilation, extra = o[f"stride_{axis}"], o[f"dilation_{axis}"], o[f"output_pad_{axis}"]
    require(stride >= 1 and dilation >= 1, op,
            f"stride_{axis} is {stride} and dilation_{axis} {dilation}, needed 1 or more")
    require(min(o[before], o[after], extra) >= 0, op,
            f"{before} is {o[before]}, {after} {o[after]} and output_pad_{axis} {extra}, "
            "needed 0 or more")
    full = (size - 1) * stride + (taps - 1) * dilation + 1 + extra
    require(max(full, stride, dilation) <= LIMIT, op,
            f"gives {full} elements along {axis} with stride {stride} and dilation {dilation}, at "
            f"most {LIMIT} are allowed")
    out = full - o[before] - o[after]
    require(out >= 1, op,
            f"{before} {o[before]} and {after} {o[after]} leave nothing of the {full} elements "
            f"along {axis}")
    return out


def infer_conv_transpose2d(op: OpLike) -> Outputs:
    """y is [N, OH, OW, OC], its size given by the options, its dtype that of x."""
    x, w, groups = op.inputs[0], op.inputs[1], op.options["groups"]
    require_rank(x, 4, op)
    require_rank(w, 4, op)
    if not is_integer(op):
        require_dtype(x, FLOAT, op)
        require_same_dtype(op, x, w)
        activation(op)
    out_c, kernel_h, kernel_w, in_c = w.shape
    require(groups >= 1 and in_c * groups == x.shape[3], op,
            f"{w.name} of shape {w.shape} in {groups} groups does not fit {x.shape[3]} channels of "
            f"{x.name}")
    require(out_c % groups == 0, op, f"{groups} groups do not divide {out_c} output channels")
    out_h = _output_size(op, "h", "pad_top", "pad_bottom", x.shape[1], kernel_h)
    out_w = _output_size(op, "w", "pad_left", "pad_right", x.shape[2], kernel_w)
    shape = (x.shape[0], out_h, out_w, out_c)
    require(optional(op, RESIDUAL) is None and optional(op, ZEROS) is None, op,
            "has a residual or zeros, needed neither")
    if is_integer(op):
        require(max(count(x.shape), count(w.shape), count(shape)) <= MAX_INDEX, op,
                f"{x.shape}, {w.shape} or {shape} are too large")
        return [(shape, infer_integer(op, shape))]
    require_bias(op, optional(op, 2), out_c)
    require_no_scales(op)
    return [(shape, x.dtype)]


def conv_transpose2d_macs(op: OpLike) -> int:
    """Multiply-accumulates, without regard to what is cut off at the border."""
    x, w = op.inputs[:2]
    return count(x.shape[:3]) * count(w.shape)


def conv_transpose2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n, oh, ow, o] = activation(bias[o] + sum over kh, kw, c of w[o, kh, kw, c] *
    x[n, ih, iw, c]) over the taps with ih * stride_h = oh + pad_top - kh * dilation_h for a row ih
    of the image, and iw likewise.

    x [N, H, W, C], w constant [OC, KH, KW, C / groups], both fp32 or fp16, bias optional [OC] fp32,
    or quantized (see "Integer forms") -> y [N, OH, OW, OC], OH = (H - 1) * stride_h - pad_top -
    pad_bottom + (KH - 1) * dilation_h + 1 + output_pad_h, OW likewise. With `groups`, each group of
    output channels reads its own group of the channels of x.
    """
    (x, w), bias, y = op.inputs[:2], optional(op, 2), op.outputs[0]
    require_blocks(op, w)
    o, groups = op.options, op.options["groups"]
    n, height, width, channels = x.shape
    kernel_h, kernel_w, in_c = w.shape[1:]
    out_h, out_w = y.shape[1:3]
    out_c = y.shape[3] // groups
    names = ("stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
    key = Key.of("conv_transpose", "integer" if is_integer(op) else "real", (x, w, y), n=n,
                 height=height, width=width, in_c=in_c, out_h=out_h, out_w=out_w, out_c=out_c,
                 kernel_h=kernel_h, kernel_w=kernel_w, groups=groups,
                 **{name: o[name] for name in names})
    variant = _tile.choose(key, facts)
    phases, tiles = min(o["stride_w"], out_w), -(-(-(-out_w // o["stride_w"])) // variant["P"])
    if is_integer(op):
        return conv_transpose_integer(op, facts, key, variant, phases, tiles)
    act = activation(op)
    defines = {**variant.defines, **float_types(x, y), **act.defines}
    return [Launch(
        "conv_transpose", "conv_transpose2d", defines,
        (phases * tiles, n * out_h, groups * -(-out_c // variant["VEC"])),
        (x, w, w if bias is None else bias, y, i32(bias is not None),
         int8_arg([height, width, channels, in_c, out_h, out_w, out_c, groups]),
         int8_arg([kernel_h, o["stride_h"], o["dilation_h"], o["pad_top"], 0, 0, 0, 0]),
         int8_arg([kernel_w, o["stride_w"], o["dilation_w"], o["pad_left"], phases, tiles, 0, 0]),
         f32(act.alpha), f32(act.beta)), facts.one, key, variant)]
