"""Recognise dilated convolutions that TensorFlow writes as SpaceToBatch, convolution, BatchToSpace.

Expects the two as reshape, transpose, reshape, as the TFLite importer writes them.
"""
from __future__ import annotations

from edgerun.tools.graph import Graph, Op
from edgerun.tools.passes._rewrite import Rewriter, rewrite

TO_BATCH = (2, 4, 0, 1, 3, 5)    # [N, H, bh, W, bw, C] -> [bh, bw, N, H, W, C]
FROM_BATCH = (2, 3, 0, 4, 1, 5)  # [bh, bw, N, H, W, C] -> [N, H, bh, W, bw, C]


def apply(graph: Graph) -> None:
    """Convolve the image with a dilated kernel instead of each bh-th row, bw-th column alone."""
    rewrite(graph, {code: (_dilated,) for code in ("conv2d", "depthwise_conv2d")})


def _dilated(rewriter: Rewriter, op: Op) -> bool:
    blocks = _from_space(rewriter, op)
    if blocks is None or op.options["stride_h"] != 1 or op.options["stride_w"] != 1:
        return False
    merge = rewriter.private_producer(op.inputs[0], "reshape")
    transpose = merge and rewriter.producer(merge.inputs[0], "transpose", perm=TO_BATCH)
    split = transpose and rewriter.producer(transpose.inputs[0], "reshape")
    if not split or any(tensor is not None for tensor in op.inputs[3:]):
        return False
    x, last = split.inputs[0], blocks[2]
    n, height, bh, width, bw, channels = split.outputs[0].shape
    if ((bh, bw) != blocks[:2] or x.shape != (n, height * bh, width * bw, channels)
            or merge.outputs[0].shape != (bh * bw * n, height, width, channels)):
        return False
    factors = {"dilation_h": bh, "pad_top": bh, "pad_bottom": bh,
               "dilation_w": bw, "pad_left": bw, "pad_right": bw}
    options = {**op.options, **{key: op.options[key] * factor for key, factor in factors.items()}}
    rewriter.replace(last.outputs[0], rewriter.add(op, op.code, [x, *op.inputs[1:]], op.name,
                                                   **options))
    return True


def _from_space(rewriter: Rewriter, op: Op) -> tuple[int, int, Op] | None:
    """Return (bh, bw, the last op) of the BatchToSpace behind op."""
    split = rewriter.only_user(op.outputs[0])
    if split is None or split.code != "reshape" or len(split.outputs[0].shape) != 6:
        return None
    transpose = rewriter.only_user(split.outputs[0])
    if (transpose is None or transpose.code != "transpose"
            or transpose.options["perm"] != FROM_BATCH):
        return None
    merge = rewriter.only_user(transpose.outputs[0])
    if merge is None or merge.code != "reshape":
        return None
    bh, bw, n, height, width, channels = split.outputs[0].shape
    if (op.outputs[0].shape != (bh * bw * n, height, width, channels)
            or merge.outputs[0].shape != (n, height * bh, width * bw, channels)):
        return None
    return bh, bw, merge
