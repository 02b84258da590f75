"""NumPy reference of pooling."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate


def _taps(start: int, kernel: int, dilation: int, low: int, high: int) -> list[int]:
    return [at for at in range(start, start + kernel * dilation, dilation) if low <= at < high]


def _pool2d(op: Op, x: np.ndarray) -> np.ndarray:
    o = op.options
    height, width = x.shape[1:3]
    y = np.empty(op.outputs[0].shape, np.float32)
    for oh, ow in np.ndindex(*y.shape[1:3]):
        vertical = (oh * o["stride_h"] - o["pad_top"], o["kernel_h"], o["dilation_h"])
        horizontal = (ow * o["stride_w"] - o["pad_left"], o["kernel_w"], o["dilation_w"])
        rows, columns = _taps(*vertical, 0, height), _taps(*horizontal, 0, width)
        window = x[:, rows][:, :, columns].astype(np.float64)
        if o["kind"] == "max":
            y[:, oh, ow] = window.max(axis=(1, 2), initial=-np.inf)
        else:
            counted = len(rows) * len(columns)
            if o["count_include_pad"]:
                counted = (len(_taps(*vertical, -o["pad_top"], height + o["pad_bottom"]))
                           * len(_taps(*horizontal, -o["pad_left"], width + o["pad_right"])))
            y[:, oh, ow] = window.sum(axis=(1, 2)) / max(counted, 1)
    return activate(op, y)


REFERENCE = {"pool2d": _pool2d}
