"""Noise without data: what a rounding disturbs, when nothing was measured.

Every rounding of a tensor, or of an op's constants, is taken to reach every output of real numbers
undiminished. So a choice is as good as the roundings it does without, the coarser ones first.
"""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.tools.graph import Graph
from edgerun.tools.mixed.sensitivity import SMALLER, Sensitivity

# Mean square of a rounding in that of what is rounded. fp16: half a unit of 11 bits, evenly spread,
# of mantissas between 1 and 2. Integers: steps of 1/256 or 1/65536 of a range that is 8 times the
# root mean square.
ROUNDING = {"fp16": 2.0**-22 / 6, "int16": (8 / 2**16) ** 2 / 12, "int8": (8 / 2**8) ** 2 / 12}


def modelled(graph: Graph) -> Sensitivity:
    """Return the noise of every tensor and op of a graph as if all reached the outputs alike."""
    found = Sensitivity(expected={
        boundary.name: np.zeros((), dtypes.numpy_dtype(boundary.dtype))
        for boundary in graph.outputs})
    real = [name for name, array in found.expected.items() if array.dtype.kind == "f"]
    for dtype in SMALLER:
        noise = dict.fromkeys(real, ROUNDING[dtype])
        for tensor in (*(b.tensor for b in graph.inputs),
                       *(y for op in graph.ops for y in op.outputs)):
            if tensor.dtype == "fp32":
                found.stored[tensor.name, dtype] = noise
        for op in graph.ops:
            if any(t is not None and t.constant and t.dtype == "fp32" for t in op.inputs):
                found.weights[op.outputs[0].name, dtype] = noise
    return found
