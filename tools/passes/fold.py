"""Compute at pack time what does not depend on the inputs."""
from __future__ import annotations

from edgerun.tools.graph import Graph
from edgerun.tools.planes.codes import coded
from edgerun.tools.reference import evaluate

GROWTH = 4          # a folded result may be this many times larger than what it is computed from
FREE_BYTES = 1024   # and is always folded if it is as small as this


def apply(graph: Graph, reals: bool = False, planes: bool = True) -> None:
    """Turn the outputs of ops with constant inputs into constants.

    An op whose result is much larger than its inputs (expand, tile) stays: the file would grow. So
    do quantized weights and what makes them real: integer ops read them as they are.

    Args:
        graph: changed in place.
        reals: also turn quantized constants into real numbers, where an op still wants them so.
        planes: with `reals`, those that are bit planes too.
    """
    kept = []
    for op in graph.ops:
        present = [tensor for tensor in op.inputs if tensor is not None]
        size = sum(tensor.bytes for tensor in op.outputs)
        grows = size > max(FREE_BYTES, GROWTH * sum(tensor.bytes for tensor in present))
        if (not all(tensor.constant for tensor in present) or grows
                or op.code == "dequantize" and not (reals and (planes or not coded(present[0])))):
            kept.append(op)
            continue
        arrays = evaluate(op, [None if t is None else t.data for t in op.inputs])
        for tensor, array in zip(op.outputs, arrays):
            tensor.data = array
    graph.ops = kept
