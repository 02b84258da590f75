"""Take the integers out of a quantized model, to pack it in real numbers."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.quantization import Quantization, limits
from edgerun.tools.graph import MOVES, Graph, Op, Tensor
from edgerun.tools.passes import dead_code, fold
from edgerun.tools.passes._rewrite import Rewriter


@dataclass(frozen=True, eq=False)
class Twin:
    """The real numbers that the integers of a tensor stand for.

    Attributes:
        exact: as they are computed.
        real: clamped to what the integers can hold.
    """
    exact: Tensor
    real: Tensor


def quantized(graph: Graph) -> bool:
    """Whether a graph computes with quantized activations."""
    return any(op.code in ("quantize", "requantize") for op in graph.ops) or any(
        boundary.tensor.quantization is not None for boundary in graph.inputs)


def strip(graph: Graph, planes: bool = True) -> None:
    """Replace every rounding to integers by the clamp that it also is, and make constants real.

    Conversions at a boundary of integers stay.

    Args:
        graph: changed in place.
        planes: also make weights real that are bit planes.
    """
    bypass(graph)
    dead_code.apply(graph)
    fold.apply(graph, reals=True, planes=planes)


def keep_rows(graph: Graph) -> None:
    """Let layers read the exact activations that the source's runtime rounds row by row."""
    for op in graph.ops:
        if op.code == "round_rows":
            graph.replace(op.outputs[0], op.inputs[0])
        elif op.code == "lstm":
            op.options["levels"] = 0
    graph.ops = [op for op in graph.ops if op.code != "round_rows"]


def bypass(graph: Graph) -> dict[Tensor, Twin]:
    """Let whatever reads real numbers read those that were rounded to integers, not the integers'.

    Ops that nothing needs any more stay.

    Returns:
        quantized tensor -> its real numbers, for what is written by quantize and requantize, and
        moved from there.
    """
    rewriter = Rewriter(graph)
    twins: dict[Tensor, Twin] = {}
    for op in list(graph.ops):
        if not rewriter.alive(op):
            continue
        x, y = op.inputs[0], op.outputs[0]
        if op.code == "quantize" and y.quantization.axis == -1:
            twins[y] = _clamped(rewriter, op, x)
        elif x not in twins:
            continue
        elif op.code == "requantize":
            twins[y] = _clamped(rewriter, op, twins[x].real)
        elif op.code in MOVES:
            moved = rewriter.add(op, op.code, [twins[x].real, *op.inputs[1:]], op.name,
                                 **op.options)
            twins[y] = Twin(moved, moved)
        elif op.code == "dequantize":
            rewriter.replace(y, twins[x].real)
    return twins


def _clamped(rewriter: Rewriter, op: Op, x: Tensor) -> Twin:
    low, high = ends(op.outputs[0].dtype, op.outputs[0].quantization)
    return Twin(x, rewriter.add(op, "unary", [x], op.name, kind="clip", alpha=low, beta=high))


def ends(dtype: str, quantization: Quantization) -> tuple[float, float]:
    """Return the least and the largest real number that the integers of a tensor can mean."""
    low, high = limits(dtype)
    return (quantization.step * (low - quantization.zero),
            quantization.step * (high - quantization.zero))


__all__ = ["Twin", "bypass", "ends", "keep_rows", "quantized", "strip"]
