"""Import ONNX models (opsets 7 to 28) into the packer's graph."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from edgerun.errors import InputError, ModelError, UnsupportedError
from edgerun.tools.graph import Graph
from edgerun.tools.importers.onnx import planes
from edgerun.tools.importers.onnx.context import Node, Value
from edgerun.tools.importers.onnx.functions import source_dtype
from edgerun.tools.importers.onnx.quantized import settle
from edgerun.tools.importers.onnx.walk import Walker, add_initializers

OPSETS = range(7, 29)  # versions of ai.onnx whose op definitions the functions here follow
REMEDY = ("simplify the model with onnxsim, replace these ops, or cut the graph before them "
          "(onnx.utils.extract_model)")


def load(path: str | os.PathLike, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Import an ONNX model.

    Args:
        path: .onnx file; data files beside it are read too.
        shapes: input name -> shape, for inputs with dynamic dimensions.

    Returns:
        The graph with explicit transposes around ops that want images as NHWC. Boundary names,
        shapes and dtypes are the model's.

    Raises:
        InputError: `shapes` does not fit the inputs, or a dynamic dimension needs one.
        ModelError: the file is damaged or is no ONNX model, or the model contradicts itself.
        UnsupportedError: lists every op and attribute that edgerun has not.
    """
    path = Path(path)
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: is not a readable ONNX model: {error}") from None
    try:
        return import_proto(model, shapes, path.name)
    except (InputError, ModelError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def import_proto(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None,
                 source: str = "") -> Graph:
    """Import an ONNX model that is already in memory; see load()."""
    _check_version(model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    planes.check_readers(model.graph)
    graph = Graph(name=model.graph.name, source=source,
                  source_ops=len(model.graph.node))
    scope: dict[str, Value] = {}
    add_initializers(model.graph, scope)
    inputs = [info for info in model.graph.input if info.name not in scope]
    types = [_boundary_dtype(info, "input") for info in inputs]
    found = _input_shapes(inputs, dict(shapes or {}), graph)
    for info, shape, dtype in zip(inputs, found, types):
        scope[info.name] = Value(tensor=graph.input(info.name, shape, dtype))
    walker = Walker(graph, model)
    walker.run(model.graph.node, scope, [info.name for info in model.graph.output])
    if walker.problems:
        listed = "; ".join(str(problem) for problem in sorted(
            walker.problems.values(), key=lambda p: (p.reason != "", -p.count, p.op_type)))
        raise UnsupportedError(f"not supported: {listed}. Needed: {REMEDY}")
    for info in model.graph.output:
        _add_output(walker, info, scope)
    called = [info.name for info in model.graph.output if scope[info.name].host]
    for name in called:
        call = scope[name].host
        graph.host(call.code, call.inputs, [name], call.name, **call.options)
    if called:
        graph.results = [info.name for info in model.graph.output]
    settle(graph)
    if any(b.dtype == "fp64" for b in (*graph.inputs, *graph.outputs)):
        graph.notes.append("The model has float64 inputs or outputs; it is computed in fp32.")
    return graph


def _check_version(model: onnx.ModelProto) -> None:
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError("is not an ONNX model: it has no graph or names no opset")
    versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
    version = versions[0] if versions else OPSETS[0]
    changed = _changed_since(model, version) if version < OPSETS[0] else []
    if version > OPSETS[-1] or changed:
        why = f" ({', '.join(changed)} changed since then)" if changed else ""
        raise UnsupportedError(
            f"its opset is {version}{why}, needed {OPSETS[0]} to {OPSETS[-1]}: convert it with "
            "onnx.version_converter.convert_version, or export it again")


def _changed_since(model: onnx.ModelProto, version: int) -> list[str]:
    """Return the op types of an older opset whose definition is another one in the first known."""
    changed = set()
    for node in model.graph.node:
        try:
            description = onnx.defs.get_schema(node.op_type, OPSETS[0])
        except onnx.defs.SchemaError:
            continue  # of another domain, or reported as not supported later
        if description.since_version > version:
            changed.add(node.op_type)
    return sorted(changed)


def _boundary_dtype(info: onnx.ValueInfoProto, what: str) -> str:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(f"{what} {info.name!r}: is a {kind or 'value without type'}, "
                               "needed a tensor")
    dtype = source_dtype(info.type.tensor_type.elem_type)
    if dtype is None:
        name = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)
        raise UnsupportedError(f"{what} {info.name!r}: has elements of the type {name}, needed "
                               "one of float, float16, double, int64, int32, int16, int8, uint8, "
                               "bool")
    return dtype


def _dims(info: onnx.ValueInfoProto) -> list[int | str] | None:
    """Return an int per fixed and a text per dynamic dimension; None if the rank is not given."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or "?"
            for d in tensor.shape.dim]


def _listed(inputs: Sequence[onnx.ValueInfoProto]) -> str:
    def dims(info: onnx.ValueInfoProto) -> str:
        found = _dims(info)
        return "any shape" if found is None else "[" + ", ".join(map(str, found)) + "]"
    return ", ".join(f"{info.name!r} {dims(info)}" for info in inputs)


def _input_shapes(inputs: Sequence[onnx.ValueInfoProto], shapes: dict[str, Sequence[int]],
                  graph: Graph) -> list[tuple[int, ...]]:
    unknown = [name for name in shapes if name not in {info.name for info in inputs}]
    if unknown:
        raise InputError(f"a shape is given for {', '.join(map(repr, unknown))}, which is no "
                         f"input: the inputs are {_listed(inputs)}")
    return [_input_shape(info, shapes.get(info.name), inputs, graph) for info in inputs]


def _input_shape(info: onnx.ValueInfoProto, given: Sequence[int] | None,
                 inputs: Sequence[onnx.ValueInfoProto], graph: Graph) -> tuple[int, ...]:
    dims = _dims(info)
    if given is not None:
        given = tuple(int(n) for n in given)
        fits = dims is None or (len(dims) == len(given) and all(
            isinstance(d, str) or d == n for d, n in zip(dims, given)))
        if not fits or any(n < 1 for n in given):
            raise InputError(f"input {info.name!r}: the shape {list(given)} is given, the model "
                             f"needs {_listed([info])}")
        return given
    if dims is not None and 0 in dims:
        raise UnsupportedError(f"input {info.name!r}: has no elements: {_listed([info])}")
    if dims and isinstance(dims[0], str) and not any(isinstance(d, str) for d in dims[1:]):
        graph.notes.append(f"Input {info.name!r} has the dynamic first dimension {dims[0]!r}; it "
                           "is fixed to 1 (give a shape for another number).")
        return (1, *dims[1:])
    if dims is None or any(isinstance(d, str) for d in dims):
        example = ",".join("1" if isinstance(d, str) else str(d) for d in dims or [1])
        raise InputError(f"input {info.name!r}: its shape is not fixed; the inputs are "
                         f"{_listed(inputs)}: needed a number for each dimension, for example "
                         f"--shape {info.name}={example}")
    return tuple(dims)


def _add_output(walker: Walker, info: onnx.ValueInfoProto, scope: Mapping[str, Value]) -> None:
    if info.name not in scope:
        raise ModelError(f"output {info.name!r}: no node makes it")
    value = scope[info.name]
    if value.host:
        return
    if value.known and 0 in value.shape:
        raise UnsupportedError(f"output {info.name!r}: has no elements")
    dtype = _boundary_dtype(info, "output")
    identity = onnx.helper.make_node("Identity", [info.name], [info.name], name=info.name)
    walker.context.node = Node(identity, OPSETS[-1], [value])
    walker.graph.output(info.name, walker.context.tensor(0), dtype)
