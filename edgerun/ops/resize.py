"""Resampling of NHWC images."""
from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, f32, i32, int8_arg, lanes_within, pitch_of, require,
    require_quantized, require_rank, require_same_dtype)
from edgerun.ops._quantized_io import quantized, require_numbers
from edgerun.quantization import quantize

KINDS = ("nearest", "linear")
COORDINATE_MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
                    "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize")
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COARSE_MODES = ("half_pixel", "align_corners", "asymmetric")
REACH = 2**24  # pixels: farther coordinates cannot be told apart in 32-bit units
UNITS = 2**30  # largest coordinate in units
FINE, COARSE = 15, 10  # bits of the weights of integers


def simplest(value: float) -> Fraction:
    """Return the fraction of the smallest denominator that rounds to `value` as fp32.

    The scale 1/3 of a model file is meant, not 11184811 / 2**25.

    Args:
        value: finite.
    """
    near = np.float32(value)
    if near == 0:
        return Fraction(0)
    exact, step = Fraction(float(near)), Fraction(float(np.spacing(np.abs(near))))
    toward_zero = abs(exact) - Fraction(float(np.nextafter(np.abs(near), np.float32(0))))
    ends = abs(exact) - toward_zero / 2, abs(exact) + step / 2
    return _between(*ends) if exact > 0 else -_between(*ends)


def _between(low: Fraction, high: Fraction) -> Fraction:
    """Return the simplest fraction in an interval of positive numbers (continued fractions)."""
    floor = low.numerator // low.denominator
    if floor == low:
        return Fraction(floor)
    if floor + 1 <= high:
        return Fraction(floor + 1)
    return floor + 1 / _between(1 / (high - floor), 1 / (low - floor))


def source_coordinates(mode: str, size: int, out_size: int, scale: Fraction,
                       roi: tuple[Fraction, Fraction]) -> tuple[Fraction, Fraction]:
    """Return (a, b): output index i of an axis reads the source coordinate a * i + b.

    The formulas of ONNX Resize, where the resized length is size * scale, not rounded.

    Args:
        mode: coordinate transformation.
        size, out_size: elements of the input and output axis.
        scale: output / input.
        roi: start and end of the axis in 0..1, for tf_crop_and_resize.
    """
    half = Fraction(1, 2)
    length = size * scale
    if mode == "align_corners":
        return (Fraction(0) if length == 1 else (size - 1) / (length - 1)), Fraction(0)
    if mode == "tf_crop_and_resize":
        start, end = roi
        if length == 1:
            return Fraction(0), (end + start) * (size - 1) / 2
        return (end - start) * (size - 1) / (length - 1), start * (size - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return Fraction(0), -half
    step = 1 / scale
    if mode == "asymmetric":
        return step, Fraction(0)
    if mode == "tf_half_pixel_for_nn":
        return step, half * step
    offset = half * step - half
    if mode == "half_pixel_symmetric":
        offset += Fraction(size, 2) * (1 - Fraction(out_size) / length)
    return step, offset


def _coordinates(op: OpLike, axis: int) -> tuple[Fraction, Fraction]:
    options, x = op.options, op.inputs[0]
    scale = simplest(options[("scale_h", "scale_w")[axis]])
    roi = (Fraction(0), Fraction(1))
    if options["coordinate_mode"] == "tf_crop_and_resize":
        roi = (simplest(options["roi"][axis]), simplest(options["roi"][2 + axis]))
    return source_coordinates(options["coordinate_mode"], x.shape[1 + axis],
                              options[("height", "width")[axis]], scale, roi)


def _reach(size: int, out_size: int, a: Fraction, b: Fraction) -> Fraction:
    """Return a bound of the coordinates, their terms and the axis, in pixels; at least 2."""
    way = abs(a) * max(out_size - 1, 1)
    return max(abs(b), abs(a * (out_size - 1) + b), way, Fraction(size)) + 1


def infer_resize(op: OpLike) -> Outputs:
    """x [N, H, W, C] gives y [N, height, width, C]."""
    x, options = op.inputs[0], op.options
    require_rank(x, 4, op)
    require_numbers(op)
    for option, known in (("kind", KINDS), ("coordinate_mode", COORDINATE_MODES),
                          ("nearest_mode", NEAREST_MODES)):
        if option != "nearest_mode" or options["kind"] == "nearest":
            require(options[option] in known, op,
                    f"has the unknown {option} {options[option]!r}, known are {', '.join(known)}")
    roi = options["roi"]
    if options["coordinate_mode"] == "tf_crop_and_resize":
        require(len(roi) == 4 and all(map(math.isfinite, roi)), op,
                f"has the roi {tuple(roi)}, needed 4 finite numbers")
    for axis, letter in enumerate("hw"):
        size, out_size = x.shape[1 + axis], options[("height", "width")[axis]]
        scale = options[f"scale_{letter}"]
        require(1 <= out_size <= UNITS, op,
                f"has an output of {options['height']} x {options['width']}, needed at least 1 x 1")
        require(0 < np.float32(scale) < np.inf, op,
                f"has scale_{letter} {scale}, needed a finite number above 0")
        reach = _reach(size, out_size, *_coordinates(op, axis))
        require(reach <= REACH, op,
                f"with scale_{letter} {scale} reads up to pixel {int(reach)} of {size}, at most "
                f"{REACH} are allowed")
    return [((x.shape[0], options["height"], options["width"], x.shape[3]), x.dtype)]


def coarse_coordinates(mode: str, size: int, out_size: int) -> tuple[int, int]:
    """Return (a, b): output index i reads the source coordinate (a * i + b) / 2^10.

    What TFLite's kernel for int8 and int16 computes with.
    """
    if mode == "align_corners" and out_size > 1:
        size, out_size = size - 1, out_size - 1
    step = ((size << COARSE) + out_size // 2) // out_size
    return step, (step >> 1) - (1 << COARSE - 1) if mode == "half_pixel" else 0


def _axis_argument(op: OpLike, axis: int) -> list[int]:
    """Return step, offset, unit and rounding of kernels/resize.cl."""
    size, out_size = op.inputs[0].shape[1 + axis], op.outputs[0].shape[1 + axis]
    a, b = _coordinates(op, axis)
    integers = quantized(op) and op.options["kind"] == "linear"
    if integers and op.options["coarse"]:
        return [*coarse_coordinates(op.options["coordinate_mode"], size, out_size), 1 << COARSE,
                0, 0, 0, 0, 0]
    finest = int(UNITS / _reach(size, out_size, a, b))
    if integers:
        finest = min(finest, 2 << FINE)
    unit = math.lcm(a.denominator, b.denominator)
    if unit > finest:  # not exact, but to within what fp32 tells apart
        a = a.limit_denominator(finest)
        unit = a.denominator * (finest // a.denominator)
    up = {"floor": 2 * unit + 1, "ceil": 1, "round_prefer_floor": unit + 1,
          "round_prefer_ceil": unit}.get(op.options["nearest_mode"], 0)
    outside = op.options["coordinate_mode"] == "tf_crop_and_resize"
    return [int(a * unit), round(b * unit), unit, up, int(outside), 0, 0, 0]


def _integer_arguments(op: OpLike) -> tuple[int, int]:
    """Return the integer outside the image and the bits of the weights."""
    x, y = op.inputs[0], op.outputs[0]
    require_same_dtype(op, x, y)
    grid = require_quantized(y, op)
    require(require_quantized(x, op).grid == grid.grid, op,
            f"{x.name} and {y.name} differ in scale or zero point, needed the same")
    origin, mode = op.options["origin"], op.options["coordinate_mode"]
    require(abs(origin) <= 2**8, op, f"has the origin {origin}, needed -256 to 256")
    require(not op.options["coarse"] or mode in COARSE_MODES, op,
            f"is coarse in the mode {mode!r}, needed one of {', '.join(COARSE_MODES)}")
    require(not op.options["coarse"] or max(x.shape[1:3] + y.shape[1:3]) <= UNITS >> COARSE, op,
            f"is coarse with an image of {x.shape[1:3]} or {y.shape[1:3]}, at most "
            f"{UNITS >> COARSE} rows and columns are allowed")
    outside = quantize(np.float32(op.options["extrapolation_value"]), grid, y.dtype)
    return int(outside), COARSE if op.options["coarse"] else FINE


def resize(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n, oh, ow, c] = x[n, ., ., c] at the source coordinate of (oh, ow): the nearest pixel, or
    linear between the two nearest along each axis, where the image's border goes on outside it.

    x [N, H, W, C] fp32, fp16 -> y [N, `height`, `width`, C]. `kind` is nearest or linear. Along an
    axis of size s with scale f (`scale_h`, `scale_w`), output index i has the source coordinate, by
    `coordinate_mode`: half_pixel (i + 0.5) / f - 0.5; half_pixel_symmetric the same plus
    s / 2 * (1 - out / (s * f)); pytorch_half_pixel the same as half_pixel, but -0.5 if s * f = 1;
    align_corners i * (s - 1) / (s * f - 1); asymmetric i / f; tf_half_pixel_for_nn (i + 0.5) / f;
    tf_crop_and_resize (start + i * (end - start) / (s * f - 1)) * (s - 1), `roi` being top, left,
    bottom, right, and outside the image y is `extrapolation_value`. `nearest_mode` rounds the
    coordinate: floor, ceil, round_prefer_floor, round_prefer_ceil (the last two differ for ties).
    As in ONNX Resize; a scale stands for the simplest fraction that is the same fp32 number.

    x may be quantized uint8, int16, and y of the same dtype and grid. Linear weights are then
    rounded to 15 bits, and the mean of the pixels, in whole numbers, once, halves away from the
    integer `origin`; `coarse` takes coordinates and weights of 10 bits as TFLite does for int8 and
    int16, for half_pixel, align_corners and asymmetric.
    """
    x, y = op.inputs[0], op.outputs[0]
    outside, bits = op.options["extrapolation_value"], 0
    if quantized(op):
        outside, bits = _integer_arguments(op)
    n, height, width, channels = x.shape
    out_h, out_w = y.shape[1:3]
    lanes = lanes_within(channels, facts)
    run, items = 1, -(-channels // lanes)
    if facts.kind == "cpu":
        items = 1
        run = -(-out_w // max(1, min(out_w, -(-4 * facts.compute_units // (n * out_h)))))
    defines = {f"T_{x.dtype}": 1, "VEC": lanes}
    if op.options["kind"] == "linear":
        defines["LINEAR"] = 1
    return [Launch("resize", "resize", defines, (items, -(-out_w // run), n * out_h),
                   (x, y, int8_arg([n, height, width, channels, out_h, out_w, run, 0]),
                    int8_arg([*_axis_argument(op, 0)[:5], pitch_of(x), pitch_of(y), 0]),
                    int8_arg(_axis_argument(op, 1)),
                    f32(outside), i32(bits), i32(op.options["origin"])), facts.one)]
