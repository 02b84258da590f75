"""Requantization without 64-bit types: a million random products on every driver, exactly."""
from __future__ import annotations

import numpy as np
import pyopencl as cl
import pytest

from edgerun.quantization import fixed_point
from edgerun.tools.reference.integer import requantize

SAMPLES = 1_000_000
PROBE = """
#include "integer.cl"
__kernel void probe(__global const int *acc, __global const int *m0, __global const int *t,
                    __global int *one, __global int *many) {
    const int i = get_global_id(0);
    for (int k = 0; k < VEC; k++)
        one[i * VEC + k] = requantize(acc[i * VEC + k], m0[i * VEC + k], t[i * VEC + k]);
#ifdef STORED
    GLUE(vstore, VEC)(steps_of(GLUE(vload, VEC)(i, acc), GLUE(vload, VEC)(i, m0),
                               GLUE(vload, VEC)(i, t)), i, many);
#elif VEC == 1
    many[i] = requantizev(acc[i], m0[i], t[i]);
#else
    GLUE(vstore, VEC)(requantizev(GLUE(vload, VEC)(i, acc), GLUE(vload, VEC)(i, m0),
                                  GLUE(vload, VEC)(i, t)), i, many);
#endif
}
"""


def _cases(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accumulators of every magnitude, multipliers of every exponent, ties and extremes."""
    acc = (rng.integers(-2**31, 2**31, SAMPLES) >> rng.integers(0, 31, SAMPLES)).astype(np.int32)
    m0 = rng.integers(2**30, 2**31, SAMPLES).astype(np.int32)
    t = rng.integers(1, 63, SAMPLES).astype(np.int32)
    fits = np.abs(acc.astype(np.float64) * m0 * 2.0**-t) < 2**30  # else the result is not an int32
    t = np.where(fits, t, 62).astype(np.int32)
    tie = rng.random(SAMPLES) < 0.1  # acc * m0 is an odd multiple of half a step
    m0[tie], t[tie] = 2**30, 31 + rng.integers(0, 20, int(tie.sum()))
    acc[:4], m0[:4], t[:4] = (2**31 - 1, -2**31, 0, -1), 2**31 - 1, (31, 31, 33, 62)
    return acc, m0, t


def _compute(device, acc, m0, t, defines: dict, folder, monkeypatch) -> list[np.ndarray]:
    """Return what PROBE writes to `one` and `many`."""
    from edgerun import programs
    monkeypatch.setattr(programs, "folder", lambda name: folder)
    import edgerun._paths
    for name in ("common.cl", "integer.cl"):
        (folder / name).write_text((edgerun._paths.folder("kernels") / name).read_text())
    (folder / "probe.cl").write_text(PROBE)
    kernel = device.kernel("probe", "probe", {"T_int32": 1, **defines})
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    buffers = [cl.Buffer(device.context, flags, hostbuf=a) for a in (acc, m0, t, acc, acc)]
    kernel(device.queue, (SAMPLES // defines["VEC"],), None, *buffers)
    found = [np.empty(SAMPLES, np.int32) for _ in range(2)]
    for array, buffer in zip(found, buffers[3:]):
        cl.enqueue_copy(device.queue, array, buffer)
    return found


@pytest.mark.parametrize("lanes", [4, 16])
def test_single_rounding_of_what_is_stored(device, lanes, tmp_path, monkeypatch):
    """Exact wherever 16 bits could hold it, and never on the wrong side."""
    acc, m0, t = _cases(np.random.default_rng(lanes))
    most = 2**22 - 1
    expected = requantize(acc.astype(np.int64), m0, t, "single").clip(-most, most)
    assert (np.abs(expected) == most).any() and (np.abs(expected) < 2**16).mean() > 0.5
    _, found = _compute(device, acc, m0, t, {"VEC": lanes, "ROUND_SINGLE": 1, "STORED": 1},
                        tmp_path, monkeypatch)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rounding", ["once", "twice", "upward", "single"])
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_million(device, rounding, lanes, tmp_path, monkeypatch):
    acc, m0, t = _cases(np.random.default_rng(lanes))
    if rounding == "single":
        acc[0] = 2**30  # 2^31 - 1 becomes 2^31 in fp32
    expected = requantize(acc.astype(np.int64), m0, t, rounding)
    if rounding == "once":  # the definition, in whole numbers
        exact = [(int(a) * int(m) + (1 << int(s) - 1)) >> int(s)
                 for a, m, s in zip(acc[:20000], m0[:20000], t[:20000])]
        assert np.array_equal(expected[:20000], exact)
        real = acc.astype(np.float64) * m0 * np.exp2(-t.astype(np.float64))
        assert np.abs(expected - real).max() <= 0.5 + 1e-6
    defines = {"VEC": lanes} | ({} if rounding == "once" else {f"ROUND_{rounding.upper()}": 1})
    for found in _compute(device, acc, m0, t, defines, tmp_path, monkeypatch):
        wrong = np.flatnonzero(found != expected)
        assert not len(wrong), (len(wrong), acc[wrong[0]], m0[wrong[0]], t[wrong[0]],
                                found[wrong[0]], expected[wrong[0]])


def test_fixed_point():
    real = np.exp2(np.random.default_rng(0).uniform(-32, 29, 10000))
    m0, t = fixed_point(real)
    assert m0.min() >= 2**30 and t.min() >= 1 and t.max() <= 62
    assert np.abs(m0 * np.exp2(-t.astype(np.float64)) / real - 1).max() <= 2.0**-31
    short, _ = fixed_point(real, "short")
    assert not np.any(short & 0xFFFF)
    single, t = fixed_point(real, "single")
    assert np.array_equal(np.ldexp(single.astype(np.float64), -t.astype(np.int32)),
                          real.astype(np.float32))
    assert fixed_point(2.0**-40)[0] == 0
    assert fixed_point(1e-60, "single")[0] == 0, "fp32 holds no such number"
    for bad in (0.0, -1.0, np.nan, np.inf, 2.0**31, 1e60):
        for rounding in ("once", "single"):
            with pytest.raises(ValueError):
                fixed_point(bad, rounding)
