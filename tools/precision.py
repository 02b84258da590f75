"""Choose the storage type of every tensor."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.tools.graph import Graph

# Inputs that stay fp32 whatever the precision: they start or scale an fp32 accumulator.
FP32_INPUTS = {"conv2d": {2}, "depthwise_conv2d": {2}, "conv_transpose2d": {2}, "dense": {2}}


def convert(graph: Graph, precision: str) -> None:
    """Give every float tensor its storage type.

    Args:
        graph: fp32 or fp16 tensors as imported.
        precision: "source" leaves them; "fp32" or "fp16" converts all but biases, which are fp32.
    """
    if precision == "source":
        precision = "fp32"
    kept = {id(op.inputs[i]) for op in graph.ops for i in FP32_INPUTS.get(op.code, ())
            if i < len(op.inputs) and op.inputs[i] is not None}
    for tensor in graph.tensors():
        if tensor.dtype not in dtypes.FLOAT:
            continue
        dtype = "fp32" if id(tensor) in kept else precision
        if tensor.constant:
            with np.errstate(over="ignore"):
                tensor.data = tensor.data.astype(dtypes.numpy_dtype(dtype))
        tensor.dtype = dtype
    for op in graph.ops:
        if op.code == "cast" and op.options["dtype"] in dtypes.FLOAT:
            op.options["dtype"] = op.outputs[0].dtype
