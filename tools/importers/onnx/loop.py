"""ONNX Loop whose number of steps is known: its body is imported once per step."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from edgerun.errors import ModelError
from edgerun.tools.importers.onnx.context import Context, Node, Value, need, single
from edgerun.tools.importers.onnx.scan import MOST_NODES, stacked

TRIPS, CONDITION, CARRIED = range(3)  # inputs; the last and all behind it are carried on


def unrolled(ctx: Context, node: Node,
             run: Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]) -> list[Value]:
    """Return what is carried behind the last step, and the outputs of all steps joined.

    Args:
        ctx: builds the graph.
        node: Loop.
        run: imports the body with values of its inputs; returns its outputs.

    Raises:
        ModelError: the attributes and inputs contradict each other.
        UnsupportedError: how many steps there are depends on values, or there are too many.
    """
    body = node.attr("body")
    values = [node.value(index) for index in range(CARRIED, len(node.inputs))]
    if body is None or len(body.input) != len(values) + 2 or len(body.output) < len(values) + 1:
        raise ModelError(f"its body does not take a number, a condition and {len(values)} values, "
                         "and give a condition and as many values")
    if any(value is not None and value.lost for value in node.inputs):
        return [Value(lost=True) for _ in node.outputs]
    trips, going = (node.single(index, what) if node.given(index) else None for index, what in (
        (TRIPS, "trip count"), (CONDITION, "condition")))
    need(trips is not None or going is not None, "it has no trip count and no condition")
    going = True if going is None else bool(going)
    parts: list[list[Value]] = [[] for _ in body.output[len(values) + 1:]]
    step = 0
    while going and (trips is None or step < trips):
        need((step + 1) * max(1, len(body.node)) <= MOST_NODES,
             f"it has more than {step} steps of {len(body.node)} nodes, needed at most "
             f"{MOST_NODES} nodes together")
        condition, *found = run(body, [Value(array=np.array(step, np.int64)),
                                       Value(array=np.array(going)), *values])
        ctx.node = node
        values, step = found[:len(values)], step + 1
        for collected, value in zip(parts, found[len(values):]):
            collected.append(value)
        # ONNX says that it does not count where no first condition is given; ONNX Runtime asks it
        need(condition.known or condition.lost,
             "its condition is computed at run time, needed a constant")
        going = condition.known and bool(single(condition.array, "condition"))
    need(step > 0 or not parts, "its output has no elements: it has no steps")
    return values + [stacked(ctx, node, each, 0) for each in parts]
