"""NumPy reference of recurrent layers."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _clip(op: Op, x: np.ndarray) -> np.ndarray:
    limit = op.options["clip"]
    return np.clip(x, -limit, limit) if limit > 0 else x


def _order(op: Op, p: np.ndarray) -> Iterator[int]:
    return reversed(range(len(p))) if op.options["reverse"] else iter(range(len(p)))


def _start(p: np.ndarray, w: np.ndarray, state: np.ndarray | None) -> np.ndarray:
    if state is None:
        return np.zeros((p.shape[1], len(w)))
    return state.astype(np.float64)


def _lstm(op: Op, p, w, peepholes=None, h=None, c=None) -> list[np.ndarray]:
    h, c = _start(p, w, h), _start(p, w, c)
    k_i, k_o, k_f = np.split(peepholes, 3) if peepholes is not None else (0.0, 0.0, 0.0)
    y = np.empty((*p.shape[:2], len(w)))
    for step in _order(op, p):
        i, o, f, g = np.split(p[step] + h @ w.astype(np.float64), 4, axis=-1)
        before = c
        c = (_sigmoid(_clip(op, f + k_f * before)) * before
             + _sigmoid(_clip(op, i + k_i * before)) * np.tanh(_clip(op, g)))
        h = _sigmoid(_clip(op, o + k_o * c)) * np.tanh(c)
        y[step] = h
    return [y, c]


def _gru(op: Op, p, w, bias=None, h=None) -> np.ndarray:
    h = _start(p, w, h)
    y = np.empty((*p.shape[:2], len(w)))
    for step in _order(op, p):
        (p_z, p_r, p_n) = np.split(p[step].astype(np.float64), 3, axis=-1)
        (w_z, w_r, w_n) = np.split(h @ w.astype(np.float64), 3, axis=-1)
        z, r = _sigmoid(_clip(op, p_z + w_z)), _sigmoid(_clip(op, p_r + w_r))
        if op.options["reset_first"]:
            inner = (r * h) @ np.split(w.astype(np.float64), 3, axis=-1)[2]
        else:
            inner = r * (w_n + (0.0 if bias is None else bias))
        n = np.tanh(_clip(op, p_n + inner))
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
