"""Cut convolution and dense weights into the blocks that the kernels read (layout oc16)."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.ops.conv import needs_zeros
from edgerun.tools.graph import Graph, Op, Tensor

BLOCK = 16  # output channels
ROW = 4  # elements: the row of zero points fills whole words


def oc16(weights: np.ndarray, groups: int = 1, word: int = 1) -> np.ndarray:
    """Return weights in block order.

    Args:
        weights: [OC, ..., IC], row-major.
        groups: the output channels are cut into this many equal groups first.
        word: neighbouring input channels that stay side by side; IC is filled up with 0.

    Returns:
        Flat array of the same elements: per group, per block of 16 output channels (the last one as
        wide as what is left), [taps][ceil(IC / word)][block width][word].
    """
    out_c, in_c = weights.shape[0], weights.shape[-1]
    per_group = out_c // groups
    by_channel = np.pad(weights.reshape(out_c, -1, in_c), ((0, 0), (0, 0), (0, -in_c % word)))
    by_word = by_channel.reshape(out_c, by_channel.shape[1], -1, word)
    blocks = []
    for group in range(groups):
        for start in range(0, per_group, BLOCK):
            first = group * per_group + start
            block = by_word[first:first + min(BLOCK, per_group - start)]
            blocks.append(np.ascontiguousarray(block.transpose(1, 2, 0, 3)).reshape(-1))
    return np.concatenate(blocks)


def apply(graph: Graph) -> None:
    """Cut the weights of every op that reads blocks. The last pass: nothing folds afterwards.

    The blocks are a new constant, since another op may read the same weights in rows.
    """
    blocks: dict[tuple[Tensor, int], Tensor] = {}
    for op in graph.ops:
        groups = op.options.get("groups", 1)
        for index in OPS[op.code].blocked:
            weights = op.inputs[index] if index < len(op.inputs) else None
            if weights is None or weights.layout != "rows":
                continue
            if (weights, groups) not in blocks:
                layout = dtypes.BLOCKED[weights.dtype]
                blocks[weights, groups] = Tensor(
                    graph.unique(f"{weights.name}.{layout}"), weights.shape, weights.dtype,
                    oc16(weights.data, groups, dtypes.WORD[layout]), layout, weights.quantization)
            op.inputs[index] = blocks[weights, groups]
    _add_zeros(graph)


def _add_zeros(graph: Graph) -> None:
    """Append what taps outside the image read: the zero point of x, one constant per value."""
    padded: dict[tuple[str, int], list[Op]] = {}
    for op in graph.ops:
        if op.code == "conv2d" and needs_zeros(op):
            x = op.inputs[0]
            zero = x.quantization.zero if x.quantization else 0
            padded.setdefault((x.dtype, zero), []).append(op)
    for (dtype, zero), users in sorted(padded.items(), key=lambda item: item[0]):
        longest = max(op.inputs[1].shape[3] for op in users)
        row = graph.constant(np.full(-(-longest // ROW) * ROW, zero), "zeros", dtype)
        for op in users:
            op.inputs = [*op.inputs[:4], *[None] * (4 - len(op.inputs)), row, *op.inputs[5:]]
