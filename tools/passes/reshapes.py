"""Keep reshapes, which cost nothing, from standing between ops that could be fused."""
from __future__ import annotations

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import Rewriter, channels, moved_axes, rewrite
from edgerun.tools.passes.identities import RESHAPES


def apply(graph: Graph) -> None:
    """Write transposes that move no element, and axes that a reduction drops, as reshapes; then
    move reshapes behind the ops that do not mind."""
    rewrite(graph, {"transpose": (_nothing_moves,), "reduce": (_keep_dims,)})
    rewrite(graph, {"unary": (_behind_unary,), "cast": (_behind_unary,),
                    "binary": (_behind_constant, _behind_both), "reshape": RESHAPES})


def _nothing_moves(rewriter: Rewriter, op: Op) -> bool:
    x, y = op.inputs[0], op.outputs[0]
    if moved_axes(op.options["perm"], x.shape):
        return False
    rewriter.replace(y, rewriter.add(op, "reshape", [x], op.name, shape=y.shape))
    return True


def _keep_dims(rewriter: Rewriter, op: Op) -> bool:
    """A reduction that drops its axes -> one that keeps them, and a reshape."""
    if op.options["keep_dims"]:
        return False
    y = op.outputs[0]
    kept = rewriter.add(op, "reduce", op.inputs, op.name, **{**op.options, "keep_dims": True})
    rewriter.replace(y, rewriter.add(op, "reshape", [kept], op.name, shape=y.shape))
    return True


def _reshaped(rewriter: Rewriter, tensor: Tensor) -> Tensor | None:
    op = rewriter.producer(tensor, "reshape")
    return None if op is None else op.inputs[0]


def _finish(rewriter: Rewriter, op: Op, inputs: list[Tensor]) -> bool:
    y = op.outputs[0]
    moved = rewriter.add(op, op.code, inputs, op.name, **op.options)
    rewriter.replace(y, rewriter.add(op, "reshape", [moved], op.name, shape=y.shape))
    return True


def _behind_unary(rewriter: Rewriter, op: Op) -> bool:
    source = _reshaped(rewriter, op.inputs[0])
    return source is not None and not source.constant and _finish(rewriter, op, [source])


def _behind_constant(rewriter: Rewriter, op: Op) -> bool:
    """reshape(x) + one constant per channel, if the channels stay the last axis."""
    x, y = op.inputs[0], op.outputs[0]
    source = _reshaped(rewriter, x)
    if source is None or x.shape != y.shape or not x.shape or not source.shape:
        return False
    values = channels(op.inputs[1], x.shape[-1])
    if values is None or source.shape[-1] != x.shape[-1]:
        return False
    return _finish(rewriter, op, [source, rewriter.graph.constant(values, op.inputs[1].name)])


def _behind_both(rewriter: Rewriter, op: Op) -> bool:
    sources = [_reshaped(rewriter, tensor) for tensor in op.inputs]
    if None in sources or sources[0].shape != sources[1].shape or any(
            tensor.shape != op.outputs[0].shape for tensor in op.inputs):
        return False
    return _finish(rewriter, op, sources)
