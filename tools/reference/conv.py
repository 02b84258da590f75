"""NumPy references of convolutions and dense layers."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference import integer
from edgerun.tools.reference.elementwise import activate


def _taps(op: Op, x: np.ndarray, kernel: tuple[int, int], out: tuple[int, int]):
    """Yield (ky, kx, the elements of the padded x under that tap for every output pixel).

    Outside the image are zeros: the zero point of a quantized x.
    """
    o, quantization = op.options, op.inputs[0].quantization
    padded = np.pad(x, ((0, 0), (o["pad_top"], o["pad_bottom"]), (o["pad_left"], o["pad_right"]),
                        (0, 0)), constant_values=quantization.zero if quantization else 0)
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


def _sums(op: Op, x: np.ndarray, w: np.ndarray, zero) -> np.ndarray:
    """Return the sums of products of conv2d, of the type of `zero`."""
    shape, groups = op.outputs[0].shape, op.options["groups"]
    sums = np.full(shape, zero)
    in_c, out_c = w.shape[3], w.shape[0] // groups
    for ky, kx, under in _taps(op, x, w.shape[1:3], shape[1:3]):
        for g in range(groups):
            inputs, outputs = slice(g * in_c, (g + 1) * in_c), slice(g * out_c, (g + 1) * out_c)
            sums[..., outputs] += under[..., inputs] @ w[outputs, ky, kx].T.astype(sums.dtype)
    return sums


def _conv2d(op: Op, x, w, bias=None, residual=None, zeros=None, m0=None, t=None) -> np.ndarray:
    if m0 is not None:
        return integer.finish(op, lambda x, w, zero: _sums(op, x, w, zero), x, w, bias, residual,
                              m0, t)
    return _finish(op, _sums(op, x, w, np.float64(0)), bias, residual)


def _depthwise_sums(op: Op, x: np.ndarray, w: np.ndarray, zero) -> np.ndarray:
    """Return the sums of products of depthwise_conv2d, of the type of `zero`."""
    shape = op.outputs[0].shape
    sums, multiplier = np.full(shape, zero), w.shape[2] // x.shape[3]
    for ky, kx, under in _taps(op, x, w.shape[:2], shape[1:3]):
        sums += np.repeat(under, multiplier, axis=3).astype(sums.dtype) * w[ky, kx]
    return sums


def _depthwise_conv2d(op: Op, x, w, bias=None, residual=None, zeros=None, m0=None, t=None
                      ) -> np.ndarray:
    if m0 is not None:
        return integer.finish(op, lambda x, w, zero: _depthwise_sums(op, x, w, zero), x, w, bias,
                              residual, m0, t)
    return _finish(op, _depthwise_sums(op, x, w, np.float64(0)), bias, residual)


def _dense(op: Op, x, w, bias=None, residual=None, zeros=None, m0=None, t=None) -> np.ndarray:
    if m0 is not None:
        return integer.finish(op, lambda x, w, zero: x @ w.T.astype(zero.dtype), x, w, bias,
                              residual, m0, t)
    return _finish(op, x @ w.T.astype(np.float64), bias, residual)


REFERENCE = {"conv2d": _conv2d, "depthwise_conv2d": _depthwise_conv2d, "dense": _dense}
