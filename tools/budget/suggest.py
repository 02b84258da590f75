"""What would make a model fit: alternatives are planned, not guessed, and the cheapest are told.

Cheap is what costs no accuracy, then what is measured or likely to cost little, then what changes
the task (a smaller input), then what the user has excluded (a larger budget).
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from edgerun.errors import EdgerunError, UnsupportedError
from edgerun.ops import OPS
from edgerun.tools.budget.fit import Nominal, Project, Source
from edgerun.tools.budget.noise import modelled
from edgerun.tools.budget.report import Budget, Suggestion, types_of
from edgerun.tools.budget.search import Point, Search
from edgerun.tools.graph import Graph
from edgerun.tools.mixed.problem import DTYPES
from edgerun.tools.profiles import Profile
from edgerun.tools.quantize.assign import REALS

MOST = 3
NAMED = 2  # ops that a suggestion names
SCALES = (0.875, 0.75, 0.5, 0.25)  # of height and width of the inputs
STEP = 1024  # a larger budget is rounded up to


def suggestions(project: Project, budget: Budget, profile: Profile | None, search: Search,
                progress: Callable[..., None]) -> list[Suggestion]:
    """Return the cheapest things that would make a model fit, at most MOST.

    Args:
        project: the model, which does not fit.
        budget, profile: what it may take, and where.
        search: that found no file.
        progress: called with the name of each stage.
    """
    found: list[Suggestion] = []
    for suggestion in _all(project, budget, profile, search, progress):
        found.append(suggestion)
        if len(found) == MOST:
            break
    return found


def _all(project: Project, budget: Budget, profile: Profile | None, search: Search,
         progress: Callable[..., None]) -> Iterator[Suggestion]:
    fitting = [point for point in search.points if point.tried.fits]
    if fitting:  # but too many answers change
        best = min(fitting, key=lambda point: point.tried.drop)
        yield Suggestion(f"--max-drop {best.tried.drop:.4g}",
                         f"{best.tried.drop:.2f} % of the answers change", best.tried.ram,
                         best.tried.flash)
    planner = _Planner(project, replace(budget, max_drop=None), profile, progress)
    if project.source.without:
        tried = planner.search(project.types, 1.0, without=())
        if tried.best is not None:
            yield Suggestion("not --without " + ",".join(project.source.without), "no loss" + (
                "; " + tried.best.tried.how if tried.best.tried.how else ""),
                tried.best.tried.ram, tried.best.tried.flash)
    integers = project.ranges is None and not project.exact
    if integers:
        for types in ((*REALS, "int16"), DTYPES):
            tried = planner.search(types, 1.0)
            if tried.best is not None:
                yield Suggestion(_types(tried.best),
                                 "needs calibration data; accuracy to be measured",
                                 tried.best.tried.ram, tried.best.tried.flash)
                break
    yield from planner.smaller(REALS if integers else DTYPES)
    if integers:
        yield from planner.smaller(DTYPES, " and calibration data for int8")
        if tried.best is None:
            yield from _larger(budget, tried.points, " and calibration data for int8")
    yield from _larger(budget, search.points)


def _types(point: Point) -> str:
    """Tell the integers of a file: the ops by name if they are few."""
    counts = types_of(point.dtypes)
    parts = []
    for dtype, count in counts.items():
        names = [op.name or op.outputs[0].name for op, kind in point.dtypes.items()
                 if kind == dtype]
        if dtype not in REALS:
            parts.append(f"{dtype} for " + (", ".join(map(repr, names)) if count <= NAMED
                                            else f"{count} of {len(point.dtypes)} ops"))
    rest = [dtype for dtype in counts if dtype in REALS]
    return " and ".join(parts) + (f", {' and '.join(rest)} for the others" if rest else "")


class _Planner:
    """Plans variants of a model within a budget."""

    def __init__(self, project: Project, budget: Budget, profile: Profile | None,
                 progress: Callable[..., None]):
        self.project, self.budget, self.profile = project, budget, profile
        self.progress = progress

    def search(self, types: Sequence[str], scale: float,
               without: Sequence[str] | None = None) -> Search:
        """Search the best file of given types within the budget.

        Args:
            types: to choose from.
            scale: of height and width of the inputs.
            without: reductions that are switched off; None for those of the model.

        Raises:
            EdgerunError: the model cannot have such inputs.
        """
        self.progress("suggest")
        given: Source = replace(self.project.source, vectors=(),
                                without=self.project.source.without if without is None else without)
        project = Project(given, self.project.target, lambda stage: None,
                          self.project.integers or {*types} > {*REALS},
                          lambda graph: shrink(graph, scale) if scale != 1 else None)
        project.ranges = self.project.ranges or (Nominal if {*types} > {*REALS} else None)
        search = Search(project.graph, project.build, self.budget, self.profile,
                        project.allowed(types), lambda: modelled(project.graph),
                        ways=project.ways(self.budget))
        search.run()
        return search

    def smaller(self, types: Sequence[str], also: str = "") -> Iterator[Suggestion]:
        """Yield the largest smaller input with which a file fits, if the model can have it."""
        for scale in SCALES:
            with contextlib.suppress(EdgerunError):
                point = self.search(types, scale).best
                if point is not None:
                    before, after = (_sizes(graph) for graph in (self.project.graph,
                                                                 point.built.graph))
                    yield Suggestion(
                        f"an input of {after} instead of {before}{also}",
                        "the model must be tested, or trained again, at that size",
                        point.tried.ram, point.tried.flash)
                    return


def _sizes(graph: Graph) -> str:
    return ", ".join(f"{b.tensor.shape[1]}x{b.tensor.shape[2]}" for b in graph.inputs
                     if len(b.tensor.shape) == 4)


def shrink(graph: Graph, scale: float) -> None:
    """Give a graph smaller images as inputs, and infer all shapes again.

    Args:
        graph: optimized; changed in place, and broken if an error is raised.
        scale: of height and width.

    Raises:
        ModelError: an op cannot have such inputs.
        UnsupportedError: no input is an image, or an output would have another shape.
    """
    images = [b for b in graph.inputs if len(b.tensor.shape) == 4 and min(b.tensor.shape[1:3]) > 1]
    if not images:
        raise UnsupportedError(f"{graph.name}: no input is an image")
    for boundary in images:
        n, height, width, channels = boundary.tensor.shape
        shape = (n, max(1, int(height * scale)), max(1, int(width * scale)), channels)
        boundary.tensor.shape = shape
        places = boundary.perm or range(4)
        source = dict(zip(places, shape))
        boundary.shape = tuple(source[axis] for axis in range(4))
    for op in graph.ops:
        for y, inferred in zip(op.outputs, OPS[op.code].infer(op)):
            y.shape = tuple(inferred[0])
    for boundary in graph.outputs:
        if _elements(boundary.tensor.shape) != _elements(boundary.shape):
            raise UnsupportedError(f"{graph.name}: {boundary.name!r} would have another shape")


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _larger(budget: Budget, points: Sequence[Point], also: str = "") -> Iterator[Suggestion]:
    """Yield larger budgets: one of both raised where that is enough, else both."""
    cost = "more memory" if not also else "more memory; accuracy to be measured"

    def rounded(size: int) -> str:
        return f"{-(-size // STEP)}K"

    able = [point for point in points if not point.obstacles]
    for name, own, other in (("ram", "ram", "flash"), ("flash", "flash", "ram")):
        limit = getattr(budget, other)
        enough = [p for p in able if limit is None or getattr(p.tried, other) <= limit]
        if getattr(budget, own) is None or not enough:
            continue
        least = min(enough, key=lambda p: getattr(p.tried, own))
        if getattr(least.tried, own) > getattr(budget, own):
            yield Suggestion(f"--{name} {rounded(getattr(least.tried, own))}{also}", cost,
                             least.tried.ram, least.tried.flash)
    both = [p for p in able if None not in (budget.ram, budget.flash)
            and p.tried.ram > budget.ram and p.tried.flash > budget.flash]
    if both and len(both) == len(able):
        least = min(both, key=lambda p: p.excess(budget))
        yield Suggestion(f"--ram {rounded(least.tried.ram)} --flash {rounded(least.tried.flash)}"
                         f"{also}", cost, least.tried.ram, least.tried.flash)
