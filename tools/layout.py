"""Cut convolution and dense weights into the blocks that the kernels read (layout oc16)."""
from __future__ import annotations

import numpy as np

from edgerun.ops.conv import needs_zeros
from edgerun.tools.graph import Graph, Tensor

BLOCK = 16  # output channels
WEIGHT_INPUT = {"conv2d": 1, "conv_transpose2d": 1, "dense": 1}  # op code -> index of its weights


def oc16(weights: np.ndarray, groups: int = 1) -> np.ndarray:
    """Return weights in block order.

    Args:
        weights: [OC, ..., IC], row-major.
        groups: the output channels are cut into this many equal groups first.

    Returns:
        Flat array of the same elements: per group, per block of 16 output channels (the last one as
        wide as what is left), [taps][IC][block width].
    """
    out_c, in_c = weights.shape[0], weights.shape[-1]
    per_group = out_c // groups
    by_channel = weights.reshape(out_c, -1, in_c)
    blocks = []
    for group in range(groups):
        for start in range(0, per_group, BLOCK):
            first = group * per_group + start
            block = by_channel[first:first + min(BLOCK, per_group - start)]
            blocks.append(np.ascontiguousarray(block.transpose(1, 2, 0)).reshape(-1))
    return np.concatenate(blocks)


def apply(graph: Graph) -> None:
    """Cut the weights of every op that reads blocks. The last pass: nothing folds afterwards.

    The blocks are a new constant, since another op may read the same weights in rows.
    """
    blocks: dict[tuple[Tensor, int], Tensor] = {}
    for op in graph.ops:
        if op.code not in WEIGHT_INPUT:
            continue
        index, groups = WEIGHT_INPUT[op.code], op.options.get("groups", 1)
        weights = op.inputs[index]
        if (weights, groups) not in blocks:
            blocks[weights, groups] = Tensor(
                graph.unique(f"{weights.name}.oc16"), weights.shape, weights.dtype,
                oc16(weights.data, groups), "oc16")
        op.inputs[index] = blocks[weights, groups]
    _add_zeros(graph)


def _add_zeros(graph: Graph) -> None:
    """Append what taps outside the image read: zeros, one constant per dtype."""
    padded = [op for op in graph.ops if op.code == "conv2d" and needs_zeros(op)]
    for dtype in sorted({op.inputs[1].dtype for op in padded}):
        users = [op for op in padded if op.inputs[1].dtype == dtype]
        longest = max(op.inputs[1].shape[3] for op in users)
        zeros = graph.constant(np.zeros(longest), "zeros", dtype)
        for op in users:
            op.inputs = [*op.inputs, *[None] * (4 - len(op.inputs)), zeros]
