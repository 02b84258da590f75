"""Elementwise ops behind one another, which one table computes."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgerun.ops.elementwise import BINARY_TO_BOOL, UNARY_TO_BOOL
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.lower.pointwise import DEEPEST
from edgerun.tools.quantize.assign import INTEGERS
from edgerun.tools.reference import REFERENCE

STORED = {"int8": "uint8", "int16": "int16"}  # dtype of activations, by the dtype of an op
BITS = {"int8": 8, "int16": 16}
Function = Callable[[np.ndarray], np.ndarray]
Range = Callable[[str, int], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Link:
    """An elementwise op as a function of one tensor.

    Attributes:
        root: the tensor, of the shape of the result.
        function: real numbers of the root -> those of the result.
        depth: ops behind one another.
    """
    root: Tensor
    function: Function
    depth: int


def links(graph: Graph, dtypes: Mapping[Op, str]) -> tuple[dict[Op, Link], set[Tensor]]:
    """Return the ops that are functions of one tensor, and the tensors between such ops, which need
    no integers of their own: one table leads over them.

    Args:
        graph: real.
        dtypes: op -> dtype; only ops of an integer dtype are linked.
    """
    users, producers, apart = graph.consumers(), graph.producers(), set()
    while True:
        found: dict[Op, Link] = {}
        for op in graph.ops:
            link = _link(op, dtypes, producers, found, apart)
            if link is not None:
                found[op] = link
        between, torn = set(), set()
        for op, link in found.items():
            for x in op.inputs:
                if x is not link.root and not x.constant:
                    same = not graph.is_output(x) and all(
                        user in found and found[user].root is link.root
                        and dtypes[user] == dtypes[op] for user in users[x])
                    (between if same else torn).add(x)
        if not torn:
            return found, between
        apart |= torn


def elementwise(op: Op) -> bool:
    """Whether an op computes every real number from those at the same place."""
    return (op.code == "unary" and op.options["kind"] not in UNARY_TO_BOOL
            or op.code == "binary" and op.options["kind"] not in BINARY_TO_BOOL)


def number(x: Tensor | None) -> bool:
    """Whether a tensor is a constant with one value only."""
    return x is not None and x.constant and x.dtype == "fp32" and x.data.size > 0 and bool(
        np.all(x.data == x.data.reshape(-1)[0]))


def _link(op: Op, dtypes: Mapping[Op, str], producers: Mapping[Tensor, Op],
          found: Mapping[Op, Link], apart: set[Tensor]) -> Link | None:
    y = op.outputs[0]
    if not elementwise(op) or dtypes.get(op) not in INTEGERS or y.dtype != "fp32":
        return None
    operands: list[Link | None] = []
    for x in op.inputs:
        if number(x):
            operands.append(None)
            continue
        if x.constant or x.shape != y.shape:
            return None
        before = None if x in apart else found.get(producers.get(x))
        if before is None or before.depth >= DEEPEST:
            before = Link(x, lambda v: v, 0)
        operands.append(before)
    given = [link for link in operands if link is not None]
    if not given or any(link.root is not given[0].root for link in given):
        return None
    values = [None if link is not None else x.data.reshape(-1)[0]
              for link, x in zip(operands, op.inputs)]

    def function(v: np.ndarray) -> np.ndarray:
        arrays = [v.dtype.type(value) if link is None else link.function(v)
                  for link, value in zip(operands, values)]
        return REFERENCE[op.code](op, *arrays)

    return Link(given[0].root, function, 1 + max(link.depth for link in given))


__all__ = ["BITS", "Link", "STORED", "elementwise", "links"]
