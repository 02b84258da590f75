"""Mixed precision: noise, the problem and its optimum, and files within a bound."""
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edgerun.tools.graph import Graph
from edgerun.tools.mixed.problem import DTYPES, Problem, excess
from edgerun.tools.mixed.sensitivity import Sensitivity
from edgerun.tools.mixed.solve import solve

NOISE = {"fp16": 1e-8, "int16": 1e-9, "int8": 1e-5}


def network(seed: int = 0) -> Graph:
    """Two layers and a branch that joins them; one pool that only moves numbers, one output that
    is not last, one op that counts."""
    rng = np.random.default_rng(seed)
    graph = Graph("network")
    x = graph.input("x", (1, 8, 8, 4), "fp32")

    def conv(x, name, out, **options):
        w = rng.standard_normal((out, 3, 3, x.shape[3])).astype(np.float32) / 6
        return graph.add("conv2d", [x, graph.constant(w, f"{name}.w"),
                                    graph.constant(rng.standard_normal(out), f"{name}.b")], name,
                         pad_top=1, pad_left=1, pad_bottom=1, pad_right=1,
                         **options)

    a = conv(x, "a", 8, activation="relu")
    pooled = graph.add("pool2d", [a], "pooled", kind="max", kernel_h=2, kernel_w=2,
                       stride_h=2, stride_w=2)
    b = conv(pooled, "b", 8)
    c = graph.add("unary", [b], "c", kind="sigmoid")
    joined = graph.add("binary", [c, pooled], "joined", kind="mul")
    graph.output("joined", joined)
    flat = graph.add("reshape", [joined], "flat", shape=(1, 128))
    w = rng.standard_normal((10, 128)).astype(np.float32) / 10
    scores = graph.add("dense", [flat, graph.constant(w, "d.w")], "scores")
    graph.output("scores", scores)
    graph.output("best", graph.add("arg", [scores], "best", kind="max", axis=1))
    return graph


def noises(graph: Graph, seed: int) -> Sensitivity:
    """Made-up noise for every tensor and layer."""
    rng = np.random.default_rng(seed)

    def noise(dtype: str) -> dict[str, float]:
        return {"joined": NOISE[dtype] * rng.lognormal(0, 2), "best": 0.0,
                "scores": NOISE[dtype] * rng.lognormal(0, 2)}

    found = Sensitivity()
    for dtype in NOISE:
        for name in ("x", "a", "pooled", "b", "c", "joined", "scores"):
            found.stored[name, dtype] = noise(dtype)
        for name in ("a", "b", "scores"):
            found.weights[name, dtype] = noise(dtype)
    found.stored["c", "fp16"] = {"joined": math.inf, "scores": math.inf, "best": 1.0}
    return found


def every_choice(problem: Problem):
    for types in itertools.product(*(problem.allowed[op] for op in problem.groups)):
        yield dict(zip(problem.groups, types))


@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_trying_all(seed):
    graph = network(seed)
    allowed = {op: DTYPES for op in graph.ops if op.code not in ("arg", "reshape")}
    allowed[graph.ops[0]] = ("fp32", "fp16", "int8")
    problem = Problem(graph, noises(graph, seed), allowed)
    assert len(problem.groups) == 5  # the pool goes with the convolution in front
    tried = [(choice, *problem.evaluate(choice)) for choice in every_choice(problem)]
    for bound in (1e-9, 3e-8, 1e-6, 3e-5, 1e-2, 10.0):
        allowance = {"joined": bound, "scores": 2 * bound, "best": 0.5}
        least = min((size for _, size, noise in tried if excess(noise, allowance) <= 1))
        found = solve(problem, allowance)
        size, noise = problem.evaluate(found)
        assert excess(noise, allowance) <= 1
        assert size <= least * (1 + 2e-4), (seed, bound, found)


def test_no_choice_within_the_allowance():
    graph = network()
    allowed = {op: ("int8",) for op in graph.ops if op.code not in ("arg", "reshape")}
    problem = Problem(graph, noises(graph, 0), allowed)
    assert solve(problem, {"joined": 1e-9, "scores": 1e-9, "best": 1.0}) is None
