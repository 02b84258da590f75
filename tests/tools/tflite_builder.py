"""Write small .tflite files for the importer's tests, with the schema's builder functions."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

from edgerun.tools.importers import tflite as importer

TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "int8": "INT8",
         "uint8": "UINT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
SPARSE_VECTORS = {"int32": (1, "Int32Vector"), "uint16": (2, "Uint16Vector"),
                  "uint8": (3, "Uint8Vector")}


def random(shape, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    """Return seeded fp32 values, uniform in low..high."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def load(data: bytes, tmp_path, shapes=None):
    """Import a file given as bytes."""
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    return importer.load(path, shapes or {})


@dataclass
class Sparsity:
    """Sparse encoding: `levels` are dense sizes or (segments, indices) in traversal order.

    An empty tuple is a sparse level that lacks both, which no valid file has.
    """
    order: list[int]
    levels: list[int | tuple[np.ndarray, ...]]
    block_map: list[int] = field(default_factory=list)


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int = 0
    signature: tuple[int, ...] = ()
    quantization: tuple | None = None  # scales, zero points, axis, and a QuantizationDetails
    sparsity: Sparsity | None = None
    variable: bool = False


@dataclass
class _Op:
    code: str
    inputs: list[int]
    outputs: list[int]
    options: str
    values: dict[str, Any]
    version: int
    custom: str = ""
    custom_options: bytes = b""
    intermediates: list[int] = field(default_factory=list)


class TFLiteBuilder:
    """Collects tensors and ops; tensors are known by the number that each method returns."""

    def __init__(self):
        self.tensors: list[_Tensor] = []
        self.buffers: list[bytes] = [b""]
        self.ops: list[_Op] = []
        self.inputs: list[int] = []

    def tensor(self, name: str, shape=(), dtype: str = "float32", **more) -> int:
        """Declare a tensor that an op writes."""
        self.tensors.append(_Tensor(name, tuple(shape), dtype, **more))
        return len(self.tensors) - 1

    def input(self, shape, dtype: str = "float32", name: str = "", **more) -> int:
        """Declare an input of the model, named x0, x1, ... by default."""
        number = self.tensor(name or f"x{len(self.inputs)}", shape, dtype, **more)
        self.inputs.append(number)
        return number

    def const(self, values, dtype: str | None = None, shape=None, **more) -> int:
        """Add a constant; `shape` differs from that of the values if they are sparse."""
        values = np.asarray(values, dtype)
        self.buffers.append(values.tobytes())
        name = more.pop("name", f"c{len(self.buffers)}")
        return self.tensor(name, values.shape if shape is None else shape, values.dtype.name,
                           buffer=len(self.buffers) - 1, **more)

    def op(self, code: str, inputs: list[int], options: str = "", out: str = "float32",
           outs: int = 1, shape=(), version: int = 1, quantization=None, custom: str = "",
           custom_options: bytes = b"", intermediates: list[int] | None = None, **values):
        """Append an op; returns the number of its output, or a list of `outs` numbers."""
        outputs = [self.tensor(f"y{len(self.tensors)}", shape, out, quantization=quantization)
                   for _ in range(outs)]
        self.ops.append(_Op(code, inputs, outputs, options, values, version, custom,
                            custom_options, intermediates or []))
        return outputs[0] if outs == 1 else outputs

    def finish(self, outputs: list[int], version: int = 3, identifier: bytes = b"TFL3",
               subgraphs: int = 1) -> bytes:
        """Return the file."""
        b = flatbuffers.Builder(1024)
        tensors = [self._tensor(b, t) for t in self.tensors]
        codes, ops = [], []
        for number, op in enumerate(self.ops):
            codes.append(self._code(b, op))
            ops.append(self._op(b, op, number))
        graphs = []
        for _ in range(subgraphs):
            vectors = [b.CreateNumpyVector(np.array(v, np.int32)) for v in (self.inputs, outputs)]
            parts = [_offsets(b, tensors), _offsets(b, ops)]
            tflite.SubGraphStart(b)
            tflite.SubGraphAddInputs(b, vectors[0])
            tflite.SubGraphAddOutputs(b, vectors[1])
            tflite.SubGraphAddTensors(b, parts[0])
            tflite.SubGraphAddOperators(b, parts[1])
            graphs.append(tflite.SubGraphEnd(b))
        buffers = [self._buffer(b, data) for data in self.buffers]
        parts = [_offsets(b, codes), _offsets(b, graphs), _offsets(b, buffers)]
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, version)
        tflite.ModelAddOperatorCodes(b, parts[0])
        tflite.ModelAddSubgraphs(b, parts[1])
        tflite.ModelAddBuffers(b, parts[2])
        b.Finish(tflite.ModelEnd(b), identifier)
        return bytes(b.Output())

    @staticmethod
    def _buffer(b: flatbuffers.Builder, data: bytes) -> int:
        vector = None
        if data:
            b.StartVector(1, len(data), 16)
            b.head -= len(data)
            b.Bytes[b.head:b.head + len(data)] = data
            vector = b.EndVector()
        tflite.BufferStart(b)
        if vector is not None:
            tflite.BufferAddData(b, vector)
        return tflite.BufferEnd(b)

    @staticmethod
    def _tensor(b: flatbuffers.Builder, tensor: _Tensor) -> int:
        name = b.CreateString(tensor.name)
        shape = b.CreateNumpyVector(np.array(tensor.shape, np.int32))
        signature = quantization = sparsity = None
        if tensor.signature:
            signature = b.CreateNumpyVector(np.array(tensor.signature, np.int32))
        if tensor.quantization:
            scale, zero_point, axis, *details = tensor.quantization
            scale = b.CreateNumpyVector(np.array(scale, np.float32))
            zero_point = b.CreateNumpyVector(np.array(zero_point, np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero_point)
            tflite.QuantizationParametersAddQuantizedDimension(b, axis)
            if details:
                tflite.QuantizationParametersAddDetailsType(b, details[0])
            quantization = tflite.QuantizationParametersEnd(b)
        if tensor.sparsity:
            sparsity = _sparsity(b, tensor.sparsity)
        tflite.TensorStart(b)
        tflite.TensorAddName(b, name)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, getattr(tflite.TensorType, TYPES.get(tensor.dtype, tensor.dtype)))
        tflite.TensorAddBuffer(b, tensor.buffer)
        tflite.TensorAddIsVariable(b, tensor.variable)
        if signature is not None:
            tflite.TensorAddShapeSignature(b, signature)
        if quantization is not None:
            tflite.TensorAddQuantization(b, quantization)
        if sparsity is not None:
            tflite.TensorAddSparsity(b, sparsity)
        return tflite.TensorEnd(b)

    @staticmethod
    def _code(b: flatbuffers.Builder, op: _Op) -> int:
        code = getattr(tflite.BuiltinOperator, op.code)
        custom = b.CreateString(op.custom) if op.custom else None
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, op.version)
        if custom is not None:
            tflite.OperatorCodeAddCustomCode(b, custom)
        return tflite.OperatorCodeEnd(b)

    @staticmethod
    def _op(b: flatbuffers.Builder, op: _Op, number: int) -> int:
        inputs = b.CreateNumpyVector(np.array(op.inputs, np.int32))
        outputs = b.CreateNumpyVector(np.array(op.outputs, np.int32))
        options = None
        if op.options:
            values = {name: b.CreateNumpyVector(np.array(value, np.int32))
                      if isinstance(value, (list, tuple)) else value
                      for name, value in op.values.items()}
            getattr(tflite, f"{op.options}Start")(b)
            for name, value in values.items():
                getattr(tflite, f"{op.options}Add{name}")(b, value)
            options = getattr(tflite, f"{op.options}End")(b)
        custom = b.CreateByteVector(op.custom_options) if op.custom_options else None
        inner = b.CreateNumpyVector(np.array(op.intermediates, np.int32))
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, number)
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        if options is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, op.options))
            tflite.OperatorAddBuiltinOptions(b, options)
        if custom is not None:
            tflite.OperatorAddCustomOptions(b, custom)
        if op.intermediates:
            tflite.OperatorAddIntermediates(b, inner)
        return tflite.OperatorEnd(b)


def _offsets(b: flatbuffers.Builder, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _sparsity(b: flatbuffers.Builder, sparsity: Sparsity) -> int:
    levels = []
    for level in sparsity.levels:
        if isinstance(level, int):
            tflite.DimensionMetadataStart(b)
            tflite.DimensionMetadataAddFormat(b, tflite.DimensionType.DENSE)
            tflite.DimensionMetadataAddDenseSize(b, level)
            levels.append(tflite.DimensionMetadataEnd(b))
            continue
        parts = []
        for values in level:
            kind, name = SPARSE_VECTORS[values.dtype.name]
            vector = b.CreateNumpyVector(values)
            getattr(tflite, f"{name}Start")(b)
            getattr(tflite, f"{name}AddValues")(b, vector)
            parts.append((kind, getattr(tflite, f"{name}End")(b)))
        tflite.DimensionMetadataStart(b)
        tflite.DimensionMetadataAddFormat(b, tflite.DimensionType.SPARSE_CSR)
        if parts:
            tflite.DimensionMetadataAddArraySegmentsType(b, parts[0][0])
            tflite.DimensionMetadataAddArraySegments(b, parts[0][1])
            tflite.DimensionMetadataAddArrayIndicesType(b, parts[1][0])
            tflite.DimensionMetadataAddArrayIndices(b, parts[1][1])
        levels.append(tflite.DimensionMetadataEnd(b))
    order = b.CreateNumpyVector(np.array(sparsity.order, np.int32))
    block_map = b.CreateNumpyVector(np.array(sparsity.block_map, np.int32))
    metadata = _offsets(b, levels)
    tflite.SparsityParametersStart(b)
    tflite.SparsityParametersAddTraversalOrder(b, order)
    tflite.SparsityParametersAddBlockMap(b, block_map)
    tflite.SparsityParametersAddDimMetadata(b, metadata)
    return tflite.SparsityParametersEnd(b)
