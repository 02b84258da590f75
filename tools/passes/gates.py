"""Recognise activations that exporters write as several ops: GELU, SiLU, hard-swish, mish, ...

Expects the forms that identities.apply leaves: scalar arithmetic as unary "affine".
"""
from __future__ import annotations

import math

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import Rewriter, rewrite

CLOSE = 1e-3  # relative; exporters write 1.702, 0.7978846, 0.70710677, ...


def apply(graph: Graph) -> None:
    """Apply every rule of this module until none applies."""
    rewrite(graph, {"binary": (_product,), "unary": (_clip_of_affine, _tanh_of_softplus)})


def _near(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=CLOSE)


def _clip_of_affine(rewriter: Rewriter, op: Op) -> bool:
    """clip(a x + b, 0, c) -> c * hard_sigmoid(x), a / c and b / c, if a scale follows or c = 1."""
    kind, low, high = op.options["kind"], op.options["alpha"], op.options["beta"]
    affine = rewriter.private_producer(op.inputs[0], "unary", kind="affine")
    if kind != "clip" or low != 0 or not 0 < high < math.inf or affine is None:
        return False
    user = rewriter.only_user(op.outputs[0])
    scaled = user is not None and user.code == "unary" and user.options["kind"] == "affine"
    if high != 1 and not scaled:
        return False
    y = rewriter.add(op, "unary", [affine.inputs[0]], op.name, kind="hard_sigmoid",
                     alpha=affine.options["alpha"] / high, beta=affine.options["beta"] / high)
    if high != 1:
        y = rewriter.add(op, "unary", [y], op.name, kind="affine", alpha=high)
    rewriter.replace(op.outputs[0], y)
    return True


def _tanh_of_softplus(rewriter: Rewriter, op: Op) -> bool:
    """x * tanh(softplus(x)) -> mish."""
    if op.options["kind"] != "tanh":
        return False
    inner = rewriter.private_producer(op.inputs[0], "unary", kind="softplus")
    user = rewriter.only_user(op.outputs[0])
    if inner is None or not _is_product(user) or inner.inputs[0] not in user.inputs:
        return False
    return _finish(rewriter, user, inner.inputs[0], "mish", 1.0)


def _is_product(op: Op | None) -> bool:
    return (op is not None and op.code == "binary" and op.options["kind"] == "mul"
            and not op.options["activation"])


def _finish(rewriter: Rewriter, op: Op, x: Tensor, kind: str, scale: float) -> bool:
    if x.shape != op.outputs[0].shape:
        return False
    y = rewriter.add(op, "unary", [x], op.name, kind=kind)
    if scale != 1:
        y = rewriter.add(op, "unary", [y], op.name, kind="affine", alpha=scale)
    rewriter.replace(op.outputs[0], y)
    return True


def _product(rewriter: Rewriter, op: Op) -> bool:
    """x * gate(x)."""
    if not _is_product(op):
        return False
    for x, gate in (op.inputs, op.inputs[::-1]):
        found = _gate(rewriter, x, gate)
        if found:
            return _finish(rewriter, op, x, *found)
    return False


def _gate(rewriter: Rewriter, x: Tensor, gate: Tensor) -> tuple[str, float] | None:
    """Return (kind, s) if x * gate = s * kind(x), every tensor between being used here only."""
    op = rewriter.private_producer(gate, "unary")
    if op is None:
        return None
    kind, a, b = (op.options[key] for key in ("kind", "alpha", "beta"))
    if kind == "sigmoid" and op.inputs[0] is x:
        return "silu", 1.0
    if kind == "hard_sigmoid" and op.inputs[0] is x and _near(a, 1 / 6) and _near(b, 0.5):
        return "hard_swish", 1.0
    if kind == "clip" and a == 0:
        affine = rewriter.private_producer(op.inputs[0], "unary", kind="affine")
        if (affine is not None and affine.inputs[0] is x
                and _near(affine.options["alpha"] / b, 1 / 6)
                and _near(affine.options["beta"] / b, 0.5)):
            return "hard_swish", b
    if kind == "affine" and a == b:  # a * (1 + f(x))
        inner = rewriter.private_producer(op.inputs[0], "unary")
        if inner is not None and inner.options["kind"] == "erf" and _scaled(
                rewriter, inner.inputs[0], x, math.sqrt(0.5)):
            return "gelu", 2 * a
        if inner is not None and inner.options["kind"] == "tanh" and _cubic(
                rewriter, inner.inputs[0], x):
            return "gelu_tanh", 2 * a
    return None


def _scaled(rewriter: Rewriter, tensor: Tensor, x: Tensor, factor: float) -> bool:
    """Whether the tensor is factor * x."""
    op = rewriter.private_producer(tensor, "unary", kind="affine", beta=0.0)
    return op is not None and op.inputs[0] is x and _near(op.options["alpha"], factor)


def _cubic(rewriter: Rewriter, tensor: Tensor, x: Tensor) -> bool:
    """Whether the tensor is sqrt(2 / pi) * (x + 0.044715 x^3), or x * (1 + 0.044715 x^2)."""
    scale = rewriter.private_producer(tensor, "unary", kind="affine", beta=0.0)
    if scale is None or not _near(scale.options["alpha"], math.sqrt(2 / math.pi)):
        return False
    total = rewriter.private_producer(scale.inputs[0], "binary", activation="")
    if total is None or x not in total.inputs:
        return False
    other = total.inputs[total.inputs[0] is x]
    if total.options["kind"] == "add":  # x + 0.044715 x^3
        small = rewriter.private_producer(other, "unary", kind="affine", beta=0.0)
        return (small is not None and _near(small.options["alpha"], 0.044715)
                and _is_cube(rewriter, small.inputs[0], x))
    if total.options["kind"] != "mul":
        return False
    one = rewriter.private_producer(other, "unary", kind="affine", beta=1.0)  # 1 + 0.044715 x^2
    square = one and rewriter.private_producer(one.inputs[0], "unary", kind="square")
    return (square is not None and square.inputs[0] is x
            and _near(one.options["alpha"], 0.044715))


def _is_cube(rewriter: Rewriter, tensor: Tensor, x: Tensor) -> bool:
    op = rewriter.private_producer(tensor, "binary", activation="")
    if op is None or x not in op.inputs:
        return False
    other = op.inputs[op.inputs[0] is x]
    if op.options["kind"] == "pow":
        return bool(op.inputs[0] is x and other.constant and (other.data == 3).all())
    square = rewriter.private_producer(other, "unary", kind="square")
    return op.options["kind"] == "mul" and square is not None and square.inputs[0] is x
