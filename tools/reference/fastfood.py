"""NumPy reference of Fastfood layers."""
from __future__ import annotations

import numpy as np

from edgerun.ops.fastfood import permutation
from edgerun.tools.graph import Op
from edgerun.tools.reference.elementwise import activate
from edgerun.tools.reference.real import on_numbers


def hadamard(x: np.ndarray) -> np.ndarray:
    """Return H x over the last axis, H the Walsh-Hadamard matrix divided by sqrt(d), in fp64."""
    x, d = x.astype(np.float64), x.shape[-1]
    half = 1
    while half < d:
        pairs = x.reshape(*x.shape[:-1], d // half // 2, 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        half *= 2
    return x / np.sqrt(d)


def _fastfood(op: Op, x, b, g, s, perm=None, bias=None) -> np.ndarray:
    blocks, d = b.shape
    perm = permutation(op.options["seed"], blocks, d) if perm is None else perm
    filled = np.zeros((*x.shape[:-1], d))
    filled[..., :x.shape[-1]] = x
    parts = [s[n] * hadamard(g[n] * hadamard(b[n] * filled)[..., perm[n]]) for n in range(blocks)]
    y = np.concatenate(parts, axis=-1)[..., :op.options["outputs"]]
    return activate(op, (y if bias is None else y + bias).astype(np.float32))


REFERENCE = {"fastfood": on_numbers(_fastfood)}
