"""Repetition of a tensor of any dtype."""
from __future__ import annotations

from collections.abc import Sequence

from edgerun.ops import copy, pad
from edgerun.ops._base import Facts, Launch, OpLike, Outputs, Shape, collapse, require, strides


def infer_tile(op: OpLike) -> Outputs:
    """y is `repeats` times as long as x along every axis."""
    x, repeats = op.inputs[0], tuple(op.options["repeats"])
    require(len(repeats) == len(x.shape) and all(r >= 1 for r in repeats), op,
            f"repeats are {repeats}, needed {len(x.shape)} numbers of at least 1")
    return [(tuple(n * r for n, r in zip(x.shape, repeats)), x.dtype)]


def _tiled(x_shape: Shape, repeats: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return shape, strides of x and of y, every repeated axis as two: repeat and index."""
    shape, sx, sy = [], [], []
    y_shape = [n * r for n, r in zip(x_shape, repeats)]
    for n, r, step_x, step_y in zip(x_shape, repeats, strides(x_shape), strides(y_shape)):
        shape += [r, n]
        sx += [0, step_x]
        sy += [n * step_y, step_y]
    return shape, sx, sy


def tile(op: OpLike, facts: Facts) -> list[Launch]:
    """y[i_0, i_1, ...] = x[i_0 mod n_0, i_1 mod n_1, ...].

    x [n_0, n_1, ...] any dtype -> y [n_0 repeats_0, n_1 repeats_1, ...].
    """
    x, y = op.inputs[0], op.outputs[0]
    shape, sx, sy = _tiled(x.shape, op.options["repeats"])
    if len(collapse(shape, sx, sy)[0]) > copy.MAX_AXES:
        return pad.wrapped(x, y, facts)
    return copy.copy(x, y, shape, sx, sy, facts)
