"""Fold padding and cropping of height and width into convolutions and pooling."""
from __future__ import annotations

import math

from edgerun.quantization import limits
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import ACTIVATED, Rewriter, rewrite

NEVER_NEGATIVE = ("relu", "sigmoid", "hard_sigmoid", "exp", "softplus", "sqrt", "abs", "square")
KEEP_SIGN = ("reshape", "transpose", "slice", "expand", "tile", "resize", "pool2d")


def apply(graph: Graph) -> None:
    """Fold every pad whose readers can all take it in (one reader that cannot needs the pad
    anyway), then crops of what was padded."""
    rewrite(graph, {"dequantize": (_behind_grid,)})
    rewrite(graph, {"pad": (_into_users,)})
    rewrite(graph, {"slice": (_crop,)})


def _behind_grid(rewriter: Rewriter, op: Op) -> bool:
    """dequantize(quantize(pad(x))) -> pad(dequantize(quantize(x))) for zeros, which every grid has,
    where the readers take the pad in."""
    store = rewriter.private_producer(op.inputs[0], "quantize")
    pad = store and rewriter.private_producer(store.inputs[0], "pad", mode="constant", value=0.0)
    y = op.outputs[0]
    users = rewriter.users(y)
    if not pad or rewriter.is_output(y) or not users or any(
            user.code not in ("conv2d", "depthwise_conv2d") or y in user.inputs[1:]
            for user in users):
        return False
    q = rewriter.add(op, "quantize", [pad.inputs[0]], store.name, store.outputs[0].quantization,
                     **store.options)
    real = rewriter.add(op, "dequantize", [q], op.name, **op.options)
    rewriter.replace(y, rewriter.add(op, "pad", [real], pad.name, **pad.options))
    return True


def _into_users(rewriter: Rewriter, op: Op) -> bool:
    x, y = op.inputs[0], op.outputs[0]
    before, after, value = op.options["before"], op.options["after"], op.options["value"]
    users = rewriter.users(y)
    if (op.options["mode"] != "constant" or len(x.shape) != 4 or rewriter.is_output(y) or not users
            or before[0] or before[3] or after[0] or after[3]):
        return False
    if not all(_takes(rewriter, user, op, value) for user in users):
        return False
    for user in users:
        for side, amount in (("top", before[1]), ("left", before[2]), ("bottom", after[1]),
                             ("right", after[2])):
            user.options[f"pad_{side}"] += amount
        if user.code == "pool2d" and user.options["kind"] == "average":
            user.options["count_include_pad"] = True
        rewriter.set_input(user, 0, x)
    return True


def _takes(rewriter: Rewriter, user: Op, pad: Op, value: float) -> bool:
    y, options = pad.outputs[0], user.options
    if user.inputs[0] is not y or y in user.inputs[1:]:
        return False
    if user.code in ("conv2d", "depthwise_conv2d"):
        return value == 0
    if user.code != "pool2d" or options["ceil_mode"]:
        return False
    padded = any(options[f"pad_{side}"] for side in ("top", "left", "bottom", "right"))
    if options["kind"] == "average":
        return value == 0 and (options["count_include_pad"] or not padded)
    if options["kind"] != "max":
        return False
    if value == -math.inf:
        return True
    # a padded 0 only ever equals a maximum of values >= 0, if every window has such a value
    return value == 0 and not padded and _never_negative(rewriter, pad.inputs[0]) and all(
        options[f"dilation_{axis}"] == 1 and options[f"kernel_{axis}"] > max(
            pad.options["before"][dim], pad.options["after"][dim])
        for axis, dim in (("h", 1), ("w", 2)))


def _crop(rewriter: Rewriter, op: Op) -> bool:
    """A slice of a convolution's rows and columns -> less padding, if there is enough of it."""
    conv = rewriter.private_producer(op.inputs[0])
    if conv is None or conv.code not in ("conv2d", "depthwise_conv2d") or len(conv.inputs) > 3:
        return False
    starts, sizes, whole = op.options["starts"], op.options["sizes"], op.inputs[0].shape
    if op.options["steps"] != (1, 1, 1, 1) or (sizes[0], sizes[3]) != (whole[0], whole[3]):
        return False
    kernel = conv.inputs[1].shape[1:3] if conv.code == "conv2d" else conv.inputs[1].shape[:2]
    new = {}
    for axis, before, after, dim in (("h", "pad_top", "pad_bottom", 1),
                                     ("w", "pad_left", "pad_right", 2)):
        stride = conv.options[f"stride_{axis}"]
        extent = (kernel[dim - 1] - 1) * conv.options[f"dilation_{axis}"] + 1
        new[before] = conv.options[before] - starts[dim] * stride
        padded = conv.inputs[0].shape[dim] + new[before]
        # rows at the end that a stride skips need no negative padding
        new[after] = max(0, (sizes[dim] - 1) * stride + extent - padded)
        if new[before] < 0 or (padded + new[after] - extent) // stride + 1 != sizes[dim]:
            return False
    y = rewriter.add(conv, conv.code, conv.inputs, conv.name, **{**conv.options, **new})
    rewriter.replace(op.outputs[0], y)
    return True


def _never_negative(rewriter: Rewriter, tensor: Tensor) -> bool:
    op = rewriter.producer(tensor)
    while op is not None:
        if op.code == "unary":
            kind, alpha = op.options["kind"], op.options["alpha"]
        else:
            kind, alpha = op.options.get("activation", ""), op.options.get("alpha", 0.0)
        if op.code in ACTIVATED + ("unary",) and kind:
            return kind in NEVER_NEGATIVE or (kind == "clip" and alpha >= 0)
        if op.code == "softmax":
            return not op.options["log"]
        if op.code == "dequantize":
            q = op.inputs[0]
            return bool((q.quantization.zero_point == limits(q.dtype)[0]).all())
        if op.code == "concat":
            return all(_never_negative(rewriter, t) for t in op.inputs)
        if op.code not in KEEP_SIGN:
            return False
        op = rewriter.producer(op.inputs[0])
    return False
