"""Ops on single elements: integer sums and products, tables, concat, softmax."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.ops.binary_integer import KINDS
from edgerun.ops.elementwise import BINARY_TO_BOOL, UNARY_TO_BOOL
from edgerun.ops.quantize import CLAMPS
from edgerun.quantization import dequantize, quantize
from edgerun.tools.graph import Op, Tensor, full_options
from edgerun.tools.lower import tables
from edgerun.tools.lower._lowering import Lowering, possible
from edgerun.tools.reference import REFERENCE

DEEPEST = 16  # ops behind one another in one table
LOOKED_UP = ("exp", "gelu", "gelu_tanh")  # unary kinds of which TFLite has an int16 table
PIECEWISE = (*CLAMPS, "leaky_relu")  # unary kinds with an integer form

Function = Callable[[np.ndarray], np.ndarray]


def _binary(lower: Lowering, op: Op) -> bool:
    """dequantize two -> binary -> quantize."""
    a, b, y = lower.integer(op.inputs[0]), lower.integer(op.inputs[1]), lower.store(op)
    if (a is None or b is None or y is None or op.options["kind"] not in KINDS
            or a.dtype != b.dtype or not possible("binary", [a, b], y, **op.options)):
        return False
    lower.replace(op, "binary", [a, b], y, **op.options)
    return True


class _Chain:
    """Unary ops, and binary ops with numbers, between one quantized tensor and `op`'s output."""

    def __init__(self, lower: Lowering, op: Op):
        self.lower = lower
        self.shape = op.outputs[0].shape
        self.x: Tensor | None = None
        self.ops = 0  # that it replaces
        self.numbers = 0  # of them quantized
        self.function = self._of(op.outputs[0], DEEPEST)

    def _of(self, tensor: Tensor, depth: int) -> Function | None:
        """Return the function of x that a tensor is; None if it is no such thing."""
        if tensor.constant:
            return self._number(tensor.data) if tensor.dtype == "fp32" else None
        stored = self.lower.stored(tensor)
        if stored is not None and stored.constant:
            self.numbers += 1
            return self._number(dequantize(stored.data, stored.quantization))
        if tensor.shape != self.shape:
            return None
        if stored is not None:
            x = self.lower.integer(tensor)
            if x is None or self.x not in (None, x):
                return None
            self.x = x
            return lambda numbers: numbers
        op = self.lower.rewriter.producer(tensor)
        if depth == 0 or op is None or op.code not in ("unary", "binary") or (
                op.options["kind"] in (*BINARY_TO_BOOL, *UNARY_TO_BOOL)):
            return None
        self.ops += 1
        functions = [self._of(t, depth - 1) for t in op.inputs]
        if None in functions:
            return None
        return lambda numbers: REFERENCE[op.code](op, *(f(numbers) for f in functions))

    @staticmethod
    def _number(values: np.ndarray) -> Function | None:
        if values.size == 0 or np.any(values != values.reshape(-1)[0]):
            return None
        return lambda numbers: numbers.dtype.type(values.reshape(-1)[0])


def _table(lower: Lowering, op: Op) -> bool:
    """dequantize -> unary ops, and binary ops with a number -> quantize is a table."""
    y = lower.store(op)
    if y is None:
        return False
    chain = _Chain(lower, op)
    x = chain.x
    if chain.function is None or x is None or x.shape != y.shape:
        return False
    twice, kind = y.quantization.rounding == "twice", op.options["kind"]
    if twice and op.code == "binary" and chain.ops == 1:
        return False  # the source model multiplies or adds integers
    single = chain.ops == 1 and op.code == "unary"
    if x.dtype == "int16":
        if single and kind in PIECEWISE and possible("unary", [x], y, **op.options):
            lower.replace(op, "unary", [x], y, **op.options)
            return True
        if y.dtype != "int16":
            return False
        build = (tables.tflite_interpolated if single and twice and kind in LOOKED_UP
                 else tables.interpolated)
        values = build(chain.function, x.quantization, y)
        if values is None:
            return False
    elif single and twice and kind in PIECEWISE and possible("unary", [x], y, **op.options):
        values = tables.piecewise(op, x.quantization, y)
    elif single and twice and kind == "square" and possible(
            "binary", [x, x], y, **full_options("binary", {"kind": "mul"})):
        values = tables.square(op, x.quantization, y)
    elif single and twice and kind == "hard_swish" and y.dtype == "uint8":
        values = tables.hard_swish(x.quantization, y)
    else:
        values = tables.of_bytes(chain.function, x.quantization, y)
    lower.replace(op, "table", [x, lower.graph.constant(values, f"{y.name}.table")], y)
    return True


def _pointwise(lower: Lowering, op: Op) -> bool:
    return _table(lower, op) or (op.code == "binary" and _binary(lower, op))


def _softmax(lower: Lowering, op: Op) -> bool:
    """dequantize -> softmax -> quantize: uint8 with a table of exponentials, int16 in registers."""
    x, y = lower.integer(op.inputs[0]), lower.store(op)
    if x is None or y is None:
        return False
    inputs: list[Tensor | None] = [x]
    if x.dtype == "uint8" and not op.options["log"] and op.options["scale"] > 0:
        n = x.shape[op.options["axis"]] if x.shape else 1
        values = tables.exponentials(x.quantization, op.options["scale"], n)
        inputs.append(lower.graph.constant(values, f"{y.name}.exponentials"))
    if not possible("softmax", inputs, y, **op.options):
        return False
    lower.replace(op, "softmax", inputs, y, **op.options)
    return True


def _concat(lower: Lowering, op: Op) -> bool:
    """concat of integers: each input is brought to the grid of the result while it is copied."""
    y = lower.store(op)
    inputs = [lower.integer(t) for t in op.inputs]
    first = next((x for x in inputs if x is not None), None)
    if first is None:
        return False
    grid, dtype = (first.quantization, first.dtype) if y is None else (y.quantization, y.dtype)
    for i, t in enumerate(op.inputs):
        if inputs[i] is None and t.constant and t.dtype == "fp32":
            inputs[i] = lower.graph.constant(quantize(t.data, grid, dtype), t.name,
                                             quantization=grid)
    if any(x is None or x.dtype != dtype for x in inputs):
        return False
    if y is not None:
        if not possible("concat", inputs, y, **op.options):
            return False
        lower.replace(op, "concat", inputs, y, **op.options)
        return True
    if any(x.quantization.grid != grid.grid for x in inputs) or any(
            t.constant for t in op.inputs):
        return False
    joined = lower.rewriter.add(op, "concat", inputs, op.name, grid, **op.options)
    real = lower.rewriter.add(op, "dequantize", [joined], f"{op.name}.real", dtype="fp32")
    lower.rewriter.replace(op.outputs[0], real)
    return True


RULES = {"unary": _pointwise, "binary": _pointwise, "softmax": _softmax, "concat": _concat}
