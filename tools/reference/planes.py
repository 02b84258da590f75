"""NumPy references of ops over bit planes: layers of few bits, and of one bit (XNOR)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.ops.planes import LARGEST_POWER, SIGN_PLANE, middle
from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate
from edgerun.tools.reference.integer import activation_bounds

WORD = 32  # bits


def words(bits: np.ndarray) -> np.ndarray:
    """Return bits as words: element 32 w + k is bit k of word w, what fills up the last one is 0.

    Args:
        bits: bool [..., K].

    Returns:
        uint32 [..., ceil(K / 32)].
    """
    bits = np.asarray(bits, bool)
    filled = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % WORD)])
    grouped = filled.reshape(*bits.shape[:-1], -1, WORD).astype(np.uint32)
    return (grouped << np.arange(WORD, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def bits_of(packed: np.ndarray, k: int) -> np.ndarray:
    """Return the first k bits of the last axis of words: bool [..., k]; the reverse of words()."""
    every = packed[..., None] >> np.arange(WORD, dtype=np.uint32) & 1
    return every.reshape(*packed.shape[:-1], -1)[..., :k].astype(bool)


def encode(codes: np.ndarray, signs: str, planes: int) -> list[np.ndarray]:
    """Return the planes of integers, the most significant first.

    Args:
        codes: integers [OC, ...]; what follows OC is one row of K.
        signs: "twos", "magnitude" (the sign, 1 where negative, then |q|), "pairs" (of each bit the
            plane of positive integers, then that of negative ones) or "powers" (the sign, then
            1 + log2 |q|, or 0 for 0).
        planes: how many; with "pairs" how many pairs.

    Returns:
        uint32 [OC, ceil(K / 32)] each, in rows.

    Raises:
        ValueError: an integer does not fit.
    """
    q = np.asarray(codes, np.int64).reshape(len(codes), -1)
    bits = max(planes - SIGN_PLANE[signs], 0)
    if signs == "powers":
        return _encode_powers(q, bits, planes)
    low, high = ((-2**planes // 2, 2**planes // 2 - 1) if signs == "twos" and planes
                 else (1 - 2**bits, 2**bits - 1))
    if q.size and (q.min() < low or q.max() > high):
        raise ValueError(f"codes from {q.min()} to {q.max()}, needed {low} to {high} for {planes} "
                         f"planes with the signs {signs}")
    order = range(bits - 1, -1, -1)
    if signs == "twos":
        return [words(q >> k & 1) for k in order]
    sign = [words(q < 0)] if planes and SIGN_PLANE[signs] else []
    if signs == "magnitude":
        return sign + [words(abs(q) >> k & 1) for k in order]
    return [words((abs(q) >> k & 1) * (side * q > 0)) for k in order for side in (1, -1)]


def _encode_powers(q: np.ndarray, bits: int, planes: int) -> list[np.ndarray]:
    exponent = np.where(q == 0, 0, np.log2(np.maximum(abs(q), 1)).astype(np.int64) + 1)
    if np.any((abs(q) != 2**exponent // 2)) or exponent.max(initial=0) > min(
            LARGEST_POWER, 2**bits - 1):
        raise ValueError(f"codes from {q.min()} to {q.max()}, needed 0 and powers of two of an "
                         f"exponent that {planes} planes hold, at most {LARGEST_POWER - 1}")
    return ([words(q < 0)] if planes else []) + [
        words(exponent >> k & 1) for k in range(bits - 1, -1, -1)]


def decode(planes: Sequence[np.ndarray], signs: str, k: int, out_c: int, most: int | None = None
           ) -> np.ndarray:
    """Return the integers that the first planes hold: q_t of planes_conv2d; reverses encode().

    Args:
        planes: the first t of those of encode(); with "pairs" 2 t of them.
        signs: as in encode().
        k: elements of a row.
        out_c: rows, for no planes at all.
        most: planes that there are, for "powers"; default: those given.

    Returns:
        int64 [out_c, k].
    """
    total = np.zeros((out_c, k), np.int64)
    bits = [bits_of(np.asarray(plane, np.uint32).reshape(out_c, -1), k).astype(np.int64)
            for plane in planes]
    if signs == "pairs":
        for positive, negative in zip(bits[::2], bits[1::2]):
            total = 2 * total + positive - negative
        return total
    if signs == "powers":
        for plane in bits[1:]:
            total = 2 * total + plane
        total <<= max((len(bits) if most is None else most) - max(len(bits), 1), 0)
        power = np.where((total > 0) & (total <= LARGEST_POWER), 1 << np.maximum(total - 1, 0), 0)
        return power * (1 - 2 * bits[0]) if bits else power
    for number, plane in enumerate(bits[SIGN_PLANE[signs]:]):
        total = 2 * total + (-plane if signs == "twos" and number == 0 else plane)
    return total * (1 - 2 * bits[0]) if signs == "magnitude" and bits else total


def patches(op: Op, x: np.ndarray, fill) -> np.ndarray:
    """Return what every output pixel of a convolution sees, [N, OH, OW, taps, C].

    Args:
        op: for the sizes and options of the convolution.
        x: [N, H, W, C].
        fill: what lies outside the image.
    """
    o, (_, out_h, out_w, _) = op.options, op.outputs[0].shape
    padded = np.pad(x, ((0, 0), (o["pad_top"], o["pad_bottom"]), (o["pad_left"], o["pad_right"]),
                        (0, 0)), constant_values=fill)
    taps = []
    for ky in range(o["kernel_h"]):
        for kx in range(o["kernel_w"]):
            rows = ky * o["dilation_h"] + np.arange(out_h) * o["stride_h"]
            columns = kx * o["dilation_w"] + np.arange(out_w) * o["stride_w"]
            taps.append(padded[:, rows][:, :, columns])
    return np.stack(taps, 3)


def _layer(op: Op, seen: np.ndarray, levels: np.ndarray, used: np.ndarray,
           planes: Sequence[np.ndarray]) -> np.ndarray:
    """Return y of what every position sees: x - zero_x, int64 [..., groups, K]."""
    signs, out_c, groups = op.options["signs"], levels.shape[2], seen.shape[-2]
    each = 2 if signs == "pairs" else 1
    most = len(planes) // each
    counts = list(op.options["counts"] or range(most + 1 - len(levels), most + 1))
    t = max([n for n in counts if n <= used[0]], default=counts[0])
    q = decode(planes[:each * t], signs, seen.shape[-1], out_c, most)
    acc = np.einsum("...gk,gok->...go", seen, q.reshape(groups, out_c // groups, -1))
    acc = acc.reshape(*seen.shape[:-2], out_c).astype(np.float32)
    total = np.repeat(seen.sum(-1), out_c // groups, -1).astype(np.float32)
    a, *given, c = levels[counts.index(t)]
    b = given[0] if given else a * np.float32(middle(signs, most, t))
    r = (a * acc + b * total) + c
    y = op.outputs[0]
    if y.quantization is None:
        return activate(op, r)
    low, high = activation_bounds(op, y)
    near = np.rint(np.clip(r, -2**22 + 1, 2**22 - 1)).astype(np.int64)
    return np.clip(near + y.quantization.zero, low, high)


def _planes_conv2d(op: Op, x, levels, used, *planes) -> np.ndarray:
    zero, groups = op.inputs[0].quantization.zero, op.options["groups"]
    seen = patches(op, x.astype(np.int64) - zero, 0)
    *where, taps, channels = seen.shape
    by_group = seen.reshape(*where, taps, groups, channels // groups)
    return _layer(op, np.moveaxis(by_group, -2, -3).reshape(*where, groups, -1), levels, used,
                  planes)


def _planes_dense(op: Op, x, levels, used, *planes) -> np.ndarray:
    centred = x.astype(np.int64) - op.inputs[0].quantization.zero
    return _layer(op, centred[..., None, :], levels, used, planes)


def _binarize(op: Op, x) -> np.ndarray:
    return words(x >= 0)


def _signs(bits: np.ndarray, channels: int) -> np.ndarray:
    """Return the numbers +1 and -1 that bits stand for."""
    return bits_of(bits, channels).astype(np.int64) * 2 - 1


def _xnor(op: Op, seen: np.ndarray, w: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return y of the numbers that every position sees, [..., taps, C], 0 outside the image."""
    taps, channels = seen.shape[-2:]
    weights = _signs(w.reshape(len(w), taps, -1), channels)
    dot = np.einsum("...tc,otc->...o", seen, weights).astype(np.float32)
    return activate(op, levels[0] * dot + levels[1])


def _xnor_conv2d(op: Op, x, w, levels) -> np.ndarray:
    return _xnor(op, patches(op, _signs(x, op.options["channels"]), 0), w, levels)


def _xnor_dense(op: Op, x, w, levels) -> np.ndarray:
    return _xnor(op, _signs(x, op.options["channels"])[..., None, :], w, levels)


REFERENCE = {"planes_conv2d": _planes_conv2d, "planes_dense": _planes_dense, "binarize": _binarize,
             "xnor_conv2d": _xnor_conv2d, "xnor_dense": _xnor_dense}
