"""Lowering of pooling, resizing, padding, reductions and norms between quantized tensors."""
import numpy as np
import pytest

from edgerun import dtypes
from edgerun.quantization import Quantization, dequantize
from edgerun.tools import lower, reference
from edgerun.tools.graph import Graph

GRID, OTHER = (0.05, 117), (0.031, 90)


def quantized(dtype, grid, rounding="once"):
    scale, zero = grid
    if dtype == "int16":
        return Quantization.per_tensor(scale / 256, 0, rounding)
    return Quantization.per_tensor(scale, zero - 128 if dtype == "int8" else zero, rounding)


def qdq(code, dtype="uint8", grid=GRID, shape=(1, 9, 8, 6), rounding="once", stored=True,
        others=(), **options):
    """Return a graph: integers -> dequantize -> op -> quantize, or real numbers if not stored."""
    graph = Graph()
    x = graph.input("x", shape, dtype)
    x.quantization = quantized(dtype, GRID)
    constants = [graph.constant(value, "c") for value in others]
    y = graph.add(code, [graph.dequantize(x), *constants], "y", **options)
    if stored:
        y = graph.quantize(y, dtype, quantized(dtype, grid, rounding))
    graph.output("y", y)
    return graph


def check(graph, codes, within=1):
    """Lower a graph; require these ops, only integers, and the result of the real arithmetic."""
    (boundary,) = graph.inputs
    info = np.iinfo(boundary.tensor.dtype)
    values = np.random.default_rng(0).integers(info.min, info.max, boundary.shape,
                                               boundary.tensor.dtype, endpoint=True)
    signed = boundary.tensor.dtype == "int8"
    want = reference.execute(graph, {"x": values})["y"]
    lower.apply(graph)
    assert [op.code for op in graph.ops] == codes
    assert not any(t.dtype in dtypes.FLOAT and not t.constant for op in graph.ops
                   for t in (*op.inputs, *op.outputs) if t is not None)
    if signed:
        values = (values.astype(np.int16) + 128).astype(np.uint8)
    found = {}
    for op in graph.ops:
        inputs = [found.get(t, values if t is not None and not t.constant else t and t.data)
                  for t in op.inputs]
        found[op.outputs[0]] = reference.evaluate(op, inputs)[0]
    y = graph.outputs[0].tensor
    result = found[y]
    if want.dtype.kind == "f":
        result, within = dequantize(result, y.quantization), within * y.quantization.step
    elif signed and y.quantization is not None:
        result = result.astype(np.int64) - 128
    assert np.abs(result.astype(np.float64) - want).max() <= within + 1e-6
    return graph


KERNEL = dict(kernel_h=3, kernel_w=3, stride_h=2, stride_w=2, pad_top=1)
RESIZE = dict(height=18, width=16, scale_h=2.0, scale_w=2.0, coordinate_mode="half_pixel",
              nearest_mode="floor")
DTYPES = pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])


@DTYPES
def test_one_grid(dtype):
    check(qdq("pool2d", dtype, kind="max", **KERNEL), ["pool2d"], 0)
    check(qdq("pool2d", dtype, kind="max", activation="relu", **KERNEL), ["pool2d"], 0)
    check(qdq("pool2d", dtype, kind="average", **KERNEL), ["pool2d"])
    check(qdq("resize", dtype, kind="nearest", **RESIZE), ["resize"], 0)
    check(qdq("resize", dtype, kind="linear", **RESIZE), ["resize"])
    check(qdq("pad", dtype, mode="constant", before=(0, 1, 2, 0), after=(0, 0, 1, 3)), ["pad"], 0)
    check(qdq("pad", dtype, mode="reflect", before=(0, 1, 2, 0), after=(0, 0, 1, 3)), ["pad"], 0)
    check(qdq("reduce", dtype, kind="max", axes=(1, 2)), ["reduce"], 0)


@DTYPES
def test_another_grid(dtype):
    check(qdq("pool2d", dtype, OTHER, kind="max", **KERNEL), ["pool2d", "requantize"])
    check(qdq("pool2d", dtype, OTHER, kind="average", **KERNEL), ["pool2d"])
    check(qdq("resize", dtype, OTHER, kind="nearest", **RESIZE), ["resize", "requantize"])
    check(qdq("resize", dtype, OTHER, kind="linear", **RESIZE), ["resize", "requantize"], 2)
    check(qdq("pad", dtype, OTHER, mode="constant", before=(0, 1, 2, 0), after=(0, 0, 1, 3)),
          ["pad", "requantize"])
    for kind in ("max", "mean", "sum", "l2"):
        check(qdq("reduce", dtype, OTHER, kind=kind, axes=(1, 2)), ["reduce"])


@DTYPES
def test_norms(dtype):
    gamma, beta = np.linspace(0.5, 1.5, 6, dtype=np.float32), np.zeros(6, np.float32)
    for code in ("lrn", "l2_normalize", "softmax", "layer_norm", "instance_norm"):
        check(qdq(code, dtype, (0.02, 128)), [code])
    check(qdq("layer_norm", dtype, (0.02, 128), others=(gamma, beta)), ["layer_norm"])
    check(qdq("instance_norm", dtype, (0.02, 128), others=(gamma, beta)), ["instance_norm"])


@DTYPES
def test_indices(dtype):
    check(qdq("arg", dtype, stored=False, kind="max", axis=3), ["arg"], 0)


@DTYPES
def test_real_results(dtype):
    """What selects elements does so before they become real: at the boundary here."""
    check(qdq("pool2d", dtype, stored=False, kind="max", **KERNEL), ["pool2d"], 0)
    check(qdq("resize", dtype, stored=False, kind="nearest", **RESIZE), ["resize"], 0)
    check(qdq("reduce", dtype, stored=False, kind="min", axes=(3,)), ["reduce"], 0)
    check(qdq("pad", dtype, stored=False, mode="constant", before=(0, 1, 2, 0),
              after=(0, 0, 1, 3)), ["pad"], 0)


def test_what_is_not_on_the_grid_stays_real():
    graph = qdq("resize", stored=False, kind="linear", **RESIZE)
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "resize"]
    graph = qdq("pad", stored=False, mode="constant", value=0.0333, before=(0, 1, 2, 0),
                after=(0, 0, 1, 3))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "pad"]
    graph = qdq("pool2d", kind="average", activation="tanh", **KERNEL)
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "pool2d", "quantize"]


def test_sums_beyond_32_bits_stay_real():
    graph = qdq("reduce", "int16", shape=(1, 300, 300, 1), kind="mean", axes=(1, 2))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "reduce", "quantize"]


@pytest.mark.parametrize("dtype, rounding, origin, coarse", [
    ("uint8", "twice", 0, False), ("int8", "twice", 128, True), ("int16", "twice", 0, True),
    ("int8", "once", 128, False), ("int8", "single", 128, False)])
def test_ties_and_coordinates_of_the_source(dtype, rounding, origin, coarse):
    graph = qdq("resize", dtype, rounding=rounding, kind="linear", **RESIZE)
    lower.apply(graph)
    assert graph.ops[0].options["origin"] == origin and graph.ops[0].options["coarse"] == coarse
    for code, options in (("pool2d", dict(kind="average", **KERNEL)),
                          ("reduce", dict(kind="mean", axes=(1, 2)))):
        graph = qdq(code, dtype, rounding=rounding, **options)
        lower.apply(graph)
        assert graph.ops[0].options["origin"] == origin
    upward = dtype == "int8" and rounding == "twice"
    assert graph.ops[0].outputs[0].quantization.rounding == ("upward" if upward else rounding)


def test_moves():
    """Integers are moved as they are; where the grid of the result is another, they are converted
    behind that."""
    check(qdq("transpose", perm=(0, 3, 1, 2)), ["transpose"], within=0)
    check(qdq("transpose", perm=(0, 3, 1, 2), grid=OTHER), ["transpose", "requantize"])
