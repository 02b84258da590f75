"""Small networks with what quantizes badly: masks, logarithms, saturation, chains, channels next to
dead."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgerun import loader
from edgerun.quantization import Quantization
from edgerun.tools import lower, quantize, reference
from edgerun.tools.graph import Graph, Op, Tensor, copy_of
from edgerun.tools.pack import pack
from tests.test_quantize import observed

SHAPE = (1, 8, 8, 4)
BOTH = pytest.mark.parametrize("dtype", ["int8", "int16"])
ENOUGH = {"int8": 24.0, "int16": 60.0}  # dB


def _images(scale: float = 1.0, shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(0, scale, shape).astype(np.float32) for i in range(4)]


def _weights(graph: Graph, *shape: int, scale: float = 0.3) -> Tensor:
    return graph.constant(
        np.random.default_rng(sum(shape)).normal(0, scale, shape).astype(np.float32))


def _between_layers(build: Callable[[Graph, Tensor], Tensor]) -> Graph:
    """Return conv -> what is built on it -> conv."""
    graph = Graph("net")
    x = graph.input("x", SHAPE, "fp32")
    before = graph.add("conv2d", [x, _weights(graph, 16, 1, 1, 4), _weights(graph, 16)], "before")
    middle = build(graph, before)
    weights = _weights(graph, 6, 1, 1, middle.shape[3])
    graph.output("y", graph.add("conv2d", [middle, weights, _weights(graph, 6)], "behind"))
    return graph


def _quantized(graph: Graph, dtype: str, samples: list[np.ndarray]) -> tuple[Graph, float]:
    """Return a quantized and lowered copy, and the ratio of its output to its error in dB."""
    ranges = observed(graph, samples)

    def range_of(name: str, bits: int) -> tuple[float, float]:
        return ranges[name]

    copy = copy_of(graph)
    dtypes = quantize.keep_exact(copy, quantize.assign(copy, dtype), range_of)
    quantize.insert(copy, dtypes, range_of)
    lower.apply(copy)
    pairs = [(reference.execute(graph, {"x": x})["y"], reference.execute(copy, {"x": x})["y"])
             for x in samples]
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return copy, 10 * np.log10(signal / noise)


def _codes(graph: Graph) -> list[str]:
    return [op.code for op in graph.ops]


def _named(graph: Graph, name: str) -> Op:
    return next(op for op in graph.ops if op.name == name)


@BOTH
@pytest.mark.parametrize("moved", [False, True])
def test_mask_does_not_widen_scores(dtype, moved):
    """Two masked softmaxes share a mask of -10^9."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        mask = graph.constant(np.triu(np.full((8, 16), -1e9, np.float32), 5))
        a = graph.add("binary", [x, mask], "masked", kind="add")
        if moved:
            a = graph.add("transpose", [a], "turned", perm=(0, 2, 1, 3))
        b = graph.add("binary", [x, mask], "masked.2", kind="add")
        return graph.add("binary", [graph.add("softmax", [a], "first", axis=3),
                                    graph.add("softmax", [b], "second", axis=3)], "sum", kind="add")
    graph, ratio = _quantized(_between_layers(build), dtype, _images())
    assert ratio > ENOUGH[dtype]
    assert "dequantize" not in _codes(graph)


def test_mask_that_is_computed():
    def build(graph: Graph, x: Tensor) -> Tensor:
        other = graph.add("conv2d", [x, _weights(graph, 16, 1, 1, 16)], "other")
        keep = graph.add("unary", [other], "keep", kind="clip", alpha=0.0, beta=1.0)
        mask = graph.add("unary", [keep], "mask", kind="affine", alpha=-1e9, beta=0.0)
        masked = graph.add("binary", [x, mask], "masked", kind="add")
        return graph.add("softmax", [masked], "softmax", axis=3)
    graph, _ = _quantized(_between_layers(build), "int8", _images())
    scores, masked = (_named(graph, name).outputs[0].quantization for name in ("before", "masked"))
    assert masked.step < 4 * scores.step


@BOTH
def test_chain_is_one_table(dtype):
    """x tanh(log(1 + exp(x))), as exporters write mish: nothing between is rounded."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        one = graph.constant(np.float32(1.0))
        e = graph.add("binary", [graph.add("unary", [x], "e", kind="exp"), one], "p", kind="add")
        t = graph.add("unary", [graph.add("unary", [e], "l", kind="log")], "t", kind="tanh")
        return graph.add("binary", [x, t], "mish", kind="mul")
    graph, ratio = _quantized(_between_layers(build), dtype, _images())
    assert _codes(graph) == ["conv2d", "table", "conv2d"]
    assert ratio > ENOUGH[dtype] + 6


def test_tensor_that_others_read_ends_a_chain():
    def build(graph: Graph, x: Tensor) -> Tensor:
        a = graph.add("unary", [x], "a", kind="tanh")
        b = graph.add("unary", [a], "b", kind="silu")
        return graph.add("concat", [a, b], "both", axis=3)
    graph, ratio = _quantized(_between_layers(build), "int8", _images())
    assert _codes(graph) == ["conv2d", "table", "table", "concat", "conv2d"]
    assert ratio > ENOUGH["int8"]


@BOTH
def test_logarithm_of_a_spectrum_is_real(dtype):
    """The transform too: what a loud sample has rounded to nothing, the logarithm shows."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        power = graph.add("unary", [x], "power", kind="square")
        scaled = graph.add("unary", [power], "scaled", kind="affine", alpha=1e4, beta=1.0)
        return graph.add("unary", [scaled], "log", kind="log")
    samples = [x * 10.0**-i for i, x in enumerate(_images())]
    samples = [x.astype(np.float32) for x in samples]
    graph, ratio = _quantized(_between_layers(build), dtype, samples)
    for name in ("power", "scaled", "log"):
        assert _named(graph, name).outputs[0].dtype == "fp32"
    if dtype == "int8":  # steps of int16 are fine enough for this one
        assert _named(graph, "before").inputs[1].dtype == "fp32"
    assert _named(graph, "behind").inputs[0].dtype in ("uint8", "int16")
    assert ratio > ENOUGH[dtype]


@pytest.mark.parametrize("least", [0.02, 0.2])
def test_divisor_near_0_is_real(least):
    def build(graph: Graph, x: Tensor) -> Tensor:
        norm = graph.add("unary", [x], "norm", kind="abs")
        safe = graph.add("unary", [norm], "safe", kind="affine", alpha=1.0, beta=least)
        return graph.add("binary", [x, safe], "ratio", kind="div")
    graph, _ = _quantized(_between_layers(build), "int8", _images())
    assert [_named(graph, n).outputs[0].dtype for n in ("before", "norm", "safe")] == ["fp32"] * 3


def test_divisor_that_is_never_small_is_no_exception():
    def build(graph: Graph, x: Tensor) -> Tensor:
        norm = graph.add("unary", [x], "norm", kind="abs")
        safe = graph.add("unary", [norm], "safe", kind="affine", alpha=1.0, beta=1.0)
        return graph.add("binary", [graph.add("unary", [x], "t", kind="tanh"), safe], "ratio",
                         kind="div")
    graph, ratio = _quantized(_between_layers(build), "int8", _images())
    assert _named(graph, "before").outputs[0].dtype == "uint8"
    assert ratio > ENOUGH["int8"]


@BOTH
def test_gates_are_not_coarse_where_they_change(dtype):
    """Scores to +-400 before a sigmoid and a tanh, through slices."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        wide = graph.add("unary", [x], "wide", kind="affine", alpha=100.0, beta=0.0)
        peak = graph.add("pool2d", [wide], "scores", kind="average", kernel_h=2, kernel_w=2)
        halves = [graph.add("slice", [peak], f"half{i}", starts=(0, 0, 0, 8 * i),
                            sizes=(1, 7, 7, 8), steps=(1, 1, 1, 1)) for i in range(2)]
        gates = [graph.add("unary", [half], kind, kind=kind)
                 for half, kind in zip(halves, ("sigmoid", "tanh"))]
        return graph.add("binary", gates, "gated", kind="mul")
    graph, ratio = _quantized(_between_layers(build), dtype, _images())
    scores = _named(graph, "scores").outputs[0]
    limit = {"int8": 16.0 / 255, "int16": 30.0 * 1.5 / 32767}[dtype]
    assert scores.quantization.step < limit
    assert _codes(graph).count("table") >= 2 and "dequantize" not in _codes(graph)
    assert ratio > ENOUGH[dtype]


def test_range_stays_where_another_reader_needs_it():
    def build(graph: Graph, x: Tensor) -> Tensor:
        wide = graph.add("pool2d", [x], "wide", kind="average", kernel_h=1, kernel_w=1)
        gate = graph.add("unary", [wide], "gate", kind="clip", alpha=0.0, beta=0.1)
        return graph.add("concat", [wide, gate], "both", axis=3)
    graph, ratio = _quantized(_between_layers(build), "int8", _images())
    assert ratio > ENOUGH["int8"]


@BOTH
@pytest.mark.parametrize("tiny,bias", [(1e-12, 1.0), (1e-12, -1.0), (1e-12, 1e-7), (1e-30, 0.3),
                                       (0.0, 0.5)])
def test_channel_next_to_dead(dtype, tiny, bias):
    """Its bias is many steps of its sums: the others compute on integers all the same."""
    graph = _between_layers(lambda graph, x: graph.add("unary", [x], "relu", kind="relu"))
    op = _named(graph, "before")
    op.inputs[1].data[3] *= tiny
    op.inputs[2].data[3] = bias
    lowered, ratio = _quantized(graph, dtype, _images())
    assert _named(lowered, "before").inputs[0].dtype in ("uint8", "int16")
    assert ratio > ENOUGH[dtype]


def test_sum_that_no_shift_takes_to_y_stays_real():
    """A wide sum of 2^44 in steps of 2^-40: kernels shift by 62 at most, which would give 0."""
    graph = Graph("net")
    x = graph.input("x", (1, 2, 2, 2), "fp32")
    q = graph.quantize(x, "int16", Quantization.per_tensor(2.0**-15))
    given = Quantization(np.float32([2.0**-7, 2.0**-25]), np.zeros(2, np.int32), 0)
    w = graph.constant(np.full((2, 1, 1, 2), 30000, np.int16), quantization=given)
    bias = graph.constant(np.float32([1.0, 16.0]))
    y = graph.add("conv2d", [graph.dequantize(q), graph.dequantize(w), bias], "c")
    stored = graph.quantize(y, "int16", Quantization.per_tensor(1.0))
    graph.output("y", graph.dequantize(stored))
    feeds = {"x": np.full((1, 2, 2, 2), 0.3, np.float32)}
    want = reference.execute(graph, feeds)["y"]
    lower.apply(graph)
    assert np.array_equal(reference.execute(graph, feeds)["y"], want)


@BOTH
@pytest.mark.parametrize("kind", ["min", "max", "prelu"])
def test_binary_kinds_on_integers(kind, dtype):
    def build(graph: Graph, x: Tensor) -> Tensor:
        other = (_weights(graph, 1, 1, 1, 16) if kind == "prelu"
                 else graph.add("conv2d", [x, _weights(graph, 16, 1, 1, 16)], "other"))
        return graph.add("binary", [x, other], "mixed", kind=kind)
    graph, ratio = _quantized(_between_layers(build), dtype, _images())
    assert _named(graph, "mixed").inputs[0].dtype in ("uint8", "int16")
    assert ratio > ENOUGH[dtype]


@pytest.mark.parametrize("kind,value", [("pow", 2.0), ("pow", 3.0), ("div", 0.7), ("min", 0.2),
                                        ("squared_difference", 0.3)])
def test_any_kind_with_a_number_is_a_table(kind, value):
    def build(graph: Graph, x: Tensor) -> Tensor:
        return graph.add("binary", [x, graph.constant(np.float32(value))], "p", kind=kind)
    graph, ratio = _quantized(_between_layers(build), "int8", _images())
    assert _codes(graph) == ["conv2d", "table", "conv2d"]
    assert ratio > ENOUGH["int8"]


@BOTH
@pytest.mark.parametrize("other", [-1e9, 0.5, None])
def test_choice_among_integers(dtype, other):
    """A number below every score is cut off at what the softmax still sees."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        above = graph.constant(np.triu(np.ones((8, 16), bool), 5))
        b = (graph.constant(np.float32(other)) if other is not None
             else graph.add("conv2d", [x, _weights(graph, 16, 1, 1, 16, scale=2.0)], "other"))
        chosen = graph.add("where", [above, x, b], "chosen")
        return graph.add("softmax", [chosen], "softmax", axis=3)
    graph, ratio = _quantized(_between_layers(build), dtype, _images())
    assert "dequantize" not in _codes(graph)
    assert _named(graph, "chosen").inputs[1].dtype in ("uint8", "int16")
    assert ratio > ENOUGH[dtype]


@pytest.mark.parametrize("kind", ["hard_swish", "silu", "gelu", "mish"])
def test_int16_gates_are_tables(kind):
    """Their ends, and the end of y's range, are bends that interpolation rounds off."""
    graph, ratio = _quantized(
        _between_layers(lambda graph, x: graph.add("unary", [x], "gate", kind=kind)), "int16",
        _images())
    assert _codes(graph) == ["conv2d", "table", "conv2d"]
    assert ratio > ENOUGH["int16"]


def test_int16_gate_of_mostly_negative_numbers_is_a_table():
    """y saturates within a piece in which x goes many steps of y further."""
    def build(graph: Graph, x: Tensor) -> Tensor:
        low = graph.add("pool2d", [x], "low", kind="average", kernel_h=1, kernel_w=1)
        shifted = graph.add("binary", [low, _weights(graph, 1, 1, 1, 16, scale=9.0)], "shifted",
                            kind="add", activation="clip", alpha=-30.0, beta=3.0)
        return graph.add("unary", [shifted], "gate", kind="silu")
    graph, ratio = _quantized(_between_layers(build), "int16", _images())
    assert "dequantize" not in _codes(graph)
    assert ratio > ENOUGH["int16"]


def test_integer_weights_of_a_float_model_are_quantized_again(shared_data, tmp_path):
    """A TFLite model in fp32 whose pointwise layers have int8 weights."""
    model = shared_data / "models" / "tflite" / "kws01_dscnn_fp32.tflite"
    with np.load(shared_data / "golden" / "tflite" / "kws01_dscnn_fp32.npz") as golden:
        np.savez(tmp_path / "in.npz", input_1=golden["input_0"])
    pack(model, tmp_path / "fp32.edge", "fp32", calibration=tmp_path / "in.npz")
    pack(model, tmp_path / "int8.edge", "int8", calibration=tmp_path / "fp32.edge")
    found = loader.read(tmp_path / "int8.edge")
    layers = [op for op in found.ops if op.code in quantize.WEIGHTED]
    assert len(layers) > 8 and all(op.inputs[0].dtype == "uint8" for op in layers)
