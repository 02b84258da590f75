"""Layers whose weights are bit planes, of which the first few may count (precision by prefix)."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.dtypes import FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Outputs, Scratch, Shape, TensorLike, count, f32, i32,
    pitch_of, require, require_dtype, require_quantized, require_rank)
from edgerun.ops._integer import ACTIVATIONS, bounds, dot_defines
from edgerun.ops.conv import MAX_INDEX, MAX_TILE, output_size, require_blocks
from edgerun.ops.elementwise import activation

LEVELS, USED, FIRST = 1, 2, 3  # inputs; the planes from FIRST on
WORD = 32  # elements of a word
# Planes, pairs of them with "pairs"; and how many of them hold no bit of the number.
MOST = {"twos": 8, "magnitude": 9, "pairs": 8, "powers": 5}
SIGN_PLANE = {"twos": 0, "magnitude": 1, "pairs": 0, "powers": 1}
LARGEST_POWER = 8  # exponent + 1
MOST_INPUTS = FIRST + 16
INPUTS = tuple(range(FIRST, MOST_INPUTS))  # that may be planes
MOST_PRODUCTS = 2**16 - 1  # of int16 the sum of so many activations fits into 32 bits
REACH = 255  # of an activation in a sum; of int16 the two bytes are summed apart
PIECE_BYTES, LEAST_PIECE = 1 << 17, 64  # of patches that exist at once; pixels
RUN_BYTES = 1 << 12  # of rows that a work-item of a CPU writes


def inputs_of_planes(op: OpLike) -> tuple[tuple[int, ...], ...]:
    """Return, from the most significant on, which inputs hold each plane, or pair of planes."""
    each = 2 if op.options["signs"] == "pairs" else 1
    return tuple(tuple(range(at, at + each)) for at in range(FIRST, len(op.inputs), each))


def _largest(signs: str, planes: int) -> int:
    """Return the largest magnitude of a weight."""
    bits = max(planes - SIGN_PLANE[signs], 0)
    if signs == "powers":
        return 2**(min(2**bits - 1, LARGEST_POWER) - 1) if bits else 0
    return 2**(bits - 1) if signs == "twos" and bits else 2**bits - 1


def middle(signs: str, planes: int, t: int) -> float:
    """Return the mean of what t of the planes leave out, in steps of those t."""
    return 0.5 - 0.5**(planes - t + 1) if signs == "twos" else 0.0


def sums_fit(k: int, signs: str, planes: int) -> bool:
    """Whether the sum of k products with weights of so many planes fits into 32 bits."""
    return k <= MOST_PRODUCTS and k * REACH * _largest(signs, planes) < 2**31


def _infer(op: OpLike, shape: Shape, k: int) -> Outputs:
    """Check what both layers share; shape: of y, k: products of an output."""
    x, levels, used, *planes = op.inputs
    signs, out_c = op.options["signs"], shape[-1]
    require_dtype(x, ACTIVATIONS, op)
    zero = require_quantized(x, op).zero
    require(x.dtype == "uint8" or zero == 0, op,
            f"{x.name} has the zero point {zero}, needed 0 of int16")
    require(signs in MOST, op, f"has the signs {signs!r}, needed one of {', '.join(MOST)}")
    each = 2 if signs == "pairs" else 1
    require(all(plane is not None for plane in planes) and len(planes) % each == 0
            and len(planes) // each <= MOST[signs], op,
            f"has {len(planes)} planes, needed 0 to {each * MOST[signs]}"
            + (", as many positive as negative ones" if each == 2 else ""))
    number = len(planes) // each
    words = -(-k // WORD)
    for plane in planes:
        require_dtype(plane, ("bits",), op)
        require(tuple(plane.shape) == (out_c, words), op,
                f"{plane.name} has the shape {plane.shape}, needed {(out_c, words)}")
    require_dtype(levels, ("fp32",), op)
    counts = op.options["counts"] or range(number + 1 - levels.shape[0], number + 1)
    require(len(counts) == levels.shape[0] >= 1 and list(counts) == sorted({*counts})
            and 0 <= counts[0] and counts[-1] <= number, op,
            f"{levels.name} has {levels.shape[0]} rows, for {', '.join(map(str, counts))} planes: "
            f"needed different numbers from 0 to {number}, ascending")
    require_dtype(used, ("int32",), op)
    require(tuple(used.shape) == (1,), op,
            f"{used.name} has the shape {used.shape}, needed (1,)")
    require(sums_fit(k, signs, number), op,
            f"sums {k} products, too many for 32 bits with {number} planes")
    require(count(shape) <= MAX_INDEX - MAX_TILE and count(x.shape) <= MAX_INDEX, op,
            f"the output {shape} or the input {x.shape} is too large")
    if op.options["activation"]:
        activation(op)
    if not op.outputs or op.outputs[0].dtype in FLOAT:
        return [(shape, "fp32")]
    require_dtype(op.outputs[0], ACTIVATIONS, op)
    bounds(op, op.outputs[0])
    return [(shape, op.outputs[0].dtype)]


def _out_c(op: OpLike) -> int:
    """Return the output channels, which the levels tell."""
    levels = op.inputs[LEVELS]
    require_rank(levels, 3, op)
    require(levels.shape[1] in (2, 3) and levels.shape[2] >= 1, op,
            f"{levels.name} has the shape {levels.shape}, needed (planes, 3 or 2, channels)")
    return levels.shape[2]


def infer_planes_conv2d(op: OpLike) -> Outputs:
    """y is [N, OH, OW, OC], its size given by the options; fp32, or what it is, if quantized."""
    x, o, out_c = op.inputs[0], op.options, _out_c(op)
    require_rank(x, 4, op)
    groups, kernel = o["groups"], (o["kernel_h"], o["kernel_w"])
    require(1 <= groups and x.shape[3] % groups == 0 and out_c % groups == 0, op,
            f"{groups} groups do not divide {x.shape[3]} and {out_c} channels")
    shape = (x.shape[0], *output_size(op, x.shape[1:3], kernel), out_c)
    found = _infer(op, shape, kernel[0] * kernel[1] * x.shape[3] // groups)
    require(planes_scratch(op, shape) <= MAX_INDEX, op, f"the input {x.shape} is too large")
    return found


def infer_planes_dense(op: OpLike) -> Outputs:
    """y is x with its last axis replaced by OC; fp32, or what it is, if quantized."""
    x, out_c = op.inputs[0], _out_c(op)
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar")
    shape = (*x.shape[:-1], out_c)
    found = _infer(op, shape, x.shape[-1])
    require(planes_scratch(op, shape) <= MAX_INDEX, op, f"the input {x.shape} is too large")
    return found


@dataclass(frozen=True)
class _Rows:
    """How an op reads x: the rows in its scratch, see kernels/planes_rows.cl.

    Attributes:
        patches: whether a row is what one output pixel sees; else a pixel of x.
        each: rows that exist at once, without the one of zeros.
        all: rows of the whole op.
        outside: whether a row of zeros follows.
        segment: elements of a row's group.
        groups: of channels.
        source: the window of the op over x.
        window: that of the layer over the rows.
    """
    patches: bool
    each: int
    all: int
    outside: bool
    segment: int
    groups: int
    source: dict[str, int]
    window: dict[str, int]

    @property
    def words(self) -> int:
        """Words of a segment."""
        return -(-self.segment // WORD)

    def ints(self, units: int) -> int:
        """Return the ints of a row."""
        return self.groups * (self.words * units + 1)


POINT = {"kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 1,
         "dilation_w": 1, "pad_top": 0, "pad_left": 0}
NAMES = ("height", "width", "channels", "in_c", "out_h", "out_w", "kernel_h", "kernel_w",
         "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")


def line(pixels: int) -> dict[str, int]:
    """The window of an op that sees one row of pixels, each by itself."""
    return {"n": 1, "height": 1, "width": pixels, "out_h": 1, "out_w": pixels, **POINT}


def _rows(op: OpLike, shape: Shape) -> _Rows:
    x, o = op.inputs[0], op.options
    if op.code == "planes_dense":
        pixels = count(shape[:-1])
        window = line(pixels)
        return _Rows(False, pixels, pixels, False, x.shape[-1], 1,
                     {**window, "in_c": x.shape[-1], "channels": pitch_of(x)}, window)
    groups, pixels = o["groups"], count(shape[:3])
    in_c, taps = x.shape[3] // groups, o["kernel_h"] * o["kernel_w"]
    source = {"n": x.shape[0], "height": x.shape[1], "width": x.shape[2], "channels": pitch_of(x),
              "in_c": in_c, "out_h": shape[1], "out_w": shape[2],
              **{name: o[name] for name in POINT}}
    padded = any(o[f"pad_{side}"] for side in ("top", "left", "bottom", "right"))
    if all(o[name] == value for name, value in POINT.items()) and not padded:
        return _Rows(False, pixels, pixels, False, in_c, groups, source, line(pixels))
    if in_c % WORD == 0:
        return _Rows(False, count(x.shape[:3]), count(x.shape[:3]), padded, in_c, groups, source,
                     source)
    segment = taps * in_c
    most = max(LEAST_PIECE, PIECE_BYTES // (groups * (-(-segment // WORD) * WORD)))
    return _Rows(True, min(most, pixels), pixels, False, segment, groups, source, {})


def _units(x: TensorLike, counted: bool) -> int:
    """Return the ints of a word of x."""
    if x.dtype == "int16":
        return 16
    return 9 if counted and x.quantization.zero else 8


def planes_scratch(op: OpLike, shape: Shape | None = None) -> int:
    """Bytes of scratch: rows of x for either kernel.

    Args:
        shape: of y, where it is not known yet.
    """
    rows = _rows(op, shape or op.outputs[0].shape)
    return 4 * (rows.each + rows.outside) * rows.ints(_units(op.inputs[0], True))


def _held(op: OpLike) -> int:
    """Return the number whose bit t is set if t planes have levels."""
    rows, number = op.inputs[LEVELS].shape[0], len(inputs_of_planes(op))
    counts = op.options["counts"] or range(number + 1 - rows, number + 1)
    return sum(1 << t for t in counts)


def planes_macs(op: OpLike) -> int:
    """Multiply-accumulates: every output element sums over taps and the channels of its group."""
    rows = _rows(op, op.outputs[0].shape)
    taps = rows.source["kernel_h"] * rows.source["kernel_w"]
    return count(op.outputs[0].shape) * taps * rows.source["in_c"]


def _launches(op: OpLike, facts: Facts) -> list[Launch]:
    x, levels, used, *planes = op.inputs
    y, signs, zero = op.outputs[0], op.options["signs"], op.inputs[0].quantization.zero
    for plane in planes:
        require_blocks(op, plane)
    rows = _rows(op, y.shape)
    out_c = y.shape[-1] // rows.groups
    window = line(rows.each) if rows.patches else rows.window
    dots = dot_defines(facts, "uint8")
    key = Key.of("planes", f"{signs} {facts.dot if dots else 'plain'}", (x, y),
                 planes=len(inputs_of_planes(op)), words=rows.words, out_c=out_c,
                 groups=rows.groups, **{name: window[name] for name in window})
    variant = _tile.choose(key, facts)
    counted = bool(variant["count"])
    units = _units(x, counted)
    gather = {f"T_{x.dtype}": 1, "UNITS": units}
    layer = {f"T_{x.dtype}": 1, f"O_{y.dtype}": 1, **variant.defines}
    if signs != "twos":
        layer[f"SIGNS_{signs.upper()}"] = 1
    if counted:
        gather["BITS"] = 1
        layer |= counting(facts)
        if units == 9:
            gather["SIGNED"] = layer["SIGNED"] = 1
    else:
        layer |= dots
        if zero or x.dtype == "int16":
            layer["CENTRE"] = 1
    if rows.patches:
        gather["PATCHES"] = 1
    alpha = beta = 0.0
    least = most = zero_y = 0
    if y.dtype in FLOAT:
        act = activation(op)
        layer, alpha, beta = {**layer, **act.defines}, act.alpha, act.beta
    else:
        (least, most), zero_y = bounds(op, y), y.quantization.zero
    run = max(1, RUN_BYTES // (4 * rows.ints(units))) if facts.kind == "cpu" else 1
    held = [*planes, *[Scratch()] * (MOST_INPUTS - FIRST - len(planes))]
    channels, launches = rows.ints(units), []
    for first in range(0, rows.all, rows.each):
        some = min(rows.each, rows.all - first)
        launches.append(Launch(
            "planes_rows", "planes_rows", gather,
            (-(-(some + rows.outside) // run), rows.groups, 1),
            (x, Scratch(), i32(run), i32(first), i32(some), i32(some + rows.outside),
             i32(rows.words), i32(zero), *(i32(rows.source[name]) for name in NAMES)), facts.one))
        window = line(some) if rows.patches else rows.window
        pixels = window["n"] * window["out_h"] * window["out_w"]
        sizes = {**window, "channels": channels, "out_c": out_c}
        family = "planes_count" if counted else "planes"
        launches.append(Launch(
            family, family, layer,
            (-(-out_c // variant["VEC"]), -(-pixels // (variant["P"] * variant["tiles"])),
             rows.groups),
            (Scratch(), levels, used, *held, y, i32(key["planes"]), i32(_held(op)),
             i32(levels.shape[1]), i32(pitch_of(y)), i32(first if rows.patches else 0), i32(some),
             i32(pixels), i32(variant["tiles"]), i32(rows.words), i32(zero),
             *(i32(sizes[name]) for name in LAYER_NAMES), i32(zero_y), i32(least), i32(most),
             f32(alpha), f32(beta)),
            facts.one, key, variant))
    return launches


LAYER_NAMES = ("height", "width", "channels", "out_h", "out_w", "out_c", "kernel_h", "kernel_w",
               "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")


def counting(facts: Facts) -> dict[str, int]:
    """Return the macro of kernels/popcount.cl for an instruction that counts bits."""
    return {"COUNT_VPOPCNT": 1} if "vpopcnt" in facts.quirks and facts.lanes == 16 else {}


def planes_conv2d(op: OpLike, facts: Facts) -> list[Launch]:
    """r[n,i,j,o] = A acc + B sum + C with A, B, C = levels[t, :, o], acc = sum of q_t[o,k] x',
    sum = sum of x' over taps and the channels of o's group, x' = x - its zero point, t = used[0]:
    as many planes of the weights count. y = activation(r) if it is real, else clamp(round(r) + its
    zero point). Each product and sum of r is rounded to fp32; taps outside the image add nothing.

    x [N, H, W, IC] uint8, or int16 without a zero point, levels [R, 3, OC] fp32, or [R, 2, OC] of A
    and C alone: then B = A m for the mean m of what t planes leave out, 1/2 - 2^-(P-t+1) with the
    `signs` "twos", else 0. `used` [1] int32, then P planes [OC, ceil(K/32)] bits, K = kernel_h
    kernel_w IC/groups: element k of a row is bit k % 32 of word k // 32 (constant, in blocks of 16
    output channels) -> y [N, OH, OW, OC] fp32, fp16, uint8, int16. OH, OW and `groups` as for
    conv2d. `counts` are the R values of t that have levels (without it the R largest up to P);
    another one counts as the next below, else as the least. With `signs` "twos" q_t = sum over i <
    t of 2^(t-1-i) b_i, plane 0 negative; "magnitude": plane 0 is the sign, 1 where negative, of the
    number in the planes 1 to t-1; "pairs": planes come in pairs (p, n), t counts pairs, and q_t =
    sum of 2^(t-1-i) (p_i - n_i); "powers": plane 0 is the sign of 2^(e-1), or of 0 if e is 0 or
    above 8, e in the planes from 1 on, those from t on as if they were 0. Planes from t on are not
    read. A launch puts x in order, another multiplies; where IC/groups is no multiple of 32 and the
    kernel larger than 1 x 1, for pieces of the output, so that few patches of x exist at once.
    """
    return _launches(op, facts)


def planes_dense(op: OpLike, facts: Facts) -> list[Launch]:
    """r[..., o] = A acc + B sum + C, as planes_conv2d with one tap.

    x [..., IC], levels [R, 3 or 2, OC] fp32, used [1] int32, P planes [OC, ceil(IC/32)] bits ->
    y [..., OC].
    """
    return _launches(op, facts)
