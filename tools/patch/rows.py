"""Which rows of its inputs an op needs for some rows of its output, and the op that computes them.

Rows are the second axis of an image [1, H, W, C]: they follow each other in memory. A span of rows
is (first, end), end excluded.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgerun.tools.graph import Op, Tensor

Span = tuple[int, int]

ROW_AXIS = 1
WINDOWS = ("conv2d", "depthwise_conv2d", "pool2d")
RESIDUAL = 3  # input of a convolution that has the rows of the output
POINTWISE = ("unary", "binary", "quantize", "dequantize", "requantize", "cast", "table", "where")
ACROSS_LAST = {"softmax": "axis", "layer_norm": "axis"}  # op -> option that names their first axis


def hull(a: Span | None, b: Span) -> Span:
    """Return the shortest span with the rows of both; None has none."""
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))


def height(tensor: Tensor) -> int:
    """Return the number of rows of an image."""
    return tensor.shape[ROW_AXIS]


def is_image(tensor: Tensor | None) -> bool:
    """Whether a tensor has rows that lie behind each other in memory."""
    return tensor is not None and len(tensor.shape) == 4 and tensor.shape[0] == 1


def can_cut(op: Op) -> bool:
    """Whether some rows of the op's output can be computed from some rows of its inputs."""
    x, y = op.inputs[0] if op.inputs else None, op.outputs[0]
    if not is_image(x) or x.constant or not is_image(y) or len(op.outputs) != 1 or not all(
            _same_for_rows(tensor) for tensor in (*op.inputs, y)):
        return False
    if op.code in WINDOWS:
        return _can_cut_window(op)
    o = op.options
    if op.code == "pad":
        return o["mode"] == "constant" or not (o["before"][ROW_AXIS] or o["after"][ROW_AXIS])
    if op.code == "slice":
        return o["steps"][ROW_AXIS] > 0 and o["starts"][0] == 0
    if op.code == "concat":
        return o["axis"] % 4 != ROW_AXIS and all(
            is_image(t) and not t.constant for t in op.inputs)
    if op.code in ACROSS_LAST:
        return o[ACROSS_LAST[op.code]] % 4 == 3 and all(
            t is None or t.constant and len(t.shape) <= 1 for t in op.inputs[1:])
    if op.code == "reduce":
        return o["keep_dims"] and {*o["axes"]} <= {2, 3}
    if op.code in ("lrn", "l2_normalize"):
        return True
    return op.code in POINTWISE and all(_broadcasts(t, y) for t in op.inputs)


def _same_for_rows(tensor: Tensor | None) -> bool:
    """Whether the integers of a tensor mean the same in every row."""
    q = tensor.quantization if tensor is not None else None
    return q is None or tensor.constant or q.axis in (-1, 3)


def _broadcasts(tensor: Tensor | None, y: Tensor) -> bool:
    """Whether an operand of a pointwise op has the rows of the output, or the same for all."""
    if tensor is None:
        return True
    rows = tensor.shape[-3] if len(tensor.shape) >= 3 else 1
    if tensor.constant:  # would have to be cut, and be stored once per strip
        return rows == 1
    return len(tensor.shape) < 3 or (is_image(tensor) and rows in (1, height(y)))


def _can_cut_window(op: Op) -> bool:
    residual = op.inputs[RESIDUAL] if len(op.inputs) > RESIDUAL else None
    if residual is not None and (residual.constant or not is_image(residual)):
        return False
    if any(t is not None and not t.constant for i, t in enumerate(op.inputs)
           if i not in (0, RESIDUAL)):
        return False
    # every window has a row of the image
    extent, stride, before = _window(op)
    return before < extent and (height(op.outputs[0]) - 1) * stride - before < height(op.inputs[0])


def _window(op: Op) -> tuple[int, int, int]:
    """Return how many rows a window spans, from one to the next, and rows in front of the image."""
    o = op.options
    taps = o["kernel_h"] if op.code == "pool2d" else op.inputs[1].shape[
        0 if op.code == "depthwise_conv2d" else 1]
    return (taps - 1) * o["dilation_h"] + 1, o["stride_h"], o["pad_top"]


def _seen(op: Op, rows: Span) -> Span:
    """Return the rows that windows see, also those in front of the image and behind it."""
    extent, stride, before = _window(op)
    return rows[0] * stride - before, (rows[1] - 1) * stride - before + extent


def reads(op: Op, rows: Span) -> list[Span | None]:
    """Return which rows of each input an op needs; None for what has no rows, or is constant.

    Args:
        op: one that can_cut() allows.
        rows: of its output, at least one.
    """
    if op.code in WINDOWS:
        start, end = _seen(op, rows)
        spans: list[Span | None] = [(max(start, 0), min(end, height(op.inputs[0])))]
        return spans + [rows if i == RESIDUAL and t is not None else None
                        for i, t in enumerate(op.inputs[1:], 1)]
    if op.code == "pad":
        before, n = op.options["before"][ROW_AXIS], height(op.inputs[0])
        first = min(max(rows[0] - before, 0), n - 1)  # at least a row, where all is padding
        return [(first, max(min(rows[1] - before, n), first + 1))]
    if op.code == "slice":
        start, step = (op.options[key][ROW_AXIS] for key in ("starts", "steps"))
        return [(start + rows[0] * step, start + (rows[1] - 1) * step + 1)]
    return [None if t is None or t.constant or not is_image(t)
            else rows if height(t) == height(op.outputs[0]) else (0, 1) for t in op.inputs]


def possible(op: Op, rows: Span) -> bool:
    """Whether an op can compute some rows of its output, the same numbers as with all others.

    Args:
        op, rows: as for reads().
    """
    if op.code == "pad":  # a strip has a row of the image
        before = op.options["before"][ROW_AXIS]
        return rows[1] > before and rows[0] < before + height(op.inputs[0])
    if op.code != "pool2d" or op.options["kind"] != "average":
        return True
    x, y = op.inputs[0].quantization, op.outputs[0].quantization
    if x is None or y is None or x.grid == y.grid:
        return True
    # how many bits a sum has behind the point depends on the most rows that a window counts
    o, (first, end) = options(op, rows), reads(op, rows)[0]
    most = [min(o["kernel_h"], n + o["count_include_pad"] * (pads["pad_top"] + pads["pad_bottom"]))
            for n, pads in ((height(op.inputs[0]), op.options), (end - first, o))]
    return most[0] == most[1]


def options(op: Op, rows: Span) -> dict[str, Any]:
    """Return the options with which an op computes some rows of its output from those it reads.

    Args:
        op, rows: as for reads(), and possible().
    """
    o, n = dict(op.options), height(op.inputs[0])
    if op.code in WINDOWS:
        start, end = _seen(op, rows)
        o["pad_top"] = max(-start, 0)
        o["pad_bottom"] = max(end - n, 0)
        if op.code == "pool2d":
            # with ceil_mode windows may reach further than the padding, which they do not count
            o["pad_bottom"] = min(o["pad_bottom"], op.options["pad_bottom"])
    elif op.code == "pad":
        before = op.options["before"][ROW_AXIS]
        o["before"] = _with_rows(o["before"], max(before - rows[0], 0))
        o["after"] = _with_rows(o["after"], max(rows[1] - before - n, 0))
    elif op.code == "slice":
        o["starts"] = _with_rows(o["starts"], 0)
        o["sizes"] = _with_rows(o["sizes"], rows[1] - rows[0])
    return o


def _with_rows(values: Sequence[int], rows: int) -> tuple[int, ...]:
    return (*values[:ROW_AXIS], rows, *values[ROW_AXIS + 1:])
