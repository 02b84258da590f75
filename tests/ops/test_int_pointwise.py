"""Concat and softmax of quantized tensors: exactly as NumPy, on every driver."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization, limits
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

per_tensor = Quantization.per_tensor


def _integers(shape, dtype: str, seed: int) -> np.ndarray:
    low, high = limits(dtype)
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)


@pytest.mark.parametrize("shapes,axis", [
    ([(5,), (3,)], 0), ([(2, 7, 19), (2, 7, 3), (2, 7, 64)], -1), ([(3, 1, 40), (3, 5, 40)], 1),
    ([(1, 14, 14, 24), (1, 14, 14, 40)], 3), ([(2, 3000), (2, 5000)], 1), ([(1, 1), (1, 1)], 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("rounding", ["once", "twice"])
def test_concat(device, shapes, axis, dtype, rounding):
    """The first input is copied, since it has the grid of y; the others are brought to it."""
    zeros = (9, 100, 0) if dtype == "uint8" else (0, 0, 0)
    inputs = [Quantized(_integers(shape, dtype, i), scale, zeros[i])
              for i, (shape, scale) in enumerate(zip(shapes, (0.02, 0.013, 0.05)))]
    found = check_integer(device, "concat", inputs, dtype,
                          Quantization.per_tensor(0.02, zeros[0], rounding), axis=axis)
    assert np.array_equal(np.take(found, range(shapes[0][axis]), axis), inputs[0].array)


def test_concat_of_a_constant(device):
    constant = Const(_integers((2, 5), "uint8", 0), per_tensor(0.1, 3))
    check_integer(device, "concat", [Quantized(_integers((2, 5), "uint8", 1), 0.07, 8), constant],
                  "uint8", per_tensor(0.09, 100), axis=1)


def test_concat_refused():
    graph = Graph("test")
    inputs = [graph.input(f"x{i}", (3,), "uint8") for i in range(2)]
    for x, scale in zip(inputs, (1.0, 1e6)):
        x.quantization = per_tensor(scale)
    y = graph.add("concat", inputs, "y", axis=0)
    y.quantization = per_tensor(1.0)
    with pytest.raises(ModelError, match="too small"):
        OPS["concat"].prepare(graph.ops[0], Facts())
    y.quantization = Quantization(np.ones(3, np.float32), np.zeros(3, np.int32), 0)
    with pytest.raises(ModelError, match="needed one scale"):
        OPS["concat"].prepare(graph.ops[0], Facts())
