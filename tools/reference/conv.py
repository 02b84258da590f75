"""NumPy references of convolutions and dense layers."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate


def _taps(op: Op, x: np.ndarray, kernel: tuple[int, int], out: tuple[int, int]):
    """Yield (ky, kx, the elements of the padded x under that tap for every output pixel)."""
    o = op.options
    padded = np.pad(x, ((0, 0), (o["pad_top"], o["pad_bottom"]), (o["pad_left"], o["pad_right"]),
                        (0, 0)))
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = ky * o["dilation_h"] + np.arange(out[0]) * o["stride_h"]
            columns = kx * o["dilation_w"] + np.arange(out[1]) * o["stride_w"]
            yield ky, kx, padded[:, rows][:, :, columns]


def _finish(op: Op, y: np.ndarray, bias: np.ndarray | None,
            residual: np.ndarray | None) -> np.ndarray:
    if bias is not None:
        y = y + bias
    if residual is not None:
        y = y + residual
    return activate(op, y.astype(np.float32))


def _conv2d(op: Op, x, w, bias=None, residual=None, zeros=None) -> np.ndarray:
    shape, groups = op.outputs[0].shape, op.options["groups"]
    y = np.zeros(shape, np.float64)
    in_c, out_c = w.shape[3], w.shape[0] // groups
    for ky, kx, under in _taps(op, x, w.shape[1:3], shape[1:3]):
        for g in range(groups):
            inputs, outputs = slice(g * in_c, (g + 1) * in_c), slice(g * out_c, (g + 1) * out_c)
            y[..., outputs] += under[..., inputs] @ w[outputs, ky, kx].T.astype(np.float64)
    return _finish(op, y, bias, residual)


def _depthwise_conv2d(op: Op, x, w, bias=None, residual=None) -> np.ndarray:
    shape = op.outputs[0].shape
    y = np.zeros(shape, np.float64)
    multiplier = w.shape[2] // x.shape[3]
    for ky, kx, under in _taps(op, x, w.shape[:2], shape[1:3]):
        y += np.repeat(under, multiplier, axis=3).astype(np.float64) * w[ky, kx]
    return _finish(op, y, bias, residual)


def _dense(op: Op, x, w, bias=None, residual=None) -> np.ndarray:
    return _finish(op, x @ w.T.astype(np.float64), bias, residual)


REFERENCE = {"conv2d": _conv2d, "depthwise_conv2d": _depthwise_conv2d, "dense": _dense}
