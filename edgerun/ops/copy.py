"""Ops that move elements without changing them: strided copies of any dtype."""
from __future__ import annotations

from collections.abc import Sequence

from edgerun import dtypes
from edgerun.ops import quantize
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, TensorLike, broadcast, broadcast_strides, collapse,
    count, i32, int4_arg, int8_arg, normal_axis, require, require_same_dtype, strides)

MAX_AXES = 8  # of a strided copy, after collapsing
TILE = 4096  # elements a work-item of a CPU copies, if the axes are that long
BLOCK = 16  # elements along either side of a transposed block: a cache line of fp32
JOINED = 4  # tensors that one launch concatenates
GROUPED = 256  # elements; a work-item with fewer shares a work-group


def _up(n: int, step: int) -> int:
    return -(-n // step)


def copy(x: TensorLike, y: TensorLike, shape: Sequence[int], sx: Sequence[int], sy: Sequence[int],
         facts: Facts, x0: int = 0, y0: int = 0) -> list[Launch]:
    """Return the launch of y[y0 + sum i_k sy_k] = x[x0 + sum i_k sx_k], i over `shape`.

    Args:
        shape, sx, sy: elements per axis, and elements per step of each axis; at most MAX_AXES axes
            after collapsing.
        x0, y0: elements before the first one.
    """
    dims, (sx, sy) = collapse(shape, sx, sy)
    across = next((k for k, (n, s) in enumerate(zip(dims, sx)) if s == 1 and n > 1), None)
    transposed = across is not None and sx[-1] not in (0, 1) and sy[-1] == 1
    if transposed:  # the axis along which x is contiguous becomes the last but one
        for values in (dims, sx, sy):
            values.insert(len(values) - 2, values.pop(across))
    inner, rows = dims[-1], dims[-2] if len(dims) > 1 else 1
    if facts.kind != "cpu":
        block = (4, 4) if transposed else (facts.lanes, 1)
    elif transposed:
        block = (max(BLOCK, BLOCK * BLOCK // min(rows, BLOCK)),
                 max(BLOCK, BLOCK * BLOCK // min(inner, BLOCK)))
    else:
        block = (min(inner, TILE), max(1, TILE // inner))
    work = min(block[0], inner) * min(block[1], rows)
    return [Launch("copy", "transpose" if transposed else "copy",
                   {"SIZE": dtypes.size(x.dtype), "VEC": facts.lanes},
                   (_up(inner, block[0]), _up(rows, block[1]), count(dims[:-2])),
                   (x, y, int8_arg(dims, 1), int8_arg(sx), int8_arg(sy), i32(x0), i32(y0),
                    i32(block[0]), i32(block[1])),
                   facts.one if work >= GROUPED else None)]


def infer_reshape(op: OpLike) -> Outputs:
    """y has the shape of the option, with as many elements as x."""
    x, shape = op.inputs[0], tuple(op.options["shape"])
    require(all(n >= 1 for n in shape), op, f"to {shape}, every dimension must be at least 1")
    require(count(shape) == count(x.shape), op,
            f"{x.name} of the shape {x.shape} has {count(x.shape)} elements, {shape} needs "
            f"{count(shape)}")
    return [(shape, x.dtype)]


def reshape(op: OpLike, facts: Facts) -> list[Launch]:
    """y = x with other dimensions, the elements in the same order.

    x [...] any dtype -> y [`shape`]. The packer turns it into an alias, which costs nothing.
    """
    x, y = op.inputs[0], op.outputs[0]
    return copy(x, y, [count(x.shape)], [1], [1], facts)


def infer_transpose(op: OpLike) -> Outputs:
    """Axis k of y is axis perm[k] of x."""
    x, perm = op.inputs[0], tuple(op.options["perm"])
    require(sorted(perm) == list(range(len(x.shape))), op,
            f"perm is {perm}, needed a permutation of the {len(x.shape)} axes of {x.name}")
    return [(tuple(x.shape[axis] for axis in perm), x.dtype)]


def transpose(op: OpLike, facts: Facts) -> list[Launch]:
    """y[i_perm[0], i_perm[1], ...] = x[i_0, i_1, ...].

    x [...] any dtype -> y [x.shape[perm[0]], x.shape[perm[1]], ...].
    """
    x, y = op.inputs[0], op.outputs[0]
    sx = strides(x.shape, x.pitch)
    return copy(x, y, y.shape, [sx[axis] for axis in op.options["perm"]], strides(y.shape), facts)


def infer_slice(op: OpLike) -> Outputs:
    """y has the dimensions `sizes`; every element it takes lies in x."""
    x = op.inputs[0]
    starts, steps, sizes = (tuple(op.options[key]) for key in ("starts", "steps", "sizes"))
    rank = len(x.shape)
    require(len(starts) == len(steps) == len(sizes) == rank, op,
            f"starts {starts}, steps {steps}, sizes {sizes}: needed {rank} of each")
    for axis, (n, start, step, size) in enumerate(zip(x.shape, starts, steps, sizes)):
        last = start + (size - 1) * step
        require(step != 0 and size >= 1 and 0 <= start < n and 0 <= last < n, op,
                f"takes {size} elements from {start} in steps of {step} along axis {axis} of "
                f"{x.name}, which has {n}")
    return [(sizes, x.dtype)]


def slice_(op: OpLike, facts: Facts) -> list[Launch]:
    """y[i_0, i_1, ...] = x[starts_0 + i_0 steps_0, starts_1 + i_1 steps_1, ...].

    x [...] any dtype -> y [`sizes`]. A negative step runs backwards.
    """
    x, y = op.inputs[0], op.outputs[0]
    sx = strides(x.shape, x.pitch)
    x0 = sum(start * step for start, step in zip(op.options["starts"], sx))
    steps = [step * s for step, s in zip(op.options["steps"], sx)]
    return copy(x, y, y.shape, steps, strides(y.shape, y.pitch), facts, x0)


def infer_concat(op: OpLike) -> Outputs:
    """y is as long along `axis` as all inputs together; their other dimensions are equal."""
    require(all(t is not None for t in op.inputs), op, "has an input left out")
    require_same_dtype(op, *op.inputs)
    first = op.inputs[0].shape
    require(len(first) >= 1, op, f"{op.inputs[0].name} is a scalar, needed at least 1 dimension")
    axis = normal_axis(op.options["axis"], len(first), op)
    for t in op.inputs:
        require(t.shape[:axis] + t.shape[axis + 1:] == first[:axis] + first[axis + 1:]
                and len(t.shape) == len(first), op,
                f"{t.name} has the shape {t.shape}, needed that of {op.inputs[0].name} {first} "
                f"except along axis {axis}")
    total = sum(t.shape[axis] for t in op.inputs)
    return [(first[:axis] + (total,) + first[axis + 1:], op.inputs[0].dtype)]


def concat(op: OpLike, facts: Facts) -> list[Launch]:
    """y = the inputs one after the other along `axis`.

    x_k [..., n_k, ...] any dtype, equal dimensions except n_k -> y [..., sum of n_k, ...]. A
    quantized x_k that has not the scale and zero point of y is brought to them, as by requantize.
    """
    y = op.outputs[0]
    axis = normal_axis(op.options["axis"], len(y.shape), op)
    rows, step = count(y.shape[:axis]), count(y.shape[axis:])
    widths = [count(x.shape[axis:]) for x in op.inputs]
    if widths == [1, 1]:
        return [_interleaved(op, rows, facts)]
    launches, k, start = [], 0, 0
    while k < len(widths):
        near = 0  # inputs that one launch copies
        while near < JOINED and k + near < len(widths) and quantize.same_grid(
                op.inputs[k + near], y):
            near += 1
        launches.append(
            _joined(op.inputs[k:k + near], y, widths[k:k + near], rows, start, step, facts)
            if near else quantize.requantize_rows(op, op.inputs[k], rows, start, step, facts))
        start += sum(widths[k:k + max(near, 1)])
        k += max(near, 1)
    return launches


def _joined(inputs: Sequence[TensorLike], y: TensorLike, widths: Sequence[int], rows: int,
            start: int, step: int, facts: Facts) -> Launch:
    """Return the launch that copies rows of up to JOINED tensors, one after the other, to y.

    Args:
        widths: elements of a row of each.
        start, step: elements of y before the first row, and from one row to the next.
    """
    widest, more = max(widths), [inputs[0]] * (JOINED - len(inputs))  # not read: of width 0
    run, each = (facts.lanes, 1)
    if facts.kind == "cpu":
        run, each = min(widest, TILE), min(rows, max(1, TILE // sum(widths)))
    return Launch("copy", "concat", {"SIZE": dtypes.size(y.dtype), "VEC": facts.lanes},
                  (_up(widest, run), _up(rows, each), 1),
                  (*inputs, *more, y, int4_arg(widths), int4_arg([rows, run, each, step]),
                   i32(start)), facts.one if run * each >= GROUPED else None)


def _interleaved(op: OpLike, n: int, facts: Facts) -> Launch:
    """Return the launch that puts the elements of two tensors in turns: shuffled channels."""
    y = op.outputs[0]
    if not all(quantize.same_grid(x, y) for x in op.inputs):
        return quantize.requantize_pairs(op, n, facts)
    run = TILE // 2 if facts.kind == "cpu" else facts.lanes
    return Launch("copy", "interleave", {"SIZE": dtypes.size(y.dtype), "VEC": facts.lanes},
                  (_up(n, run), 1, 1), (*op.inputs, y, i32(n), i32(run)),
                  facts.one if n >= GROUPED else None)


def infer_expand(op: OpLike) -> Outputs:
    """y has the broadcast shape of x and the option."""
    x, shape = op.inputs[0], tuple(op.options["shape"])
    require(all(n >= 1 for n in shape), op, f"to {shape}, every dimension must be at least 1")
    return [(broadcast(op, x.shape, shape), x.dtype)]


def expand(op: OpLike, facts: Facts) -> list[Launch]:
    """y = x repeated along the axes where it has one element.

    x [...] any dtype -> y [broadcast shape of x and `shape`].
    """
    x, y = op.inputs[0], op.outputs[0]
    return copy(x, y, y.shape, broadcast_strides(x.shape, y.shape), strides(y.shape), facts)
