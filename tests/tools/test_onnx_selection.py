"""ONNX ops that choose, sort, reverse or write rows, and bits, against ONNX Runtime."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools import reference
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, floats, ints, model_of, random_ints

INT64 = {"y": TensorProto.INT64}


def host(nodes, inputs: dict, constants: dict | None = None, opset: int = 24, **options) -> dict:
    """Return what the importer's graph computes, for ops that ONNX Runtime has not."""
    return reference.execute(import_proto(model_of(nodes, inputs, constants, opset, **options)),
                             inputs)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k(k, axis, largest):
    x = np.round(2 * floats(5, 6, 7))  # with equal elements: the first wins
    check(make_node("TopK", ["x", "k"], ["y", "at"], axis=axis, largest=largest), {"x": x},
          {"k": ints(k)}, outputs=("y", "at"), dtypes={"at": TensorProto.INT64})


def test_top_k_of_integers_and_of_old_opsets():
    x = random_ints(np.int32, 4, 9).astype(np.int64)
    check(make_node("TopK", ["x", "k"], ["y", "at"]), {"x": x}, {"k": ints(4)},
          outputs=("y", "at"), dtypes={"y": TensorProto.INT64, "at": TensorProto.INT64})
    check(make_node("TopK", ["x"], ["y", "at"], k=2, axis=1), {"x": floats(3, 8)}, opset=9,
          outputs=("y", "at"), dtypes={"at": TensorProto.INT64})


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_top_k_takes_a_place_once(dtype, largest):
    """Also where elements are as low as a type goes: the masked ones before a choice."""
    info = np.iinfo(np.int32)
    low, high = (info.min, info.max) if dtype == np.int32 else (-np.inf, np.inf)
    worst = low if largest else high
    x = np.array([[worst, worst, 1, worst], [worst] * 4, [3, low, high, worst]], dtype)
    for k in (2, 3, 4):
        check(make_node("TopK", ["x", "k"], ["y", "at"], largest=largest), {"x": x},
              {"k": ints(k)}, outputs=("y", "at"), dtypes={
                  "y": helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), "at": TensorProto.INT64})


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_hardmax(axis, opset):
    x = np.round(floats(3, 4, 5))
    attributes = {} if axis is None else {"axis": axis}
    check(make_node("Hardmax", ["x"], ["y"], **attributes), {"x": x}, opset=opset)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis):
    x = floats(3, 4)
    attributes = {} if axis is None else {"axis": axis}
    check(make_node("Compress", ["x", "c"], ["y"], **attributes), {"x": x},
          {"c": np.array([False, True, True])})


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("known", [True, False])
def test_reverse_sequence(time, known):
    x, lengths = floats(*((5, 3, 2) if time == 0 else (3, 5, 2))), ints(1, 5, 3)
    node = make_node("ReverseSequence", ["x", "n"], ["y"], time_axis=time, batch_axis=1 - time)
    check(node, {"x": x, **({} if known else {"n": lengths})}, {"n": lengths} if known else {})


@pytest.mark.parametrize("written", [None, [0, 4], [3, 6]])
@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [1, 2])
def test_tensor_scatter(mode, written, axis):
    """A cache of eight rows, three of which are new: also where the row is computed at run time."""
    shape, new = [2, 4, 4, 3], [2, 4, 4, 3]
    shape[axis], new[axis] = 8, 3
    past, update = floats(*shape), floats(*new)
    if mode == "linear" and written == [3, 6]:
        written = [3, 5]
    expected = past.copy()
    for n in range(2):
        for i in range(3):
            at = ((written or [0, 0])[n] + i) % 8
            np.moveaxis(expected[n], axis - 1, 0)[at] = np.moveaxis(update[n], axis - 1, 0)[i]
    node = make_node("TensorScatter", ["past", "update"] + (["at"] if written else []), ["y"],
                     mode=mode, axis=axis)
    at = {"at": ints(*written)} if written else {}
    inputs = {"past": past, "update": update}
    for given, constants in ((inputs, at), ({**inputs, **at}, {})):
        np.testing.assert_array_equal(host(node, given, constants)["y"], expected)


@pytest.mark.parametrize("shape", [None, (1, 2, 6, 9)])
def test_max_unpool(shape):
    """Undoes a MaxPool but for what it dropped. A larger output has the smaller one inside; ONNX
    Runtime takes the places for those of the larger one."""
    x = floats(1, 2, 6, 8)
    pooled = x.reshape(2, 3, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(2, 3, 4, 4)
    best, values = pooled.argmax(-1), pooled.max(-1)
    c, i, j = np.indices(best.shape)
    places = (c * 6 + 2 * i + best // 2) * 8 + 2 * j + best % 2
    constants = {"i": places[None]} | ({"s": ints(*shape)} if shape else {})
    expected = np.zeros(96, np.float32)
    expected[places.reshape(-1)] = values.reshape(-1)
    expected = expected.reshape(1, 2, 6, 8)
    if shape:
        expected = np.pad(expected, [(0, n - m) for n, m in zip(shape, expected.shape)])
    check(make_node("MaxUnpool", ["x", "i"] + (["s"] if shape else []), ["y"],
                    kernel_shape=[2, 2], strides=[2, 2]), {"x": values[None]}, constants,
          expected={"y": expected} if shape else None)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cum_prod(exclusive, reverse):
    x = floats(3, 7)
    turned = x[:, ::-1] if reverse else x
    expected = np.cumprod(turned, 1)
    if exclusive:
        expected = np.concatenate([np.ones((3, 1)), expected[:, :-1]], 1)
    expected = expected[:, ::-1] if reverse else expected
    node = make_node("CumProd", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    y = host(node, {"x": x}, {"axis": np.array(1)}, opset=26)["y"]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["add", "mul", "min", "max"])
def test_scatter_with_a_reduction(reduction):
    """A place that is named three times takes part three times."""
    indices = np.array([[1], [3], [1], [0], [1]], np.int64)
    check(make_node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction),
          {"x": floats(4, 3), "u": floats(5, 3)}, {"i": indices}, opset=18)
    check(make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction=reduction, axis=1),
          {"x": floats(2, 4), "u": floats(2, 3)},
          {"i": np.array([[1, 1, 1], [0, 3, 0]], np.int64)}, opset=18)


def test_scatter_of_old_models():
    check(make_node("Scatter", ["x", "i", "u"], ["y"], axis=1),
          {"x": floats(2, 4), "u": floats(2, 2)}, {"i": np.array([[1, -1], [3, 0]], np.int64)},
          opset=10)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
def test_bits(op, dtype):
    a, b = random_ints(dtype, 3, 9, seed=1), random_ints(dtype, 9, seed=2)
    check(make_node(op, ["a", "b"], ["y"]), {"a": a, "b": b}, opset=18,
          dtypes={"y": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))})


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
def test_bitwise_not(dtype):
    check(make_node("BitwiseNot", ["x"], ["y"]), {"x": random_ints(dtype, 31)}, opset=18,
          dtypes={"y": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))})


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift(direction):
    check(make_node("BitShift", ["x", "n"], ["y"], direction=direction),
          {"x": random_ints(np.uint8, 3, 8), "n": np.arange(8, dtype=np.uint8)},
          dtypes={"y": TensorProto.UINT8})


def test_ops_of_the_ml_domain():
    x = floats(3, 5)
    inputs = {"x": x}
    for node, expected in (
            (make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.25), x > 0.25),
            (make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml"),
             x[:, [3, 0]])):
        model = model_of(node, inputs, {"i": ints(3, 0)} if len(node.input) > 1 else None)
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        y = reference.execute(import_proto(model), inputs)["y"]
        np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_empty_parts_are_left_out_of_a_concat():
    nodes = [make_node("Slice", ["x", "zero", "zero", "axis"], ["none"]),
             make_node("Split", ["x", "sizes"], ["a", "gone", "b"], axis=1),
             make_node("Concat", ["none", "b", "gone", "a"], ["y"], axis=1)]
    check(nodes, {"x": floats(2, 5)},
          {"zero": ints(0), "axis": ints(1), "sizes": ints(3, 0, 2)})


@pytest.mark.parametrize("node, inputs, constants, error, message", [
    (make_node("TopK", ["x", "k"], ["y", "i"]), {"x": floats(2, 3)}, {"k": ints(4)}, ModelError,
     "k is 4 for 3 elements"),
    (make_node("TopK", ["x", "k"], ["y", "i"]), {"x": floats(2, 300)}, {"k": ints(200)},
     UnsupportedError, "k is 200, needed at most 128"),
    (make_node("TopK", ["x", "k"], ["y", "i"]), {"x": floats(2, 3), "k": ints(1)}, {},
     UnsupportedError, "its k is computed at run time"),
    (make_node("Compress", ["x", "c"], ["y"], axis=0), {"x": floats(2, 3)},
     {"c": np.array([False, True, True])}, ModelError, "chooses element 2 of 2"),
    (make_node("Compress", ["x", "c"], ["y"]), {"x": floats(2)}, {"c": np.array([False, False])},
     UnsupportedError, "its output has no elements"),
    (make_node("ReverseSequence", ["x", "n"], ["y"]), {"x": floats(4, 3)}, {"n": ints(1, 2)},
     ModelError, "lengths have the shape"),
    (make_node("TensorScatter", ["x", "u"], ["y"]), {"x": floats(2, 4, 3), "u": floats(2, 4, 2)},
     {}, ModelError, "does not fit"),
    (make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
     {"x": floats(1, 1, 2, 2)}, {"i": np.full((1, 1, 2, 2), 99)}, ModelError, "lies outside"),
    (make_node("MaxUnpool", ["x", "i", "s"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
     {"x": floats(1, 1, 2, 2)}, {"i": np.full((1, 1, 2, 2), 99), "s": ints(1, 1, 16, 16)},
     ModelError, "lies outside"),
    (make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2]),
     {"x": floats(1, 1, 2, 2)}, {"i": np.zeros((1, 1, 2, 2), np.int64)}, ModelError,
     r"strides \[2\]"),
    (make_node("BitShift", ["x", "n"], ["y"], direction="UP"),
     {"x": random_ints(np.uint8, 3), "n": random_ints(np.uint8, 3)}, {}, ModelError,
     "direction 'UP'"),
    (make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="mean"),
     {"x": floats(3), "u": floats(1)}, {"i": ints(0)}, ModelError, "reduction 'mean'"),
])
def test_bad_input(node, inputs, constants, error, message):
    outputs = tuple(node.output)[:1]
    with pytest.raises(error, match=message):
        import_proto(model_of(node, inputs, constants, 24, outputs))
