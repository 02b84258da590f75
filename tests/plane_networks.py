"""Small networks whose weights are bit planes, for tests: random, the same for the same seed."""
from __future__ import annotations

import numpy as np

from edgerun.quantization import Quantization
from edgerun.tools import blob, layout, passes, reductions
from edgerun.tools.graph import Graph

# name, number of planes (of pairs), signs; how many count in mode "low"
LAYERS = (("conv", 8, "twos", 4), ("point", 7, "magnitude", 3), ("dense", 6, "pairs", 2))
MODES = ("low", "high")
IMAGE = (1, 9, 7, 5)


def planes_of(name: str, outputs: int, products: int, planes: int, signs: str) -> list[np.ndarray]:
    """Return the planes of one layer: uint32 [outputs, ceil(products / 32)] each."""
    random = np.random.default_rng(sum(map(ord, name)))
    count = planes * (2 if signs == "pairs" else 1)
    found = random.integers(0, 2**32, (count, outputs, -(-products // 32)), dtype=np.uint32)
    if products % 32:
        found[:, :, -1] &= np.uint32(2**(products % 32) - 1)
    if signs == "pairs":  # no weight has both signs
        found[1::2] &= ~found[::2]
    return list(found)


def levels_of(name: str, outputs: int, products: int, planes: int) -> np.ndarray:
    """Return the levels [planes + 1, 3, outputs] that make results of about 1."""
    random = np.random.default_rng(sum(map(ord, name)) + 1)
    levels = random.uniform(-0.5, 0.5, (planes + 1, 3, outputs)).astype(np.float32)
    for count in range(planes + 1):
        levels[count, 0] = random.uniform(0.5, 1.5, outputs) / 2**count / 16 / products**0.5
        levels[count, 1] *= 1 / 512 / products**0.5
    return levels


def network(first: dict[str, int] | None = None, rows: str = "all", layers=LAYERS,
            width: int = 24, image: tuple[int, ...] = IMAGE) -> Graph:
    """Return a convolution, a pointwise one and a dense layer.

    Args:
        first: name of a layer -> how many planes it has; default: all, with the modes of MODES.
        rows: of levels: "all" that there are, "modes" those of the modes, "last" the highest.
        layers: as LAYERS.
        width: output channels of the first layer.
        image: shape of the input.
    """
    graph = Graph("planes")
    x = graph.input("x", image, "uint8")
    x.quantization = Quantization.per_tensor(0.5, 3)
    sizes = {"conv": (width, 3, 1), "point": (width + 9, 1, 0), "dense": (10, 0, 0)}
    for name, planes, signs, low in layers:
        outputs, kernel, pad = sizes[name]
        if name == "dense":
            x = graph.add("reshape", [x], "flat", shape=(x.shape[0], int(np.prod(x.shape[1:]))))
        products = max(kernel, 1)**2 * x.shape[-1]
        count = planes if first is None else first[name]
        held = planes_of(name, outputs, products, planes, signs)
        held = held[:count * (2 if signs == "pairs" else 1)]
        levels = levels_of(name, outputs, products, planes)[:count + 1]
        options: dict = {"signs": signs}
        if rows == "last" or first is not None and rows == "modes":
            levels = levels[-1:]
        elif rows == "modes":
            levels, options["counts"] = levels[[low, planes]], (low, planes)
        if kernel:
            options |= dict(kernel_h=kernel, kernel_w=kernel, pad_top=pad, pad_left=pad,
                            pad_bottom=pad, pad_right=pad, activation="relu")
        used = graph.used(name)
        x = graph.add("planes_conv2d" if kernel else "planes_dense",
                      [x, graph.constant(levels, f"{name}.levels"), used,
                       *(graph.constant(p, f"{name}.plane{k}", "bits")
                         for k, p in enumerate(held))], name, **options)
        if kernel:
            x.dtype, x.quantization = "uint8", Quantization.per_tensor(1 / 64, 7)
        if first is None:
            graph.modes.setdefault("low", {})[used] = low
    if first is None:
        graph.modes["high"] = {}
    graph.output("y", x)
    return graph


def packed(graph: Graph) -> bytes:
    """Return the bytes of the file of a graph that is lowered."""
    views = passes.alias.apply(graph)
    layout.apply(graph)
    views, plan = reductions.apply(graph, views, ())
    return blob.encode(graph, plan, views, "planes")


def inputs(seed: int = 0, image: tuple[int, ...] = IMAGE) -> dict[str, np.ndarray]:
    """Return an input of the network."""
    return {"x": np.random.default_rng(seed).integers(0, 256, image).astype(np.uint8)}
