"""The TFLite importer's ops built of several: indexing, sums along an axis, MediaPipe's."""
from __future__ import annotations

import struct

import numpy as np
import pytest

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools import reference
from tests.tools.test_tflite_importer import SAME, VALID, check, codes, interpret
from tests.tools.tflite_builder import TFLiteBuilder, load, random


def indices(shape, n: int, seed: int = 0) -> np.ndarray:
    """Return seeded int32 values in 0..n-1."""
    return np.random.default_rng([seed, *shape]).integers(0, n, shape).astype(np.int32)


@pytest.mark.parametrize("shape,picked,axis,batch", [
    ((4, 7, 3), (4, 5), 1, 1), ((4, 7, 3), (4, 5), -1, 1), ((4, 3, 7, 2), (4, 2, 6), 2, 1),
    ((4, 3, 7), (4, 3, 6), 2, 2), ((4, 3, 7), (4, 3, 6), 2, -1), ((5, 7), (5,), 1, 1)])
def test_gather_of_batches(shape, picked, axis, batch, tmp_path):
    m = TFLiteBuilder()
    y = m.op("GATHER", [m.input(shape), m.input(picked, "int32")], "GatherOptions", Axis=axis,
             BatchDims=batch)
    check(m, y, [random(shape), indices(picked, shape[axis])], tmp_path)


def test_gather_of_batches_that_differ(tmp_path):
    m = TFLiteBuilder()
    m.op("GATHER", [m.input((4, 7)), m.input((3, 2), "int32")], "GatherOptions", Axis=1,
         BatchDims=1)
    with pytest.raises(ModelError, match=r"batch_dims 1 and axis 1 of \(4, 7\) by the indices"):
        load(m.finish([m.op("RELU", [2])]), tmp_path)


@pytest.mark.parametrize("shape,picked", [((6, 5, 4), (3, 1)), ((6, 5, 4), (2, 3, 2)),
                                          ((6, 5, 4), (7, 3)), ((6, 5), (2,))])
def test_gather_nd(shape, picked, tmp_path):
    m = TFLiteBuilder()
    y = m.op("GATHER_ND", [m.input(shape), m.input(picked, "int32")])
    check(m, y, [random(shape), indices(picked, 4)], tmp_path)


def test_embedding_lookup(tmp_path):
    m = TFLiteBuilder()
    y = m.op("EMBEDDING_LOOKUP", [m.input((4,), "int32"), m.const(random((9, 5)))])
    check(m, y, [indices((4,), 9)], tmp_path)


@pytest.mark.parametrize("zero_point", [0, 7])
def test_integer_table_behind_dequantize(zero_point, tmp_path):
    """As the converter leaves the embeddings of a hybrid model: the table stays int8."""
    m = TFLiteBuilder()
    quantization = ([0.02], [zero_point], 0)
    values = np.random.default_rng(0).integers(-128, 128, (9, 5)).astype(np.int8)
    table = m.const(values, quantization=quantization)
    row = m.op("GATHER", [table, m.input((2, 3), "int32")], "GatherOptions", out="int8",
               quantization=quantization)
    graph = check(m, m.op("DEQUANTIZE", [row]), [indices((2, 3), 9)], tmp_path)
    assert graph.ops[0].inputs[0].dtype == "int8"


def test_integer_table_with_a_scale_per_channel(tmp_path):
    m = TFLiteBuilder()
    quantization = ([0.1, 0.2], [0, 0], 0)
    table = m.const(np.ones((2, 3), np.int8), quantization=quantization)
    row = m.op("GATHER", [table, m.input((2,), "int32")], "GatherOptions", out="int8", shape=(2, 3),
               quantization=quantization)
    with pytest.raises(UnsupportedError, match="its output '.*' has a scale per channel, needed"):
        load(m.finish([m.op("DEQUANTIZE", [row])]), tmp_path)


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_one_hot(axis, dtype, tmp_path):
    m = TFLiteBuilder()
    on, off = m.const(3, dtype), m.const(-1, dtype)
    y = m.op("ONE_HOT", [m.input((3, 4), "int32"), m.const(6, "int32"), on, off], "OneHotOptions",
             Axis=axis, out=dtype)
    check(m, y, [indices((3, 4), 8) - 1], tmp_path)  # -1 and 6 are nowhere


@pytest.mark.parametrize("axes", [[0], [-1], [1, 2]])
def test_reverse(axes, tmp_path):
    m = TFLiteBuilder()
    y = m.op("REVERSE_V2", [m.input((3, 1, 5)), m.const(axes, "int32")])
    graph = check(m, y, [random((3, 1, 5))], tmp_path)
    assert codes(graph) == ["slice"]


@pytest.mark.parametrize("shape,axis", [((2, 9), 1), ((5, 3), 0), ((2, 8, 2), -2), ((3, 1), 1)])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_cumsum(shape, axis, exclusive, reverse, dtype, tmp_path):
    m = TFLiteBuilder()
    y = m.op("CUMSUM", [m.input(shape, dtype), m.const(axis, "int32")], "CumsumOptions", out=dtype,
             Exclusive=exclusive, Reverse=reverse)
    check(m, [y, m.op("ABS", [y], out=dtype)],
          [random(shape) if dtype == "float32" else indices(shape, 50)], tmp_path)


def test_broadcast_args(tmp_path):
    """As converters write a broadcast to a shape that depends on the batch."""
    m = TFLiteBuilder()
    a, b = m.input((4, 1)), m.input((1, 5))
    shapes = [m.op("SHAPE", [x], "ShapeOptions", out="int32", OutType=2) for x in (a, b)]
    shape = m.op("BROADCAST_ARGS", shapes, out="int32")
    y = m.op("BROADCAST_TO", [a, shape], version=2)
    graph = check(m, y, [random((4, 1)), random((1, 5))], tmp_path)
    assert codes(graph) == ["expand"]


def test_add_n(tmp_path):
    m = TFLiteBuilder()
    xs = [random((2, 3), seed) for seed in range(4)]
    check(m, m.op("ADD_N", [m.input((2, 3)) for _ in xs]), xs, tmp_path)


@pytest.mark.parametrize("code", ["REDUCE_ANY", "REDUCE_ALL"])
@pytest.mark.parametrize("axes,keep", [([1], False), ([0, 1], True)])
def test_reduce_bool(code, axes, keep, tmp_path):
    m = TFLiteBuilder()
    y = m.op(code, [m.input((5, 2), "bool"), m.const(axes, "int32")], "ReducerOptions", out="bool",
             KeepDims=keep)
    x = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
    check(m, y, [x], tmp_path)


def mediapipe(options: bytes, x, w, bias) -> TFLiteBuilder:
    """Return a model of one Convolution2DTransposeBias, whose output is tensor 3."""
    m = TFLiteBuilder()
    m.op("CUSTOM", [m.input(x.shape), m.const(w), m.const(bias)], custom_options=options,
         custom="Convolution2DTransposeBias")
    return m


@pytest.mark.parametrize("kernel,stride,padding,out", [
    ((2, 2), (2, 2), SAME, (8, 9)), ((3, 3), (2, 2), SAME, (8, 9)),
    ((4, 3), (3, 1), SAME, (10, 5)), ((3, 2), (2, 3), VALID, (9, 14)),
    ((1, 1), (2, 2), SAME, (7, 9))])
def test_transpose_conv_bias(kernel, stride, padding, out, tmp_path):
    """MediaPipe's op is the builtin one with a bias, given the smallest output that SAME allows."""
    x, w, bias = random((1, 4, 5, 3)), random((6, *kernel, 3), 1), random((6,), 2)
    stored = struct.pack("<4i", 2 if padding == VALID else 1, stride[1], stride[0], 0)
    data = mediapipe(stored, x, w, bias).finish([3])
    found = reference.execute(load(data, tmp_path), {"x0": x})
    m = TFLiteBuilder()
    shape = m.const([1, *out, 6], "int32")
    y = m.op("TRANSPOSE_CONV", [shape, m.const(w), m.input(x.shape), m.const(bias)],
             "TransposeConvOptions", version=3, Padding=padding, StrideH=stride[0],
             StrideW=stride[1])
    (want,) = interpret(m.finish([y]), {"x0": x})
    (got,) = found.values()
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("options,message", [
    (b"", "0 bytes of options, needed 12"), (struct.pack("<3i", 0, 2, 2), "padding scheme 0"),
    (struct.pack("<3i", 1, 0, 2), r"stride \(2, 0\), needed at least 1")])
def test_transpose_conv_bias_with_damaged_options(options, message, tmp_path):
    m = mediapipe(options, random((1, 4, 5, 3)), random((6, 2, 2, 3)), random((6,)))
    with pytest.raises(ModelError, match=message):
        load(m.finish([3]), tmp_path)
