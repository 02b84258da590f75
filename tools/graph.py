"""The packer's graph: NHWC tensors and ops that importers build, passes rewrite, the writer stores.

Op codes, options and shape rules are those of the runtime (edgerun.ops): an op that cannot be
inferred cannot be added.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgerun import dtypes, flat, host_ops
from edgerun.errors import ModelError
from edgerun.model import Patch
from edgerun.ops import OPS
from edgerun.quantization import Quantization
from edgerun.regions import Region, region

# Ops that only move elements of their first input: what they write means what they read.
MOVES = ("reshape", "transpose", "slice", "tile", "expand", "gather")


@dataclass(eq=False)
class Tensor:
    """A tensor of the graph; compared by identity.

    Attributes:
        name: unique in the graph.
        shape: row-major, innermost last; NHWC where it is an image.
        dtype: name as in edgerun.dtypes.
        data: the values of a constant, in `shape`; None otherwise.
        layout: "rows", or "oc16" and its like once the layout pass has cut weights into blocks
            (`data` is flat then).
        quantization: what real numbers the integers of the tensor mean; None if it is not
            quantized.
        hidden: the session writes it before each run, no op and no caller: see Graph.used().
    """
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    layout: str = "rows"
    quantization: Quantization | None = None
    hidden: bool = False

    @property
    def constant(self) -> bool:
        """Whether the values are known at pack time."""
        return self.data is not None

    @property
    def bytes(self) -> int:
        """Bytes of the elements, with what fills up the last word of input channels."""
        return dtypes.stored_bytes(self.shape, self.dtype, self.layout)

    @property
    def pitch(self) -> int:
        """0: what is a view is told beside the graph, by View."""
        return 0


@dataclass(frozen=True)
class View:
    """Where a tensor lies that has no bytes of its own.

    Attributes:
        root: the tensor in whose bytes it lies; no view itself.
        at: bytes from the start of the root.
        pitch: elements from one position of the last axis to the next; 0: dense rows.
    """
    root: Tensor
    at: int = 0
    pitch: int = 0


Views = dict[Tensor, View]


def root_of(views: Views, tensor: Tensor) -> Tensor:
    """Return the tensor in whose bytes `tensor` lies: itself, if it is no view."""
    view = views.get(tensor)
    return tensor if view is None else view.root


def placed(views: Views, tensor: Tensor) -> tuple[Tensor, Region]:
    """Return the tensor in whose bytes `tensor` lies, and which of them it has."""
    view = views.get(tensor)
    root, at, pitch = (tensor, 0, 0) if view is None else (view.root, view.at, view.pitch)
    return root, region(at, tensor.shape, dtypes.size(tensor.dtype), pitch)


@dataclass(eq=False)
class Op:
    """An op of the graph; compared by identity. Optional inputs left out are None."""
    code: str
    name: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.code} {self.name!r}"


@dataclass
class Boundary:
    """A graph input or output as the source model declares it; device = source.transpose(perm).

    An input that is streamed has pieces: (strip of rows, its first row), and is never there whole;
    `tensor` is the first of them then.
    """
    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    dtype: str
    perm: tuple[int, ...] = ()
    pieces: list[tuple[Tensor, int]] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that hold it: one, or the strips of a streamed input."""
        return [strip for strip, _ in self.pieces] or [self.tensor]


@dataclass
class HostOp:
    """An op that the host computes of the graph's outputs; see edgerun/host_ops.py.

    Attributes:
        inputs: names of outputs of the graph, or of host ops before it.
        outputs: name, shape (-1: depends on what is found) and dtype.
    """
    code: str
    name: str
    inputs: list[str]
    outputs: list[tuple[str, tuple[int, ...], str]]
    options: dict[str, float]


@dataclass
class Graph:
    """Ops in execution order, with the boundary. Tensors are reached through ops and boundary."""
    name: str = ""
    source: str = ""
    ops: list[Op] = field(default_factory=list)
    inputs: list[Boundary] = field(default_factory=list)
    outputs: list[Boundary] = field(default_factory=list)
    host_ops: list[HostOp] = field(default_factory=list)
    results: list[str] = field(default_factory=list)  # what the caller gets, [] for the outputs
    notes: list[str] = field(default_factory=list)  # what the user should know about the import
    source_ops: int = 0  # ops of the source model
    target: str = ""  # device profile that the packer has in mind
    patch: Patch | None = None  # what runs strip by strip, for the file to tell
    # name of a precision -> how many planes count, per tensor of used(), all of those left out; the
    # last one is the default
    modes: dict[str, dict[Tensor, int]] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """Return `name`, with a number behind it if it is taken."""
        candidate, number = name, self._names.get(name, 0)
        while candidate in self._names:
            number += 1
            candidate = f"{name}.{number}"
        self._names[name] = number  # where to go on searching
        self._names.setdefault(candidate, 0)
        return candidate

    def constant(self, values: Any, name: str = "const", dtype: str | None = None,
                 quantization: Quantization | None = None) -> Tensor:
        """Return a new constant.

        Args:
            values: array; int64 becomes int32 and fp64 fp32, as on the device.
            name: made unique.
            dtype: name; default that of `values`.
            quantization: what the integers mean, if it is quantized.

        Raises:
            ModelError: an int64 value does not fit into int32.
        """
        data = np.asarray(values)
        dtype = dtypes.device_dtype(dtype or dtypes.name_of(data.dtype))
        if data.dtype.kind in "iu" and dtype == "int32" and data.size:
            if data.max() > 2**31 - 1 or data.min() < -2**31:
                # ONNX exporters write INT64_MAX for "to the end"; such values never reach a device
                raise ModelError(f"constant {name!r}: a value does not fit into int32")
        return Tensor(self.unique(name), data.shape, dtype,
                      np.ascontiguousarray(data, dtypes.numpy_dtype(dtype)).reshape(data.shape),
                      quantization=quantization)

    def quantize(self, x: Tensor, dtype: str, quantization: Quantization, name: str = "") -> Tensor:
        """Append a quantize op; returns its output, of `dtype`."""
        return self.add("quantize", [x], name or f"{x.name}.q", quantization, dtype=dtype)

    def dequantize(self, x: Tensor, name: str = "") -> Tensor:
        """Append a dequantize op; returns its fp32 output."""
        return self.add("dequantize", [x], name or f"{x.name}.real", dtype="fp32")

    def input(self, name: str, shape: Sequence[int], dtype: str) -> Tensor:
        """Declare a graph input with its source shape and dtype; returns its tensor."""
        tensor = Tensor(self.unique(name), tuple(int(n) for n in shape), dtypes.device_dtype(dtype))
        self.inputs.append(Boundary(name, tensor, tensor.shape, dtype))
        return tensor

    def used(self, name: str) -> Tensor:
        """Return a new input for an op with planes of weights: how many of them count, int32 [1].

        The session writes it before each run, as the mode says; ops that read the same one count
        alike.

        Args:
            name: of the op.
        """
        return Tensor(self.unique(f"{name}.used"), (1,), "int32", hidden=True)

    def hidden(self) -> list[Tensor]:
        """Return every tensor of used() that an op reads, in the order of the ops."""
        return list(dict.fromkeys(t for op in self.ops for t in op.inputs
                                  if t is not None and t.hidden))

    def planes(self) -> dict[Tensor, int]:
        """Return for every tensor of used() how many planes each op has that reads it."""
        found: dict[Tensor, int] = {}
        for op in self.ops:
            definition = OPS[op.code]
            x = op.inputs[definition.used] if definition.used >= 0 else None
            if x is not None and x.hidden:
                count = len(definition.planes(op))
                found[x] = min(found.get(x, count), count)
        return found

    def output(self, name: str, tensor: Tensor, dtype: str | None = None) -> None:
        """Declare a graph output; `dtype` is the source's, default the tensor's."""
        self.outputs.append(Boundary(name, tensor, tensor.shape, dtype or tensor.dtype))

    def host(self, code: str, inputs: Sequence[Tensor], names: Sequence[str], name: str = "",
             **options: float) -> None:
        """Append a host op; what it reads becomes outputs of the graph, of real numbers.

        Call it when the model's other outputs are declared, and set `results` afterwards.

        Args:
            code, options: see edgerun.host_ops.
            inputs: tensors.
            names: of its outputs.
            name: of the source model's op.

        Raises:
            ModelError: the inputs or options do not fit.
        """
        declared = {(b.tensor, b.dtype): b.name for b in self.outputs}
        taken = {b.name for b in self.outputs} | {o[0] for op in self.host_ops for o in op.outputs}
        read = []
        for tensor in inputs:
            if (tensor, tensor.dtype) not in declared:
                own, number = tensor.name, 1
                while own in taken or own in names:
                    own, number = f"{tensor.name}.{number}", number + 1
                taken.add(own)
                declared[tensor, tensor.dtype] = own
                self.output(own, tensor)
            read.append(declared[tensor, tensor.dtype])
        try:
            found, _ = host_ops.specs(code, [(t.shape, t.dtype) for t in inputs], options)
        except ValueError as error:
            raise ModelError(f"{code} {name!r}: {error}") from None
        self.host_ops.append(HostOp(code, name, read, [
            (out, shape, dtype) for out, (shape, dtype) in zip(names, found)], dict(options)))

    def add(self, code: str, inputs: Iterable[Tensor | None], name: str = "",
            quantization: Quantization | None = None, **options: Any) -> Tensor:
        """Append an op and return its (first) output, its shape inferred by the runtime's rule.

        Args:
            code: key of edgerun.ops.OPS.
            inputs: tensors; None for an optional input left out.
            name: of the source model's op; also names the output.
            quantization: of the output; a move's is that of its first input if none is given.
            **options: fields of the op's options table that differ from the schema's default.

        Raises:
            ModelError: the inputs do not fit.
        """
        return self.insert(len(self.ops), code, inputs, name, quantization, **options).outputs[0]

    def insert(self, at: int, code: str, inputs: Iterable[Tensor | None], name: str = "",
               quantization: Quantization | None = None, **options: Any) -> Op:
        """Like add(), at a position in the order; returns the op."""
        op = Op(code, name, list(inputs), [], full_options(code, options))
        op.outputs = [Tensor(self.unique(name or code), tuple(int(n) for n in shape), dtype)
                      for shape, dtype in OPS[code].infer(op)]
        if quantization is None and code in MOVES:
            quantization = _moved(op)
        if quantization is not None:
            op.outputs[0].quantization = quantization
        self.ops.insert(at, op)
        return op

    def tensors(self) -> list[Tensor]:
        """Return every tensor once: inputs, then as ops reach them, then constant outputs."""
        seen: dict[int, Tensor] = {}
        for boundary in self.inputs:
            for tensor in boundary.tensors:
                seen.setdefault(id(tensor), tensor)
        for op in self.ops:
            for tensor in (*op.inputs, *op.outputs):
                if tensor is not None:
                    seen.setdefault(id(tensor), tensor)
        for boundary in self.outputs:
            seen.setdefault(id(boundary.tensor), boundary.tensor)
        return list(seen.values())

    def producers(self) -> dict[Tensor, Op]:
        """Return tensor -> the op that writes it."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    def consumers(self) -> dict[Tensor, list[Op]]:
        """Return tensor -> the ops that read it (once per use)."""
        users: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    users.setdefault(tensor, []).append(op)
        return users

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a graph output is this tensor."""
        return any(boundary.tensor is tensor for boundary in self.outputs)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Make every consumer and graph output use `new` instead of `old`."""
        for op in self.ops:
            op.inputs = [new if tensor is old else tensor for tensor in op.inputs]
        for boundary in self.outputs:
            if boundary.tensor is old:
                boundary.tensor = new

    def reinfer(self) -> None:
        """Infer every output again after a pass changed shapes, in order."""
        for op in self.ops:
            for tensor, (shape, dtype) in zip(op.outputs, OPS[op.code].infer(op)):
                tensor.shape, tensor.dtype = tuple(int(n) for n in shape), dtype


def _moved(op: Op) -> Quantization | None:
    """Return what the integers mean that an op moves, None if they have one scale per index of an
    axis whose indices it mixes."""
    q = op.inputs[0].quantization
    if q is None or q.axis == -1:
        return q
    return q.transposed(op.options["perm"]) if op.code == "transpose" else None


def full_options(code: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return all options of an op: the schema's defaults, then what is given.

    Raises:
        KeyError: the op or the option does not exist (a bug of the caller).
    """
    table = OPS[code].options
    options = flat.schema().defaults(table) if table else {}
    for key, value in given.items():
        if key not in options:
            raise KeyError(f"{code} has no option {key!r}")
        options[key] = tuple(value) if isinstance(value, (list, np.ndarray)) else value
    return {key: tuple(value) if isinstance(value, list) else value
            for key, value in options.items()}


def copy_of(graph: Graph) -> Graph:
    """Return a graph of new tensors and ops; the values of constants are shared."""
    twins = {id(tensor): replace(tensor) for tensor in graph.tensors()}

    def twin(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else twins[id(tensor)]

    ops = [Op(op.code, op.name, [twin(t) for t in op.inputs], [twin(t) for t in op.outputs],
              dict(op.options)) for op in graph.ops]
    return replace(
        graph, ops=ops,
        inputs=[replace(b, tensor=twin(b.tensor), pieces=[(twin(t), row) for t, row in b.pieces])
                for b in graph.inputs],
        outputs=[replace(b, tensor=twin(b.tensor)) for b in graph.outputs],
        modes={name: {twin(t): count for t, count in planes.items() if id(t) in twins}
               for name, planes in graph.modes.items()},
        notes=list(graph.notes), _names=dict(graph._names))
