"""Bytes to a validated Model: map the file, read its tables, check them, read the test vectors."""
from __future__ import annotations

import mmap
import os
import weakref
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from edgerun import dtypes, flat, mixture, pages, tuning, validate
from edgerun.errors import ModelError
from edgerun.model import (
    VERSION, HostOp, Mode, Model, Op, Part, Patch, Piece, Plan, Range, Segment, Stage, Tensor,
    TensorInfo, TestVector, Tuning)
from edgerun.quantization import Quantization


_mapped: weakref.WeakValueDictionary[tuple, np.ndarray] = weakref.WeakValueDictionary()


def map_file(path: str | os.PathLike) -> np.ndarray:
    """Map a file read-only; one that is mapped already, and unchanged, is not mapped again.

    Returns:
        uint8 [bytes]; pages are read from disk when they are first touched.

    Raises:
        ModelError: there is no such file, it cannot be read, or it is empty.
    """
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size == 0:
                raise ModelError(f"{path}: the file is empty, needed an edgerun model (.edge)")
            key = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
            data = _mapped.get(key)
            if data is None:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                data = _mapped[key] = np.frombuffer(mapping, np.uint8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}; needed an edgerun model "
                         "(.edge), made by 'edgerun pack'") from None
    return data


def read(path: str | os.PathLike, check_weights: bool = True) -> Model:
    """Read and validate a model file.

    Args:
        path: the .edge file; it stays mapped as long as the returned model lives.
        check_weights: also compare the checksums of every weight segment and of the test vectors.
            This reads the whole file once, also the pages that no kernel will touch: 100 MB in
            memory take two cores 16 ms. Without it a damaged weight or test vector goes unnoticed;
            nothing else does.

    Raises:
        ModelError: anything in the file is not as schema/README.md says it must be.
    """
    data = map_file(path)
    if check_weights:
        return from_bytes(data, os.fspath(path))
    with pages.only_what_is_touched_now(data):
        return from_bytes(data, os.fspath(path), check_weights)


def from_bytes(data: np.ndarray, where: str, check_weights: bool = True) -> Model:
    """Turn the bytes of a model file (uint8, one dimension) into a validated Model."""
    reader = flat.Reader(data, where)
    root = reader.root("Model", flat.schema().identifier)
    if root["version"] != VERSION:
        raise ModelError(f"{where}: format version {root['version']}, this edgerun reads "
                         f"{VERSION}: pack the model again, or install the matching edgerun")
    graph_data = np.asarray(root["graph"], np.uint8)
    if not check_weights:
        start = graph_data.__array_interface__["data"][0] - data.__array_interface__["data"][0]
        pages.ahead(data, [(start, start + len(graph_data))])
    if zlib.crc32(graph_data) != root["graph_crc32"]:
        raise ModelError(f"{where}: the checksum of the graph does not match: the file is damaged, "
                         "copy or pack it again")
    graph = flat.Reader(graph_data, where).root("Graph")
    model = _assemble(root, graph, data, where)
    validate.check(model)
    if len(root["tuning"]):
        model = replace(model, tuning=_tuning(root, where))
    model = replace(model, vectors=tuple(
        _vector(values, model, f"{where}: test vector {i}", check_weights)
        for i, values in enumerate(root["vectors"])))
    if check_weights:
        validate.check_segments(model)
    return model


def _tuning(root: dict, where: str) -> tuple[Tuning, ...]:
    data = np.asarray(root["tuning"], np.uint8)
    if zlib.crc32(data) != root["tuning_crc32"]:
        raise ModelError(f"{where}: the checksum of the tuning table does not match: the file is "
                         "damaged, copy or pack it again")
    return tuning.decode(data, where)


def _assemble(root: dict, graph: dict, data: np.ndarray, where: str) -> Model:
    start = data.__array_interface__["data"][0]
    segments = tuple(
        Segment(s["dtype"], s["crc32"], np.asarray(s["data"], np.uint8),
                s["data"].__array_interface__["data"][0] - start if len(s["data"]) else 0,
                tuple(Part(**part) for part in s["parts"]))
        for s in root["segments"])
    tensors = tuple(_tensor(t, index) for index, t in enumerate(graph["tensors"]))

    def pick(index: int, what: str) -> Tensor:
        if not 0 <= index < len(tensors):
            raise ModelError(f"{where}: {what} is tensor {index}, the file has {len(tensors)}")
        return tensors[index]

    ops = []
    for index, op in enumerate(graph["ops"]):
        label = f"op {index} ({op['code']} {op['name']!r})"
        table, options = op["options"] or (None, {})
        ops.append(Op(
            op["code"], op["name"],
            tuple(None if i == -1 else pick(int(i), f"an input of {label}") for i in op["inputs"]),
            tuple(pick(int(i), f"an output of {label}") for i in op["outputs"]),
            {key: _plain(value) for key, value in options.items()}, table,
            op["scratch_offset"], op["scratch_bytes"], index))
    plan = graph["plan"]
    if plan is None:
        raise ModelError(f"{where}: the memory plan is missing")
    inputs = tuple(_boundary(b, tensors) for b in graph["inputs"])
    outputs = tuple(_boundary(b, tensors) for b in graph["outputs"])
    host, results = _host_ops(graph, outputs, where)
    return Model(
        where, graph["name"], graph["source"], root["producer"], graph["precision"],
        graph["target"], tensors, tuple(ops), inputs, outputs, Plan(**plan), segments,
        (), len(root["graph"]), data, tuple(Range(**values) for values in graph["ranges"]),
        graph["observer"], graph["samples"], patch=_patch(graph["patch"]),
        host_ops=host, results=results,
        modes=tuple(Mode(m["name"], tuple(m["planes"].tolist()) if len(m["planes"]) else ())
                    for m in graph["modes"]),
        used=None if graph["used"] == -1 else pick(graph["used"], "the number of planes"),
        mixtures=mixture.read(graph["mixtures"]))


def _host_ops(graph: dict, outputs: tuple[TensorInfo, ...], where: str
              ) -> tuple[tuple[HostOp, ...], tuple[TensorInfo, ...]]:
    ops = tuple(HostOp(
        op["code"], op["name"], tuple(int(n) for n in op["inputs"]),
        tuple(replace(_boundary(values, ()), tensor=-1, perm=()) for values in op["outputs"]),
        {option["name"]: option["value"] for option in op["options"]}) for op in graph["host_ops"])
    values = [*outputs, *(info for op in ops for info in op.outputs)]
    numbers = [int(n) for n in graph["results"]]
    for number in numbers:
        if not 0 <= number < len(values):
            raise ModelError(f"{where}: a result is value {number}, the file has {len(values)}")
    return ops, tuple(values[number] for number in numbers) or outputs


def _patch(values: dict | None) -> Patch | None:
    return values and Patch(tuple(Stage(**stage) for stage in values["stages"]),
                            values["arena_bytes"], values["extra_macs"])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return tuple(value) if isinstance(value, list) else value


def _tensor(values: dict, index: int) -> Tensor:
    quantization = values.pop("quantization")
    if quantization is not None:
        quantization = Quantization(
            np.asarray(quantization["scale"], np.float32),
            np.asarray(quantization["zero_point"], np.int32), quantization["axis"],
            quantization["rounding"])
    values["shape"] = tuple(int(n) for n in values["shape"])
    return Tensor(**values, quantization=quantization, index=index)


def _boundary(values: dict, tensors: tuple[Tensor, ...]) -> TensorInfo:
    dtype, scale, zero_point = dtypes.numpy_dtype(values["dtype"]), None, None
    if 0 <= values["tensor"] < len(tensors) and dtype.kind in "iu":
        q, stored = tensors[values["tensor"]].quantization, tensors[values["tensor"]].dtype
        if q is not None and q.axis == -1 and len(q.scale) and len(q.zero_point):
            # int8 is stored as uint8 with the top bit flipped
            flipped = 128 if dtype == np.int8 and stored == "uint8" else 0
            scale, zero_point = q.step, q.zero - flipped
    return TensorInfo(values["name"], tuple(int(n) for n in values["shape"]), dtype, scale,
                      zero_point, values["tensor"], tuple(int(n) for n in values["perm"]),
                      tuple(Piece(**piece) for piece in values["pieces"]))


def _vector(values: dict, model: Model, where: str, check: bool) -> TestVector:
    crc = 0
    for items, infos in ((values["inputs"], model.inputs), (values["outputs"], model.results)):
        if len(items) != len(infos):
            raise ModelError(f"{where}: has {len(items)} arrays, needed {len(infos)}")
        for item in items if check else ():
            crc = zlib.crc32(np.asarray(item["data"], np.uint8), crc)
    if check and crc != values["crc32"]:
        raise ModelError(f"{where}: the checksum does not match: the file is damaged")
    inputs, outputs = (
        tuple(_array(np.asarray(item["data"], np.uint8), info, where)
              for item, info in zip(items, infos))
        for items, infos in ((values["inputs"], model.inputs), (values["outputs"], model.results)))
    return TestVector(inputs, outputs, values["tolerance"])


def _array(data: np.ndarray, info: TensorInfo, where: str) -> np.ndarray:
    fixed = [n for n in info.shape if n >= 0]  # others depend on what is found
    needed = int(np.prod(fixed, dtype=object)) * info.dtype.itemsize
    if len(data) != needed and (len(fixed) == len(info.shape) or len(data) % needed):
        raise ModelError(f"{where}: {info.name!r} has {len(data)} bytes, needed {needed}")
    return data.view(info.dtype).reshape(info.shape)
