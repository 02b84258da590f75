"""Ops that move elements, and conversions that meet."""
from __future__ import annotations

from edgerun.ops.quantize import LARGEST_INT32
from edgerun.quantization import dequantize, quantize
from edgerun.tools.graph import MOVES, Op
from edgerun.tools.lower._lowering import Lowering


def _move(lower: Lowering, op: Op) -> bool:
    """dequantize -> move -> quantize of the same grid moves the integers."""
    x, y = lower.integer(op.inputs[0]), lower.store(op)
    if x is None or y is None or x.dtype != y.dtype or x.quantization.grid != y.quantization.grid:
        return False
    lower.replace(op, op.code, [x, *op.inputs[1:]], y, **op.options)
    return True


def _late(lower: Lowering, op: Op) -> bool:
    """move -> dequantize instead of dequantize -> move: integers are smaller. A quantize to another
    grid behind that is then a requantize."""
    x = lower.integer(op.inputs[0])
    if x is None:
        return False
    moved = lower.rewriter.add(op, op.code, [x, *op.inputs[1:]], op.name, **op.options)
    moved.quantization = x.quantization
    real = lower.rewriter.add(op, "dequantize", [moved], f"{op.name}.real", dtype="fp32")
    lower.rewriter.replace(op.outputs[0], real)
    return True


def _meet(lower: Lowering, op: Op) -> bool:
    """quantize(dequantize(x)) is x, or a requantize."""
    x, y = lower.stored(op.inputs[0]), op.outputs[0]
    if x is None or x.quantization.axis != -1 or x.dtype not in ("uint8", "int16", "int32"):
        return False
    if x.dtype == "int32" and not (y.quantization.axis == -1
                                   and x.quantization.step < LARGEST_INT32 * y.quantization.step):
        return False
    if x.dtype == y.dtype and x.quantization.grid == y.quantization.grid and not x.constant:
        lower.rewriter.replace(y, x)
    else:
        lower.replace(op, "requantize", [x], y, dtype=y.dtype)
    return True


def _where(lower: Lowering, op: Op) -> bool:
    """dequantize two -> where -> quantize chooses among integers, both on the grid of the result.
    """
    y = lower.store(op)
    operands = [lower.integer(t) for t in op.inputs[1:]]
    if y is None or any(q is None and not t.constant for q, t in zip(operands, op.inputs[1:])):
        return False
    chosen = []
    for q, t in zip(operands, op.inputs[1:]):
        if q is None or q.constant:
            real = t.data if q is None else dequantize(q.data, q.quantization)
            q = lower.graph.constant(quantize(real, y.quantization, y.dtype), t.name,
                                     quantization=y.quantization)
        elif q.dtype != y.dtype or q.quantization.grid != y.quantization.grid:
            q = lower.rewriter.add(op, "requantize", [q], f"{op.name}.grid", y.quantization,
                                   dtype=y.dtype)
        chosen.append(q)
    lower.replace(op, "where", [op.inputs[0], *chosen], y)
    return True


def _moved(lower: Lowering, op: Op) -> bool:
    return _move(lower, op) or _late(lower, op)


RULES = {**dict.fromkeys(MOVES, _moved), "quantize": _meet, "where": _where}
