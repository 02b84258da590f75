"""Convolutions: direct, without workspace, bias, residual and activation in the same launch."""
from __future__ import annotations

import math
from typing import Any

from edgerun.dtypes import BLOCKED, FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    OUTPUT, Facts, Key, Launch, OpLike, Outputs, Shape, TensorLike, count, f32, float_types, i32,
    pitch_of, require, require_dtype, require_rank, require_same_dtype)
from edgerun.ops._integer import M0, WEIGHTS, form, infer_integer, is_integer, optional
from edgerun.ops.conv_integer import SIZES, integer_launch, require_real_weights
from edgerun.ops.elementwise import UNARY, Activation, activation

BLOCK = 16  # output channels of a block of weights (layout oc16)
MAX_INDEX = 2**31 - 1  # kernels index with 32-bit signed integers
MAX_TILE = 64  # no work-item computes more pixels


def require_bias(op: OpLike, bias: TensorLike | None, out_c: int) -> None:
    """Require that a bias, if there is one, is fp32 of one value per output channel."""
    if bias is not None:
        require_dtype(bias, ("fp32",), op)
        require(tuple(bias.shape) == (out_c,), op,
                f"the bias {bias.name} has the shape {bias.shape}, needed ({out_c},)")


def require_residual(op: OpLike, residual: TensorLike | None, shape: Shape) -> None:
    """Require that a residual, if there is one, has the shape of the output."""
    if residual is not None:
        require(tuple(residual.shape) == shape, op,
                f"the residual {residual.name} has the shape {residual.shape}, needed {shape}")


def require_blocks(op: OpLike, w: TensorLike) -> None:
    """Require weights in blocks, which is what kernels read."""
    needed = BLOCKED.get(w.dtype, "oc16")
    require(w.layout == needed, op,
            f"the weights {w.name} have the layout {w.layout}, needed {needed}")


def require_no_scales(op: OpLike) -> None:
    """Require that an op over floats has none of the inputs behind its zeros."""
    require(all(t is None for t in op.inputs[5:]), op, "has scales, but no integers")


def require_floats(op: OpLike) -> None:
    """Require float operands of one dtype, and a known activation."""
    x, w = op.inputs[:2]
    require_dtype(x, FLOAT, op)
    require_same_dtype(op, x, w, optional(op, 3), optional(op, 4))
    if op.options["activation"]:
        activation(op)


def output_size(op: OpLike, image: Shape, kernel: Shape) -> tuple[int, int]:
    """Return the height and width of a convolution's output, from its options.

    Args:
        op: for its options and for errors.
        image: height and width of the input.
        kernel: height and width of the kernel.

    Raises:
        ModelError: an option is out of range, or the kernel does not fit into the padded image.
    """
    o, sizes = op.options, []
    for axis, before, after, size, taps in (("h", "pad_top", "pad_bottom", image[0], kernel[0]),
                                            ("w", "pad_left", "pad_right", image[1], kernel[1])):
        stride, dilation = o[f"stride_{axis}"], o[f"dilation_{axis}"]
        require(stride >= 1 and dilation >= 1, op,
                f"stride_{axis} is {stride} and dilation_{axis} {dilation}, needed 1 or more")
        require(o[before] >= 0 and o[after] >= 0, op,
                f"{before} is {o[before]} and {after} {o[after]}, needed 0 or more")
        padded, extent = size + o[before] + o[after], (taps - 1) * dilation + 1
        require(taps >= 1 and extent <= padded <= MAX_INDEX, op,
                f"a kernel of {taps} taps that spans {extent} does not fit into {padded} padded "
                f"elements along {axis}, of at most {MAX_INDEX}")
        sizes.append((padded - extent) // stride + 1)
    return sizes[0], sizes[1]


def needs_zeros(op: OpLike) -> bool:
    """Whether taps of this conv2d may lie outside the image."""
    return any(op.options[key] for key in ("pad_top", "pad_left", "pad_bottom", "pad_right"))


def infer_conv2d(op: OpLike) -> Outputs:
    """y is [N, OH, OW, OC], its size given by the options, its dtype that of x."""
    x, w, groups = op.inputs[0], op.inputs[1], op.options["groups"]
    require_rank(x, 4, op)
    require_rank(w, 4, op)
    if not is_integer(op):
        require_floats(op)
    out_c, kernel_h, kernel_w, in_c = w.shape
    require(groups >= 1 and in_c >= 1 and in_c * groups == x.shape[3], op,
            f"{w.name} of shape {w.shape} in {groups} groups does not fit {x.shape[3]} channels of "
            f"{x.name}")
    require(out_c >= 1 and out_c % groups == 0, op,
            f"{groups} groups do not divide {out_c} output channels")
    shape = (x.shape[0], *output_size(op, x.shape[1:3], (kernel_h, kernel_w)), out_c)
    require(count(shape) <= MAX_INDEX - MAX_TILE, op, f"the output {shape} is too large")
    zeros = optional(op, 4)
    if zeros is not None:
        require(count(zeros.shape) >= in_c, op,
                f"{zeros.name} has {count(zeros.shape)} zeros, needed {in_c}")
    elif w.layout != "rows":
        require(not needs_zeros(op), op, f"has padding, needed a fifth input of {in_c} zeros")
    if is_integer(op):
        require(count(x.shape) <= MAX_INDEX, op, f"the input {x.shape} is too large")
        if op.options["activation"]:
            activation(op)
        return [(shape, infer_integer(op, shape))]
    require_bias(op, optional(op, 2), out_c)
    require_residual(op, optional(op, 3), shape)
    require_no_scales(op)
    return [(shape, x.dtype)]


def blocked_launch(facts: Facts, op: OpLike, operands: tuple[TensorLike | None, ...],
                   window: dict[str, int], groups: int) -> Launch:
    """Return the launch of kernels/conv.cl, or of its integer forms, which dense shares.

    Args:
        facts: of the device.
        op: for its activation.
        operands: x, w, bias, residual, zeros, y; the optional ones may be None.
        window: sizes by the names of the kernel's arguments, from n to pad_left; in_c and out_c are
            those of one group.
        groups: of channels.
    """
    x, w, bias, residual, zeros, y = operands
    if is_integer(op) and form(op) != "c":
        return integer_launch(facts, op, operands, window, groups)
    act, kind = activation(op), x.dtype
    if not act.defines and facts.kind == "cpu":
        # bounds that are no numbers bound nothing, and the program is that of layers with bounds
        act = Activation({"ACTIVATE(x)": UNARY["clip"]}, math.nan, math.nan)
    defines: dict[str, Any] = {**float_types(x, y), **act.defines}
    if w.dtype in WEIGHTS:
        require_real_weights(op, w, zeros, window["in_c"])
        defines[f"W_{w.dtype}"], kind = 1, f"{x.dtype} weights"
    pixels = window["n"] * window["out_h"] * window["out_w"]
    key = Key.of("conv", kind, (x, w, y), groups=groups, **window)
    variant = _tile.choose(key, facts)
    return Launch(
        "conv", "conv2d", {**defines, **variant.defines},
        (-(-window["out_c"] // (variant["NV"] * variant["VEC"])),
         -(-pixels // (variant["P"] * variant["tiles"])), groups),
        # a tensor that is left out is replaced by x, which the kernel then does not read
        (x, w, bias or x, residual or x, zeros or x, optional(op, M0) or x, y,
         i32(bias is not None), i32(0 if residual is None else pitch_of(residual)),
         i32(pitch_of(y)), i32(pixels),
         *(i32(window[name]) for name in SIZES), i32(variant["tiles"]), f32(act.alpha),
         f32(act.beta)),
        facts.one, key, variant)


def residual_of(op: OpLike) -> tuple[int, ...]:
    """Return the index of the residual, in whose place y may lie: each element of it is read right
    before that of y is written."""
    return (3,) if optional(op, 3) is not None and not is_integer(op) else ()


def pitched(op: OpLike) -> tuple[int, ...]:
    """Return the operands whose pixels may lie apart: x, residual and y."""
    return 0, 3, OUTPUT


def window_of(op: OpLike) -> dict[str, int]:
    """Return the sizes of the images and the options of a convolution by their names."""
    o, x, y = op.options, op.inputs[0].shape, op.outputs[0].shape
    names = ("stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
    return {"n": x[0], "height": x[1], "width": x[2], "channels": pitch_of(op.inputs[0]),
            "out_h": y[1], "out_w": y[2], **{name: o[name] for name in names}}


def conv2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n,i,j,o] = activation(bias[o] + residual[n,i,j,o] + sum of w[o,ky,kx,c] * x[n,iy,ix,g+c])
    over ky, kx, c, where iy = i stride_h - pad_top + ky dilation_h, ix likewise, x is 0 outside the
    image, and g is the first channel of o's group.

    x [N, H, W, IC], w [OC, KH, KW, IC/groups] (constant, in blocks of 16 output channels), bias
    [OC] fp32 optional, residual [N, OH, OW, OC] optional, zeros [IC/groups or more] (constant,
    present if there is padding) -> y [N, OH, OW, OC]; fp32 or fp16, or quantized (see
    "Integer forms"). OH = (H + pad_top + pad_bottom - ((KH-1) dilation_h + 1)) // stride_h + 1, OW
    likewise. `groups` cuts input and output channels into equal parts that do not mix.
    """
    x, w = op.inputs[:2]
    require_blocks(op, w)
    groups = op.options["groups"]
    out_c, kernel_h, kernel_w, in_c = w.shape
    window = {**window_of(op), "in_c": in_c, "out_c": out_c // groups, "kernel_h": kernel_h,
              "kernel_w": kernel_w}
    o, (n, out_h, out_w, _) = op.options, op.outputs[0].shape
    if kernel_h == kernel_w == o["stride_h"] == o["stride_w"] == 1 and not needs_zeros(op):
        # pixels do not see their neighbours: one long row of them
        window |= {"n": 1, "height": 1, "out_h": 1, "width": n * out_h * out_w,
                   "out_w": n * out_h * out_w}
    return [blocked_launch(facts, op, (x, w, optional(op, 2), optional(op, 3), optional(op, 4),
                                       op.outputs[0]), window, groups)]


def conv2d_macs(op: OpLike) -> int:
    """Multiply-accumulates: every output element sums over taps and the channels of its group."""
    return count(op.outputs[0].shape) * count(op.inputs[1].shape[1:])
