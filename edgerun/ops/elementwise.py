"""Elementwise ops: one table of unary and one of binary expressions, two kernels."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.dtypes import FLOAT
from edgerun.ops import binary_integer, quantize
from edgerun.ops._base import (
    OUTPUT, Facts, Launch, OpLike, Outputs, broadcast, broadcast_strides, collapse, count, f32,
    float_types, i32, int4_arg, int8_arg, pitch_of, require, require_dtype, require_same_dtype)

# kind -> OpenCL expression of x, alpha, beta; valid for float and for float vectors.
UNARY = {
    "relu": "fmax(x, 0.0f)",
    "clip": "fmin(fmax(x, alpha), beta)",
    "leaky_relu": "(x < 0.0f ? x * alpha : x)",
    "elu": "(x < 0.0f ? alpha * expm1(x) : x)",
    "selu": "(x < 0.0f ? beta * alpha * expm1(x) : beta * x)",
    "celu": "(fmax(x, 0.0f) + fmin(alpha * expm1(x / alpha), 0.0f))",
    "sigmoid": "(1.0f / (1.0f + exp(-x)))",
    "tanh": "tanh(x)",
    "hard_sigmoid": "fmin(fmax(x * alpha + beta, 0.0f), 1.0f)",
    "hard_swish": "(x * fmin(fmax(x * (1.0f / 6.0f) + 0.5f, 0.0f), 1.0f))",
    "silu": "(x / (1.0f + exp(-x)))",
    "gelu": "(0.5f * x * (1.0f + erf(x * 0.70710678f)))",
    "gelu_tanh": "(0.5f * x * (1.0f + tanh(0.79788456f * (x + 0.044715f * x * x * x))))",
    "softplus": "(fmax(x, 0.0f) + log1p(exp(-fabs(x))))",
    "softsign": "(x / (1.0f + fabs(x)))",
    "mish": "(x * tanh(fmax(x, 0.0f) + log1p(exp(-fabs(x)))))",
    "threshold": "(x > alpha ? x : x * 0.0f)",
    "affine": "(x * alpha + beta)",
    "erf": "erf(x)",
    "exp": "exp(x)",
    "log": "log(x)",
    "sqrt": "sqrt(x)",
    "rsqrt": "(1.0f / sqrt(x))",
    "reciprocal": "(1.0f / x)",
    "abs": "fabs(x)",
    "neg": "(-x)",
    "square": "(x * x)",
    "floor": "floor(x)",
    "ceil": "ceil(x)",
    "round": "rint(x)",
    "sign": "sign(x)",
    "sin": "sin(x)",
    "cos": "cos(x)",
    "tan": "tan(x)",
    "asin": "asin(x)",
    "acos": "acos(x)",
    "atan": "atan(x)",
    "sinh": "sinh(x)",
    "cosh": "cosh(x)",
    "asinh": "asinh(x)",
    "acosh": "acosh(x)",
    "atanh": "atanh(x)",
    "is_nan": "isnan(x)",
    "is_inf": "isinf(x)",
    "ktanh": "ktanh(x)",
    "ksigmoid": "ksigmoid(x)",
    "kswish": "kswish(x)",
    "kgelu": "kgelu(x)",
}
# Those of kernels/ktanh.cl, and the exact ones that they approximate.
KTANH = {"tanh": "ktanh", "sigmoid": "ksigmoid", "silu": "kswish", "gelu_tanh": "kgelu",
         "gelu": "kgelu"}
# Those that also have an int32 form; and those whose result, or input too, is bool.
UNARY_INT = {"abs": "(x < 0 ? -x : x)", "neg": "(-x)", "square": "(x * x)",
             "sign": "(x > 0 ? (x * 0 + 1) : (x < 0 ? (x * 0 - 1) : x * 0))",
             "relu": "(x < 0 ? x * 0 : x)", "bit_not": "(~x)"}
UNARY_BOOL = {"not": "(x == 0)"}
UNARY_TO_BOOL = ("is_nan", "is_inf", "not")

# Integer division by zero is undefined in OpenCL C; here it gives 0, as in NumPy.
_DIVISOR, _DEFINED = "(b + ((b == 0) & 1))", "((b != 0) & 1)"
# kind -> (float expression, int expression or None) of a and b.
BINARY = {
    "add": ("(a + b)", "(a + b)"),
    "sub": ("(a - b)", "(a - b)"),
    "mul": ("(a * b)", "(a * b)"),
    "div": ("(a / b)", f"(a / {_DIVISOR} * {_DEFINED})"),
    "min": ("fmin(a, b)", "min(a, b)"),
    "max": ("fmax(a, b)", "max(a, b)"),
    "pow": ("pow(a, b)", None),
    "squared_difference": ("((a - b) * (a - b))", "((a - b) * (a - b))"),
    "floor_div": ("floor(a / b)",
                  f"((a / {_DIVISOR} - (((a % {_DIVISOR}) != 0) & ((a ^ b) < 0) & 1))"
                  f" * {_DEFINED})"),
    "floor_mod": ("(fmod(a, b) * sign(b) < 0.0f ? fmod(a, b) + b : fmod(a, b))",
                  f"((a % {_DIVISOR}) + (((a % {_DIVISOR}) != 0) & ((a ^ b) < 0) & 1) * b)"),
    "fmod": ("fmod(a, b)", f"(a % {_DIVISOR})"),
    "prelu": ("(a < 0.0f ? a * b : a)", None),
    "equal": ("(a == b)", "(a == b)"),
    "not_equal": ("(a != b)", "(a != b)"),
    "less": ("(a < b)", "(a < b)"),
    "less_equal": ("(a <= b)", "(a <= b)"),
    "greater": ("(a > b)", "(a > b)"),
    "greater_equal": ("(a >= b)", "(a >= b)"),
    "and": (None, "((a & b) != 0)"),
    "or": (None, "((a | b) != 0)"),
    "xor": (None, "((a ^ b) != 0)"),
    "bit_and": (None, "(a & b)"),
    "bit_or": (None, "(a | b)"),
    "bit_xor": (None, "(a ^ b)"),
    "shift_left": (None, "((b & ~31) == 0 ? a << b : (a & 0))"),
    "shift_right": (None, "(a >> ((b & ~31) == 0 ? b : (b & 0) + 31))"),
}
BINARY_TO_BOOL = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "and",
                  "or", "xor")
BINARY_OF_BOOL = (*BINARY_TO_BOOL, "min", "max", "mul")  # kinds whose result is 0 or 1
RUN = 4096  # elements a work-item of a CPU computes, if there are that many
LONG = 256  # elements; a work-item with fewer shares a work-group
PERIOD = 48  # longest row that kernel binary repeats from private memory
CACHES = 32 << 20  # bytes; a larger result is not in a cache when the next op reads it
LONG_RUN = 1 << 16  # RUN for such a result: long streams of addresses are fetched ahead
INTEGER = ("int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Activation:
    """A fused activation as the kernels want it."""
    defines: dict[str, str]
    alpha: float
    beta: float


def activation(op: OpLike) -> Activation:
    """Return the defines and arguments of the op's fused activation.

    Clamps (none, relu, clip) all become one expression with bounds as arguments, so that they share
    a program.

    Raises:
        ModelError: there is no such activation.
    """
    kind, alpha, beta = op.options["activation"], op.options["alpha"], op.options["beta"]
    if kind == "":
        return Activation({}, 0.0, 0.0)
    require(kind in UNARY and kind not in UNARY_TO_BOOL, op, f"has the unknown activation {kind!r}")
    if kind == "relu":
        kind, alpha, beta = "clip", 0.0, float("inf")
    return Activation({"ACTIVATE(x)": UNARY[kind], **ktanh(kind in KTANH.values())}, alpha, beta)


def ktanh(used: bool) -> dict[str, int]:
    """Return the define of programs that use kernels/ktanh.cl."""
    return {"KTANH": 1} if used else {}


def _past_caches(op: OpLike, facts: Facts) -> dict[str, int]:
    """Return the define of a kernel that stores past the caches of a CPU, if y is that large."""
    y = op.outputs[0]
    large = facts.kind == "cpu" and y.dtype == "fp32" and 4 * count(y.shape) > CACHES
    return {"PAST_CACHES": 1} if large else {}


def _unary_expression(op: OpLike) -> str:
    kind, dtype = op.options["kind"], op.inputs[0].dtype
    if dtype in FLOAT:
        table = UNARY
    else:
        table = UNARY_BOOL if dtype == "bool" else UNARY_INT
    require(kind in table, op, f"has no kind {kind!r} for {dtype}, known are {', '.join(table)}")
    return table[kind]


def infer_unary(op: OpLike) -> Outputs:
    """y has the shape of x; its dtype too, unless the kind is a question."""
    x = op.inputs[0]
    if quantize.is_quantized(x):
        return quantize.infer_unary(op)
    _unary_expression(op)
    return [(x.shape, "bool" if op.options["kind"] in UNARY_TO_BOOL else x.dtype)]


def unary(op: OpLike, facts: Facts) -> list[Launch]:
    """y = f(x), f given by `kind` with `alpha` and `beta`.

    x [...] fp32, fp16, for a few kinds int32 or bool -> y [...] of the same dtype (is_nan, is_inf,
    not: bool). Quantized uint8 or int16 x has relu, clip and leaky_relu -> y quantized uint8 or
    int16, as requantize; leaky_relu has a second multiplier for negative x. Other kinds are tables.

    ktanh, and ksigmoid, kswish and kgelu made of it, approximate tanh by a table of 32 entries over
    the bits of x (Kundu et al. 2019, arXiv 1909.07729): see kernels/ktanh.cl. Exact in bits for
    every bf16 and fp16 x; NaN stays NaN.
    """
    x, y = op.inputs[0], op.outputs[0]
    if quantize.is_quantized(x):
        return quantize.unary(op, facts)
    n, rows = count(x.shape), 1
    if x.pitch or y.pitch:
        n, rows = x.shape[-1], n // x.shape[-1]
    past = _past_caches(op, facts)
    defines = {"VEC": facts.lanes, "EXPRESSION": _unary_expression(op), **past,
               **ktanh(op.options["kind"] in KTANH.values()),
               **({f"T_{x.dtype}": 1} if y.dtype == "bool" else float_types(x, y))}
    if y.dtype == "bool":
        defines["OUT_bool"] = 1
    run = (LONG_RUN if past else RUN) if facts.kind == "cpu" else facts.lanes
    each = min(rows, max(1, run // n))
    return [Launch("elementwise", "unary", defines, (-(-n // run), -(-rows // each), 1),
                   (x, y, i32(n), i32(run),
                    int4_arg([rows, each, *(pitch_of(t) if rows > 1 else 0 for t in (x, y))]),
                    f32(op.options["alpha"]), f32(op.options["beta"])),
                   facts.one if n * each >= LONG else None)]


def rows_apart(op: OpLike) -> tuple[int, ...]:
    """Return the operands whose rows may lie apart: those of rows of several elements."""
    y = op.outputs[0]
    if y.shape[-1:] in ((), (1,)):
        return ()
    if quantize.is_quantized(op.inputs[0]):
        return quantize.rows_apart(op) if op.code == "unary" else binary_integer.rows_apart(op)
    return tuple(range(len(op.inputs))) + (OUTPUT,)


def _binary_expression(op: OpLike) -> str:
    kind, dtype = op.options["kind"], op.inputs[0].dtype
    require(kind in BINARY, op, f"has the unknown kind {kind!r}, known are {', '.join(BINARY)}")
    expression = BINARY[kind][dtype not in FLOAT]
    require(expression is not None and (dtype != "bool" or kind in BINARY_OF_BOOL), op,
            f"has no kind {kind!r} for {dtype}")
    return expression


def infer_binary(op: OpLike) -> Outputs:
    """y has the broadcast shape of a and b; it is bool if the kind is a comparison."""
    a, b = op.inputs
    require_same_dtype(op, a, b)
    if binary_integer.applies(op):
        binary_integer.check(op)
        return [(broadcast(op, a.shape, b.shape), a.dtype)]
    _binary_expression(op)
    if op.options["activation"]:
        activation(op)
        require_dtype(a, FLOAT, op)
    return [(broadcast(op, a.shape, b.shape),
             "bool" if op.options["kind"] in BINARY_TO_BOOL else a.dtype)]


def as_large(op: OpLike) -> tuple[int, ...]:
    """Return the indices of the inputs that are not repeated: y may lie in their place."""
    return tuple(k for k, x in enumerate(op.inputs) if x.shape == op.outputs[0].shape)


def binary(op: OpLike, facts: Facts) -> list[Launch]:
    """y = activation(f(a, b)), f given by `kind`, with NumPy broadcasting.

    a [...], b [...] fp32, fp16 or an integer dtype, equal -> y [broadcast shape]. `prelu` is
    a < 0 ? a * b : a. Integer `div` truncates, `floor_div` and `floor_mod` follow the divisor; by
    zero they give 0. bool has the comparisons, and, or, xor, min, max and mul.

    Quantized uint8 or int16 (zero point 0) a and b have add, sub, mul, min, max, prelu, and uint8
    squared_difference -> y quantized uint8 or int16; their activation is none, relu or clip. With
    rounding `twice` the arithmetic is TFLite's: operands of a sum are shifted up, scaled to twice
    the larger scale, added, scaled to y. So it is for int16 whatever the rounding; a sum of uint8
    is otherwise one of 32 bits that is rounded once: y = ((a - za) ma + (b - zb) mb + 2^(k-1)) >> k
    with ma = round(sa / sy 2^k), k as large as no overflow allows.
    """
    if binary_integer.applies(op):
        return binary_integer.binary(op, facts)
    (a, b), y = op.inputs, op.outputs[0]
    act = activation(op)
    dims, (sa, sb, sy) = collapse(
        y.shape, *(broadcast_strides(t.shape, y.shape, t.pitch) for t in (a, b, y)))
    defines = {"VEC": facts.lanes, "BINARY": _binary_expression(op), **act.defines,
               **({f"T_{a.dtype}": 1} if y.dtype == "bool" else float_types(a, y))}
    if y.dtype == "bool":
        defines["OUT_bool"] = 1
    inner, above = dims[-1], dims[-2] if len(dims) > 1 else 1
    # if rows are not whole vectors, those at their ends overlap, unaligned
    past = _past_caches(op, facts) if inner % facts.lanes == 0 else {}
    defines |= past
    run, rows, periodic = facts.lanes, 1, False
    if facts.kind == "cpu":
        most = LONG_RUN if past else RUN
        run, rows = min(inner, most), min(above, max(1, most // inner))
        periodic = (1 < inner <= PERIOD and inner % facts.lanes != 0
                    and sa[-2:] == sy[-2:] == [inner, 1] and sb[-2:] == [0, 1])
    return [Launch("elementwise", "binary", defines,
                   (-(-inner // run), -(-above // rows), count(dims[:-2])),
                   (a, b, y, int8_arg(dims, 1), int8_arg(sa), int8_arg(sb),
                    int4_arg([run, rows, periodic, sy[-2] if len(dims) > 1 else 0]),
                    f32(act.alpha), f32(act.beta)),
                   facts.one if run * rows >= LONG else None)]
