"""Weights as integers: what each scheme stores, by its formula, in NumPy.

Every function takes real weights w [OC, ...] and returns Codes, whose decode() is the weights that
the network computes with. A scheme's training module computes the same values.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgerun.tools.planes.integers import cut


@dataclass(frozen=True)
class Codes:
    """Integer weights with a scale and an offset per output channel and number of planes.

    With t of the planes, w = scale[t] * (code_t + offset[t]), where code_t are the t most
    significant planes of the codes.

    Attributes:
        codes: integers [OC, ...]; in a table's form indices of its values.
        bits: how many planes (with signs "pairs": pairs of planes) the codes take.
        signs: "twos" complement, sign and "magnitude" (the sign is one of the planes), or "pairs"
            of positive and negative planes.
        scale, offset: fp32 [bits + 1, OC].
        table: integer values of the codes, ascending; empty: a code is its own value.
    """
    codes: np.ndarray
    bits: int
    signs: str
    scale: np.ndarray
    offset: np.ndarray
    table: tuple[int, ...] = ()

    def prefix(self, planes: int | None = None) -> np.ndarray:
        """Return the integer values that the first planes hold, int32 [OC, ...]; None: all."""
        planes = self.bits if planes is None else planes
        if self.table:
            if planes != self.bits:
                raise ValueError("the planes of a table mean nothing one by one")
            return np.asarray(self.table, np.int32)[self.codes]
        return cut(self.codes, self.bits, planes, self.signs)

    def decode(self, planes: int | None = None) -> np.ndarray:
        """Return the weights that the first planes stand for, fp32 [OC, ...]."""
        at = self.bits if planes is None else planes
        each = (-1, *(1,) * (self.codes.ndim - 1))
        values = self.prefix(planes).astype(np.float32)
        return self.scale[at].reshape(each) * (values + self.offset[at].reshape(each))

    def scaled(self, factor: np.ndarray) -> Codes:
        """Return the codes of weights that are `factor` times these; factor [OC] or [bits + 1, OC].
        """
        return replace(self, scale=(self.scale * factor).astype(np.float32))


def prefixes(scale: np.ndarray | float, offset: np.ndarray | float, bits: int, signs: str,
             channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset of every number of planes, fp32 [bits + 1, OC], from those of all.

    A plane less doubles the step. Codes in two's complement lose a rest of 0 to 2^left - 1, so the
    offset grows by its middle; signed magnitudes lose none on average. Without a plane, w is 0.
    """
    scale, offset = (np.broadcast_to(np.asarray(value, np.float64), channels)
                     for value in (scale, offset))
    scales, offsets = np.zeros((2, bits + 1, channels))
    for planes in range(1, bits + 1):
        step = 2.0 ** (bits - planes)
        rest = (step - 1) / 2 if signs == "twos" else 0.0
        scales[planes], offsets[planes] = scale * step, (offset + rest) / step
    return scales.astype(np.float32), offsets.astype(np.float32)


def _codes(codes: np.ndarray, bits: int, signs: str, scale: np.ndarray | float,
           offset: np.ndarray | float = 0.0, table: tuple[int, ...] = ()) -> Codes:
    return Codes(codes.astype(np.int16), bits, signs,
                 *prefixes(scale, offset, bits, signs, len(codes)), table)


def _rows(w: np.ndarray) -> np.ndarray:
    return w.reshape(len(w), -1)


def _channels(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Shape values [OC] so that they multiply w [OC, ...]."""
    return values.reshape(-1, *(1,) * (w.ndim - 1))


def symmetric_top(bits: int) -> int:
    """Return the largest code of `symmetric`.

    Raises:
        ValueError: fewer than 2 bits, of which the only code would be 0.
    """
    if bits < 2:
        raise ValueError(f"{bits} bits have no symmetric steps, needed 2 or more (one bit is "
                         "binary)")
    return 2 ** (bits - 1) - 1


def symmetric(w: np.ndarray, bits: int) -> Codes:
    """Round to whole steps of max|w| / (2^(bits-1) - 1), a step for each output channel."""
    top = symmetric_top(bits)
    scale = np.maximum(np.abs(_rows(w)).max(1) / np.float32(top), np.float32(1e-12))
    return _codes(np.rint(w / _channels(scale, w)).clip(-top, top), bits, "twos", scale)


def min_max(w: np.ndarray, bits: int) -> Codes:
    """Round to 2^bits even levels from the least to the largest weight of each output channel.

    The quantizer of cyclic precision training (Fu et al., 2021): q = round((w - min) / step).
    """
    low = _rows(w).min(1)
    step = np.maximum((_rows(w).max(1) - low) / np.float32(2 ** bits - 1), np.float32(1e-12))
    levels = np.rint((w - _channels(low, w)) / _channels(step, w)).clip(0, 2 ** bits - 1)
    half = 2 ** (bits - 1)
    return _codes(levels - half, bits, "twos", step, half + low.astype(np.float64) / step)


def dorefa(w: np.ndarray, bits: int) -> Codes:
    """Zhou et al., "DoReFa-Net", 2016: 2 quantize_k(tanh w / (2 max|tanh w|) + 1/2) - 1.

    quantize_k(r) = round((2^k - 1) r) / (2^k - 1); one bit is mean|w| sign(w) of the whole layer.
    """
    if bits == 1:
        return _sign(w, np.full(len(w), np.abs(w).mean(), np.float32))
    top = 2 ** bits - 1
    squashed = np.tanh(w)
    levels = np.rint((squashed / (2 * np.abs(squashed).max()) + np.float32(0.5)) * top)
    half = 2 ** (bits - 1)
    return _codes(levels - half, bits, "twos", 2 / top, half - top / 2)


def binary(w: np.ndarray, scaled: bool = True) -> Codes:
    """sign(w), times mean|w| of each output channel when scaled.

    Courbariaux et al., "BinaryConnect", 2015; Rastegari et al., "XNOR-Net", 2016 (scaled).
    The sign of 0 is 1.
    """
    return _sign(w, np.abs(_rows(w)).mean(1) if scaled else np.ones(len(w), np.float32))


def _sign(w: np.ndarray, alpha: np.ndarray) -> Codes:
    """One plane in two's complement: codes -1 and 0 are w = 2 alpha (code + 1/2)."""
    return _codes(np.where(w >= 0, 0, -1), 1, "twos", 2 * alpha, 0.5)


def ternary(w: np.ndarray) -> Codes:
    """Li et al., "Ternary weight networks", 2016, for each output channel.

    alpha {1, 0, -1} with threshold D = 0.7 mean|w| and alpha = mean|w| of those beyond it.
    """
    size = np.abs(_rows(w))
    beyond = size > np.float32(0.7) * size.mean(1, keepdims=True)
    alpha = (size * beyond).sum(1) / np.maximum(beyond.sum(1), 1)
    codes = (np.sign(_rows(w)) * beyond).reshape(w.shape)
    return _codes(codes, 1, "pairs", alpha)


def trained_ternary(w: np.ndarray, positive: float, negative: float, threshold: float = 0.05
                    ) -> Codes:
    """Zhu et al., "Trained ternary quantization", 2017: {positive, 0, -negative}, both learned.

    A weight is 0 up to `threshold` max|w|. A file holds whole numbers: the larger of the two scales
    is 127 steps, the other is rounded to a step.
    """
    limit = np.float32(threshold) * np.abs(w).max()
    step = max(positive, negative) / 127
    table = (-round(negative / step), 0, round(positive / step))
    indices = 1 + (w > limit).astype(np.int16) - (w < -limit)
    return _codes(indices, 2, "twos", step, 0.0, table)


def exponents(w: np.ndarray, bits: int) -> tuple[int, int]:
    """Return the least and the largest exponent of `power_of_two` for these weights."""
    highest = int(np.floor(np.log2(4 * max(float(np.abs(w).max()), 1e-30) / 3)))
    return highest + 1 - 2 ** (bits - 2), highest


def power_of_two(w: np.ndarray, bits: int, highest: int | None = None) -> Codes:
    """Zhou et al., "Incremental network quantization", 2017: 0 or +-2^n, n2 <= n <= n1.

    n1 = floor(log2(4 max|w| / 3)) unless given, n2 = n1 + 1 - 2^(bits-2): the sign, and a code for
    0, are among the bits. Each weight becomes the nearest of these values.
    """
    highest = exponents(w, bits)[1] if highest is None else highest
    count = 2 ** (bits - 2)
    lowest = highest + 1 - count
    size = np.abs(w).astype(np.float64) / 2.0 ** lowest
    # the middle between 2^n and 2^(n+1) is 1.5 * 2^n: round in steps of the logarithm around it
    power = np.floor(np.log2(np.maximum(size, 1e-30) * (4 / 3))).clip(0, count - 1)
    index = np.where(size < 0.5, 0, power + 1) * np.sign(w)
    table = (*(-(2 ** n) for n in reversed(range(count))), 0, *(2 ** n for n in range(count)))
    return _codes(index + count, bits, "twos", 2.0 ** lowest, 0.0, table)


def fraction_bits(largest: float, word: int) -> int:
    """Return FL of dynamic fixed point: word - 1 - ceil(log2 largest), as Ristretto has it."""
    return word - 1 - int(np.ceil(np.log2(max(largest, 1e-30))))


def fixed(w: np.ndarray, bits: int, fraction: int | None = None) -> Codes:
    """Dynamic fixed point: whole steps of 2^-FL, one FL for the layer, saturating.

    Courbariaux et al., 2014; Gysel et al., "Ristretto", 2016.
    """
    fraction = fraction_bits(float(np.abs(w).max()), bits) if fraction is None else fraction
    half = 2 ** (bits - 1)
    codes = np.rint(w.astype(np.float64) * 2.0 ** fraction).clip(-half, half - 1)
    return _codes(codes, bits, "twos", 2.0 ** -fraction)
