"""Dense (fully connected) layers."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, count, pitch_of, require, require_dtype, require_rank,
    require_same_dtype)
from edgerun.ops.conv import (
    MAX_INDEX, MAX_TILE, blocked_launch, optional, require_bias, require_blocks, require_no_scales,
    require_residual)
from edgerun.ops._integer import infer_integer, is_integer
from edgerun.ops.elementwise import activation


def infer_dense(op: OpLike) -> Outputs:
    """y is x with its last axis replaced by OC."""
    x, w, residual = op.inputs[0], op.inputs[1], optional(op, 3)
    require_rank(w, 2, op)
    if not is_integer(op):
        require_dtype(x, FLOAT, op)
        require_same_dtype(op, x, w, residual)
        if op.options["activation"]:
            activation(op)
    out_c, in_c = w.shape
    require(len(x.shape) >= 1 and x.shape[-1] == in_c and in_c >= 1 and out_c >= 1, op,
            f"{w.name} of shape {w.shape} does not fit the last axis of {x.name} {x.shape}")
    shape = (*x.shape[:-1], out_c)
    require(count(shape) <= MAX_INDEX - MAX_TILE, op, f"the output {shape} is too large")
    if is_integer(op):
        require(count(x.shape) <= MAX_INDEX, op, f"the input {x.shape} is too large")
        if op.options["activation"]:
            activation(op)
        return [(shape, infer_integer(op, shape))]
    require_bias(op, optional(op, 2), out_c)
    require_residual(op, residual, shape)
    require_no_scales(op)
    return [(shape, x.dtype)]


def dense(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., o] = activation(bias[o] + residual[..., o] + sum over c of w[o, c] * x[..., c]).

    x [..., IC], w [OC, IC] (constant, in blocks of 16 output channels), bias [OC] fp32 optional,
    residual [..., OC] optional -> y [..., OC]; fp32 or fp16, or quantized (see "Integer forms").
    Computed as a convolution whose pixels are the rows of x.
    """
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    require_blocks(op, w)
    out_c, in_c = w.shape
    rows = count(x.shape[:-1])
    window = {"n": 1, "height": 1, "width": rows, "channels": pitch_of(x), "in_c": in_c, "out_h": 1,
              "out_w": rows, "out_c": out_c, "kernel_h": 1, "kernel_w": 1, "stride_h": 1,
              "stride_w": 1, "dilation_h": 1, "dilation_w": 1, "pad_top": 0, "pad_left": 0}
    return [blocked_launch(facts, op, (x, w, optional(op, 2), optional(op, 3), None, y), window, 1)]


def dense_macs(op: OpLike) -> int:
    """Multiply-accumulates: every output element sums over the input channels."""
    return count(op.outputs[0].shape) * op.inputs[1].shape[1]
