"""K-TanH: the same bits as its definition over 16-bit numbers, on every driver."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Graph
from edgerun.tools.reference.elementwise import KTANH
from tests.harness import session_of

ALL = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def model(bits: np.ndarray, mantissa_bits: int, bias: int) -> np.ndarray:
    """K-TanH over the fields of 16-bit floats with 7 (bf16) or 10 (fp16) bits of mantissa."""
    bits = bits.astype(np.int64)
    exponent_bits = 15 - mantissa_bits
    sign, size = bits & 0x8000, bits & 0x7FFF
    exponent = size >> mantissa_bits
    m = (size & (1 << mantissa_bits) - 1) >> mantissa_bits - 7
    entry = KTANH[(exponent & 3) * 8 + m // 16]
    found = (entry[:, 0] - 127 + bias << mantissa_bits) + (
        (m >> entry[:, 1]) + entry[:, 2] << mantissa_bits - 7)
    one = bias << mantissa_bits
    quarter = bias - 2 << mantissa_bits
    most = (bias + 1 << mantissa_bits) + (112 << mantissa_bits - 7)  # 3.75
    infinity = (1 << exponent_bits) - 1 << mantissa_bits
    found = np.where(size > most, one, found)
    return (sign | np.where((size < quarter) | (size > infinity), size, found)).astype(np.uint16)


def of_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def run(device, x: np.ndarray, kind: str, precision: str = "fp32") -> np.ndarray:
    """x is a constant: a session takes no input that is not finite."""
    graph = Graph("test")
    graph.output("y", graph.add("unary", [graph.constant(x, "x")], "y", kind=kind))
    with session_of(device, graph, precision) as session:
        return session.run({})["y"]


def test_every_bf16(device):
    """And 11 of them again at the end, for lanes that are no whole vector."""
    bits = np.concatenate([ALL, ALL[16000:16011]])
    x, expected = of_bf16(bits), of_bf16(model(bits, 7, 127))
    with np.errstate(invalid="ignore"):
        found = run(device, x, "ktanh")
    nan = np.isnan(x)
    assert np.isnan(found[nan]).all() and nan.sum() == 254
    assert np.array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert found[0x7F80] == 1 and found[0xFF80] == -1  # of infinities


def test_every_fp16(device):
    x, expected = ALL.view(np.float16), model(ALL, 10, 15).view(np.float16)
    with np.errstate(invalid="ignore"):
        found = run(device, x.astype(np.float32), "ktanh", "fp16")
    nan = np.isnan(x)
    assert np.isnan(found[nan]).all()
    normal = ~nan & ((ALL & 0x7C00 != 0) | (ALL & 0x7FFF == 0))
    assert np.array_equal(found[normal], expected[normal].astype(np.float32))
    tiny = ~nan & ~normal  # some devices round them to 0
    assert np.all((found[tiny] == x[tiny]) | (found[tiny] == 0))
