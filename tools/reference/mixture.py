"""NumPy reference of the mixture of experts."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgerun.ops.mixture import SLOTS
from edgerun.tools.graph import Graph, Op, Tensor


def _route(op: Op, gates: np.ndarray) -> list[np.ndarray]:
    k = op.options["k"]
    # stable, so that of equal gates the lower index comes first
    chosen = np.argsort(-gates, axis=1, kind="stable")[:, :k]
    weights = np.zeros_like(gates)
    for sample, experts in enumerate(chosen):
        total = np.float32(0)
        for expert in experts:
            total += gates[sample, expert]
        weights[sample, experts] = gates[sample, experts] / total
    return [weights, np.zeros(op.options["shape"], np.float32), chosen,
            np.zeros(gates.shape[1], np.int32)][:len(op.outputs)]


def _blend(op: Op, before: np.ndarray, x: np.ndarray, weights: np.ndarray,
           slot: np.ndarray | None = None, *kept: np.ndarray) -> np.ndarray:
    sample, y = 0 if slot is None else int(slot[0]), before.copy()
    weight = weights[sample, op.options["expert"]]
    if weight != 0:  # 0 times inf or NaN is NaN
        y[sample] += weight * x[0]
    return y


REFERENCE = {"route": _route, "blend": _blend}


def order(graph: Graph) -> Iterator[tuple[Op, tuple[Tensor, int] | None]]:
    """Yield every op as often as it runs: those that lead from the slots of a mixture to a blend
    once for each sample.

    Yields:
        The op; at the first op for a sample: the slots, and the sample.
    """
    if all(len(op.outputs) <= SLOTS for op in graph.ops if op.code == "route"):
        yield from ((op, None) for op in graph.ops)
        return
    behind: dict[Tensor, Op] = {}  # what depends on slots -> the route they are of
    writers: dict[Tensor, Op] = {}
    for op in graph.ops:
        if op.code == "route":
            behind[op.outputs[SLOTS]] = op
        route = next((behind[x] for x in op.inputs if x in behind), None)
        if route is None:
            yield op, None
            continue
        if op.code != "blend":
            behind |= dict.fromkeys(op.outputs, route)
            writers |= dict.fromkeys(op.outputs, op)
            continue
        for sample in range(route.inputs[0].shape[0]):
            given: tuple[Tensor, int] | None = (route.outputs[SLOTS], sample)
            for each in (*_leading(op, writers), op):
                yield each, given
                given = None


def _leading(op: Op, writers: dict[Tensor, Op]) -> list[Op]:
    """Return the ops among the writers of some tensors that an op needs, each behind its own."""
    found: dict[Op, None] = {}
    for x in op.inputs:
        if x in writers and writers[x] not in found:
            found |= dict.fromkeys((*_leading(writers[x], writers), writers[x]))
    return list(found)
