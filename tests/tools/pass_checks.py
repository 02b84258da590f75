"""What the tests of the passes share: run a graph, apply passes, run it again, compare."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerun.tools import passes, reference
from edgerun.tools.graph import Graph, Tensor


def values(shape, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Return random fp32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def conv(graph: Graph, x: Tensor, out_c: int, kernel: int = 3, bias: bool = True, seed: int = 1,
         **options) -> Tensor:
    """Add a conv2d with random weights."""
    groups = options.get("groups", 1)
    w = graph.constant(values((out_c, kernel, kernel, x.shape[3] // groups), seed), "w")
    b = graph.constant(values(out_c, seed + 1), "b") if bias else None
    return graph.add("conv2d", [x, w, b], "conv", **options)


def binary(graph: Graph, kind: str, a, b, **options) -> Tensor:
    """Add a binary op; an operand may be an array or a number."""
    operands = [t if isinstance(t, Tensor) else graph.constant(np.asarray(t, np.float32))
                for t in (a, b)]
    return graph.add("binary", operands, kind, kind=kind, **options)


def unary(graph: Graph, kind: str, x: Tensor, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
    """Add a unary op."""
    return graph.add("unary", [x], kind, kind=kind, alpha=alpha, beta=beta)


def codes(graph: Graph) -> list[str]:
    """Return the code of every op, with its kind and its activation where it has them."""
    def text(op) -> str:
        kind, activation = op.options.get("kind"), op.options.get("activation")
        return op.code + (f" {kind}" if kind else "") + (f" {activation}" if activation else "")
    return [text(op) for op in graph.ops]


def run(graph: Graph, low: float = -2.0, high: float = 2.0) -> dict[str, np.ndarray]:
    """Return the outputs for random inputs, always the same ones."""
    feeds = {}
    for number, boundary in enumerate(graph.inputs):
        if boundary.dtype in ("int32", "int64"):
            rng = np.random.default_rng(number)
            feeds[boundary.name] = rng.integers(0, 3, boundary.shape).astype(boundary.dtype)
        else:
            feeds[boundary.name] = values(boundary.shape, 100 + number, low, high)
    return reference.execute(graph, feeds)


def consistent(graph: Graph) -> None:
    """Check that shapes are as inferred, order is topological, names are unique."""
    from edgerun.ops import OPS
    known = {boundary.tensor for boundary in graph.inputs}
    for op in graph.ops:
        for tensor in op.inputs:
            assert tensor is None or tensor.constant or tensor in known, \
                f"{op} reads {tensor.name} before it is computed"
        inferred = [(tuple(shape), dtype) for shape, dtype in OPS[op.code].infer(op)]
        assert inferred == [(t.shape, t.dtype) for t in op.outputs], f"{op}: {inferred}"
        known.update(op.outputs)
    for boundary in graph.outputs:
        assert boundary.tensor.constant or boundary.tensor in known
    for boundary in (*graph.inputs, *graph.outputs):
        perm = boundary.perm or range(len(boundary.shape))
        assert tuple(boundary.shape[axis] for axis in perm) == boundary.tensor.shape
    names = [tensor.name for tensor in graph.tensors()]
    assert len(names) == len(set(names)), "two tensors of one name"


def check(graph: Graph, *apply: Callable[[Graph], None], expected: list[str] | None = None,
          tolerance: float = 2e-5, low: float = -2.0, high: float = 2.0) -> Graph:
    """Apply passes (all of them by default); the outputs must stay, the ops must be as expected."""
    before = run(graph, low, high)
    consistent(graph)
    for step in apply or [step for _, step in passes.PIPELINE]:
        step(graph)
        consistent(graph)
        after = run(graph, low, high)
        assert before.keys() == after.keys()
        for name, want in before.items():
            assert after[name].shape == want.shape and after[name].dtype == want.dtype
            largest = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(after[name], want, tolerance, tolerance * largest)
    if expected is not None:
        assert codes(graph) == expected
    return graph
