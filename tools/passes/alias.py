"""Turn reshapes into aliases: two tensors with the same bytes and no op between them."""
from __future__ import annotations

from edgerun.tools.graph import Graph, Tensor, View, Views, root_of


def apply(graph: Graph) -> Views:
    """Remove every reshape and return its outputs as aliases.

    Returns:
        tensor -> where it lies, for the reshaped. A reshaped constant becomes a constant. What the
        session writes before each run becomes the elements of one tensor.
    """
    views: Views = {}
    kept = []
    for op in graph.ops:
        if op.code != "reshape":
            kept.append(op)
            continue
        x, y = op.inputs[0], op.outputs[0]
        if x.constant:
            y.data = x.data.reshape(y.shape)
        else:
            views[y] = View(root_of(views, x))
    graph.ops = kept
    hidden = graph.hidden()
    if not hidden:
        return views
    root = Tensor(graph.unique("used"), (len(hidden),), "int32", hidden=True)
    return views | {x: View(root, 4 * number) for number, x in enumerate(hidden)}
