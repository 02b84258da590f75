"""Matrix products of two quantized tensors."""
from __future__ import annotations

import numpy as np

from edgerun.ops._integer import WIDE_LEAST_SHIFT
from edgerun.ops.matmul_integer import most_terms
from edgerun.quantization import ONE_STEP
from edgerun.tools.graph import Op
from edgerun.tools.lower._lowering import Lowering
from edgerun.tools.lower.weighted import CLAMPS, multipliers


def _matmul(lower: Lowering, op: Op) -> bool:
    a, b = (lower.integer(x) for x in op.inputs[:2])
    if a is None or b is None or len(op.inputs) > 2 or a.dtype != b.dtype:
        return False
    if a.dtype == "int16" and (a.quantization.zero or b.quantization.zero):
        return False
    scale = np.array([a.quantization.step * b.quantization.step], np.float64)
    terms = a.shape[-2 if op.options["transpose_a"] else -1]
    y = lower.store(op) if op.options["activation"] in CLAMPS else None
    if terms > most_terms(a.dtype, y.quantization.rounding if y else "once"):
        return False
    if y is None:
        single = scale.astype(np.float32)
        if not np.isfinite(single[0]):
            return False
        factor = lower.graph.constant(single, f"{op.name}.scale")
        lower.replace(op, op.code, [a, b, factor], op.outputs[0], **op.options)
        return True
    pair = multipliers(scale, y)
    most = terms * (2.0**30 if a.dtype == "int16" else 255**2)
    if pair is None or most * scale[0] / y.quantization.step >= 2**30 or a.dtype == "int16" and (
            y.quantization.rounding not in ONE_STEP or pair[1][0] < WIDE_LEAST_SHIFT):
        return False
    lower.replace(op, op.code, [a, b], y, **op.options)
    return True


RULES = {"matmul": _matmul}
