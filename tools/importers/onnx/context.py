"""What the ONNX op functions work with: values, nodes, and the graph being built."""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.planes.codes import Planes


@dataclass(frozen=True, eq=False)
class Integers:
    """Integers that are stored in place of real numbers, in the source model's shape."""
    q: np.ndarray
    quantization: Quantization

    def moved(self, make: Callable[[np.ndarray], np.ndarray], factor: float = 1.0
              ) -> Integers | None:
        """Return the integers of make(reals) * factor.

        Args:
            make: moves or repeats elements, without changing them.
            factor: of the reals.

        Returns:
            None if no one scale, or one per index of an axis, describes them any more.
        """
        given, q = self.quantization, make(self.q)
        scale, zero, axis = given.scale * np.float32(factor), given.zero_point, -1
        if q.size == 0 or not np.all((scale > 0) & np.isfinite(scale)):
            return None
        if given.axis != -1:  # follow the indices of the axis
            shape = [-1 if k == given.axis else 1 for k in range(self.q.ndim)]
            which = make(np.broadcast_to(np.arange(len(scale)).reshape(shape), self.q.shape))
            differing = [k for k in range(which.ndim) if (which != which.take([0], k)).any()]
            if len(differing) > 1:
                return None
            axis = differing[0] if differing else -1
            along = np.moveaxis(which, axis, -1).reshape(-1, which.shape[axis])[0]
            along = along if differing else along[:1]
            scale, zero = scale[along], zero[along]
            if isinstance(given, Planes):
                axis = q.shape.index(1) if axis == -1 else axis  # of a single output channel
                return Integers(np.ascontiguousarray(q), given.taken(along, axis, factor))
        return Integers(np.ascontiguousarray(q), Quantization(scale, zero, axis))


@dataclass(frozen=True)
class HostCall:
    """A host op to be added when all outputs are declared; see Graph.host()."""
    code: str
    name: str
    inputs: tuple[Tensor, ...]
    options: dict[str, float]


@dataclass(eq=False)
class Value:
    """An ONNX value: its contents if they are known at pack time, else the tensor that holds them.

    Attributes:
        array: contents, in the source model's dtype.
        tensor: of the graph; for a known value, the constant made when a device op first reads it.
        lost: neither is there, because the node that makes it is not supported.
        integers: of a known value that the source model stores as integers; `array` has the real
            numbers.
        host: the host op that makes it, after the graph: only an output of the model can be such.
    """
    array: np.ndarray | None = None
    tensor: Tensor | None = None
    lost: bool = False
    integers: Integers | None = None
    host: HostCall | None = None

    @property
    def known(self) -> bool:
        """Whether the contents are known at pack time."""
        return self.array is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return self.array.shape if self.array is not None else self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy type: the source model's for contents, the device's for a tensor."""
        if self.array is not None:
            return self.array.dtype
        return dtypes.numpy_dtype(self.tensor.dtype)


class Refused(Exception):
    """An op of the graph refuses its inputs: a wrong model, or edgerun does less than ONNX."""


class Node:
    """An ONNX node with its attributes decoded and its inputs looked up.

    Attributes:
        op_type, domain: as in the model; domain "" is ai.onnx.
        name: of the node, or of its first output if it has none.
        opset: version of its domain.
        inputs: values, None where an optional one is left out.
        outputs: names, "" where an optional one is left out or nothing reads it.
    """

    def __init__(self, proto: onnx.NodeProto, opset: int, inputs: list[Value | None]):
        self.proto = proto
        self.op_type = proto.op_type
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.name = proto.name or next((name for name in proto.output if name), proto.op_type)
        self.opset = opset
        self.inputs = inputs
        self.outputs = list(proto.output)
        names = (proto.op_type, proto.domain, proto.name, *proto.input, *proto.output)
        if not all(isinstance(name, str) for name in names):  # protobuf gives bytes then
            raise ModelError(f"{self}: has a name that is not UTF-8 text")
        try:
            self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        except ValueError as error:
            raise ModelError(f"{self}: has a damaged attribute: {error}") from None

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}"

    def reading(self, inputs: list[Value | None], opset: int | None = None) -> Node:
        """Return the same node with other inputs, as one of another version if given."""
        other = copy.copy(self)
        other.inputs, other.opset = inputs, opset or self.opset
        return other

    def input_name(self, index: int) -> str:
        """Return the name of an input in the source model."""
        return self.proto.input[index] if index < len(self.proto.input) else f"input {index}"

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute (text as str, lists as lists), or `default` if it is absent."""
        value = self._attributes.get(name, default)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, onnx.TensorProto):
            return contents(value, f"{self}: {name}")
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
        return value

    def given(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def used(self, index: int) -> bool:
        """Whether something reads the output."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def value(self, index: int) -> Value:
        """Return an input.

        Raises:
            ModelError: it is missing.
        """
        if not self.given(index):
            raise ModelError(f"input {index} is missing")
        return self.inputs[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of an input."""
        return self.value(index).shape

    def known(self, index: int, what: str) -> np.ndarray:
        """Return the contents of an input.

        Raises:
            UnsupportedError: they are computed at run time.
        """
        value = self.value(index)
        if not value.known:
            raise UnsupportedError(f"its {what} is computed at run time, needed a constant")
        return value.array

    def single(self, index: int, what: str) -> int | float | bool:
        """Return an input that is one number.

        Raises:
            ModelError: it has more elements, or none.
            UnsupportedError: it is computed at run time.
        """
        return single(self.known(index, what), what)

    def ints(self, name: str, index: int, since: int) -> list[int] | None:
        """Return a list that is an attribute before opset `since` and an input from then on.

        Returns:
            The integers, or None if it is absent.

        Raises:
            UnsupportedError: it is an input that is computed at run time.
        """
        if self.opset < since:
            return self.attr(name)
        if not self.given(index):
            return None
        return [int(v) for v in self.known(index, name).reshape(-1)]


class Context:
    """Builds the graph for one node at a time.

    Attributes:
        graph: being built.
        node: whose function runs; names the ops it adds.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.node: Node | None = None
        self._derived: dict[tuple[int, str], tuple[Value, Tensor]] = {}

    def add(self, code: str, inputs: Sequence[Tensor | None], **options: Any) -> Tensor:
        """Append an op named after the node; returns its (first) output."""
        return self.add_all(code, inputs, **options)[0]

    def add_all(self, code: str, inputs: Sequence[Tensor | None], **options: Any) -> list[Tensor]:
        """Like add(); returns all outputs."""
        if any(0 in t.shape for t in inputs if t is not None):
            raise UnsupportedError("it reads an empty tensor at run time")
        try:
            return self.graph.insert(len(self.graph.ops), code, inputs, self.node.name,
                                     **options).outputs
        except ModelError as error:
            raise Refused(str(error)) from None

    def constant(self, values: Any, like: Tensor | None = None) -> Tensor:
        """Return a new constant, in the dtype of `like` if given."""
        return self.graph.constant(values, f"{self.node.name}.const",
                                   like.dtype if like is not None else None)

    def tensor(self, index: int) -> Tensor:
        """Return an input as a tensor of the graph; contents become a constant, once."""
        value = self.node.value(index)
        if value.tensor is None:
            if dtypes_name(value.array.dtype) is None:
                raise UnsupportedError(f"an input is {value.array.dtype}")
            if 0 in value.shape:
                raise UnsupportedError("it reads an empty tensor at run time")
            if value.integers is None:
                value.tensor = self.graph.constant(value.array, f"{self.node.name}.const")
            else:
                value.tensor = self._real(value.integers, f"{self.node.name}.const",
                                          dtypes_name(value.array.dtype))
        return value.tensor

    def derived(self, index: int, purpose: str, make: Callable[[np.ndarray], np.ndarray],
                factor: float = 1.0, dtype: str | None = None) -> Tensor:
        """Return a constant made from the contents of an input, shared by all nodes of a purpose.
        What the source model stores as integers stays that, behind a dequantize.

        Args:
            index: of an input that is known.
            purpose: key of the transformation.
            make: array -> array; moves or repeats elements, without changing them.
            factor: by which they are multiplied.
            dtype: of the real numbers; default that of the input.
        """
        value = self.node.value(index)
        key = (id(value), f"{purpose}*{factor}")
        if key not in self._derived:  # the value is kept too, so that its id stays its own
            name = f"{self.node.name}.{purpose}"
            stored = value.integers and value.integers.moved(make, factor)
            if stored:
                tensor = self._real(stored, name, dtype or dtypes_name(value.array.dtype))
            else:
                reals = make(value.array)
                if dtype:
                    reals = reals.astype(dtypes.numpy_dtype(dtype))
                if factor != 1:
                    reals = (factor * reals).astype(reals.dtype)
                tensor = self.graph.constant(reals, name)
            self._derived[key] = (value, tensor)
        return self._derived[key][1]

    def _real(self, integers: Integers, name: str, dtype: str) -> Tensor:
        """Return constant integers as real numbers."""
        q = self.graph.constant(integers.q, name, quantization=integers.quantization)
        return self.add("dequantize", [q], dtype=dtypes.device_dtype(dtype))

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """Return x with its axes in the order `perm`."""
        if list(perm) == list(range(len(x.shape))):
            return x
        return self.add("transpose", [x], perm=list(perm))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return x with another shape of the same size."""
        if tuple(shape) == x.shape:
            return x
        if math.prod(shape) != math.prod(x.shape):
            raise ModelError(f"the shape {x.shape} does not fit into {tuple(shape)}")
        return self.add("reshape", [x], shape=[int(n) for n in shape])

    def channels_last(self, x: Tensor) -> Tensor:
        """Return [N, C, ...] as [N, ..., C]."""
        return self.transpose(x, [0, *range(2, len(x.shape)), 1])

    def channels_first(self, x: Tensor) -> Tensor:
        """Return [N, ..., C] as [N, C, ...]."""
        rank = len(x.shape)
        return self.transpose(x, [0, rank - 1, *range(1, rank - 1)])

    def image(self, x: Tensor) -> Tensor:
        """Return [N, C, W] or [N, C, H, W] as [N, H, W, C].

        Raises:
            UnsupportedError: there are more than two spatial axes, or none.
        """
        if len(x.shape) not in (3, 4):
            raise UnsupportedError(f"it has {len(x.shape) - 2} spatial axes, needed 1 or 2")
        y = self.channels_last(x)
        return y if len(y.shape) == 4 else self.reshape(y, (y.shape[0], 1, *y.shape[1:]))

    def from_image(self, x: Tensor, rank: int) -> Tensor:
        """Undo image() for a source tensor of 3 or 4 dimensions."""
        if rank == 3:
            x = self.reshape(x, (x.shape[0], *x.shape[2:]))
        return self.channels_first(x)


def contents(tensor: onnx.TensorProto, where: str) -> np.ndarray:
    """Return the contents of an ONNX tensor.

    Raises:
        ModelError: it is damaged.
    """
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # whatever NumPy, struct and protobuf raise
        raise ModelError(f"{where}: is a damaged tensor: {error}") from None


def dtypes_name(dtype: np.dtype) -> str | None:
    """Return the dtype name of a NumPy type, None if edgerun has none."""
    try:
        return dtypes.name_of(dtype)
    except ModelError:
        return None


def single(values: np.ndarray, what: str) -> int | float | bool:
    """Return the only element of an array.

    Raises:
        ModelError: it has more, or none.
    """
    if np.size(values) != 1:
        raise ModelError(f"its {what} has {np.size(values)} elements, needed 1")
    return np.asarray(values).item()


def normal_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        ModelError: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise ModelError(f"axis {axis} of {rank} dimensions")
    return axis % rank if rank else 0


def need(condition: bool, reason: str) -> None:
    """Raise UnsupportedError with the reason unless the condition holds."""
    if not condition:
        raise UnsupportedError(reason)
