"""The TFLite importer against LiteRT's interpreter, op by op."""
from __future__ import annotations

import numpy as np
import pytest
import tflite

from edgerun.tools import reference
from tests.tools.tflite_builder import Sparsity, TFLiteBuilder, load, random

SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID
RELU, RELU_N1, RELU6, TANH = 1, 2, 3, 4  # ActivationFunctionType


def interpret(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run LiteRT's built-in kernels without delegates."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    for detail in interpreter.get_input_details():
        if tuple(detail["shape"]) != feeds[detail["name"]].shape:
            interpreter.resize_tensor_input(detail["index"], feeds[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], feeds[detail["name"]])
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def check(builder: TFLiteBuilder, outputs, feeds: list[np.ndarray], tmp_path,
          tolerance: float = 1e-5):
    """Compare the imported graph with the interpreter; returns the graph."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    data = builder.finish(outputs)
    names = [builder.tensors[number].name for number in builder.inputs]
    inputs = dict(zip(names, feeds, strict=True))
    expected = interpret(data, inputs)
    graph = load(data, tmp_path)
    found = reference.execute(graph, inputs)
    assert list(found) == [builder.tensors[number].name for number in outputs]
    for (name, y), want in zip(found.items(), expected, strict=True):
        assert (y.shape, y.dtype) == (want.shape, want.dtype), name
        if want.dtype.kind == "f":
            bound = tolerance * max(1.0, float(np.abs(want).max()))
            assert np.abs(y - want).max() <= bound, name
        else:
            assert np.array_equal(y, want), name
    return graph


def codes(graph) -> list[str]:
    """Return the op codes of a graph in order."""
    return [op.code for op in graph.ops]


CONVS = [dict(), dict(stride=(2, 1)), dict(stride=(2, 3), padding=VALID), dict(kernel=(2, 5)),
         dict(dilation=(2, 3)), dict(dilation=(2, 1), padding=VALID), dict(groups=3),
         dict(size=(1, 1), kernel=(3, 3)), dict(batch=2, stride=(3, 3)), dict(activation=RELU),
         dict(activation=RELU6), dict(activation=RELU_N1)]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv_2d(case, tmp_path):
    kernel, groups = case.get("kernel", (3, 3)), case.get("groups", 1)
    m = TFLiteBuilder()
    x = random((case.get("batch", 1), *case.get("size", (9, 10)), 6))
    w = random((9, *kernel, 6 // groups), 1)
    inputs = [m.input(x.shape), m.const(w), m.const(random((9,), 2))]
    stride, dilation = case.get("stride", (1, 1)), case.get("dilation", (1, 1))
    y = m.op("CONV_2D", inputs, "Conv2DOptions", Padding=case.get("padding", SAME),
             StrideH=stride[0], StrideW=stride[1], DilationHFactor=dilation[0],
             DilationWFactor=dilation[1], FusedActivationFunction=case.get("activation", 0))
    graph = check(m, y, [x], tmp_path)
    assert codes(graph) == ["conv2d"]


@pytest.mark.parametrize("case", [c for c in CONVS if "groups" not in c] + [dict(multiplier=3)],
                         ids=str)
def test_depthwise_conv_2d(case, tmp_path):
    kernel, multiplier = case.get("kernel", (3, 3)), case.get("multiplier", 1)
    m = TFLiteBuilder()
    x = random((case.get("batch", 1), *case.get("size", (9, 10)), 4))
    w = random((1, *kernel, 4 * multiplier), 1)
    inputs = [m.input(x.shape), m.const(w), m.const(random((4 * multiplier,), 2))]
    stride, dilation = case.get("stride", (1, 1)), case.get("dilation", (1, 1))
    y = m.op("DEPTHWISE_CONV_2D", inputs, "DepthwiseConv2DOptions", version=2,
             Padding=case.get("padding", SAME), StrideH=stride[0], StrideW=stride[1],
             DepthMultiplier=multiplier, DilationHFactor=dilation[0], DilationWFactor=dilation[1],
             FusedActivationFunction=case.get("activation", 0))
    assert codes(check(m, y, [x], tmp_path)) == ["depthwise_conv2d"]


def test_conv_2d_without_bias_fuses_tanh(tmp_path):
    """LiteRT's kernels want a bias and ignore a fused TANH, so the formula is the judge."""
    m = TFLiteBuilder()
    x, w = random((1, 4, 4, 2)), random((3, 1, 1, 2), 1)
    y = m.op("CONV_2D", [m.input(x.shape), m.const(w), -1], "Conv2DOptions", Padding=SAME,
             StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1,
             FusedActivationFunction=TANH)
    found = reference.execute(load(m.finish([y]), tmp_path), {"x0": x})
    np.testing.assert_allclose(next(iter(found.values())), np.tanh(x @ w[:, 0, 0].T), atol=1e-5)


@pytest.mark.parametrize("padding,stride,kernel,out", [
    (SAME, (2, 2), (3, 3), (8, 10)), (SAME, (2, 2), (3, 3), (7, 9)),
    (SAME, (1, 1), (2, 4), (4, 5)), (SAME, (3, 2), (2, 2), (12, 10)),
    (VALID, (2, 2), (3, 3), (9, 11)), (VALID, (2, 2), (2, 2), (8, 10)),
    (VALID, (2, 2), (3, 3), (10, 12))])
@pytest.mark.parametrize("bias", [False, True])
def test_transpose_conv(padding, stride, kernel, out, bias, tmp_path):
    m = TFLiteBuilder()
    x, w = random((1, 4, 5, 3)), random((5, *kernel, 3), 1)
    inputs = [m.const([1, *out, 5], "int32"), m.const(w), m.input(x.shape)]
    inputs += [m.const(random((5,), 2))] if bias else []
    y = m.op("TRANSPOSE_CONV", inputs, "TransposeConvOptions", version=3 if bias else 1,
             Padding=padding, StrideH=stride[0], StrideW=stride[1])
    assert codes(check(m, y, [x], tmp_path)) == ["conv_transpose2d"]


@pytest.mark.parametrize("shape,keep,constant,bias", [
    ((3, 8), False, True, True), ((2, 3, 8), False, True, False), ((2, 3, 8), True, True, True),
    ((2, 2, 4), False, True, True), ((3, 8), False, False, True), ((3, 8), False, False, False)])
def test_fully_connected(shape, keep, constant, bias, tmp_path):
    m = TFLiteBuilder()
    x, w, b = random(shape), random((5, 8), 1), random((5,), 2)
    inputs = [m.input(shape), m.const(w) if constant else m.input(w.shape)]
    inputs.append(m.const(b) if bias else -1)
    y = m.op("FULLY_CONNECTED", inputs, "FullyConnectedOptions", version=5, KeepNumDims=keep,
             FusedActivationFunction=RELU)
    graph = check(m, y, [x] if constant else [x, w], tmp_path)
    assert ("dense" if constant else "matmul") in codes(graph)


@pytest.mark.parametrize("a,b,flags,constant", [
    ((2, 3, 4), (2, 4, 5), (False, False), False), ((2, 4, 3), (2, 5, 4), (True, True), False),
    ((2, 4, 3), (2, 4, 5), (True, False), False), ((2, 3, 4), (1, 4, 5), (False, False), False),
    ((3, 4), (4, 5), (False, False), True),
    ((3, 4), (5, 4), (False, True), True)])
def test_batch_matmul(a, b, flags, constant, tmp_path):
    m = TFLiteBuilder()
    a, b = random(a), random(b, 1)
    inputs = [m.input(a.shape), m.const(b) if constant else m.input(b.shape)]
    y = m.op("BATCH_MATMUL", inputs, "BatchMatMulOptions", AdjX=flags[0], AdjY=flags[1])
    graph = check(m, y, [a] if constant else [a, b], tmp_path)
    assert codes(graph) == ["dense" if constant else "matmul"]


@pytest.mark.parametrize("code", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("kernel,stride,padding,activation", [
    ((2, 2), (2, 2), VALID, 0), ((3, 2), (1, 2), SAME, 0), ((3, 3), (2, 2), SAME, RELU)])
def test_pool(code, kernel, stride, padding, activation, tmp_path):
    m = TFLiteBuilder()
    x = random((2, 7, 8, 3))
    y = m.op(code, [m.input(x.shape)], "Pool2DOptions", Padding=padding, StrideH=stride[0],
             StrideW=stride[1], FilterHeight=kernel[0], FilterWidth=kernel[1],
             FusedActivationFunction=activation)
    check(m, y, [x], tmp_path)


UNARY = ["ABS", "NEG", "EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "SIN", "COS", "FLOOR", "CEIL",
         "ROUND", "SIGN", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "LOGISTIC", "TANH",
         "HARD_SWISH"]


@pytest.mark.parametrize("code", UNARY)
def test_unary(code, tmp_path):
    m = TFLiteBuilder()
    x = random((3, 50), low=0.1 if code in ("LOG", "SQRT", "RSQRT") else -8, high=8)
    x[0, :6] = (0.5, 1.5, 2.5, 3.0, 1.0, 0.25)
    check(m, m.op(code, [m.input(x.shape)]), [x], tmp_path)


def test_unary_with_options(tmp_path):
    m = TFLiteBuilder()
    x = random((3, 50), low=-8, high=8)
    x[2] = 1e-7  # below the epsilon of the L2 normalization
    n = m.input(x.shape)
    outputs = [m.op("LEAKY_RELU", [n], "LeakyReluOptions", Alpha=0.2),
               m.op("GELU", [n], "GeluOptions", Approximate=False),
               m.op("GELU", [n], "GeluOptions", Approximate=True),
               m.op("SOFTMAX", [n], "SoftmaxOptions", Beta=0.7),
               m.op("LOG_SOFTMAX", [n], "LogSoftmaxOptions"),
               m.op("L2_NORMALIZATION", [n], "L2NormOptions")]
    check(m, outputs, [x], tmp_path)


BINARY = ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE",
          "FLOOR_DIV", "FLOOR_MOD"]


@pytest.mark.parametrize("code", BINARY)
def test_binary(code, tmp_path):
    m = TFLiteBuilder()
    a = random((2, 3, 1, 5), low=0.1 if code == "POW" else -8, high=8)
    b = random((3, 4, 5), 1, low=0.5, high=3)
    check(m, m.op(code, [m.input(a.shape), m.input(b.shape)]), [a, b], tmp_path)


@pytest.mark.parametrize("code", ["ADD", "SUB", "MUL", "DIV"])
@pytest.mark.parametrize("activation", [RELU, RELU6, RELU_N1])
def test_binary_with_activation(code, activation, tmp_path):
    m = TFLiteBuilder()
    a, b = random((4, 6), low=-9, high=9), random((6,), 1, 0.5, 2)
    y = m.op(code, [m.input(a.shape), m.const(b)], code.title() + "Options",
             FusedActivationFunction=activation)
    assert codes(check(m, y, [a], tmp_path)) == ["binary"]


@pytest.mark.parametrize("code", ["ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "FLOOR_DIV",
                                  "FLOOR_MOD"])
def test_binary_int32(code, tmp_path):
    m = TFLiteBuilder()
    a = np.arange(-10, 10, dtype=np.int32).reshape(4, 5)
    b = np.array([3, -3, 7, 1, -2], np.int32)
    check(m, m.op(code, [m.input(a.shape, "int32"), m.const(b)], out="int32"), [a], tmp_path)


def test_comparisons_and_logic(tmp_path):
    m = TFLiteBuilder()
    a, b = random((4, 6)).round(), random((6,), 1).round()
    x, y = m.input(a.shape), m.input(b.shape)
    outputs = [m.op(code, [x, y], out="bool") for code in
               ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")]
    outputs += [m.op("LOGICAL_AND", outputs[2:4], out="bool"),
                m.op("LOGICAL_OR", [outputs[0], outputs[2]], out="bool"),
                m.op("LOGICAL_NOT", [outputs[0]], out="bool")]
    check(m, outputs, [a, b], tmp_path)


def test_prelu(tmp_path):
    m = TFLiteBuilder()
    x = random((1, 3, 4, 5))
    check(m, m.op("PRELU", [m.input(x.shape), m.const(random((1, 1, 5), 1))]), [x], tmp_path)


def test_local_response_normalization(tmp_path):
    m = TFLiteBuilder()
    x = random((1, 3, 4, 9))
    y = m.op("LOCAL_RESPONSE_NORMALIZATION", [m.input(x.shape)],
             "LocalResponseNormalizationOptions", Radius=2, Bias=1.5, Alpha=0.3, Beta=0.75)
    check(m, y, [x], tmp_path)


@pytest.mark.parametrize("code", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"])
@pytest.mark.parametrize("axes,keep", [([1, 2], False), ([-1], True), ([0, 1, 2, 3], False),
                                       ([2, -2], True)])
def test_reduce(code, axes, keep, tmp_path):
    m = TFLiteBuilder()
    x = random((2, 3, 4, 5), low=0.5, high=1.5)
    y = m.op(code, [m.input(x.shape), m.const(axes, "int32")], "ReducerOptions", KeepDims=keep)
    check(m, y, [x], tmp_path)


@pytest.mark.parametrize("code,options", [("ARG_MAX", "ArgMaxOptions"),
                                          ("ARG_MIN", "ArgMinOptions")])
@pytest.mark.parametrize("axis,dtype", [(-1, "int32"), (1, "int64")])
def test_arg(code, options, axis, dtype, tmp_path):
    m = TFLiteBuilder()
    x = random((2, 7, 5)).round(1)
    y = m.op(code, [m.input(x.shape), m.const(axis, "int32")], options, out=dtype,
             OutputType=2 if dtype == "int32" else 4)
    check(m, y, [x], tmp_path)


@pytest.mark.parametrize("code", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
@pytest.mark.parametrize("size", [(10, 14), (5, 7), (3, 4), (1, 1), (13, 9)])
@pytest.mark.parametrize("align,half", [(False, False), (True, False), (False, True)])
def test_resize(code, size, align, half, tmp_path):
    m = TFLiteBuilder()
    x = random((2, 5, 7, 3))
    options = "ResizeBilinearOptions" if "BILINEAR" in code else "ResizeNearestNeighborOptions"
    y = m.op(code, [m.input(x.shape), m.const(size, "int32")], options, version=3,
             AlignCorners=align, HalfPixelCenters=half)
    check(m, y, [x], tmp_path)


def test_concatenation(tmp_path):
    m = TFLiteBuilder()
    a, b = random((2, 3, 4)), random((2, 5, 4), 1)
    y = m.op("CONCATENATION", [m.input(a.shape), m.const(random((2, 1, 4), 2)), m.input(b.shape)],
             "ConcatenationOptions", Axis=-2)
    check(m, y, [a, b], tmp_path)


def test_split_and_unpack(tmp_path):
    m = TFLiteBuilder()
    x = random((2, 6, 3))
    n = m.input(x.shape)
    outputs = [*m.op("SPLIT", [m.const(1, "int32"), n], "SplitOptions", outs=3, NumSplits=3),
               *m.op("SPLIT_V", [n, m.const([1, -1, 2], "int32"), m.const(-2, "int32")],
                     "SplitVOptions", outs=3, NumSplits=3),
               *m.op("UNPACK", [n], "UnpackOptions", outs=3, Num=3, Axis=-1)]
    check(m, outputs, [x], tmp_path)


def test_slice(tmp_path):
    m = TFLiteBuilder()
    x = random((2, 6, 3))
    y = m.op("SLICE", [m.input(x.shape), m.const([0, 2, 1], "int32"), m.const([-1, 3, 1], "int32")])
    check(m, y, [x], tmp_path)


@pytest.mark.parametrize("begin,end,strides,masks", [
    ([0, 1, 0], [2, 5, 3], [1, 2, 1], {}),
    ([0, -1, 0], [2, -7, 3], [1, -2, 1], {}),
    ([1, 9, 2], [9, 1, 9], [1, 1, 1], dict(BeginMask=0b010, EndMask=0b010)),
    ([0, 0, 0], [0, 0, 0], [-1, 1, -1], dict(BeginMask=0b111, EndMask=0b111)),
    ([1, 2], [2, 3], [1, 1], dict(ShrinkAxisMask=0b11)),
    ([-1], [0], [1], dict(ShrinkAxisMask=0b1)),
    ([0, 1], [0, 2], [1, 1], dict(EllipsisMask=0b01)),
    ([1, 0, 0, 1], [2, 0, 0, 2], [1, 1, 1, 1], dict(EllipsisMask=0b0010, NewAxisMask=0b0100)),
    ([0, 0, 1], [0, 1, 2], [1, 1, 1], dict(NewAxisMask=0b001, ShrinkAxisMask=0b100)),
], ids=str)
def test_strided_slice(begin, end, strides, masks, tmp_path):
    m = TFLiteBuilder()
    x = random((2, 6, 3))
    inputs = [m.input(x.shape), *(m.const(v, "int32") for v in (begin, end, strides))]
    y = m.op("STRIDED_SLICE", inputs, "StridedSliceOptions", version=6, **masks)
    check(m, y, [x], tmp_path)


def test_pads(tmp_path):
    m = TFLiteBuilder()
    x = random((1, 4, 5, 2))
    n, amounts = m.input(x.shape), m.const([[0, 0], [1, 2], [3, 0], [0, 1]], "int32")
    outputs = [m.op("PAD", [n, amounts], "PadOptions"),
               m.op("PADV2", [n, amounts, m.const(-1.5, "float32")], "PadV2Options"),
               m.op("MIRROR_PAD", [n, amounts], "MirrorPadOptions", Mode=0),
               m.op("MIRROR_PAD", [n, amounts], "MirrorPadOptions", Mode=1)]
    check(m, outputs, [x], tmp_path)


def test_shape_changes(tmp_path):
    m = TFLiteBuilder()
    x = random((2, 1, 3, 4))
    n = m.input(x.shape)
    outputs = [m.op("TRANSPOSE", [n, m.const([3, 0, -2, 1], "int32")]),
               m.op("RESHAPE", [n, m.const([3, -1], "int32")]),
               m.op("RESHAPE", [n], "ReshapeOptions", NewShape=[-1, 6]),
               m.op("SQUEEZE", [n], "SqueezeOptions", SqueezeDims=[1]),
               m.op("SQUEEZE", [n], "SqueezeOptions"),
               m.op("EXPAND_DIMS", [n, m.const(-1, "int32")]),
               m.op("PACK", [n, n], "PackOptions", ValuesCount=2, Axis=1),
               m.op("TILE", [n, m.const([1, 3, 1, 2], "int32")]),
               m.op("BROADCAST_TO", [n, m.const([2, 2, 5, 3, 4], "int32")], version=2),
               m.op("GATHER", [n, m.const([[2, 0], [1, 1]], "int32")], "GatherOptions", Axis=2)]
    check(m, outputs, [x], tmp_path)


def test_blocks(tmp_path):
    m = TFLiteBuilder()
    a, b, c = random((2, 4, 6, 8)), random((2, 5, 7, 3), 1), random((12, 3, 2, 3), 2)
    x, y, z = m.input(a.shape), m.input(b.shape), m.input(c.shape)
    outputs = [m.op("DEPTH_TO_SPACE", [x], "DepthToSpaceOptions", BlockSize=2),
               m.op("SPACE_TO_DEPTH", [x], "SpaceToDepthOptions", BlockSize=2),
               m.op("SPACE_TO_BATCH_ND", [y, m.const([2, 3], "int32"),
                                          m.const([[1, 0], [0, 2]], "int32")]),
               m.op("BATCH_TO_SPACE_ND", [z, m.const([2, 3], "int32"),
                                          m.const([[1, 0], [0, 2]], "int32")])]
    check(m, outputs, [a, b, c], tmp_path)


def test_select(tmp_path):
    m = TFLiteBuilder()
    a, b, c = random((3, 4)), random((3, 4), 1), random((3, 4), 2) > 0
    rows = np.array([True, False, True])
    x, y, q, r = m.input(a.shape), m.input(b.shape), m.input(c.shape, "bool"), m.input((3,), "bool")
    outputs = [m.op("SELECT", [q, x, y]), m.op("SELECT", [r, x, y]),
               m.op("SELECT_V2", [q, x, m.const(1.5, "float32")])]
    check(m, outputs, [a, b, c, rows], tmp_path)


def test_cast(tmp_path):
    m = TFLiteBuilder()
    a, b = random((3, 4), low=-5, high=5), np.arange(-3, 9, dtype=np.int64).reshape(3, 4)
    x, y = m.input(a.shape), m.input(b.shape, "int64")
    outputs = [m.op("CAST", [x], "CastOptions", out="int32", InDataType=0, OutDataType=2),
               m.op("CAST", [x], "CastOptions", out="bool", InDataType=0, OutDataType=6),
               m.op("CAST", [y], "CastOptions", InDataType=4, OutDataType=0),
               m.op("CAST", [y], "CastOptions", out="int32", InDataType=4, OutDataType=2)]
    check(m, outputs, [a, b], tmp_path)


def test_shape_arithmetic_never_reaches_the_device(tmp_path):
    """[N, 2, 3] -> [N, 6] the way TensorFlow exports it, and more from the same numbers."""
    m = TFLiteBuilder()
    x = random((4, 2, 3))
    n = m.input(x.shape)
    ints = [m.const([v], "int32") for v in (0, 1, 1)]
    shape = m.op("SHAPE", [n], "ShapeOptions", out="int32", OutType=2)
    batch = m.op("STRIDED_SLICE", [shape, *ints], "StridedSliceOptions", out="int32",
                 ShrinkAxisMask=1)
    whole = m.op("PACK", [batch, m.const(6, "int32")], "PackOptions", out="int32", ValuesCount=2,
                 Axis=0)
    y = m.op("RESHAPE", [n, whole])
    steps = m.op("RANGE", [m.const(0, "int32"), batch, m.const(1, "int32")], out="int32")
    column = m.op("EXPAND_DIMS", [steps, m.const(1, "int32")], out="int32")
    real = m.op("CAST", [column], "CastOptions", InDataType=2, OutDataType=0)
    ones = m.op("FILL", [whole, m.const(1.0, "float32")])
    zeros = m.op("ZEROS_LIKE", [n])
    rank = m.op("RANK", [n], "RankOptions", out="int32")
    rest = m.op("CONCATENATION", [m.const(np.zeros(0, np.int32)), shape], "ConcatenationOptions",
                out="int32", Axis=0)
    outputs = [m.op("ADD", [m.op("MUL", [y, ones]), real]), m.op("ADD", [n, zeros]),
               m.op("ADD", [n, m.op("CAST", [rank], "CastOptions", InDataType=2, OutDataType=0)]),
               m.op("RESHAPE", [n, rest])]
    graph = check(m, outputs, [x], tmp_path)
    assert set(codes(graph)) == {"reshape", "binary"}
    assert all(t.dtype == "fp32" for op in graph.ops for t in op.inputs)


def test_constant_and_identity_outputs(tmp_path):
    m = TFLiteBuilder()
    x = random((2, 3))
    n = m.input(x.shape)
    zeros = m.op("ZEROS_LIKE", [n])
    check(m, [zeros, m.op("SQUARE", [n])], [x], tmp_path)


def test_float16_weights_behind_dequantize(tmp_path):
    m = TFLiteBuilder()
    x, w = random((3, 8)), random((5, 8), 1).astype(np.float16)
    wide = m.op("DEQUANTIZE", [m.const(w)], version=3, shape=w.shape)
    y = m.op("FULLY_CONNECTED", [m.input(x.shape), wide, -1], "FullyConnectedOptions")
    graph = check(m, y, [x], tmp_path)
    assert codes(graph) == ["dense"]
    assert graph.ops[0].inputs[1].dtype == "fp32"


@pytest.mark.parametrize("scales", [1, 5])
def test_integer_weights_of_float_ops(scales, tmp_path):
    """TFLite quantizes the activations of such an op too, hence the tolerance."""
    m = TFLiteBuilder()
    rng = np.random.default_rng(0)
    x, w = random((1, 6, 6, 3)), rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    scale = rng.uniform(0.005, 0.02, scales)
    weights = m.const(w, quantization=(scale, [0] * scales, 0))
    y = m.op("CONV_2D", [m.input(x.shape), weights, m.const(random((5,), 2))], "Conv2DOptions",
             version=2 if scales == 1 else 5, Padding=SAME, StrideH=1, StrideW=1, DilationHFactor=1,
             DilationWFactor=1, shape=(1, 6, 6, 5))
    graph = check(m, y, [x], tmp_path, tolerance=1e-2)
    assert codes(graph) == ["dequantize", "conv2d"]
    found = graph.ops[0].inputs[0]
    assert found.dtype == "int8" and np.array_equal(found.data, w)
    assert found.quantization.axis == (0 if scales > 1 else -1)
    assert any("integer weights" in note for note in graph.notes)


def test_sparse_weights(tmp_path):
    """Compressed rows, of single elements and of 1 x 4 blocks, as LiteRT expands them."""
    dense = np.zeros((4, 8), np.float32)
    dense[0, 4:], dense[2, :4], dense[3] = [1, 2, 3, 4], [5, 6, 0, 7], np.arange(8) + 8
    segments, indices = np.array([0, 1, 1, 2, 4], np.int32), np.array([1, 0, 0, 1], np.uint8)
    blocks = dense.reshape(4, 2, 4)
    stored = np.concatenate([blocks[row, column] for row in range(4)
                             for column in indices[segments[row]:segments[row + 1]]])
    by_block = Sparsity([0, 1, 2], [4, (segments, indices), 4], [1])
    rows, columns = np.nonzero(dense)
    counts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=4))]).astype(np.uint16)
    plain = Sparsity([0, 1], [4, (counts, columns.astype(np.int32))])
    for sparsity, values in ((by_block, stored), (plain, dense[rows, columns])):
        m = TFLiteBuilder()
        x = random((4, 8))
        w = m.op("DENSIFY", [m.const(values, shape=(4, 8), sparsity=sparsity)], shape=(4, 8))
        check(m, m.op("ADD", [m.input(x.shape), w]), [x], tmp_path, tolerance=0)


def test_one_constant_in_two_roles(tmp_path):
    """Weights are re-ordered later, so an op that reads them as values needs its own copy."""
    m = TFLiteBuilder()
    x, w = random((5, 8)), m.const(random((5, 8), 1))
    n = m.input(x.shape)
    outputs = [m.op("FULLY_CONNECTED", [n, w, -1], "FullyConnectedOptions"), m.op("ADD", [n, w]),
               m.op("FULLY_CONNECTED", [n, w, -1], "FullyConnectedOptions")]
    first, add, second = check(m, outputs, [x], tmp_path).ops
    assert first.inputs[1] is second.inputs[1] is not add.inputs[1]
