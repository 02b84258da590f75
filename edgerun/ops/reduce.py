"""Reductions over any set of axes, and the index of the extreme along one axis."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, Shape, count, i32, int8_arg, lanes_within, normal_axis, require,
    require_dtype, require_quantized, require_same_dtype, strides)
from edgerun.ops._integer import ACTIVATIONS, rounding_defines
from edgerun.ops._quantized_io import grids, types
from edgerun.quantization import TWO_STEPS, clamp, fixed_point, limits

LONG = 256  # elements; a work-item that folds as many is worth a work-group


@dataclass(frozen=True)
class Kind:
    """A reduction as the kernel wants it: C expressions over E and its vectors, see reduce.cl."""
    initial: str
    join: str = "(a + b)"
    map: str = "(x)"
    finish: str = "(a)"


REDUCE = {
    "sum": Kind("0"),
    "mean": Kind("0", finish="(a / total)"),
    "max": Kind("-INFINITY", "fmax(a, b)"),
    "min": Kind("INFINITY", "fmin(a, b)"),
    "prod": Kind("1", "(a * b)"),
    "l1": Kind("0", map="fabs(x)"),
    "l2": Kind("0", map="(x * x)", finish="sqrt(a)"),
    "sum_square": Kind("0", map="(x * x)"),
    "log_sum": Kind("0", finish="log(a)"),
    "log_sum_exp": Kind("0", map="exp(x - shift)", finish="(log(a) + shift)"),
}
# Of int32, modulo 2^32, the mean truncated; and the two that every integer dtype has.
REDUCE_ORDER = {"max": Kind("(-2147483647 - 1)", "max(a, b)"),
                "min": Kind("2147483647", "min(a, b)")}
REDUCE_INT = {**{kind: REDUCE[kind] for kind in ("sum", "mean", "prod", "sum_square")},
              **REDUCE_ORDER, "l1": Kind("0", map="(x < 0 ? -x : x)")}


def _form(op: OpLike) -> str:
    """Return how quantized numbers are reduced: "order" and "sum" work on the integers, "real" on
    what they mean; "" for tensors that are not quantized."""
    x = op.inputs[0]
    if x.quantization is None or x.dtype not in ACTIVATIONS:
        return ""
    if op.options["kind"] in ("sum", "mean"):
        return "sum"
    y = op.outputs[0] if op.outputs else None  # not known yet while shapes are inferred
    same = y is not None and y.dtype == x.dtype and y.quantization is not None
    if op.options["kind"] in REDUCE_ORDER and same and x.quantization.grid == y.quantization.grid:
        return "order"
    return "real"


def _kind(op: OpLike) -> Kind:
    kind, dtype = op.options["kind"], op.inputs[0].dtype
    real = dtype in FLOAT or _form(op) == "real"
    if _form(op) == "sum":
        return REDUCE["sum"]
    table = REDUCE if real else REDUCE_INT if dtype == "int32" else REDUCE_ORDER
    require(kind in table, op, f"has no kind {kind!r} for {dtype}, known are {', '.join(table)}")
    return table[kind]


def _without(shape: Shape, axes: Sequence[int], keep_dims: bool) -> Shape:
    if keep_dims:
        return tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    return tuple(n for axis, n in enumerate(shape) if axis not in axes)


def infer_reduce(op: OpLike) -> Outputs:
    """y has one element along the reduced axes, or is without them."""
    x, axes = op.inputs[0], tuple(op.options["axes"])
    _kind(op)
    if _form(op):
        require_quantized(x, op)
    require(list(axes) == sorted({*axes}) and all(0 <= axis < len(x.shape) for axis in axes), op,
            f"axes are {axes}, needed ascending axes of the {len(x.shape)} of {x.name}")
    return [(_without(x.shape, axes, op.options["keep_dims"]), x.dtype)]


def _split(shape: Shape, axes: Sequence[int]) -> tuple[bool, list, list]:
    """Merge neighbouring axes of the same kind.

    Returns:
        Whether the last axis is reduced, then (elements, stride) of the kept and of the reduced
        axes; at most four each, since kinds alternate and there are at most eight axes.
    """
    groups: list[tuple[bool, int, int]] = []
    for axis, (n, step) in enumerate(zip(shape, strides(shape))):
        if n == 1:
            continue
        reduced = axis in axes
        if groups and groups[-1][0] == reduced:
            groups[-1] = (reduced, groups[-1][1] * n, step)
        else:
            groups.append((reduced, n, step))
    kept = [(n, step) for reduced, n, step in groups if not reduced]
    folded = [(n, step) for reduced, n, step in groups if reduced]
    return not groups or groups[-1][0], kept or [(1, 1)], folded or [(1, 1)]


def _int4(values: Sequence[int], fill: int) -> np.ndarray:
    return np.array([fill] * (4 - len(values)) + list(values), np.int32)


def sum_steps(op: OpLike) -> tuple[int, int, int, int]:
    """Return (zero, m0, t, base): y = requantize(sum - n * zero, m0, t) + base, n elements a sum.

    With the roundings "twice" and "upward" these are the numbers of TFLite, which has a way of its
    own for means of images.

    Raises:
        ModelError: a sum or its product exceeds 32 bits.
    """
    x, y = op.inputs[0], op.outputs[0]
    given, wanted = require_quantized(x, op), require_quantized(y, op)
    n = count([x.shape[axis] for axis in op.options["axes"]])
    origin, mean = op.options["origin"], op.options["kind"] == "mean"
    require(abs(origin) <= 2**8, op, f"has the origin {origin}, needed -256 to 256")
    ratio = given.step / wanted.step
    low, high = limits(x.dtype)
    farthest = n * (max(-low, high) + max(abs(given.zero), abs(origin)))
    require(farthest < 2**31 and farthest * ratio / (n if mean else 1) < 2**30, op,
            f"sums of {n} integers of {x.dtype} in steps of {given.step:.3g}, stored in steps of "
            f"{wanted.step:.3g}, may exceed 32 bits")
    rounding = wanted.rounding
    if not mean or rounding not in TWO_STEPS:
        m0, t = fixed_point(ratio / (n if mean else 1), rounding)
        return given.zero, int(m0), int(t), wanted.zero
    if (x.dtype == "uint8" and len(x.shape) == 4 and tuple(op.options["axes"]) == (1, 2)
            and op.options["keep_dims"]):
        f = np.float32
        with np.errstate(all="ignore"):
            scale = float(f(given.step) / (f(n) * f(wanted.step)))
            shift = f(given.zero - origin) * f(given.step) / f(wanted.step)
        require(0 < scale < np.inf and abs(shift) < 2**24, op,
                f"means of steps of {given.step:.3g} in steps of {wanted.step:.3g} exceed fp32")
        m0, t = fixed_point(scale)
        return (origin, int(m0), int(t),
                wanted.zero - int(shift + f(0.5 if shift > 0 else -0.5)))
    m0, t = fixed_point(ratio)
    bits = min(n.bit_length() - 1, 62 - int(t))
    return given.zero, (int(m0) << bits) // n, int(t) + bits, wanted.zero


def _integer_form(op: OpLike) -> tuple[dict[str, int], tuple]:
    """Return the defines of the types, and the arguments at the end."""
    x, y = op.inputs[0], op.outputs[0]
    form = _form(op)
    if form == "real" or x.dtype in FLOAT:
        return types(op), grids(op)
    if form != "sum":
        require_same_dtype(op, x, y)
        return {f"T_{x.dtype}": 1}, ()
    require_dtype(y, ACTIVATIONS, op)
    steps = int8_arg([*sum_steps(op), *clamp(y.quantization, y.dtype), 0, 0])
    return {f"T_{x.dtype}": 1, f"O_{y.dtype}": 1, "STEPS": 1, **rounding_defines(y)}, (steps,)


def reduce(op: OpLike, facts: Facts) -> list[Launch]:
    """y = fold of x over `axes`, by `kind`.

    x [...] fp32, fp16; int32 for sum, mean, max, min, prod, l1, sum_square; other integers and bool
    for max, min -> y [...] of the same dtype, with 1 in place of the reduced axes or without them
    (`keep_dims` false). l1: sum |x|; l2: sqrt(sum x^2); sum_square: sum x^2; log_sum: log(sum x);
    log_sum_exp: log(sum exp(x)), the maximum subtracted first. Sums are fp32; those of int32 are
    modulo 2^32, and their mean is truncated.

    x may be quantized uint8, int16, and y too. A sum or mean adds up integers, and rounds once (or
    as y.quantization.rounding says); max and min compare integers if x and y have one grid; the
    other kinds read numbers and write them rounded, within one step of the exact result. `origin`
    is for means of TFLite models, whose int8 is stored as uint8: 128.
    """
    x, y = op.inputs[0], op.outputs[0]
    kind = _kind(op)
    inside, kept, folded = _split(x.shape, op.options["axes"])
    vec = lanes_within((folded if inside else kept)[-1][0], facts)
    defines, rest = _integer_form(op)
    defines = {**defines, "VEC": vec, "INITIAL": kind.initial, "MAP": kind.map,
               "JOIN": kind.join, "FINISH": kind.finish}
    if "shift" in kind.map:
        defines["SHIFTED"] = 1
    total = count([n for n, _ in folded])
    args = (x, y, _int4([n for n, _ in kept], 1), _int4([s for _, s in kept], 0),
            _int4([n for n, _ in folded], 1), _int4([s for _, s in folded], 0), i32(total), *rest)
    if inside:
        return [Launch("reduce", "rows", defines, (count(y.shape), 1, 1), args,
                       facts.one if total >= LONG else None)]
    return [Launch("reduce", "columns", defines,
                   (-(-kept[-1][0] // vec), count([n for n, _ in kept[:-1]]), 1), args,
                   facts.one if total * vec >= LONG else None)]


def infer_arg(op: OpLike) -> Outputs:
    """y is int32 with one element along the axis, or without it."""
    x, kind = op.inputs[0], op.options["kind"]
    require(kind in ("max", "min"), op, f"has no kind {kind!r}, known are max, min")
    require_dtype(x, ("fp32", "fp16", "int32", "int16", "int8", "uint8"), op)
    axis = normal_axis(op.options["axis"], len(x.shape), op)
    return [(_without(x.shape, (axis,), op.options["keep_dims"]), "int32")]


def arg(op: OpLike, facts: Facts) -> list[Launch]:
    """y = index of the largest (`kind` max) or smallest (min) element of x along `axis`.

    x [...] fp32, fp16 or an integer dtype -> y [...] int32, with 1 in place of the axis or without
    it (`keep_dims` false). Of equal elements the first one counts, with `last` the last one.
    """
    x, y = op.inputs[0], op.outputs[0]
    shape = x.shape or (1,)
    axis = normal_axis(op.options["axis"], len(shape), op)
    outer, n, inner = count(shape[:axis]), shape[axis], count(shape[axis + 1:])
    vec = lanes_within(n if inner == 1 else inner, facts)
    defines = {f"T_{x.dtype}": 1, "VEC": vec}
    if op.options["kind"] == "min":
        defines["SMALLEST"] = 1
    if op.options["last"]:
        defines["LAST"] = 1
    if inner == 1:
        return [Launch("arg", "rows", defines, (outer, 1, 1), (x, y, i32(n)),
                       facts.one if n >= LONG else None)]
    return [Launch("arg", "columns", defines, (-(-inner // vec), outer, 1),
                   (x, y, i32(n), i32(inner)), facts.one if n * vec >= LONG else None)]
