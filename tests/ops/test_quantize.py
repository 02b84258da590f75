"""Conversions to, from and between quantized integers: exactly as NumPy, on every driver."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization, limits
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

per_tensor = Quantization.per_tensor


def _reals(scale: float, zero: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Numbers of every magnitude; ties between steps with their neighbours; what is no number."""
    rng = np.random.default_rng(seed)
    low, high = limits(dtype)
    step = np.float32(scale)
    ties = ((rng.integers(low - 5, high + 6, 3000) - zero) + np.float32(0.5)).astype(np.float32)
    ties *= step
    inside = rng.uniform((low - zero) * scale, (high - zero) * scale, 3000).astype(np.float32)
    magnitudes = (rng.choice([-1, 1], 2000) * np.exp2(rng.uniform(-140, 127, 2000))).astype("f4")
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-40], np.float32)
    return np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)),
                           np.nextafter(ties, np.float32(-np.inf)), inside, magnitudes, odd])


@pytest.mark.parametrize("dtype,zero", [
    ("uint8", 0), ("uint8", 137), ("uint8", 255), ("int8", -128), ("int8", 5), ("int16", 0),
    ("int16", -32768), ("int32", 0)])
def test_quantize(device, dtype, zero):
    for scale in (1.0, 0.1, 0.0039215689, 1.9999999, 3e-38, 1e20):
        check_integer(device, "quantize", [Const(_reals(scale, zero, dtype))], dtype,
                      per_tensor(scale, zero))


def test_quantize_fp16(device):
    x = (np.random.default_rng(0).normal(size=1001) * 30).astype(np.float16).astype(np.float32)
    for dtype, zero in (("uint8", 128), ("int16", 0)):
        check_integer(device, "quantize", [x], dtype, per_tensor(0.25, zero), precision="fp16")


@pytest.mark.parametrize("n", [1, 3, 16, 17, 4095, 4097, 9000])
def test_lengths(device, n):
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    check_integer(device, "quantize", [x], "uint8", per_tensor(0.03, 128))
    q = np.random.default_rng(n).integers(0, 256, n).astype(np.uint8)
    check_integer(device, "dequantize", [Quantized(q, 0.03, 128)], "fp32")
    check_integer(device, "requantize", [Quantized(q, 0.03, 128)], "uint8", per_tensor(0.05, 7))


@pytest.mark.parametrize("dtype,zero", [("uint8", 131), ("int8", -7), ("int16", 0), ("int32", 0)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_dequantize(device, dtype, zero, precision):
    low, high = limits(dtype)
    q = np.linspace(low, high, 5000).astype(np.int64).clip(low, high).astype(dtype)
    for scale in (1.0, 0.0123):
        found = check_integer(device, "dequantize", [Quantized(q, scale, zero)], precision,
                              precision=precision, tolerance=2e-3 if precision == "fp16" else 0)
        if precision == "fp32":
            steps = q.astype(np.int64) - zero
            assert np.array_equal(found, steps.astype(np.float32) * np.float32(scale))


@pytest.mark.parametrize("source", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("target", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_requantize(device, source, target, rounding):
    """Every integer, for ratios of scales that round, that make ties, and that saturate."""
    low, high = limits(source)
    q = np.arange(low, high + 1).astype(source)
    for scale, zero_x, zero_y in ((1.0, low, high if target != "uint8" else 255), (0.37, 3, 5),
                                  (0.5, 0, 0), (16000.0, 100, 0), (1e-12, 1, 2)):
        check_integer(device, "requantize", [Quantized(q, scale, zero_x)], target,
                      Quantization.per_tensor(1.0, min(zero_y, limits(target)[1]), rounding))


@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_requantize_int32(device, rounding):
    """Between int16 and sums: as wide as they may be, and as near as the scales may be."""
    narrow = np.arange(-32768, 32768).astype(np.int16)
    for scale in (1e-5, 0.37, 16000.0):
        check_integer(device, "requantize", [Quantized(narrow, scale, 5)], "int32",
                      per_tensor(1.0, 0, rounding))
    wide = np.random.default_rng(0).integers(-2**31, 2**31, 5000)
    wide = (wide >> np.random.default_rng(1).integers(0, 31, 5000)).astype(np.int32)
    wide[:2] = -2**31, 2**31 - 1
    for scale in (0.4999, 0.1, 2.0**-16, 1e-9):
        check_integer(device, "requantize", [Quantized(wide, scale)], "int16",
                      per_tensor(1.0, 7, rounding))


def test_short(device):
    q = np.arange(-32768, 32768).astype(np.int16)
    check_integer(device, "requantize", [Quantized(q, 0.37)], "int16", per_tensor(1, 0, "short"))


def test_of_a_constant(device):
    check_integer(device, "requantize", [Const(np.arange(9, dtype=np.uint8), per_tensor(0.5, 3))],
                  "uint8", per_tensor(0.25, 1))


@pytest.mark.parametrize("code,dtype,x,given,wanted,message", [
    ("quantize", "uint8", "fp32", None, None, "needed one scale"),
    ("quantize", "uint8", "fp32", None, Quantization(np.ones(3, "f4"), np.zeros(3, "i4"), 0),
     "needed one scale"),
    ("quantize", "uint8", "fp32", None, per_tensor(1e-39), "scale 1e-39"),
    ("quantize", "int32", "fp32", None, per_tensor(1.0, 5), "zero point 5"),
    ("dequantize", "fp32", "int32", per_tensor(1.0, 5), None, "zero point 5"),
    ("dequantize", "fp32", "uint8", Quantization(np.ones(3, "f4"), np.zeros(3, "i4"), 0), None,
     "needed one scale"),
    ("requantize", "uint8", "uint8", None, per_tensor(1.0), "needed one scale"),
    ("requantize", "uint8", "uint8", per_tensor(1.0), None, "needed one scale"),
    ("requantize", "uint8", "uint8", per_tensor(1e5), per_tensor(1.0), "too small"),
    ("requantize", "int16", "int32", per_tensor(0.5), per_tensor(1.0), "needed less than 0.5"),
    ("requantize", "int16", "int32", per_tensor(0.1, 3), per_tensor(1.0), "zero point 3"),
    ("requantize", "int32", "int16", per_tensor(0.1), per_tensor(1.0, 3), "zero point 3"),
])
def test_refused(code, dtype, x, given, wanted, message):
    graph = Graph("test")
    operand = graph.input("x", (3,), x)
    operand.quantization = given
    y = graph.add(code, [operand], "y", dtype=dtype)
    y.quantization = wanted
    with pytest.raises(ModelError, match=message):
        OPS[code].prepare(graph.ops[0], Facts())


@pytest.mark.parametrize("code,dtype,x,message", [
    ("quantize", "fp16", "fp32", "to fp16"), ("quantize", "uint8", "int32", "is int32"),
    ("dequantize", "uint8", "uint8", "to uint8"), ("dequantize", "fp32", "fp32", "is fp32"),
    ("dequantize", "fp32", "int16", "needed a quantization"),
    ("requantize", "fp32", "uint8", "to fp32"), ("requantize", "uint8", "fp32", "is fp32"),
])
def test_not_inferred(code, dtype, x, message):
    graph = Graph("test")
    operand = graph.input("x", (3,), x)
    operand.quantization = None if "quantization" in message else per_tensor(1.0)
    with pytest.raises(ModelError, match=message):
        graph.add(code, [operand], "y", dtype=dtype)
