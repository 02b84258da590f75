"""Elementwise ops: one table of unary and one of binary kinds, and the few with their own rules."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.tflite.context import Context, Rule
from edgerun.tools.importers.tflite.source import SourceOp

# TFLite op -> kind, alpha, beta
UNARY = {
    "ABS": ("abs", 0, 0), "NEG": ("neg", 0, 0), "EXP": ("exp", 0, 0), "LOG": ("log", 0, 0),
    "SQRT": ("sqrt", 0, 0), "RSQRT": ("rsqrt", 0, 0), "SQUARE": ("square", 0, 0),
    "SIN": ("sin", 0, 0), "COS": ("cos", 0, 0), "FLOOR": ("floor", 0, 0), "CEIL": ("ceil", 0, 0),
    "ROUND": ("round", 0, 0), "SIGN": ("sign", 0, 0), "LOGICAL_NOT": ("not", 0, 0),
    "RELU": ("relu", 0, 0), "RELU6": ("clip", 0, 6), "RELU_N1_TO_1": ("clip", -1, 1),
    "RELU_0_TO_1": ("clip", 0, 1), "ELU": ("elu", 1, 0), "LOGISTIC": ("sigmoid", 0, 0),
    "TANH": ("tanh", 0, 0), "HARD_SWISH": ("hard_swish", 0, 0),
}
BINARY = {
    "ADD": "add", "SUB": "sub", "MUL": "mul", "DIV": "div", "MAXIMUM": "max", "MINIMUM": "min",
    "POW": "pow", "SQUARED_DIFFERENCE": "squared_difference", "FLOOR_DIV": "floor_div",
    "FLOOR_MOD": "floor_mod", "PRELU": "prelu", "EQUAL": "equal", "NOT_EQUAL": "not_equal",
    "LESS": "less", "LESS_EQUAL": "less_equal", "GREATER": "greater",
    "GREATER_EQUAL": "greater_equal", "LOGICAL_AND": "and", "LOGICAL_OR": "or",
}


def _unary(kind: str, alpha: float, beta: float) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        return ctx.add("unary", [ctx.input(op, 0)], op, kind=kind, alpha=float(alpha),
                       beta=float(beta))
    return Rule(convert, (1, 1))


def _binary(kind: str) -> Rule:
    def convert(ctx: Context, op: SourceOp) -> Tensor:
        return ctx.add("binary", [ctx.input(op, 0), ctx.input(op, 1)], op, kind=kind,
                       **ctx.activation(op))
    return Rule(convert, (2, 2))


def add_n(ctx: Context, op: SourceOp) -> Tensor:
    """The sum of all inputs, which have one shape."""
    y = ctx.input(op, 0)
    for number in range(1, len(op.inputs)):
        y = ctx.add("binary", [y, ctx.input(op, number)], op, kind="add")
    return y


def leaky_relu(ctx: Context, op: SourceOp) -> Tensor:
    """x below 0 times alpha."""
    return ctx.add("unary", [ctx.input(op, 0)], op, kind="leaky_relu", alpha=op.option("Alpha"))


def gelu(ctx: Context, op: SourceOp) -> Tensor:
    """With the error function, or its approximation by tanh."""
    kind = "gelu_tanh" if op.option("Approximate") else "gelu"
    return ctx.add("unary", [ctx.input(op, 0)], op, kind=kind)


def select(ctx: Context, op: SourceOp) -> Tensor:
    """Condition of the shape of a and b, or one per entry of their first axis."""
    condition, a, b = (ctx.input(op, number) for number in range(3))
    if len(condition.shape) == 1 and len(a.shape) > 1 and condition.shape != (1,):
        condition = ctx.reshape(condition, condition.shape + (1,) * (len(a.shape) - 1), op)
    return ctx.add("where", [condition, a, b], op)


def select_v2(ctx: Context, op: SourceOp) -> Tensor:
    """Condition, a and b broadcast."""
    return ctx.add("where", [ctx.input(op, number) for number in range(3)], op)


def cast(ctx: Context, op: SourceOp) -> Tensor:
    """To the type of the output tensor; nothing if the device keeps both types alike.

    The numbers are those that are stored, not what quantized ones mean.
    """
    x, dtype = ctx.stored(op, 0), dtypes.device_dtype(dtypes.name_of(ctx.output_type(op)))
    dtype = "fp32" if dtype == "fp16" else dtype
    if x.quantization is not None:
        x = _steps(ctx, op, x)
    return x if x.dtype == dtype else ctx.add("cast", [x], op, dtype=dtype)


def _steps(ctx: Context, op: SourceOp, x: Tensor) -> Tensor:
    """Return stored integers as fp32 numbers."""
    if x.quantization.axis >= 0:
        raise ctx.unsupported(op, f"{x.name!r} has a scale per channel, needed one")
    y = ctx.real(x)
    for kind, value in (("div", x.quantization.scale[0]), ("add", x.quantization.zero)):
        y = ctx.add("binary", [y, ctx.graph.constant(np.float32(value), kind)], op, kind=kind)
    return ctx.add("unary", [y], op, kind="round")


def dequantize(ctx: Context, op: SourceOp) -> Tensor:
    """Real numbers in fp32."""
    x = ctx.stored(op, 0)
    ctx.require_scale(op, x)
    return ctx.real(x)


def quantize(ctx: Context, op: SourceOp) -> Tensor:
    """Real numbers, which the output stores as integers; integers of another scale pass as well."""
    x, given = ctx.stored(op, 0), ctx.source.tensors[op.inputs[0]]
    output = ctx.source.tensors[op.outputs[0]]
    if output.quantization is None:
        raise ctx.damaged(op, f"its output {output.name!r} is {output.type} without a scale")
    if x.dtype == "int32" and x.quantization is None:  # quantized only where this op says so
        x.quantization = given.quantization
    if x.dtype not in dtypes.FLOAT and x.quantization is None:
        raise ctx.damaged(op, f"{given.name!r} is {given.type} without a scale")
    return ctx.real(x)


RULES: dict[str, Rule] = {
    **{name: _unary(*kind) for name, kind in UNARY.items()},
    **{name: _binary(kind) for name, kind in BINARY.items()},
    "ADD_N": Rule(add_n, (1, 65_536)),
    "LEAKY_RELU": Rule(leaky_relu, (1, 1)),
    "GELU": Rule(gelu, (1, 1)),
    "SELECT": Rule(select, (3, 3)),
    "SELECT_V2": Rule(select_v2, (3, 3)),
    "CAST": Rule(cast, (1, 1)),
    "DEQUANTIZE": Rule(dequantize, (1, 1)),
    "QUANTIZE": Rule(quantize, (1, 1)),
}
