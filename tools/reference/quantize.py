"""NumPy references of the conversions to, from and between quantized integers."""
from __future__ import annotations

import numpy as np

from edgerun import quantization
from edgerun.quantization import clamp, fixed_point
from edgerun.tools.graph import Op
from edgerun.tools.reference import integer


def _quantize(op: Op, x: np.ndarray) -> np.ndarray:
    y = op.outputs[0]
    return quantization.quantize(x, y.quantization, y.dtype)


def _dequantize(op: Op, x: np.ndarray) -> np.ndarray:
    return quantization.dequantize(x, op.inputs[0].quantization)


def _requantize(op: Op, x: np.ndarray) -> np.ndarray:
    given, wanted = op.inputs[0].quantization, op.outputs[0].quantization
    m0, t = fixed_point(given.step / wanted.step, wanted.rounding)
    steps = integer.requantize(x.astype(np.int64) - given.zero, m0, t, wanted.rounding)
    return np.clip(steps + wanted.zero, *clamp(wanted, op.outputs[0].dtype))


REFERENCE = {"quantize": _quantize, "dequantize": _dequantize, "requantize": _requantize}
