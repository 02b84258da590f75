"""Put quantize and dequantize around ops that compute on integers."""
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgerun.quantization import Quantization, dequantize, quantize
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.planes.codes import Planes, coded
from edgerun.tools.quantize.assign import INTEGERS, WEIGHTED, keeps_grid
from edgerun.tools.quantize.chains import BITS, STORED, links
from edgerun.tools.quantize.grids import (
    WEIGHT_AXIS, activation_quantization, roomy, weight_quantization)
from edgerun.tools.quantize.improve import bias_shift
from edgerun.tools.quantize.masks import Masks
from edgerun.tools.quantize.saturation import Saturation

# Ops on integers that write real numbers by themselves where nobody wants integers.
REAL_RESULTS = (*WEIGHTED, "matmul")
WITH_CONSTANTS = ("binary", "matmul", "concat", "where")  # their constants are activations to them

Range = Callable[[str, int], tuple[float, float]]
PlanesOf = Callable[[Op], "tuple[np.ndarray, Planes] | None"]


def follows_readers(op: Op) -> bool:
    """Whether an op computes on integers only if its readers want integers: a move gains nothing
    otherwise, and a softmax at the end would round the answer."""
    return keeps_grid(op) or op.code == "softmax"


class _Inserter:
    def __init__(self, graph: Graph, dtypes: dict[Op, str], range_of: Range,
                 weights_of: Callable[[Op, str], Quantization], means: Mapping[str, np.ndarray],
                 planes_of: PlanesOf):
        self.graph, self.dtypes, self.weights_of, self.means = graph, dtypes, weights_of, means
        self.planes_of = planes_of
        self.coded = {op.outputs[0] for op in graph.ops  # weights that are planes already
                      if op.code == "dequantize" and coded(op.inputs[0])}
        self.links, self.between = links(graph, dtypes)
        self.masks = Masks(graph, range_of)
        self.needed = Saturation(graph, self.links, self.between, self.masks.range)
        self.stored: dict[Tensor, Tensor] = {}   # real tensor -> the integers it is kept as
        self.views: dict[Tensor, Tensor] = {}    # integers -> their dequantized view
        self.behind: dict[Tensor, Tensor] = {}   # the reverse
        self.narrowed: dict[tuple[Tensor, str], Tensor] = {}
        self.wanted: dict[Tensor, str] = {}      # real tensor -> dtype its readers want

    def dtype(self, op: Op) -> str:
        return self.dtypes.get(op, "fp32")

    def want(self) -> None:
        """Find out which tensors are worth keeping as integers: those that an integer op reads."""
        for op in reversed(self.graph.ops):
            for x in op.inputs:
                if x is None or x.constant or x.dtype != "fp32":
                    continue
                dtype = self.dtype(op)
                if follows_readers(op):
                    dtype = self.wanted.get(op.outputs[0], "") if dtype in INTEGERS else ""
                if dtype in INTEGERS:
                    self.wanted[x] = max(dtype, self.wanted.get(x, ""),
                                         key=("", "int16", "int8").index)

    def grid(self, x: Tensor, dtype: str) -> Quantization:
        """Return scale and zero point of a real tensor's integers."""
        return activation_quantization(*self.needed.range(x.name, BITS[dtype]), dtype)

    def view(self, q: Tensor) -> Tensor:
        """Return the real view of integers."""
        if q not in self.views:
            self.views[q] = self.graph.dequantize(q)
            self.behind[self.views[q]] = q
        return self.views[q]

    def real(self, x: Tensor) -> Tensor:
        """Return what a float op reads for a real tensor."""
        return self.view(self.stored[x]) if x in self.stored else x

    def integers(self, x: Tensor, dtype: str) -> Tensor:
        """Return what an op of an integer dtype reads for a real tensor."""
        q = self.stored.get(x)
        if q is not None and q.dtype == STORED[dtype]:
            return self.view(q)
        if (x, dtype) not in self.narrowed:
            self.narrowed[x, dtype] = self.graph.quantize(self.real(x), STORED[dtype],
                                                          self.grid(x, dtype))
        return self.view(self.narrowed[x, dtype])

    def operand(self, x: Tensor, op: Op, dtype: str) -> Tensor:
        """Return a constant operand of an op as quantized integers."""
        data = np.maximum(x.data, self.masks.least(op.outputs[0].name, BITS[dtype]))
        quantization = activation_quantization(
            float(data.min(initial=0)), float(data.max(initial=0)), dtype)
        return self.view(self.graph.constant(quantize(data, quantization, STORED[dtype]),
                                             x.name, quantization=quantization))

    def weights(self, op: Op, dtype: str, inputs: list[Tensor | None]) -> None:
        """Put quantized weights among the inputs, and the bias that makes up for their rounding."""
        real, bias = op.inputs[1].data, op.inputs[2] if len(op.inputs) > 2 else None
        mean = self.means.get(op.inputs[0].name)
        found = self.planes_of(op)
        if found is not None:
            inputs[1:3] = self.planes(op, *found, mean)
            return
        quantization = self.weights_of(op, dtype)
        x, y = self.behind[inputs[0]], op.outputs[0]
        quantization = roomy(quantization, dtype, x.quantization.step,
                             self.grid(y, self.wanted.get(y, dtype)).step,
                             bias.data if bias is not None and bias.constant else 0.0)
        q = quantize(real, quantization, dtype)
        inputs[1] = self.view(self.graph.constant(q, op.inputs[1].name, quantization=quantization))
        if mean is not None:
            shift = bias_shift(op, real - dequantize(q, quantization), mean)
            inputs[2:3] = [self.graph.constant(shift if bias is None else bias.data + shift,
                                               f"{op.name}.bias")]

    def planes(self, op: Op, q: np.ndarray, given: Planes, mean: np.ndarray | None
               ) -> list[Tensor | None]:
        """Return weights as planes, and the bias of all planes; of fewer the shifts tell."""
        real, bias = op.inputs[1].data, op.inputs[2] if len(op.inputs) > 2 else None
        if mean is not None:
            shifts = np.stack([bias_shift(op, real - given.reals(q, t), mean).astype(np.float64)
                               for t in range(given.bits + 1)])
            given = given.shifted(shifts - shifts[-1])
            bias = self.graph.constant(
                (shifts[-1] if bias is None else bias.data + shifts[-1]).astype(np.float32),
                f"{op.name}.bias")
        return [self.view(self.graph.constant(q, op.inputs[1].name, quantization=given)), bias]

    def keep(self, x: Tensor, op: Op | None) -> None:
        """Quantize a new real tensor if its readers want integers."""
        dtype = self.wanted.get(x, "")
        if x in self.between:
            return
        if op is not None and self.dtype(op) not in INTEGERS:
            dtype = ""  # a float op's result: its readers convert it
        elif (op is not None and not dtype and not follows_readers(op)
              and op.code not in REAL_RESULTS):
            dtype = self.dtype(op)
        if not dtype:
            return
        source = self.behind.get(op.inputs[0]) if op is not None and keeps_grid(op) else None
        if source is not None and source.dtype == STORED[dtype]:
            quantization = source.quantization
        else:
            quantization = self.grid(x, dtype)
        self.stored[x] = self.graph.quantize(x, STORED[dtype], quantization)

    def run(self) -> None:
        """Rebuild the list of ops, in order."""
        self.want()
        old, self.graph.ops = self.graph.ops, []
        for boundary in self.graph.inputs:
            if boundary.tensor.dtype == "fp32":
                self.keep(boundary.tensor, None)
        for op in old:
            dtype = self.dtype(op)
            integer = dtype in INTEGERS
            if follows_readers(op) and not self.wanted.get(op.outputs[0]):
                integer = False
            inputs = list(op.inputs)
            for i, x in enumerate(op.inputs):
                if x is None or x.dtype != "fp32":
                    continue
                if x in self.between or x in self.coded:
                    continue
                if not x.constant:
                    inputs[i] = self.integers(x, dtype) if integer else self.real(x)
                elif integer and i == 1 and op.code in WEIGHTED:
                    self.weights(op, dtype, inputs)
                elif integer and op.code in WITH_CONSTANTS and op not in self.links:
                    inputs[i] = self.operand(x, op, dtype)
            op.inputs = inputs
            self.graph.ops.append(op)
            for y in op.outputs:
                if y.dtype == "fp32":
                    self.keep(y, op)


def insert(graph: Graph, dtypes: dict[Op, str], range_of: Range,
           weights_of: Callable[[Op, str], Quantization] | None = None,
           means: Mapping[str, np.ndarray] | None = None,
           planes_of: PlanesOf = lambda op: None) -> None:
    """Make every op that has an integer dtype read and write quantized tensors.

    Args:
        graph: optimized, in fp32; changed in place.
        dtypes: op -> dtype, from assign(); ops that are not in it stay real.
        range_of: (name of a real tensor, bits) -> (low, high) that its integers must cover.
        weights_of: (op, dtype) -> quantization of the op's weights; default: symmetric, per output
            channel, nothing clipped.
        means: name of a real tensor -> its mean per channel [C] over the calibration data; biases
            of layers that read such a tensor make up for the rounding of the weights.
        planes_of: op -> codes of its weights and what they mean, for weights that become bit
            planes; None for others.
    """
    def unclipped(op: Op, dtype: str) -> Quantization:
        return weight_quantization(op.inputs[1].data, WEIGHT_AXIS[op.code], dtype)

    _Inserter(graph, dtypes, range_of, weights_of or unclipped,
              means or {}, planes_of).run()
