"""Let what is joined or cut lie where it is wanted: concats and slices become views.

The inputs of a concat become parts of its output, which their ops write; what cannot is copied
there. The output of a slice becomes a part of its input.
"""
from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.ops._base import OUTPUT, count
from edgerun.ops.copy import JOINED
from edgerun.ops.quantize import same_grid
from edgerun.regions import region
from edgerun.tools.graph import Graph, Op, Tensor, View, Views, full_options, placed
from edgerun.tools.passes._sharing import Sharing


@dataclass
class _Change:
    """What the replacement of an op changed: roots of groups, and copies that remain to be made."""
    roots: list[Tensor]
    copies: list[Op] = field(default_factory=list)


def apply(graph: Graph, views: Views, kept: Container[Op] = ()) -> list[Op]:
    """Replace concats and slices by views where that needs no more memory.

    Args:
        graph: with the storage types of all tensors chosen.
        views: where the tensors lie that have no bytes of their own; gets the new ones.
        kept: ops that stay what they are.

    Returns:
        The ops that were replaced.
    """
    sharing, replaced = Sharing(graph, views), []
    bound = sharing.bound()
    for op in list(graph.ops):
        step = {"concat": _join, "slice": _cut}.get(op.code)
        if step is None or op in kept:
            continue
        before = sharing.saved()
        change = step(sharing, op)
        after = bound + 1 if change is None else sharing.bound(change.roots)
        if after > bound or after == bound and len(change.copies) > -(-len(op.inputs) // JOINED):
            sharing.restore(before)
            continue
        at = graph.ops.index(op)
        graph.ops[at:at + 1] = change.copies
        bound = after
        replaced.append(op)
    return replaced


def _join(sharing: Sharing, op: Op) -> _Change | None:
    """Make views of the inputs of a concat; None if none can be one."""
    y, axis = op.outputs[0], op.options["axis"] % len(op.outputs[0].shape)
    rows, last = count(y.shape[:axis]), axis == len(y.shape) - 1
    if y in sharing.views or rows > 1 and not last:
        return None
    places, at = [], 0
    for x in op.inputs:
        places.append(View(y, at, y.shape[-1] if rows > 1 else 0))
        at += count(x.shape[axis:]) * dtypes.size(y.dtype)
    step = sharing.step[op]
    sharing.remove(op)
    change, left = _Change([y]), []
    for number, (x, view) in enumerate(zip(op.inputs, places)):
        root = _moved(sharing, op, number, places)
        if root is not None:
            change.roots.append(root)
        elif not _lies(sharing, x, view):
            left.append((x, view))
    if len(change.roots) == 1:
        return None
    for x, view in left:
        copy = _copy(sharing, op, x, view, step)
        if copy is None:
            return None
        change.copies.append(copy)
        change.roots.append(placed(sharing.views, x)[0])
    return change


def _lies(sharing: Sharing, x: Tensor, view: View) -> bool:
    """Whether a tensor lies there already."""
    return not x.constant and placed(sharing.views, x) == (view.root, region(
        view.at, x.shape, dtypes.size(x.dtype), view.pitch))


def _moved(sharing: Sharing, op: Op, number: int, places: list[View]) -> Tensor | None:
    """Move the group of an input of a concat to its place; returns its root.

    The group may be larger than the input, if the inputs that follow make it complete.

    Returns:
        None if that is not possible, or if the input lies there already.
    """
    x, y = op.inputs[number], op.outputs[0]
    if x.constant:
        return None
    root, place = placed(sharing.views, x)
    if root is y or place.start or any(m in sharing.inputs for m in sharing.members[root]):
        return None
    run, total = [], 0
    for other, view in zip(op.inputs[number:], places[number:]):
        if other.constant or placed(sharing.views, other)[0] is not root or total == root.bytes:
            break
        run.append((other, view))
        total += other.bytes
    if total != root.bytes or not all(same_grid(other, y) for other, _ in run):
        return None
    first = places[number]
    found = sharing.moved(root, y, first.at, first.pitch)
    if found is None:
        return None
    before = sharing.views
    sharing.views = before | found
    right = all(_lies(sharing, other, view) for other, view in run)
    sharing.views = before
    if not right:
        return None
    sharing.join(root, found)
    return root


def _copy(sharing: Sharing, op: Op, x: Tensor, view: View, step: int) -> Op | None:
    """Return the op that copies an input of a concat to its place; None if there is none."""
    y = op.outputs[0]
    name = sharing.graph.unique(f"{x.name}.copy")
    part = Tensor(name, x.shape, y.dtype, quantization=y.quantization)
    if same_grid(x, y):
        copy = Op("slice", name, [x], [part], full_options("slice", {
            "starts": (0,) * len(x.shape), "steps": (1,) * len(x.shape),
            "sizes": tuple(x.shape)}))
    else:
        copy = Op("requantize", name, [x], [part], full_options("requantize", {"dtype": y.dtype}))
    if view.pitch and OUTPUT not in OPS[copy.code].pitched(copy):
        return None
    sharing.views[part] = view
    sharing.add(copy, step)
    return copy


def _cut(sharing: Sharing, op: Op) -> _Change | None:
    """Make a view of the output of a slice; None if that is not possible."""
    x, y = op.inputs[0], op.outputs[0]
    starts, sizes, rank = op.options["starts"], op.options["sizes"], len(x.shape)
    if x.constant or y in sharing.views or not rank or any(s != 1 for s in op.options["steps"]):
        return None
    outer = [axis for axis in range(rank - 1) if sizes[axis] != x.shape[axis]]
    if outer and count(sizes[:outer[-1]]) > 1:
        return None  # rows that follow each other in y do not in x
    sharing.remove(op)
    view = sharing.views.get(x, View(x))
    apart = view.pitch or x.shape[-1]
    at, step = starts[-1], apart
    for axis in reversed(range(rank - 1)):
        at += starts[axis] * step
        step *= x.shape[axis]
    pitch = apart if apart != y.shape[-1] and count(sizes[:-1]) > 1 else 0
    size = dtypes.size(x.dtype)
    found = sharing.moved(y, view.root, view.at + at * size, pitch)
    if found is None:
        return None
    sharing.join(y, found)
    return _Change([view.root])
