"""Lowering of elementwise ops, concat and softmax; what LiteRT's own kernels give, bit for bit."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun import dtypes
from edgerun.quantization import Quantization, limits
from edgerun.tools import lower, reference
from edgerun.tools.graph import Graph
from edgerun.tools.importers import tflite as importer
from tests.tools.test_tflite_importer import interpret
from tests.tools.tflite_builder import TFLiteBuilder, load

per_tensor = Quantization.per_tensor
SHAPE = (2, 8, 16)


def _every(dtype: str, shape=None) -> np.ndarray:
    """Every integer of a dtype; or random ones of a shape."""
    low, high = limits(dtype)
    if shape is None:
        return np.arange(low, high + 1).astype(dtype)
    return np.random.default_rng(sum(shape)).integers(low, high + 1, shape).astype(dtype)


def _graph(build, dtype: str = "uint8", grids=((0.05, 117),), out=(0.043, 30), shape=SHAPE,
           rounding: str = "once") -> Graph:
    """Return integers -> dequantize -> build(graph, *reals) -> quantize, unless `out` is None."""
    graph = Graph()
    reals = []
    for i, grid in enumerate(grids):
        x = graph.input(f"x{i}", shape, dtype)
        x.quantization = per_tensor(*grid)
        reals.append(graph.dequantize(x))
    y = build(graph, *reals)
    if out is not None:
        y = graph.quantize(y, dtype, Quantization.per_tensor(*out, rounding))
    graph.output("y", y)
    return graph


def _check(graph: Graph, codes: list[str], within: int = 1) -> Graph:
    """Lower a graph; require these ops and, up to some steps, the result of the real numbers."""
    feeds = {b.name: _every(b.tensor.dtype, b.shape) for b in graph.inputs}
    want = reference.execute(graph, feeds)["y"]
    lower.apply(graph)
    assert [op.code for op in graph.ops] == codes
    if not any("quantize" in code for code in codes):
        assert not any(t.dtype in dtypes.FLOAT for op in graph.ops for t in op.inputs)
    found = reference.execute(graph, feeds)["y"]
    assert np.abs(found.astype(np.int64) - want).max() <= within
    assert len(np.unique(found)) > 10
    return graph


def _unary(kind: str, **options):
    return lambda graph, x: graph.add("unary", [x], "y", kind=kind, **options)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "hard_swish", "gelu", "exp", "silu", "relu",
                                  "leaky_relu", "mish", "abs", "neg", "square"])
def test_unary_is_a_table(kind):
    _check(_graph(_unary(kind, alpha=0.2), out=(0.02, 60)), ["table"], 0)


def test_clip_is_a_table():
    _check(_graph(_unary("clip", alpha=-1.0, beta=1.0), out=(0.02, 60)), ["table"], 0)


def test_chain_is_one_table():
    """x relu6(x + 3) / 6 as exporters write it, x used twice; and constants on either side."""
    def build(graph, x):
        up = graph.add("binary", [x, graph.constant(np.float32(3))], "up", kind="add")
        clipped = graph.add("unary", [up], "clipped", kind="clip", alpha=0.0, beta=6.0)
        product = graph.add("binary", [x, clipped], "product", kind="mul")
        return graph.add("binary", [graph.constant(np.full((1, 1), 1 / 6, np.float32)), product],
                         "y", kind="mul")
    _check(_graph(build), ["table"], 0)


def test_quantized_number_is_part_of_a_table():
    def build(graph, x):
        number = graph.constant(np.array([90], np.int8), quantization=per_tensor(0.02, 0))
        return graph.add("binary", [x, graph.dequantize(number)], "y", kind="mul")
    _check(_graph(build), ["table"], 0)


def test_comparison_stays():
    def build(graph, x):
        zero = graph.constant(np.zeros((), np.float32))
        inside = graph.add("binary", [x, zero], "inside", kind="greater")
        return graph.add("where", [inside, x, zero], "y")
    graph = _graph(build)
    lower.apply(graph)
    assert "table" not in [op.code for op in graph.ops]


def test_table_of_two_tensors_is_none():
    """Where two tensors meet there is no table; what is before them is one each, what is behind
    them stays real."""
    def build(graph, a, b):
        both = graph.add("binary", [a, b], "both", kind="pow")
        return graph.add("unary", [both], "y", kind="tanh")
    graph = _graph(build, grids=((0.02, 0), (0.01, 3)), out=(1 / 255, 0))
    lower.apply(graph)
    assert [op.code for op in graph.ops].count("table") == 0


def test_vectors_are_no_table():
    def build(graph, x):
        vector = graph.constant(np.arange(16, dtype=np.float32))
        return graph.add("binary", [x, vector], "y", kind="mul")
    graph = _graph(build)
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "binary", "quantize"]


@pytest.mark.parametrize("kind,within", [("sigmoid", 1), ("tanh", 2), ("silu", 1), ("neg", 1)])
def test_int16_is_interpolated(kind, within):
    out = (1 / 32768 if kind in ("sigmoid", "tanh") else 0.0002, 0)
    _check(_graph(_unary(kind), "int16", ((0.0002, 0),), out), ["table"], within)


@pytest.mark.parametrize("kind", ["relu", "clip", "leaky_relu"])
def test_int16_in_pieces_is_exact(kind):
    _check(_graph(_unary(kind, alpha=-0.5 if kind == "clip" else 0.3, beta=2.0), "int16",
                  ((0.0002, 0),), (0.00017, 0)), ["unary"], 1)


def test_int16_that_bends_stays_real():
    """Interpolation would be wrong by more than 8 steps: so sharp a function is computed."""
    _check(_graph(_unary("tanh"), "int16", ((0.005, 0),), (1 / 32768, 0)),
           ["dequantize", "unary", "quantize"], 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("kind", ["add", "sub", "mul", "min", "max", "prelu"])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_binary(kind, dtype, rounding):
    small, zero = (1, 100) if dtype == "uint8" else (1 / 256, 0)
    graph = _graph(lambda graph, a, b: graph.add("binary", [a, b], "y", kind=kind), dtype,
                   ((0.05 * small, zero), (0.03 * small, zero)), (0.07 * small, zero),
                   rounding=rounding)
    _check(graph, ["binary"])


def test_binary_keeps_its_clamp():
    graph = _graph(lambda graph, a, b: graph.add("binary", [a, b], "y", kind="add",
                                                 activation="clip", alpha=0.0, beta=6.0),
                   grids=((0.05, 100), (0.03, 9)))
    _check(graph, ["binary"])
    assert graph.ops[0].options["activation"] == "clip"


def test_binary_beyond_32_bits_stays_real():
    graph = _graph(lambda graph, a, b: graph.add("binary", [a, b], "y", kind="add"),
                   grids=((0.05, 100), (0.03, 9)), out=(1e-7, 0))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "dequantize", "binary", "quantize"]


def _join(graph, *reals):
    return graph.add("concat", reals, "y", axis=2)


def test_concat():
    graph = _check(_graph(_join, grids=((0.05, 100), (0.043, 30))), ["concat"])
    assert [t.quantization.step for t in graph.ops[0].inputs] == pytest.approx([0.05, 0.043])


def test_concat_with_real_constant():
    def build(graph, x):
        return _join(graph, x, graph.constant(np.ones((2, 8, 3), np.float32)))
    _check(_graph(build), ["concat"])


def test_concat_of_one_grid_moves_integers():
    """Nothing quantizes behind it: what follows reads the joined integers."""
    graph = _graph(_join, grids=((0.05, 100), (0.05, 100)), out=None)
    graph.outputs.clear()
    graph.output("y", graph.add("unary", [graph.ops[-1].outputs[0]], "z", kind="tanh"))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["concat", "dequantize", "unary"]


def test_concat_of_other_grids_stays_real():
    graph = _graph(_join, grids=((0.05, 100), (0.06, 100)), out=None)
    graph.outputs.clear()
    graph.output("y", graph.add("unary", [graph.ops[-1].outputs[0]], "z", kind="tanh"))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["dequantize", "dequantize", "concat", "unary"]


@pytest.mark.parametrize("options,inputs", [({}, 2), ({"scale": 0.3}, 2), ({"log": True}, 1)])
def test_softmax(options, inputs):
    out = (0.1, 255) if options.get("log") else (1 / 256, 0)
    graph = _check(_graph(lambda graph, x: graph.add("softmax", [x], "y", axis=1, **options),
                          out=out), ["softmax"])
    assert len(graph.ops[0].inputs) == inputs


# What LiteRT's kernels give. op, options, the scale and zero point of the output as int8.
LOOKED_UP = [
    ("LOGISTIC", "", {}, (1 / 256, -128)), ("TANH", "", {}, (1 / 128, 0)),
    ("HARD_SWISH", "HardSwishOptions", {}, (0.043, -98)),
    ("ELU", "", {}, (0.043, -98)), ("GELU", "GeluOptions", {}, (0.043, -98)),
    ("EXP", "ExpOptions", {}, (0.1, -128)), ("RELU", "", {}, (0.043, -98)),
    ("RELU6", "", {}, (0.043, -98)), ("LEAKY_RELU", "LeakyReluOptions", {"Alpha": 0.2},
                                      (0.043, -98)),
    ("ABS", "AbsOptions", {}, (0.043, -98))]
BINARY = [("ADD", "AddOptions", {"PotScaleInt16": False}), ("SUB", "SubOptions",
                                                           {"PotScaleInt16": False}),
          ("MUL", "MulOptions", {}), ("PRELU", "", {}), ("SQUARED_DIFFERENCE", "", {})]
KERNELS = {"PRELU": ("int8", "uint8"), "SQUARED_DIFFERENCE": ("int8",)}  # LiteRT has no others
VERSIONS = {"HARD_SWISH": 1, "ELU": 1, "PRELU": 1, "ABS": 3}


def _against_litert(tmp_path, code, options, values, inputs, out) -> tuple[np.ndarray, np.ndarray]:
    """Return what LiteRT gives for one op, and what the lowered import of it gives.

    Args:
        inputs: (integers, scale, zero point) each.
        out: scale and zero point.
    """
    builder, dtype = TFLiteBuilder(), inputs[0][0].dtype.name
    tensors = [builder.input(q.shape, dtype, quantization=([scale], [zero], 0))
               for q, scale, zero in inputs]
    y = builder.op(code, tensors, options, out=dtype, shape=inputs[0][0].shape,
                   version=VERSIONS.get(code, 2), quantization=([out[0]], [out[1]], 0), **values)
    data = builder.finish([y])
    feeds = {f"x{i}": q for i, (q, _, _) in enumerate(inputs)}
    want = interpret(data, feeds)[0]
    graph = load(data, tmp_path)
    lower.apply(graph)
    assert not any(op.code in ("quantize", "dequantize") for op in graph.ops)
    return want, _run(graph, feeds)


def _run(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run a lowered graph on int8, uint8 or int16 arrays."""
    stored = {name: (q.astype(np.int16) + 128).astype(np.uint8) if q.dtype == np.int8 else q
              for name, q in feeds.items()}
    for boundary in graph.inputs:
        boundary.dtype = boundary.tensor.dtype
    (boundary,) = graph.outputs
    signed, boundary.dtype = boundary.dtype == "int8", boundary.tensor.dtype
    y = reference.execute(graph, stored)[boundary.name]
    return (y.astype(np.int16) - 128).astype(np.int8) if signed else y


@pytest.mark.parametrize("code,options,values,out", LOOKED_UP)
@pytest.mark.parametrize("grid", [(0.05, -3), (0.09, 20), (0.023, -128)])
def test_int8_tables_are_litert_s(tmp_path, code, options, values, out, grid):
    want, found = _against_litert(tmp_path, code, options, values, [(_every("int8"), *grid)], out)
    assert np.array_equal(found, want)


@pytest.mark.parametrize("code,options,values", [
    ("LEAKY_RELU", "LeakyReluOptions", {"Alpha": 0.3}), ("RELU", "", {}), ("RELU6", "", {}),
    ("GELU", "GeluOptions", {}), ("EXP", "ExpOptions", {})])
def test_int16_is_litert_s(tmp_path, code, options, values):
    want, found = _against_litert(tmp_path, code, options, values,
                                  [(_every("int16"), 0.0003, 0)], (0.0002, 0))
    assert np.array_equal(found, want)


@pytest.mark.parametrize("code,within", [("LOGISTIC", 3), ("TANH", 5)])
def test_int16_gates_are_near_litert_s(tmp_path, code, within):
    """LiteRT interpolates tables of its own, 256 entries over -10.7 to 10.7."""
    want, found = _against_litert(tmp_path, code, "", {}, [(_every("int16"), 0.0002, 0)],
                                  (1 / 32768, 0))
    assert np.abs(found.astype(int) - want).max() <= within


@pytest.mark.parametrize("code,options,values,dtype", [
    (*case, dtype) for case in BINARY for dtype in KERNELS.get(case[0], dtypes.QUANTIZED)])
def test_binary_is_litert_s(tmp_path, code, options, values, dtype):
    small = 1 / 256 if dtype == "int16" else 1
    zero = {"int8": -20, "uint8": 108, "int16": 0}[dtype]
    out = {"MUL": 0.05 * 0.03 * (12000 if dtype == "int16" else 60) * small**2,
           "SQUARED_DIFFERENCE": 3.0}.get(code, 0.07 * small)
    want, found = _against_litert(
        tmp_path, code, options, values,
        [(_every(dtype, (4, 31, 16)), 0.05 * small, zero),
         (_every(dtype, (31, 16) if code == "PRELU" else (4, 31, 16)), 0.03 * small, 2 * zero)],
        (out, zero))
    different = found != want
    if (code, dtype) == ("ADD", "int16"):
        # LiteRT's vector code differs from its scalar code near ties, once in 10^5 sums
        assert different.sum() <= 1 and np.abs(found.astype(int) - want).max() <= 1
    else:
        assert not different.any()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("n,scale", [(2, 0.02), (10, 0.05), (1001, 0.07)])
def test_softmax_is_litert_s(tmp_path, dtype, n, scale):
    zero = -128 if dtype == "int8" else 0
    want, found = _against_litert(tmp_path, "SOFTMAX", "SoftmaxOptions", {"Beta": 1.0},
                                  [(_every(dtype, (30, n)), scale, zero + 90)], (1 / 256, zero))
    assert np.array_equal(found, want)


def test_single_int16_ops(shared_data):
    """The single-op models of TensorFlow Lite Micro, bit for bit."""
    seen = 0
    for kind in ("add", "sub", "leaky_relu"):
        for path in sorted((shared_data / "models/tflite_ops_int16").glob(f"{kind}[0-9]*.tflite")):
            golden = np.load(shared_data / "golden/tflite_ops_int16" / f"{path.stem}.npz")
            graph = importer.load(Path(path), {})
            feeds = {b.name: golden[f"input_{i}"].reshape(b.shape)
                     for i, b in enumerate(graph.inputs)}
            lower.apply(graph)
            assert not any(op.code == "dequantize" for op in graph.ops), path
            assert np.array_equal(_run(graph, feeds), golden["output_0"]), path
            seen += 1
    assert seen == 32
