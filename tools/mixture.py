"""Mixture of experts in the packer: which ops are an expert's, and that they stay together.

Importers write the gates, a route op, the ops of all experts and their blends as one flat graph.
Passes, quantizer and calibration see ordinary ops, and what several experts compute alike is
computed once. What leads to one blend only, and to nothing else, is that expert's: at the end its
ops are put in front of the blend, and run in no other order than that from then on.
"""
from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.mixture import CODES
from edgerun.ops.mixture import CHOSEN, SLOT, SLOTS, WEIGHTS, Y
from edgerun.tools.graph import Graph, Op, Tensor, View, Views, root_of

Owner = tuple[int, int]  # number of the route op among those of a graph, expert


def add(graph: Graph, gates: Tensor, k: int, shape: Sequence[int], name: str) -> Op:
    """Append the choice of experts.

    Args:
        graph: gets the op.
        gates: [batch, experts].
        k: experts that run for a sample.
        shape: of the sum of their results.
        name: of the source model's op.

    Raises:
        ModelError: the gates or k do not fit.
    """
    return graph.insert(len(graph.ops), "route", [gates], name, k=k, shape=tuple(shape))


def shaped(route: Op, shape: Sequence[int]) -> Tensor:
    """Give the sum of a route its shape, before anything reads it; returns it."""
    route.options["shape"] = route.outputs[Y].shape = tuple(int(n) for n in shape)
    return route.outputs[Y]


def slot(graph: Graph, route: Op, expert: int) -> Tensor | None:
    """Return the sample that an expert runs for, int32 [1]; None if there is one sample only."""
    if len(route.outputs) <= SLOTS:
        return None
    return graph.add("slice", [route.outputs[SLOTS]], f"{route.name}.slot{expert}",
                     starts=(expert,), steps=(1,), sizes=(1,))


def blend(graph: Graph, route: Op, before: Tensor, x: Tensor, expert: int, at: Tensor | None
          ) -> Tensor:
    """Append the sum of what the experts before have said, and what one more says.

    Args:
        graph: gets the op.
        route: of the experts.
        before: the sum so far: the route's first, then what this returned.
        x: [1, ...], what the expert says of the sample.
        expert: its number.
        at: its slot.

    Raises:
        ModelError: the shapes do not fit.
    """
    inputs = [before, x, route.outputs[WEIGHTS], *([] if at is None else [at])]
    return graph.add("blend", inputs, f"{route.name}.blend{expert}", expert=expert)


def blends(graph: Graph) -> list[tuple[Op, list[Op]]]:
    """Return every route op that has experts with their blends, in their order.

    Raises:
        ModelError: the sum is not that of all experts, one after the other.
    """
    users = graph.consumers()
    found = []
    for route in graph.ops:
        if route.code != "route":
            continue
        chain: list[Op] = []
        y, experts = route.outputs[Y], route.inputs[0].shape[1]
        if y not in users and not graph.is_output(y):
            continue
        while len(chain) < experts:
            following = [op for op in users.get(y, ()) if op.code == "blend"]
            if len(following) != 1 or following[0].options["expert"] != len(chain) or (
                    len(users[y]) > 1 or graph.is_output(y)):
                raise ModelError(f"{route}: the sum of its experts is not added up one by one")
            chain += following
            y = chain[-1].outputs[0]
        found.append((route, chain))
    return found


def place(graph: Graph, views: Views) -> None:
    """Put every sum of experts into the bytes of the first one, where it is added up, and the slot
    of an expert where the session writes it.

    Args:
        graph: its reshapes are aliases; the slices that are slots become some too.
        views: where the tensors lie that have no bytes of their own; gets the sums and slots.
    """
    for route, chain in blends(graph):
        root = route.outputs[Y]
        for y in (op.outputs[0] for op in chain):
            for tensor, view in list(views.items()):
                if view.root is y:
                    views[tensor] = View(root, view.at, view.pitch)
            views[y] = View(root)
        slots = route.outputs[SLOTS] if len(route.outputs) > SLOTS else None
        for op in [op for op in graph.ops if op.code == "slice" and op.inputs[0] is slots]:
            views[op.outputs[0]] = View(slots, dtypes.size("int32") * op.options["starts"][0])
            graph.ops.remove(op)


def owners(graph: Graph, views: Views) -> dict[Op, Owner]:
    """Return the ops that lead to the blend of one expert only; that blend is the expert's too."""
    found: dict[Op, Owner] = {}
    sums = {}
    for number, (_, chain) in enumerate(blends(graph)):
        sums |= {op: (number, expert) for expert, op in enumerate(chain)}
    readers: dict[Tensor, set[Owner | None]] = {
        root_of(views, boundary.tensor): {None} for boundary in graph.outputs}
    for op in reversed(graph.ops):
        who: Owner | None = sums.get(op)
        if who is None and op.code not in CODES:
            wanted = set().union(*(readers.get(root_of(views, y), set()) for y in op.outputs))
            who = next(iter(wanted)) if len(wanted) == 1 else None
        if who is not None:
            found[op] = who
        for index, x in enumerate(op.inputs):
            if x is not None and not x.constant:
                inner = op.code != "blend" or index in (1, SLOT)
                readers.setdefault(root_of(views, x), set()).add(who if inner else None)
    return found


def arrange(graph: Graph, views: Views) -> None:
    """Put the ops of every expert in front of its blend, the first expert's behind the route.

    An expert that runs sample by sample reads the same tensors every time: its blend gets them as
    further inputs, so that they stay until the last sample.

    Args:
        graph: as it will be written, but for the order; its ops are put in order.
        views: where the tensors lie that have no bytes of their own.

    Raises:
        UnsupportedError: an input that arrives in pieces would have to arrive between experts.
    """
    mixtures = blends(graph)
    if not mixtures:
        return
    who = owners(graph, views)
    pieces = {piece for boundary in graph.inputs for piece, _ in boundary.pieces}
    for op in who:
        if any(x is not None and root_of(views, x) in pieces for x in op.inputs):
            raise UnsupportedError(f"{op}: an expert would read an input that arrives in pieces: "
                                   "needed --patch off")
    inside: dict[Owner, list[Op]] = {}
    for op in graph.ops:
        if op in who:
            inside.setdefault(who[op], []).append(op)
    units = [[route, *(op for expert in range(len(chain)) for op in inside[number, expert])]
             for number, (route, chain) in enumerate(mixtures)]
    graph.ops = _sorted(graph, views, units)
    for route, chain in mixtures:
        if len(route.outputs) > SLOTS:
            for sum_op in chain:
                _keep(sum_op, inside[who[sum_op]])


def _sorted(graph: Graph, views: Views, units: list[list[Op]]) -> list[Op]:
    """Return the ops in an order in which those of a unit follow each other, else as they were."""
    unit_of = {op: number for number, unit in enumerate(units) for op in unit}
    keys: dict[Op, Any] = {op: unit_of.get(op, op) for op in graph.ops}
    held = {number: unit for number, unit in enumerate(units)}
    writers: dict[Tensor, list[Any]] = {}
    needs: dict[Any, dict[Any, None]] = {}
    at: dict[Any, int] = {}
    for step, op in enumerate(graph.ops):
        key = keys[op]
        at[key] = max(step, at.get(key, 0))  # a unit goes where its last op was
        before = needs.setdefault(key, {})
        for x in op.inputs:
            if x is not None and not x.constant:
                before.update(dict.fromkeys(w for w in writers.get(root_of(views, x), ())
                                            if w != key))
        for y in op.outputs:
            writers.setdefault(root_of(views, y), []).append(key)
    after: dict[Any, list[Any]] = {}
    for key, before in needs.items():
        for other in before:
            after.setdefault(other, []).append(key)
    left = {key: len(before) for key, before in needs.items()}
    ready = [(at[key], number, key) for number, key in enumerate(left) if not left[key]]
    numbers = {key: number for number, key in enumerate(left)}
    heapq.heapify(ready)
    found: list[Op] = []
    while ready:
        _, _, key = heapq.heappop(ready)
        found += held[key] if isinstance(key, int) else [key]
        for other in after.get(key, ()):
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready, (at[other], numbers[other], other))
    if len(found) != len(graph.ops):
        raise UnsupportedError("an expert reads what depends on the choice of experts")
    return found


def _keep(sum_op: Op, ops: list[Op]) -> None:
    """Let the blend of an expert read what its ops read from outside."""
    written = {y for op in ops for y in op.outputs}
    given = {*sum_op.inputs}
    for op in ops:
        for x in op.inputs:
            if x is not None and not x.constant and x not in written | given:
                sum_op.inputs.append(x)
                given.add(x)


def sections(graph: Graph) -> list[int]:
    """Return for every op of an arranged graph the section it must stay in: numbers ascend; route
    ops, and each expert's ops up to its blend, are sections of their own."""
    found, number = [], 0
    for op in graph.ops:
        number += op.code == "route"
        found.append(number)
        number += op.code in CODES
    return found


def spans(graph: Graph) -> list[tuple[int, list[range]]]:
    """Return for every route op of an arranged graph its number, and those of each expert's ops."""
    found: list[tuple[int, list[range]]] = []
    for number, op in enumerate(graph.ops):
        if op.code == "route":
            found.append((number, []))
        elif op.code == "blend":
            route, held = found[-1]
            held.append(range(held[-1].stop if held else route + 1, number + 1))
    return [pair for pair in found if pair[1]]


def experts(graph: Graph) -> dict[int, int]:
    """Return for the ops of experts, by their numbers in an arranged graph, a number that ops of
    the same expert have in common, and no others."""
    return {number: held.stop for _, spans_of in spans(graph) for held in spans_of
            for number in held}


def values(graph: Graph, index: dict[Tensor, int]) -> dict[str, Any]:
    """Return the mixtures of an arranged graph for its table.

    Args:
        graph: as it is written.
        index: tensor -> its number in the file.
    """
    found = []
    for number, held in spans(graph):
        route = graph.ops[number]
        found.append({
            "gates": index[route.inputs[0]], "chosen": index[route.outputs[CHOSEN]],
            "slot": index[route.outputs[SLOTS]] if len(route.outputs) > SLOTS else -1,
            "route": number,
            "experts": [{"first": span.start, "ops": len(span)} for span in held]})
    return {"mixtures": found} if found else {}


def constants(graph: Graph) -> dict[Tensor, int]:
    """Return the constants that only the ops of one expert read -> a number of that expert, unique
    in an arranged graph. Equal ones of several experts are stored once, and are nobody's."""
    readers: dict[tuple[str, bytes], set[int]] = {}
    held: dict[Tensor, tuple[str, bytes]] = {}
    who = experts(graph)
    for number, op in enumerate(graph.ops) if who else ():
        for x in op.inputs:
            if x is not None and x.constant:
                if x not in held:
                    held[x] = x.dtype, np.ascontiguousarray(
                        x.data, dtypes.numpy_dtype(x.dtype)).tobytes()
                readers.setdefault(held[x], set()).add(who.get(number, -1))
    return {x: next(iter(readers[key])) for x, key in held.items()
            if len(readers[key]) == 1 and -1 not in readers[key]}
