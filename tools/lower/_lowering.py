"""What lowering rules work with."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import Rewriter


class Lowering:
    """A graph being lowered.

    Attributes:
        graph: the graph.
        rewriter: its producers and users; every change of ops goes through it.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.rewriter = Rewriter(graph)

    def integer(self, x: Tensor | None) -> Tensor | None:
        """Return the integers (uint8, or int16 with 0 for 0; one scale) that a real tensor is made
        of, or None.

        A constant of int8 becomes uint8, as activations are.
        """
        q = self.stored(x)
        if q is None or q.quantization.axis != -1:
            return None
        if q.dtype == "int8" and q.constant:
            given = q.quantization
            return self.graph.constant(
                (q.data.astype(np.int16) + 128).astype(np.uint8), q.name,
                quantization=Quantization(given.scale, given.zero_point + 128, -1, given.rounding))
        return q if _activations(q) else None

    def stored(self, x: Tensor | None) -> Tensor | None:
        """Return the quantized tensor (any dtype, activation or constant) behind a dequantize, or
        None."""
        op = self.rewriter.producer(x, "dequantize")
        return None if op is None else op.inputs[0]

    def weights(self, x: Tensor | None) -> Tensor | None:
        """Return the quantized constant behind a dequantize, as it is, or None."""
        q = self.stored(x)
        return q if q is not None and q.constant else None

    def store(self, op: Op) -> Tensor | None:
        """Return the integers (as those of integer()) that the result of an op is rounded to, if
        nothing else reads the result; else None."""
        user = self.rewriter.only_user(op.outputs[0])
        if user is None or user.code != "quantize":
            return None
        y = user.outputs[0]
        return y if _activations(y) else None

    def replace(self, op: Op, code: str, inputs: Sequence[Tensor | None], y: Tensor,
                **options: Any) -> Op:
        """Let a new op write what `y` is, in place of `op` and of all that leads from it to `y`.

        Args:
            op: the op that is lowered; the new one takes its place in the order.
            code, inputs, options: of the new op.
            y: the output of `op`, or of the quantize behind it; who reads it reads the new op. The
                new output has its name, dtype and quantization.

        Returns:
            The new op.
        """
        at = self.graph.ops.index(op)
        new = self.rewriter.insert(at, code, inputs, op.name, **options)
        out = new.outputs[0]
        if out.shape != y.shape:
            raise AssertionError(f"{code} writes {out.shape} instead of {y.shape}")
        out.name, out.dtype, out.quantization = y.name, y.dtype, y.quantization
        self.rewriter.replace(y, out)
        return new

    def hold(self, op: Op, y: Tensor) -> Tensor:
        """Remove an op that reads a graph input; returns a new tensor in place of its output."""
        held = Tensor(y.name, y.shape, y.dtype, quantization=y.quantization)
        self.rewriter.replace(y, held)
        return held


def possible(code: str, inputs: list[Tensor | None], y: Tensor, **options) -> bool:
    """Whether an integer op can write y: its scales may be beyond what 32 bits can do."""
    op = Op(code, y.name, inputs, [y], options)
    try:
        OPS[code].infer(op)
        OPS[code].prepare(op, Facts())
    except ModelError:
        return False
    return True


def _activations(q: Tensor) -> bool:
    """Whether integer ops compute with a quantized tensor: int16 is symmetric for them."""
    given = q.quantization
    return given.axis == -1 and (q.dtype == "uint8" or q.dtype == "int16" and given.zero == 0)


Rule = Callable[[Lowering, Op], bool]
