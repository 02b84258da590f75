"""ONNX Scan over axes of known length: its body is imported once per step."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from edgerun.errors import ModelError
from edgerun.tools.importers.onnx.context import Context, Node, Value, need, normal_axis
from edgerun.tools.importers.onnx.movement import cut

MOST_NODES = 4096  # of all steps together


def unrolled(ctx: Context, node: Node,
             run: Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]) -> list[Value]:
    """Return the last states, and the outputs of all steps joined.

    Args:
        ctx: builds the graph.
        node: Scan of opset 9 or later.
        run: imports the body with values of its inputs; returns its outputs.

    Raises:
        ModelError: the attributes and inputs contradict each other.
        UnsupportedError: the node is of opset 8, or there are too many steps.
    """
    body, scanned = node.attr("body"), node.attr("num_scan_inputs")
    need(node.opset >= 9, "its opset is 8, which has an axis of samples")
    if body is None or not scanned or not 0 < scanned <= len(node.inputs):
        raise ModelError(f"has no body, or scans {scanned} of {len(node.inputs)} inputs")
    held = len(node.inputs) - scanned
    joined = len(body.output) - held
    if len(body.input) != len(node.inputs) or joined < 0:
        raise ModelError(f"its body takes {len(body.input)} inputs and gives {len(body.output)}, "
                         f"needed {len(node.inputs)} and at least {held}")
    values = [node.value(index) for index in range(len(node.inputs))]
    axes = _per(node, "scan_input_axes", scanned)
    axes = [normal_axis(axis, len(value.shape)) for axis, value in zip(axes, values[held:])]
    back = _per(node, "scan_input_directions", scanned)
    lengths = {value.shape[axis] for axis, value in zip(axes, values[held:])}
    if len(lengths) != 1:
        raise ModelError(f"it scans axes of the lengths {sorted(lengths)}")
    steps = lengths.pop()
    need(steps > 0, "its output has no elements")
    need(steps * len(body.node) <= MOST_NODES, f"it has {steps} steps of {len(body.node)} nodes, "
         f"needed at most {MOST_NODES} together")
    states, parts = values[:held], [[] for _ in range(joined)]
    for step in range(steps):
        given = [_element(ctx, value, axis, steps - 1 - step if reverse else step)
                 for value, axis, reverse in zip(values[held:], axes, back)]
        found = run(body, [*states, *given])
        ctx.node = node
        states = found[:held]
        for collected, value in zip(parts, found[held:]):
            collected.append(value)
    axes = _per(node, "scan_output_axes", joined)
    back = _per(node, "scan_output_directions", joined)
    return states + [stacked(ctx, node, each[::-1] if reverse else each, axis)
                     for each, axis, reverse in zip(parts, axes, back)]


def _per(node: Node, name: str, count: int) -> list[int]:
    """Return a list attribute with a number for each of something, 0 by default."""
    given = node.attr(name) or [0] * count
    if len(given) != count:
        raise ModelError(f"{name} has {len(given)} numbers, needed {count}")
    return list(given)


def _element(ctx: Context, value: Value, axis: int, index: int) -> Value:
    """Return one index of an axis, without the axis."""
    if value.lost:
        return value
    if value.known:
        return Value(array=np.take(value.array, index, axis))
    shape = [n for at, n in enumerate(value.shape) if at != axis]
    return Value(tensor=ctx.reshape(cut(ctx, value.tensor, axis, index, 1), shape))


def stacked(ctx: Context, node: Node, parts: Sequence[Value], axis: int) -> Value:
    """Return values along a new axis."""
    if any(part.lost for part in parts):
        return Value(lost=True)
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        raise ModelError(f"its steps give the shapes {sorted(shapes)}")
    shape = list(shapes.pop())
    axis = normal_axis(axis, len(shape) + 1)
    if all(part.known for part in parts):
        return Value(array=np.stack([part.array for part in parts], axis))
    shape.insert(axis, 1)
    ctx.node = node.reading(list(parts))
    tensors = [ctx.reshape(ctx.tensor(index), shape) for index in range(len(parts))]
    ctx.node = node
    return Value(tensor=tensors[0] if len(tensors) == 1 else ctx.add("concat", tensors, axis=axis))
