"""Recurrent layers: one op over all steps, behind a dense layer for the inputs.

Their states are variables, which TFLite's interpreter keeps from run to run. Here they start at 0
in every run, as after a reset of the interpreter's variables.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerun.ops.recurrent_integer import GATE_STEP
from edgerun.quantization import Quantization, dequantize
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.tflite.context import ACTIVATIONS, Context, Rule
from edgerun.tools.importers.tflite.source import SourceOp, SourceTensor

TANH = 4  # the only activation that LSTMs of converters have
LEVELS = 127  # to which TFLite rounds what it multiplies with weights of 8 bits
GATES = (0, 3, 1, 2)  # i, o, f, g among TFLite's i, f, g, o
# Inputs of an LSTM: x, four times weights of inputs, of states; peepholes of i, f, o; four biases,
# a projection and its bias, the states; four coefficients of a layer normalization.
INPUT, STATES, PEEPHOLES, BIASES, PROJECTION, STATE, CELL, NORMS = 1, 5, 9, 12, 16, 18, 19, 20
DIRECTION = 17  # weights of one direction of a bidirectional layer
NOTE = "starts with the state 0 in every run, where TFLite keeps it from run to run"


def unidirectional_lstm(ctx: Context, op: SourceOp) -> Tensor:
    """x [T,N,I] (time major) or [N,T,I] -> y as x, of H units."""
    for number in range(NORMS, NORMS + 4):
        _refuse(ctx, op, number, "normalizes its gates")
    x, major = ctx.input(op, 0), bool(op.option("TimeMajor"))
    y = _lstm(ctx, op, _steps_first(ctx, op, x, major), 0, (STATE, CELL), False)
    return y if major else ctx.transpose(y, (1, 0, 2), op)


def bidirectional_lstm(ctx: Context, op: SourceOp) -> list[Tensor]:
    """As unidirectional_lstm; the two y side by side, or as two outputs."""
    for number in range(2 * DIRECTION + 5, 48):
        _refuse(ctx, op, number, "has an auxiliary input")
    x, major = ctx.input(op, 0), bool(op.option("TimeMajor"))
    steps = _steps_first(ctx, op, x, major)
    first = 2 * DIRECTION + 1
    found = [_lstm(ctx, op, steps, DIRECTION * number, (state, state + 1), bool(number))
             for number, state in enumerate((first, first + 2))]
    if op.option("MergeOutputs"):
        found = [ctx.add("concat", found, op, axis=2)]
    return found if major else [ctx.transpose(y, (1, 0, 2), op) for y in found]


def unidirectional_rnn(ctx: Context, op: SourceOp) -> Tensor:
    """x as of an LSTM, w [H,I], recurrent w [H,H], bias [H], state -> y, of H units."""
    x, major = ctx.input(op, 0), bool(op.option("TimeMajor"))
    number = op.option("FusedActivationFunction")
    if number not in ACTIVATIONS:
        raise ctx.unsupported(op, f"has the activation {number}, known are {sorted(ACTIVATIONS)}")
    kind, alpha, beta = ACTIVATIONS[number]
    _require_variable(ctx, op, 4)
    w, r = (_constant(ctx, op, n) for n in (1, 2))
    if any(ctx.source.tensors[op.inputs[n]].integer_quantized for n in (0, 1, 2)):
        raise ctx.unsupported(op, "computes with integers, needed real numbers")
    steps = _steps_first(ctx, op, x, major)
    _require_shapes(ctx, op, [w.data], [r.data], steps.shape[2])
    p = ctx.add("dense", [steps, ctx.graph.constant(_real(w), w.name),
                          ctx.graph.constant(_real(_constant(ctx, op, 3)), "bias")], op)
    y = ctx.add("rnn", [p, ctx.graph.constant(_real(r).T, r.name)], op, activation=kind,
                alpha=alpha, beta=beta)
    ctx.graph.notes.append(f"{op} {NOTE}")
    return y if major else ctx.transpose(y, (1, 0, 2), op)


def _steps_first(ctx: Context, op: SourceOp, x: Tensor, major: bool) -> Tensor:
    if len(x.shape) != 3:
        raise ctx.damaged(op, f"{x.name} has the shape {x.shape}, needed 3 dimensions")
    return x if major else ctx.transpose(x, (1, 0, 2), op)


def _refuse(ctx: Context, op: SourceOp, number: int, what: str) -> None:
    if ctx.has(op, number):
        raise ctx.unsupported(op, f"{what} (input {number}), which edgerun has not; export the "
                                  "model with the layer unrolled")


def _constant(ctx: Context, op: SourceOp, number: int) -> SourceTensor:
    if not ctx.has(op, number):
        raise ctx.damaged(op, f"input {number} is missing")
    tensor = ctx.source.tensors[op.inputs[number]]
    if tensor.data is None:
        raise ctx.unsupported(op, f"its weights {tensor.name!r} are computed at run time, needed a "
                                  "constant")
    return tensor


def _require_variable(ctx: Context, op: SourceOp, number: int) -> None:
    if not ctx.has(op, number):
        raise ctx.damaged(op, f"input {number}, its state, is missing")
    tensor = ctx.source.tensors[op.inputs[number]]
    if not tensor.variable:
        raise ctx.unsupported(op, f"its state {tensor.name!r} is no variable of the interpreter")


def _require_shapes(ctx: Context, op: SourceOp, inputs: Sequence[np.ndarray],
                    states: Sequence[np.ndarray], width: int) -> None:
    hidden = len(inputs[0])
    for arrays, columns in ((inputs, width), (states, hidden)):
        for array in arrays:
            if array.shape != (hidden, columns):
                raise ctx.damaged(op, f"weights have the shape {array.shape}, needed "
                                      f"{(hidden, columns)}")


def _real(tensor: SourceTensor) -> np.ndarray:
    values = (dequantize(tensor.data, tensor.quantization) if tensor.integer_quantized
              else tensor.data)
    return values.astype(np.float32)


def _gates(ctx: Context, op: SourceOp, first: int, shift: int) -> list[SourceTensor | None]:
    """Return four weights in the order of an lstm; those of an input gate may be left out."""
    numbers = [first + shift + gate for gate in GATES]
    return [None if gate == 0 and not ctx.has(op, number) else _constant(ctx, op, number)
            for gate, number in zip(GATES, numbers)]


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the values of all gates, one below the other.

    An input gate that is left out is 1 minus the forget gate: sigmoid(-x) = 1 - sigmoid(x).
    """
    return np.concatenate([-parts[2] if parts[0] is None else parts[0], *parts[1:]])


def _lstm(ctx: Context, op: SourceOp, x: Tensor, shift: int, states: tuple[int, int],
          reverse: bool) -> Tensor:
    """Return y [T,N,H] of one direction, whose weights are `shift` inputs behind the usual ones."""
    for number, what in ((PROJECTION, "projects its state"), (PROJECTION + 1, "projects")):
        _refuse(ctx, op, number + shift, what)
    if op.option("FusedActivationFunction") != TANH:
        raise ctx.unsupported(op, f"has the activation {op.option('FusedActivationFunction')}, "
                                  f"needed TANH ({TANH})")
    if op.option("DiagonalRecurrentTensors"):
        raise ctx.unsupported(op, "has diagonal weights of its state")
    for number in states:
        _require_variable(ctx, op, number)
    inputs, recurrent, biases = (_gates(ctx, op, first, shift)
                                 for first in (INPUT, STATES, BIASES))
    _require_shapes(ctx, op, [t.data for t in inputs if t], [t.data for t in recurrent if t],
                    x.shape[2])
    if any(bias is not None and bias.data.shape != inputs[1].data.shape[:1] for bias in biases):
        raise ctx.damaged(op, f"a bias has another shape than {inputs[1].data.shape[:1]}")
    options = {"reverse": reverse, "cell_clip": op.option("CellClip")}
    ctx.graph.notes.append(f"{op} {NOTE}")
    if ctx.source.tensors[op.inputs[0]].integer_quantized:
        return _integers(ctx, op, x, inputs, recurrent, biases, states, options, shift)
    peepholes = None
    if any(ctx.has(op, PEEPHOLES + shift + n) for n in range(3)):
        found = [_real(_constant(ctx, op, PEEPHOLES + shift + n)) if n or ctx.has(
            op, PEEPHOLES + shift) else None for n in range(3)]  # i, f, o
        values = [-found[1] if found[0] is None else found[0], found[2], found[1]]
        peepholes = ctx.graph.constant(np.concatenate(values), "peepholes")
    bias = ctx.graph.constant(_joined([None if b is None else _real(b) for b in biases]), "bias")
    weights = ctx.graph.constant(_joined([None if w is None else _real(w) for w in inputs]),
                                 inputs[1].name)
    if inputs[1].integer_quantized:
        x, weights, levels = _hybrid(ctx, op, x, inputs, weights)
        options["levels"] = levels
    steps = _joined([None if w is None else _real(w) for w in recurrent])
    p = ctx.add("dense", [x, weights, bias], op)
    r = ctx.graph.constant(np.ascontiguousarray(steps.T), recurrent[1].name)
    return ctx.add("lstm", [p, r] if peepholes is None else [p, r, peepholes], op, **options)


def _hybrid(ctx: Context, op: SourceOp, x: Tensor, inputs: Sequence[SourceTensor | None],
            weights: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return x, weights and levels of a layer of real numbers with integer weights."""
    if op.option("AsymmetricQuantizeInputs"):
        return x, weights, 0  # its rounding is not that of round_rows; see the note
    if None not in inputs:
        weights = ctx.real(_stacked(ctx, inputs, 0))
    return ctx.add("round_rows", [x], op), weights, LEVELS


def _stacked(ctx: Context, parts: Sequence[SourceTensor], axis: int) -> Tensor:
    """Return integer weights of the gates as one constant, a scale per unit along `axis`."""
    values = np.concatenate([part.data for part in parts])
    scales = np.concatenate([np.broadcast_to(part.quantization.scale, len(part.data))
                             for part in parts]).astype(np.float32)
    if axis:
        values = np.ascontiguousarray(values.T)
    return ctx.graph.constant(values, parts[1].name, quantization=Quantization(
        scales, np.zeros(len(scales), np.int32), axis))


def _integers(ctx: Context, op: SourceOp, x: Tensor, inputs: Sequence[SourceTensor | None],
              recurrent: Sequence[SourceTensor | None], biases: Sequence[SourceTensor | None],
              states: tuple[int, int], options: dict[str, Any], shift: int) -> Tensor:
    """Return y, real numbers made of integers, of a layer of integers; see ops/recurrent_integer.

    TFLite rounds the products of a gate with the inputs to steps of 2^-12 in 16 bits, before it
    adds those with the state.
    """
    state, cell = (ctx.source.tensors[op.inputs[number]] for number in states)
    declared = ctx.source.tensors[op.outputs[0]]
    if None in inputs or ctx.has(op, PEEPHOLES + 1 + shift):
        raise ctx.unsupported(op, "computes on integers and has no input gate, or peepholes, which "
                                  "edgerun has not")
    kinds = [t.type for t in (*inputs, *recurrent, state, cell, declared)]
    if kinds != ["INT8"] * 9 + ["INT16", "INT8"] or not all(
            t.integer_quantized and t.quantization.axis == -1 and not t.quantization.zero
            for t in (*inputs, *recurrent)) or not cell.integer_quantized:
        raise ctx.unsupported(op, "computes on integers, needed weights and state of INT8, without "
                                  "zero points, and a cell of INT16")
    inner = [ctx.source.tensors[number] for number in op.intermediates[4:5]]
    same = [tensor.quantization for tensor in (state, *inner)]
    if any(q is None or q.grid != declared.quantization.grid for q in same):
        raise ctx.unsupported(op, "its state, hidden and output tensors have different scales")
    weights = ctx.real(_stacked(ctx, inputs, 0))
    scale = ctx.integers(x).quantization.step * ctx.integers(weights).quantization.scale
    bias = ctx.graph.constant(
        np.concatenate([b.data for b in biases]).astype(np.int32), "bias",
        quantization=Quantization(scale.astype(np.float32), np.zeros(len(scale), np.int32), 0))
    p = ctx.add("dense", [x, weights, ctx.real(bias)], op)
    p = ctx.graph.quantize(p, "int16", Quantization.per_tensor(GATE_STEP, 0, "twice"))
    layer = ctx.graph.insert(len(ctx.graph.ops), "lstm", [p, _stacked(ctx, recurrent, 1)], op.name,
                             **options)
    y = declared.quantization
    for tensor, quantization in zip(layer.outputs, (
            Quantization.per_tensor(y.step, y.zero + 128),
            Quantization.per_tensor(cell.quantization.step))):
        tensor.quantization = quantization
    return ctx.graph.dequantize(layer.outputs[0])


RULES: dict[str, Rule] = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(unidirectional_lstm, (20, 24)),
    "BIDIRECTIONAL_SEQUENCE_LSTM": Rule(bidirectional_lstm, (39, 48)),
    "UNIDIRECTIONAL_SEQUENCE_RNN": Rule(unidirectional_rnn, (5, 5)),
}
