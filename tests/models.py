"""Tiny model files for the tests of reports and the command line."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from edgerun.tools import blob, layout, passes, plan as planner
from edgerun.tools.graph import Graph
from edgerun.tools.precision import convert

SHIFT = np.array([1, -2, 3], np.float32)


def save(graph: Graph, path: Path, precision: str = "fp32", vectors=()) -> Path:
    """Plan a graph and write it as a model file."""
    convert(graph, precision, {})
    aliases = passes.alias.apply(graph)
    layout.apply(graph)
    blob.write(path, blob.encode(graph, planner.plan(graph, aliases), aliases, precision,
                                 list(vectors)))
    return path


def shift_relu(path: Path, vectors=(), x: str = "x", y: str = "y", rows: int = 2) -> Path:
    """y [rows, 3] = relu(x [rows, 3] + SHIFT): two ops, one constant."""
    graph = Graph("shift_relu", source="shift_relu.onnx")
    operands = [graph.input(x, (rows, 3), "fp32"), graph.constant(SHIFT, "shift")]
    shifted = graph.add("binary", operands, "shifted", kind="add")
    graph.output(y, graph.add("unary", [shifted], "rectified", kind="relu"))
    return save(graph, path, vectors=vectors)


def expected(x: np.ndarray) -> np.ndarray:
    """What shift_relu computes."""
    return np.maximum(x + SHIFT, 0)


def two_layers(path: Path, precision: str = "fp32") -> Path:
    """y [4, 8] = relu(x [4, 32] w1 + b1) w2: two dense layers."""
    rng = np.random.default_rng(0)
    graph = Graph("two_layers")
    x = graph.input("x", (4, 32), "fp32")
    hidden = graph.add("dense", [x, graph.constant(rng.standard_normal((16, 32), np.float32), "w1"),
                                 graph.constant(rng.standard_normal(16, np.float32), "b1")],
                       "hidden", activation="relu")
    w2 = graph.constant(rng.standard_normal((8, 16), np.float32), "w2")
    graph.output("y", graph.add("dense", [hidden, w2], "scores"))
    return save(graph, path, precision)


def wide(path: Path, units: int = 512) -> Path:
    """y [1, units] = x [1, units] w1 w2: megabytes of weights, little arena."""
    rng, graph = np.random.default_rng(0), Graph("wide")
    x = graph.input("x", (1, units), "fp32")
    for name in ("w1", "w2"):
        w = rng.standard_normal((units, units), np.float32) / np.float32(units ** 0.5)
        x = graph.add("dense", [x, graph.constant(w, name)], f"by_{name}")
    graph.output("y", x)
    return save(graph, path)


def words(path: Path, count: int = 16384, size: int = 512) -> Path:
    """y [3, size] = the rows of a table that x [3] names: few of many weights are read."""
    table = np.random.default_rng(0).standard_normal((count, size), np.float32)
    graph = Graph("words")
    x = graph.input("x", (3,), "int32")
    graph.output("y", graph.add("gather", [graph.constant(table, "table"), x], "row", axis=0))
    return save(graph, path)
