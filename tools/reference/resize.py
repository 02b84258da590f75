"""NumPy reference of resampling: one axis after the other, coordinates as exact fractions."""
from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from edgerun.quantization import quantize
from edgerun.tools.graph import Op


def _fraction(value: float) -> Fraction:
    """Return the fraction of the smallest denominator that is `value` as fp32."""
    for denominator in itertools.count(1):
        fraction = Fraction(round(Fraction(float(np.float32(value))) * denominator), denominator)
        if np.float32(float(fraction)) == np.float32(value):
            return fraction


def coordinate(i: int, mode: str, size: int, out_size: int, scale: Fraction,
               roi: tuple[Fraction, Fraction]) -> Fraction:
    """Return the source coordinate of output index i, as ONNX Resize defines it."""
    half, length = Fraction(1, 2), size * scale
    if mode == "align_corners":
        return Fraction(0) if length == 1 else i * (size - 1) / (length - 1)
    if mode == "asymmetric":
        return i / scale
    if mode == "tf_half_pixel_for_nn":
        return (i + half) / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if length == 1:
            return (start + end) * (size - 1) * half
        return start * (size - 1) + i * (end - start) * (size - 1) / (length - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return Fraction(0)
    if mode == "half_pixel_symmetric":
        adjustment = out_size / length
        return Fraction(size, 2) * (1 - adjustment) + (i + half) / scale - half
    return (i + half) / scale - half


def _nearest(at: Fraction, mode: str) -> int:
    if mode == "floor":
        return math.floor(at)
    if mode == "ceil":
        return math.ceil(at)
    if mode == "round_prefer_floor":
        return math.ceil(at - Fraction(1, 2))
    return math.floor(at + Fraction(1, 2))


def _coarse(i: int, mode: str, size: int, out_size: int) -> Fraction:
    """Return the coordinate in 1/1024 that TFLite's kernel for int8 and int16 computes with."""
    if mode == "align_corners" and out_size > 1:
        size, out_size = size - 1, out_size - 1
    step = (1024 * size + out_size // 2) // out_size
    return Fraction(step * i + (step // 2 - 512 if mode == "half_pixel" else 0), 1024)


def _linear_integers(op: Op, x: np.ndarray, at: list[list[Fraction]]) -> np.ndarray:
    """Return the mean of four integers with weights of 15 bits (10 if coarse), rounded once."""
    o = op.options
    one = 1024 if o["coarse"] else 2**15
    y = x.astype(np.int64) - o["origin"]
    for axis, coordinates in ((1, at[0]), (2, at[1])):
        floors = np.array([math.floor(c) for c in coordinates])
        weights = [math.floor((c - math.floor(c)) * one + Fraction(1, 2)) for c in coordinates]
        last, along = y.shape[axis] - 1, np.array(weights).reshape([-1] + [1] * (3 - axis))
        y = ((one - along) * y.take(np.clip(floors, 0, last), axis)
             + along * y.take(np.clip(floors + 1, 0, last), axis))
    return np.sign(y) * ((np.abs(y) + one * one // 2) // (one * one)) + o["origin"]


def _resize(op: Op, x: np.ndarray) -> np.ndarray:
    o = op.options
    integers, outputs = x.dtype.kind in "iu", op.outputs[0]
    coordinates = []
    y, outside = x.astype(np.float64), np.zeros((1, 1, 1, 1), bool)
    for axis, out_size, scale, roi in ((1, o["height"], o["scale_h"], o["roi"][0::2]),
                                       (2, o["width"], o["scale_w"], o["roi"][1::2])):
        size = x.shape[axis]
        exact = _fraction(scale), tuple(map(_fraction, roi))
        at = [_coarse(i, o["coordinate_mode"], size, out_size)
              if integers and o["kind"] == "linear" and o["coarse"] else
              coordinate(i, o["coordinate_mode"], size, out_size, *exact)
              for i in range(out_size)]
        coordinates.append(at)
        along = [1, 1, 1, 1]
        along[axis] = out_size
        if o["coordinate_mode"] == "tf_crop_and_resize":
            outside = outside | np.array([not 0 <= c <= size - 1 for c in at]).reshape(along)
        if o["kind"] == "nearest":
            y = y.take(np.clip([_nearest(c, o["nearest_mode"]) for c in at], 0, size - 1), axis)
        elif not integers:
            floors = np.array([math.floor(c) for c in at])
            weight = np.array([float(c - math.floor(c)) for c in at]).reshape(along)
            y = ((1 - weight) * y.take(np.clip(floors, 0, size - 1), axis)
                 + weight * y.take(np.clip(floors + 1, 0, size - 1), axis))
    if not integers:
        return np.where(outside, o["extrapolation_value"], y).astype(np.float32)
    if o["kind"] == "linear":
        y = _linear_integers(op, x, coordinates)
    beyond = quantize(np.float32(o["extrapolation_value"]), outputs.quantization, outputs.dtype)
    return np.where(outside, beyond, y)


REFERENCE = {"resize": _resize}
