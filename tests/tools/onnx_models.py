"""Build tiny ONNX models, and compare what the importer makes of them with ONNX Runtime."""
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgerun.tools import reference
from edgerun.tools.importers.onnx import import_proto

MS = "com.microsoft"  # the domain of the ops of ONNX Runtime
RNG = np.random.default_rng(1)


def floats(*shape: int) -> np.ndarray:
    """Return standard normal numbers."""
    return np.asarray(RNG.standard_normal(shape), np.float32)


def ints(*values: int) -> np.ndarray:
    """Return an int64 list, as ONNX wants shapes and axes."""
    return np.array(values, np.int64)


def f32(*numbers) -> np.ndarray:
    """Return fp32 numbers; a single one, or sequence, in its own shape."""
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.float32)


def random_ints(dtype, *shape: int, seed: int = 0) -> np.ndarray:
    """Return integers over the whole range of a NumPy type."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def model_of(nodes, inputs: dict, constants: dict | None = None, opset: int = 13,
             outputs: tuple[str, ...] = ("y",), dtypes: dict | None = None) -> onnx.ModelProto:
    """Return a model; the outputs are float unless `dtypes` says else, of undeclared shape."""
    dtypes = dtypes or {}
    graph = helper.make_graph(
        nodes if isinstance(nodes, list) else [nodes], "test",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for name, a in inputs.items()],
        [helper.make_tensor_value_info(name, dtypes.get(name, TensorProto.FLOAT), None)
         for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def make(nodes, inputs: dict, constants: dict | None = None, opset: int = 13,
         outputs: tuple[str, ...] = ("y",), to=np.float32) -> onnx.ModelProto:
    """Return a model that may use ops of ONNX Runtime; its outputs are of the NumPy type `to`."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    model = model_of(nodes, inputs, constants, opset, outputs, dict.fromkeys(outputs, element))
    model.opset_import.append(helper.make_opsetid(MS, 1))
    return model


def runtime(model: onnx.ModelProto, inputs: dict) -> dict:
    """Return what ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in model.graph.output], session.run(None, inputs)))


def check(nodes, inputs: dict, constants: dict | None = None, opset: int = 13,
          outputs: tuple[str, ...] = ("y",), dtypes: dict | None = None, expected=None):
    """Import, run on the host, compare with ONNX Runtime; returns the graph."""
    model = model_of(nodes, inputs, constants, opset, outputs, dtypes)
    expected = runtime(model, inputs) if expected is None else expected
    graph = import_proto(model)
    found = reference.execute(graph, inputs)
    for name, want in expected.items():
        assert found[name].dtype == want.dtype, name
        assert found[name].shape == want.shape, name
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-5, err_msg=name)
    return graph


def check_folded(node, constants: dict, opset: int, **options) -> None:
    """Check a node whose inputs are all constants: it must leave no op."""
    model = model_of(node, {}, constants, opset, **options)
    graph = import_proto(model)
    assert graph.ops == []
    for name, want in runtime(model, {}).items():
        np.testing.assert_allclose(reference.execute(graph, {})[name], want, rtol=1e-5,
                                   atol=1e-6)


def codes(graph) -> list[str]:
    """Return the op codes of a graph in order."""
    return [op.code for op in graph.ops]
