"""Take the integers out of a quantized model, to pack it in real numbers."""
from __future__ import annotations

from edgerun.quantization import limits
from edgerun.tools.graph import Graph
from edgerun.tools.passes import dead_code, fold
from edgerun.tools.passes._rewrite import Rewriter


def quantized(graph: Graph) -> bool:
    """Whether a graph computes with quantized activations."""
    return any(op.code in ("quantize", "requantize") for op in graph.ops) or any(
        boundary.tensor.quantization is not None for boundary in graph.inputs)


def strip(graph: Graph) -> None:
    """Replace every quantize -> dequantize by the clamp that it also is, and make constants real.

    Conversions at a boundary of integers stay.
    """
    rewriter = Rewriter(graph)
    for op in list(graph.ops):
        if op.code != "dequantize" or not rewriter.alive(op):
            continue
        producer = rewriter.producer(op.inputs[0], "quantize")
        if producer is None:
            continue
        q = op.inputs[0].quantization
        low, high = limits(op.inputs[0].dtype)
        clip = rewriter.add(op, "unary", [producer.inputs[0]], producer.name, kind="clip",
                            alpha=q.step * (low - q.zero), beta=q.step * (high - q.zero))
        rewriter.replace(op.outputs[0], clip)
    dead_code.apply(graph)
    fold.apply(graph, reals=True)


__all__ = ["quantized", "strip"]
