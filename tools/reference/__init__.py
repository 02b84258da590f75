"""The slow, obvious version of every op in NumPy: the specification and the oracle of the kernels.

REFERENCE maps an op code to a function (op, *arrays) -> array or list of arrays, computed in fp32
(or the integer type), in the graph's own layouts: NHWC images, [OC, KH, KW, IC] weights.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun import dtypes, host_ops, quantization
from edgerun.tools.graph import Boundary, Graph, Op, Tensor
from edgerun.tools.reference import (
    cast, conv, conv_transpose, copy, elementwise, elementwise_integer, fastfood, gather, lrn,
    matmul, mixture, norm, pad, planes, pool, quantize, recurrent, reduce, resize, softmax,
    table)

REFERENCE = {
    **elementwise.REFERENCE,
    **elementwise_integer.REFERENCE,  # and the same for quantized integers
    **lrn.REFERENCE,
    **conv_transpose.REFERENCE,
    **resize.REFERENCE,
    **reduce.REFERENCE,
    **softmax.REFERENCE,
    **matmul.REFERENCE,
    **conv.REFERENCE,
    **pool.REFERENCE,
    **copy.REFERENCE,
    **pad.REFERENCE,
    **gather.REFERENCE,
    **cast.REFERENCE,
    **norm.REFERENCE,
    **quantize.REFERENCE,
    **recurrent.REFERENCE,
    **table.REFERENCE,
    **fastfood.REFERENCE,
    **planes.REFERENCE,
    **mixture.REFERENCE,
}


def evaluate(op: Op, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
    """Return the outputs of one op, rounded to the dtypes of its output tensors.

    Args:
        op: of a graph before the layout pass.
        arrays: its inputs, None where an optional one is left out.
    """
    widened = [a.astype(np.float32) if a is not None and a.dtype == np.float16 else a
               for a in arrays]
    with np.errstate(all="ignore"):
        result = REFERENCE[op.code](op, *widened)
        results = result if isinstance(result, list) else [result]
        return [np.asarray(r).reshape(t.shape).astype(dtypes.numpy_dtype(t.dtype))
                for r, t in zip(results, op.outputs)]


def execute(graph: Graph, inputs: Mapping[str, np.ndarray], mode: str | None = None
            ) -> dict[str, np.ndarray]:
    """Run a graph before the layout pass.

    Args:
        inputs: name -> array in the source model's shape and dtype.
        mode: of graph.modes; None for the last one, in which all planes count if there is none.

    Returns:
        name -> array in the source model's shape and dtype.
    """
    values: dict[Tensor, np.ndarray] = {}
    for boundary in graph.inputs:
        array = np.asarray(inputs[boundary.name])
        if boundary.perm:
            array = array.transpose(boundary.perm)
        for tensor, row in boundary.pieces or [(boundary.tensor, None)]:
            part = array if row is None else array[:, row:row + tensor.shape[1]]
            values[tensor] = _stored(part, tensor)

    counts = graph.modes[mode or next(reversed(graph.modes))] if graph.modes else {}
    for tensor, most in graph.planes().items():
        values[tensor] = np.array([counts.get(tensor, most)], np.int32)

    def value(tensor: Tensor | None) -> np.ndarray | None:
        if tensor is None:
            return None
        return tensor.data if tensor.constant else values[tensor]

    for op, sample in mixture.order(graph):
        if sample is not None:
            values[sample[0]] = np.full(sample[0].shape, sample[1], np.int32)
        given = [value(t) for t in op.inputs]
        if op.code == "blend" and op.outputs[0] in values:  # of another sample: it adds in place
            given[0] = values[op.outputs[0]]
        for tensor, array in zip(op.outputs, evaluate(op, given)):
            values[tensor] = array
    outputs = {}
    for boundary in graph.outputs:
        array = value(boundary.tensor)
        if boundary.perm:
            array = array.transpose(np.argsort(boundary.perm))
        outputs[boundary.name] = _declared(array, boundary)
    for op in graph.host_ops:
        found = host_ops.run(op.code, [outputs[name] for name in op.inputs], op.options)
        outputs |= {name: array for (name, _, _), array in zip(op.outputs, found)}
    return {name: outputs[name] for name in graph.results} if graph.results else outputs


def _stored(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return an array of the caller as the tensor holds it (edgerun/boundary.py)."""
    if tensor.quantization is not None and array.dtype.kind == "f":
        return quantization.quantize(array.astype(np.float32), tensor.quantization, tensor.dtype)
    if array.dtype == np.int8 and tensor.dtype == "uint8":
        return (array.astype(np.int16) + 128).astype(np.uint8)
    return array.astype(dtypes.numpy_dtype(tensor.dtype))


def _declared(array: np.ndarray, boundary: Boundary) -> np.ndarray:
    """Return what a tensor holds as the source model declares it."""
    if boundary.tensor.quantization is not None and boundary.dtype in ("fp32", "fp16", "fp64"):
        array = quantization.dequantize(array, boundary.tensor.quantization)
    elif boundary.dtype == "int8" and boundary.tensor.dtype == "uint8":
        array = array.astype(np.int16) - 128
    return array.astype(dtypes.numpy_dtype(boundary.dtype))
