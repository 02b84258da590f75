"""Read a .tflite file into plain records; every kind of damage is a ModelError from here on.

The Python flatbuffers package has no verifier, so this module reads everything that the importer
will look at, once, and checks it: indices, sizes in bytes, quantization arrays, order of the ops.
"""
from __future__ import annotations

import inspect
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from edgerun.errors import InputError, ModelError, UnsupportedError
from edgerun.quantization import Quantization

IDENTIFIER = b"TFL3"
MAX_RANK = 8
MAX_ELEMENTS = 2**30  # of a constant that a few bytes of the file describe (sparse, FILL, TILE)
DAMAGE = (struct.error, IndexError, ValueError, OverflowError, TypeError, AttributeError,
          ZeroDivisionError, MemoryError)

# TensorType -> NumPy type; the others exist in the format but not here
NUMPY = {"FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8,
         "UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
         "BOOL": np.bool_}

QUANTIZED = ("INT8", "UINT8", "INT16", "INT4")  # with a scale they stand for real numbers
DETAILS = {1: "custom", 2: "block-wise"}  # QuantizationDetails that are more than scales


def _names_of(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


TYPES = _names_of(tflite.TensorType)
CODES = _names_of(tflite.BuiltinOperator)
OPTIONS = _names_of(tflite.BuiltinOptions)
SPARSE_INDICES = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}


@dataclass(frozen=True, eq=False)
class SourceTensor:
    """A tensor of the source model.

    Attributes:
        index: in subgraph 0.
        name: as stored, "tensor<index>" if it has none.
        shape: static shape; dimensions that `dynamic` names are only a hint.
        dynamic: axes whose size the model leaves open.
        type: name of the TensorType, e.g. "FLOAT32".
        data: values of a constant (dense), else None.
        quantization: None if not quantized; also that of a bias, which LiteRT does not read.
        variable: whether it is state that the interpreter keeps from run to run.
    """
    index: int
    name: str
    shape: tuple[int, ...]
    dynamic: tuple[int, ...]
    type: str
    data: np.ndarray | None
    quantization: Quantization | None
    variable: bool = False

    @property
    def integer_quantized(self) -> bool:
        """Whether the elements are integers that stand for real numbers."""
        return self.quantization is not None and self.type in QUANTIZED


@dataclass(frozen=True, eq=False)
class SourceOp:
    """An op of the source model.

    Attributes:
        index: in subgraph 0.
        type: name of the builtin operator, or "CUSTOM(code)".
        inputs: tensor indices, -1 where an optional input is left out.
        outputs: tensor indices.
        options: field name as in the schema bindings (StrideW, ...) -> value; empty if none are
            stored, which means zeros. Of a custom op: "CustomOptions", the stored bytes.
        name: of the first output tensor.
        intermediates: tensors that only say how numbers inside of the op are stored.
    """
    index: int
    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]
    name: str
    intermediates: tuple[int, ...] = ()

    def option(self, field_name: str) -> Any:
        """Return an option, 0 if the file does not store it."""
        return self.options.get(field_name, 0)

    def __str__(self) -> str:
        return f"{self.type} {self.name!r}"


@dataclass(frozen=True)
class SourceModel:
    """Subgraph 0 of a source model: tensors, ops in execution order, boundary as tensor indices."""
    path: Path
    tensors: list[SourceTensor]
    ops: list[SourceOp]
    inputs: list[int]
    outputs: list[int]
    notes: list[str] = field(default_factory=list)


def read(path: Path) -> SourceModel:
    """Read subgraph 0 of a .tflite file.

    Raises:
        InputError: the file cannot be read.
        ModelError: the file is not a TFLite model of version 3, or is damaged.
        UnsupportedError: integers are quantized in a way that edgerun has not.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise ModelError(f"{path}: not a TFLite model: bytes 4 to 8 are {data[4:8]!r}, needed "
                         f"{IDENTIFIER!r}")
    try:
        return _Reader(path, data).model()
    except (ModelError, UnsupportedError):
        raise
    except DAMAGE as error:
        raise ModelError(f"{path}: damaged TFLite model: {error}") from error


class _Reader:
    """Reads one file; methods may raise anything of DAMAGE on a damaged one."""

    def __init__(self, path: Path, data: bytes):
        self.path = path
        self.data = data
        self.root = tflite.Model.GetRootAs(data, 0)
        self.stored: set[int] = set()  # tensors with values in the file, whatever their type
        self.unpacked = 0  # constants of 4 bits that are held as 8

    def require(self, condition: bool, message: str) -> None:
        """Raise ModelError with the file's name unless the condition holds."""
        if not condition:
            raise ModelError(f"{self.path}: {message}")

    def count(self, length: int, what: str) -> int:
        """Return the length of a vector of tables after checking that it fits into the file."""
        self.require(length <= len(self.data) // 4, f"{length} {what} in {len(self.data)} bytes")
        return length

    def model(self) -> SourceModel:
        root = self.root
        self.require(root.Version() == 3, f"version {root.Version()} of the format, needed 3")
        self.require(root.SubgraphsLength() >= 1, "has no subgraph")
        subgraph = root.Subgraphs(0)
        tensors = [self.tensor(subgraph.Tensors(i), i)
                   for i in range(self.count(subgraph.TensorsLength(), "tensors"))]
        inputs = self.indices(subgraph.InputsAsNumpy(), tensors, "the inputs")
        outputs = self.indices(subgraph.OutputsAsNumpy(), tensors, "the outputs")
        self.require(bool(outputs), "has no outputs")
        ops = [self.op(subgraph.Operators(i), i, tensors)
               for i in range(self.count(subgraph.OperatorsLength(), "ops"))]
        self.check_order(tensors, ops, inputs, outputs)
        notes = []
        if root.SubgraphsLength() > 1:
            notes.append(f"{self.path.name} has {root.SubgraphsLength()} subgraphs; only the first "
                         "is imported")
        if self.unpacked:
            notes.append(f"{self.unpacked} tensors of int4 are kept as int8, which takes twice the "
                         "memory")
        return SourceModel(self.path, tensors, ops, list(inputs), list(outputs), notes)

    def indices(self, values: Any, tensors: list[SourceTensor], what: str,
                optional: bool = False) -> tuple[int, ...]:
        """Return tensor indices after checking them."""
        numbers = tuple(int(n) for n in _vector(values))
        for n in numbers:
            self.require((-1 if optional else 0) <= n < len(tensors),
                         f"{what} name tensor {n} of {len(tensors)}")
        return numbers

    def tensor(self, table: tflite.Tensor, index: int) -> SourceTensor:
        name = (table.Name() or b"").decode("utf-8", "replace") or f"tensor{index}"
        what = f"tensor {name!r}"
        type_name = TYPES.get(table.Type(), f"type {table.Type()}")
        shape = tuple(int(n) for n in _vector(table.ShapeAsNumpy()))
        signature = tuple(int(n) for n in _vector(table.ShapeSignatureAsNumpy())) or shape
        self.require(len(shape) <= MAX_RANK, f"{what} has {len(shape)} dimensions, at most "
                                             f"{MAX_RANK} are possible")
        self.require(len(signature) == len(shape),
                     f"{what} has the shape {shape} but the signature {signature}")
        raw = self.buffer(table.Buffer(), what)
        if raw is not None:
            self.stored.add(index)
        if raw is not None and type_name == "INT4":
            raw, type_name = self.nibbles(raw, shape, what), "INT8"
        quantization = self.quantization(table.Quantization(), type_name, shape, what)
        data = None
        if raw is not None and type_name in NUMPY:
            data = self.constant(table, raw, np.dtype(NUMPY[type_name]), shape, what)
        dynamic = tuple(axis for axis, n in enumerate(signature) if n < 0 or shape[axis] < 1)
        if data is not None:
            dynamic = ()
        return SourceTensor(index, name, shape, dynamic, type_name, data, quantization,
                            bool(table.IsVariable()))

    def buffer(self, index: int, what: str) -> np.ndarray | None:
        """Return the bytes of a buffer, None if it is empty."""
        self.require(0 <= index < self.root.BuffersLength(),
                     f"{what} names buffer {index} of {self.root.BuffersLength()}")
        table = self.root.Buffers(index)
        if table.Offset() > 1:  # weights behind the FlatBuffer, for files over 2 GiB
            offset, size = table.Offset(), table.Size()
            self.require(offset <= len(self.data) and size <= len(self.data) - offset,
                         f"{what}: its buffer lies behind the end of the file")
            return np.frombuffer(self.data, np.uint8, size, offset) if size else None
        raw = _vector(table.DataAsNumpy())
        return raw if len(raw) else None

    def constant(self, table: tflite.Tensor, raw: np.ndarray, dtype: np.dtype,
                 shape: tuple[int, ...], what: str) -> np.ndarray:
        """Return the dense values of a constant."""
        self.require(all(n >= 0 for n in shape), f"{what}: a constant of the shape {shape}")
        elements = int(np.prod(shape, dtype=object))
        sparsity = table.Sparsity()
        if sparsity is not None:
            self.require(elements <= MAX_ELEMENTS, f"{what}: {elements} elements")
            self.require(len(raw) % dtype.itemsize == 0, f"{what}: {len(raw)} bytes of {dtype}")
            return self.densify(sparsity, raw.view(dtype), shape, what)
        self.require(elements * dtype.itemsize == len(raw),
                     f"{what}: {len(raw)} bytes, needed {elements * dtype.itemsize} for {dtype} "
                     f"{shape}")
        return raw.view(dtype).reshape(shape)

    def densify(self, sparsity: tflite.SparsityParameters, values: np.ndarray,
                shape: tuple[int, ...], what: str) -> np.ndarray:
        """Expand the format's sparse encoding: a level per axis or block axis, dense or compressed.

        The levels are walked in traversal order; `at` is the position within a level of every
        element reached so far, `found` its index along the levels above.
        """
        order = [int(n) for n in _vector(sparsity.TraversalOrderAsNumpy())]
        block_map = [int(n) for n in _vector(sparsity.BlockMapAsNumpy())]
        rank = len(shape)
        self.require(sorted(order) == list(range(rank + len(block_map)))
                     and sparsity.DimMetadataLength() == len(order)
                     and all(0 <= axis < rank for axis in block_map),
                     f"{what}: its sparsity parameters do not fit {rank} dimensions")
        elements = int(np.prod(shape, dtype=object))
        at, found = np.zeros(1, np.int64), np.zeros((0, 1), np.int64)
        block_size = dict.fromkeys(range(rank), 1)
        for level, axis in enumerate(order):
            metadata = sparsity.DimMetadata(level)
            if metadata.Format() == tflite.DimensionType.DENSE:
                size = metadata.DenseSize()
                self.require(0 < size and len(at) * size <= max(elements, 1),
                             f"{what}: level {level} of its sparsity has the size {size}")
                parent = np.repeat(np.arange(len(at)), size)
                index = np.tile(np.arange(size), len(at))
                at = at[parent] * size + index
                if axis >= rank:
                    block_size[block_map[axis - rank]] *= size
            else:
                kinds = metadata.ArraySegmentsType(), metadata.ArrayIndicesType()
                self.require(all(kind in SPARSE_INDICES for kind in kinds),
                             f"{what}: its sparsity has index types {kinds}, needed 1, 2 or 3")
                segments = _sparse_indices(kinds[0], metadata.ArraySegments())
                indices = _sparse_indices(kinds[1], metadata.ArrayIndices())
                first, last = segments[at], segments[at + 1]
                self.require(bool((first <= last).all()) and int((last - first).sum()) <= elements,
                             f"{what}: the segments of its sparsity run backwards")
                parent = np.repeat(np.arange(len(at)), last - first)
                at = np.concatenate([np.arange(a, b) for a, b in zip(first, last)] or [at[:0]])
                index = indices[at]
            found = np.concatenate([found[:, parent], index[None]])
        place = [np.zeros(len(at), np.int64) for _ in shape]
        for level, axis in enumerate(order):
            if axis < rank:
                place[axis] += found[level] * block_size[axis]
            else:
                place[block_map[axis - rank]] += found[level]
        dense = np.zeros(shape, values.dtype)
        dense[tuple(place)] = values[at]
        return dense

    def nibbles(self, raw: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
        """Return the bytes of an int8 constant from those of an int4 one, low halves first."""
        self.require(all(n >= 0 for n in shape), f"{what}: a constant of the shape {shape}")
        elements = int(np.prod(shape, dtype=object))
        self.require(len(raw) == -(-elements // 2),
                     f"{what}: {len(raw)} bytes, needed {-(-elements // 2)} for int4 {shape}")
        halves = np.stack([raw << 4, raw & 0xF0], axis=1).reshape(-1)[:elements]
        self.unpacked += 1
        return (halves.view(np.int8) >> 4).view(np.uint8)

    def quantization(self, table: Any, type_name: str, shape: tuple[int, ...], what: str
                     ) -> Quantization | None:
        """Return what the integers of a tensor mean; None if they are plain numbers.

        Converters leave half-filled quantizations on tensors of other types; those are nobody's.
        """
        if table is None:
            return None
        if type_name in QUANTIZED and table.DetailsType() in DETAILS:
            raise UnsupportedError(f"{self.path}: {what}: its quantization is "
                                   f"{DETAILS[table.DetailsType()]}, needed one scale for the "
                                   "tensor or one per index of an axis")
        if not table.ScaleLength():
            return None
        scale = _vector(table.ScaleAsNumpy()).astype(np.float32)
        zero_point = _vector(table.ZeroPointAsNumpy())
        axis = table.QuantizedDimension()
        self.require(bool(np.isfinite(scale).all()),
                     f"{what}: a scale is not finite, needed a number above 0")
        if len(scale) > 1:
            self.require(0 <= axis < len(shape) and shape[axis] == len(scale),
                         f"{what}: {len(scale)} scales along axis {axis} of the shape {shape}")
        if type_name not in QUANTIZED:
            usable = (type_name in ("INT32", "INT64") and bool((scale > 0).all())
                      and len(zero_point) == len(scale) and not zero_point.any())
            return (Quantization(scale, np.zeros(len(scale), np.int32),
                                 axis if len(scale) > 1 else -1) if usable else None)
        self.require(bool((scale > 0).all()),
                     f"{what}: a scale is {scale.min()}, needed a number above 0")
        self.require(len(zero_point) == len(scale),
                     f"{what}: {len(scale)} scales but {len(zero_point)} zero points")
        low, high = np.iinfo(np.int8).min, np.iinfo(np.int8).max
        if type_name in NUMPY:
            low, high = np.iinfo(NUMPY[type_name]).min, np.iinfo(NUMPY[type_name]).max
        self.require(bool(((zero_point >= low) & (zero_point <= high)).all()),
                     f"{what}: a zero point lies outside {low}..{high}, the range of {type_name}")
        return Quantization(scale, zero_point.astype(np.int32), axis if len(scale) > 1 else -1)

    def op(self, table: tflite.Operator, index: int, tensors: list[SourceTensor]) -> SourceOp:
        codes = self.root.OperatorCodesLength()
        self.require(0 <= table.OpcodeIndex() < codes,
                     f"op {index} names operator code {table.OpcodeIndex()} of {codes}")
        code = self.root.OperatorCodes(table.OpcodeIndex())
        # files from before schema 3a have the code in the byte-sized field only
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = CODES.get(number, f"BUILTIN({number})")
        if kind == "CUSTOM":
            kind = f"CUSTOM({(code.CustomCode() or b'').decode('utf-8', 'replace')})"
        what = f"op {index} ({kind})"
        inputs = self.indices(table.InputsAsNumpy(), tensors, f"the inputs of {what}", True)
        outputs = self.indices(table.OutputsAsNumpy(), tensors, f"the outputs of {what}")
        self.require(bool(outputs), f"{what} has no outputs")
        options = _options(table)
        if kind.startswith("CUSTOM"):
            options = {"CustomOptions": _vector(table.CustomOptionsAsNumpy()).tobytes()}
        inner = self.indices(table.IntermediatesAsNumpy(), tensors,
                             f"the intermediates of {what}")
        return SourceOp(index, kind, inputs, outputs, options, tensors[outputs[0]].name, inner)

    def check_order(self, tensors: list[SourceTensor], ops: list[SourceOp], inputs: tuple[int, ...],
                    outputs: tuple[int, ...]) -> None:
        """Require that every tensor is written once, before it is read."""
        known = self.stored | {t.index for t in tensors if t.variable}
        for index in inputs:
            self.require(index not in known, f"input {tensors[index].name!r} is listed twice or "
                                             "is a constant")
            known.add(index)
        for op in ops:
            for index in op.inputs:
                if index < 0 or index in known:
                    continue
                tensor = tensors[index]
                # a constant without elements has an empty buffer, like a tensor that is computed
                self.require(0 in tensor.shape and tensor.type in NUMPY,
                             f"{op} reads {tensor.name!r}, which nothing before it writes")
                empty = np.zeros(tensor.shape, NUMPY[tensor.type])
                tensors[index] = replace(tensor, data=empty, dynamic=())
                known.add(index)
            for index in op.outputs:
                self.require(index not in known, f"{op} writes {tensors[index].name!r}, which "
                                                 "already has a value")
                known.add(index)
        for index in outputs:
            self.require(index in known, f"output {tensors[index].name!r} is never written")


def _vector(values: Any) -> np.ndarray:
    """Return a vector field as an array; the bindings give 0 when it is absent."""
    return values if isinstance(values, np.ndarray) else np.zeros(0, np.int32)


def _sparse_indices(kind: int, table: Any) -> np.ndarray:
    vector = SPARSE_INDICES[kind]()
    vector.Init(table.Bytes, table.Pos)
    return _vector(vector.ValuesAsNumpy()).astype(np.int64)


def _options(operator: tflite.Operator) -> dict[str, Any]:
    """Return every scalar, string and vector field of the op's options table."""
    kind, table = OPTIONS.get(operator.BuiltinOptionsType(), "NONE"), operator.BuiltinOptions()
    if kind == "NONE" or table is None:
        return {}
    options = getattr(tflite, kind)()
    options.Init(table.Bytes, table.Pos)
    values = {}
    for name in _fields(kind):
        value = getattr(options, name)()
        values[name.removesuffix("AsNumpy")] = _vector(value) if name.endswith("AsNumpy") else value
    return values


def _fields(kind: str) -> list[str]:
    """Return the accessors of an options table that take no argument."""
    return [name for name, value in vars(getattr(tflite, kind)).items()
            if inspect.isfunction(value) and len(inspect.signature(value).parameters) == 1
            and not name.endswith(("Length", "IsNone"))]
