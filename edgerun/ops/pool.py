"""Pooling of NHWC images."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, f32, fit_lanes, int8_arg, require, require_dtype, require_rank)
from edgerun.ops.elementwise import activation

KINDS = ("max", "average")
LIMIT = 2**30  # rows or columns of a padded image: its indices and twice them are 32-bit integers


def _axis(op: OpLike, size: int, letter: str, before: str, after: str) -> int:
    """Return the output size along one axis after checking its options."""
    options = op.options
    kernel, stride, dilation = (options[f"{name}_{letter}"] for name in
                                ("kernel", "stride", "dilation"))
    require(min(kernel, stride, dilation) >= 1, op,
            f"has kernel_{letter} {kernel}, stride_{letter} {stride}, dilation_{letter} "
            f"{dilation}, needed at least 1 each")
    pad, pad_after = options[before], options[after]
    require(min(pad, pad_after) >= 0, op,
            f"has {before} {pad} and {after} {pad_after}, needed at least 0")
    window, padded = (kernel - 1) * dilation + 1, size + pad + pad_after
    require(max(window, padded, stride, dilation) <= LIMIT, op,
            f"has a window of {window} (dilation_{letter} {dilation}) in steps of {stride} on a "
            f"padded size of {padded}, at most {LIMIT} are allowed")
    room = padded - window
    out = (-(-room // stride) if options["ceil_mode"] else room // stride) + 1
    if options["ceil_mode"] and (out - 1) * stride >= size + pad:
        out -= 1  # ONNX: no window may start behind the image
    require(out >= 1, op, f"has a window of {window} on a padded size of {padded}, which gives no "
            "output")
    return out


def infer_pool2d(op: OpLike) -> Outputs:
    """x [N, H, W, C] gives y [N, OH, OW, C]."""
    x = op.inputs[0]
    require_rank(x, 4, op)
    require_dtype(x, FLOAT, op)
    require(op.options["kind"] in KINDS, op,
            f"has the unknown kind {op.options['kind']!r}, known are {', '.join(KINDS)}")
    activation(op)
    n, height, width, channels = x.shape
    return [((n, _axis(op, height, "h", "pad_top", "pad_bottom"),
              _axis(op, width, "w", "pad_left", "pad_right"), channels), x.dtype)]


def pool2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n, oh, ow, c] = activation(f over the window's taps of x[n, ih, iw, c]), ih = oh * stride_h
    - pad_top + kh * dilation_h, iw likewise; f is the `kind`.

    x [N, H, W, C] fp32, fp16 -> y [N, OH, OW, C], OH = (H + pad_top + pad_bottom - (kernel_h - 1) *
    dilation_h - 1) / stride_h + 1 rounded down, or with `ceil_mode` up (but no window starts behind
    the image). Padding never wins a max. An average divides by the taps inside the image, with
    `count_include_pad` by the taps inside the padded image. A window without any tap gives -inf as
    a max and 0 as an average. Global pooling is a window as large as the image.
    """
    x, y = op.inputs[0], op.outputs[0]
    options, act = op.options, activation(op)
    n, height, width, channels = x.shape
    out_h, out_w = y.shape[1:3]
    lanes = fit_lanes(facts, channels)
    vectors = -(-channels // lanes)
    run, items = 1, vectors
    if facts.kind == "cpu":
        enough = 4 * facts.compute_units
        rows = n * out_h
        items = 1 if rows >= enough else vectors
        run = -(-out_w // max(1, min(out_w, -(-enough // (rows * items)))))
    defines = {f"T_{x.dtype}": 1, "VEC": lanes, **act.defines}
    if options["kind"] == "average":
        defines["AVERAGE"] = 1
    padded = options["count_include_pad"]
    rows_arg = [options["kernel_h"], options["stride_h"], options["dilation_h"], options["pad_top"],
                height + options["pad_bottom"] if padded else -1, 0, 0, 0]
    columns_arg = [options["kernel_w"], options["stride_w"], options["dilation_w"],
                   options["pad_left"], width + options["pad_right"] if padded else -1, 0, 0, 0]
    return [Launch("pool", "pool2d", defines, (items, -(-out_w // run), n * out_h),
                   (x, y, int8_arg([n, height, width, channels, out_h, out_w, run, 0]),
                    int8_arg(rows_arg), int8_arg(columns_arg), f32(act.alpha), f32(act.beta)),
                   facts.one)]
