"""Padding of any dtype."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun import dtypes
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, TensorLike, count, i32, int8_arg, require, require_quantized,
    require_same_dtype)
from edgerun.ops.copy import GROUPED, TILE
from edgerun.quantization import quantize

MODES = ("constant", "reflect", "edge", "wrap", "symmetric")  # as numbered in kernels/pad.cl


def infer_pad(op: OpLike) -> Outputs:
    """y is longer than x by `before` and `after` along every axis."""
    x, mode = op.inputs[0], op.options["mode"]
    before, after = tuple(op.options["before"]), tuple(op.options["after"])
    require(mode in MODES, op, f"has no mode {mode!r}, known are {', '.join(MODES)}")
    require(len(before) == len(after) == len(x.shape), op,
            f"before {before}, after {after}: needed {len(x.shape)} of each")
    require(all(n >= 0 for n in before + after), op,
            f"before {before}, after {after}: needed numbers of at least 0")
    room = {"reflect": 1, "symmetric": 0}.get(mode)
    for axis, n in enumerate(x.shape if room is not None else ()):
        longest = max(before[axis], after[axis])
        require(longest <= n - room, op, f"{mode} by {longest} along axis {axis} of {x.name}, "
                f"which has {n}: at most {n - room} is possible")
    return [(tuple(n + b + a for n, b, a in zip(x.shape, before, after)), x.dtype)]


def _collapse(shape: Sequence[int], before: Sequence[int], after: Sequence[int],
              constant: bool) -> tuple[list[int], list[int], list[int]]:
    """Merge an axis without padding into the one in front of it.

    A row of constants is one run with whatever surrounds it; the other modes look at each axis
    alone, so there the axis in front must be without padding too.
    """
    sizes: list[int] = []
    low: list[int] = []
    high: list[int] = []
    for n, b, a in zip(shape, before, after):
        if sizes and not (b or a) and (constant or not (low[-1] or high[-1])):
            sizes[-1], low[-1], high[-1] = sizes[-1] * n, low[-1] * n, high[-1] * n
        else:
            sizes.append(n)
            low.append(b)
            high.append(a)
    return sizes or [1], low or [0], high or [0]


def _bits(value: float, dtype: str) -> np.uint32:
    """Return the bits of a value rounded (and clamped) to a dtype, in the low bytes."""
    kind = dtypes.numpy_dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            stored = np.float64(value).astype(kind)
    elif kind.kind == "b":
        stored = np.bool_(value != 0)
    else:
        limits = np.iinfo(kind)
        stored = kind.type(int(min(max(np.rint(value), limits.min), limits.max)))
    return np.uint32(int.from_bytes(stored.tobytes(), "little"))


def _launch(x: TensorLike, y: TensorLike, before: Sequence[int], after: Sequence[int], mode: str,
            value: float, facts: Facts) -> list[Launch]:
    sizes, low, high = _collapse(x.shape, before, after, mode == "constant")
    dims = [n + b + a for n, b, a in zip(sizes, low, high)]
    inner, rows = dims[-1], dims[-2] if len(dims) > 1 else 1
    run, lines = facts.lanes, 1
    if facts.kind == "cpu":
        run, lines = min(inner, TILE), max(1, TILE // inner)
    return [Launch("pad", "pad", {"SIZE": dtypes.size(x.dtype), "VEC": facts.lanes},
                   (-(-inner // run), -(-rows // lines), count(dims[:-2])),
                   (x, y, int8_arg(dims, 1), int8_arg(sizes, 1), int8_arg(low),
                    i32(MODES.index(mode)), _bits(value, x.dtype), i32(run), i32(lines)),
                   facts.one if min(run, inner) * min(lines, rows) >= GROUPED else None)]


def wrapped(x: TensorLike, y: TensorLike, facts: Facts) -> list[Launch]:
    """Return the launch that repeats x from its start until y is full."""
    after = [m - n for m, n in zip(y.shape, x.shape)]
    return _launch(x, y, [0] * len(after), after, "wrap", 0.0, facts)


def pad(op: OpLike, facts: Facts) -> list[Launch]:
    """y[i] = x[i - before] inside x; outside, per axis of n elements, by `mode`.

    x [...] any dtype -> y [before + n + after of each axis]. constant: `value`, rounded to the
    dtype and clamped to its range. reflect: mirrored about the border element (padding < n).
    symmetric: mirrored about the border itself (padding <= n). edge: the border element. wrap: from
    the other end, as often as needed. Of a quantized x, whose grid is that of y, the constant is
    the integer nearest to the real number `value`: the zero point for 0.
    """
    x, y = op.inputs[0], op.outputs[0]
    require_same_dtype(op, x, y)
    value = op.options["value"]
    if x.quantization is not None and op.options["mode"] == "constant":
        grid = require_quantized(y, op)
        require(require_quantized(x, op).grid == grid.grid, op,
                f"{x.name} and {y.name} differ in scale or zero point, needed the same")
        value = float(quantize(np.float32(value), grid, y.dtype))
    return _launch(x, y, op.options["before"], op.options["after"], op.options["mode"], value,
                   facts)
