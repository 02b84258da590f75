"""What ops do that compute with real numbers between tensors that may be quantized."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.quantization import dequantize, quantize
from edgerun.tools.graph import Op


def on_numbers(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Return a reference whose first input and output may be integers that stand for numbers.

    Args:
        function: (op, x, *others) -> y over real numbers.
    """
    def reference(op: Op, x: np.ndarray, *others: np.ndarray | None) -> np.ndarray:
        (given, *_), (y,) = op.inputs, op.outputs
        if given.quantization is None:
            return function(op, x, *others)
        numbers = function(op, dequantize(x, given.quantization), *others)
        return quantize(np.asarray(numbers, np.float32), y.quantization, y.dtype)
    return reference
