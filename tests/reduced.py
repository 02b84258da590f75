"""Random graphs, and a run of a planned graph in NumPy on one array of bytes: its arena."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.tools import reductions, reference
from edgerun.tools.graph import Graph, Tensor, View, Views
from edgerun.tools.plan import Plan

KINDS = ("conv", "depthwise", "pool", "unary", "binary", "channel", "concat", "rows", "cut",
         "strip", "reshape", "residual")


def random_graph(seed: int, ops: int = 14, batch: int = 1, precision_of_sums: int = 4) -> Graph:
    """A graph of branches that meet again in sums and concats, cut again by slices.

    Args:
        seed: of everything random.
        ops: about so many.
        batch: images.
        precision_of_sums: weights are multiples of 2^-precision_of_sums.
    """
    rng = np.random.default_rng(seed)
    graph = Graph(f"random{seed}")
    h, w, c = (int(n) for n in rng.integers([3, 3, 1], [7, 6, 21]))
    live = [graph.input("x", (batch, h, w, c), "fp32")]

    def weights(*shape: int) -> Tensor:
        return graph.constant(np.round(rng.standard_normal(shape) * 2**precision_of_sums)
                              .astype(np.float32) / 2**precision_of_sums, "w")

    def conv(x: Tensor, residual: Tensor | None = None) -> Tensor:
        k, out = int(rng.choice([1, 3])), int(rng.integers(1, 40))
        if residual is not None:
            out = residual.shape[-1]
        pad = k // 2
        return graph.add("conv2d", [x, weights(out, k, k, x.shape[-1]), weights(out), residual],
                         "conv", pad_top=pad, pad_left=pad, pad_bottom=pad, pad_right=pad,
                         activation=str(rng.choice(["", "relu"])))

    def depthwise(x: Tensor) -> Tensor:
        return graph.add("depthwise_conv2d", [x, weights(3, 3, x.shape[-1])], "depthwise",
                         pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)

    def step(kind: str) -> Tensor | None:
        x = live[int(rng.integers(len(live)))]
        alike = [t for t in live if t.shape == x.shape and t is not x]
        same_rows = [t for t in live if t.shape[:3] == x.shape[:3]]
        n, h, w, c = x.shape
        if kind == "conv":
            return conv(x)
        if kind == "residual" and same_rows:
            return conv(x, same_rows[int(rng.integers(len(same_rows)))])
        if kind == "depthwise":
            return depthwise(x)
        if kind == "pool":
            return graph.add("pool2d", [x], "pool", kind="max", kernel_h=3, kernel_w=3, pad_top=1,
                             pad_left=1, pad_bottom=1, pad_right=1)
        if kind == "unary":
            return graph.add("unary", [x], "unary", kind=str(rng.choice(["relu", "abs", "neg"])))
        if kind == "binary" and alike:
            return graph.add("binary", [x, alike[int(rng.integers(len(alike)))]], "binary",
                             kind=str(rng.choice(["add", "sub", "max"])))
        if kind == "channel":
            return graph.add("binary", [x, weights(c)], "channel", kind="mul")
        if kind == "concat":
            parts = [same_rows[int(k)] for k in rng.integers(len(same_rows),
                                                              size=rng.integers(2, 4))]
            return graph.add("concat", parts, "concat", axis=3) if c < 100 else None
        if kind == "rows" and h < 12:
            parts = [x, *(t for t in live if t.shape[2:] == x.shape[2:] and t is not x)][:2]
            return graph.add("concat", parts, "rows", axis=1)
        if kind == "cut" and c > 1:
            size = int(rng.integers(1, c))
            start = int(rng.integers(0, c - size + 1))
            return graph.add("slice", [x], "cut", starts=(0, 0, 0, start), steps=(1, 1, 1, 1),
                             sizes=(n, h, w, size))
        if kind == "strip" and h > 2:
            size = int(rng.integers(2, h))
            start = int(rng.integers(0, h - size + 1))
            return graph.add("slice", [x], "strip", starts=(0, start, 0, 0), steps=(1, 1, 1, 1),
                             sizes=(n, size, w, c))
        if kind == "reshape":
            flat = graph.add("reshape", [x], "flat", shape=(n, h * w, c))
            flat = graph.add("unary", [flat], "flat_unary", kind="neg")
            return graph.add("reshape", [flat], "image", shape=x.shape)
        return None

    while len(graph.ops) < ops:
        y = step(str(rng.choice(KINDS)))
        if y is not None:
            live.append(y)
            if len(live) > 6:
                live.pop(int(rng.integers(len(live) - 1)))
    for number, tensor in enumerate(dict.fromkeys(live[-2:])):
        if tensor is not graph.inputs[0].tensor:
            graph.output(f"y{number}", tensor)
    used, kept = {b.tensor for b in graph.outputs}, []
    for op in reversed(graph.ops):
        if op.outputs[0] in used:
            used |= {t for t in op.inputs if t is not None}
            kept.insert(0, op)
    graph.ops = kept
    return graph


def place_of(arena: np.ndarray, plan: Plan, views: Views, tensor: Tensor) -> np.ndarray:
    """The elements of a tensor in the arena, found from where it lies and by nothing else."""
    view = views.get(tensor, View(tensor))
    size, strides = dtypes.size(tensor.dtype), []
    step = size
    for axis in reversed(range(len(tensor.shape))):
        strides.insert(0, step)
        last = axis == len(tensor.shape) - 1
        step *= view.pitch if last and view.pitch else tensor.shape[axis]
    start = plan.offsets[view.root] + view.at
    end = start + sum((n - 1) * s for n, s in zip(tensor.shape, strides)) + size
    low = plan.offsets[view.root]
    assert low <= start and end <= low + view.root.bytes, f"{tensor.name} leaves its root"
    part = arena[start:end].view(dtypes.numpy_dtype(tensor.dtype))
    return np.lib.stride_tricks.as_strided(part, tensor.shape, strides)


def run(graph: Graph, views: Views, plan: Plan, inputs: dict) -> dict:
    """Run the ops in order on an arena that is full of ones; nothing else remembers a tensor."""
    arena = np.full(plan.arena_bytes, 0xFF, np.uint8)  # NaN
    for boundary in graph.inputs:
        place_of(arena, plan, views, boundary.tensor)[...] = inputs[boundary.name]
    for op in graph.ops:
        given = [None if x is None else x.data if x.constant
                 else place_of(arena, plan, views, x).copy() for x in op.inputs]
        for y, values in zip(op.outputs, reference.evaluate(op, given)):
            place_of(arena, plan, views, y)[...] = values
    return {boundary.name: place_of(arena, plan, views, boundary.tensor).copy()
            for boundary in graph.outputs}


def reduced(graph: Graph, without=()) -> tuple[Graph, Views, Plan]:
    """Arrange and plan a graph as the packer does."""
    from edgerun.tools import passes
    views = passes.alias.apply(graph)
    views, plan = reductions.apply(graph, views, without)
    return graph, views, plan
