"""edgerun::Fastfood, a dense layer of three diagonals, a permutation and two fast transforms.

Fastfood(x [..., n], B, G, S [blocks, d], perm int [blocks, d] optional, bias [out] optional) with
the attributes out and seed; see the op fastfood in docs/ops.md, which it becomes.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.errors import ModelError
from edgerun.ops.fastfood import SHORT
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node

B, G, S, PERM, BIAS = range(1, 6)  # inputs


def _fastfood(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    for index, name in ((B, "B"), (G, "G"), (S, "S")):
        if not np.isfinite(node.known(index, f"diagonals {name}")).all():
            raise ModelError(f"its diagonals {name} hold numbers that are not finite")
    perm = _permutation(ctx, node) if node.given(PERM) else None
    bias = ctx.derived(BIAS, "bias", lambda b: b, dtype="fp32") if node.given(BIAS) else None
    seed, outputs = node.attr("seed", 0), node.attr("out")
    if outputs is None:
        raise ModelError("has no attribute out, the number of its outputs")
    if not 0 <= seed < 2**32:
        raise ModelError(f"has the seed {seed}, needed one of 0 to 2^32 - 1")
    inputs = [x, *(ctx.tensor(index) for index in (B, G, S)), perm, bias]
    while inputs[-1] is None:
        inputs.pop()
    return ctx.add("fastfood", inputs, outputs=outputs, seed=0 if perm is not None else seed)


def _permutation(ctx: Context, node: Node) -> Tensor:
    perm = node.known(PERM, "permutations")
    shape = node.shape(B)
    if perm.dtype.kind not in "iu" or perm.shape != shape:
        raise ModelError(f"its permutations are {perm.dtype} of the shape {perm.shape}, needed "
                         f"integers of the shape {shape}, that of its diagonals")
    for block, row in enumerate(perm):
        if not np.array_equal(np.sort(row), np.arange(len(row))):
            raise ModelError(f"block {block} of its permutation does not hold every number of 0 to "
                             f"{len(row) - 1} once")
    return ctx.constant(perm.astype(np.int16 if shape[-1] <= SHORT else np.int32))


TABLE: dict[str, Callable] = {"Fastfood": _fastfood}
