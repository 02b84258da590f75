"""Put quantize and dequantize around ops that compute on integers."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.quantization import Quantization, limits, quantize
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.quantize.assign import INTEGERS, WEIGHTED, keeps_grid

STORED = {"int8": "uint8", "int16": "int16"}  # dtype of activations, by the dtype of an op
WEIGHT_AXIS = {"conv2d": 0, "conv_transpose2d": 0, "dense": 0, "depthwise_conv2d": 2}
# Ops on integers that write real numbers by themselves where nobody wants integers.
REAL_RESULTS = (*WEIGHTED, "matmul", "softmax")
SMALLEST = 2.0**-60  # a scale below this would be rounded to 0 somewhere

Range = Callable[[str, int], tuple[float, float]]


def activation_quantization(low: float, high: float, dtype: str) -> Quantization:
    """Return scale and zero point that cover a range, 0 always exactly among its numbers.

    int8 (stored as uint8) is affine: scale = (high - low) / 255, zero_point = round(-low / scale);
    int16 is symmetric: scale = max(|low|, |high|) / 32767, zero_point = 0 (Das et al., "Mixed
    precision training of CNNs using integer operations", 2018, section 3).

    Args:
        low, high: of the real numbers; widened to hold 0.
        dtype: "int8" or "int16".
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if dtype == "int16":
        top = max(-low, high)
        return Quantization.per_tensor(max(top / 32767, SMALLEST) if top else 1 / 32767)
    scale = float(np.float32(max((high - low) / 255, SMALLEST))) if high > low else 1 / 255
    return Quantization.per_tensor(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def weight_quantization(weights: np.ndarray, axis: int, dtype: str) -> Quantization:
    """Return symmetric scales per output channel: max |w| over the largest integer."""
    largest = limits(dtype)[1]
    others = tuple(k for k in range(weights.ndim) if k != axis)
    top = np.abs(weights).max(axis=others)
    scale = np.where(top > 0, np.maximum(top / largest, SMALLEST), 1.0)
    return Quantization(scale.astype(np.float32), np.zeros(len(scale), np.int32), axis)


class _Inserter:
    def __init__(self, graph: Graph, dtypes: dict[Op, str], range_of: Range,
                 weights_of: Callable[[Op, str], Quantization]):
        self.graph, self.dtypes, self.range_of, self.weights_of = (
            graph, dtypes, range_of, weights_of)
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
                if keeps_grid(op):
                    dtype = self.wanted.get(op.outputs[0], "") if dtype in INTEGERS else ""
                if dtype in INTEGERS:
                    self.wanted[x] = max(dtype, self.wanted.get(x, ""),
                                         key=("", "int16", "int8").index)

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
            source = self.real(x)
            quantization = activation_quantization(*self.range_of(x.name, bits(dtype)), dtype)
            self.narrowed[x, dtype] = self.graph.quantize(source, STORED[dtype], quantization)
        return self.view(self.narrowed[x, dtype])

    def operand(self, x: Tensor, dtype: str) -> Tensor:
        """Return a constant operand as quantized integers."""
        low, high = float(x.data.min(initial=0)), float(x.data.max(initial=0))
        quantization = activation_quantization(low, high, dtype)
        return self.view(self.graph.constant(quantize(x.data, quantization, STORED[dtype]),
                                             x.name, quantization=quantization))

    def weights(self, op: Op, dtype: str) -> Tensor:
        quantization = self.weights_of(op, dtype)
        return self.view(self.graph.constant(quantize(op.inputs[1].data, quantization, dtype),
                                             op.inputs[1].name, quantization=quantization))

    def keep(self, x: Tensor, op: Op | None) -> None:
        """Quantize a new real tensor if its readers want integers."""
        dtype = self.wanted.get(x, "")
        if op is not None and self.dtype(op) not in INTEGERS:
            dtype = ""  # a float op's result: its readers convert it
        elif op is not None and not dtype and not keeps_grid(op) and op.code not in REAL_RESULTS:
            dtype = self.dtype(op)
        if not dtype:
            return
        source = self.behind.get(op.inputs[0]) if op is not None and keeps_grid(op) else None
        if source is not None and source.dtype == STORED[dtype]:
            quantization = source.quantization
        else:
            quantization = activation_quantization(*self.range_of(x.name, bits(dtype)), dtype)
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
            if keeps_grid(op) and integer and not self.wanted.get(op.outputs[0]):
                integer = False
            inputs = list(op.inputs)
            for i, x in enumerate(op.inputs):
                if x is None or x.dtype != "fp32":
                    continue
                if not x.constant:
                    inputs[i] = self.integers(x, dtype) if integer else self.real(x)
                elif integer and i == 1 and op.code in WEIGHTED:
                    inputs[i] = self.weights(op, dtype)
                elif integer and op.code in ("binary", "matmul", "concat"):
                    inputs[i] = self.operand(x, dtype)
            op.inputs = inputs
            self.graph.ops.append(op)
            for y in op.outputs:
                if y.dtype == "fp32":
                    self.keep(y, op)


def bits(dtype: str) -> int:
    """Return the bits of an integer dtype."""
    return {"int8": 8, "int16": 16}[dtype]


def insert(graph: Graph, dtypes: dict[Op, str], range_of: Range,
           weights_of: Callable[[Op, str], Quantization] | None = None) -> None:
    """Make every op that has an integer dtype read and write quantized tensors.

    Args:
        graph: optimized, in fp32; changed in place.
        dtypes: op -> dtype, from assign(); ops that are not in it stay real.
        range_of: (name of a real tensor, bits) -> (low, high) that its integers must cover.
        weights_of: (op, dtype) -> quantization of the op's weights; default: symmetric, per output
            channel, nothing clipped.
    """
    def unclipped(op: Op, dtype: str) -> Quantization:
        return weight_quantization(op.inputs[1].data, WEIGHT_AXIS[op.code], dtype)

    _Inserter(graph, dtypes, range_of, weights_of or unclipped).run()
