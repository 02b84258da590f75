"""Cut convolution and dense weights into the blocks that the kernels read (layout oc16)."""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Graph

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
    """Re-order the weights of every op that reads blocks. The last pass: nothing folds afterwards."""
    for op in graph.ops:
        if op.code not in WEIGHT_INPUT:
            continue
        weights = op.inputs[WEIGHT_INPUT[op.code]]
        if weights.layout == "oc16":
            continue  # shared by two ops of the same kind
        weights.data = oc16(weights.data, op.options.get("groups", 1))
        weights.layout = "oc16"
