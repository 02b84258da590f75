"""conv2d and dense over integers: equal to NumPy, bit for bit, in every way to sum products."""
from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerun import dots
from edgerun.errors import DeviceError, ModelError
from edgerun.ops import OPS, Facts, _tile
from edgerun.ops._base import Variant
from edgerun.quantization import Quantization, fixed_point
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.lower import weighted
from tests.harness import Const, Quantized, check_integer, run_guarded, session_of

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


def use(device, monkeypatch, dot, tile=(3, 2, 8, 2)):
    """Sum products in a certain way, in so many tiles of P pixels x NV vectors x VEC lanes.

    One small tile for all shapes: every other one is another program to compile.
    """
    if not dots.has(device, dot):
        pytest.skip(f"{device.info.name} of {device.info.platform} has no {dot} products")
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, dot=dot))
    if tile:
        small = Variant.of(**dict(zip(("P", "NV", "VEC", "tiles"), tile)))
        monkeypatch.setattr(_tile, "choose", lambda *_: small)


@pytest.fixture(params=["plain", "float", "khr", "vnni", "madd"])
def dot(request, device, monkeypatch):
    """Every way to sum products of uint8 that the device has."""
    use(device, monkeypatch, request.param)


@pytest.fixture(params=["plain", "vnni", "madd"])
def dot16(request, device, monkeypatch):
    """Every way to sum products of int16 that the device has."""
    use(device, monkeypatch, request.param)


@pytest.fixture
def tiled(device, monkeypatch):
    """The small tile, and how the device itself sums."""
    use(device, monkeypatch, dots.choose(device))


@pytest.mark.parametrize("in_c", [1, 3, 4, 7, 32, 37])
@pytest.mark.parametrize("out_c", [1, 11, 16, 50])
def test_channels(device, dot, in_c, out_c):
    """Every kind of last block and last word."""
    check(device, (1, 5, 7, in_c), (out_c, 3, 3, in_c), **pads(1, 1, 1, 1))


@pytest.mark.parametrize("name", ["plain", "float", "khr", "vnni", "madd"])
@pytest.mark.parametrize("out_c", [3, 7, 16, 35, 64])
def test_tiles(device, monkeypatch, name, out_c):
    """The tiles that the device gets."""
    use(device, monkeypatch, name, None)
    check(device, (1, 9, 7, 6), (out_c, 3, 3, 6), **pads(1, 1, 1, 1))


@pytest.mark.parametrize("options", [
    {}, {"stride_h": 2, "stride_w": 3}, {"dilation_h": 2, "dilation_w": 3},
    {"stride_h": 3, "dilation_w": 2}])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 3, 1, 0), (5, 0, 0, 7)])
def test_windows(device, dot, options, padding):
    check(device, (2, 13, 14, 5), (18, 3, 2, 5), **options, **pads(*padding))


@pytest.mark.parametrize("groups, in_c, out_c", [(2, 8, 16), (3, 5, 4), (5, 1, 1), (7, 2, 17)])
def test_groups(device, dot, groups, in_c, out_c):
    check(device, (2, 6, 5, groups * in_c), (groups * out_c, 3, 3, in_c), groups=groups,
          **pads(1, 1, 1, 1))


@pytest.mark.parametrize("in_c", [8, 6])
def test_rows_of_taps_inside_the_image(device, dot, in_c):
    """Wide rows: the taps of a whole tile are one run of channels if these fill whole words."""
    check(device, (1, 4, 40, in_c), (24, 3, 3, in_c), **pads(1, 1, 1, 1))


@pytest.mark.parametrize("x, w, options", [
    ((1, 14, 14, 128), (64, 3, 3, 128), pads(1, 1, 1, 1)),
    ((1, 32, 32, 3), (16, 3, 3, 3), {"stride_h": 2, "stride_w": 2, **pads(0, 0, 1, 1)})])
def test_real_layers(device, monkeypatch, x, w, options):
    use(device, monkeypatch, dots.choose(device), None)
    check(device, x, w, activation="relu", **options)


def ends(rng, shape, dtype):
    """Return only the ends of a dtype."""
    info = np.iinfo(dtype)
    return rng.choice([info.min, info.max], shape).astype(dtype)


def top(rng, shape, dtype):
    """Return the value of each dtype that makes products largest."""
    return np.full(shape, np.iinfo(dtype).max, dtype)


@pytest.mark.parametrize("values", [ends, top])
@pytest.mark.parametrize("zero", [0, 255])
def test_extremes(device, dot, values, zero):
    """More than 512 products of 255 * 127 each: where fp32 would round."""
    check(device, (1, 3, 5, 150), (17, 3, 3, 150), values=values, zero_x=zero, zero_y=zero,
          **pads(1, 1, 1, 1))


@pytest.mark.parametrize("in_c", [3, 16, 37])
@pytest.mark.parametrize("zero_w", [-128, 3, 127])
def test_zero_point_of_weights(device, dot, in_c, zero_w):
    """Weights of old uint8 models."""
    check(device, (1, 6, 9, in_c), (20, 3, 3, in_c), zero_w=zero_w, **pads(1, 1, 1, 1))


def test_zero_point_of_many_weights(device, dot):
    """What the zero point takes away is far more than 16 bits."""
    found = check(device, (1, 4, 5, 75), (20, 3, 3, 75), zero_x=190, zero_w=-40, values=high,
                  **pads(1, 1, 1, 1))
    assert len(np.unique(found)) > 100, "most sums are beyond what y holds"


def high(rng, shape, dtype):
    """Return bytes of the upper half, and weights of all sizes."""
    low, top = (128, 255) if dtype == "uint8" else (-127, 127)
    return rng.integers(low, top + 1, shape).astype(dtype)


@pytest.mark.parametrize("rounding", ["once", "twice", "upward"])
@pytest.mark.parametrize("options", [
    {}, {"activation": "relu"}, {"activation": "clip", "alpha": -3.0, "beta": 11.0}])
@pytest.mark.parametrize("bias", [False, True])
def test_rounding_and_clamps(device, tiled, rounding, options, bias):
    check(device, (1, 4, 7, 16), (19, 1, 1, 16), rounding=rounding, bias=bias, **options)


@pytest.mark.parametrize("rows", [(), (1,), (3, 5)])
@pytest.mark.parametrize("in_c, out_c", [(1, 1), (5, 17), (130, 64)])
def test_dense(device, dot, rows, in_c, out_c):
    check(device, (*rows, in_c), (out_c, in_c), code="dense")


@pytest.mark.parametrize("w_dtype, wide", [
    ("int8", False), ("int16", False), ("int8", True), ("int16", True)])
@pytest.mark.parametrize("in_c, out_c", [(1, 3), (3, 16), (6, 20), (70, 35)])
@pytest.mark.parametrize("rounding", ["once", "short"])
def test_int16(device, dot16, w_dtype, wide, in_c, out_c, rounding):
    options = {"wide": True} if wide else {}
    check(device, (2, 5, 6, in_c), (out_c, 3, 2, in_c), dtypes=("int16", w_dtype),
          rounding=rounding, stride_w=2, **pads(1, 1, 0, 1), **options)


@pytest.mark.parametrize("values", [ends, top])
@pytest.mark.parametrize("w_dtype", ["int8", "int16"])
def test_int16_extremes(device, dot16, w_dtype, values):
    """Sums far beyond 32 bits, one run of channels longer than a chunk."""
    for seed in range(2):
        check(device, (1, 3, 9, 602), (16, 1, 3, 602), seed=seed, dtypes=("int16", w_dtype),
              values=values, wide=True)


@pytest.mark.parametrize("w_dtype, largest, chunk", [("int8", 60, 273), ("int16", 300, 109)])
def test_int16_chunks(device, dot16, w_dtype, largest, chunk):
    """The longest chunks that such weights allow; products of one sign, as large as can be."""
    def alike(rng, shape, dtype):
        if dtype == w_dtype and len(shape) == 4 and shape[0] == 16:
            return np.full(shape, largest, dtype)
        row = np.where(np.arange(shape[-1]) % 600 < 590, -2**15, 2**15 - 1)
        return np.broadcast_to(row, shape).astype(dtype)
    check(device, (1, 3, 9, 602), (16, 1, 3, 602), dtypes=("int16", w_dtype), values=alike,
          wide=True, chunk=chunk)


@pytest.mark.parametrize("dtype, word", [("int8", 4), ("int16", 2)])
def test_chunk_of(dtype, word):
    """Every window of as many words fits, and one of the next length does not."""
    rng = np.random.default_rng(3)
    w = (integers(rng, (5, 3, 3, 150), dtype) // (1 if dtype == "int8" else 40)).astype(dtype)
    chunk = weighted.chunk_of(Tensor("w", w.shape, dtype, w))
    padded = np.pad(np.abs(w.astype(np.int64)), ((0, 0), (0, 0), (0, 0), (0, -150 % word)))
    words = padded.reshape(5, -1, word).sum(2)

    def largest(n):
        return max(words[:, at:at + n].sum(1).max() for at in range(words.shape[1] - n + 1))
    assert 1 < chunk < words.shape[1]
    assert largest(chunk) * 2**15 <= 2**31 - 2**16 < largest(chunk + 1) * 2**15


def test_int16_twice(device, tiled):
    check(device, (1, 4, 6, 9), (16, 3, 3, 9), dtypes=("int16", "int8"), rounding="twice")


def test_int16_dense(device, dot16):
    for options in {}, {"wide": True}:
        check(device, (7, 33), (18, 33), dtypes=("int16", "int16"), code="dense", **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("dtypes, wide, activation", [
    (("uint8", "int8"), False, ""), (("uint8", "int8"), False, "hard_swish"),
    (("int16", "int8"), False, "relu"), (("int16", "int16"), True, "relu")])
def test_real_output(device, tiled, dtypes, wide, activation, precision):
    """Form (b): acc * scale, one rounding each; exact where nothing but a clamp follows."""
    rng = np.random.default_rng(5)
    x, w = integers(rng, (1, 5, 6, 10), dtypes[0]), integers(rng, (21, 3, 3, 10), dtypes[1])
    w = np.maximum(w, -np.iinfo(w.dtype).max)
    bias = rng.integers(-2**20, 2**20, 21) * (2**15 if wide else 1)
    if wide:
        bias = np.stack([bias >> 16, bias & 0xFFFF])
    scale = rng.uniform(1, 2, 21) / (2.0**(15 if dtypes[0] == "int16" else 8)
                                     * 2.0**(15 if dtypes[1] == "int16" else 7))
    check_integer(
        device, "conv2d",
        [Quantized(x, 0.1, 9 if dtypes[0] == "uint8" else 0), Const(w),
         Const(bias.astype(np.int32)), None, None, Const(scale.astype(np.float32))],
        tolerance=2e-3 if precision == "fp16" else 1e-6 if activation == "hard_swish" else 0,
        precision=precision, activation=activation, **pads(1, 1, 1, 1),
        **({"wide": True} if wide else {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("w_dtype", ["int8", "int16"])
@pytest.mark.parametrize("in_c, out_c, groups", [(1, 3, 1), (3, 16, 1), (5, 4, 3), (70, 35, 1)])
def test_weights_only(device, tiled, w_dtype, in_c, out_c, groups, precision):
    """Form (c), with and without bias and residual."""
    rng = np.random.default_rng(6)
    w = Const(integers(rng, (groups * out_c, 3, 2, in_c), w_dtype))
    scale = Const(rng.uniform(0.5, 1, groups * out_c).astype(np.float32)
                  / np.float32(np.iinfo(w_dtype).max * in_c ** 0.5))
    x = rng.uniform(-1, 1, (2, 4, 6, groups * in_c)).astype(np.float16).astype(np.float32)
    residual = rng.uniform(-1, 1, (2, 4, 6, groups * out_c)).astype(np.float16).astype(np.float32)
    bias = Const(rng.uniform(-1, 1, groups * out_c).astype(np.float32))
    for inputs in ([x, w, None, None, None, scale], [x, w, bias, residual, None, scale]):
        check_integer(device, "conv2d", inputs, tolerance=2e-3 if precision == "fp16" else 1e-5,
                      precision=precision, activation="relu", groups=groups, **pads(1, 0, 1, 1))


def test_what_fills_up_words_is_not_multiplied(device):
    """An infinity behind the last channel of a pixel stays out of its sum, where it met a 0."""
    graph = Graph("test")
    x = graph.add("unary", [graph.input("x", (1, 1, 2, 3), "fp32")], kind="exp")
    graph.output("y", graph.add("conv2d", [
        x, graph.constant(np.ones((4, 1, 1, 3), np.int8)), None, None, None,
        graph.constant(np.ones(4, np.float32))], "y"))
    logs = np.zeros((1, 1, 2, 3), np.float32)
    logs[0, 0, 1] = 1000
    with session_of(device, graph) as session:
        found = run_guarded(session, {"x": logs})["y"]
    assert np.array_equal(found[0, 0], [[3] * 4, [np.inf] * 4])


def test_weights_only_dense(device):
    rng = np.random.default_rng(7)
    for rows in (1, 9):
        check_integer(device, "dense", [
            rng.uniform(-1, 1, (rows, 53)).astype(np.float32),
            Const(integers(rng, (37, 53), "int8")), None, None, None,
            Const(np.full(37, 1e-3, np.float32))], tolerance=1e-5)


@pytest.mark.parametrize("facts", [Facts("gpu", 4), Facts("cpu", 4), Facts("cpu", 8)])
def test_as_on_other_devices(device, monkeypatch, facts):
    """The tiles of devices that are not here."""
    monkeypatch.setattr(device, "facts", facts)
    check(device, (2, 6, 7, 35), (19, 3, 3, 35), **pads(1, 1, 1, 1))
    check(device, (2, 6, 7, 5), (19, 3, 3, 5), dtypes=("int16", "int16"), wide=True)


def operands(graph, **changes):
    """Return the inputs of a padded conv2d of form (a); `changes` replaces some by name."""
    given = {"x": ("uint8", (1, 6, 6, 5)), "w": ("int8", (8, 3, 3, 5)), "bias": ("int32", (8,)),
             "residual": None, "zeros": ("uint8", (8,)), "m0": ("int32", (8,)), "t": ("int8", (8,)),
             **changes}
    return [value and graph.input(name, value[1], value[0]) for name, value in given.items()]


@pytest.mark.parametrize("changes, options, message", [
    ({"w": ("uint8", (8, 3, 3, 5))}, {}, "w is uint8, needed int8 or int16"),
    ({"w": ("int16", (8, 3, 3, 5))}, {}, "w is int16, needed int8 for uint8 activations"),
    ({"w": ("fp32", (8, 3, 3, 5))}, {}, "w is fp32, needed int8 or int16"),
    ({"x": ("int32", (1, 6, 6, 5)), "zeros": None}, {}, "x is int32, needed uint8 or int16"),
    ({"x": ("int8", (1, 6, 6, 5)), "zeros": ("int8", (8,))}, {}, "needed uint8 or int16"),
    ({"zeros": ("fp32", (8,))}, {}, "mixes the dtypes"),
    ({"zeros": ("uint8", (4,))}, {}, "has 4 zeros, needed 5"),
    ({"bias": ("fp32", (8,))}, {}, "bias is fp32, needed int32"),
    ({"bias": ("int32", (7,))}, {}, r"the bias bias has the shape \(7,\), needed \(8,\)"),
    ({"bias": ("int32", (2, 8))}, {}, "the bias bias has the shape"),
    ({"residual": ("uint8", (1, 6, 6, 8))}, {}, "has a residual"),
    ({"m0": None}, {}, "has no multipliers"),
    ({"m0": ("int32", (7,))}, {}, "the multipliers m0 has the shape"),
    ({"m0": ("int16", (8,))}, {}, "m0 is int16, needed int32"),
    ({"t": None}, {}, "has no shifts"),
    ({"t": ("int8", (1, 8))}, {}, "the shifts t has the shape"),
    ({"m0": ("fp32", (8,))}, {}, "has shifts beside scales"),
    ({"m0": ("fp32", (1,)), "t": None}, {}, "the scales m0 has the shape"),
    ({}, {"wide": True}, "is wide, but x is uint8"),
    ({}, {"chunk": 3}, "sums chunks of 3 words, needed 0 to 65536, or 0 if it is not wide"),
    ({}, {"chunk": -1}, "sums chunks of -1 words"),
    ({"x": ("int16", (1, 6, 6, 5)), "zeros": ("int16", (8,))}, {"wide": True},
     r"the bias bias has the shape \(8,\), needed \(2, 8\)"),
    ({"x": ("fp32", (1, 6, 6, 5)), "zeros": ("fp32", (8,))}, {}, "bias is int32, needed fp32"),
    ({"x": ("fp32", (1, 6, 6, 5)), "zeros": ("fp32", (8,)), "bias": None}, {},
     "m0 is int32, needed fp32"),
    ({"x": ("fp32", (1, 6, 6, 5)), "zeros": ("fp32", (8,)), "bias": None, "m0": ("fp32", (8,)),
      "t": None}, {"activation": "is_nan"}, "unknown activation"),
    ({"x": ("fp32", (1, 6, 6, 5)), "w": ("fp32", (8, 3, 3, 5)), "zeros": None, "bias": None}, {},
     "has scales, but no integers")])
def test_refused(changes, options, message):
    graph = Graph()
    with pytest.raises(ModelError, match=message):
        graph.add("conv2d", operands(graph, **changes), **pads(1, 1, 1, 1), **options)


@pytest.mark.parametrize("layout, zeros, y, w, options, message", [
    ("rows", 8, Quantization.per_tensor(1), None, {}, "layout rows, needed oc16x4"),
    ("oc16", 8, Quantization.per_tensor(1), None, {}, "layout oc16, needed oc16x4"),
    ("oc16x4", 7, Quantization.per_tensor(1), None, {}, "has 7 zeros, needed 8"),
    ("oc16x4", 8, None, None, {}, "needed one scale"),
    ("oc16x4", 8, Quantization(np.ones(8, np.float32), np.zeros(8, np.int32), 3), None, {},
     "needed one scale"),
    ("oc16x4", 8, Quantization.per_tensor(1),
     Quantization(np.ones(8, np.float32), np.arange(8, dtype=np.int32), 0), {},
     "has several zero points"),
    ("oc16x4", 8, Quantization.per_tensor(1), None, {"activation": "tanh"},
     "the activation 'tanh' of a quantized output")])
def test_what_only_a_device_refuses(layout, zeros, y, w, options, message):
    graph = Graph()
    op = graph.insert(0, "conv2d", operands(graph, zeros=("uint8", (zeros,))), "y",
                      **pads(1, 1, 1, 1), **options)
    op.inputs[1].layout, op.inputs[1].quantization, op.outputs[0].quantization = layout, w, y
    with pytest.raises(ModelError, match=message):
        OPS["conv2d"].prepare(op, Facts())


def test_zero_points_of_int16_weights_are_refused():
    graph = Graph()
    op = graph.insert(0, "conv2d", operands(graph, x=("int16", (1, 6, 6, 5)),
                                            zeros=("int16", (8,))), "y", **pads(1, 1, 1, 1))
    op.inputs[1].layout, op.outputs[0].quantization = "oc16x4", Quantization.per_tensor(1)
    op.inputs[1].quantization = Quantization.per_tensor(1, 3)
    with pytest.raises(ModelError, match="needed 0 beside int16 activations"):
        OPS["conv2d"].prepare(op, Facts())


def test_choice_of_the_dot_product(device, monkeypatch):
    monkeypatch.setenv("EDGERUN_DOT", "plain")
    assert dots.choose(device) == "plain"
    monkeypatch.setenv("EDGERUN_DOT", "udot")
    with pytest.raises(DeviceError, match="no way to sum called 'udot', needed one of .*plain"):
        dots.choose(device)
    monkeypatch.delenv("EDGERUN_DOT")
    assert dots.choose(device) in dots.NAMES


@pytest.mark.parametrize("name", ["plain", "float", "khr", "vnni", "madd"])
def test_no_byte_behind_the_image_is_read(device, name):
    if not dots.has(device, name):
        pytest.skip(f"{device.info.platform} has no {name} products")
    ran = subprocess.run([sys.executable, "-m", "tests.guard_page", device.info.platform, name],
                         capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert ran.returncode == 0 and ran.stdout.endswith("done\n"), (ran.returncode, ran.stderr)
