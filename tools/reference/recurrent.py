"""NumPy reference of recurrent layers."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgerun.quantization import fixed_point
from edgerun.tools.graph import Op
from edgerun.tools.reference import fixed
from edgerun.tools.reference.elementwise import activate, ksigmoid, ktanh
from edgerun.tools.reference.integer import requantize
from edgerun.tools.reference.norm import round_rows


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _functions(op: Op):
    """Return the sigmoid and the tanh of the gates."""
    return (ksigmoid, ktanh) if op.options["ktanh"] else (_sigmoid, np.tanh)


def _clip(op: Op, x: np.ndarray) -> np.ndarray:
    limit = op.options["clip"]
    return np.clip(x, -limit, limit) if limit > 0 else x


def _order(op: Op, p: np.ndarray) -> Iterator[int]:
    return reversed(range(len(p))) if op.options["reverse"] else iter(range(len(p)))


def _start(p: np.ndarray, w: np.ndarray, state: np.ndarray | None) -> np.ndarray:
    if state is None:
        return np.zeros((p.shape[1], len(w)))
    return state.astype(np.float64)


def _rounded(op: Op, h: np.ndarray) -> np.ndarray:
    """Return states rounded to multiples of the largest magnitude of a sample / levels."""
    levels = op.options["levels"]
    return round_rows(h, levels) if levels else h


def _lstm_integer(op: Op, p, w, h, c) -> list[np.ndarray]:
    """The integer form: exact, in int64."""
    y, cell = op.outputs
    zero, bits = y.quantization.zero, int(np.log2(cell.quantization.step)) + 15
    hidden = len(w)
    h = np.zeros((p.shape[1], hidden), np.int64) if h is None else h.astype(np.int64) - zero
    c = np.zeros((p.shape[1], hidden), np.int64) if c is None else c.astype(np.int64)
    scales = np.broadcast_to(op.inputs[1].quantization.scale, 4 * hidden)
    gates = fixed_point(scales * np.float32(y.quantization.step) * np.float32(2**12), "twice")
    result = fixed_point(np.float32(2.0**-30) / np.float32(y.quantization.step), "twice")
    most = min(op.options["cell_clip"] / cell.quantization.step, 32767)
    found = np.empty((*p.shape[:2], hidden), np.int64)
    for step in _order(op, p):
        sums = requantize(h @ w.astype(np.int64), *gates, "twice")
        i, o, f, g = np.split(fixed.saturate(p[step].astype(np.int64) + sums), 4, axis=-1)
        c = fixed.saturate(
            fixed.divided(fixed.sigmoid(f, 3) * c, 15)
            + fixed.divided(fixed.sigmoid(i, 3) * fixed.tanh(g, 3), 15 + bits))
        c = np.clip(c, -int(most), int(most)) if most > 0 else c
        h = requantize(fixed.sigmoid(o, 3) * fixed.tanh(c, bits), *result, "twice")
        found[step] = np.clip(h + zero, 0, 255)
        h = found[step] - zero
    return [found, c]


def _lstm(op: Op, p, w, peepholes=None, h=None, c=None) -> list[np.ndarray]:
    if p.dtype == np.int16:
        return _lstm_integer(op, p, w, h, c)
    h, c = _start(p, w, h), _start(p, w, c)
    sigmoid, tanh = _functions(op)
    k_i, k_o, k_f = np.split(peepholes, 3) if peepholes is not None else (0.0, 0.0, 0.0)
    y = np.empty((*p.shape[:2], len(w)))
    for step in _order(op, p):
        i, o, f, g = np.split(p[step] + _rounded(op, h) @ w.astype(np.float64), 4, axis=-1)
        before = c
        c = (sigmoid(_clip(op, f + k_f * before)) * before
             + sigmoid(_clip(op, i + k_i * before)) * tanh(_clip(op, g)))
        if op.options["cell_clip"] > 0:
            c = np.clip(c, -op.options["cell_clip"], op.options["cell_clip"])
        h = sigmoid(_clip(op, o + k_o * c)) * tanh(c)
        y[step] = h
    return [y, c]


def _gru(op: Op, p, w, bias=None, h=None) -> np.ndarray:
    sigmoid, tanh = _functions(op)
    h = _start(p, w, h)
    y = np.empty((*p.shape[:2], len(w)))
    for step in _order(op, p):
        (p_z, p_r, p_n) = np.split(p[step].astype(np.float64), 3, axis=-1)
        (w_z, w_r, w_n) = np.split(h @ w.astype(np.float64), 3, axis=-1)
        z, r = sigmoid(_clip(op, p_z + w_z)), sigmoid(_clip(op, p_r + w_r))
        if op.options["reset_first"]:
            inner = (r * h) @ np.split(w.astype(np.float64), 3, axis=-1)[2]
        else:
            inner = r * (w_n + (0.0 if bias is None else bias))
        n = tanh(_clip(op, p_n + inner))
        h = (1 - z) * n + z * h
        y[step] = h
    return y


def _rnn(op: Op, p, w, _=None, h=None) -> np.ndarray:
    h = _start(p, w, h)
    y = np.empty((*p.shape[:2], len(w)))
    for step in _order(op, p):
        h = activate(op, _clip(op, p[step] + h @ w.astype(np.float64)).astype(np.float32))
        y[step] = h
    return y


REFERENCE = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
