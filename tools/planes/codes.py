"""What integers in planes mean: the real weights of every prefix of the planes.

With t planes, w = scale[t] * (q_t + offset[t]): one scale and one offset per output channel and
number of planes, since what the missing planes would add is not 0 on average.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgerun.ops.planes import LARGEST_POWER
from edgerun.quantization import Quantization
from edgerun.tools.planes.integers import bounds, cut, exponents as exponents_of
from edgerun.tools.planes.prefixes import derive

@dataclass(frozen=True, eq=False)
class Planes(Quantization):
    """What plane-coded weights mean: a Quantization of the full number of planes, and the rest.

    `scale` is that of all planes, `zero_point` 0: what counts is reals(). Only the packer's graph
    has tensors with it, behind a dequantize; lowering makes planes of them.

    Attributes:
        signs: key of MOST.
        scales, offsets: fp64 [bits + 1, OC]; row 0 is not used.
        shifts: fp64 [bits + 1, OC]: what is added to the bias of the layer with t planes.
        table: integer values of the codes, ascending; (): a code is its own value.
    """
    signs: str = "twos"
    scales: np.ndarray = None
    offsets: np.ndarray = None
    shifts: np.ndarray = None
    table: tuple[int, ...] = ()

    @staticmethod
    def of(signs: str, scales: np.ndarray, offsets: np.ndarray, axis: int = 0,
           shifts: np.ndarray | None = None, table: Sequence[int] = ()) -> Planes:
        """Return the planes of some rows [bits + 1, OC], OC on an axis of the weights."""
        scales, offsets = np.asarray(scales, np.float64), np.asarray(offsets, np.float64)
        shifts = np.zeros_like(scales) if shifts is None else np.asarray(shifts, np.float64)
        full = scales[-1] if len(scales) > 1 else np.ones(scales.shape[1])
        return Planes(full.astype(np.float32), np.zeros(full.shape, np.int32), axis, "once", signs,
                      scales, offsets, shifts, tuple(int(v) for v in table))

    @property
    def bits(self) -> int:
        """Planes in all; with the signs "pairs" pairs of planes."""
        return len(self.scales) - 1

    @property
    def key(self) -> tuple:
        """Equal for equal planes."""
        return (*super().key, self.signs, self.scales.tobytes(), self.offsets.tobytes(),
                self.shifts.tobytes(), self.table)

    def taken(self, index: np.ndarray, axis: int, factor: float = 1.0) -> Planes:
        """Return the planes of some output channels, in their order, times a factor."""
        return Planes.of(self.signs, self.scales[:, index] * factor, self.offsets[:, index], axis,
                         self.shifts[:, index], self.table)

    def times(self, factor: np.ndarray) -> Planes:
        """Return the planes of weights and biases that are `factor` [OC] times as large."""
        return Planes.of(self.signs, self.scales * factor, self.offsets, self.axis,
                         self.shifts * factor, self.table)

    def shifted(self, shifts: np.ndarray) -> Planes:
        """Return the planes with other changes of the bias, [bits + 1, OC]."""
        return replace(self, shifts=np.asarray(shifts, np.float64))

    def reals(self, q: np.ndarray, planes: int | None = None) -> np.ndarray:
        """Return the weights that the first planes mean (default: all), fp32, the shape of q."""
        t = self.bits if planes is None else planes
        if t == 0:
            return np.zeros(q.shape, np.float32)
        shape = [1] * q.ndim
        shape[self.axis] = -1
        values = self.values(q) if t == self.bits else cut(q, self.bits, t, self.signs)
        return (self.scales[t].reshape(shape)
                * (values + self.offsets[t].reshape(shape))).astype(np.float32)

    def values(self, q: np.ndarray) -> np.ndarray:
        """Return the integers that the codes stand for."""
        return np.asarray(self.table, np.int32)[q] if self.table else np.asarray(q, np.int32)

    def plain(self, q: np.ndarray) -> tuple[np.ndarray, Planes]:
        """Return codes that are their own values, and their planes: as few as hold all values.

        Without a table both are as they are. With one, a prefix of the codes would mean nothing;
        scales and offsets of a prefix of the values are fitted to the weights.
        """
        if not self.table:
            return q, self
        low, high = min(self.table), max(self.table)
        fits = {signs: next(n for n in range(1, 18)
                            if bounds(n, signs)[0] <= low and high <= bounds(n, signs)[1])
                for signs in ("magnitude", "twos")}
        exponents = exponents_of(self.table)
        if (np.abs(self.table) == 2**exponents // 2).all() and exponents.max() <= LARGEST_POWER:
            fits["powers"] = 1 + int(exponents.max()).bit_length()
        signs = min(fits, key=fits.get)
        bits, values = fits[signs], self.values(q)
        scales, offsets = derive(values, bits, signs, self.reals(q), self.axis, self.scales[-1])
        scales[-1], offsets[-1] = self.scales[-1], self.offsets[-1]
        shifts = np.broadcast_to(self.shifts[-1], scales.shape).copy()
        shifts[0] = self.shifts[0]
        return values, Planes.of(signs, scales, offsets, self.axis, shifts)


def coded(tensor: Any) -> bool:
    """Whether a tensor of the graph holds plane-coded weights."""
    return tensor is not None and isinstance(tensor.quantization, Planes)
