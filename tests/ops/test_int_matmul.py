"""matmul of quantized tensors, exactly as NumPy computes it."""
import dataclasses

import numpy as np
import pytest

from edgerun import dots
from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

TYPES = {"uint8": np.uint8, "int16": np.int16}


@pytest.fixture(params=["plain", "vnni"])
def dot(request, device, monkeypatch):
    """Every way to sum products."""
    if not dots.has(device, request.param):
        pytest.skip(f"{device.info.name} of {device.info.platform} has no {request.param} products")
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, dot=request.param))


def integers(rng, shape, dtype, kind):
    """Random integers, or as many extreme ones as possible."""
    info = np.iinfo(TYPES[dtype])
    if kind == "random":
        return rng.integers(info.min, info.max + 1, shape).astype(TYPES[dtype])
    if kind == "least":
        return np.full(shape, info.min, TYPES[dtype])
    return rng.choice([info.min, info.max], shape).astype(TYPES[dtype])


def check(device, a, b, dtype="uint8", zeros=(128, 128, 128), y_type=None, rounding="once",
          kind="random", **options):
    """Check the product of an a and a b of these shapes."""
    rng = np.random.default_rng(0)
    y_type = y_type or dtype
    if dtype == "int16":
        zeros = (0, 0, zeros[2] if y_type == "uint8" else 0)
    k = a[-2] if options.get("transpose_a") else a[-1]
    # sums of a standard deviation of a third of the range of y
    step = 0.02 * 0.03 * (np.iinfo(TYPES[dtype]).max / 2)**2 * np.sqrt(k)
    step /= 40 if y_type == "uint8" else 10000
    return check_integer(
        device, "matmul", [Quantized(integers(rng, a, dtype, kind), 0.02, zeros[0]),
                           Quantized(integers(rng, b, dtype, kind), 0.03, zeros[1])],
        y_type, Quantization.per_tensor(step, zeros[2], rounding), **options)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("a, b, options", [
    ((1, 1), (1, 1), {}), ((5, 3), (3, 2), {}), ((3, 67), (67, 19), {}), ((9, 64), (64, 16), {}),
    ((2, 130), (130, 33), {}), ((67, 5), (67, 31), {"transpose_a": True}),
    ((11, 65), (18, 65), {"transpose_b": True}), ((1, 200), (200, 48), {}),
    ((129, 7), (37, 129), {"transpose_a": True, "transpose_b": True}),
    ((300, 33), (33, 17), {})])
def test_sizes(device, dot, a, b, options, dtype):
    """Tails of every axis, and more rows than one work-item takes."""
    check(device, a, b, dtype, **options)


@pytest.mark.parametrize("a, b", [
    ((3, 4, 9), (3, 9, 20)), ((2, 1, 4, 9), (3, 9, 20)), ((4, 9), (2, 3, 9, 20)),
    ((2, 3, 4, 9), (9, 20))])
def test_batches(device, a, b):
    check(device, a, b)


@pytest.mark.parametrize("zeros", [(0, 0, 0), (255, 255, 255), (3, 250, 128), (0, 255, 7)])
@pytest.mark.parametrize("rounding", ["once", "twice", "upward", "single"])
@pytest.mark.parametrize("kind", ["random", "extreme", "least"])
def test_numbers(device, dot, zeros, rounding, kind):
    check(device, (9, 50), (50, 21), zeros=zeros, rounding=rounding, kind=kind)


@pytest.mark.parametrize("k", [1, 2, 33, 700])
@pytest.mark.parametrize("y_type", ["int16", "uint8"])
@pytest.mark.parametrize("kind", ["random", "extreme", "least"])
def test_int16(device, dot, k, y_type, kind):
    """Sums that take more than 32 bits."""
    check(device, (9, k), (k, 21), "int16", y_type=y_type, rounding="short", kind=kind)


@pytest.mark.parametrize("rounding, most", [("once", 33025), ("twice", 16512)])
def test_longest_sums(device, rounding, most):
    """The largest sums of uint8 that are allowed, and one more."""
    check(device, (1, most), (most, 4), zeros=(0, 0, 0), rounding=rounding, kind="extreme")
    with pytest.raises(ModelError, match=f"sums {most + 1} products of uint8, at most {most}"):
        check(device, (1, most + 1), (most + 1, 4), rounding=rounding)


@pytest.mark.parametrize("activation, alpha, beta", [("relu", 0, 0), ("clip", -60, 60)])
def test_clamps(device, activation, alpha, beta):
    y = check(device, (9, 50), (50, 21), activation=activation, alpha=alpha, beta=beta)
    assert y.min() >= (128 if activation == "relu" else 90) and len(np.unique(y)) > 20


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_output(device, dtype, precision):
    rng = np.random.default_rng(1)
    scale = 1 / np.iinfo(TYPES[dtype]).max
    check_integer(device, "matmul", [
        Quantized(integers(rng, (9, 50), dtype, "random"), scale, 100 if dtype == "uint8" else 0),
        Quantized(integers(rng, (50, 21), dtype, "random"), scale, 120 if dtype == "uint8" else 0),
        Const(np.array([scale * scale], np.float32))],
        "fp32", None, 1e-5 if precision == "fp32" else 2e-3, precision, activation="hard_swish")


@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 4), Facts("cpu", 8)])
def test_as_on_other_devices(device, monkeypatch, facts):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 13, 35), (2, 35, 21))


def test_real_layer(device):
    """Scores of attention: 12 heads of 64."""
    check(device, (12, 128, 64), (12, 128, 64), transpose_b=True)


@pytest.mark.parametrize("dtypes, quantizations, message", [
    (("uint8", "int16", "uint8"), ((0, "once"),) * 3, "mixes the dtypes int16, uint8"),
    (("int16", "int16", "int16"), ((3, "once"), (0, "once"), (0, "once")), "are 3 and 0, needed 0"),
    (("int16", "int16", "int16"), ((0, "once"), (0, "once"), (0, "twice")), "needed once"),
    (("uint8", "uint8", "uint8"), ((0, "once"), None, (0, "once")), "x1 is uint8, needed one"),
    (("uint8", "uint8", "uint8"), ((0, "once"), (0, "once"), None), "y is uint8, needed one"),
    (("uint8", "uint8", "int32"), ((0, "once"),) * 3, "y is int32, needed uint8 or int16")])
def test_refused(dtypes, quantizations, message):
    graph = Graph()
    operands = [graph.input(f"x{i}", (5, 5), dtypes[i]) for i in range(2)]
    with pytest.raises(ModelError, match=message):
        op = graph.insert(0, "matmul", operands, "y")
        op.outputs[0].dtype = dtypes[2]
        for tensor, given in zip((*operands, op.outputs[0]), quantizations):
            tensor.quantization = given and Quantization.per_tensor(0.01, *given)
        OPS["matmul"].prepare(op, Facts())
