"""Launches of convolutions and dense layers over integers (see _integer.py for their forms)."""
from __future__ import annotations

from typing import Any

from edgerun.dtypes import FLOAT, WORD
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, TensorLike, count, f32, i32, pitch_of, require)
from edgerun.ops._integer import (
    DOTS_8, DOTS_16, M0, T, bounds, form, optional, output_defines, zero_of_weights)
from edgerun.ops.elementwise import activation

SIZES = ("height", "width", "channels", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w",
         "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
DOTS = {name: f"DOT_{name.upper()}" for name in (*DOTS_16, *DOTS_8, "madd", "float")}
# Words of products that fit into accumulators beside their totals: 512 times 255 * 128 below 2^24;
# int16 activations times int8 or int16 below 2^31 with 16 bits of the last sum.
FLOAT_WORDS, WIDE_WORDS = 128, {"int8": 127, "int16": 1}


def require_zeros(op: OpLike, zeros: TensorLike | None, in_c: int) -> None:
    """Require that a row of zero points, if there is one, fills whole words of input channels."""
    if zeros is not None:
        word = WORD[op.inputs[1].layout]
        needed = -(-in_c // word) * word
        require(count(zeros.shape) >= needed, op,
                f"{zeros.name} has {count(zeros.shape)} zeros, needed {needed}")


def _dot(facts: Facts, x: TensorLike) -> str:
    """Return how products are summed: one of Facts.dot that the dtype of x has."""
    return facts.dot if x.dtype == "uint8" or facts.dot in (*DOTS_16, "madd") else "plain"


def _chunk(op: OpLike, dot: str, w: TensorLike) -> int:
    """Return how many words of products accumulators hold; 0 where they hold all."""
    if op.options["wide"]:
        return op.options.get("chunk") or WIDE_WORDS[w.dtype]
    return FLOAT_WORDS if dot == "float" else 0


def _is_pointwise(window: dict[str, int], w: TensorLike) -> bool:
    """Whether every pixel of y is computed from the pixel of x at the same place, whole words."""
    return (window["kernel_h"] == window["kernel_w"] == 1 and window["in_c"] % WORD[w.layout] == 0
            and window["stride_h"] == window["stride_w"] == 1
            and (window["height"], window["width"]) == (window["out_h"], window["out_w"])
            and window["pad_top"] == window["pad_left"] == 0)


def _span(x: TensorLike) -> int:
    """Return the elements from the first to the last of a tensor."""
    return (count(x.shape[:-1]) - 1) * pitch_of(x) + x.shape[-1]


def integer_launch(facts: Facts, op: OpLike, operands: tuple[TensorLike | None, ...],
                   window: dict[str, int], groups: int) -> Launch:
    """Return the launch of kernels/conv_integer.cl, forms (a) and (b); see conv.blocked_launch."""
    x, w, bias, _, zeros, y = operands
    require_zeros(op, zeros, window["in_c"])
    wide, dot, zero_w = op.options["wide"], _dot(facts, x), zero_of_weights(op, w)
    pixels = window["n"] * window["out_h"] * window["out_w"]
    kind = f"{'wide' if wide else x.dtype} {dot}"
    if dot == "madd" and w.dtype == "int8":
        kind += " halves"
    key = Key.of("conv_integer", kind, (x, w, y), groups=groups, **window)
    variant = _tile.choose(key, facts)
    defines: dict[str, Any] = {**variant.defines, f"T_{x.dtype}": 1, **output_defines(op, y)}
    if dot in DOTS:
        defines[DOTS[dot]] = 1
    for name, wanted in (("W_int16", w.dtype == "int16"), ("WIDE", wide), ("ZERO_W", zero_w),
                         ("POINTWISE", _is_pointwise(window, w))):
        if wanted:
            defines[name] = 1
    alpha = beta = 0.0
    least = most = zero_y = 0
    if form(op) == "b":
        act = activation(op)
        defines, alpha, beta = {**defines, **act.defines}, act.alpha, act.beta
    else:
        (least, most), zero_y = bounds(op, y), y.quantization.zero
    return Launch(
        "conv_integer", "conv2d_integer", defines,
        (-(-window["out_c"] // (variant["NV"] * variant["VEC"])),
         -(-pixels // (variant["P"] * variant["tiles"])), groups),
        # a tensor that is left out is replaced by x, which the kernel then does not read
        (x, w, bias or x, zeros or x, optional(op, M0), optional(op, T) or x, y,
         i32(bias is not None), i32(_span(x)), i32(pitch_of(y)),
         i32(pixels), i32(variant["tiles"]), i32(_chunk(op, dot, w)),
         *(i32(window[name]) for name in SIZES), i32(zero_w), i32(zero_y), i32(least), i32(most),
         f32(alpha), f32(beta)),
        facts.one, key, variant)


def require_real_weights(op: OpLike, w: TensorLike, zeros: TensorLike | None, in_c: int) -> None:
    """Require what form (c) needs of integer weights beside real activations."""
    require_zeros(op, zeros, in_c)
    require(zero_of_weights(op, w) == 0 and op.outputs[0].dtype in FLOAT, op,
            "has weights with a zero point")
