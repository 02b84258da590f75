"""Recurrent layers: their steps. The products with the inputs are a dense layer before them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgerun.dtypes import FLOAT
from edgerun.ops import recurrent_integer
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, Scratch, TensorLike, f32, i32, lanes_within, require,
    require_dtype, require_rank, require_same_dtype)
from edgerun.ops.elementwise import activation, ktanh

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
MAX_STEPS = 10_000  # each is a launch
MAX_LEVELS = 32_767  # 16 bits with a sign
P, W, BIAS, STATE, CELL = range(5)  # inputs


def _optional(op: OpLike, index: int) -> TensorLike | None:
    return op.inputs[index] if index < len(op.inputs) else None


def infer_recurrent(op: OpLike) -> Outputs:
    """y is [T, N, H]; an lstm also writes its cell [N, H]."""
    p, w = op.inputs[:2]
    gates = GATES[op.code]
    require_rank(p, 3, op)
    require_rank(w, 2, op)
    require_dtype(p, (*FLOAT, "int16"), op)
    hidden = w.shape[0]
    steps, samples, width = p.shape
    require(hidden >= 1 and tuple(w.shape) == (hidden, gates * hidden), op,
            f"{w.name} has the shape {w.shape}, needed ({hidden}, {gates * hidden})")
    require(width == gates * hidden, op,
            f"{p.name} has the shape {p.shape}, needed {gates * hidden} in the last axis")
    require(1 <= steps <= MAX_STEPS and samples >= 1, op,
            f"has {steps} steps of {samples} samples, needed 1 to {MAX_STEPS} steps")
    bias = _optional(op, BIAS)
    if bias is not None:
        needed = (3 * hidden,) if op.code == "lstm" else (hidden,)
        require(op.code != "rnn", op, "has a bias, which belongs into its first input")
        require_dtype(bias, ("fp32",), op)
        require(tuple(bias.shape) == needed, op,
                f"{bias.name} has the shape {bias.shape}, needed {needed}")
    for index in (STATE, CELL):
        state = _optional(op, index)
        require(state is None or tuple(state.shape) == (samples, hidden), op,
                f"a state has the shape {getattr(state, 'shape', '')}, needed {(samples, hidden)}")
    require(not op.options["reset_first"] or (op.code == "gru" and bias is None), op,
            "resets first, which a gru without a bias does")
    require(not op.options["ktanh"] or op.code != "rnn", op,
            "has ktanh, which for an rnn is an activation")
    _check_options(op)
    activation(op)
    if recurrent_integer.integers(op):
        recurrent_integer.require_integers(op)
        return recurrent_integer.outputs(op, ((steps, samples, hidden), (samples, hidden)))
    require_same_dtype(op, p, w, _optional(op, STATE), _optional(op, CELL))
    outputs = [((steps, samples, hidden), p.dtype)]
    return [*outputs, ((samples, hidden), p.dtype)] if op.code == "lstm" else outputs


def _check_options(op: OpLike) -> None:
    for name in ("clip", "cell_clip"):
        value = op.options[name]
        require(0 <= value < float("inf"), op,
                f"has the {name.replace('_', ' ')} {value}, needed a finite number of 0 or more")
    levels = op.options["levels"]
    require(0 <= levels <= MAX_LEVELS, op, f"has {levels} levels, needed 0 to {MAX_LEVELS}")
    require(op.code == "lstm" or not (levels or op.options["cell_clip"]), op,
            "has levels or the clip of a cell, which belong to an lstm")


def _steps(op: OpLike, facts: Facts, rest: Callable[[int], tuple]) -> list[Launch]:
    """One launch per step; `rest` gives the arguments behind the common ones of the n-th."""
    p, w, y = op.inputs[P], op.inputs[W], op.outputs[0]
    bias, state = _optional(op, BIAS), _optional(op, STATE)
    steps, samples, hidden = y.shape
    vec = lanes_within(hidden, facts)
    defines = {f"T_{p.dtype}": 1, "VEC": vec, **activation(op).defines,
               **ktanh(op.options["ktanh"])}
    if op.options["levels"]:
        defines["LEVELS"] = f"{op.options['levels']}.0f"
    order = range(steps - 1, -1, -1) if op.options["reverse"] else range(steps)
    launches, before, at = [], state, 0
    for number, step in enumerate(order):
        launches.append(Launch(
            "recurrent", op.code, defines, (-(-hidden // vec), samples, 1),
            (p, w, bias or p, before or p, y, np.uint32(step * samples * p.shape[2]),
             np.uint32(at), np.uint32(step * samples * hidden), i32(bias is not None),
             i32(before is not None), i32(hidden), f32(op.options["clip"]), *rest(number)),
            facts.one))
        before, at = y, step * samples * hidden
    return launches


def lstm(op: OpLike, facts: Facts) -> list[Launch]:
    """i, o, f, g = p[t] + y[t-1] w, four parts of H; with peepholes k: i + k_i c[t-1],
    f + k_f c[t-1], o + k_o c[t]; then
    c[t] = sigmoid(f) c[t-1] + sigmoid(i) tanh(g), y[t] = sigmoid(o) tanh(c[t]).

    p [T, N, 4H] (the products with the inputs, biases added), w [H, 4H], peepholes (i, o, f) [3H]
    fp32 optional, y[-1] [N, H] optional (else 0), c[-1] [N, H] optional (else 0) -> y [T, N, H],
    c [N, H] of the last step; fp32 or fp16. `reverse` runs from the last step to the first. `clip`
    above 0 clips what goes into sigmoid and tanh, `cell_clip` c. With `levels` above 0, y[t-1] is
    rounded to multiples of its largest magnitude / levels, per sample, before it is multiplied.
    With `ktanh`, sigmoid and tanh are the unary kinds ksigmoid and ktanh. T launches.
    Integers: p int16 in steps of 2^-12, w int8 with a scale per gate, y uint8, c int16 in steps of
    2^-15 to 2^-11, no peepholes, no `clip`; arithmetic as in TFLite's LSTM of 8 bits.
    """
    if recurrent_integer.integers(op):
        return recurrent_integer.lstm_integer(op, facts)
    first, cell = _optional(op, CELL), op.outputs[1]

    def rest(number: int) -> tuple:
        last = cell if number else first
        return last or cell, cell, i32(last is not None), f32(op.options["cell_clip"])
    return _steps(op, facts, rest)


def gru(op: OpLike, facts: Facts) -> list[Launch]:
    """z, r, n = p[t] and the products y[t-1] w, three parts of H each:
    z = sigmoid(p_z + w_z), r = sigmoid(p_r + w_r), n = tanh(p_n + r (w_n + bias)),
    y[t] = (1 - z) n + z y[t-1]. With `reset_first` n = tanh(p_n + (r y[t-1]) w), no bias.

    p [T, N, 3H] (the products with the inputs, biases of both added, but for the second of n),
    w [H, 3H], bias [H] fp32 optional, y[-1] [N, H] optional (else 0) -> y [T, N, H]; fp32 or fp16.
    `reverse`, `clip`, `ktanh` as in lstm. T launches; twice as many, and scratch for z and
    r y[t-1], with `reset_first`.
    """
    launches = _steps(op, facts, lambda number: ())
    if not op.options["reset_first"]:
        return launches
    samples, hidden = op.outputs[0].shape[1:]
    scratch = (Scratch(), Scratch(4 * samples * hidden))
    return [replace(launch, kernel=kernel, args=(*launch.args, *scratch))
            for launch in launches for kernel in ("gru_gates", "gru_state")]


def recurrent_scratch(op: OpLike) -> int:
    """Bytes of scratch: a gru that resets first keeps z and r y[t-1] in fp32."""
    samples, hidden = op.outputs[0].shape[1:]
    return 8 * samples * hidden if op.options["reset_first"] else 0


def rnn(op: OpLike, facts: Facts) -> list[Launch]:
    """y[t] = activation(p[t] + y[t-1] w).

    p [T, N, H] (the products with the inputs, biases added), w [H, H], (nothing), y[-1] [N, H]
    optional (else 0) -> y [T, N, H]; fp32 or fp16. `reverse`, `clip` as in lstm. T launches.
    """
    act = activation(op)
    return _steps(op, facts, lambda number: (f32(act.alpha), f32(act.beta)))


def recurrent_macs(op: OpLike) -> int:
    """Multiply-accumulates: every step multiplies the state with all weights."""
    steps, samples, hidden = op.outputs[0].shape
    return steps * samples * hidden * hidden * GATES[op.code]
