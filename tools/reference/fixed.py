"""Fixed-point sigmoid and tanh over int16, as gemmlowp defines them (fixedpoint/fixedpoint.h)."""
from __future__ import annotations

import numpy as np

ONE = 32767
# exp(-2^n) for n from -2 to 4, with 15 bits behind the point
POWERS = [25520, 19875, 12055, 4435, 600, 11, 0]


def saturate(x: np.ndarray) -> np.ndarray:
    """Return x within 16 bits."""
    return np.clip(x, -32768, 32767)


def divided(x: np.ndarray, e: int) -> np.ndarray:
    """Return x / 2^e to nearest, halves away from zero."""
    return np.sign(x) * ((np.abs(x) + (1 << e - 1)) >> e)


def _mul(x, y) -> np.ndarray:
    return (np.asarray(x, np.int64) * y + 2**14) >> 15


def _exp(x: np.ndarray, bits: int) -> np.ndarray:
    """exp(x * 2^(bits - 15)) * 2^15 for x <= 0."""
    quarter = 1 << 13 - bits
    rest = x % quarter - quarter
    a = (rest << bits) + 2**12
    a2 = _mul(a, a)
    a3, a4 = _mul(a2, a), _mul(a2, a2)
    tail = divided(_mul(divided(a4, 2) + a3, 10923) + a2, 1)  # a^2 / 2 + a^3 / 6 + a^4 / 24
    y = np.minimum(_mul(28918, a + tail) + 28918, ONE)
    for n, power in enumerate(POWERS[:bits + 2]):
        y = np.where((rest - x) >> 13 - bits + n & 1, _mul(y, power), y)
    return np.where(x == 0, ONE, y)


def _twice_over_one_plus(x: np.ndarray) -> np.ndarray:
    """2 / (1 + x / 2^15) * 2^13 for x from 0 to 2^15 - 1."""
    middle = (x + 2**15) >> 1
    y = _mul(middle, -15420) + 23130
    for _ in range(3):
        y = y + saturate(_mul(y, 2**13 - _mul(middle, y)) << 2)
    return y


def sigmoid(x: np.ndarray, bits: int) -> np.ndarray:
    """sigmoid(x * 2^(bits - 15)) * 2^15, int64."""
    x = np.asarray(x, np.int64)
    y = saturate(_twice_over_one_plus(_exp(-np.abs(x), bits)) << 1)
    return np.where(x == 0, 2**14, np.where(x > 0, y, ONE - y))


def tanh(x: np.ndarray, bits: int) -> np.ndarray:
    """tanh(x * 2^(bits - 15)) * 2^15, int64."""
    x = np.asarray(x, np.int64)
    return np.sign(x) * saturate(
        (_twice_over_one_plus(_exp(-np.abs(x), bits + 1)) - 2**13) << 2)
