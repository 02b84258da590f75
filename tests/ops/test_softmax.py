"""Softmax kernels against SciPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.tools.graph import Graph
from tests.harness import check_op
from tests.ops.test_copy import as_gpu, refused


def numbers(shape, width=4.0, seed=0):
    return np.random.default_rng(seed).normal(0, width, shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape, axis", [
    ((), 0), ((1,), 0), ((7,), 0), ((16,), -1), ((3, 17), 1), ((5, 1000), -1), ((2, 3, 31), 2),
    ((13, 2), 1), ((2, 7, 16), 1), ((2, 7, 37), 1), ((3, 5, 2, 3), 1), ((9, 33), 0), ((4, 1, 5), 1),
    ((2, 6, 1), 1), ((1, 12, 50, 50), -1)])
def test_softmax(device, shape, axis, log, precision):
    check_op(device, "softmax", [numbers(shape)], 2e-6, precision, axis=axis, log=log)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("log", [False, True])
def test_scale(device, axis, log):
    check_op(device, "softmax", [numbers((19, 23))], 2e-6, axis=axis, log=log, scale=0.125)
    check_op(device, "softmax", [numbers((19, 23))], 2e-6, axis=axis, log=log, scale=-2.0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_large_values_do_not_overflow(device, axis, offset):
    found = check_op(device, "softmax", [numbers((35, 35)) + np.float32(offset)], 2e-6, axis=axis)
    np.testing.assert_allclose(found["y0"].sum(axis), 1, rtol=1e-5)


def test_small_shares_keep_their_digits(device):
    """What is far below the maximum is exact relative to itself, not only to the maximum."""
    x = np.linspace(-60, 0, 67, dtype=np.float32)[None]
    found = check_op(device, "softmax", [x])["y0"]
    expected = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


def test_masked_positions_are_zero(device):
    """A mask adds the most negative number, as exporters do."""
    x = numbers((4, 50))
    x[:, 20:] += np.float32(-3.4e38) / 2
    assert not check_op(device, "softmax", [x], 2e-6)["y0"][:, 20:].any()


def test_real_layers(device):
    check_op(device, "softmax", [numbers((1, 12, 197, 197))], 2e-6, scale=0.125)
    check_op(device, "softmax", [numbers((1, 1917, 91))], 2e-6)


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    check_op(device, "softmax", [numbers((7, 301))], 2e-6, axis=1)
    check_op(device, "softmax", [numbers((7, 301))], 2e-6, axis=0)


def test_invalid():
    refused("axis 2 of 2 dimensions", "softmax", (2, 3), axis=2)
    graph = Graph()
    with pytest.raises(ModelError, match="a is int32, needed fp32 or fp16"):
        graph.add("softmax", [graph.input("a", (2, 3), "int32")])
