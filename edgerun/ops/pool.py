"""Pooling of NHWC images."""
from __future__ import annotations

import numpy as np

from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, f32, int8_arg, lanes_within, pitch_of, require,
    require_quantized, require_rank, require_same_dtype)
from edgerun.ops._integer import bounds
from edgerun.ops._quantized_io import quantized, require_numbers
from edgerun.ops.elementwise import activation
from edgerun.quantization import fixed_point, limits

KINDS = ("max", "average")
FEW = (2, 3)  # columns of a window for which there is a loop of its own
LIMIT = 2**30  # rows or columns of a padded image: its indices and twice them are 32-bit integers


def _axis(op: OpLike, size: int, letter: str, before: str, after: str) -> int:
    """Return the output size along one axis after checking its options."""
    options = op.options
    kernel, stride, dilation = (options[f"{name}_{letter}"] for name in
                                ("kernel", "stride", "dilation"))
    require(min(kernel, stride, dilation) >= 1, op,
            f"has kernel_{letter} {kernel}, stride_{letter} {stride}, dilation_{letter} "
            f"{dilation}, needed at least 1 each")
    pad, pad_after = options[before], options[after]
    require(min(pad, pad_after) >= 0, op,
            f"has {before} {pad} and {after} {pad_after}, needed at least 0")
    window, padded = (kernel - 1) * dilation + 1, size + pad + pad_after
    require(max(window, padded, stride, dilation) <= LIMIT, op,
            f"has a window of {window} (dilation_{letter} {dilation}) in steps of {stride} on a "
            f"padded size of {padded}, at most {LIMIT} are allowed")
    room = padded - window
    out = (-(-room // stride) if options["ceil_mode"] else room // stride) + 1
    if options["ceil_mode"] and (out - 1) * stride >= size + pad:
        out -= 1  # ONNX: no window may start behind the image
    require(out >= 1, op, f"has a window of {window} on a padded size of {padded}, which gives no "
            "output")
    return out


def infer_pool2d(op: OpLike) -> Outputs:
    """x [N, H, W, C] gives y [N, OH, OW, C]."""
    x = op.inputs[0]
    require_rank(x, 4, op)
    require_numbers(op)
    require(op.options["kind"] in KINDS, op,
            f"has the unknown kind {op.options['kind']!r}, known are {', '.join(KINDS)}")
    activation(op)
    n, height, width, channels = x.shape
    return [((n, _axis(op, height, "h", "pad_top", "pad_bottom"),
              _axis(op, width, "w", "pad_left", "pad_right"), channels), x.dtype)]


def counted_taps(op: OpLike) -> int:
    """Return the most taps that an average divides by."""
    o, (_, height, width, _) = op.options, op.inputs[0].shape
    padded = o["count_include_pad"]
    return (min(o["kernel_h"], height + padded * (o["pad_top"] + o["pad_bottom"]))
            * min(o["kernel_w"], width + padded * (o["pad_left"] + o["pad_right"])))


def multiplier(op: OpLike) -> tuple[int, int, int]:
    """Return (m0, t, bits) of a quantized average: m0 * 2^-t = 2^bits * x.scale / y.scale.

    (1 if halves go to even integers, 0, 0) if x and y have one grid. As many bits, up to 16, as
    sums and divisors have room for: the product, which is rounded, is then divided by 2^bits times
    the counted taps, and rounded.

    Raises:
        ModelError: sums or products exceed 32 bits.
    """
    x, y = op.inputs[0], op.outputs[0]
    given, wanted = require_quantized(x, op), require_quantized(y, op)
    require(abs(op.options["origin"]) <= 2**16, op, f"has the origin {op.options['origin']}")
    taps = counted_taps(op)
    farthest = max(abs(end - base) for end in limits(x.dtype)
                   for base in (0, given.zero, op.options["origin"])) + 1
    require(taps * farthest < 2**30, op,
            f"adds up {taps} integers of {x.dtype}, which may exceed 32 bits")
    if given.grid == wanted.grid:
        return int(wanted.rounding == "single"), 0, 0
    ratio = given.step / wanted.step
    room = min(2.0**30 / (taps * farthest * max(ratio, 2.0**-30)), 2.0**30 / taps)
    bits = min(16, int(np.floor(np.log2(room))))
    require(bits >= 0, op, f"{x.name} has the scale {given.step:.3g}, {y.name} {wanted.step:.3g}: "
            "sums would exceed 32 bits")
    m0, t = fixed_point(ratio * 2.0**bits)
    return int(m0), int(t), bits


def _integer_arguments(op: OpLike) -> tuple[np.ndarray]:
    x, y = op.inputs[0], op.outputs[0]
    require_same_dtype(op, x, y)
    given, wanted = require_quantized(x, op), require_quantized(y, op)
    low, high = bounds(op, y)
    if op.options["kind"] == "average":
        return (int8_arg([given.zero, *multiplier(op), wanted.zero, low, high,
                          op.options["origin"]]),)
    require(given.grid == wanted.grid, op,
            f"{x.name} and {y.name} differ in scale or zero point, needed the same for a maximum")
    return (int8_arg([0, 0, 0, 0, 0, low, high, 0]),)


def pool2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n, oh, ow, c] = activation(f over the window's taps of x[n, ih, iw, c]), ih = oh * stride_h
    - pad_top + kh * dilation_h, iw likewise; f is the `kind`.

    x [N, H, W, C] fp32, fp16 -> y [N, OH, OW, C], OH = (H + pad_top + pad_bottom - (kernel_h - 1) *
    dilation_h - 1) / stride_h + 1 rounded down, or with `ceil_mode` up (but no window starts behind
    the image). Padding never wins a max. An average divides by the taps inside the image, with
    `count_include_pad` by the taps inside the padded image. A window without any tap gives -inf as
    a max and 0 as an average. Global pooling is a window as large as the image.

    x may be quantized uint8, int16, and y of the same dtype, the activation a clamp. The maximum
    then needs x and y of one grid. Of one grid an average divides the sum of integers, halves
    rounded away from the integer `origin` (to even if y.quantization.rounding is single); else it
    is the sum times x.scale / y.scale, with up to 16 bits behind the point, divided by the taps,
    each rounded to nearest.
    """
    x, y = op.inputs[0], op.outputs[0]
    options = op.options
    if quantized(op):
        defines, rest = {}, _integer_arguments(op)
    else:
        act = activation(op)
        defines, rest = act.defines, (f32(act.alpha), f32(act.beta))
    n, height, width, channels = x.shape
    out_h, out_w = y.shape[1:3]
    lanes = lanes_within(channels, facts)
    vectors = -(-channels // lanes)
    run, items = 1, vectors
    if facts.kind == "cpu":
        enough = 4 * facts.compute_units
        rows = n * out_h
        items = 1 if rows >= enough else vectors
        run = -(-out_w // max(1, min(out_w, -(-enough // (rows * items)))))
    defines = {f"T_{x.dtype}": 1, "VEC": lanes, **defines}
    if options["kind"] == "average":
        defines["AVERAGE"] = 1
    if facts.kind == "cpu" and options["kernel_w"] in FEW:
        defines["TAPS"] = options["kernel_w"]
    padded = options["count_include_pad"]
    rows_arg = [options["kernel_h"], options["stride_h"], options["dilation_h"], options["pad_top"],
                height + options["pad_bottom"] if padded else -1, pitch_of(x), pitch_of(y), 0]
    columns_arg = [options["kernel_w"], options["stride_w"], options["dilation_w"],
                   options["pad_left"], width + options["pad_right"] if padded else -1, 0, 0, 0]
    return [Launch("pool", "pool2d", defines, (items, -(-out_w // run), n * out_h),
                   (x, y, int8_arg([n, height, width, channels, out_h, out_w, run, 0]),
                    int8_arg(rows_arg), int8_arg(columns_arg), *rest),
                   facts.one)]
