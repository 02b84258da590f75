"""Evaluate ONNX nodes on the host when everything they read is known at pack time."""
from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgerun.errors import ModelError
from edgerun.tools.importers.onnx.context import Node, contents

# Their result depends on more than their inputs.
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike")
# The reference evaluator (of onnx 1.23) computes some shapes or paddings of these wrongly.
WRONG = ("GatherElements", "LRN", "MaxPool")
# The importer keeps their integers, and says what is wrong with their scales.
QUANTIZED = ("DequantizeLinear", "QuantizeLinear")
# Old forms with another meaning that the reference evaluator computes as the new form: op type ->
# first opset it has right. They run on the device like any other node.
REFERENCE_SINCE = {"BatchNormalization": 14, "Hardmax": 13, "LogSoftmax": 13, "Softmax": 13,
                   "Resize": 11}
# Old forms that the reference evaluator lacks, though a later one means the same.
REFERENCE_AS = {"DequantizeLinear": 19}


def foldable(node: Node) -> bool:
    """Whether the node's outputs are known because all its inputs are."""
    return (node.domain == "" and node.op_type not in (*RANDOM, *WRONG, *QUANTIZED)
            and node.opset >= REFERENCE_SINCE.get(node.op_type, 0)
            and all(value is None or value.known for value in node.inputs)
            and not any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                        for a in node.proto.attribute))


def evaluate(node: Node) -> list[np.ndarray] | None:
    """Return the outputs of a node whose inputs are all known; None if ONNX has no reference of it.

    Raises:
        ModelError: the reference refuses the inputs.
    """
    if node.op_type == "Constant":
        return [_constant(node)]
    names = list(node.proto.input)
    declare = [helper.make_value_info(name, onnx.TypeProto())
               for name in dict.fromkeys(names) if name]
    results = [helper.make_value_info(name, onnx.TypeProto()) for name in node.outputs if name]
    opset = max(node.opset, REFERENCE_AS.get(node.op_type, 0))
    model = helper.make_model(helper.make_graph([node.proto], "node", declare, results),
                              opset_imports=[helper.make_opsetid("", opset)])
    try:
        evaluator = ReferenceEvaluator(model)
    except (NotImplementedError, RuntimeError):
        return None
    except Exception as error:
        raise ModelError(f"{node}: its attributes are wrong: {error}") from None
    feeds = {name: value.array for name, value in zip(names, node.inputs) if value is not None}
    try:
        with np.errstate(all="ignore"):
            found = iter(evaluator.run(None, feeds))
    except NotImplementedError:
        return None
    except Exception as error:  # the reference has no error class of its own
        raise ModelError(f"{node}: cannot be computed from its constant inputs: {error}") from None
    return [np.asarray(next(found)) if name else None for name in node.outputs]


def _constant(node: Node) -> np.ndarray:
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_floats", np.float32),
                        ("value_int", np.int64), ("value_ints", np.int64)):
        value = node.attr(name)
        if value is not None:
            return np.asarray(value, dtype)
    for name in ("value_string", "value_strings"):
        value = node.attr(name)
        if value is not None:
            return np.asarray(value, object)
    for attribute in node.proto.attribute:
        if attribute.name == "sparse_value":
            return _dense(attribute.sparse_tensor)
    raise ModelError(f"{node}: has no value")


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, indices = contents(sparse.values, "values"), contents(sparse.indices, "indices")
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:
        array[tuple(indices.T)] = values
    else:
        array.reshape(-1)[indices] = values
    return array
