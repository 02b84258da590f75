"""planes_conv2d and planes_dense: equal to NumPy for any number of planes, decoded and counted."""
from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun import loader
from edgerun.errors import ModelError
from edgerun.ops import _tile, planes
from edgerun.ops._base import Variant
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.tools.graph import Graph
from edgerun.tools.pack import Stages
from edgerun.tools.planes import cut
from edgerun.tools.planes.integers import bounds
from edgerun.tools.reference import execute
from edgerun.tools.reference import planes as reference
from tests.harness import Const, Quantized, check_integer, run_guarded

PADS = ("pad_top", "pad_left", "pad_bottom", "pad_right")


def pads(*sizes):
    return dict(zip(PADS, sizes))


def codes(rng, shape, signs, number):
    """Return integers of all magnitudes that so many planes hold."""
    bits = max(number - reference.SIGN_PLANE[signs], 0)
    if signs == "powers":
        e = rng.integers(0, min(2**bits, 9), shape)
        return rng.choice([-1, 1], shape) * (2**e // 2)
    low, high = ((-2**(bits - 1), 2**(bits - 1) - 1) if signs == "twos" and bits
                 else (1 - 2**bits, 2**bits - 1))
    return np.where(rng.random(shape) < 0.1, rng.choice([low, high], shape),
                    rng.integers(low, high + 1, shape))


def check(device, x, out_c, *, signs="twos", planes=4, used=None, dtype="uint8", zero=0,
          y="uint8", rows=None, terms=3, seed=0, code="planes_conv2d", kernel=(3, 3), groups=1,
          **options):
    """Check random integers of the shape x with so many planes."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    xs = rng.integers(info.min, info.max + 1, x).astype(dtype)
    k = x[-1]
    if code == "planes_conv2d":
        k = kernel[0] * kernel[1] * x[-1] // groups
        options |= {"kernel_h": kernel[0], "kernel_w": kernel[1], "groups": groups}
    stored = reference.encode(codes(rng, (out_c, k), signs, planes), signs, planes)
    rows = planes + 1 if rows is None else rows
    spread = k**0.5 * (info.max - info.min) * 2.0**planes / 2
    levels = rng.uniform(0.5, 2, (rows, terms, out_c)) * np.array(
        [1 / spread, *[1 / spread] * (terms - 2), 1])[:, None] * (100 if y == "uint8" else 10_000)
    quantization = Quantization.per_tensor(0.5, 100 if y == "uint8" else -77)
    real = y in ("fp32", "fp16")
    used = planes if used is None else used
    return check_integer(
        device, code, [Quantized(xs, 0.1, zero), Const(levels.astype(np.float32)),
                       np.array([used], np.int32),
                       *(Const(plane, None, "bits") for plane in stored)],
        "" if real else y, None if real else quantization, 2e-3 if y == "fp16" else 1e-6,
        "fp16" if y == "fp16" else "fp32", signs=signs, **options)


@pytest.fixture(params=["decode", "count"])
def way(request, monkeypatch):
    """Both kernels, in one small tile for all shapes: every other one is a program to compile."""
    count, choose = int(request.param == "count"), _tile.choose
    monkeypatch.setattr(_tile, "choose", lambda key, facts: choose(key, facts)
                        if key.entry != "planes" else Variant.of(
                            P=2, VEC=8, tiles=2, count=max(count, int(not _tile._decodes(key)))))


SIGNS = [("twos", 8), ("twos", 3), ("magnitude", 9), ("magnitude", 5), ("pairs", 8), ("pairs", 2),
         ("powers", 5), ("powers", 3)]


@pytest.mark.parametrize("signs, planes", SIGNS)
@pytest.mark.parametrize("dtype, zero", [("uint8", 0), ("uint8", 77), ("int16", 0)])
def test_every_number_of_planes(device, way, signs, planes, dtype, zero):
    for used in range(planes + 1):
        check(device, (2, 70), 21, code="planes_dense", signs=signs, planes=planes, used=used,
              dtype=dtype, zero=zero, y=dtype)


@pytest.mark.parametrize("signs, planes", SIGNS)
def test_levels_without_offsets(device, way, signs, planes):
    """The offset is the mean of what planes leave out."""
    for used in range(planes + 1):
        check(device, (2, 70), 21, code="planes_dense", signs=signs, planes=planes, used=used,
              zero=77, terms=2)
    check(device, (1, 5, 6, 6), 38, signs=signs, planes=planes, used=1, terms=2, groups=2)


@pytest.mark.parametrize("signs", ["twos", "magnitude", "pairs"])
def test_the_mean_of_what_planes_leave_out(signs):
    """Of all codes that there are."""
    low, high = bounds(5, signs)
    every = np.arange(low, high + 1)
    for t in range(1 + (signs == "magnitude"), 6):
        left = every / 2**(5 - t) - cut(every, 5, t, signs)
        assert planes.middle(signs, 5, t) == pytest.approx(left.mean(), abs=1e-12)


@pytest.mark.parametrize("in_c, out_c", [(1, 1), (3, 11), (31, 16), (32, 50), (33, 17), (64, 7)])
def test_channels(device, way, in_c, out_c):
    """Every kind of last block and last word; whole words of a tap, and taps that share words."""
    check(device, (1, 5, 7, in_c), out_c, zero=9, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("options, padding", [
    ({"stride_h": 2, "stride_w": 3}, (0, 0, 0, 0)), ({"stride_h": 2}, (2, 3, 1, 0)),
    ({"dilation_h": 2, "dilation_w": 3}, (5, 0, 0, 7)), ({"stride_h": 3, "dilation_w": 2},
                                                         (2, 3, 1, 0))])
@pytest.mark.parametrize("in_c", [5, 32])
def test_windows(device, way, options, padding, in_c):
    check(device, (2, 13, 14, in_c), 18, kernel=(3, 2), zero=9, **options, **pads(*padding))


@pytest.mark.parametrize("groups, in_c, out_c", [(2, 4, 8), (3, 32, 5), (7, 2, 17), (2, 40, 16)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_groups(device, way, groups, in_c, out_c, kernel):
    padding = pads(1, 1, 1, 1) if kernel == (3, 3) else {}
    check(device, (2, 6, 5, groups * in_c), groups * out_c, groups=groups, kernel=kernel,
          **padding)


@pytest.mark.parametrize("x, kernel, options", [
    ((1, 6, 5, 70), (1, 1), {}), ((1, 6, 5, 64), (1, 1), {"stride_h": 2, "stride_w": 2}),
    ((1, 6, 5, 6), (1, 1), {"stride_h": 2}), ((1, 6, 5, 6), (1, 1), pads(1, 0, 0, 2)),
    ((1, 5, 4, 3), (5, 4), {})])
def test_kernels_of_one_tap_and_of_the_whole_image(device, way, x, kernel, options):
    check(device, x, 19, kernel=kernel, zero=9, **options)


def test_pieces(device, way, monkeypatch):
    """Patches of more pixels than exist at once."""
    monkeypatch.setattr(planes, "LEAST_PIECE", 7)
    monkeypatch.setattr(planes, "PIECE_BYTES", 0)
    check(device, (2, 6, 5, 3), 19, zero=9, **pads(1, 1, 1, 1))


@pytest.mark.parametrize("dtype, y, options", [
    ("uint8", "fp16", {}), ("uint8", "int16", {"activation": "relu"}),
    ("int16", "uint8", {"activation": "clip", "alpha": -2.0, "beta": 3.0}),
    ("int16", "fp32", {"activation": "clip", "alpha": -2.0, "beta": 3.0}),
    ("uint8", "fp32", {"activation": "tanh"})])
def test_outputs(device, way, dtype, y, options):
    check(device, (3, 40), 21, code="planes_dense", y=y, dtype=dtype, **options)


@pytest.mark.parametrize("counts, rows", [((), 1), ((), 3), ((), 5), ((0, 2, 4), 3), ((3,), 1)])
@pytest.mark.parametrize("used", [-3, 0, 1, 3, 4, 100])
def test_levels_of_some_numbers_of_planes(device, way, counts, rows, used):
    """A number of planes without levels counts as the next one below that has some."""
    check(device, (2, 40), 21, code="planes_dense", rows=rows, used=used, counts=counts)


@pytest.mark.parametrize("code, x", [("planes_dense", (2, 5)), ("planes_conv2d", (1, 4, 4, 3))])
def test_no_planes(device, way, code, x):
    check(device, x, 21, code=code, planes=0)


@pytest.mark.parametrize("code, x, out_c, planes_, zero, options", [
    ("planes_dense", (1, 784), 512, 4, 0, {}), ("planes_dense", (1, 784), 512, 8, 128, {}),
    ("planes_dense", (30, 300), 130, 8, 0, {}),
    ("planes_conv2d", (1, 14, 14, 64), 64, 4, 0, {**pads(1, 1, 1, 1), "activation": "relu"}),
    ("planes_conv2d", (1, 28, 28, 1), 20, 8, 0, {"kernel": (5, 5), **pads(2, 2, 2, 2)})])
def test_real_layers(device, code, x, out_c, planes_, zero, options):
    """The tiles that the device gets."""
    check(device, x, out_c, code=code, planes=planes_, zero=zero, **options)


def test_views(device):
    """Channels cut out of pixels of x, and outputs that are channels of others' pixels."""
    rng = np.random.default_rng(0)
    grid = Quantization.per_tensor(0.5, 3)

    def build() -> Graph:
        rng, graph = np.random.default_rng(1), Graph("views")
        x = graph.input("x", (2, 5, 6, 50), "uint8")
        x.quantization = grid
        parts = []
        for first, channels, kernel in ((7, 32, 3), (3, 37, 1), (11, 5, 3)):
            part = graph.add("slice", [x], starts=(0, 0, 0, first), steps=(1, 1, 1, 1),
                             sizes=(2, 5, 6, channels))
            stored = reference.encode(rng.integers(-8, 8, (80, kernel * kernel * channels)),
                                      "twos", 4)
            levels = rng.uniform(-1e-3, 1e-3, (5, 3, 80)).astype(np.float32)
            y = graph.add("planes_conv2d", [
                part, graph.constant(levels), graph.constant(np.array([3], np.int32)),
                *(graph.constant(plane, "w", "bits") for plane in stored)], signs="twos",
                kernel_h=kernel, kernel_w=kernel, **dict.fromkeys(PADS, kernel // 2))
            y.dtype, y.quantization = "uint8", grid
            parts.append(y)
        graph.output("y", graph.add("concat", parts, quantization=grid, axis=3))
        return graph

    x = rng.integers(0, 256, (2, 5, 6, 50)).astype(np.uint8)
    expected = execute(build(), {"x": x})["y"]
    data, _ = Stages(build()).encode("fp32", "int8", integers=True)
    model = loader.from_bytes(np.frombuffer(data, np.uint8), "test")
    layers = [op for op in model.ops if op.code == "planes_conv2d"]
    assert any(op.inputs[0].pitch for op in layers) and any(op.outputs[0].pitch for op in layers)
    with Session(model, device) as session:
        assert np.array_equal(run_guarded(session, {"x": x})["y"], expected)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_decode_reverses_encode(data):
    signs = data.draw(st.sampled_from(sorted(planes.MOST)))
    number = data.draw(st.integers(0, planes.MOST[signs]))
    out_c, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70))
    q = codes(np.random.default_rng(data.draw(st.integers(0, 1000))), (out_c, k), signs, number)
    stored = reference.encode(q, signs, number)
    assert len(stored) == number * (2 if signs == "pairs" else 1)
    assert all(p.shape == (out_c, -(-k // 32)) and p.dtype == np.uint32 for p in stored)
    assert all(not p[:, -1:].any() >> k % 32 for p in stored if k % 32)
    assert np.array_equal(reference.decode(stored, signs, k, out_c), q)
    t = data.draw(st.integers(0, number))  # a prefix is the integer without its low bits
    if signs != "powers":
        found = reference.decode(stored[:t * len(stored) // max(number, 1)], signs, k, out_c)
        assert np.array_equal(found, cut(q, number, t, signs))


def test_codes_that_do_not_fit():
    for signs, number, q in (("twos", 4, 8), ("twos", 4, -9), ("magnitude", 4, 8), ("pairs", 2, -4),
                             ("twos", 0, 1), ("powers", 5, 3), ("powers", 5, 256),
                             ("powers", 3, -8)):
        with pytest.raises(ValueError, match="codes from"):
            reference.encode(np.array([[0, q]]), signs, number)


def layer(code="planes_dense", *, x=(2, 40), dtype="uint8", zero=0, levels=(5, 3, 21), used=(1,),
          used_dtype="int32", shape=(21, 2), number=4, plane_dtype="bits", y="fp32", **options):
    """Build an op of some operands."""
    graph = Graph("test")
    found = graph.input("x", x, dtype)
    if dtype != "fp32":
        found.quantization = Quantization.per_tensor(1.0, zero)
    operands = [found, graph.constant(np.zeros(levels, np.float32)),
                graph.input("used", used, used_dtype)]
    operands += [graph.constant(np.zeros(shape, np.uint32 if plane_dtype == "bits" else np.int32),
                                f"p{k}", plane_dtype) for k in range(number)]
    return graph.add(code, operands, **{"signs": "twos", **options})


IMAGE = {"code": "planes_conv2d", "x": (1, 5, 5, 4), "shape": (21, 2), "kernel_h": 3,
         "kernel_w": 3}


@pytest.mark.parametrize("options, message", [
    ({"dtype": "fp32"}, "is fp32, needed uint8 or int16"),
    ({"dtype": "int16", "zero": 5}, "needed 0 of int16"),
    ({"signs": "ones"}, "needed one of twos"), ({"signs": None}, "needed one of twos"),
    ({"number": 9, "levels": (10, 3, 21)}, "has 9 planes"),
    ({"number": 3, "signs": "pairs"}, "as many positive as negative"),
    ({"shape": (21, 3)}, "needed (21, 2)"), ({"shape": (20, 2)}, "needed (21, 2)"),
    ({"plane_dtype": "int32"}, "is int32, needed bits"),
    ({"levels": (6, 3, 21)}, "has 6 rows"), ({"levels": (5, 1, 21)}, "needed (planes, 3 or 2"),
    ({"levels": (5, 4, 21)}, "needed (planes, 3 or 2"),
    ({"counts": (1, 2)}, "has 5 rows"), ({"counts": (0, 1, 2, 3, 5)}, "from 0 to 4"),
    ({"counts": (0, 2, 1, 3, 4)}, "ascending"),
    ({"used": (2,)}, "needed (1,)"), ({"used_dtype": "fp32"}, "is fp32, needed int32"),
    ({"x": (2, 65_536), "shape": (21, 2048)}, "too many for 32 bits"),
    ({"activation": "no"}, "unknown activation"),
    ({**IMAGE, "groups": 3}, "do not divide"), ({**IMAGE, "groups": 0}, "do not divide"),
    ({**IMAGE, "kernel_h": 0}, "does not fit"), ({**IMAGE, "kernel_h": 6}, "does not fit"),
    ({**IMAGE, "x": (5, 5, 4)}, "needed 4 dimensions")])
def test_refused(options, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        layer(**options)
