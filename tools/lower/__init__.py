"""Lowering: float ops between dequantize and quantize become integer ops.

Importers and the quantizer describe a quantized model as real arithmetic on numbers that are stored
as integers: dequantize -> op -> quantize. That graph says exactly what is stored where, and the
rules here replace it op by op with arithmetic on the integers themselves. What no rule takes stays
as it is: correct, only slower and larger.
"""
from __future__ import annotations

from edgerun import dtypes
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph
from edgerun.tools.lower import matmul, moves, planes, pointwise, spatial, weighted
from edgerun.tools.lower._lowering import Lowering, Rule
from edgerun.tools.passes import dead_code, duplicates, fold

# op code -> rules, tried in this order until one applies
RULES: dict[str, list[Rule]] = {}
for _module in (moves, planes, weighted, matmul, pointwise, spatial):
    for _code, _rule in _module.RULES.items():
        RULES.setdefault(_code, []).append(_rule)


def apply(graph: Graph) -> None:
    """Lower a graph in place; afterwards 8-bit activations are uint8."""
    spatial.mark_origins(graph)
    unsigned(graph)
    duplicates.apply(graph)
    lower = Lowering(graph)
    changed = True
    while changed:
        changed = False
        for op in list(graph.ops):
            for rule in RULES.get(op.code, ()):
                if lower.rewriter.alive(op) and rule(lower, op):
                    changed = True
    boundaries(lower)
    dead_code.apply(graph)
    planes.tell(lower)
    fold.apply(graph, reals=True)


def unsigned(graph: Graph) -> None:
    """Store int8 activations as uint8 with a zero point 128 higher: dot products of CPUs take
    unsigned activations and signed weights.

    The boundary keeps its dtype: the copy between the caller's array and the arena flips the top
    bit.
    """
    for tensor in graph.tensors():
        q = tensor.quantization
        if tensor.dtype == "int8" and q is not None and not tensor.constant:
            tensor.dtype = "uint8"
            tensor.quantization = Quantization(q.scale, q.zero_point + 128, q.axis, q.rounding)
    for op in graph.ops:
        if op.code in ("quantize", "requantize"):
            op.options["dtype"] = op.outputs[0].dtype


def boundaries(lower: Lowering) -> None:
    """Leave conversions at the boundary to the copy between the caller's array and the arena: no
    launch, and no real numbers in the arena."""
    graph, rewriter = lower.graph, lower.rewriter
    for boundary in graph.inputs:
        users = rewriter.users(boundary.tensor)
        if (boundary.dtype in (*dtypes.FLOAT, "fp64") and len(users) == 1
                and users[0].code == "quantize" and not rewriter.is_output(boundary.tensor)):
            integers = users[0].outputs[0]
            held = lower.hold(users[0], integers)
            boundary.tensor = held
    for boundary in graph.outputs:
        op = rewriter.producer(boundary.tensor, "dequantize")
        if (op is not None and boundary.dtype in (*dtypes.FLOAT, "fp64")
                and op.inputs[0].quantization.axis == -1 and not op.inputs[0].constant):
            rewriter.rebind(boundary, op.inputs[0])


__all__ = ["Lowering", "Rule", "apply"]
