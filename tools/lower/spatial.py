"""Pooling, resizing, padding, reductions and normalizations between quantized tensors."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgerun.quantization import dequantize, quantize
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.lower._lowering import Lowering, possible

ORDER = ("max", "min")


def mark_origins(graph: Graph) -> None:
    """Note in the options of ops what int8 tensors lose when they are stored as uint8, and which
    resizes are TFLite's: both decide how ties and coordinates are rounded. TFLite's mean of int8
    images rounds halves upwards.

    Args:
        graph: of a source model, changed in place, before any lowering.
    """
    producers, users = graph.producers(), graph.consumers()
    for op in graph.ops:
        if op.code not in ("pool2d", "resize", "reduce"):
            continue
        real = producers.get(op.inputs[0])
        if real is None or real.code != "dequantize":
            continue
        dtype = real.inputs[0].dtype
        if dtype == "int8":
            op.options["origin"] = 128
        stores = users.get(op.outputs[0], [])
        rounding = {store.outputs[0].quantization.rounding for store in stores
                    if store.code == "quantize"}
        if (op.options["kind"] == "linear" and dtype in ("int8", "int16")
                and rounding & {"twice", "upward", "short"}):
            op.options["coarse"] = True
        if (op.options["kind"] == "mean" and dtype == "int8" and len(op.inputs[0].shape) == 4
                and tuple(op.options["axes"]) == (1, 2) and op.options["keep_dims"]):
            for store in stores:
                if store.code == "quantize" and store.outputs[0].quantization.rounding == "twice":
                    y = store.outputs[0]
                    y.quantization = replace(y.quantization, rounding="upward")


def _fits(op: Op, x: Tensor, y: Tensor) -> bool:
    """Whether the op can read x and write y: what its prepare refuses stays a float op."""
    out = Tensor(y.name, op.outputs[0].shape, y.dtype, quantization=y.quantization)
    return possible(op.code, [x, *op.inputs[1:]], out, **op.options)


def _direct(lower: Lowering, op: Op) -> bool:
    """dequantize -> op -> quantize becomes the op on integers."""
    x, y = lower.integer(op.inputs[0]), lower.store(op)
    if x is None or y is None or not _fits(op, x, y):
        return False
    lower.replace(op, op.code, [x, *op.inputs[1:]], y, **op.options)
    return True


def _selects(op: Op, x: Tensor) -> bool:
    """Whether every number that the op gives is one of x, or on its grid."""
    if op.code == "pad" and op.options["mode"] == "constant":
        value = np.float32(op.options["value"])
        return dequantize(quantize(value, x.quantization, x.dtype), x.quantization) == value
    return op.options.get("kind") != "linear"


def _same_grid(lower: Lowering, op: Op) -> bool:
    """For ops that cannot change the grid: the integer op on the grid of x, then what leads from
    there to who reads: nothing, a requantize, or (if that rounds nothing) a dequantize."""
    if _direct(lower, op):
        return True
    x, y = lower.integer(op.inputs[0]), lower.store(op)
    if (x is None or op.options.get("activation") or not _fits(op, x, x)
            or y is None and not _selects(op, x)):
        return False
    moved = lower.rewriter.add(op, op.code, [x, *op.inputs[1:]], op.name, x.quantization,
                               **op.options)
    if y is None:
        real = lower.rewriter.add(op, "dequantize", [moved], f"{op.name}.real", dtype="fp32")
        lower.rewriter.replace(op.outputs[0], real)
    else:
        lower.replace(op, "requantize", [moved], y, dtype=y.dtype)
    return True


def _pool2d(lower: Lowering, op: Op) -> bool:
    return (_same_grid if op.options["kind"] == "max" else _direct)(lower, op)


def _reduce(lower: Lowering, op: Op) -> bool:
    return (_same_grid if op.options["kind"] in ORDER else _direct)(lower, op)


def _arg(lower: Lowering, op: Op) -> bool:
    """Integers are ordered as what they mean."""
    x = lower.integer(op.inputs[0])
    if x is None:
        return False
    lower.replace(op, "arg", [x], op.outputs[0], **op.options)
    return True


REALS = ("lrn", "layer_norm", "instance_norm", "l2_normalize", "softmax", "fastfood")
RULES = {"pool2d": _pool2d, "resize": _same_grid, "pad": _same_grid, "reduce": _reduce,
         "arg": _arg, **dict.fromkeys(REALS, _direct)}
