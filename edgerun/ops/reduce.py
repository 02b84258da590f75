"""Reductions over any set of axes, and the index of the extreme along one axis."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, Shape, count, i32, lanes_within, normal_axis, require,
    require_dtype, strides)

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


def _kind(op: OpLike) -> Kind:
    kind, dtype = op.options["kind"], op.inputs[0].dtype
    table = REDUCE if dtype in FLOAT else REDUCE_INT if dtype == "int32" else REDUCE_ORDER
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


def reduce(op: OpLike, facts: Facts) -> list[Launch]:
    """y = fold of x over `axes`, by `kind`.

    x [...] fp32, fp16; int32 for sum, mean, max, min, prod, l1, sum_square; other integers and bool
    for max, min -> y [...] of the same dtype, with 1 in place of the reduced axes or without them
    (`keep_dims` false). l1: sum |x|; l2: sqrt(sum x^2); sum_square: sum x^2; log_sum: log(sum x);
    log_sum_exp: log(sum exp(x)), the maximum subtracted first. Sums are fp32; those of int32 are
    modulo 2^32, and their mean is truncated.
    """
    x, y = op.inputs[0], op.outputs[0]
    kind = _kind(op)
    inside, kept, folded = _split(x.shape, op.options["axes"])
    vec = lanes_within((folded if inside else kept)[-1][0], facts)
    defines = {f"T_{x.dtype}": 1, "VEC": vec, "INITIAL": kind.initial, "MAP": kind.map,
               "JOIN": kind.join, "FINISH": kind.finish}
    if "shift" in kind.map:
        defines["SHIFTED"] = 1
    total = count([n for n, _ in folded])
    args = (x, y, _int4([n for n, _ in kept], 1), _int4([s for _, s in kept], 0),
            _int4([n for n, _ in folded], 1), _int4([s for _, s in folded], 0), i32(total))
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
