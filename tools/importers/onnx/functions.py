"""What the onnx library knows of an op: its definition by other ops, and the shapes it infers."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper, numpy_helper

from edgerun import dtypes
from edgerun.tools.graph import Graph
from edgerun.tools.importers.onnx.context import Node, Value, dtypes_name


def schema(node: Node) -> onnx.defs.OpSchema | None:
    """Return ONNX's description of the node's op, None if it has none."""
    try:
        return onnx.defs.get_schema(node.op_type, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _types(node: Node) -> dict[str, onnx.TypeProto]:
    return {name: helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(node.proto.input, node.inputs) if value is not None}


def contradicts(node: Node) -> bool:
    """Whether ONNX itself says that the node's attributes, or the shapes it reads, are wrong."""
    description = schema(node)
    if description is None:
        return False
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {node.domain: node.opset}
    try:
        onnx.checker.check_node(node.proto, context)
    except onnx.checker.ValidationError:
        return True
    contents = {name: numpy_helper.from_array(value.array, name)
                for name, value in zip(node.proto.input, node.inputs)
                if value is not None and value.known and value.array.size <= 1024}
    try:
        onnx.shape_inference.infer_node_outputs(
            description, node.proto, _types(node), contents,
            opset_imports=[helper.make_opsetid(node.domain, node.opset)])
    except Exception:  # InferenceError, or a checker's error: no common class
        return True
    return False


def inferred_shapes(model: onnx.ModelProto, graph: Graph) -> dict[
        str, tuple[tuple[int, ...], str]]:
    """Return what ONNX infers: value name -> (shape, device dtype), where all of it is known."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {boundary.name: boundary.shape for boundary in graph.inputs}
    for info in copy.graph.input:
        if info.name in known:
            dims = info.type.tensor_type.shape
            dims.ClearField("dim")
            for n in known[info.name]:
                dims.dim.add().dim_value = n
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # a guess only: without it fewer problems are found in one pass
        return {}
    found = {}
    for info in (*inferred.value_info, *inferred.output):
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        if not tensor.HasField("shape") or any(d.dim_value <= 0 for d in dims):
            continue
        dtype = device_dtype(tensor.elem_type)
        if dtype:
            found[info.name] = tuple(d.dim_value for d in dims), dtype
    return found


def device_dtype(elem_type: int) -> str | None:
    """Return the dtype name on the device of an ONNX element type, None if there is none."""
    name = source_dtype(elem_type)
    return dtypes.device_dtype(name) if name else None


def source_dtype(elem_type: int) -> str | None:
    """Return the dtype name of an ONNX element type, None if edgerun has none."""
    if elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return None
    try:
        return dtypes_name(helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        return None


def defined(node: Node) -> bool:
    """Whether ONNX defines the op by other ops."""
    description = schema(node)
    return description is not None and (
        description.has_function or description.has_context_dependent_function)


def body(node: Node) -> onnx.FunctionProto | None:
    """Return the definition by other ops that ONNX gives for the op, None if it gives none."""
    description = schema(node)
    if description is None:
        return None
    since = description.since_version
    data = None
    if description.has_function:
        versions = [v for v in description.function_opset_versions if v <= node.opset]
        data = description.get_function_with_opset_version(max(versions, default=since))
    elif description.has_context_dependent_function:
        versions = [v for v in description.context_dependent_function_opset_versions
                    if v <= node.opset]
        types = _types(node)
        data = description.get_context_dependent_function_with_opset_version(
            max(versions, default=since), node.proto.SerializeToString(),
            [types[name].SerializeToString() if name in types
             else onnx.TypeProto().SerializeToString() for name in node.proto.input])
    if not data:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    return function


def prepared(function: onnx.FunctionProto, node: Node, scope: Mapping[str, Value]
             ) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a definition with the node's attributes put in.

    Inputs that the node leaves out are left out of the nodes too.
    """
    given = {a.name: a for a in node.proto.attribute}
    defaults = {a.name: a for a in function.attribute_proto}
    for name, attribute in (schema(node).attributes if schema(node) else {}).items():
        if attribute.default_value.name:
            defaults.setdefault(name, attribute.default_value)
    made = {name for inner in function.node for name in inner.output}
    for inner in function.node:
        proto = onnx.NodeProto()
        proto.CopyFrom(inner)
        proto.name = f"{node.name}/{inner.name or inner.output[0]}"
        for index, name in enumerate(proto.input):
            if name and name not in scope and name not in made:
                proto.input[index] = ""
        proto.ClearField("attribute")
        for attribute in inner.attribute:
            if attribute.ref_attr_name:
                source = given.get(attribute.ref_attr_name) or defaults.get(attribute.ref_attr_name)
                if source is None:
                    continue
                attribute_copy = proto.attribute.add()
                attribute_copy.CopyFrom(source)
                attribute_copy.name = attribute.name
            else:
                proto.attribute.add().CopyFrom(attribute)
        yield proto
