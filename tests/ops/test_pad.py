"""Padding against NumPy, bit for bit."""
import numpy as np
import pytest

from edgerun.ops import pad
from tests.harness import check_op
from tests.ops.test_copy import DTYPES, as_gpu, refused, values


@pytest.mark.parametrize("mode", pad.MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_mode(device, mode, dtype):
    check_op(device, "pad", [values((3, 5, 37), dtype)], 0, mode=mode, before=(1, 0, 3),
             after=(2, 4, 5), value=3.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("mode", pad.MODES)
@pytest.mark.parametrize("shape, before, after", [
    ((7,), (0,), (0,)), ((7,), (6,), (6,)), ((2, 1, 5), (1, 0, 2), (0, 0, 4)),
    ((1, 9, 11, 64), (0, 3, 3, 0), (0, 3, 4, 0)), ((1, 9, 11, 3), (0, 1, 1, 0), (0, 1, 1, 0)),
    ((1, 5, 6, 20), (0, 0, 0, 7), (0, 0, 0, 12)), ((2,) * 8, (1, 0, 1, 0, 1, 0, 1, 0), (0, 1) * 4),
    ((), (), ()), ((3, 31), (0, 2), (0, 3)), ((4, 47), (1, 0), (0, 1))])
def test_pad(device, shape, before, after, mode, precision):
    check_op(device, "pad", [values(shape)], 0 if precision == "fp32" else 2e-3, precision,
             mode=mode, before=before, after=after, value=-1.5)


def test_wrap_and_edge_longer_than_the_axis(device):
    for mode in ("wrap", "edge", "constant"):
        check_op(device, "pad", [values((3, 2))], 0, mode=mode, before=(8, 5), after=(7, 9))


def test_symmetric_by_the_whole_axis(device):
    check_op(device, "pad", [values((3, 2))], 0, mode="symmetric", before=(3, 2), after=(3, 2))


@pytest.mark.parametrize("dtype, value", [
    ("uint8", 300.0), ("uint8", -2.0), ("int8", -1.5), ("int32", 1e20), ("int32", -7.0),
    ("bool", 2.0), ("float16", 0.1), ("float32", np.inf), ("float32", -np.inf), ("float16", 1e9)])
def test_value_becomes_the_dtype(device, dtype, value):
    with np.errstate(over="ignore"):
        found = check_op(device, "pad", [values((2, 3), dtype)], 0, mode="constant", before=(0, 1),
                         after=(0, 1), value=value)["y0"]
    assert found.shape == (2, 5)


@pytest.mark.parametrize("mode", pad.MODES)
def test_launches_for_a_gpu(device, mode, monkeypatch):
    as_gpu(device, monkeypatch)
    check_op(device, "pad", [values((2, 5, 6, 19))], 0, mode=mode, before=(0, 2, 3, 1),
             after=(1, 0, 4, 9))


def test_a_real_layer(device):
    check_op(device, "pad", [values((1, 112, 112, 64))], 0, mode="constant", before=(0, 0, 0, 0),
             after=(0, 1, 1, 0))


def test_invalid():
    refused("has no mode 'mirror'", "pad", (2, 3), mode="mirror", before=(0, 0), after=(0, 0))
    refused("needed 2 of each", "pad", (2, 3), mode="edge", before=(0,), after=(0, 0))
    refused("at least 0", "pad", (2, 3), mode="edge", before=(0, -1), after=(0, 0))
    refused("reflect by 3 along axis 1 of a, which has 3: at most 2", "pad", (2, 3), mode="reflect",
            before=(0, 0), after=(0, 3))
    refused("symmetric by 4 along axis 1", "pad", (2, 3), mode="symmetric", before=(0, 4),
            after=(0, 0))
