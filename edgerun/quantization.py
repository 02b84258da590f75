"""What quantized integers mean, and the fixed-point numbers that integer ops compute with."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgerun import dtypes

TWO_STEPS = ("twice", "upward")  # roundings of a product of which the first is to 31 bits
ONE_STEP = ("once", "short")  # roundings of the exact product of an accumulator of any width
SHORT = 16  # bits that "short" rounding drops from a multiplier


@dataclass(frozen=True, eq=False)
class Quantization:
    """real = scale * (q - zero_point).

    Attributes:
        scale: fp32 [n], finite and above 0; n is 1, or the size of `axis`.
        zero_point: int32 [n], within the tensor's dtype.
        axis: -1 for one scale for the whole tensor.
        rounding: of the op that writes the tensor: "once", "twice", "short", "upward" or "single";
            see Rounding in the schema.
    """
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = -1
    rounding: str = "once"

    @staticmethod
    def per_tensor(scale: float, zero_point: int = 0, rounding: str = "once") -> Quantization:
        """Return one scale and zero point for a whole tensor."""
        return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int32), -1,
                            rounding)

    def transposed(self, perm: Sequence[int]) -> Quantization:
        """Return the quantization of a tensor whose axis k is axis perm[k] of this one's."""
        axis = -1 if self.axis == -1 else list(perm).index(self.axis)
        return replace(self, axis=axis)

    @property
    def step(self) -> float:
        """The scale of a tensor that has one."""
        return float(self.scale[0])

    @property
    def zero(self) -> int:
        """The zero point of a tensor that has one."""
        return int(self.zero_point[0])

    @property
    def key(self) -> tuple:
        """Equal for equal quantizations."""
        return self.scale.tobytes(), self.zero_point.tobytes(), self.axis, self.rounding

    @property
    def grid(self) -> tuple:
        """Equal where equal integers mean equal numbers."""
        return self.key[:3]


def limits(dtype: str) -> tuple[int, int]:
    """Return the least and largest integer of a dtype."""
    info = np.iinfo(dtypes.numpy_dtype(dtype))
    return int(info.min), int(info.max)


def fixed_point(multiplier: np.ndarray | float, rounding: str = "once"
                ) -> tuple[np.ndarray, np.ndarray]:
    """Return (m0 int32, t int8) with multiplier = m0 * 2^-t, m0 in [2^30, 2^31).

    Args:
        multiplier: positive, any shape; computed in fp64 from fp32 scales.
        rounding: "short" leaves m0 15 significant bits, "single" 24.

    Raises:
        ValueError: a multiplier is 2^30 or more, or not a positive number.
    """
    real = np.asarray(multiplier, np.float64)
    if not np.all(np.isfinite(real) & (real > 0)):
        raise ValueError("a multiplier is not a positive finite number")
    if rounding == "single":
        with np.errstate(all="ignore"):  # one that fp32 does not hold becomes 0, or too large
            real = np.minimum(real.astype(np.float32).astype(np.float64), 2.0**30)
    fraction, exponent = np.frexp(real)
    m0 = np.rint(fraction * 2.0**31).astype(np.int64)
    if rounding == "short":
        m0 = np.where(m0 < 0x7FFF0000, (m0 + (1 << SHORT - 1)) >> SHORT, 0x7FFF) << SHORT
    grown = m0 == 2**31
    m0, exponent = np.where(grown, m0 >> 1, m0), exponent + grown
    t = 31 - exponent.astype(np.int64)
    if np.any(t < 1):
        raise ValueError(f"a multiplier is {real.max():.3g}, needed less than 2^30")
    m0 = np.where(t > 62, 0, m0)  # such a product of an int32 is always rounded to 0
    return m0.astype(np.int32), np.minimum(t, 62).astype(np.int8)


def quantize(x: np.ndarray, quantization: Quantization, dtype: str) -> np.ndarray:
    """Return q = clamp(round(x / scale) + zero_point), rounded half to even; NaN becomes the zero
    point.

    Args:
        x: real numbers, any shape; computed in fp32 unless it is fp64.
        quantization: its axis, if any, is an axis of x.
        dtype: of the result.
    """
    scale, zero = _along(quantization, np.ndim(x))
    x = np.asarray(x)
    if x.dtype != np.float64:
        x = x.astype(np.float32)
    with np.errstate(all="ignore"):
        steps = np.rint(x / scale.astype(x.dtype)).astype(np.float64) + zero
    low, high = limits(dtype)
    steps = np.where(np.isnan(steps), zero, steps)
    return np.clip(steps, low, high).astype(dtypes.numpy_dtype(dtype))


def dequantize(q: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Return scale * (q - zero_point) as fp32: the difference exactly, then one rounding."""
    scale, zero = _along(quantization, np.ndim(q))
    return (np.asarray(q, np.int64) - zero).astype(np.float32) * scale


def _along(quantization: Quantization, rank: int) -> tuple[np.ndarray, np.ndarray]:
    shape = [1] * rank
    if quantization.axis >= 0:
        shape[quantization.axis] = -1
    return (quantization.scale.reshape(shape),
            quantization.zero_point.astype(np.int64).reshape(shape))


def clamp(quantization: Quantization, dtype: str, low: float = -np.inf, high: float = np.inf
          ) -> tuple[int, int]:
    """Return the integers between which real numbers from `low` to `high` lie, within the dtype.

    A fused clamp (relu, clip) costs nothing: it is the saturation of the result.
    """
    ends = quantize(np.array([low, high], np.float64), quantization, dtype)
    return int(ends[0]), int(ends[1])


def ratio(factors: Sequence[float], y: Quantization) -> float:
    """Return the product of fp32 numbers over the scale of y, as ops other than sums want it.

    It is computed in fp64; in fp32 if y is rounded "twice", since TFLite's kernels do so.
    """
    kind = np.float32 if y.rounding == "twice" else np.float64
    product = kind(1.0)
    with np.errstate(all="ignore"):
        for factor in factors:
            product = product * kind(factor)
        return float(product / kind(y.step))


def weighted_sum(ratios: list[float], reach: int) -> tuple[list[int], int]:
    """Return (multipliers, k): sum of ratio_i d_i = sum of multiplier_i d_i * 2^-k, nearly.

    k is the largest, up to 30, for which no such sum overflows an int32 before it is rounded:
    reach * sum of |multiplier_i| + 2^(k - 1) < 2^31. A multiplier is at most half a unit off.

    Args:
        ratios: finite numbers.
        reach: the largest |d_i|.

    Raises:
        ValueError: the ratios are too large for any k.
    """
    for k in range(30, 0, -1):
        multipliers = [round(ratio * 2.0**k) for ratio in ratios]
        if reach * sum(map(abs, multipliers)) + 2**(k - 1) < 2**31:
            return multipliers, k
    raise ValueError(f"the ratios {ratios} are too large for sums in 32 bits")
