"""What makes the arena smaller than one place per tensor: each can be switched off.

  reorder    the order of ops in which as few bytes as possible are live
  views      concats and slices are no ops: their inputs or outputs are parts of a tensor
  in-place   the output of an op takes the bytes of an input that nobody needs any more
  patch      neighbouring ops run over strips of the image, see edgerun.tools.patch
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from edgerun.errors import InputError
from edgerun.tools import plan as planner, schedule
from edgerun.tools.graph import Graph, Op, Views
from edgerun.tools.passes import in_place, views as views_pass
from edgerun.tools.plan import Plan

ARRANGED = ("reorder", "views", "in-place")  # what best() does; patch changes the graph before
NAMES = (*ARRANGED, "patch")
SEARCHED_SETS = 500  # of ops, while alternatives are compared
ALTERNATIVES = 20  # sets of views that are compared at most,
COMPARED = 3_000  # and ops of all of them


@dataclass(frozen=True)
class Reduction:
    """What one reduction brings.

    Attributes:
        name: one of NAMES.
        without_bytes: of the arena if only this one were switched off.
    """
    name: str
    without_bytes: int


@dataclass
class Arranged:
    """A graph whose ops and tensors have got their places.

    Attributes:
        ops: in order.
        views: where the tensors lie that have no bytes of their own.
        bound: largest sum of live bytes.
        replaced: ops that became views.
    """
    ops: list[Op]
    views: Views
    bound: int
    replaced: list[Op]


def check(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of reductions.

    Raises:
        InputError: there is no such reduction.
    """
    names = tuple(names)
    for name in names:
        if name not in NAMES:
            raise InputError(f"reduction {name!r} is not available, needed one of "
                             f"{', '.join(NAMES)}")
    return names


def apply(graph: Graph, views: Views, without: Collection[str] = (),
          progress: Callable[[str], None] = lambda stage: None) -> tuple[Views, Plan]:
    """Arrange a graph for the smallest arena, and plan it.

    Args:
        graph: with the storage types and layouts of all tensors chosen; its ops are changed in
            place.
        views: where the reshaped tensors lie.
        without: names of reductions that are switched off.
        progress: called with the name of each stage.

    Returns:
        Where the tensors lie that have no bytes of their own, and the plan.
    """
    progress("schedule")
    arranged = best(graph, views, without)
    graph.ops = arranged.ops
    progress("plan")
    return arranged.views, planner.plan(graph, arranged.views)


def effects(graph: Graph, views: Views, without: Collection[str] = ()) -> list[Reduction]:
    """Return what the arena would be without each reduction that is not switched off.

    Args:
        graph, views, without: as for apply(); nothing is changed.
    """
    found = []
    for name in ARRANGED:
        if name not in without:
            arranged = best(graph, views, {*without, name})
            trial = replace(graph, ops=arranged.ops)
            found.append(Reduction(name, planner.plan(trial, arranged.views, 0).arena_bytes))
    return found


def best(graph: Graph, views: Views, without: Collection[str] = ()) -> Arranged:
    """Return the arrangement with the smallest bound that is found; changes nothing.

    Args:
        graph, views, without: as for apply().
    """
    found = _arranged(graph, views, without, (), SEARCHED_SETS)
    kept: list[Op] = []
    most = left = min(ALTERNATIVES, COMPARED // max(1, len(graph.ops)))
    while left > 0:  # views that keep bytes alive at the peak may not be worth it
        tried = [(_arranged(graph, views, without, [*kept, op], SEARCHED_SETS), op)
                 for op in _at_peak(graph, found)[:left]]
        left -= max(1, len(tried))
        if not tried:
            break
        other, op = min(tried, key=lambda pair: pair[0].bound)
        if other.bound >= found.bound:
            break
        found = other
        kept.append(op)
    found = _arranged(graph, views, without, kept, schedule.SEARCHED_SETS)
    if "views" in without or not found.replaced:
        return found
    other = _arranged(graph, views, {*without, "views"}, (), schedule.SEARCHED_SETS)
    if other.bound >= found.bound:
        return found
    copied = [*kept, *found.replaced]
    for op in copied[:most]:  # what costs no bytes is a view all the same: fewer ops
        less = [each for each in copied if each is not op]
        tried = _arranged(graph, views, without, less, schedule.SEARCHED_SETS)
        if tried.bound <= other.bound and len(tried.ops) < len(other.ops):
            other, copied = tried, less
    return other


def _arranged(graph: Graph, views: Views, without: Collection[str], kept: list[Op],
              limit: int) -> Arranged:
    trial = replace(graph, ops=list(graph.ops), _names=dict(graph._names))
    views, replaced = dict(views), []
    if "views" not in without:
        replaced = views_pass.apply(trial, views, kept)
    if "reorder" not in without:
        schedule.apply(trial, views, limit)
    if "in-place" not in without:
        in_place.apply(trial, views)
    return Arranged(trial.ops, views, _bound(trial, views)[0], replaced)


def _bound(graph: Graph, views: Views) -> tuple[int, int]:
    blocks, scratch = planner.blocks_of(graph, views)
    return planner.lower_bound([*blocks.values(), *scratch.values()])


def _at_peak(graph: Graph, arranged: Arranged) -> list[Op]:
    """Return the ops that became views of what is live where most bytes are."""
    trial = replace(graph, ops=arranged.ops)
    blocks, scratch = planner.blocks_of(trial, arranged.views)
    peak = planner.lower_bound([*blocks.values(), *scratch.values()])[1]
    live = {tensor for tensor, block in blocks.items() if block.first <= peak <= block.last}
    views = arranged.views
    return [op for op in arranged.replaced
            if any(t in views and views[t].root in live or t in live
                   for t in (*op.inputs, *op.outputs) if not t.constant)]
