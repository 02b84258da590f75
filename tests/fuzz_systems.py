"""Small networks with bit planes, binary layers, Fastfood and experts, to damage (tests/damage.py).

python -m tests.fuzz_systems DEVICE NETWORK COUNT; run by tests/test_hostile_systems.py.
"""
from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgerun.ops.fastfood import permutation
from edgerun.tools.graph import Graph
from edgerun.tools.reference import planes as reference
from tests import damage, moe_networks, mutate, plane_networks
from tests.harness import GUARD


def guarded(data: bytes) -> bytes:
    """Return a file whose arena has bytes before and behind everything that lies in it."""
    def move(root: dict, graph: dict) -> None:
        for tensor in graph["tensors"]:
            if tensor["segment"] < 0:
                tensor["offset"] += GUARD
        for op in graph["ops"]:
            op["scratch_offset"] += GUARD
        graph["plan"]["arena_bytes"] += 2 * GUARD
    return mutate.changed(data, move)


def planes() -> bytes:
    """Three layers of planes, with two modes."""
    return guarded(plane_networks.packed(plane_networks.network()))


def binary() -> bytes:
    """Layers of one bit, and a Fastfood layer behind them."""
    graph, rng = Graph("binary"), np.random.default_rng(0)
    x = graph.input("x", (1, 6, 5, 37), "fp32")
    for code, outputs, taps in (("xnor_conv2d", 19, 9), ("xnor_dense", 11, 1)):
        w = reference.words(rng.random((outputs, taps, x.shape[-1])) < 0.5).reshape(outputs, -1)
        levels = rng.normal(size=(2, outputs)).astype(np.float32)
        window = {"kernel_h": 3, "kernel_w": 3, "pad_top": 1, "pad_left": 1} if taps > 1 else {}
        x = graph.add(code, [graph.add("binarize", [x]), graph.constant(w, "w", "bits"),
                             graph.constant(levels)], channels=x.shape[-1], **window)
    diagonals = [graph.constant(rng.normal(size=(2, 16)).astype(np.float32)) for _ in "BGS"]
    order = graph.constant(permutation(7, 2, 16))
    graph.output("y", graph.add("fastfood", [x, *diagonals, order], outputs=25))
    return guarded(plane_networks.packed(graph))


def mixture(batch: int, precision: str) -> bytes:
    """Two mixtures, one behind the other."""
    with tempfile.TemporaryDirectory() as folder:
        model = moe_networks.network(batch, twice=True)
        return guarded(moe_networks.packed(Path(folder), model, precision).read_bytes())


NETWORKS = {"planes": planes, "binary": binary, "mixture": lambda: mixture(1, "fp32"),
            "samples": lambda: mixture(3, "int8")}

if __name__ == "__main__":
    damage.main(NETWORKS)
