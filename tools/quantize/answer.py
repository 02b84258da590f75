"""Keep the end of a network real: what no layer follows is the answer, and rounding it is felt."""
from __future__ import annotations

from collections.abc import Sequence

from edgerun.tools import passes, plan as planner
from edgerun.tools.graph import Graph, Op, copy_of
from edgerun.tools.lower import apply as lower
from edgerun.tools.quantize.assign import INTEGERS, WEIGHTED, Override, names_of
from edgerun.tools.quantize.insert import Range, insert


def keep_real(graph: Graph, dtypes: dict[Op, str], range_of: Range,
              overrides: Sequence[Override] = ()) -> dict[Op, str]:
    """Return a choice in which the ops behind the last layers compute in fp32, output by output,
    wherever the arena does not grow by it.

    Boxes are decoded and scores compared there: steps of 1/255 of a range move them, and a value
    beyond the calibrated range would be cut off.

    Args:
        graph: optimized, in fp32; not changed.
        dtypes: from assign().
        range_of: as for insert().
        overrides: ops that they name keep what they were given.
    """
    chosen, least = dict(dtypes), None
    for ends in _ends(graph):
        ops = [op for op in ends if chosen.get(op) in INTEGERS
               and not any(o.matches(name) for o in overrides for name in names_of(op))]
        if not ops:
            continue
        if least is None:
            least = _bound(graph, chosen, range_of)
        tried = chosen | dict.fromkeys(ops, "fp32")
        bound = _bound(graph, tried, range_of)
        if bound <= least:
            chosen, least = tried, bound
    return chosen


def _ends(graph: Graph) -> list[list[Op]]:
    """Return, per graph output, the ops that lead to it and to no layer."""
    users, producers = graph.consumers(), graph.producers()
    before_layer: set[Op] = set()
    for op in reversed(graph.ops):
        readers = [user for y in op.outputs for user in users.get(y, ())]
        if any(user in before_layer or user.code in WEIGHTED for user in readers):
            before_layer.add(op)
    ends = []
    for boundary in graph.outputs:
        found: dict[Op, None] = {}
        pending = [boundary.tensor]
        while pending:
            op = producers.get(pending.pop())
            if op is None or op in found or op in before_layer or op.code in WEIGHTED:
                continue
            found[op] = None
            pending += [x for x in op.inputs if x is not None]
        ends.append(list(found))
    return ends


def _bound(graph: Graph, dtypes: dict[Op, str], range_of: Range) -> int:
    """Return the least arena in bytes that a choice needs."""
    copy = copy_of(graph)
    insert(copy, {twin: dtypes[op] for op, twin in zip(graph.ops, copy.ops) if op in dtypes},
           range_of)
    lower(copy)
    blocks, scratch = planner.blocks_of(copy, passes.alias.apply(copy))
    return planner.lower_bound([*blocks.values(), *scratch.values()])[0]


def keep_gates(graph: Graph, dtypes: dict[Op, str], overrides: Sequence[Override] = ()
               ) -> dict[Op, str]:
    """Return a choice in which the last layer of a gate, and what follows it, compute in fp32.

    Gates of experts that fit alike differ little: rounded, they would choose other ones.

    Args:
        graph: optimized, in fp32; not changed.
        dtypes: from assign().
        overrides: ops that they name keep what they were given.
    """
    chosen, producers = dict(dtypes), graph.producers()
    pending = [op.inputs[0] for op in graph.ops if op.code == "route"]
    while pending:
        op = producers.get(pending.pop())
        if op is None:
            continue
        named = any(o.matches(name) for o in overrides for name in names_of(op))
        if chosen.get(op) in INTEGERS and not named:
            chosen[op] = "fp32"
        if op.code not in WEIGHTED:
            pending += [x for x in op.inputs if x is not None]
    return chosen
