"""Scales and zero points from ranges and weights."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgerun.quantization import Quantization, limits

# Output channels of weights, by op code.
WEIGHT_AXIS = {"conv2d": 0, "conv_transpose2d": 0, "dense": 0, "depthwise_conv2d": 2}
HEADROOM = 1.5  # int16 has room for what calibration did not see; 8 bits have none
SMALLEST = 2.0**-60  # a scale below this would be rounded to 0 somewhere
SMALLEST_UNIT = 2.0**-30  # of a sum, in steps of the result
# Weights of int16 layers: no more bits than keep sums of products with any int16 below 2^31, some
# of it left to the bias; but 12 bits at least. The results of SqueezeNet, ResNet-18 and AlexNet are
# then 58 to 62 dB from those in fp32 (int8: 33 to 38; 16 bits: 77 to 83, at half the speed).
MOST_MAGNITUDE, LEAST_TOP = 63_000, 2047
MOST_BIAS = {"int8": 2.0**28, "int16": 2.0**40}  # steps of a sum that a bias may be worth


def activation_quantization(low: float, high: float, dtype: str) -> Quantization:
    """Return scale and zero point that cover a range, 0 always exactly among its numbers.

    int8 (stored as uint8) is affine: scale = (high - low) / 255, zero_point = round(-low / scale),
    and sums are rounded to it by an fp32 multiplier, which is twice as fast as by integers;
    int16 is symmetric: scale = HEADROOM * max(|low|, |high|) / 32767, zero_point = 0 (Das et al.,
    "Mixed precision training of CNNs using integer operations", 2018, section 3).

    Args:
        low, high: of the real numbers; widened to hold 0.
        dtype: "int8" or "int16".
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if dtype == "int16":
        top = max(-low, high)
        return Quantization.per_tensor(max(HEADROOM * top / 32767, SMALLEST) if top else 1 / 32767)
    scale = float(np.float32(max((high - low) / 255, SMALLEST))) if high > low else 1 / 255
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return replace(Quantization.per_tensor(scale, zero), rounding="single")


def weight_quantization(weights: np.ndarray, axis: int, dtype: str) -> Quantization:
    """Return symmetric scales per output channel: max |w| over the largest integer.

    That is 127 for int8. For int16 it is what lets sums stay in 32 bits, LEAST_TOP to 32767: sums
    of more bits take kernels longer.
    """
    others = tuple(k for k in range(weights.ndim) if k != axis)
    top = np.abs(weights).max(axis=others)
    largest = limits(dtype)[1]
    if dtype == "int16":
        magnitude = np.abs(weights).sum(axis=others, dtype=np.float64)
        largest = np.clip(np.divide(MOST_MAGNITUDE * top, magnitude, where=magnitude > 0,
                                    out=np.full(len(top), float(LEAST_TOP))), LEAST_TOP, largest)
    scale = np.where(top > 0, np.maximum(top / largest, SMALLEST), 1.0)
    return Quantization(scale.astype(np.float32), np.zeros(len(scale), np.int32), axis)


def roomy(weights: Quantization, dtype: str, step_x: float, step_y: float,
          bias: np.ndarray | float) -> Quantization:
    """Return scales of weights that are no smaller than sums have use for.

    Channels next to dead have tiny weights, and with them a tiny unit of their sums: no sum could
    hold their bias, nor could it be shifted to y. In larger units such weights are rounded more, by
    what changes no result.

    Args:
        weights: scales per output channel.
        dtype: "int8" or "int16" of the weights.
        step_x, step_y: of the layer's input and output.
        bias: real [OC].
    """
    least = np.maximum(np.abs(np.float64(bias)) / MOST_BIAS[dtype], step_y * SMALLEST_UNIT) / step_x
    return replace(weights, scale=np.maximum(weights.scale, least).astype(np.float32))
