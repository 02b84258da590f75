"""How an op looks when its tensors are stored with their axes in another order.

An order p of a tensor t means that t.transpose(p) is stored instead of t.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.passes._rewrite import Rewriter

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Turned:
    """An op with other orders of its tensors.

    Attributes:
        inputs: order of each input; None: as it was. An order longer than the tensor's rank means
            that ones are put in front of its shape first.
        output: order of the output; the identity: as it was.
        options: those that change.
        weights: new values of a constant input of another op (op, input index, values), which
            make up for it.
    """
    inputs: tuple[Perm | None, ...]
    output: Perm
    options: dict[str, Any]
    weights: tuple[Op, int, np.ndarray] | None = None


def identity(rank: int) -> Perm:
    """Return the order that changes nothing."""
    return tuple(range(rank))


def inverse(perm: Perm) -> Perm:
    """Return the order that undoes another."""
    return tuple(int(axis) for axis in np.argsort(perm))


def compose(first: Perm, second: Perm) -> Perm:
    """Return the order that does what transposing by first, then by second, does."""
    return tuple(first[axis] for axis in second)


def turn(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    """Return an op with other orders, or None if it cannot compute that.

    Args:
        rewriter: of the op's graph.
        op: any op.
        index: of the input whose order is given; None: the output's is.
        perm: the order.
    """
    rule = RULES.get(op.code)
    return rule(rewriter, op, index, tuple(perm)) if rule else None


def _pick(values: Sequence, perm: Perm) -> tuple:
    return tuple(values[axis] for axis in perm)


def _elementwise(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    """Every operand in the same order; one of lower rank counts its axes from the last."""
    rank = len(op.outputs[0].shape)
    if index is not None:
        missing = rank - len(perm)
        perm = (*range(missing), *(axis + missing for axis in perm))
    return Turned(tuple(operand_order(len(t.shape), perm) for t in op.inputs), perm, {})


def operand_order(rank: int, perm: Perm) -> Perm | None:
    """Return the order of an operand of some rank where the broadcast result has the order perm."""
    missing = len(perm) - rank
    if rank == 0:
        return None
    if perm[:missing] == identity(missing):
        return tuple(axis - missing for axis in perm[missing:])
    return perm


def _per_axis(*keys: str):
    """Options `keys` have one value per axis; shapes of input and output have the same rank."""
    def rule(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned:
        return Turned((perm,), perm, {key: _pick(op.options[key], perm) for key in keys})
    return rule


def _expand(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned:
    turned = _elementwise(rewriter, op, index, perm)
    shape = _pick(op.outputs[0].shape, turned.output)
    return Turned(turned.inputs, turned.output, {"shape": shape})


def _axis(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned:
    axis = op.options["axis"] % len(perm)
    return Turned((perm,) * len(op.inputs), perm, {"axis": perm.index(axis)})


def _removed(axes: Sequence[int], perm: Perm) -> Perm:
    """Return the order of what is left after axes are dropped."""
    left = [axis for axis in range(len(perm)) if axis not in axes]
    return tuple(left.index(axis) for axis in perm if axis not in axes)


def _reduce(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    several = op.code == "reduce"
    rank = len(op.inputs[0].shape)
    axes = tuple(axis % rank for axis in (op.options["axes"] if several else [op.options["axis"]]))
    keep = op.options["keep_dims"]
    if not keep and index is None:
        return None  # nothing says where the dropped axes belong
    moved = tuple(sorted(perm.index(axis) for axis in axes))
    return Turned((perm,), perm if keep else _removed(axes, perm),
                  {"axes": moved} if several else {"axis": moved[0]})


def _gather(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    x, indices = op.inputs
    axis = op.options["axis"] % len(x.shape)
    added = len(indices.shape)
    if index == 1 or (index is None and added != 1):
        return None
    output: list[int] = []
    for source in perm:
        if source == axis:
            output += range(axis, axis + added)
        else:
            output.append(source if source < axis else source + added - 1)
    return Turned((perm, None), tuple(output), {"axis": perm.index(axis)})


def _fixed(first: Callable[[Op], int]):
    """Axes from first(op) on must stay where they are."""
    def rule(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
        start = first(op) % len(perm)
        if index not in (None, 0) or perm[start:] != identity(len(perm))[start:]:
            return None
        return Turned((perm, *[None] * (len(op.inputs) - 1)), perm, {})
    return rule


def _dense(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    if index not in (None, 0, 3) or perm[-1] != len(perm) - 1:
        return None
    orders = [perm, None, None, perm][:len(op.inputs)]
    return Turned(tuple(orders), perm, {})


def _instance_norm(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    if index not in (None, 0) or perm[0] != 0 or perm[-1] != len(perm) - 1:
        return None
    return Turned((perm, None, None), perm, {})


def _matmul(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    rank = len(perm)
    if perm[-2:] == (rank - 2, rank - 1):  # of the batch
        if any(len(t.shape) != rank for t in (*op.inputs, *op.outputs)):
            return None
        return Turned((perm, perm), perm, {})
    if index is None or perm != (*range(rank - 2), rank - 1, rank - 2):
        return None
    flag = ("transpose_a", "transpose_b")[index]
    orders = (perm, None) if index == 0 else (None, perm)
    return Turned(orders, identity(len(op.outputs[0].shape)), {flag: not op.options[flag]})


def _reshape(rewriter: Rewriter, op: Op, index: int | None, perm: Perm) -> Turned | None:
    source, target = op.inputs[0].shape, op.outputs[0].shape
    if index is None:
        order = reshaped_order(target, source, perm)
        return None if order is None else Turned((order,), perm, {"shape": _pick(target, perm)})
    order = reshaped_order(source, target, perm)
    if order is None:
        return _flattened(rewriter, op, perm)
    return Turned((perm,), order, {"shape": _pick(target, order)})


def _flattened(rewriter: Rewriter, op: Op, perm: Perm) -> Turned | None:
    """A dense layer behind a reshape takes the features in any order: its weights follow."""
    x, y = op.inputs[0], op.outputs[0]
    dense = rewriter.only_user(y)
    while dense is not None and dense.code in ("quantize", "dequantize"):
        y = dense.outputs[0]
        dense = rewriter.only_user(y)
    if dense is None or dense.code != "dense" or dense.inputs[0] is not y:
        return None
    w, owner, index = dense.inputs[1], dense, 1
    if len(rewriter.users(w)) > 1:
        return None
    stored = rewriter.producer(w, "dequantize")
    if stored is not None:
        w, owner, index = stored.inputs[0], stored, 0
    if not w.constant or w.layout != "rows" or (w.quantization and w.quantization.axis > 0):
        return None
    leading = 0
    while np.prod(x.shape[leading:], dtype=int) > y.shape[-1]:
        leading += 1
    if (np.prod(x.shape[leading:], dtype=int) != y.shape[-1]
            or perm[:leading] != identity(leading)):
        return None
    features = w.data.reshape(w.shape[0], *x.shape[leading:])
    order = (0, *(axis - leading + 1 for axis in perm[leading:]))
    return Turned((perm,), identity(len(y.shape)), {},
                  (owner, index, features.transpose(order).reshape(w.shape)))


def reshaped_order(source: Sequence[int], target: Sequence[int], perm: Perm) -> Perm | None:
    """Return the order q for which reshape(x).transpose(q) has the elements of x.transpose(perm).

    Args:
        source, target: shapes before and after the reshape.
        perm: order of x.

    Returns:
        q, or None if the reshape merges axes that are not neighbours in that order.
    """
    places: list[tuple[float, list[int]]] = []  # place in perm, axes of the target
    loose: list[int] = []  # axes of one element that the reshape adds
    elements = [axis for axis in perm if source[axis] != 1]
    for sources, targets in blocks(source, target):
        wide = [axis for axis in sources if source[axis] != 1]
        if wide:
            at = elements.index(wide[0])
            if elements[at:at + len(wide)] != wide:
                return None
        if not sources:
            loose += targets
        elif targets:
            places.append((perm.index(wide[0] if wide else sources[0]), [*loose, *targets]))
            loose = []
    if not places:
        return identity(len(target))
    places[-1][1].extend(loose)
    return tuple(axis for _, targets in sorted(places) for axis in targets)


def blocks(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut both shapes into the shortest runs of axes with equally many elements, in order.

    Returns:
        (axes of the source, axes of the target) of each run; axes of one element may face none.
    """
    found, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        if i < len(source) and source[i] == 1:
            both = j < len(target) and target[j] == 1
            found.append(([i], [j] if both else []))
            i, j = i + 1, j + both
            continue
        if j < len(target) and target[j] == 1:
            found.append(([], [j]))
            j += 1
            continue
        sources, targets, left, right = [i], [j], source[i], target[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                sources.append(i)
                left, i = left * source[i], i + 1
            else:
                targets.append(j)
                right, j = right * target[j], j + 1
        found.append((sources, targets))
    return found


RULES = {
    **{code: _elementwise for code in ("unary", "binary", "cast", "where", "quantize",
                                       "dequantize")},
    "pad": _per_axis("before", "after"),
    "slice": _per_axis("starts", "steps", "sizes"),
    "tile": _per_axis("repeats"),
    "expand": _expand,
    **{code: _axis for code in ("concat", "softmax")},
    **{code: _reduce for code in ("reduce", "arg")},
    "gather": _gather,
    "layer_norm": _fixed(lambda op: op.options["axis"]),
    **{code: _fixed(lambda op: -1) for code in ("l2_normalize", "lrn")},
    "instance_norm": _instance_norm,
    "dense": _dense,
    "matmul": _matmul,
    "reshape": _reshape,
}
