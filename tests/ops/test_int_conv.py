"""conv2d and dense over integers: equal to NumPy, bit for bit, in every way to sum products."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS, Facts
from edgerun.quantization import Quantization, fixed_point
from edgerun.tools.graph import Graph
from tests.harness import Const, Quantized, check_integer

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def pads(*sizes):
    return dict(zip(PADS, sizes))


def integers(rng, shape, dtype):
    """Return every value of a dtype that kernels may meet, the ends more often."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.1, rng.choice([info.min, info.max], shape),
                    values).astype(dtype)


def multipliers(rng, terms, x_top, w_top, y_top, out_c, rounding="once"):
    """Return m0 and t with which sums of that many products spread over the range of y."""
    spread = terms ** 0.5 * x_top * w_top / 3 / y_top
    return fixed_point(rng.uniform(0.5, 2, out_c) / spread, rounding)


def check(device, x, w, *, seed=0, dtypes=("uint8", "int8"), zero_x=None, zero_w=0, zero_y=100,
          rounding="once", bias=True, code="conv2d", values=integers, **options):
    """Check random integers of the shapes x and w, y like x."""
    rng = np.random.default_rng(seed)
    xs, ws = values(rng, x, dtypes[0]), values(rng, w, dtypes[1])
    out_c, terms = w[0], int(np.prod(w[1:]))
    wide = options.get("wide", False)
    short = dtypes[0] == "int16"
    zero_x, zero_y = (0, 0) if short else (77 if zero_x is None else zero_x, zero_y)
    ws = np.maximum(ws, -np.iinfo(ws.dtype).max)
    if short and not wide:  # the lowering rule keeps such sums within 32 bits
        ws = (ws // max(1, int(np.abs(ws.astype(np.int64)).reshape(out_c, -1).sum(1).max() * 2**15
                               // 2**30) + 1)).astype(ws.dtype)
    centred = ws.astype(np.int64) - zero_w
    start = rng.integers(-1000, 1000, out_c) * (2**24 if wide else 1) - zero_x * centred.reshape(
        out_c, -1).sum(1)
    start = np.stack([start >> 16, start & 0xFFFF]) if wide else start
    m0, t = multipliers(rng, terms, 2**15 if short else 128, max(1, np.abs(centred).max()),
                        2**15 if short else 128, out_c, rounding)
    return check_integer(device, code, [
        Quantized(xs, 0.1, zero_x), Const(ws, Quantization.per_tensor(0.1, zero_w)),
        Const(start.astype(np.int32)) if bias else None, None, None, Const(m0), Const(t)],
        dtypes[0], Quantization.per_tensor(0.5, zero_y, rounding), **options)


DOTS = ("plain", "float", "khr", "vnni")


@pytest.fixture(params=DOTS)
def dot(request, device, monkeypatch):
    """Every way to sum products that the device has."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, dot=request.param))


@pytest.mark.parametrize("in_c", [1, 3, 4, 7, 32, 37])
@pytest.mark.parametrize("out_c", [1, 11, 16, 50])
def test_channels(device, dot, in_c, out_c):
    """Every kind of last block and last word."""
    check(device, (1, 5, 7, in_c), (out_c, 3, 3, in_c), **pads(1, 1, 1, 1))
