"""The integers inside a quantized source model, from its own runtime."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerun.errors import InputError
from edgerun.model import Model, Tensor
from edgerun.tools.layers.reference import SUFFIX, real_name
from edgerun.tools.runtimes import LiteRt, OnnxRuntime

NUMBER = re.compile(r"\.\d+$")
CLOSE = 1e-6  # relative: scales that are one
HALF = 128  # int8 of the source is uint8 on the device, so much higher


@dataclass(frozen=True)
class Inside:
    """A source model whose inner integers can be looked at.

    Attributes:
        name: of the runtime, with its version.
        run: inputs -> tensor of the file -> its integers in the runtime, int64, as on the device.
        matched: number of quantized tensors of the file that are the source's.
    """
    name: str
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    matched: int

    def tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the integers of the tensors that both have."""
        return self.run(inputs)


def has_inside(model: Model) -> bool:
    """Whether a file holds the integers of a quantized source model."""
    return model.precision == "source" and any(
        t.quantization is not None and not t.constant for t in model.tensors)


def inside(path: str | os.PathLike, model: Model) -> Inside:
    """Open a quantized source model to look at its inner tensors.

    Args:
        path: .tflite or .onnx file.
        model: packed from it with its own integers.

    Raises:
        InputError: has_inside() says no.
        ModelError, EdgerunError: as edgerun.tools.runtimes.open_source.
    """
    path = Path(path)
    if not has_inside(model):
        raise InputError(f"{model.path}: was not packed with the integers of its source model")
    written = {y.index for op in model.ops for y in op.outputs}
    wanted = [t for t in model.tensors if t.quantization is not None and not t.constant
              and (t.alias_of < 0 or t.index in written) and t.quantization.axis == -1]
    return _onnx(path, wanted) if path.suffix == ".onnx" else _tflite(path, wanted)


def source_name(name: str, known: Mapping[str, object]) -> str | None:
    """Return the name that a tensor of a file has in its source, None if it has none.

    Args:
        name: in the file; importers name tensors after ops or after what they write, and make
            names unique by a number.
        known: names in the source.
    """
    while name not in known:
        shorter = SUFFIX.sub("", name)
        shorter = NUMBER.sub("", name) if shorter == name else shorter
        if shorter == name:
            return None
        name = shorter
    return name


def pair(wanted: Sequence[Tensor], known: Mapping[str, object]) -> dict[str, Tensor]:
    """Return source name -> tensor of the file; what has several of the file's is left out, unless
    one of them has its very name: parts of a split are named after the first."""
    claims: dict[str, list[Tensor]] = {}
    for tensor in wanted:
        name = source_name(tensor.name, known)
        if name is not None:
            claims.setdefault(name, []).append(tensor)
    pairs = {}
    for name, tensors in claims.items():
        if len(tensors) > 1:
            tensors = [t for t in tensors if real_name(t.name, {name: None}) == name]
        if len(tensors) == 1:
            pairs[name] = tensors[0]
    return pairs


def _as_stored(array: np.ndarray, tensor: Tensor) -> np.ndarray | None:
    """Return a runtime's integers as the device stores them, None if they are something else."""
    if array.dtype == np.int8 and tensor.dtype == "uint8":
        values = array.astype(np.int64) + HALF
    elif array.dtype.name == tensor.dtype:
        values = array.astype(np.int64)
    else:
        return None
    if values.shape != tensor.shape and values.ndim > 2:
        values = np.moveaxis(values, 1, -1)  # ONNX has the channels first
    return values if values.shape == tensor.shape else None


def _tflite(path: Path, wanted: list[Tensor]) -> Inside:
    runtime = LiteRt(path, keep=True)
    details: dict[str, list[dict]] = {}
    for detail in runtime.details():
        details.setdefault(detail["name"], []).append(detail)
    matches = {}
    for name, tensor in pair(wanted, details).items():
        for detail in details[name]:
            if _same_scale(detail, tensor):
                matches[tensor.name] = detail["index"], tensor

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        runtime.run(inputs)
        found = {name: _as_stored(runtime.tensor(index), tensor)
                 for name, (index, tensor) in matches.items()}
        return {name: values for name, values in found.items() if values is not None}
    return Inside(runtime.name, run, len(matches))


def _same_scale(detail: dict, tensor: Tensor) -> bool:
    q, given = tensor.quantization, detail["quantization_parameters"]
    if len(given["scales"]) != 1 or not np.isclose(given["scales"][0], q.step, rtol=CLOSE, atol=0):
        return False
    shift = HALF if detail["dtype"] == np.int8 else 0
    return int(given["zero_points"][0]) + shift == q.zero


def _onnx(path: Path, wanted: list[Tensor]) -> Inside:
    import onnx
    proto = onnx.load(path)
    outputs: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear"):
            outputs.setdefault(node.name or node.output[0], []).append(node.output[0])
    already = {value.name for value in proto.graph.output}
    matches = {}
    for name, tensor in pair(wanted, outputs).items():
        if len(outputs[name]) == 1:
            matches[tensor.name] = outputs[name][0], tensor
    names = list(dict.fromkeys(name for name, _ in matches.values()))
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names
                              if name not in already)
    runtime = OnnxRuntime(path, proto.SerializeToString())

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = runtime.run(inputs)
        found = {name: _as_stored(arrays[of], tensor) for name, (of, tensor) in matches.items()}
        return {name: values for name, values in found.items() if values is not None}
    return Inside(runtime.name, run, len(matches))


__all__ = ["Inside", "has_inside", "inside", "source_name"]
