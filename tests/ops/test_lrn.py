"""Local response normalization against NumPy, and the NumPy reference against ONNX Runtime."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import check_op


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 16), (1, 3, 5, 1), (2, 3, 4, 7), (1, 5, 5, 37),
                                   (1, 1, 2, 96), (1, 9, 7, 64)])
def test_shapes(device, shape, precision):
    check_op(device, "lrn", [numbers(shape)], 2e-6, precision, size=5, alpha=0.3, bias=2.0)


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 100, 2**31 - 1])
def test_options(device, size, beta):
    check_op(device, "lrn", [numbers((3, 5, 35), 1)], 2e-6, size=size, alpha=0.5, beta=beta,
             bias=1.5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_googlenet_layer(device, precision):
    check_op(device, "lrn", [numbers((1, 56, 56, 192), 2)], 2e-6, precision, size=5)


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for channels in (1, 6, 23):
        check_op(device, "lrn", [numbers((2, 7, channels), 3)], 2e-6, size=4, alpha=0.5)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_reference_agrees_with_onnx_runtime(size):
    """Odd sizes, because ONNX Runtime has no others."""
    import onnx
    import onnxruntime
    x = numbers((2, 3, 4, 7), 4)
    graph = Graph()
    graph.output("y", graph.add("lrn", [graph.input("x", x.shape, "fp32")], size=size, alpha=0.2,
                                beta=0.6, bias=1.3))
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.2, beta=0.6, bias=1.3)
    model = onnx.helper.make_model(onnx.helper.make_graph(
        [node], "lrn", [value("x", 1, [2, 7, 3, 4])], [value("y", 1, None)]),
        opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=9)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": x.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(reference.execute(graph, {"x": x})["y"], want, rtol=1e-5)


@pytest.mark.parametrize("shape, dtype, options, message", [
    ((), "fp32", {}, "has no dimension"),
    ((2, 3), "int32", {}, "is int32"),
    ((2, 3), "fp32", {"size": 0}, "has size 0"),
    ((2, 3), "fp32", {"alpha": float("inf")}, "has alpha inf"),
    ((2, 3), "fp32", {"beta": float("nan")}, "has beta nan"),
    ((2, 3), "fp32", {"bias": float("-inf")}, "has bias -inf"),
])
def test_invalid(shape, dtype, options, message):
    graph = Graph()
    with pytest.raises(ModelError, match=message):
        graph.add("lrn", [graph.input("x", shape, dtype)], **options)
