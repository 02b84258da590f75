"""Ops that compute with real numbers and may read and write them as integers, in registers."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.ops._base import OpLike, float_types, require, require_dtype, require_quantized
from edgerun.ops._integer import ACTIVATIONS
from edgerun.quantization import limits


def require_numbers(op: OpLike) -> None:
    """Require that x, the first input, holds real numbers: fp32, fp16, or quantized integers.

    Raises:
        ModelError: it does not.
    """
    x = op.inputs[0]
    require_dtype(x, (*dtypes.FLOAT, *ACTIVATIONS), op)
    if x.dtype in ACTIVATIONS:
        require_quantized(x, op)


def quantized(op: OpLike) -> bool:
    """Whether an op that takes real numbers reads and writes them as integers."""
    return op.inputs[0].dtype in ACTIVATIONS


def types(op: OpLike) -> dict[str, int]:
    """Return the defines of the stored types of x and y, and REAL if they are integers.

    Raises:
        ModelError: one is a float and the other an integer, or y is not quantized.
    """
    x, y = op.inputs[0], op.outputs[0]
    if not quantized(op):
        require_dtype(y, dtypes.FLOAT, op)
        return float_types(x, y)
    require_dtype(y, ACTIVATIONS, op)
    return {**float_types(x, y), "REAL": 1}


def grids(op: OpLike) -> tuple[np.ndarray, ...]:
    """Return the last argument of a kernel: what the integers of x and y mean (see common.cl).

    Nothing for floats, whose kernels have no such parameter.
    """
    if not quantized(op):
        return ()
    x, y = require_quantized(op.inputs[0], op), require_quantized(op.outputs[0], op)
    low, high = limits(op.outputs[0].dtype)
    scale = np.float32(y.step)
    with np.errstate(over="ignore"):
        values = np.array([x.step, x.zero, scale, np.float32(1) / scale, y.zero,
                           np.float32(low - y.zero) * scale, np.float32(high - y.zero) * scale, 0],
                          np.float32)
    require(bool(np.isfinite(values).all()), op,
            f"{op.outputs[0].name} has the scale {y.step:.3g}, beyond what fp32 divides by")
    return (values,)
