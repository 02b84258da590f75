"""Conversions against NumPy, bit for bit."""
import numpy as np
import pytest

from edgerun import dtypes
from edgerun.ops import cast
from tests.harness import check_op
from tests.ops.test_copy import as_gpu, refused, values


def sample(dtype, n=5003):
    if dtype not in dtypes.FLOAT:
        return values((n,), dtypes.numpy_dtype(dtype).name)
    x = np.random.default_rng(4).uniform(-300, 300, n)
    x[:8] = [0, -0.0, 0.5, -0.5, 0.99, -0.99, 1.5, -1.5]
    return x.astype(dtypes.numpy_dtype(dtype))


@pytest.mark.parametrize("to", cast.DTYPES)
@pytest.mark.parametrize("dtype", cast.DTYPES)
def test_every_pair(device, dtype, to, monkeypatch):
    monkeypatch.setattr("tests.harness.convert", lambda *_, **__: None)  # keeps fp16
    check_op(device, "cast", [sample(dtype)], 0, dtype=to)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7)])
def test_shapes(device, shape):
    check_op(device, "cast", [values(shape)], 0, dtype="int32")


def test_beyond_int32_is_the_nearest(device):
    x = np.array([3e9, -3e9, 2**31, 2147483520.0, -2**31], np.float32)
    found = check_op(device, "cast", [x], 0, dtype="int32")["y0"]
    assert found.tolist() == [2**31 - 1, -2**31, 2**31 - 1, 2147483520, -2**31]


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    check_op(device, "cast", [sample("fp32")], 0, dtype="int8")


def test_invalid():
    for dtype in ("int64", "fp64"):
        refused(f"to {dtype}, needed fp32 or", "cast", (2,), dtype=dtype)
