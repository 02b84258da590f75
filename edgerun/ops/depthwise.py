"""Depthwise convolutions: direct, without workspace, everything that follows in the same launch."""
from __future__ import annotations

from typing import Any

from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Outputs, count, f32, float_types, i32, int4_arg, pitch_of, require,
    require_rank)
from edgerun.ops._integer import infer_integer, is_integer, optional
from edgerun.ops.conv import (
    MAX_INDEX, MAX_TILE, output_size, require_bias, require_floats, require_no_scales,
    require_residual, window_of)
from edgerun.ops.depthwise_integer import depthwise_integer, shared_taps, tiles_of
from edgerun.ops.elementwise import activation


def infer_depthwise(op: OpLike) -> Outputs:
    """y is [N, OH, OW, C*M], its size given by the options, its dtype that of x."""
    x, w = op.inputs[:2]
    require_rank(x, 4, op)
    require_rank(w, 3, op)
    if not is_integer(op):
        require_floats(op)
    require(w.layout == "rows", op, f"the weights {w.name} have the layout {w.layout}, needed rows")
    kernel_h, kernel_w, out_c = w.shape
    require(out_c >= 1 and out_c % x.shape[3] == 0, op,
            f"{w.name} has {out_c} channels, needed a multiple of the {x.shape[3]} of {x.name}")
    shape = (x.shape[0], *output_size(op, x.shape[1:3], (kernel_h, kernel_w)), out_c)
    require(count(shape) <= MAX_INDEX - MAX_TILE, op, f"the output {shape} is too large")
    if is_integer(op):
        require(max(count(x.shape), count(w.shape)) <= MAX_INDEX, op,
                f"the input {x.shape} or the weights {w.shape} are too large")
        return [(shape, infer_integer(op, shape))]
    require_bias(op, optional(op, 2), out_c)
    require_residual(op, optional(op, 3), shape)
    require_no_scales(op)
    return [(shape, x.dtype)]


def depthwise_conv2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n,i,j,o] = activation(bias[o] + residual[n,i,j,o] + sum of w[ky,kx,o] * x[n,iy,ix,o/M])
    over ky, kx, where iy = i stride_h - pad_top + ky dilation_h, ix likewise, and x is 0 outside
    the image.

    x [N, H, W, C], w [KH, KW, C*M] (constant), bias [C*M] fp32 optional, residual [N, OH, OW, C*M]
    optional, which must not share memory with y -> y [N, OH, OW, C*M]; fp32 or fp16, or quantized
    (see "Integer forms"). OH, OW as in conv2d; `groups` is not used.
    """
    if is_integer(op):
        return depthwise_integer(op, facts)
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    bias, residual = optional(op, 2), optional(op, 3)
    act = activation(op)
    kernel_h, kernel_w, out_c = w.shape
    window = {**window_of(op), "out_c": out_c, "multiplier": out_c // x.shape[3],
              "kernel_h": kernel_h, "kernel_w": kernel_w}
    key = Key.of("depthwise", "real", (x, w, y), **window)
    variant = _tile.choose(key, facts)
    defines: dict[str, Any] = {**variant.defines, **float_types(x, y), **act.defines}
    if window["multiplier"] != 1:
        defines["MULTIPLIED"] = 1
    apart, shared = shared_taps(window, facts)
    defines |= shared
    tiles = tiles_of(window["out_h"], variant["ROWS"], apart[0])
    names = ("height", "width", "out_h", "out_w", "out_c", "multiplier", "kernel_h", "kernel_w",
             "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
    return [Launch(
        "depthwise", "depthwise", defines,
        (-(-out_c // variant["run"]), tiles_of(window["out_w"], variant["P"], apart[1]),
         window["n"] * tiles),
        (x, w, bias or x, residual or x, y, i32(bias is not None), i32(pitch_of(x)),
         i32(0 if residual is None else pitch_of(residual)), i32(pitch_of(y)), i32(variant["run"]),
         i32(tiles), int4_arg(apart), *(i32(window[name]) for name in names), f32(act.alpha),
         f32(act.beta)),
        facts.one, key, variant)]


def depthwise_macs(op: OpLike) -> int:
    """Multiply-accumulates: every output element sums over the taps."""
    return count(op.outputs[0].shape) * count(op.inputs[1].shape[:2])
