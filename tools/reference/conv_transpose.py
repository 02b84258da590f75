"""NumPy reference of transposed convolution: every pixel scatters its products."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference import integer
from edgerun.tools.reference.elementwise import activate


def _sums(op: Op, x: np.ndarray, w: np.ndarray, zero) -> np.ndarray:
    """Return the sums of products, of the type of `zero`."""
    o = op.options
    n, height, width, _ = x.shape
    out_c, kernel_h, kernel_w, in_c = w.shape
    per_group = out_c // o["groups"]
    full = np.zeros((n, (height - 1) * o["stride_h"] + (kernel_h - 1) * o["dilation_h"] + 1
                     + o["output_pad_h"], (width - 1) * o["stride_w"]
                     + (kernel_w - 1) * o["dilation_w"] + 1 + o["output_pad_w"], out_c),
                    np.asarray(zero).dtype)
    for kh, kw in np.ndindex(kernel_h, kernel_w):
        top, left = kh * o["dilation_h"], kw * o["dilation_w"]
        reached = full[:, top:top + (height - 1) * o["stride_h"] + 1:o["stride_h"],
                       left:left + (width - 1) * o["stride_w"] + 1:o["stride_w"]]
        for g in range(o["groups"]):
            outputs = slice(g * per_group, (g + 1) * per_group)
            part = x[..., g * in_c:(g + 1) * in_c].astype(full.dtype)
            reached[..., outputs] += part @ w[outputs, kh, kw].T
    return full[:, o["pad_top"]:full.shape[1] - o["pad_bottom"],
                o["pad_left"]:full.shape[2] - o["pad_right"]]


def _conv_transpose2d(op: Op, x, w, bias=None, residual=None, zeros=None, m0=None, t=None
                      ) -> np.ndarray:
    if m0 is None:
        y = _sums(op, x, w, np.float64(0)) + (0 if bias is None else bias)
        return activate(op, y.astype(np.float32))
    quantization = op.inputs[0].quantization
    zero_x = quantization.zero if quantization else 0
    return integer.finish(op, lambda x, w, zero: _sums(op, x - zero_x, w, zero), x, w, bias,
                          residual, m0, t)


REFERENCE = {"conv_transpose2d": _conv_transpose2d}
