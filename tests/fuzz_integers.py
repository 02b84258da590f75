"""Damage the files of small quantized networks, and run what is still accepted.

python -m tests.fuzz_integers DEVICE MODEL COUNT: ends with status 0 if every file gave a result or
a ModelError, and no byte outside a tensor was written. Run by tests/test_hostile_integers.py, in a
process of its own so that a crash is seen.
"""
from __future__ import annotations

import random
import sys

import numpy as np

from edgerun import ModelError, arrays, loader
from edgerun.device import Device
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.tools import blob, layout, lower, passes, plan as planner
from edgerun.tools.graph import Graph, Tensor
from tests import mutate
from tests.harness import GUARD, run_guarded

NUMBERS = (0, 1, -1, 2, 3, 7, 16, 17, 127, 128, 255, 256, 65_536, 2**31 - 1, -2**31)
REALS = (0.0, -1.0, 1.0, 0.5, 1e-45, 1e-30, 3e38, float("inf"), float("nan"))
LARGEST = 1 << 22  # bytes of an arena that is run


class Builder:
    """A graph whose layers are rounded to integers of one dtype."""

    def __init__(self, dtype: str, w_dtype: str):
        self.graph, self.rng = Graph("fuzz"), np.random.default_rng(0)
        self.dtype, self.w_dtype = dtype, w_dtype

    def rounded(self, y: Tensor, scale: float = 0.02, zero: int = 3) -> Tensor:
        """Round to `dtype`, if the network has integers, and back."""
        if not self.dtype:
            return y
        grid = Quantization.per_tensor(scale, 0 if self.dtype == "int16" else zero)
        return self.graph.dequantize(self.graph.quantize(y, self.dtype, grid))

    def weights(self, *shape: int, axis: int = 0) -> Tensor:
        """Return quantized weights, one scale per output channel."""
        top = np.iinfo(self.w_dtype).max
        values = self.rng.integers(-top, top + 1, shape)
        scale = self.rng.uniform(0.5, 1, shape[axis]) / top
        grid = Quantization(np.float32(scale), np.zeros(shape[axis], np.int32), axis)
        return self.graph.dequantize(self.graph.constant(values, "w", self.w_dtype,
                                                         quantization=grid))

    def layer(self, code: str, x: Tensor, *shape: int, axis: int = 0, **options) -> Tensor:
        """Add a layer with weights and a bias."""
        bias = self.graph.constant(self.rng.uniform(-1, 1, shape[axis]).astype(np.float32), "b")
        y = self.graph.add(code, [x, self.weights(*shape, axis=axis), bias], code, **options)
        return self.rounded(y)


def network(dtype: str, w_dtype: str) -> Graph:
    """Return a lowered network of every kind of layer that has weights, and of others."""
    b = Builder(dtype, w_dtype)
    g = b.graph
    x = b.rounded(g.input("x", (1, 7, 6, 3), "fp32"))
    same = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    a = b.layer("conv2d", x, 18, 3, 3, 3, activation="relu", **same)
    c = b.layer("depthwise_conv2d", a, 3, 3, 18, axis=2, **same)
    d = b.layer("conv_transpose2d", c, 5, 2, 2, 18, stride_h=2, stride_w=2)
    e = g.add("resize", [a], "up", kind="linear", height=14, width=12, scale_h=2, scale_w=2,
              coordinate_mode="half_pixel")
    f = b.rounded(g.add("concat", [d, b.rounded(e)], "joined", axis=3), 0.05)
    pooled = b.rounded(g.add("pool2d", [f], "pool", kind="average", kernel_h=3, kernel_w=3,
                             stride_h=2, stride_w=2), 0.05)
    gate = b.rounded(g.add("unary", [pooled], "gate", kind="sigmoid"), 1 / 256, -128)
    joined = b.rounded(g.add("binary", [pooled, gate], "scaled", kind="mul"))
    mean = b.rounded(g.add("reduce", [joined], "mean", kind="mean", axes=(1, 2), keep_dims=False))
    scores = b.layer("dense", mean, 10, 23)
    shares = g.add("softmax", [scores], "shares", axis=1)
    g.output("y", b.rounded(shares, 1 / 256, -128))
    lower.apply(g)
    return g


NETWORKS = {"int8": ("int8", "int8"), "int16": ("int16", "int8"), "wide": ("int16", "int16"),
            "weights": ("", "int8")}


def file_of(name: str) -> bytes:
    """Return a file of a network, with guard bytes around the arena."""
    graph = network(*NETWORKS[name])
    for op in graph.ops:
        if name == "wide" and op.code == "dense":
            assert op.options["wide"], "the network has no wide sums"
    aliases = passes.alias.apply(graph)
    layout.apply(graph)
    plan = planner.plan(graph, aliases)
    plan.offsets = {tensor: at + GUARD for tensor, at in plan.offsets.items()}
    plan.scratch = {op: (at + GUARD, size) for op, (at, size) in plan.scratch.items()}
    plan.arena_bytes += 2 * GUARD
    return blob.encode(graph, plan, aliases, "source")


def damage_constants(rng: random.Random, root: dict, graph: dict) -> None:
    """Overwrite parts of the constants: shifts, multipliers, tables, weights, biases."""
    for segment in root["segments"]:
        data = segment["data"] = segment["data"].copy()
        for _ in range(rng.randrange(1, 40)):
            at = rng.randrange(len(data))
            data[at:at + rng.choice((1, 2, 4, 64))] = rng.choice((0, 1, 127, 128, 255,
                                                                  rng.randrange(256)))


def damage_field(rng: random.Random, root: dict, graph: dict) -> None:
    """Change one number, name or index of a tensor, an op or the boundary."""
    kind, with_options = rng.randrange(5), [op for op in graph["ops"] if op["options"]]
    if kind == 0:
        tensor = rng.choice([t for t in graph["tensors"] if t["quantization"]]
                            or graph["tensors"])
        grid = dict(tensor["quantization"] or {"scale": [1.0], "zero_point": [0], "axis": -1})
        change = rng.choice(("scale", "zero_point", "axis", "rounding", "none"))
        if change == "scale":
            grid["scale"] = [rng.choice(REALS) for _ in grid["scale"]]
        elif change == "zero_point":
            grid["zero_point"] = [rng.choice(NUMBERS) for _ in grid["zero_point"]]
        elif change == "axis":
            grid["axis"] = rng.randrange(-2, 5)
        elif change == "rounding":
            grid["rounding"] = rng.choice(("once", "twice", "short", "upward", "single"))
        tensor["quantization"] = None if change == "none" else grid
    elif kind == 1 and with_options:
        options = rng.choice(with_options)["options"][1]
        key = rng.choice(sorted(options) or [""])
        if isinstance(options.get(key), bool):
            options[key] = not options[key]
        elif isinstance(options.get(key), int):
            options[key] = rng.choice(NUMBERS)
        elif isinstance(options.get(key), float):
            options[key] = rng.choice(REALS)
    elif kind == 2:
        op = rng.choice(graph["ops"])
        inputs = list(op["inputs"])
        inputs[rng.randrange(len(inputs))] = rng.randrange(-1, len(graph["tensors"]))
        op["inputs"] = inputs
    elif kind == 3:
        tensor = rng.choice(graph["tensors"])
        shape = [int(n) for n in tensor["shape"]] or [1]
        at = rng.randrange(len(shape))
        shape[at] = rng.choice((shape[at] + 1, shape[at] - 1, 2 * shape[at], rng.choice(NUMBERS)))
        tensor["shape"] = shape
    else:
        tensor = rng.choice(graph["tensors"])
        tensor["dtype"] = rng.choice(("uint8", "int8", "int16", "int32", "fp32", "fp16", "bool"))
        tensor["layout"] = rng.choice((tensor["layout"], "rows", "oc16", "oc16x2", "oc16x4"))


def damage_bytes(rng: random.Random, root: dict, graph: dict) -> bytes:
    """Return the bytes of the graph with some of them overwritten."""
    data = bytearray(mutate.encode_graph(graph))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            at -= at % 4
            data[at:at + 4] = np.array([rng.choice(NUMBERS)], np.int64).astype(np.int32).tobytes()
    return bytes(data)


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Return a file with right checksums and some damage, more often to what is read late."""
    root, graph = mutate.unpack(whole)
    kind = rng.randrange(6)
    if kind < 2:
        damage_constants(rng, root, graph)
    if kind < 5:
        for _ in range(rng.randrange(1, 3) if kind else 0):
            damage_field(rng, root, graph)
        return mutate.repack(root, graph)
    return mutate.repack(root, damage_bytes(rng, root, graph))


def main(words: str, name: str, count: int) -> None:
    """Damage a file in `count` ways."""
    device, rng, whole = Device(words), random.Random(name), file_of(name)
    ran = refused = 0
    for number in range(count):
        print(f"{name} {number}", flush=True)  # what a crash was due to
        try:
            data = damaged(whole, rng)
        except (KeyError, OverflowError, TypeError, ValueError):
            continue  # the writer refuses it
        try:
            model = loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")
            if model.plan.arena_bytes > LARGEST:
                continue
            with Session(model, device) as session:
                run_guarded(session, arrays.random_inputs(model.inputs))
            ran += 1
        except ModelError:
            refused += 1
    print(f"{ran} ran, {refused} were refused, of {count}")
    assert ran > count // 8 and refused > count // 8, "the damage is too small, or too large"


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  makes the loader see all drivers
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
