"""Fold y = x * scale + offset per channel (batch normalization and the like) into weights.

Expects the forms that identities.apply leaves: constants on the right, add and mul only, scalars as
unary "affine".
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import (
    WEIGHTED, Rewriter, channels, input_at, is_float, rewrite)
from edgerun.tools.planes.codes import coded

SMALL = 1024  # elements by which merged constants may be larger than what they are merged from


@dataclass(frozen=True)
class Affine:
    """x * scale + offset, each one value per channel or a single one; None where there is none."""
    x: Tensor
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None


def apply(graph: Graph) -> None:
    """Fold into the op before, then into the op behind; merge what is left of longer chains."""
    rewrite(graph, {"unary": (_into_producer,), "binary": (_into_producer,)})
    rewrite(graph, {code: (_into_user,) for code in ("conv2d", "depthwise_conv2d", "dense")})
    rewrite(graph, {"unary": (_merge_chain,), "binary": (_merge_chain,)})


def affine(op: Op | None) -> Affine | None:
    """Return what the op does, if it is an affine map per channel without activation."""
    if op is None or not op.outputs[0].shape or not is_float(op.outputs[0]):
        return None
    x = op.inputs[0]
    if op.code == "unary" and op.options["kind"] == "affine":
        scale, offset = (np.float32(op.options[key]) for key in ("alpha", "beta"))
        return Affine(x, None if scale == 1 else scale.reshape(1),
                      None if offset == 0 else offset.reshape(1))
    if op.code != "binary" or op.options["activation"] or x.shape != op.outputs[0].shape:
        return None
    values = channels(op.inputs[1], x.shape[-1])
    if values is None or op.options["kind"] not in ("add", "mul"):
        return None
    return Affine(x, values) if op.options["kind"] == "mul" else Affine(x, None, values)


def _into_producer(rewriter: Rewriter, op: Op) -> bool:
    """conv(x) * scale + offset -> conv with other weights and bias."""
    found = affine(op)
    if found is None:
        return False
    producer = rewriter.private_producer(found.x)
    if producer is None or producer.code not in WEIGHTED or producer.options["activation"]:
        return False
    w, bias = producer.inputs[1], input_at(producer, 2)
    stored = rewriter.producer(w, "dequantize")
    planes = stored is not None and coded(stored.inputs[0])
    if input_at(producer, 3) is not None or not (w.constant or planes) or not is_float(w):
        return False
    if bias is not None and not bias.constant:
        return False
    out_c = producer.outputs[0].shape[-1]
    shift = np.zeros(out_c, np.float32) if bias is None else bias.data.astype(np.float32)
    if found.scale is not None:
        if len(rewriter.users(w)) > 1:
            return False  # the weights would be stored twice
        last = producer.code == "depthwise_conv2d"
        scale = np.broadcast_to(found.scale, out_c)
        scale_w = scale if last else scale.reshape(-1, *[1] * (len(w.shape) - 1))
        if planes:  # of every number of planes that may count
            q = stored.inputs[0]
            rewriter.set_input(stored, 0, rewriter.graph.constant(
                q.data, q.name, quantization=q.quantization.times(scale)))
        else:
            rewriter.set_input(producer, 1, rewriter.graph.constant(w.data * scale_w, w.name))
        shift = shift * scale
    if found.offset is not None:
        shift = shift + found.offset
    if bias is not None or found.offset is not None:
        rewriter.set_input(producer, 2, rewriter.graph.constant(
            shift, bias.name if bias is not None else f"{producer.name}.bias"))
    rewriter.absorb(producer, op)
    return True


def _into_user(rewriter: Rewriter, op: Op) -> bool:
    """conv(x * scale + offset) -> conv with other weights and bias; an offset only without padding,
    since padding is 0 behind the affine map, not in front of it."""
    before = rewriter.private_producer(op.inputs[0])
    found = affine(before)
    w, bias = op.inputs[1], input_at(op, 2)
    if found is None or not w.constant or not is_float(w) or len(rewriter.users(w)) > 1:
        return False
    if found.offset is not None and any(
            op.options.get(f"pad_{side}") for side in ("top", "left", "bottom", "right")):
        return False
    if bias is not None and not bias.constant:
        return False
    in_c = found.x.shape[-1]
    out_c = op.outputs[0].shape[-1]
    offset = _per_weight(op, found.offset, in_c)
    scale = _per_weight(op, found.scale, in_c)
    if offset is not None:
        taps = (0, 1) if op.code == "depthwise_conv2d" else tuple(range(1, len(w.shape)))
        shift = (w.data.astype(np.float64) * offset).sum(axis=taps)
        shift += 0 if bias is None else bias.data
        rewriter.set_input(op, 2, rewriter.graph.constant(
            shift.reshape(out_c).astype(np.float32),
            bias.name if bias is not None else f"{op.name}.bias"))
    if scale is not None:
        rewriter.set_input(op, 1, rewriter.graph.constant(w.data * scale, w.name))
    rewriter.set_input(op, 0, found.x)
    return True


def _per_weight(op: Op, values: np.ndarray | None, in_c: int) -> np.ndarray | None:
    """Return values per input channel as they meet the weights (broadcast against them)."""
    if values is None:
        return None
    w = op.inputs[1]
    values = np.broadcast_to(values, in_c)
    if op.code == "depthwise_conv2d":
        return np.repeat(values, w.shape[-1] // in_c)
    groups = op.options.get("groups", 1)
    by_group = values.reshape(groups, in_c // groups)
    per_output = np.repeat(by_group, w.shape[0] // groups, axis=0)
    return per_output.reshape(w.shape[0], *[1] * (len(w.shape) - 2), in_c // groups)


def _any_affine(op: Op | None) -> Affine | None:
    """Like affine(), with constants of any shape that broadcasts to x."""
    found = affine(op)
    if found is not None or op is None or op.code != "binary" or op.options["activation"]:
        return found
    x, operand = op.inputs
    if (not is_float(operand) or not operand.constant or x.shape != op.outputs[0].shape
            or op.options["kind"] not in ("add", "mul")):
        return None
    return Affine(x, operand.data) if op.options["kind"] == "mul" else Affine(x, None, operand.data)


def _merge_chain(rewriter: Rewriter, op: Op) -> bool:
    """A chain of affine maps -> at most one mul and one add, where that is fewer ops."""
    last = _any_affine(op)
    user = rewriter.only_user(op.outputs[0])
    if last is None or _any_affine(user) is not None:
        return False  # not the end of its chain
    chain = [last]
    while True:
        before = _any_affine(rewriter.private_producer(chain[-1].x))
        if before is None:
            break
        chain.append(before)
    scale, offset = np.ones(1), np.zeros(1)
    for step in reversed(chain):
        if step.scale is not None:
            scale, offset = scale * step.scale, offset * step.scale
        if step.offset is not None:
            offset = offset + step.offset
    x, y = chain[-1].x, op.outputs[0]
    needed = _as_ops(scale, offset)
    given = [values.size for step in chain for values in (step.scale, step.offset)
             if values is not None]
    stored = sum(operand.size for _, operand, _ in needed if operand is not None)
    if len(needed) >= len(chain) or stored > sum(given) + SMALL:
        return False  # not fewer, or two constants that broadcast to a large one
    for code, operand, options in needed:
        inputs = [x] if operand is None else [
            x, rewriter.graph.constant(operand.astype(np.float32), f"{op.name}.{options['kind']}")]
        x = rewriter.add(op, code, inputs, op.name, **options)
    rewriter.replace(y, x)
    return True


def _as_ops(scale: np.ndarray, offset: np.ndarray) -> list[tuple[str, np.ndarray | None, dict]]:
    """Return (code, constant operand, options) of each op that x * scale + offset takes."""
    if np.all(offset == offset.flat[0]):
        offset = offset.reshape(-1)[:1]
    if scale.size == offset.size == 1:
        return [("unary", None, {"kind": "affine", "alpha": float(scale.flat[0]),
                                 "beta": float(offset.flat[0])})]
    steps = []
    if np.any(scale != 1):
        steps.append(("binary", scale, {"kind": "mul"}))
    if np.any(offset != 0):
        steps.append(("binary", offset, {"kind": "add"}))
    return steps
