"""Depthwise convolutions with integer weights."""
from __future__ import annotations

from typing import Any

from edgerun.dtypes import FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, f32, int4_arg, int8_arg, pitch_of, require_dtype,
    require_quantized)
from edgerun.ops._integer import (
    BIAS, M0, RESIDUAL, T, bounds, form, optional, output_defines, zero_of_weights)
from edgerun.ops.elementwise import activation

ROW_TAPS = (3, 5)  # widths of kernels for which a row of x is loaded once
UPRIGHT = 4  # taps of a column that fit into a word


def form_defines(op: OpLike) -> dict[str, Any]:
    """Return the macros of kernels/weights.cl: stored types, rounding, activation, WIDE."""
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    defines: dict[str, Any] = {f"T_{x.dtype}": 1, f"W_{w.dtype}": 1}
    if form(op) == "c":
        require_dtype(y, FLOAT, op)
        if y.dtype != x.dtype:
            defines[f"O_{y.dtype}"] = 1
    else:
        defines |= output_defines(op, y)
    if y.dtype in FLOAT:
        defines |= activation(op).defines
    if op.options["wide"]:
        defines["WIDE"] = 1
    if zero_of_weights(op, w):
        defines["ZERO_W"] = 1
    return defines


def form_args(op: OpLike, apart: int = 0, lines: int = 0) -> tuple[Any, ...]:
    """Return the last arguments of a kernel with weights: zeros and tiling, ends, alpha, beta."""
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    zero_x = require_quantized(x, op).zero if x.dtype not in FLOAT else 0
    zeros = int4_arg([zero_x, zero_of_weights(op, w), apart, lines])
    if y.dtype in FLOAT:
        act = activation(op)
        return zeros, int4_arg([]), f32(act.alpha), f32(act.beta)
    return zeros, int4_arg([y.quantization.zero, *bounds(op, y)]), f32(0), f32(0)


def tiles_of(out_size: int, size: int, apart: int) -> int:
    """Return how many tiles of `size` outputs, `apart` from each other, an axis is cut into."""
    return apart * -(-(-(-out_size // apart)) // size)


def shared_taps(window: dict[str, int], facts: Facts) -> tuple[tuple[int, int], dict[str, int]]:
    """Return how many rows and columns apart the pixels of a work-item are, and further macros.

    With TAPS a pixel that is loaded serves all of its taps: those of pixels of y whose windows
    begin a whole number of taps apart.
    """
    steps = [(window[f"stride_{axis}"], window[f"dilation_{axis}"]) for axis in "hw"]
    if (facts.kind != "cpu" or window["kernel_w"] not in ROW_TAPS
            or any(stride % dilation and dilation % stride for stride, dilation in steps)):
        return (1, 1), {}
    down, across = (max(1, dilation // stride) for stride, dilation in steps)
    return (down, across), {"TAPS": window["kernel_w"],
                            "STRIDE": max(1, window["stride_w"] // window["dilation_w"])}


def depthwise_integer(op: OpLike, facts: Facts) -> list[Launch]:
    """Return the launch of a depthwise convolution with integer weights, inferred before."""
    x, w, y, o = op.inputs[0], op.inputs[1], op.outputs[0], op.options
    bias, residual = optional(op, BIAS), optional(op, RESIDUAL)
    m0, t = optional(op, M0), optional(op, T)
    (n, height, width, in_c), (out_h, out_w, out_c) = x.shape, y.shape[1:]
    kernel_h, kernel_w = w.shape[:2]
    names = ("stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
    key = Key.of("depthwise", "wide" if o["wide"] else "integer", (x, w, y), n=n, height=height,
                 width=width, out_h=out_h, out_w=out_w, out_c=out_c, multiplier=out_c // in_c,
                 kernel_h=kernel_h, kernel_w=kernel_w, **{name: o[name] for name in names})
    variant = _tile.choose(key, facts)
    run, lines = variant["run"], variant["lines"]
    defines = {**variant.defines, **form_defines(op)}
    if out_c != in_c:
        defines["MULTIPLIED"] = 1
    (_, apart), shared = shared_taps(dict(key.sizes), facts)
    defines |= shared
    if shared and facts.dot == "vnni" and form(op) != "c" and not o["wide"] and variant["VEC"] >= 4:
        if x.dtype == "uint8" and kernel_h <= UPRIGHT:
            defines |= {"DOT_VNNI": 1, "UPRIGHT": kernel_h}
        elif shared["STRIDE"] == 1 and apart == 1:
            defines["DOT_VNNI"] = 1
    return [Launch(
        "depthwise_integer", "depthwise_integer", defines,
        (-(-out_c // run), tiles_of(out_w, variant["P"], apart), n * -(-out_h // lines)),
        # a tensor that is left out is replaced by x, which the kernel then does not read
        (x, w, bias or x, residual or x, m0, t or x, y,
         int8_arg([height, width, out_h, out_w, out_c, out_c // in_c, run,
                   (bias is not None) + 2 * (residual is not None)]),
         int4_arg([kernel_h, o["stride_h"], o["dilation_h"], o["pad_top"]]),
         int4_arg([kernel_w, o["stride_w"], o["dilation_w"], o["pad_left"]]),
         int4_arg([pitch_of(x), 0 if residual is None else pitch_of(residual), pitch_of(y)]),
         *form_args(op, apart, lines)), facts.one, key, variant)]
