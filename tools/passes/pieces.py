"""Slices, gathers and concats of each other."""
from __future__ import annotations

from itertools import accumulate
from math import prod

import numpy as np

from edgerun.tools.graph import Graph, Op
from edgerun.tools.passes._rewrite import Rewriter, rewrite
from edgerun.tools.passes._turn import blocks


def apply(graph: Graph) -> None:
    """Apply every rule of this module until none applies."""
    rewrite(graph, {"gather": (_gather_of_a_range,), "slice": (_slice_of_concat, _slice_of_reshape),
                    "concat": (_concat_of_concat, _concat_of_slices),
                    "transpose": (_interleaved_concat,)})


def _gather_of_a_range(rewriter: Rewriter, op: Op) -> bool:
    """gather with constant indices at a constant stride -> slice."""
    x, indices = op.inputs
    if not indices.constant or len(indices.shape) > 1 or indices.data.size == 0 or x.constant:
        return False
    axis = op.options["axis"] % len(x.shape)
    values = indices.data.reshape(-1).astype(np.int64)
    values = np.where(values < 0, values + x.shape[axis], values)
    steps = np.unique(np.diff(values))
    if len(steps) > 1 or (len(steps) == 1 and steps[0] == 0):
        return False
    rank = len(x.shape)
    starts, strides, sizes = [0] * rank, [1] * rank, list(x.shape)
    starts[axis], sizes[axis] = int(values[0]), len(values)
    strides[axis] = int(steps[0]) if len(steps) else 1
    y = rewriter.add(op, "slice", [x], op.name, starts=starts, steps=strides, sizes=sizes)
    if not indices.shape:
        y = rewriter.add(op, "reshape", [y], op.name, shape=op.outputs[0].shape)
    rewriter.replace(op.outputs[0], y)
    return True


def _edges(concat: Op) -> tuple[int, list[int]]:
    """Return the axis of a concat, and where each input begins and the last ends."""
    axis = concat.options["axis"] % len(concat.outputs[0].shape)
    return axis, [0, *accumulate(t.shape[axis] for t in concat.inputs)]


def _slice_of_concat(rewriter: Rewriter, op: Op) -> bool:
    """A slice that lies within one input of a concat -> a slice of that input."""
    concat = rewriter.producer(op.inputs[0], "concat")
    if concat is None:
        return False
    axis, edges = _edges(concat)
    o = op.options
    first = o["starts"][axis]
    last = first + (o["sizes"][axis] - 1) * o["steps"][axis]
    for tensor, begin, end in zip(concat.inputs, edges, edges[1:]):
        if begin <= min(first, last) and max(first, last) < end:
            starts = list(o["starts"])
            starts[axis] -= begin
            o["starts"] = tuple(starts)
            rewriter.set_input(op, 0, tensor)
            return True
    return False


def _slice_of_reshape(rewriter: Rewriter, op: Op) -> bool:
    """slice(reshape(x)) -> reshape(slice(x)), where the elements are at a constant stride in x."""
    reshape = rewriter.producer(op.inputs[0], "reshape")
    if reshape is None or reshape.inputs[0].constant:
        return False
    x, target, y = reshape.inputs[0], op.inputs[0].shape, op.outputs[0]
    rank = len(x.shape)
    starts, steps, sizes = [0] * rank, [1] * rank, list(x.shape)
    for sources, targets in blocks(x.shape, target):
        cut = [axis for axis in targets if target[axis] != 1 and (
            op.options["sizes"][axis] != target[axis] or op.options["steps"][axis] != 1)]
        if not cut:
            continue
        wide = [axis for axis in sources if x.shape[axis] != 1]
        if len(cut) > 1 or len(wide) > 1:
            return False
        axis, (start, step, size) = cut[0], (op.options[key][cut[0]] for key in (
            "starts", "steps", "sizes"))
        outer, inner = (prod(target[k] for k in side) for side in (
            [k for k in targets if k < axis], [k for k in targets if k > axis]))
        if outer == 1 and (step == 1 or inner == 1):
            found = start * inner, step, size * inner
        elif inner == 1 and size == 1:
            found = start, target[axis], outer
        elif outer == 1 and size == 1:
            found = start * inner, 1, inner
        else:
            return False
        starts[wide[0]], steps[wide[0]], sizes[wide[0]] = found
    part = rewriter.add(op, "slice", [x], op.name, starts=starts, steps=steps, sizes=sizes)
    rewriter.replace(y, rewriter.add(op, "reshape", [part], op.name, shape=y.shape))
    return True


def _concat_of_concat(rewriter: Rewriter, op: Op) -> bool:
    """concat(a, concat(b, c)) -> concat(a, b, c) where nobody else reads the inner one."""
    axis = op.options["axis"] % len(op.outputs[0].shape)
    for index, tensor in enumerate(op.inputs):
        inner = rewriter.private_producer(tensor, "concat")
        if inner is not None and _edges(inner)[0] == axis:
            rewriter.set_inputs(op, [*op.inputs[:index], *inner.inputs, *op.inputs[index + 1:]])
            return True
    return False


def _concat_of_slices(rewriter: Rewriter, op: Op) -> bool:
    """concat(x[a:b], x[b:c]) -> x[a:c]."""
    axis = op.options["axis"] % len(op.outputs[0].shape)
    for index, (left, right) in enumerate(zip(op.inputs, op.inputs[1:])):
        first = rewriter.private_producer(left, "slice")
        second = rewriter.private_producer(right, "slice")
        if first is None or second is None or first.inputs[0] is not second.inputs[0]:
            continue
        a, b = first.options, second.options
        end = a["starts"][axis] + a["sizes"][axis]
        expected = [end if i == axis else n for i, n in enumerate(a["starts"])]
        if (list(b["starts"]) != expected or a["steps"] != b["steps"] or a["steps"][axis] != 1):
            continue
        sizes = list(a["sizes"])
        sizes[axis] += b["sizes"][axis]
        whole = rewriter.add(op, "slice", [first.inputs[0]], first.name,
                             **{**a, "sizes": tuple(sizes)})
        rewriter.set_inputs(op, [*op.inputs[:index], whole, *op.inputs[index + 2:]])
        return True
    return False


def _interleaved_concat(rewriter: Rewriter, op: Op) -> bool:
    """concat(a, b) -> reshape [.., 2, C, ..] -> swap of the two: a concat that alternates. What it
    gives may be quantized on the way."""
    split = rewriter.private_producer(op.inputs[0], "reshape")
    store = split and rewriter.private_producer(split.inputs[0], "quantize")
    concat = split and rewriter.private_producer((store or split).inputs[0], "concat")
    if not concat:
        return False
    axis, edges = _edges(concat)
    shape, parts = concat.outputs[0].shape, len(concat.inputs)
    width = edges[-1] // parts
    rank = len(shape) + 1
    swap = (*range(axis), axis + 1, axis, *range(axis + 2, rank))
    if (edges != list(range(0, edges[-1] + 1, width)) or op.options["perm"] != swap
            or split.outputs[0].shape != (*shape[:axis], parts, width, *shape[axis + 1:])):
        return False
    columns = [rewriter.add(op, "reshape", [x], x.name,
                            shape=(*shape[:axis], width, 1, *shape[axis + 1:]))
               for x in concat.inputs]
    whole = rewriter.add(op, "concat", columns, concat.name, axis=axis + 1)
    if store:
        whole = rewriter.add(op, "quantize", [whole], store.name, store.outputs[0].quantization,
                             **store.options)
    rewriter.replace(op.outputs[0], whole)
    return True
