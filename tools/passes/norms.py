"""Recognise normalizations that exporters write as several ops.

Expects the forms that identities.apply leaves: a / sqrt(b) as a * rsqrt(b), scalars as "affine".
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import Rewriter, input_at, is_float, rewrite


def apply(graph: Graph) -> None:
    """Find layer_norm, instance_norm and l2_normalize, then their gamma and beta."""
    rewrite(graph, {"binary": (_centred, _spread, _unit_length)})
    rewrite(graph, {"binary": (_gamma, _beta)})


@dataclass(frozen=True)
class Deviation:
    """1 / sqrt(variance of x over axes + epsilon)."""
    x: Tensor
    mean: Tensor
    axes: tuple[int, ...]
    epsilon: float


def _deviation(rewriter: Rewriter, tensor: Tensor) -> Deviation | None:
    root = rewriter.producer(tensor, "unary", kind="rsqrt")
    shifted = root and rewriter.producer(root.inputs[0], "unary", kind="affine", alpha=1.0)
    variance = shifted and rewriter.producer(shifted.inputs[0], "reduce", kind="mean",
                                             keep_dims=True)
    if not variance:
        return None
    axes = tuple(variance.options["axes"])
    squares = rewriter.producer(variance.inputs[0])
    if squares is None or "kind" not in squares.options:
        return None
    if squares.code == "unary" and squares.options["kind"] == "square":
        squares = rewriter.producer(squares.inputs[0], "binary", kind="sub", activation="")
    elif squares.code != "binary" or squares.options["kind"] != "squared_difference":
        return None
    if squares is None:
        return None
    for x, mean in (squares.inputs, squares.inputs[::-1]):
        if _is_mean(rewriter, mean, x, axes):
            return Deviation(x, mean, axes, shifted.options["beta"])
    return None


def _is_mean(rewriter: Rewriter, mean: Tensor, x: Tensor, axes: tuple[int, ...]) -> bool:
    op = rewriter.producer(mean, "reduce", kind="mean", keep_dims=True)
    return op is not None and op.inputs[0] is x and tuple(op.options["axes"]) == axes


def _normalize(rewriter: Rewriter, op: Op, found: Deviation) -> Tensor | None:
    """Insert the norm in front of op, if the axes are those of a norm."""
    x, rank = found.x, len(found.x.shape)
    axes = tuple(axis % rank for axis in found.axes)
    if axes == tuple(range(axes[0], rank)):
        return rewriter.add(op, "layer_norm", [x], op.name, axis=axes[0], epsilon=found.epsilon)
    if rank > 2 and axes == tuple(range(1, rank - 1)):
        ones, zeros = np.ones(x.shape[-1], np.float32), np.zeros(x.shape[-1], np.float32)
        return rewriter.add(op, "instance_norm",
                            [x, rewriter.graph.constant(ones, f"{op.name}.gamma"),
                             rewriter.graph.constant(zeros, f"{op.name}.beta")],
                            op.name, epsilon=found.epsilon)
    return None


def _centred(rewriter: Rewriter, op: Op) -> bool:
    """(x - mean) * rsqrt(variance + epsilon)."""
    if op.options["kind"] != "mul":
        return False
    for difference, scale in (op.inputs, op.inputs[::-1]):
        sub = rewriter.producer(difference, "binary", kind="sub", activation="")
        found = sub and _deviation(rewriter, scale)
        if not found or sub.inputs[0] is not found.x or not _is_mean(
                rewriter, sub.inputs[1], found.x, found.axes):
            continue
        y = _normalize(rewriter, op, found)
        if y is not None:
            _finish(rewriter, op, y)
            return True
    return False


def _spread(rewriter: Rewriter, op: Op) -> bool:
    """x * g + (beta - mean * g) with g = rsqrt(variance + epsilon), perhaps times gamma."""
    if op.options["kind"] != "add":
        return False
    for scaled, shift in (op.inputs, op.inputs[::-1]):
        product = rewriter.producer(scaled, "binary", kind="mul", activation="")
        if product is None:
            continue
        for x, g in (product.inputs, product.inputs[::-1]):
            gamma, root = _with_gamma(rewriter, g)
            found = _deviation(rewriter, root)
            if found is None or found.x is not x:
                continue
            beta = _shift(rewriter, shift, found.mean, g)
            y = _normalize(rewriter, op, found) if beta is not None else None
            if y is None:
                continue
            if gamma is not None:
                y = rewriter.add(op, "binary", [y, gamma], op.name, kind="mul")
            if isinstance(beta, Tensor):
                y = rewriter.add(op, "binary", [y, beta], op.name, kind="add")
            _finish(rewriter, op, y)
            return True
    return False


def _with_gamma(rewriter: Rewriter, g: Tensor) -> tuple[Tensor | None, Tensor]:
    product = rewriter.producer(g, "binary", kind="mul", activation="")
    if product is None or not product.inputs[1].constant:
        return None, g
    return product.inputs[1], product.inputs[0]


def _shift(rewriter: Rewriter, tensor: Tensor, mean: Tensor, g: Tensor) -> Tensor | bool | None:
    """Return beta of beta - mean * g, True for -mean * g, None for anything else."""
    difference = rewriter.producer(tensor, "binary", kind="sub", activation="")
    negative = rewriter.producer(tensor, "unary", kind="affine", alpha=-1.0, beta=0.0)
    if difference is not None and difference.inputs[0].constant:
        beta, product = difference.inputs
    elif negative is not None:
        beta, product = True, negative.inputs[0]
    else:
        return None
    product = rewriter.producer(product, "binary", kind="mul", activation="")
    return beta if product is not None and set(product.inputs) == {mean, g} else None


def _unit_length(rewriter: Rewriter, op: Op) -> bool:
    """x / max(|x|, e), or x * rsqrt(max(sum of x^2, e)), over the last axis."""
    x, other = op.inputs
    kind = op.options["kind"]
    if kind == "div":
        squares, epsilon = _guarded(rewriter, other)
        root = rewriter.producer(squares, "reduce", kind="l2", keep_dims=True)
        if root is not None:
            return _unit(rewriter, op, x, root, epsilon ** 2)
        squares = rewriter.producer(squares, "unary", kind="sqrt")
        return squares is not None and _unit(
            rewriter, op, x, _sum_of_squares(rewriter, squares.inputs[0], x), epsilon ** 2)
    if kind != "mul":
        return False
    for x, scale in (op.inputs, op.inputs[::-1]):
        root = rewriter.producer(scale, "unary", kind="rsqrt")
        if root is not None:
            squares, epsilon = _guarded(rewriter, root.inputs[0])
            found = _sum_of_squares(rewriter, squares, x)
            if found is not None:
                return _unit(rewriter, op, x, found, epsilon)
    return False


def _guarded(rewriter: Rewriter, tensor: Tensor) -> tuple[Tensor, float]:
    """Return (t, e) of max(t, e); e is 0 where there is no maximum."""
    clip = rewriter.producer(tensor, "unary", kind="clip", beta=math.inf)
    if clip is None or clip.options["alpha"] < 0:
        return tensor, 0.0
    return clip.inputs[0], clip.options["alpha"]


def _sum_of_squares(rewriter: Rewriter, tensor: Tensor, x: Tensor) -> Op | None:
    """Return the reduction of x itself, or of its square."""
    op = rewriter.producer(tensor, "reduce", keep_dims=True)
    if op is None:
        return None
    if op.options["kind"] == "sum_square":
        return op if op.inputs[0] is x else None
    square = rewriter.producer(op.inputs[0], "unary", kind="square")
    return op if op.options["kind"] == "sum" and square and square.inputs[0] is x else None


def _unit(rewriter: Rewriter, op: Op, x: Tensor, reduction: Op | None, epsilon: float) -> bool:
    last = (len(x.shape) - 1,)
    if reduction is None or tuple(reduction.options["axes"]) != last:
        return False
    if reduction.options["kind"] != "sum" and reduction.inputs[0] is not x:
        return False
    _finish(rewriter, op, rewriter.add(op, "l2_normalize", [x], op.name, epsilon=epsilon))
    return True


def _finish(rewriter: Rewriter, op: Op, y: Tensor) -> None:
    """Put y, and the activation of op behind it, in op's place."""
    if op.options["activation"]:
        y = rewriter.add(op, "unary", [y], op.name, kind=op.options["activation"],
                         alpha=op.options["alpha"], beta=op.options["beta"])
    rewriter.replace(op.outputs[0], y)


def _parameter(rewriter: Rewriter, op: Op, kind: str) -> tuple[Op, np.ndarray] | None:
    """Return the norm in front of op and the constant operand, in the shape of the norm's axes."""
    x, operand = op.inputs
    if op.options["kind"] != kind or not operand.constant or not is_float(operand):
        return None
    norm = (rewriter.private_producer(x, "layer_norm")
            or rewriter.private_producer(x, "instance_norm"))
    if norm is None or x.shape != op.outputs[0].shape:
        return None
    axis = norm.options["axis"] % len(x.shape) if norm.code == "layer_norm" else len(x.shape) - 1
    inner = x.shape[axis:]
    if any(n != 1 for n in operand.shape[:-len(inner)]):
        return None
    values = operand.data.reshape(operand.shape[-len(inner):])
    return norm, np.broadcast_to(values, inner).astype(np.float32)


def _gamma(rewriter: Rewriter, op: Op) -> bool:
    found = _parameter(rewriter, op, "mul")
    if found is None:
        return False
    norm, values = found
    for index, default in ((1, 1.0), (2, None)):
        old = input_at(norm, index)
        if old is None and default is None:
            continue
        if old is not None and not old.constant:
            return False
        scaled = values if old is None else values * old.data
        rewriter.set_input(norm, index, rewriter.graph.constant(scaled, f"{norm.name}.gamma"))
    return _take(rewriter, norm, op)


def _beta(rewriter: Rewriter, op: Op) -> bool:
    found = _parameter(rewriter, op, "add")
    if found is None:
        return False
    norm, values = found
    old = input_at(norm, 2)
    if old is not None and not old.constant:
        return False
    shifted = values if old is None else values + old.data
    rewriter.set_input(norm, 2, rewriter.graph.constant(shifted, f"{norm.name}.beta"))
    return _take(rewriter, norm, op)


def _take(rewriter: Rewriter, norm: Op, op: Op) -> bool:
    """Let the norm stand for op, whose activation becomes an op of its own."""
    y = norm.outputs[0]
    if op.options["activation"]:
        y = rewriter.add(op, "unary", [y], op.name, kind=op.options["activation"],
                         alpha=op.options["alpha"], beta=op.options["beta"])
    rewriter.replace(op.outputs[0], y)
    return True
