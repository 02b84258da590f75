"""Local response normalization."""
from __future__ import annotations

import math

from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, count, f32, i32, lanes_within, require)
from edgerun.ops._quantized_io import grids, require_numbers, types


def infer_lrn(op: OpLike) -> Outputs:
    """y has the shape and dtype of x."""
    x, o = op.inputs[0], op.options
    require_numbers(op)
    require(len(x.shape) >= 1, op, f"{x.name} has no dimension, needed 1 or more")
    require(o["size"] >= 1, op, f"has size {o['size']}, needed 1 or more")
    for name in ("alpha", "beta", "bias"):
        require(math.isfinite(o[name]), op, f"has {name} {o[name]}, needed a finite number")
    return [(x.shape, x.dtype)]


def lrn(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., c] = x[..., c] / (bias + alpha / size * sum of x[..., k]^2)^beta, k from
    c - floor((size - 1) / 2) to c + ceil((size - 1) / 2), of the channels there are.

    x [..., C] fp32, fp16, or quantized uint8, int16 -> y [..., C]; integers are read as numbers,
    and written rounded, in registers: within one step of the exact result. As in ONNX LRN
    (Krizhevsky, Sutskever, Hinton 2012, 3.3).
    """
    x, y, o = op.inputs[0], op.outputs[0], op.options
    channels = x.shape[-1]
    rows = count(x.shape[:-1])
    lanes = lanes_within(channels, facts)
    run, items = 1, -(-channels // lanes)
    if facts.kind == "cpu":
        items = 1 if rows >= 4 * facts.compute_units else items
        run = max(1, min(16, rows // (4 * facts.compute_units)))
    size = o["size"]
    before, after = min((size - 1) // 2, channels), min(size // 2, channels)
    return [Launch("lrn", "lrn", {**types(op), "VEC": lanes}, (items, -(-rows // run), 1),
                   (x, y, i32(rows), i32(channels), i32(run), i32(before), i32(after),
                    f32(o["alpha"] / size), f32(o["beta"]), f32(o["bias"]), *grids(op)), facts.one)]
