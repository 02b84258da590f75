"""Let the output of an op take the bytes of an input that nobody needs afterwards."""
from __future__ import annotations

from edgerun.ops import OPS
from edgerun.regions import Region, shared
from edgerun.tools.graph import Graph, Op, Tensor, View, Views, placed
from edgerun.tools.passes._sharing import Sharing


def apply(graph: Graph, views: Views) -> int:
    """Put outputs into the places of inputs where that needs no more memory.

    Args:
        graph: its ops in their final order.
        views: where the tensors lie that have no bytes of their own; gets the new ones.

    Returns:
        How many outputs found a place.
    """
    sharing, count = Sharing(graph, views), 0
    bound = sharing.bound()
    for op in graph.ops:
        for index in OPS[op.code].in_place(op):
            x, y = op.inputs[index], op.outputs[0]
            if (x is None or x.constant or x.dtype != y.dtype or x.bytes != y.bytes
                    or _overlaps(sharing, op, index)):
                continue
            before = sharing.saved()
            changed = _over(sharing, op, x, y) or _under(sharing, op, x, y)
            if not changed:
                continue
            after = sharing.bound(changed)
            if after <= bound:
                bound, count = after, count + 1
                break
            sharing.restore(before)
    return count


def _overlaps(sharing: Sharing, op: Op, index: int) -> bool:
    """Whether an input shares bytes with another one that the output must not overwrite."""
    root, place = placed(sharing.views, op.inputs[index])
    able = OPS[op.code].in_place(op)
    for number, other in enumerate(op.inputs):
        if other is None or other.constant or number == index:
            continue
        home, there = placed(sharing.views, other)
        if home is root and shared(place, there) != 0 and (number not in able or there != place):
            return True
    return False


def _free(sharing: Sharing, root: Tensor, place: Region, op: Op, before: bool) -> bool:
    """Whether nothing in some bytes of a root is used before an op, or after it."""
    step = sharing.step[op]
    for tensor in sharing.members[root]:
        times = sharing.times(tensor)
        if not times or (min(times) >= step if before else max(times) <= step):
            continue
        if shared(place, placed(sharing.views, tensor)[1]) != 0:
            return False
    return True


def _over(sharing: Sharing, op: Op, x: Tensor, y: Tensor) -> list[Tensor]:
    """Move the group of y to where x lies; returns the roots that changed."""
    root, place = placed(sharing.views, x)
    if y in sharing.views or root is y or not _free(sharing, root, place, op, before=False):
        return []
    view = sharing.views.get(x, View(root))
    found = sharing.moved(y, root, view.at, view.pitch)
    if found is None:
        return []
    sharing.join(y, found)
    return [root]


def _under(sharing: Sharing, op: Op, x: Tensor, y: Tensor) -> list[Tensor]:
    """Move the group of x to where y lies, which is a part of something; returns the roots."""
    view = sharing.views.get(y)
    if view is None or x in sharing.views or x in sharing.inputs or view.root is x:
        return []
    if (not _free(sharing, x, Region(0, 1, x.bytes, x.bytes), op, before=False)
            or any(m in sharing.inputs for m in sharing.members[x])
            or not _free(sharing, view.root, placed(sharing.views, y)[1], op, before=True)):
        return []
    found = sharing.moved(x, view.root, view.at, view.pitch)
    if found is None:
        return []
    sharing.join(x, found)
    return [view.root]
