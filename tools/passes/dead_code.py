"""Remove ops that nobody needs."""
from __future__ import annotations

from edgerun.tools.graph import Graph


def apply(graph: Graph) -> None:
    """Remove every op none of whose outputs is read or a graph output."""
    needed = {boundary.tensor for boundary in graph.outputs}
    kept = []
    for op in reversed(graph.ops):
        if any(tensor in needed for tensor in op.outputs):
            kept.append(op)
            needed.update(tensor for tensor in op.inputs if tensor is not None)
    graph.ops = kept[::-1]
