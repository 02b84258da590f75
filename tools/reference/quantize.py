"""NumPy references of the conversions to, from and between quantized integers."""
from __future__ import annotations

import numpy as np

from edgerun import quantization
from edgerun.quantization import Quantization, clamp, fixed_point
from edgerun.tools.graph import Op, Tensor
from edgerun.tools.planes.codes import Planes
from edgerun.tools.reference import integer


def _quantize(op: Op, x: np.ndarray) -> np.ndarray:
    y = op.outputs[0]
    return quantization.quantize(x, y.quantization, y.dtype)


def _dequantize(op: Op, x: np.ndarray) -> np.ndarray:
    given = op.inputs[0].quantization
    return given.reals(x) if isinstance(given, Planes) else quantization.dequantize(x, given)


def requantized(x: np.ndarray, given: Quantization, y: Tensor) -> np.ndarray:
    """Return integers of y that mean what x means, rounded as y says."""
    wanted = y.quantization
    m0, t = fixed_point(given.step / wanted.step, wanted.rounding)
    steps = integer.requantize(x.astype(np.int64) - given.zero, m0, t, wanted.rounding)
    return np.clip(steps + wanted.zero, *clamp(wanted, y.dtype))


def _requantize(op: Op, x: np.ndarray) -> np.ndarray:
    return requantized(x, op.inputs[0].quantization, op.outputs[0])


REFERENCE = {"quantize": _quantize, "dequantize": _dequantize, "requantize": _requantize}
