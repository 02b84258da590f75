"""What the conversion functions share: values of the source's tensors, and a graph that folds."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tflite

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.quantization import Quantization, quantize
from edgerun.tools import reference
from edgerun.tools.graph import MOVES, Graph, Tensor
from edgerun.tools.importers.tflite.source import (
    MAX_ELEMENTS, NUMPY, SourceModel, SourceOp, SourceTensor)

Convert = Callable[["Context", SourceOp], "Tensor | list[Tensor]"]

# ActivationFunctionType -> (kind of a unary op, alpha, beta)
ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: ("", 0.0, 0.0),
    tflite.ActivationFunctionType.RELU: ("relu", 0.0, 0.0),
    tflite.ActivationFunctionType.RELU6: ("clip", 0.0, 6.0),
    tflite.ActivationFunctionType.RELU_N1_TO_1: ("clip", -1.0, 1.0),
    tflite.ActivationFunctionType.TANH: ("tanh", 0.0, 0.0),
}

# How LiteRT's kernels round sums of products, by the type of their first input and op, as measured
# with LiteRT 2.3 on x86; all other kernels round twice. Sums of int16 have 64 bits, and are mostly
# multiplied by 16.
ROUNDING = {
    **{(kind, op): "upward" for kind in ("INT8", "UINT8")
       for op in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")},
    **{("INT16", op): "short" for op in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV",
                                         "BATCH_MATMUL")},
    ("INT16", "FULLY_CONNECTED"): "once",
}
VECTOR = 8  # channels that LiteRT's depthwise convolution of int8 takes at once


@dataclass(frozen=True)
class Rule:
    """How one TFLite op is converted.

    Attributes:
        convert: returns the op's output tensors.
        inputs: fewest and most inputs.
        shape_only: the values of its inputs do not matter, so its result is known at pack time.
    """
    convert: Convert
    inputs: tuple[int, int]
    shape_only: bool = False


@dataclass(eq=False)
class Context:
    """A conversion under way.

    Conversion functions see real numbers only: input() of a quantized tensor is its dequantize, and
    what they return is quantized as the source declares it. Ops that only move elements move the
    integers: the real numbers behind them are a dequantize of what was moved.

    Attributes:
        source: the model being converted.
        graph: the graph being built.
        values: source tensor index -> its tensor in the graph, integers where it is quantized;
            constants are added when first used.
    """
    source: SourceModel
    graph: Graph
    values: dict[int, Tensor] = field(default_factory=dict)
    _copies: dict[tuple[Any, str], Tensor] = field(default_factory=dict)
    _reals: dict[Tensor, Tensor] = field(default_factory=dict)  # integers -> their dequantize
    _integers: dict[Tensor, Tensor] = field(default_factory=dict)  # the inverse

    def damaged(self, op: SourceOp, message: str) -> ModelError:
        """Return the error for an op whose operands contradict each other."""
        return ModelError(f"{self.source.path}: {op}: {message}")

    def unsupported(self, op: SourceOp, message: str) -> UnsupportedError:
        """Return the error for an op that is valid but not implemented in this form."""
        return UnsupportedError(f"{self.source.path}: {op}: {message}")

    def has(self, op: SourceOp, number: int) -> bool:
        """Whether the op's input is there."""
        return number < len(op.inputs) and op.inputs[number] >= 0

    def input(self, op: SourceOp, number: int) -> Tensor:
        """Return an input as a tensor of the graph, as real numbers if it is quantized.

        Raises:
            ModelError: it is left out though the op needs it.
        """
        return self.real(self.stored(op, number))

    def stored(self, op: SourceOp, number: int) -> Tensor:
        """Return an input as a tensor of the graph, as integers if it is quantized.

        Raises:
            ModelError: it is left out though the op needs it.
        """
        if not self.has(op, number):
            raise self.damaged(op, f"input {number} is missing")
        index = op.inputs[number]
        if index not in self.values:
            tensor = self.source.tensors[index]
            if tensor.data is None:
                why = ("keeps its state between runs" if tensor.variable
                       else "is of a type that edgerun has not")
                raise self.unsupported(op, f"reads {tensor.name!r} ({tensor.type}), which {why}")
            self.values[index] = self.constant(tensor)
        return self.values[index]

    def constant(self, tensor: SourceTensor) -> Tensor:
        """Return a constant of the source as a new one of the graph."""
        # the graph is fp32 throughout; what is stored in fp16 is the packer's decision
        dtype = "fp32" if tensor.type == "FLOAT16" else None
        quantization = tensor.quantization if tensor.integer_quantized else None
        return self.graph.constant(tensor.data, tensor.name, dtype, quantization)

    def real(self, tensor: Tensor) -> Tensor:
        """Return the real numbers that a quantized tensor means; any other tensor as it is."""
        if tensor.quantization is None:
            return tensor
        if tensor not in self._reals:
            self._reals[tensor] = self.graph.dequantize(tensor)
            self._integers[self._reals[tensor]] = tensor
        return self._reals[tensor]

    def integers(self, tensor: Tensor) -> Tensor:
        """Return the quantized tensor behind real numbers; any other tensor as it is."""
        return self._integers.get(tensor, tensor)

    def array(self, op: SourceOp, number: int, what: str) -> np.ndarray:
        """Return the values of an input that must be known at pack time.

        Args:
            op: the op.
            number: of the input.
            what: its meaning, for the message.

        Raises:
            UnsupportedError: it is computed at run time.
        """
        if self.has(op, number) and self.source.tensors[op.inputs[number]].data is not None:
            return self.source.tensors[op.inputs[number]].data
        tensor = self.input(op, number)
        if tensor.data is None:
            raise self.unsupported(op, f"{what} ({tensor.name!r}) is computed at run time, needed "
                                       "a constant; export the model with fixed shapes")
        return tensor.data

    def ints(self, op: SourceOp, number: int, what: str) -> list[int]:
        """Return array() as a list of integers, from a scalar or a vector.

        Raises:
            ModelError: the values are not integers.
            UnsupportedError: they are computed at run time.
        """
        values = self.array(op, number, what)
        if values.dtype.kind not in "iu":
            raise self.damaged(op, f"{what} has the type {values.dtype}, needed integers")
        return [int(n) for n in values.reshape(-1)]

    def weights(self, op: SourceOp, number: int) -> Tensor:
        """Return an input that may be weights: as it is stored if it is a constant, also one
        behind a DEQUANTIZE, else as input() does.

        TFLite's own kernels quantize the activations of a float op with integer weights as well
        (symmetric, one scale per batch entry); edgerun computes with the exact activations instead.
        """
        tensor = self.integers(self.stored(op, number))
        return tensor if tensor.constant else self.real(tensor)

    def own(self, op: SourceOp, tensor: Tensor, role: str, shape: Sequence[int] = ()) -> Tensor:
        """Return a copy of a constant for one role, in another shape if given; of a quantized one
        the dequantize of a copy.

        Later steps treat weights, biases and other constants differently (order, precision), so a
        constant that a model uses in two roles must not be one tensor. Equal uses share a copy.

        Raises:
            ModelError: it is made of integers without a scale.
            UnsupportedError: it is computed at run time.
        """
        tensor = self.integers(tensor)
        if tensor.data is None:
            raise self.unsupported(op, f"its {role} {tensor.name!r} are computed at run time, "
                                       "needed a constant")
        self.require_scale(op, tensor, "its weights ")
        key = (tensor, f"{role} {tuple(shape)}")
        if key not in self._copies:
            shape, quantization = tuple(shape) or tensor.shape, tensor.quantization
            if quantization is not None:
                quantization = _carried(quantization, "reshape", tensor.shape, {"shape": shape})
                if quantization is None:
                    raise self.damaged(op, f"its {role} {tensor.name!r} have scales along axis "
                                           f"{tensor.quantization.axis} of {tensor.shape}, which "
                                           f"{shape} has not")
            self._copies[key] = self.graph.constant(tensor.data.reshape(shape), tensor.name,
                                                    quantization=quantization)
        return self.real(self._copies[key])

    def require_scale(self, op: SourceOp, tensor: Tensor, what: str = "") -> None:
        """Refuse integers of which nobody knows what they mean."""
        if tensor.dtype in dtypes.QUANTIZED and tensor.quantization is None:
            raise self.damaged(op, f"{what}{tensor.name!r} are {tensor.dtype.upper()} without a "
                                   "scale")

    def bias(self, op: SourceOp, number: int, x: Tensor, w: Tensor, channels: int
             ) -> Tensor | None:
        """Return an optional bias input [channels] as real numbers.

        Args:
            op, number: the op and the input.
            x, w: what the op multiplies. If they are quantized the bias is made of integers whose
                scale is the product of theirs: what the file says of it does not count.
            channels: its elements.

        Raises:
            ModelError: it does not fit.
        """
        if not self.has(op, number):
            return None
        source = self.source.tensors[op.inputs[number]]
        if source.data is None or source.type not in ("INT32", "INT64"):
            bias = self.weights(op, number)
            if bias.data is not None and bias.data.size != channels:
                raise self.damaged(op, f"its bias has {bias.data.size} elements, needed {channels}")
            return self.own(op, bias, "bias", (channels,))
        if source.data.size != channels:
            raise self.damaged(op, f"its bias has {source.data.size} elements, needed {channels}")
        scales = [self.integers(tensor).quantization for tensor in (x, w)]
        if None in scales or len(scales[0].scale) > 1 or len(scales[1].scale) not in (1, channels):
            raise self.damaged(op, f"its bias {source.name!r} is {source.type}, needed a quantized "
                                   "input and weights with one scale, or one per channel")
        scale = scales[0].scale.astype(np.float64) * scales[1].scale
        key = (source.index, f"bias {scale.tobytes()!r}")
        if key not in self._copies:
            self._copies[key] = self._integer_bias(source, scale, channels)
        return self.real(self._copies[key])

    def _integer_bias(self, source: SourceTensor, scale: np.ndarray, channels: int) -> Tensor:
        values = source.data.reshape(channels).astype(np.int64)
        if values.min(initial=0) < -2**31 or values.max(initial=0) >= 2**31:
            self.graph.notes.append(f"the bias {source.name!r} has values beyond 32 bits; it is "
                                    "kept in fp32, rounded to 24 bits")
            return self.graph.constant((values * scale).astype(np.float32), source.name)
        quantization = Quantization(scale.astype(np.float32), np.zeros(len(scale), np.int32),
                                    0 if len(scale) > 1 else -1)
        return self.graph.constant(values.astype(np.int32), source.name, quantization=quantization)

    def store(self, op: SourceOp, declared: SourceTensor, y: Tensor) -> Tensor:
        """Return the integers that the source declares for an output, of real numbers or of what
        already is made of such integers.

        Raises:
            UnsupportedError: they have a scale per channel, or the op computes with what is stored.
        """
        dtype, quantization = dtypes.name_of(NUMPY[declared.type]), declared.quantization
        integers = self.integers(y)
        if integers.dtype == dtype and (integers.quantization is None
                                        or integers.quantization.grid == quantization.grid):
            if integers.quantization is None and not integers.constant:
                raise self.unsupported(op, f"its output {declared.name!r} has a scale, but it is "
                                           f"made of plain {declared.type}")
            if integers.quantization is None:
                return self.graph.constant(integers.data, declared.name, quantization=quantization)
            return integers
        if quantization.axis >= 0:
            raise self.unsupported(op, f"its output {declared.name!r} has a scale per channel, "
                                       "needed one")
        if y.dtype not in dtypes.FLOAT:
            raise self.unsupported(op, f"its output {declared.name!r} is quantized, but its inputs "
                                       f"make it plain {y.dtype}")
        quantization = replace(quantization, rounding=self.rounding(op))
        if y.constant:
            return self.graph.constant(quantize(y.data, quantization, dtype), declared.name,
                                       quantization=quantization)
        return self.graph.quantize(y, dtype, quantization)

    def rounding(self, op: SourceOp) -> str:
        """Return how LiteRT's kernel of an op rounds what it stores."""
        at = 2 if op.type == "TRANSPOSE_CONV" else 0
        types = [self.source.tensors[n].type if n >= 0 else "" for n in op.inputs]
        bias = "".join(types[at + 1 if at else 2:])
        narrow = (bias == "INT32" if bias
                  else op.option("QuantizedBiasType") == tflite.TensorType.INT32)
        if narrow and types[at] == "INT16" and (types[at], op.type) in ROUNDING:  # 32-bit sums
            return "upward"
        if op.type == "DEPTHWISE_CONV_2D" and types[0] == "INT8":
            # the kernel rounds upwards by vectors, and what fills none away from zero: all, or the
            # last few channels, for which there is no word
            channels = self.source.tensors[op.inputs[1]].shape[-1:]
            return "upward" if channels and channels[0] >= VECTOR else "twice"
        return ROUNDING.get((types[at], op.type), "twice")

    def add(self, code: str, inputs: Sequence[Tensor | None], op: SourceOp,
            **options: Any) -> Tensor:
        """Append an op of the graph, or evaluate it now if every input is a constant.

        Args:
            code, inputs, options: of the op; inputs and result are real numbers, not integers that
                stand for them.
            op: the source's.

        Raises:
            ModelError: it computes with integers without a scale.
        """
        moved = self._integers.get(inputs[0])
        if moved is not None and code in MOVES:
            quantization = _carried(moved.quantization, code, moved.shape, options)
            if quantization is not None:
                return self.real(self._append(code, [moved, *inputs[1:]], op, options,
                                              quantization))
        if code not in (*MOVES, "concat", "pad", "where", "cast"):
            for tensor in inputs:
                if tensor is not None:
                    self.require_scale(op, tensor)
        return self._append(code, inputs, op, options)

    def _append(self, code: str, inputs: Sequence[Tensor | None], op: SourceOp,
                options: dict[str, Any], quantization: Quantization | None = None) -> Tensor:
        present = [tensor for tensor in inputs if tensor is not None]
        y = self.graph.add(code, inputs, op.name, quantization, **options)
        if not all(tensor.constant for tensor in present):
            return y
        built = self.graph.ops.pop()
        self.limit(op, int(np.prod(y.shape, dtype=object)))
        arrays = [None if tensor is None else tensor.data for tensor in inputs]
        return self.graph.constant(reference.evaluate(built, arrays)[0], op.name,
                                   quantization=quantization)

    def limit(self, op: SourceOp, elements: int) -> None:
        """Refuse to build a constant so large that only a damaged file asks for it."""
        if elements > MAX_ELEMENTS:
            raise self.damaged(op, f"its constant result has {elements} elements, at most "
                                   f"{MAX_ELEMENTS} are possible")

    def reshape(self, x: Tensor, shape: Sequence[int], op: SourceOp) -> Tensor:
        """Return x in another shape; x itself if it already has it."""
        shape = tuple(int(n) for n in shape)
        if x.shape == shape:
            return x
        if x.data is not None:
            return self.graph.constant(x.data.reshape(shape), op.name)
        return self.add("reshape", [x], op, shape=shape)

    def transpose(self, x: Tensor, perm: Sequence[int], op: SourceOp) -> Tensor:
        """Return x with its axes in another order; x itself if the order is the same."""
        perm = tuple(perm)
        return x if perm == tuple(range(len(perm))) else self.add("transpose", [x], op, perm=perm)

    def slice(self, x: Tensor, starts: Sequence[int], sizes: Sequence[int], op: SourceOp,
              steps: Sequence[int] = ()) -> Tensor:
        """Return a part of x; x itself if it is all of it."""
        steps = tuple(steps) or (1,) * len(x.shape)
        if tuple(sizes) == x.shape and all(step == 1 for step in steps):
            return x
        if 0 in sizes:  # legal in the arithmetic of shapes only
            if x.data is not None:
                return self.graph.constant(np.zeros(sizes, x.data.dtype), op.name)
            raise self.unsupported(op, "its result has no elements")
        return self.add("slice", [x], op, starts=tuple(starts), steps=steps, sizes=tuple(sizes))

    def activation(self, op: SourceOp) -> dict[str, Any]:
        """Return the fused activation as options activation, alpha, beta."""
        number = op.option("FusedActivationFunction")
        if number not in ACTIVATIONS:
            raise self.unsupported(op, f"has the fused activation {number}, known are NONE, RELU, "
                                       "RELU_N1_TO_1, RELU6, TANH")
        kind, alpha, beta = ACTIVATIONS[number]
        return {"activation": kind, "alpha": alpha, "beta": beta}

    def activate(self, y: Tensor, op: SourceOp) -> Tensor:
        """Append the fused activation as an op of its own."""
        options = self.activation(op)
        kind = options.pop("activation")
        return self.add("unary", [y], op, kind=kind, **options) if kind else y

    def axis(self, op: SourceOp, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            ModelError: there is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.damaged(op, f"axis {axis} of {rank} dimensions")
        return axis % rank

    def output_type(self, op: SourceOp, number: int = 0) -> np.dtype:
        """Return the NumPy type of an output as the source declares it."""
        name = self.source.tensors[op.outputs[number]].type
        if name not in NUMPY:
            raise self.unsupported(op, f"its output is {name}, which cannot be imported")
        return np.dtype(NUMPY[name])


def _carried(quantization: Quantization, code: str, shape: tuple[int, ...],
             options: dict[str, Any]) -> Quantization | None:
    """Return the quantization of moved integers, None if no axis has its scales any more."""
    axis = quantization.axis
    if axis < 0:
        return quantization
    if code == "transpose":
        return quantization.transposed(options["perm"])
    if code == "reshape":
        for k, n in enumerate(options["shape"]):
            if n == shape[axis] and math.prod(options["shape"][:k]) == math.prod(shape[:axis]):
                return replace(quantization, axis=k)
    return None
