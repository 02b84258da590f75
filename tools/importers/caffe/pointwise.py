"""Caffe's layers over single elements."""
from __future__ import annotations

import math
from collections.abc import Callable

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.caffe.context import Context, need


def _unary(kind: str) -> Callable[[Context], Tensor]:
    def function(ctx: Context) -> Tensor:
        return ctx.unary(kind, ctx.bottom())
    return function


def relu(ctx: Context) -> Tensor:
    """max(x, 0), or negative_slope * x below 0."""
    slope = ctx.param("relu").negative_slope
    if slope:
        return ctx.unary("leaky_relu", ctx.bottom(), slope)
    return ctx.unary("relu", ctx.bottom())


def prelu(ctx: Context) -> Tensor:
    """x, or slope * x below 0, one slope per channel."""
    x = ctx.bottom()
    if len(x.shape) < 2:
        raise ModelError(f"reads {x.shape}, needed at least 2 dimensions")
    channels = 1 if ctx.param("prelu").channel_shared else x.shape[1]
    slope = ctx.weights(0, (channels,), fill=0.25).reshape((-1,) + (1,) * (len(x.shape) - 2))
    return ctx.binary("prelu", x, ctx.constant(slope))


def swish(ctx: Context) -> Tensor:
    """x * sigmoid(beta * x)."""
    x, beta = ctx.bottom(), ctx.param("swish").beta
    if beta == 1.0:
        return ctx.unary("silu", x)
    return ctx.binary("mul", x, ctx.unary("sigmoid", ctx.affine(x, beta)))


def elu(ctx: Context) -> Tensor:
    """x, or alpha * (exp(x) - 1) below 0."""
    return ctx.unary("elu", ctx.bottom(), ctx.param("elu").alpha)


def power(ctx: Context) -> Tensor:
    """(shift + scale * x) ^ power."""
    param = ctx.param("power")
    x = ctx.affine(ctx.bottom(), param.scale, param.shift)
    kind = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal", -0.5: "rsqrt"}.get(param.power)
    if param.power == 1.0:
        return x
    return ctx.unary(kind, x) if kind else ctx.binary("pow", x, ctx.constant(param.power))


def _base(base: float) -> float:
    """Return the natural logarithm of a base; -1 stands for e."""
    if base == -1.0:
        return 1.0
    if base <= 0 or base == 1:
        raise ModelError(f"its base is {base}, needed a positive number that is not 1")
    return math.log(base)


def exp(ctx: Context) -> Tensor:
    """base ^ (shift + scale * x)."""
    param = ctx.param("exp")
    factor = _base(param.base)
    return ctx.unary("exp", ctx.affine(ctx.bottom(), param.scale * factor, param.shift * factor))


def log(ctx: Context) -> Tensor:
    """log(shift + scale * x) to a base."""
    param = ctx.param("log")
    y = ctx.unary("log", ctx.affine(ctx.bottom(), param.scale, param.shift))
    return ctx.affine(y, 1 / _base(param.base))


def threshold(ctx: Context) -> Tensor:
    """1 where x is above the threshold, 0 elsewhere."""
    above = ctx.binary("greater", ctx.bottom(), ctx.constant(ctx.param("threshold").threshold))
    return ctx.add("cast", [above], dtype="fp32")


def eltwise(ctx: Context) -> Tensor:
    """Sum (with coefficients), product or maximum of the bottoms."""
    param = ctx.param("eltwise")
    kind = ("mul", "add", "max")[param.operation]
    factors = list(param.coeff)
    if factors and (len(factors) != len(ctx.bottoms) or kind != "add"):
        raise ModelError(f"has {len(factors)} coefficients for {len(ctx.bottoms)} bottoms and the "
                         f"operation {kind}, needed as many, and a sum")
    shapes = [value.shape for value in ctx.bottoms]
    need(len(set(shapes)) == 1, f"reads blobs of the shapes {shapes}, needed equal ones")
    y = None
    for index in range(len(ctx.bottoms)):
        x = ctx.affine(ctx.bottom(index), factors[index] if factors else 1.0)
        y = x if y is None else ctx.binary(kind, y, x)
    return y


TABLE = {
    "ReLU": relu, "PReLU": prelu, "ELU": elu, "Sigmoid": _unary("sigmoid"), "TanH": _unary("tanh"),
    "AbsVal": _unary("abs"), "BNLL": _unary("softplus"), "Swish": swish, "Power": power,
    "Exp": exp, "Log": log, "Threshold": threshold, "Eltwise": eltwise,
    "ReLU6": lambda ctx: ctx.unary("clip", ctx.bottom(), 0.0, 6.0),
}
