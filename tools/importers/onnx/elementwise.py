"""ONNX elementwise ops and activations."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, dtypes_name, need
from edgerun.tools.importers.onnx.functions import device_dtype

INF = float("inf")
NARROW = ("int16", "int8", "uint8")  # computed in int32: keeping the low bits is what ONNX wants


def cast(ctx: Context, x: Tensor, dtype: str) -> Tensor:
    """Return x in another device dtype."""
    return x if x.dtype == dtype else ctx.add("cast", [x], dtype=dtype)


def unary(ctx: Context, kind: str, x: Tensor, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    """Add a unary op."""
    if x.dtype in NARROW:
        return cast(ctx, unary(ctx, kind, cast(ctx, x, "int32"), alpha, beta), x.dtype)
    return ctx.add("unary", [x], kind=kind, alpha=float(alpha), beta=float(beta))


def binary(ctx: Context, kind: str, a: Tensor, b: Tensor) -> Tensor:
    """Add a binary op."""
    if a.dtype in NARROW and a.dtype == b.dtype:
        y = ctx.add("binary", [cast(ctx, a, "int32"), cast(ctx, b, "int32")], kind=kind)
        return y if y.dtype == "bool" else cast(ctx, y, a.dtype)
    return ctx.add("binary", [a, b], kind=kind)


def _unary(kind: str, *attributes: tuple[str, float]) -> Callable[[Context, Node], Tensor]:
    """Return the function of a unary op; attributes (name, default) are its alpha and beta."""
    def function(ctx: Context, node: Node) -> Tensor:
        return unary(ctx, kind, ctx.tensor(0), *(node.attr(*a) for a in attributes))
    return function


def _binary(kind: str) -> Callable[[Context, Node], Tensor]:
    def function(ctx: Context, node: Node) -> Tensor:
        return binary(ctx, kind, ctx.tensor(0), ctx.tensor(1))
    return function


def _chain(kind: str) -> Callable[[Context, Node], Tensor]:
    """Return the function of an op over any number of inputs."""
    def function(ctx: Context, node: Node) -> Tensor:
        y = ctx.tensor(0)
        for index in range(1, len(node.inputs)):
            y = binary(ctx, kind, y, ctx.tensor(index))
        return y
    return function


def _mean(ctx: Context, node: Node) -> Tensor:
    total, count = _chain("add")(ctx, node), len(node.inputs)
    return unary(ctx, "affine", total, alpha=1.0 / count) if count > 1 else total


def _mod(ctx: Context, node: Node) -> Tensor:
    kind = "fmod" if node.attr("fmod", 0) else "floor_mod"
    return binary(ctx, kind, ctx.tensor(0), ctx.tensor(1))


def _pow(ctx: Context, node: Node) -> Tensor:
    x, exponent = ctx.tensor(0), node.value(1)
    if exponent.known and exponent.array.size == 1 and len(exponent.shape) <= len(x.shape):
        number = float(exponent.array.reshape(-1)[0])
        kind = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(number)
        if kind and (x.dtype in dtypes.FLOAT or kind == "square"):
            return unary(ctx, kind, x)
    need(x.dtype in dtypes.FLOAT, f"its base is {x.dtype}, needed float")
    if exponent.known:
        power = ctx.constant(exponent.array, like=x)
    else:
        power = cast(ctx, ctx.tensor(1), x.dtype)
    return binary(ctx, "pow", x, power)


def _clip(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    if node.opset < 11:
        return unary(ctx, "clip", x, node.attr("min", -INF), node.attr("max", INF))
    known = all(node.value(i).known for i in (1, 2) if node.given(i))
    if known and x.dtype in dtypes.FLOAT:
        low, high = (float(node.single(i, name)) if node.given(i) else default
                     for i, name, default in ((1, "min", -INF), (2, "max", INF)))
        return x if (low, high) == (-INF, INF) else unary(ctx, "clip", x, low, high)
    for index, kind in ((1, "max"), (2, "min")):
        if node.given(index):
            x = binary(ctx, kind, x, ctx.tensor(index))
    return x


def _gelu(ctx: Context, node: Node) -> Tensor:
    approximate = node.attr("approximate", "none")
    return unary(ctx, "gelu_tanh" if approximate == "tanh" else "gelu", ctx.tensor(0))


def _swish(ctx: Context, node: Node) -> Tensor:
    x, alpha = ctx.tensor(0), node.attr("alpha", 1.0)
    if alpha == 1.0:
        return unary(ctx, "silu", x)
    gate = unary(ctx, "sigmoid", unary(ctx, "affine", x, alpha))
    return binary(ctx, "mul", x, gate)


def _is_inf(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    positive, negative = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    if positive and negative:
        return unary(ctx, "is_inf", x)
    need(bool(positive or negative), "it detects neither infinity")
    return binary(ctx, "equal", x, ctx.constant(np.array(INF if positive else -INF), like=x))


def _where(ctx: Context, node: Node) -> Tensor:
    return ctx.add("where", [ctx.tensor(0), ctx.tensor(1), ctx.tensor(2)])


def _cast(ctx: Context, node: Node) -> Tensor:
    dtype = device_dtype(node.attr("to"))
    need(dtype is not None, f"it casts to ONNX element type {node.attr('to')}, needed a float, "
         "double, float16, int64, int32, int16, int8, uint8 or bool")
    return cast(ctx, ctx.tensor(0), dtype)


def _cast_like(ctx: Context, node: Node):
    like = node.value(1).dtype
    name = dtypes_name(like)
    need(name is not None, f"it casts to {like}")
    if node.value(0).known:
        return node.value(0).array.astype(like)
    return cast(ctx, ctx.tensor(0), dtypes.device_dtype(name))


def _bit_shift(ctx: Context, node: Node) -> Tensor:
    direction = node.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ModelError(f"the direction {direction!r} is not LEFT or RIGHT")
    return binary(ctx, f"shift_{direction.lower()}", ctx.tensor(0), ctx.tensor(1))


def _bit_cast(ctx: Context, node: Node) -> Tensor:
    """Integers of the same size, whose cast keeps the bits."""
    x, dtype = ctx.tensor(0), device_dtype(node.attr("to"))
    kinds = [dtypes.numpy_dtype(x.dtype), dtypes.numpy_dtype(dtype) if dtype else None]
    need(dtype is not None and all(kind.kind in "iub" for kind in kinds)
         and kinds[0].itemsize == kinds[1].itemsize, "it casts between integers and real numbers")
    return cast(ctx, x, dtype)


def _shrink(ctx: Context, node: Node) -> Tensor:
    """y = x + bias below -lambd, x - bias above lambd, 0 between."""
    x, edge, bias = ctx.tensor(0), node.attr("lambd", 0.5), node.attr("bias", 0.0)
    need(x.dtype in dtypes.FLOAT, f"it computes with {x.dtype}, needed float")
    low = binary(ctx, "less", x, ctx.constant(np.array(-edge), like=x))
    high = binary(ctx, "greater", x, ctx.constant(np.array(edge), like=x))
    zero = ctx.constant(np.array(0.0), like=x)
    inner = ctx.add("where", [high, unary(ctx, "affine", x, 1.0, -bias), zero])
    return ctx.add("where", [low, unary(ctx, "affine", x, 1.0, bias), inner])


TABLE = {
    "Abs": _unary("abs"), "Acos": _unary("acos"), "Acosh": _unary("acosh"), "Asin": _unary("asin"),
    "Asinh": _unary("asinh"), "Atan": _unary("atan"), "Atanh": _unary("atanh"),
    "Ceil": _unary("ceil"), "Cos": _unary("cos"), "Cosh": _unary("cosh"), "Erf": _unary("erf"),
    "Exp": _unary("exp"), "Floor": _unary("floor"), "IsNaN": _unary("is_nan"), "Log": _unary("log"),
    "Neg": _unary("neg"), "Not": _unary("not"), "Reciprocal": _unary("reciprocal"),
    "Round": _unary("round"), "Sign": _unary("sign"), "Sin": _unary("sin"), "Sinh": _unary("sinh"),
    "Sqrt": _unary("sqrt"), "Tan": _unary("tan"),
    "Celu": _unary("celu", ("alpha", 1.0)), "Elu": _unary("elu", ("alpha", 1.0)),
    "HardSigmoid": _unary("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _unary("hard_swish"), "LeakyRelu": _unary("leaky_relu", ("alpha", 0.01)),
    "Mish": _unary("mish"), "Relu": _unary("relu"),
    "Selu": _unary("selu", ("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805)),
    "Sigmoid": _unary("sigmoid"), "Softplus": _unary("softplus"), "Softsign": _unary("softsign"),
    "Tanh": _unary("tanh"), "ThresholdedRelu": _unary("threshold", ("alpha", 1.0)),
    "Gelu": _gelu, "Swish": _swish, "Shrink": _shrink, "Clip": _clip, "IsInf": _is_inf,
    "Add": _binary("add"), "Sub": _binary("sub"), "Mul": _binary("mul"), "Div": _binary("div"),
    "PRelu": _binary("prelu"), "Pow": _pow, "Mod": _mod,
    "And": _binary("and"), "Or": _binary("or"), "Xor": _binary("xor"),
    "Equal": _binary("equal"), "Less": _binary("less"), "LessOrEqual": _binary("less_equal"),
    "Greater": _binary("greater"), "GreaterOrEqual": _binary("greater_equal"),
    "Max": _chain("max"), "Min": _chain("min"), "Sum": _chain("add"), "Mean": _mean,
    "BitCast": _bit_cast, "BitShift": _bit_shift, "BitwiseAnd": _binary("bit_and"),
    "BitwiseOr": _binary("bit_or"), "BitwiseXor": _binary("bit_xor"),
    "BitwiseNot": _unary("bit_not"),
    "Where": _where, "Cast": _cast, "CastLike": _cast_like,
}
