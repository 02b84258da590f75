"""Fuse what follows an op into it: its activation, and the addition of a residual."""
from __future__ import annotations

import math

from edgerun.ops.elementwise import UNARY, UNARY_TO_BOOL
from edgerun.tools.graph import Graph, Op
from edgerun.tools.passes._rewrite import (
    ACTIVATED, RESIDUAL, Rewriter, input_at, is_float, rewrite)
from edgerun.tools.passes.identities import merged


def apply(graph: Graph) -> None:
    """Fuse residuals and activations until nothing is left to fuse, then write scalars as binary
    ops where that lets an activation in."""
    rewrite(graph, {"binary": (_residual,), "unary": (_activation,)})
    rewrite(graph, {"unary": (_scalar_with_activation,)})


CLAMPS = ("relu", "clip")  # what costs an integer op nothing: bounds of its result


def clamps(graph: Graph) -> None:
    """Fuse only clamps: what other activations and residuals read must be seen, and quantized."""
    rewrite(graph, {"unary": (_clamp,)})


def _clamp(rewriter: Rewriter, op: Op) -> bool:
    """As _activation, but relu and clip only, into ops that have no other activation."""
    producer = rewriter.private_producer(op.inputs[0])
    if (op.options["kind"] not in CLAMPS or producer is None
            or producer.options.get("activation") not in ("", *CLAMPS)):
        return False
    return _activation(rewriter, op)


def _activation(rewriter: Rewriter, op: Op) -> bool:
    """unary(producer(x)) -> producer with an activation, which may merge with one it has."""
    producer = rewriter.private_producer(op.inputs[0])
    kind = op.options["kind"]
    if (producer is None or producer.code not in ACTIVATED or not is_float(producer.outputs[0])
            or kind not in UNARY or kind in UNARY_TO_BOOL):
        return False
    options = producer.options
    new = (kind, op.options["alpha"], op.options["beta"])
    if options["activation"]:
        new = merged({"kind": options["activation"], "alpha": options["alpha"],
                      "beta": options["beta"]}, op.options)
        if new is None:
            return False
    options["activation"], options["alpha"], options["beta"] = new
    rewriter.absorb(producer, op)
    return True


def _residual(rewriter: Rewriter, op: Op) -> bool:
    """conv(x) + r -> conv with the residual r, computed where the addition was."""
    if op.options["kind"] != "add" or not is_float(op.outputs[0]):
        return False
    a, b = op.inputs
    if a.shape != b.shape or a is b or a.constant or b.constant:
        return False
    def order(producer: Op | None) -> int:
        return -1 if producer is None else rewriter.graph.ops.index(producer)

    candidates = [(producer, other) for tensor, other in ((a, b), (b, a))
                  if (producer := rewriter.private_producer(tensor)) is not None
                  and producer.code in RESIDUAL and not producer.options["activation"]
                  and input_at(producer, 3) is None and not _on_integers(rewriter, producer)]
    if not candidates:
        return False
    # the later one: its residual is ready, nothing has to wait for it
    producer, other = max(candidates, key=lambda pair: order(pair[0]))
    if order(producer) < order(rewriter.producer(other)):
        rewriter.move_before(producer, op)
    rewriter.set_input(producer, 3, other)
    for key in ("activation", "alpha", "beta"):
        producer.options[key] = op.options[key]
    rewriter.absorb(producer, op)
    return True


def _on_integers(rewriter: Rewriter, op: Op) -> bool:
    """Whether a layer computes on integers, or will, which takes no residual."""
    return not is_float(op.inputs[0]) or all(
        rewriter.producer(x, "dequantize") for x in op.inputs[:2])


def _scalar_with_activation(rewriter: Rewriter, op: Op) -> bool:
    """f(x + c) or f(c x) -> one binary op with an activation."""
    kind = op.options["kind"]
    affine = rewriter.private_producer(op.inputs[0], "unary", kind="affine")
    if affine is None or kind not in UNARY or kind in UNARY_TO_BOOL:
        return False
    alpha, beta = affine.options["alpha"], affine.options["beta"]
    if (alpha != 1 and beta != 0) or not (math.isfinite(alpha) and math.isfinite(beta)):
        return False
    scale = beta == 0
    constant = rewriter.graph.constant(alpha if scale else beta, f"{affine.name}.scalar", "fp32")
    y = rewriter.add(op, "binary", [affine.inputs[0], constant], op.name,
                     kind="mul" if scale else "add", activation=kind, alpha=op.options["alpha"],
                     beta=op.options["beta"])
    rewriter.replace(op.outputs[0], y)
    return True
