"""Compute only the parts of a tensor that are read: a layer that is sliced becomes several."""
from __future__ import annotations

from edgerun.tools.graph import Graph, Op
from edgerun.tools.passes._rewrite import Rewriter, input_at, rewrite

NARROWEST = 16  # output channels; a narrower layer wastes the lanes of a vector


def apply(graph: Graph) -> None:
    """Cut dense layers and convolutions all of whose readers are slices of channels."""
    rewrite(graph, {code: (_cut,) for code in ("dense", "conv2d")})


def _cut(rewriter: Rewriter, op: Op) -> bool:
    y, w, bias = op.outputs[0], op.inputs[1], input_at(op, 2)
    users = rewriter.users(y)
    if (not users or rewriter.is_output(y) or not w.constant or len(rewriter.users(w)) > 1
            or (bias is not None and not bias.constant) or input_at(op, 3) is not None
            or op.options.get("groups", 1) != 1):
        return False
    widths = [user.options["sizes"][-1] for user in users if _of_channels(user)]
    if len(widths) < len(users) or min(widths) < NARROWEST or sum(widths) > y.shape[-1]:
        return False
    for user in users:
        start, step, width = (user.options[key][-1] for key in ("starts", "steps", "sizes"))
        taken = [start + step * k for k in range(width)]
        constants = [None if t is None else rewriter.graph.constant(t.data[taken], t.name)
                     for t in (w, bias)]
        rewriter.replace(user.outputs[0], rewriter.add(
            op, op.code, [op.inputs[0], *constants], user.name, **op.options))
    return True


def _of_channels(op: Op) -> bool:
    """Whether the op is a slice that takes all of every axis but the last."""
    if op.code != "slice":
        return False
    shape, options = op.inputs[0].shape, op.options
    return options["sizes"][:-1] == shape[:-1] and all(
        step == 1 for step, n in zip(options["steps"], shape[:-1]) if n > 1)
