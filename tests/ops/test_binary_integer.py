"""Binary ops over quantized integers: exactly as NumPy, on every driver."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.ops.binary_integer import KINDS
from edgerun.quantization import Quantization, limits, weighted_sum
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

A, B = (0.021, 117), (0.034, 3)  # scale and zero point of uint8 operands
GRIDS = {"uint8": ((0.021, 117), (0.034, 3), (0.047, 95)),
         "int16": ((0.00021, 0), (0.00034, 0), (0.00047, 0))}


def _integers(shape, dtype: str, seed: int) -> np.ndarray:
    """Random integers, a third of them extreme."""
    rng = np.random.default_rng(seed)
    low, high = limits(dtype)
    q = rng.integers(low, high + 1, shape)
    q = np.where(rng.random(shape) < 0.3, rng.choice([low, high, 0, high // 2], shape), q)
    return q.astype(dtype)


def _grid(kind: str, dtype: str) -> tuple[float, int]:
    """Scale and zero point of y, so that most results are inside its range."""
    (sa, _), (sb, _), (sy, zy) = GRIDS[dtype]
    if kind in ("mul", "prelu"):
        return (sa * sb * (60 if dtype == "uint8" else 12000), zy)
    return (sa * 70, 0) if kind == "squared_difference" else (sy, zy)


def _check(device, kind, dtype, shapes, rounding="once", out="", constant=False, **options):
    a, b = (_integers(shape, dtype, seed) for seed, shape in enumerate(shapes))
    grid_a, grid_b, _ = GRIDS[dtype]
    scale, zero = _grid(kind, dtype)
    if out == "int16" and dtype == "uint8":
        scale, zero = scale / 100, 0
    second = Const(b, Quantization.per_tensor(*grid_b)) if constant else Quantized(b, *grid_b)
    return check_integer(device, "binary", [Quantized(a, *grid_a), second], out or dtype,
                         Quantization.per_tensor(scale, zero, rounding), kind=kind, **options)


CASES = [(kind, dtype) for kind in KINDS for dtype in GRIDS
         if (kind, dtype) != ("squared_difference", "int16")]


@pytest.mark.parametrize("kind,dtype", CASES)
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_kinds(device, kind, dtype, rounding):
    found = _check(device, kind, dtype, [(3, 5, 37), (3, 5, 37)], rounding)
    assert len(np.unique(found)) > 20  # not everything saturates


@pytest.mark.parametrize("bits", range(20, 30))
def test_largest_sums(device, bits):
    """Ratios with which the largest sum alone fits into 31 bits, and what rounds it no more."""
    ratio = 2.0**(31 - bits) / 255 * (1 - 2.0**(bits - 33))
    a = Quantized(np.full(19, 255, np.uint8), ratio / 2)
    found = check_integer(device, "binary", [a, a], "uint8", Quantization.per_tensor(1.0),
                          kind="add")
    assert np.all(found == min(255, round(255 * ratio)))


@pytest.mark.parametrize("shapes", [
    [(1,), (1,)], [(7,), (7,)], [(16,), (16,)], [(4099,), (4099,)], [(5, 300), (300,)],
    [(2, 9, 9, 32), (32,)], [(2, 9, 9, 8), (8,)], [(2, 3, 4, 19), (2, 1, 1, 19)],
    [(2, 3, 4, 19), ()], [(2, 3, 1, 5), (1, 3, 4, 1)], [(1, 1, 5), (7, 6, 1)], [(40,), (3, 40)]])
def test_shapes(device, shapes):
    for kind in ("add", "sub", "mul"):
        _check(device, kind, "uint8", shapes)
    _check(device, "add", "int16", shapes, "twice")


def test_residual(device):
    """A layer of MobileNetV2: several work-items, whole vectors."""
    _check(device, "add", "uint8", [(1, 28, 28, 24), (1, 28, 28, 24)])


@pytest.mark.parametrize("activation", ["relu", "clip"])
def test_clamps(device, activation):
    _check(device, "add", "uint8", [(3, 40)] * 2, activation=activation, alpha=-1.0, beta=2.5)


@pytest.mark.parametrize("kind", ["add", "mul", "min"])
def test_constant(device, kind):
    _check(device, kind, "uint8", [(6, 24), (24,)], constant=True)


def test_uint8_to_int16(device):
    for kind in ("add", "mul"):
        _check(device, kind, "uint8", [(6, 24), (24,)], out="int16")


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_with_itself(device, kind):
    from edgerun.tools import reference
    from tests.harness import run_guarded, session_of

    def build():
        graph = Graph("test")
        x = graph.input("x", (5, 21), "uint8")
        x.quantization = Quantization.per_tensor(0.1, 9)
        y = graph.add("binary", [x, x], "y", kind=kind)
        y.quantization = Quantization.per_tensor(0.3, 4)
        graph.output("y", y)
        return graph

    x = _integers((5, 21), "uint8", 0)
    with session_of(device, build()) as session:
        found = run_guarded(session, {"x": x})["y"]
    assert np.array_equal(found, reference.execute(build(), {"x": x})["y"])


def test_sums_are_near():
    """The 32-bit sum is within 2^-8 of the exact one before it is rounded, for usual scales."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ratios = np.exp2(rng.uniform(-6, 3, 2)) * rng.choice([-1, 1], 2)
        (ma, mb), k = weighted_sum(list(ratios), 255)
        d = rng.integers(-255, 256, (2, 100))
        exact, found = ratios @ d, (d[0] * ma + d[1] * mb) / 2.0**k
        assert np.abs(exact - found).max() < 2**-8
        assert np.abs(d[0] * ma + d[1] * mb).max() + 2**(k - 1) < 2**31
    with pytest.raises(ValueError):
        weighted_sum([1e9, 1.0], 255)


@pytest.mark.parametrize("a,b,kind,message", [
    (("uint8", (0.1, 3)), ("uint8", None), "add", "needed one scale"),
    (("uint8", (0.1, 3)), ("uint8", (0.1, 3)), "div", "no kind 'div'"),
    (("int16", (0.1, 0)), ("int16", (0.1, 0)), "squared_difference", "no kind"),
    (("int16", (0.1, 3)), ("int16", (0.1, 0)), "add", "zero point 3"),
    (("uint8", (0.1, 3)), ("int16", (0.1, 0)), "add", "mixes"),
])
def test_not_inferred(a, b, kind, message):
    graph = Graph("test")
    operands = []
    for i, (dtype, grid) in enumerate((a, b)):
        x = graph.input(f"x{i}", (3,), dtype)
        x.quantization = Quantization.per_tensor(*grid) if grid else None
        operands.append(x)
    with pytest.raises(ModelError, match=message):
        graph.add("binary", operands, "y", kind=kind)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_refused(dtype, rounding):
    """Scales that would overflow, activations that are no clamps, an output without a scale."""
    for kind in KINDS:
        if (kind, dtype) == ("squared_difference", "int16"):
            continue
        graph = Graph("test")
        operands = [graph.input(f"x{i}", (3,), dtype) for i in range(2)]
        for x in operands:
            x.quantization = Quantization.per_tensor(3e5)
        y = graph.add("binary", operands, "y", kind=kind)
        op = graph.ops[0]
        for quantization, message in ((Quantization.per_tensor(1e-3, 0, rounding), "too small"),
                                      (None, "needed one scale")):
            y.quantization = quantization
            with pytest.raises(ModelError, match=message):
                OPS["binary"].prepare(op, Facts())
        y.quantization = Quantization.per_tensor(1e30)
        OPS["binary"].prepare(op, Facts())
        op.options["activation"] = "tanh"
        with pytest.raises(ModelError, match="tanh"):
            OPS["binary"].prepare(op, Facts())


def test_small_work_items(device, monkeypatch):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for shapes in ([(2, 5, 19), (2, 5, 19)], [(2, 5, 19), (19,)], [(2, 3), (3,)], [(4, 5), (4, 1)]):
        _check(device, "add", "uint8", shapes)
        _check(device, "mul", "int16", shapes)
