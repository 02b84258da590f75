"""Quantized TFLite models: what is imported computes what LiteRT computes, and keeps integers.

The imported graph is evaluated in real arithmetic, which rounds once where LiteRT's kernels round
twice: a result may be one step off. What only moves elements is exact.
"""
from __future__ import annotations

import numpy as np
import pytest
from flatbuffers import flexbuffers
import tflite

from edgerun.errors import ModelError, UnsupportedError
from edgerun.quantization import Quantization
from edgerun.tools import lower, passes, reference
from tests.tools.test_tflite_importer import RELU, RELU6, codes, interpret
from tests.tools.tflite_builder import TFLiteBuilder, load, random

SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID
DTYPES = ["int8", "uint8", "int16"]


def grid(dtype: str, step: float = 0.05) -> tuple[list[float], list[int], int]:
    """Return a quantization for values within 6, with a zero point where the dtype has one."""
    return {"int8": ([step], [7], 0), "uint8": ([step], [121], 0),
            "int16": ([step / 256], [0], 0)}[dtype]


def integers(shape, dtype: str, seed: int = 0) -> np.ndarray:
    """Return seeded integers over the whole range of a dtype."""
    info = np.iinfo(dtype)
    return np.random.default_rng([seed, *shape]).integers(info.min, info.max + 1, shape, dtype)


def check(m: TFLiteBuilder, outputs, feeds: list[np.ndarray], tmp_path, steps: int = 1,
          equal: float = 0.8, exact: bool = False):
    """Compare with LiteRT, as imported, after the passes, and lowered; returns the imported graph.

    Args:
        steps: what an integer may differ by.
        equal: the part of the elements that must not differ.
        exact: once lowered, to arithmetic on the integers themselves, none may differ.
    """
    outputs = outputs if isinstance(outputs, list) else [outputs]
    data = m.finish(outputs)
    inputs = dict(zip([m.tensors[n].name for n in m.inputs], feeds, strict=True))
    expected = interpret(data, inputs)
    imported, optimized, lowered = (load(data, tmp_path) for _ in range(3))
    for graph in (optimized, lowered):
        for _, apply in passes.PIPELINE:
            apply(graph)
    lower.apply(lowered)
    for graph in (imported, optimized, lowered):
        if graph is lowered and exact:
            steps, equal = 0, 1
        found = reference.execute(graph, inputs)
        for (name, y), want in zip(found.items(), expected, strict=True):
            assert (y.shape, y.dtype) == (want.shape, want.dtype), name
            apart = np.abs(y.astype(np.float64) - want.astype(np.float64))
            if want.dtype.kind == "f":
                assert apart.max() <= 1e-5 * max(1, np.abs(want).max()), name
            else:
                assert apart.max() <= steps and np.mean(apart == 0) >= equal, (name, apart.max())
    return imported


def weights(m: TFLiteBuilder, shape, axis: int, dtype: str, x: str, seed: int = 1,
            **more) -> tuple[int, int]:
    """Add quantized weights and a bias for an input of grid(x); return both.

    uint8: one scale and a zero point; int8: a scale per index of the axis.
    """
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    if dtype == "uint8":
        scale, zero, values = [0.01], [131], integers(shape, "uint8", seed)
    else:
        scale, zero = rng.uniform(0.002, 0.02, channels), [0] * channels
        values = rng.integers(-127, 128, shape).astype(np.int8)
    s_x = grid(x)[0][0]
    bias = rng.integers(-2000, 2000, channels) * (256 if x == "int16" else 1)
    return (m.const(values, quantization=(scale, zero, axis), **more),
            m.const(bias.astype(np.int64 if x == "int16" else np.int32),
                    quantization=([s_x * s for s in scale], [0] * len(scale), 0)))


def kept_as_integers(graph, number: int = 1) -> None:
    """Require that weights and bias of the only layer are integers behind a dequantize."""
    layer = graph.ops[-2]
    made = {op.outputs[0]: op for op in graph.ops}
    for tensor in layer.inputs[1:]:
        assert made[tensor].code == "dequantize" and made[tensor].inputs[0].constant
    assert made[layer.inputs[1]].inputs[0].dtype in ("int8", "uint8")
    assert made[layer.inputs[2]].inputs[0].dtype == "int32"
    assert graph.ops[-1].code == "quantize"


CONV = dict(Padding=SAME, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, dict(StrideH=2, StrideW=2, FusedActivationFunction=RELU6),
                                     dict(Padding=VALID, FusedActivationFunction=RELU)], ids=str)
def test_conv_2d(dtype, options, tmp_path):
    m = TFLiteBuilder()
    x = integers((1, 7, 8, 4), dtype)
    n = m.input(x.shape, dtype, quantization=grid(dtype))
    w, bias = weights(m, (6, 3, 3, 4), 0, "uint8" if dtype == "uint8" else "int8", dtype)
    y = m.op("CONV_2D", [n, w, bias], "Conv2DOptions", out=dtype, shape=(1, 7, 8, 6),
             quantization=grid(dtype, 0.5), version=3, **{**CONV, **options})
    graph = check(m, y, [x], tmp_path, exact=True)
    kept_as_integers(graph)
    assert codes(graph).count("conv2d") == 1
    assert graph.outputs[0].tensor.quantization.rounding == ("short" if dtype == "int16"
                                                             else "upward")


@pytest.mark.parametrize("in_c", [2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_conv_2d(dtype, in_c, tmp_path):
    m = TFLiteBuilder()
    x, out_c = integers((1, 16, 15, in_c), dtype), 2 * in_c
    n = m.input(x.shape, dtype, quantization=grid(dtype))
    w, bias = weights(m, (1, out_c, 3, out_c), 3, "uint8" if dtype == "uint8" else "int8", dtype)
    y = m.op("DEPTHWISE_CONV_2D", [n, w, bias], "DepthwiseConv2DOptions", out=dtype, version=3,
             shape=(1, 16, 15, out_c), quantization=grid(dtype, 0.5), DepthMultiplier=2, **CONV)
    graph = check(m, y, [x], tmp_path, exact=True)
    kept_as_integers(graph)
    w = next(op.inputs[0] for op in graph.ops if op.outputs[0] is graph.ops[-2].inputs[1])
    assert w.shape == (out_c, 3, out_c) and w.quantization.axis == (-1 if dtype == "uint8" else 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_conv(dtype, tmp_path):
    m = TFLiteBuilder()
    x = integers((1, 4, 5, 4), dtype)
    w, bias = weights(m, (6, 3, 3, 4), 0, "uint8" if dtype == "uint8" else "int8", dtype)
    inputs = [m.const([1, 8, 10, 6], "int32"), w,
              m.input(x.shape, dtype, quantization=grid(dtype)), bias]
    y = m.op("TRANSPOSE_CONV", inputs, "TransposeConvOptions", out=dtype, version=3,
             shape=(1, 8, 10, 6), quantization=grid(dtype, 0.5), Padding=SAME, StrideH=2, StrideW=2)
    graph = check(m, y, [x], tmp_path)
    kept_as_integers(graph)
    assert graph.outputs[0].tensor.quantization.rounding == ("short" if dtype == "int16"
                                                             else "upward")


def test_transpose_conv_with_its_shape_as_an_input(tmp_path):
    """As TensorFlow exports a streaming decoder: the file declares the only shape that fits."""
    m = TFLiteBuilder()
    x = integers((1, 4, 5, 4), "int8")
    w, bias = weights(m, (6, 3, 3, 4), 0, "int8", "int8")
    inputs = [m.input((4,), "int32"), w, m.input(x.shape, "int8", quantization=grid("int8")), bias]
    y = m.op("TRANSPOSE_CONV", inputs, "TransposeConvOptions", out="int8", version=3,
             shape=(1, 8, 10, 6), quantization=grid("int8", 0.5), Padding=SAME, StrideH=2,
             StrideW=2)
    graph = check(m, y, [np.array([1, 8, 10, 6], np.int32), x], tmp_path)
    assert any("packed for (1, 8, 10, 6), whatever that input says" in n for n in graph.notes)


@pytest.mark.parametrize("dtype,per_channel", [("int8", False), ("int8", True), ("uint8", False),
                                               ("int16", False)])
def test_fully_connected(dtype, per_channel, tmp_path):
    m = TFLiteBuilder()
    x = integers((3, 2, 8), dtype)
    n = m.input(x.shape, dtype, quantization=grid(dtype))
    w, bias = weights(m, (5, 16), 0, "uint8" if dtype == "uint8" else "int8", dtype)
    if dtype != "uint8" and not per_channel:
        m.tensors[w].quantization, m.tensors[bias].quantization = ([0.01], [0], 0), None
    y = m.op("FULLY_CONNECTED", [n, w, bias], "FullyConnectedOptions", out=dtype, version=4,
             shape=(3, 5), quantization=grid(dtype, 0.5), FusedActivationFunction=RELU)
    graph = check(m, y, [x], tmp_path, exact=True)
    kept_as_integers(graph)
    # the rows are cut out of the integers
    assert codes(graph)[0] == "reshape" and graph.ops[0].outputs[0].dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_batch_matmul(dtype, tmp_path):
    m = TFLiteBuilder()
    a, b = integers((2, 3, 8), dtype), integers((2, 8, 5), dtype, 1)
    y = m.op("BATCH_MATMUL", [m.input(t.shape, dtype, quantization=(grid(dtype)[0], [0], 0))
                              for t in (a, b)], "BatchMatMulOptions", out=dtype, shape=(2, 3, 5),
             quantization=(grid(dtype, 1.0)[0], [0], 0), version=3)
    graph = check(m, y, [a, b], tmp_path)
    assert codes(graph) == ["dequantize", "dequantize", "matmul", "quantize"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise(dtype, tmp_path):
    m = TFLiteBuilder()
    a, b = integers((3, 4, 8), dtype), integers((8,), dtype, 1)
    x = m.input(a.shape, dtype, quantization=grid(dtype))
    y = m.input(b.shape, dtype, quantization=grid(dtype, 0.03))
    same = m.const(integers((8,), dtype, 2), quantization=grid(dtype))
    out = dict(out=dtype, shape=(3, 4, 8), version=2)
    pot = dict(PotScaleInt16=False) if dtype == "int16" else {}
    outputs = [m.op("ADD", [x, y], "AddOptions", quantization=grid(dtype, 0.08), **out, **pot),
               m.op("SUB", [x, y], "SubOptions", quantization=grid(dtype, 0.08), **out, **pot),
               m.op("MUL", [x, y], "MulOptions", quantization=grid(dtype, 0.2), **out),
               m.op("MAXIMUM", [x, same], quantization=grid(dtype), **out),
               m.op("MINIMUM", [x, same], quantization=grid(dtype), **out)]
    check(m, outputs, [a, b], tmp_path, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype, tmp_path):
    m = TFLiteBuilder()
    a = integers((2, 60), dtype)
    x = m.input(a.shape, dtype, quantization=grid(dtype))
    unit = {"int8": ([1 / 256], [-128], 0), "uint8": ([1 / 256], [0], 0),
            "int16": ([1 / 32768], [0], 0)}[dtype]
    both = {"int8": ([1 / 128], [0], 0), "uint8": ([1 / 128], [128], 0),
            "int16": ([1 / 32768], [0], 0)}[dtype]
    out = dict(out=dtype, shape=(2, 60))
    outputs = [m.op("LOGISTIC", [x], quantization=unit, version=3, **out),
               m.op("TANH", [x], quantization=both, version=3, **out),
               m.op("SOFTMAX", [x], "SoftmaxOptions", quantization=unit, version=3, Beta=1.0,
                    **out),
               m.op("RELU", [x], quantization=grid(dtype), version=3, **out),
               m.op("LEAKY_RELU", [x], "LeakyReluOptions", quantization=grid(dtype, 0.04),
                    Alpha=0.3, version=2, **out)]
    if dtype != "int16":
        outputs += [m.op("RELU6", [x], quantization=grid(dtype), version=2, **out),
                    m.op("HARD_SWISH", [x], quantization=grid(dtype), **out)]
    # int16 tables of LiteRT interpolate
    check(m, outputs, [a], tmp_path, steps=2, equal=0.7, exact=dtype != "int16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_and_reductions(dtype, tmp_path):
    m = TFLiteBuilder()
    a = integers((1, 6, 6, 4), dtype)
    x = m.input(a.shape, dtype, quantization=grid(dtype))
    out = dict(out=dtype, quantization=grid(dtype))
    pool = dict(Padding=SAME, StrideH=2, StrideW=2, FilterHeight=3, FilterWidth=3)
    outputs = [m.op("MAX_POOL_2D", [x], "Pool2DOptions", shape=(1, 3, 3, 4), version=3, **out,
                    **pool),
               m.op("AVERAGE_POOL_2D", [x], "Pool2DOptions", shape=(1, 3, 3, 4), version=3, **out,
                    **pool),
               m.op("RESIZE_NEAREST_NEIGHBOR", [x, m.const([9, 12], "int32")], shape=(1, 9, 12, 4),
                    options="ResizeNearestNeighborOptions", version=4, **out),
               m.op("RESIZE_BILINEAR", [x, m.const([12, 12], "int32")], "ResizeBilinearOptions",
                    shape=(1, 12, 12, 4), version=4, HalfPixelCenters=True, **out),
               m.op("PAD", [x, m.const([[0, 0], [1, 0], [0, 2], [0, 0]], "int32")], "PadOptions",
                    shape=(1, 7, 8, 4), version=2, **out)]
    if dtype != "int16":
        outputs += [m.op("ARG_MAX", [x, m.const(-1, "int32")], "ArgMaxOptions", out="int64",
                         shape=(1, 6, 6), version=2, OutputType=tflite.TensorType.INT64),
                    m.op("REDUCE_MAX", [x, m.const([1], "int32")], "ReducerOptions",
                         shape=(1, 6, 4), version=2, **out)]
    check(m, outputs, [a], tmp_path, exact=True)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean(dtype, keep, tmp_path):
    """Over images LiteRT's kernel rounds what the zero point adds, so real numbers differ."""
    m = TFLiteBuilder()
    a = integers((1, 6, 6, 50), dtype)
    y = m.op("MEAN", [m.input(a.shape, dtype, quantization=grid(dtype)), m.const([1, 2], "int32")],
             "ReducerOptions", out=dtype, shape=(1, 1, 1, 50) if keep else (1, 50), version=3,
             quantization=grid(dtype, 0.04), KeepDims=keep)
    # the passes keep the axes of every mean, after which one that dropped them looks the same
    check(m, y, [a], tmp_path, equal=0.5, exact=keep or dtype == "int16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_moves_stay_with_the_integers(dtype, tmp_path):
    m = TFLiteBuilder()
    a = integers((2, 4, 6, 8), dtype)
    n = m.input(a.shape, dtype, quantization=grid(dtype))
    ints = [m.const(v, "int32") for v in ([0, 1, 0, 0], [2, 4, 6, 8], [1, 2, 1, 1])]

    def op(code, inputs, options="", shape=(), **more):
        return m.op(code, inputs, options, out=dtype, shape=shape, quantization=grid(dtype), **more)
    outputs = [op("RESHAPE", [n, m.const([8, 48], "int32")], shape=(8, 48)),
               op("TRANSPOSE", [n, m.const([0, 3, 1, 2], "int32")], shape=(2, 8, 4, 6), version=4),
               op("STRIDED_SLICE", [n, *ints], "StridedSliceOptions", shape=(2, 2, 6, 8),
                  version=4),
               op("EXPAND_DIMS", [n, m.const(0, "int32")], shape=(1, 2, 4, 6, 8)),
               op("GATHER", [n, m.const([3, 0], "int32")], "GatherOptions", shape=(2, 2, 6, 8),
                  Axis=1, version=4),
               *op("SPLIT", [m.const(1, "int32"), n], "SplitOptions", shape=(2, 2, 6, 8), outs=2,
                   NumSplits=2, version=4)]
    if dtype != "int16":
        outputs += [*op("UNPACK", [n], "UnpackOptions", shape=(4, 6, 8), outs=2, Num=2, version=3),
                    op("SPACE_TO_DEPTH", [n], "SpaceToDepthOptions", shape=(2, 2, 3, 32),
                       BlockSize=2, version=2)]
    graph = check(m, outputs, [a], tmp_path, steps=0, equal=1)
    assert not {"quantize", "dequantize"} & set(codes(graph))
    assert {t.dtype for op in graph.ops for t in op.outputs} == {dtype}
    assert all(b.tensor.quantization.grid == graph.inputs[0].tensor.quantization.grid
               for b in graph.outputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joins(dtype, tmp_path):
    m = TFLiteBuilder()
    a, b = integers((2, 3, 4), dtype), integers((2, 3, 4), dtype, 1)
    x, y = (m.input(a.shape, dtype, quantization=grid(dtype)) for _ in range(2))
    outputs = [m.op("CONCATENATION", [x, y], "ConcatenationOptions", out=dtype, shape=(2, 6, 4),
                    quantization=grid(dtype), version=3, Axis=1),
               m.op("PACK", [x, y], "PackOptions", out=dtype, shape=(2, 2, 3, 4), version=3,
                    quantization=grid(dtype), ValuesCount=2, Axis=1),
               m.op("SELECT_V2", [m.input(a.shape, "bool"), x, y], out=dtype, shape=a.shape,
                    quantization=grid(dtype))]
    check(m, outputs, [a, b, a > b], tmp_path, steps=0, equal=1)


def test_a_move_that_is_declared_another_scale_is_requantized(tmp_path):
    """The format demands equal scales here: what the numbers mean wins over their bytes."""
    m = TFLiteBuilder()
    a = integers((2, 6), "int8")
    n = m.input(a.shape, "int8", quantization=grid("int8"))
    y = m.op("RESHAPE", [n, m.const([12], "int32")], out="int8", shape=(12,),
             quantization=([0.1], [0], 0))
    graph = load(m.finish([y]), tmp_path)
    assert codes(graph) == ["reshape", "dequantize", "quantize"]
    found = next(iter(reference.execute(graph, {"x0": a}).values()))
    assert np.array_equal(found, np.rint((a.reshape(12) - 7.0) / 2))


@pytest.mark.parametrize("source,target", [("float32", "int8"), ("float32", "uint8"),
                                           ("float32", "int16"), ("int8", "uint8"),
                                           ("uint8", "int8"), ("int16", "int8"),
                                           ("int8", "float32"), ("int16", "float32"),
                                           ("int16", "int32"), ("int32", "int16")])
def test_quantize_and_dequantize(source, target, tmp_path):
    m = TFLiteBuilder()
    grids = {"int32": ([0.002], [0], 0), "float32": None}
    if source == "float32":
        x = random((3, 50), low=-8, high=8)
    else:
        x = integers((3, 50), "int16" if source == "int32" else source).astype(source)
    n = m.input(x.shape, source, quantization=grids.get(source) if source in grids
                else grid(source))
    if target == "float32":
        y = m.op("DEQUANTIZE", [n], "DequantizeOptions", shape=x.shape, version=4)
    else:
        y = m.op("QUANTIZE", [n], "QuantizeOptions", out=target, shape=x.shape, version=2,
                 quantization=grids.get(target) or grid(target, 0.06))
    check(m, y, [x], tmp_path, exact=True)


def test_constant_quantize_and_dequantize(tmp_path):
    m = TFLiteBuilder()
    x, c = random((2, 9)), np.array([-3, -0.75, -0.25, 0, 0.25, 0.75, 1.25, 2, 90], np.float32)
    q = m.op("QUANTIZE", [m.const(c)], "QuantizeOptions", out="int8", shape=(9,),
             quantization=([0.5], [3], 0))
    back = m.op("DEQUANTIZE", [q], "DequantizeOptions", version=2, shape=(9,))
    graph = check(m, m.op("ADD", [m.input(x.shape), back], shape=x.shape), [x], tmp_path)
    assert codes(graph) == ["dequantize", "binary"]
    assert graph.ops[0].inputs[0].dtype == "int8"


@pytest.mark.parametrize("between", [(), ("RESHAPE",), ("TRANSPOSE",)], ids=str)
def test_weights_behind_dequantize_stay_integers(between, tmp_path):
    """Weight-only quantization as some converters spell it, per channel, moved on the way."""
    m = TFLiteBuilder()
    x, w = random((3, 8)), integers((5, 8), "int8")
    scale = list(np.linspace(0.01, 0.05, 5))
    if "TRANSPOSE" in between:
        n = m.const(w.T.copy(), quantization=(scale, [0] * 5, 1))
        n = m.op("TRANSPOSE", [n, m.const([1, 0], "int32")], out="int8", shape=(5, 8),
                 quantization=(scale, [0] * 5, 0), version=2)
    elif "RESHAPE" in between:
        n = m.const(w.reshape(5, 4, 2), quantization=(scale, [0] * 5, 0))
        n = m.op("RESHAPE", [n, m.const([5, 8], "int32")], out="int8", shape=(5, 8),
                 quantization=(scale, [0] * 5, 0))
    else:
        n = m.const(w, quantization=(scale, [0] * 5, 0))
    real = m.op("DEQUANTIZE", [n], "DequantizeOptions", shape=(5, 8), version=5)
    y = m.op("FULLY_CONNECTED", [m.input(x.shape), real, -1], "FullyConnectedOptions", shape=(3, 5))
    graph = load(m.finish([y]), tmp_path)
    assert codes(graph) == ["dequantize", "dense"]
    assert graph.ops[0].inputs[0].dtype == "int8" and graph.ops[0].inputs[0].quantization.axis == 0
    found = next(iter(reference.execute(graph, {"x0": x}).values()))
    np.testing.assert_allclose(found, x @ (w * np.array(scale)[:, None]).T, rtol=1e-4, atol=1e-4)


def test_int4_weights(tmp_path):
    """Two to a byte, the low half first; an odd number of them leaves half a byte."""
    m = TFLiteBuilder()
    rng = np.random.default_rng(0)
    x, w = integers((2, 9), "int8"), rng.integers(-8, 8, (5, 9)).astype(np.int8)
    flat = np.append(w.reshape(-1), np.int8(0)).reshape(-1, 2).view(np.uint8) & 15
    n = m.const(flat[:, 0] | flat[:, 1] << 4, shape=w.shape, quantization=([0.3], [0], 0))
    m.tensors[n].dtype = "INT4"
    y = m.op("FULLY_CONNECTED", [m.input(x.shape, "int8", quantization=grid("int8")), n, -1],
             "FullyConnectedOptions", out="int8", shape=(2, 5), quantization=grid("int8", 0.9),
             version=7)
    graph = check(m, y, [x], tmp_path)
    stored = [t for op in graph.ops for t in op.inputs if t is not None and t.constant]
    assert [t.dtype for t in stored] == ["int8"] and np.array_equal(stored[0].data, w)
    assert any("1 tensors of int4 are kept as int8" in note for note in graph.notes)


def test_stored_numbers_are_cast(tmp_path):
    """CAST takes what is stored, not what it means."""
    m = TFLiteBuilder()
    x = integers((3, 40), "int8")
    n = m.input(x.shape, "int8", quantization=grid("int8"))
    plain = m.input(x.shape, "uint8")
    outputs = [m.op("CAST", [n], "CastOptions", out="int32", shape=x.shape, InDataType=9,
                    OutDataType=2),
               m.op("CAST", [plain], "CastOptions", shape=x.shape, InDataType=3, OutDataType=0)]
    check(m, outputs, [x, x.view(np.uint8)], tmp_path, steps=0, equal=1)


def test_padding_with_a_quantized_value(tmp_path):
    m = TFLiteBuilder()
    x = integers((2, 3), "int8")
    n = m.input(x.shape, "int8", quantization=grid("int8"))
    y = m.op("PADV2", [n, m.const([[1, 0], [0, 2]], "int32"),
                       m.const(np.int8(-100), quantization=grid("int8"))], "PadV2Options",
             out="int8", shape=(3, 5), quantization=grid("int8"), version=2)
    check(m, y, [x], tmp_path, steps=0, equal=1)


@pytest.mark.parametrize("bias,rounding", [("int64", "once"), ("int32", "upward"), ("", "once")])
def test_rounding_of_int16(bias, rounding, tmp_path):
    """LiteRT adds int16 up in 64 bits unless the bias has 32."""
    m = TFLiteBuilder()
    n = m.input((2, 8), "int16", quantization=grid("int16"))
    w = m.const(integers((5, 8), "int8"), quantization=([0.01], [0], 0))
    inputs = [n, w, m.const(np.arange(5, dtype=bias)) if bias else -1]
    y = m.op("FULLY_CONNECTED", inputs, "FullyConnectedOptions", out="int16", shape=(2, 5),
             quantization=grid("int16", 0.5))
    graph = load(m.finish([y]), tmp_path)
    assert graph.outputs[0].tensor.quantization.rounding == rounding


def test_bias_beyond_32_bits_is_kept_in_fp32(tmp_path):
    m = TFLiteBuilder()
    x = integers((2, 8), "int16")
    n = m.input(x.shape, "int16", quantization=grid("int16"))
    w = m.const(integers((5, 8), "int8"), quantization=([0.01], [0], 0))
    bias = m.const(np.array([2**33, -2**34, 5, 0, 2**31], np.int64))
    y = m.op("FULLY_CONNECTED", [n, w, bias], "FullyConnectedOptions", out="int16", shape=(2, 5),
             quantization=grid("int16", 1000.0), version=4)
    graph = check(m, y, [x], tmp_path)
    assert any("has values beyond 32 bits; it is kept in fp32" in note for note in graph.notes)


DETECTION = "TFLite_Detection_PostProcess"


def detector(behind: bool) -> tuple[TFLiteBuilder, list[int]]:
    """Return a model that ends in a detection op, or that goes on behind it."""
    m = TFLiteBuilder()
    n = m.input((1, 6, 4), "uint8", quantization=([0.1], [3], 0), name="image")
    boxes = m.op("RELU", [n], out="uint8", shape=(1, 6, 4), quantization=([0.1], [3], 0))
    scores = m.op("LOGISTIC", [n], out="uint8", shape=(1, 6, 4), quantization=([1 / 256], [0], 0))
    anchors = m.const(random((6, 4)), name="anchors")
    options = {"max_detections": 3, "max_classes_per_detection": 1, "nms_score_threshold": 0.1,
               "nms_iou_threshold": 0.5, "num_classes": 4, "y_scale": 1.0, "x_scale": 1.0,
               "h_scale": 1.0, "w_scale": 1.0}
    found = m.op("CUSTOM", [boxes, scores, anchors], custom=DETECTION, outs=4,
                 custom_options=bytes(flexbuffers.Dumps(options)))
    m.tensors[boxes].name, m.tensors[scores].name = "boxes", "scores"
    if behind:
        return m, [m.op("RELU", [found[0]])]
    return m, [*found, m.op("RELU", [n], out="uint8", quantization=([0.1], [3], 0))]


def test_a_final_detection_op_is_the_host_s(tmp_path):
    m, outputs = detector(behind=False)
    graph = load(m.finish(outputs), tmp_path)
    names = [m.tensors[index].name for index in outputs]
    assert graph.results == names and not graph.notes
    assert [(b.name, b.shape, b.dtype) for b in graph.outputs][:1] == [
        (names[-1], (1, 6, 4), "uint8")]
    op, = graph.host_ops
    assert op.code == "detection_postprocess" and [name for name, *_ in op.outputs] == names[:4]
    assert op.inputs == [b.name for b in graph.outputs][1:]  # real numbers, and the anchors


def test_a_detection_op_in_the_middle_is_not(tmp_path):
    m, outputs = detector(behind=True)
    with pytest.raises(UnsupportedError, match=rf"ops that edgerun has not: 1 CUSTOM\({DETECTION}"):
        load(m.finish(outputs), tmp_path)


def broken(kind: str) -> tuple[TFLiteBuilder, int]:
    """Return a model with a quantization that means nothing."""
    m = TFLiteBuilder()
    scale, zero, axis, dtype = [0.1], [3], 0, "int8"
    more: tuple = ()
    if kind == "zero":
        scale = [0.0]
    elif kind == "negative":
        scale = [-0.1]
    elif kind in ("nan", "inf"):
        scale = [float(kind)]
    elif kind == "missing":
        zero = []
    elif kind == "range":
        zero = [128]
    elif kind == "unsigned":
        zero, dtype = [-1], "uint8"
    elif kind in ("input", "axis", "output"):
        scale, zero, axis = [0.1, 0.2], [0, 0], 0 if kind != "axis" else 2
    elif kind == "block":
        more = (2,)
    quantization = (scale, zero, axis, *more)
    if kind == "none":
        n = m.input((2, 8), dtype, name="x")
        return m, m.op("ADD", [n, n], out=dtype)
    if kind == "target":
        return m, m.op("QUANTIZE", [m.input((2, 8))], "QuantizeOptions", out="int8")
    if kind == "cast":
        return m, m.op("CAST", [m.input((2, 8))], "CastOptions", out="int8", shape=(2, 8),
                       quantization=([0.1], [3], 0))
    if kind == "bias":
        w = m.const(integers((5, 8), "int8"), quantization=([0.1], [0], 0))
        return m, m.op("FULLY_CONNECTED", [m.input((2, 8)), w, m.const(np.ones(5, np.int32))],
                       "FullyConnectedOptions")
    if kind in ("elements", "nibbles"):
        n = m.input((2, 8), "int8", quantization=([0.1], [3], 0), name="x")
        w = m.const(integers((5, 8), "int8"), quantization=([0.1], [0], 0))
        if kind == "nibbles":
            m.tensors[w].dtype = "INT4"
        return m, m.op("FULLY_CONNECTED", [n, w, m.const(np.ones(4, np.int32))],
                       "FullyConnectedOptions", out="int8", quantization=([0.1], [3], 0))
    if kind == "output":
        n = m.input((2, 8), "int8", quantization=([0.1], [3], 0), name="x")
        return m, m.op("RELU", [n], out="int8", shape=(2, 8), quantization=quantization)
    n = m.input((2, 8), dtype, quantization=quantization, name="x")
    return m, m.op("RELU", [n], out=dtype, shape=(2, 8), quantization=([0.1], [3], 0))


@pytest.mark.parametrize("kind,error,message", [
    ("zero", ModelError, r"tensor 'x': a scale is 0.0, needed a number above 0"),
    ("negative", ModelError, r"tensor 'x': a scale is -0.1.*, needed a number above 0"),
    ("nan", ModelError, "tensor 'x': a scale is not finite"),
    ("inf", ModelError, "tensor 'x': a scale is not finite"),
    ("missing", ModelError, "tensor 'x': 1 scales but 0 zero points"),
    ("range", ModelError, r"tensor 'x': a zero point lies outside -128\.\.127"),
    ("unsigned", ModelError, r"tensor 'x': a zero point lies outside 0\.\.255"),
    ("axis", ModelError, r"tensor 'x': 2 scales along axis 2 of the shape \(2, 8\)"),
    ("input", UnsupportedError, "the input 'x' has a scale per channel; needed one"),
    ("output", UnsupportedError, "RELU '.*': its output '.*' has a scale per channel, needed one"),
    ("block", UnsupportedError, "tensor 'x': its quantization is block-wise, needed one scale"),
    ("none", ModelError, "ADD '.*': 'x' are INT8 without a scale"),
    ("target", ModelError, "QUANTIZE '.*': its output '.*' is INT8 without a scale"),
    ("cast", UnsupportedError, "its output 'y1' has a scale, but it is made of plain INT8"),
    ("bias", ModelError, "its bias 'c3' is INT32, needed a quantized input and weights"),
    ("elements", ModelError, "its bias has 4 elements, needed 5"),
    ("nibbles", ModelError, r"tensor 'c2': 40 bytes, needed 20 for int4 \(5, 8\)")])
def test_a_quantization_that_means_nothing(kind, error, message, tmp_path):
    m, y = broken(kind)
    with pytest.raises(error, match=message):
        load(m.finish([y]), tmp_path)


def test_quantizations_compare_by_their_grid():
    """What importing relies on: the rounding of the op that writes is not part of the meaning."""
    a, b = (Quantization.per_tensor(0.1, 3, rounding) for rounding in ("once", "twice"))
    assert a.grid == b.grid and a.key != b.key
