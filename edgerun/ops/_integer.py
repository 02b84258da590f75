"""What the integer forms of ops share: their checks, and the constants of their launches.

An op with weights (conv2d, depthwise_conv2d, conv_transpose2d, dense) has three integer forms. Its
inputs are 0 x, 1 w, 2 bias, 3 residual, 4 zeros, 5 m0 or scale, 6 t; what a form does not have is
left out:

(a) x uint8 or int16, w int8 (or int16 if x is), bias int32, m0 int32, t int8, y uint8 or int16
(b) the same without t, scale fp32 instead of m0, y fp32 or fp16
(c) x fp32 or fp16, w int8 or int16, bias fp32, residual like y, scale fp32, y fp32 or fp16

bias, m0, scale and t have one value per output channel. With the option `wide` (x int16) sums may
exceed 32 bits; the bias is then int32 [2, OC]: bias = row 0 * 2^16 + row 1, row 1 from 0 to 65535.
The option `chunk` of conv2d and dense says how many words of weights (4 of int8, 2 of int16) may be
summed in 32 bits before the sum is split; the packer finds it from the weights themselves.
"""
from __future__ import annotations

from typing import Any

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, OpLike, Shape, TensorLike, require, require_dtype, require_quantized, require_same_dtype)
from edgerun.quantization import ONE_STEP, clamp

BIAS, RESIDUAL, ZEROS, M0, T = range(2, 7)  # inputs of an op with weights
ACTIVATIONS = ("uint8", "int16")  # dtypes of quantized activations on the device
WEIGHTS = ("int8", "int16")
# Sums in two parts: the low parts of so many products fit into 32 bits, and they are requantized
# with at least this shift.
WIDE_MOST_TERMS, WIDE_LEAST_SHIFT = 65_000, 18
MOST_CHUNK = 2**16  # words
# Ways to sum products (Facts.dot) by instructions, see kernels/dot.cl: of int16 too, of uint8 only.
DOTS_16, DOTS_8 = ("vnni", "avxvnni"), ("usdot", "udot", "dp4a", "khr", "arm")


def optional(op: OpLike, index: int) -> TensorLike | None:
    """Return an input, or None where it is left out."""
    return op.inputs[index] if index < len(op.inputs) else None


def is_integer(op: OpLike) -> bool:
    """Whether an op with weights has one of the integer forms."""
    return op.inputs[0].dtype in ACTIVATIONS or op.inputs[1].dtype in WEIGHTS


def form(op: OpLike) -> str:
    """Return the integer form of an op with weights: "a", "b" or "c"."""
    if op.inputs[0].dtype in FLOAT:
        return "c"
    scale = optional(op, M0)
    return "b" if scale is not None and scale.dtype == "fp32" else "a"


def bounds(op: OpLike, y: TensorLike) -> tuple[int, int]:
    """Return the integers between which the op's fused clamp leaves y.

    Raises:
        ModelError: y has no quantization, or the activation is not a clamp.
    """
    quantization = require_quantized(y, op)
    kind, alpha, beta = (op.options[key] for key in ("activation", "alpha", "beta"))
    require(kind in ("", "relu", "clip"), op,
            f"the activation {kind!r} of a quantized output, needed relu, clip or none")
    if kind == "":
        return clamp(quantization, y.dtype)
    return clamp(quantization, y.dtype, *((0.0,) if kind == "relu" else (alpha, beta)))


def dot_defines(facts: Facts, dtype: str) -> dict[str, int]:
    """Return the macro of kernels/dot.cl for activations of a dtype; none for multiply-adds."""
    known = facts.dot in DOTS_16 or dtype == "uint8" and facts.dot in DOTS_8
    return {f"DOT_{facts.dot.upper()}": 1} if known else {}


def rounding_defines(y: TensorLike) -> dict[str, int]:
    """Return the macro with which kernels/integer.cl rounds as a quantized output wants it."""
    return ({f"ROUND_{y.quantization.rounding.upper()}": 1}
            if y.quantization.rounding not in ONE_STEP else {})


def require_values(op: OpLike, tensor: TensorLike | None, dtype: str, shape: Shape, role: str
                   ) -> None:
    """Require an input of exactly this dtype and shape, in rows."""
    require(tensor is not None, op, f"has no {role}, needed {dtype} {shape}")
    require_dtype(tensor, (dtype,), op)
    require(tuple(tensor.shape) == shape and tensor.layout == "rows", op,
            f"the {role} {tensor.name} has the shape {tensor.shape}, needed {shape}")


def infer_integer(op: OpLike, shape: Shape) -> str:
    """Check the operands of an integer form; return the dtype of y (mixed: see OpDef).

    Args:
        op: its options may have `wide`.
        shape: of y; its last axis is the output channels.

    Raises:
        ModelError: dtypes, lengths or options do not fit the form.
    """
    x, w = op.inputs[:2]
    out_c, wide = shape[-1], op.options.get("wide", False)
    kind = form(op)
    bias, residual = optional(op, BIAS), optional(op, RESIDUAL)
    m0, t = optional(op, M0), optional(op, T)
    require_dtype(w, WEIGHTS, op)
    require_same_dtype(op, x, optional(op, ZEROS))
    require(not wide or x.dtype == "int16", op, f"is wide, but {x.name} is {x.dtype}")
    chunk = op.options.get("chunk", 0)
    require(0 <= chunk <= (MOST_CHUNK if wide else 0), op,
            f"sums chunks of {chunk} words, needed 0 to {MOST_CHUNK}, or 0 if it is not wide")
    if kind == "c":
        require_same_dtype(op, x, residual)
        require(residual is None or tuple(residual.shape) == shape, op,
                f"the residual has another shape than {shape}")
        if bias is not None:
            require_values(op, bias, "fp32", (out_c,), "bias")
    else:
        require_dtype(x, ACTIVATIONS, op)
        require(w.dtype == "int8" or x.dtype == "int16", op,
                f"{w.name} is int16, needed int8 for {x.dtype} activations")
        require(residual is None, op, "has a residual, which no integer form has")
        if bias is not None:
            require_values(op, bias, "int32", (2, out_c) if wide else (out_c,), "bias")
    if kind == "a":
        require_values(op, m0, "int32", (out_c,), "multipliers")
        require_values(op, t, "int8", (out_c,), "shifts")
        return x.dtype
    require_values(op, m0, "fp32", (out_c,), "scales")
    require(t is None, op, "has shifts beside scales")
    return x.dtype if kind == "c" else "fp32"


def zero_of_weights(op: OpLike, w: TensorLike) -> int:
    """Return the zero point of the weights, which is one per tensor; 0 if there is none."""
    if w.quantization is None or not w.quantization.zero_point.any():
        return 0
    require(w.quantization.axis == -1, op, f"{w.name} has several zero points, needed one")
    require(w.dtype == "int8" and op.inputs[0].dtype == "uint8", op,
            f"{w.name} is {w.dtype} with the zero point {w.quantization.zero}, needed 0 beside "
            f"{op.inputs[0].dtype} activations")
    return w.quantization.zero


def output_defines(op: OpLike, y: TensorLike) -> dict[str, Any]:
    """Return the macros that say how forms (a) and (b) write y.

    They are O_<dtype of y>, and for a quantized y its rounding.

    Raises:
        ModelError: y cannot be written by the form of the op.
    """
    if form(op) == "b":
        require_dtype(y, FLOAT, op)
        return {f"O_{y.dtype}": 1}
    require_dtype(y, ACTIVATIONS, op)
    quantization = require_quantized(y, op)
    require(not op.options.get("wide", False) or quantization.rounding in ONE_STEP,
            op, f"is wide and rounds {quantization.rounding}, needed once")
    return {f"O_{y.dtype}": 1, **rounding_defines(y)}
