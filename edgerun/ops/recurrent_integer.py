"""The integer form of an lstm, which computes what TFLite's kernel of 8 bits does."""
from __future__ import annotations

import math

import numpy as np

from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, TensorLike, i32, int4_arg, int8_arg, lanes_within, require,
    require_dtype, require_quantized)
from edgerun.quantization import Quantization, fixed_point

W, STATE, CELL = 1, 3, 4  # inputs
GATE_STEP = 2.0**-12  # of what goes into sigmoid and tanh: 3 bits before the point
GATES = 4
MOST_HIDDEN = 2**30 // 2**15  # sums of products of 8 bits that rounding twice takes
BITS = range(5)  # of a cell before the point


def integers(op: OpLike) -> bool:
    """Whether an op has the integer form."""
    return op.inputs[0].dtype == "int16"


def require_integers(op: OpLike) -> None:
    """Check what the integer form needs beyond the shapes.

    Raises:
        ModelError: a dtype, an option or the number of products does not fit.
    """
    require(op.code == "lstm", op, "computes on integers, which only an lstm does")
    for index, dtype in ((W, "int8"), (STATE, "uint8"), (CELL, "int16")):
        if index < len(op.inputs) and op.inputs[index] is not None:
            require_dtype(op.inputs[index], (dtype,), op)
    require(len(op.inputs) < 3 or op.inputs[2] is None, op,
            "has peepholes, which its integer form has not")
    require(not op.options["clip"] and not op.options["levels"] and not op.options["ktanh"], op,
            "has clipped gates, levels or ktanh, which its integer form has not")
    hidden = op.inputs[W].shape[0]
    require(hidden <= MOST_HIDDEN, op, f"sums {hidden} products, at most {MOST_HIDDEN} fit")


def outputs(op: OpLike, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Outputs:
    """y and the cell of the integer form."""
    return list(zip(shapes, ("uint8", "int16")))


def _gates(op: OpLike, y: Quantization) -> list[int]:
    """Return m0 of the four gates, then t of them."""
    w = op.inputs[W].quantization
    hidden = op.inputs[W].shape[0]
    require(w is not None and w.axis in (-1, 1) and not w.zero_point.any(), op,
            "has weights without scales, needed one, or one per column, and no zero points")
    scales = np.broadcast_to(w.scale, GATES * hidden).reshape(GATES, hidden)
    require(bool((scales == scales[:, :1]).all()), op,
            "has weights with several scales in a gate, needed one")
    # in fp32, as TFLite computes it
    return [*zip(*(_fixed(op, np.float32(scale) * np.float32(y.step) / np.float32(GATE_STEP))
                   for scale in scales[:, 0]))]


def _fixed(op: OpLike, multiplier: float) -> tuple[int, int]:
    try:
        m0, t = fixed_point(multiplier, "twice")
    except ValueError as error:
        require(False, op, str(error))
    return int(m0), int(t)


def _bits(op: OpLike, cell: TensorLike) -> int:
    """Return the bits of a cell before the point."""
    q = require_quantized(cell, op)
    bits = math.log2(q.step) + 15
    require(q.zero == 0 and bits in BITS, op,
            f"{cell.name} has the scale {q.step:.3g} and the zero point {q.zero}, needed a power "
            "of two from 2^-15 to 2^-11 and 0")
    return int(bits)


def lstm_integer(op: OpLike, facts: Facts) -> list[Launch]:
    """Return the launches, one per step; the op is inferred before."""
    p, w = op.inputs[:2]
    state, first = [*op.inputs[STATE:], None, None][:2]
    y, cell = op.outputs
    grid, bits = require_quantized(y, op), _bits(op, cell)
    gate = require_quantized(p, op)
    require(gate.step == GATE_STEP and gate.zero == 0, op,
            f"{p.name} has the scale {gate.step:.3g} and the zero point {gate.zero}, needed 2^-12 "
            "and 0")
    for given, kept, role in ((state, y, "state"), (first, cell, "cell")):
        require(given is None or given.quantization is not None
                and given.quantization.grid == kept.quantization.grid, op,
                f"starts with a {role} of another scale or zero point")
    m0s, ts = _gates(op, grid)
    # o and tanh(c) have 15 bits behind the point
    m0, t = _fixed(op, np.float32(2.0**-30) / np.float32(grid.step))
    clip = min(op.options["cell_clip"] / cell.quantization.step, 32767.0)
    steps, samples, hidden = y.shape
    vec = lanes_within(hidden, facts)
    order = range(steps - 1, -1, -1) if op.options["reverse"] else range(steps)
    launches, before, last, at = [], state, first, 0
    for step in order:
        here = step * samples * hidden
        launches.append(Launch(
            "recurrent_integer", "lstm_integer", {"T_int16": 1, "O_uint8": 1, "VEC": vec},
            (-(-hidden // vec), samples, 1),
            (p, w, before or y, y, last or cell, cell, np.uint32(GATES * here), np.uint32(at),
             np.uint32(here), i32(before is not None), i32(last is not None), i32(hidden),
             i32(bits), int8_arg([*m0s, *ts]), int4_arg([grid.zero, m0, t, int(clip)])),
            facts.one))
        before, last, at = y, cell, here
    return launches
