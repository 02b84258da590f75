"""NumPy references of the elementwise ops."""
from __future__ import annotations

import numpy as np
from scipy import special

from edgerun.tools.graph import Op


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return special.expit(x)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


# K-TanH: exponent, shift and addend of each t (Kundu et al., arXiv 1909.07729)
KTANH = np.array([
    (126, 2, 119), (126, 4, 122), (126, 4, 123), (126, 4, 123), (126, 6, 126), (126, 6, 126),
    (126, 6, 126), (126, 6, 126), (125, 1, 1), (125, 0, -4), (125, 0, -6), (125, 0, -7),
    (125, 0, -10), (125, 0, -12), (125, 0, -15), (125, 0, -18), (125, 0, 112), (126, 1, -4),
    (126, 1, -1), (126, 1, 2), (126, 1, 3), (126, 1, 4), (126, 1, 4), (126, 1, 4), (126, 0, 65),
    (126, 1, 72), (126, 1, 73), (126, 1, 73), (126, 2, 88), (126, 2, 89), (126, 2, 89),
    (126, 4, 110)])


def ktanh(x: np.ndarray) -> np.ndarray:
    """K-TanH: tanh from the bits of x, rounded to fp32 first; returns fp32."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32).astype(np.int64)
    mantissa = bits >> 16 & 127
    exponent, shift, addend = np.moveaxis(KTANH[(bits >> 23 & 3) << 3 | mantissa >> 4], -1, 0)
    found = bits & 0x80000000 | exponent << 23 | (mantissa >> shift) + addend << 16
    y = np.where(np.abs(x) > 3.75, np.copysign(np.float32(1), x),
                 found.astype(np.uint32).view(np.float32))
    return np.where(np.isnan(x) | (np.abs(x) < 0.25), x, y)


def ksigmoid(x: np.ndarray) -> np.ndarray:
    """0.5 + 0.5 ktanh(x / 2), in fp32."""
    return np.float32(0.5) + np.float32(0.5) * ktanh(np.float32(0.5) * np.asarray(x, np.float32))


def _kgelu(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    product = (np.float32(0.044715) * x * x).astype(np.float64)
    inner = np.float32(0.79788456) * (product * x + x).astype(np.float32)
    return np.float32(0.5) * x * (np.float32(1) + ktanh(inner))


# kind -> function of x, alpha, beta
UNARY = {
    "relu": lambda x, a, b: np.maximum(x, 0),
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "leaky_relu": lambda x, a, b: np.where(x < 0, x * a, x),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "selu": lambda x, a, b: np.where(x < 0, b * a * np.expm1(x), b * x),
    "celu": lambda x, a, b: np.maximum(x, 0) + np.minimum(a * np.expm1(x / a), 0),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "hard_sigmoid": lambda x, a, b: np.clip(x * a + b, 0, 1),
    "hard_swish": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x, a, b: x * _sigmoid(x),
    "gelu": lambda x, a, b: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x, a, b: 0.5 * x * (
        1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3))),
    "softplus": lambda x, a, b: _softplus(x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "mish": lambda x, a, b: x * np.tanh(_softplus(x)),
    "threshold": lambda x, a, b: np.where(x > a, x, 0),
    "affine": lambda x, a, b: x * a + b,
    "erf": lambda x, a, b: special.erf(x),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: np.log(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "rsqrt": lambda x, a, b: 1 / np.sqrt(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "abs": lambda x, a, b: np.abs(x),
    "neg": lambda x, a, b: -x,
    "square": lambda x, a, b: x * x,
    "floor": lambda x, a, b: np.floor(x),
    "ceil": lambda x, a, b: np.ceil(x),
    "round": lambda x, a, b: np.rint(x),
    "sign": lambda x, a, b: np.sign(x),
    "sin": lambda x, a, b: np.sin(x),
    "cos": lambda x, a, b: np.cos(x),
    "tan": lambda x, a, b: np.tan(x),
    "asin": lambda x, a, b: np.arcsin(x),
    "acos": lambda x, a, b: np.arccos(x),
    "atan": lambda x, a, b: np.arctan(x),
    "sinh": lambda x, a, b: np.sinh(x),
    "cosh": lambda x, a, b: np.cosh(x),
    "asinh": lambda x, a, b: np.arcsinh(x),
    "acosh": lambda x, a, b: np.arccosh(x),
    "atanh": lambda x, a, b: np.arctanh(x),
    "is_nan": lambda x, a, b: np.isnan(x),
    "is_inf": lambda x, a, b: np.isinf(x),
    "ktanh": lambda x, a, b: ktanh(x),
    "ksigmoid": lambda x, a, b: ksigmoid(x),
    "kswish": lambda x, a, b: x * ksigmoid(x),
    "kgelu": lambda x, a, b: _kgelu(x),
    "not": lambda x, a, b: x == 0,
    "bit_not": lambda x, a, b: ~x,
}


def _trunc_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    quotient = np.trunc(a.astype(np.float64) / np.where(b == 0, 1, b).astype(np.float64))
    return np.where(b == 0, 0, quotient).astype(a.dtype)


# kind -> function of a, b
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _trunc_div,
    "min": np.minimum,
    "max": np.maximum,
    "pow": np.power,
    "squared_difference": lambda a, b: (a - b) * (a - b),
    "floor_div": np.floor_divide,
    "floor_mod": np.mod,
    "fmod": np.fmod,
    "prelu": lambda a, b: np.where(a < 0, a * b, a),
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "bit_and": np.bitwise_and,
    "bit_or": np.bitwise_or,
    "bit_xor": np.bitwise_xor,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
}


def activate(op: Op, y: np.ndarray) -> np.ndarray:
    """Apply the op's fused activation."""
    kind = op.options["activation"]
    if not kind:
        return y
    return UNARY[kind](y, np.float32(op.options["alpha"]), np.float32(op.options["beta"]))


def _unary(op: Op, x: np.ndarray) -> np.ndarray:
    return UNARY[op.options["kind"]](x, np.float32(op.options["alpha"]),
                                     np.float32(op.options["beta"]))


def _binary(op: Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return activate(op, BINARY[op.options["kind"]](a, b))


REFERENCE = {"unary": _unary, "binary": _binary}
