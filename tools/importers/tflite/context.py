"""What the conversion functions share: values of the source's tensors, and a graph that folds."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tflite

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools import reference
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.importers.tflite.source import MAX_ELEMENTS, NUMPY, SourceModel, SourceOp

Convert = Callable[["Context", SourceOp], "Tensor | list[Tensor]"]

# ActivationFunctionType -> (kind of a unary op, alpha, beta)
ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: ("", 0.0, 0.0),
    tflite.ActivationFunctionType.RELU: ("relu", 0.0, 0.0),
    tflite.ActivationFunctionType.RELU6: ("clip", 0.0, 6.0),
    tflite.ActivationFunctionType.RELU_N1_TO_1: ("clip", -1.0, 1.0),
    tflite.ActivationFunctionType.TANH: ("tanh", 0.0, 0.0),
}


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

    Attributes:
        source: the model being converted.
        graph: the graph being built.
        values: source tensor index -> its tensor in the graph; constants are added when first used.
    """
    source: SourceModel
    graph: Graph
    values: dict[int, Tensor] = field(default_factory=dict)
    _copies: dict[tuple[Any, str], Tensor] = field(default_factory=dict)

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
        """Return an input as a tensor of the graph.

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
            # the graph is fp32 throughout; what is stored in fp16 is the packer's decision
            dtype = "fp32" if tensor.type == "FLOAT16" else None
            self.values[index] = self.graph.constant(tensor.data, tensor.name, dtype)
        return self.values[index]

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
        """Return a weights input in fp32: integer weights of a float op are dequantized here.

        TFLite's own kernels quantize the activations of such an op as well (symmetric, one scale
        per batch entry); edgerun computes with the exact activations instead.
        """
        if not self.has(op, number):
            raise self.damaged(op, f"input {number} is missing")
        source = self.source.tensors[op.inputs[number]]
        tensor = self.input(op, number)
        if tensor.data is None or tensor.dtype in dtypes.FLOAT:
            return tensor
        if source.quantization is None:
            raise self.damaged(op, f"its weights {source.name!r} are {source.type} without a scale")
        key = (source.index, "dequantized")
        if key not in self._copies:
            self._copies[key] = self.graph.constant(source.quantization.dequantize(tensor.data),
                                                    source.name)
        return self._copies[key]

    def own(self, op: SourceOp, tensor: Tensor, role: str, shape: Sequence[int] = ()) -> Tensor:
        """Return a copy of a constant for one role, in another shape if given.

        Later steps treat weights, biases and other constants differently (order, precision), so a
        constant that a model uses in two roles must not be one tensor. Equal uses share a copy.

        Raises:
            UnsupportedError: it is computed at run time.
        """
        if tensor.data is None:
            raise self.unsupported(op, f"its {role} {tensor.name!r} are computed at run time, "
                                       "needed a constant")
        key = (tensor, f"{role} {tuple(shape)}")
        if key not in self._copies:
            data = tensor.data.reshape(shape) if shape else tensor.data
            self._copies[key] = self.graph.constant(data, tensor.name)
        return self._copies[key]

    def bias(self, op: SourceOp, number: int, channels: int) -> Tensor | None:
        """Return an optional bias input [channels] in fp32."""
        if not self.has(op, number):
            return None
        bias = self.weights(op, number)
        if bias.data is not None and bias.data.size != channels:
            raise self.damaged(op, f"its bias has {bias.data.size} elements, needed {channels}")
        return self.own(op, bias, "bias", (channels,))

    def add(self, code: str, inputs: Sequence[Tensor | None], op: SourceOp,
            **options: Any) -> Tensor:
        """Append an op of the graph, or evaluate it now if every input is a constant."""
        present = [tensor for tensor in inputs if tensor is not None]
        y = self.graph.add(code, inputs, op.name, **options)
        if not all(tensor.constant for tensor in present):
            return y
        built = self.graph.ops.pop()
        self.limit(op, int(np.prod(y.shape, dtype=object)))
        arrays = [None if tensor is None else tensor.data for tensor in inputs]
        return self.graph.constant(reference.evaluate(built, arrays)[0], op.name)

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
