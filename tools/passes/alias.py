"""Turn reshapes into aliases: two tensors with the same bytes and no op between them."""
from __future__ import annotations

from edgerun.tools.graph import Graph, Tensor


def apply(graph: Graph) -> dict[Tensor, Tensor]:
    """Remove every reshape and return its outputs as aliases.

    Returns:
        tensor -> the root tensor whose bytes it uses. A reshaped constant becomes a constant.
    """
    roots: dict[Tensor, Tensor] = {}
    kept = []
    for op in graph.ops:
        if op.code != "reshape":
            kept.append(op)
            continue
        x, y = op.inputs[0], op.outputs[0]
        if x.constant:
            y.data = x.data.reshape(y.shape)
        else:
            roots[y] = roots.get(x, x)
    graph.ops = kept
    return roots
