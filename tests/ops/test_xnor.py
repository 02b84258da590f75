"""binarize, xnor_conv2d and xnor_dense: equal to NumPy, bit for bit."""
from __future__ import annotations

import re

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import _tile
from edgerun.ops._base import Variant
from edgerun.tools import reference as every
from edgerun.tools.graph import Graph
from edgerun.tools.reference import planes as reference
from tests.harness import compare, run_guarded, session_of

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def pads(*sizes):
    return dict(zip(PADS, sizes))


def check(device, x, out_c, *, code="xnor_conv2d", kernel=(3, 3), y="fp32", seed=0, **options):
    """Check binarize and a layer of one bit behind it, random numbers of the shape x."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=x).astype(np.float32)
    xs[rng.random(x) < 0.1] = 0
    taps = 1
    if code == "xnor_conv2d":
        options |= {"kernel_h": kernel[0], "kernel_w": kernel[1]}
        taps = kernel[0] * kernel[1]
    w = reference.words(rng.random((out_c, taps, x[-1])) < 0.5).reshape(out_c, -1)
    levels = rng.normal(size=(2, out_c)).astype(np.float32)

    def build() -> Graph:
        graph = Graph("test")
        bits = graph.add("binarize", [graph.input("x", x, "fp32")])
        found = graph.add(code, [bits, graph.constant(w, "w", "bits"), graph.constant(levels)],
                          channels=x[-1], **options)
        graph.output("y", found, "fp32")
        return graph

    expected = every.execute(build(), {"x": xs})["y"]
    with session_of(device, build(), y) as session:
        found = run_guarded(session, {"x": xs})["y"]
    if y == "fp16":
        compare(found, expected, 2e-3, code)
    else:
        compare(found, expected, 0 if not options.get("activation") else 1e-6, code)


@pytest.fixture
def small(monkeypatch):
    """One small tile for all shapes: every other one is a program to compile."""
    monkeypatch.setattr(_tile, "choose", lambda key, facts: Variant.of(P=2, VEC=8, tiles=2))


@pytest.mark.parametrize("channels, out_c", [(1, 1), (31, 11), (32, 16), (33, 50), (64, 7),
                                             (100, 33)])
def test_channels(device, small, channels, out_c):
    check(device, (1, 5, 7, channels), out_c, **pads(1, 1, 1, 1))
    check(device, (3, channels), out_c, code="xnor_dense")


@pytest.mark.parametrize("options", [
    {}, {"stride_h": 2, "stride_w": 3}, {"dilation_h": 2, "dilation_w": 3},
    {"stride_h": 3, "dilation_w": 2}])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 3, 1, 0), (5, 0, 0, 7)])
def test_windows(device, small, options, padding):
    check(device, (2, 13, 14, 40), 18, kernel=(3, 2), **options, **pads(*padding))


@pytest.mark.parametrize("y", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"activation": "tanh"}])
def test_outputs(device, small, y, options):
    check(device, (2, 70), 21, code="xnor_dense", y=y, **options)


@pytest.mark.parametrize("code, x, out_c, options", [
    ("xnor_dense", (1, 800), 500, {}), ("xnor_conv2d", (1, 12, 12, 20), 50, {"kernel": (5, 5)}),
    ("xnor_conv2d", (1, 14, 14, 128), 128, pads(1, 1, 1, 1))])
def test_real_layers(device, code, x, out_c, options):
    """The tiles that the device gets."""
    check(device, x, out_c, code=code, **options)


def test_binarize(device):
    """Zeros count as positive, also negative ones; NaN does not. All ends of a row of words."""
    for channels in (1, 7, 8, 31, 32, 33, 77):
        x = np.random.default_rng(channels).normal(size=(3, channels)).astype(np.float32)
        x.flat[:3] = 0.0, -0.0, -1.0
        assert np.array_equal(reference.bits_of(reference.words(x >= 0), channels), x >= 0)
        check(device, (3, channels), 5, code="xnor_dense", seed=channels)


def layer(code="xnor_dense", *, x=(2, 3), x_dtype="bits", w=(21, 3), w_dtype="bits",
          levels=(2, 21), **options):
    """Build an op of some operands."""
    graph = Graph("test")
    bits = graph.input("x", x, "int32")
    bits.dtype = x_dtype
    words = np.zeros(w, np.uint32 if w_dtype == "bits" else np.int32)
    return graph.add(code, [bits, graph.constant(words, "w", w_dtype),
                            graph.constant(np.zeros(levels, np.float32))],
                     **{"channels": 70, **options})


IMAGE = {"code": "xnor_conv2d", "x": (1, 5, 5, 3), "w": (21, 18), "kernel_h": 3, "kernel_w": 2}


def test_accepted():
    assert layer().shape == (2, 21) and layer(**IMAGE).shape == (1, 3, 4, 21)


@pytest.mark.parametrize("options, message", [
    ({"x_dtype": "int32"}, "is int32, needed bits"),
    ({"w_dtype": "int32"}, "is int32, needed bits"),
    ({"channels": 0}, "which do not take the 3 words"), ({"channels": 97}, "which do not take"),
    ({"w": (21, 4)}, "needed (21, 3)"), ({"levels": (2, 20)}, "needed (2, 21)"),
    ({"w": (63,)}, "needed 2 dimensions"), ({"activation": "no"}, "unknown activation"),
    ({**IMAGE, "groups": 3}, "has 3 groups, needed 1"), ({**IMAGE, "kernel_h": 6}, "does not fit"),
    ({**IMAGE, "kernel_w": 3}, "needed (21, 27)"), ({**IMAGE, "x": (5, 5, 3)}, "4 dimensions")])
def test_refused(options, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        layer(**options)


def test_binarize_refuses():
    graph = Graph("test")
    with pytest.raises(ModelError, match="is int32, needed fp32 or fp16"):
        graph.add("binarize", [graph.input("x", (2, 3), "int32")])
    with pytest.raises(ModelError, match="is a scalar"):
        graph.add("binarize", [graph.input("s", (), "fp32")])
