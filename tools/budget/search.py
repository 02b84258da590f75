"""Search the types of a model's ops, and ways to plan its arena, within a budget of bytes.

The program of least.py counts what types change; what views, results in place and strips save it
does not know. So it is asked again with what the files really took that came of its answers: the
bytes live at each step, and those of the file that no type changes.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgerun import loader
from edgerun.device import Device
from edgerun.model import PAGE, Model
from edgerun.tools.budget import account
from edgerun.tools.budget.least import Limits, least_excess, least_noise, noise_of
from edgerun.tools.budget.report import Budget, Tried
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.graph import Graph, Op
from edgerun.tools.mixed import Built, Error
from edgerun.tools.mixed.error import allowance, measured
from edgerun.tools.mixed.problem import Problem
from edgerun.tools.mixed.search import MAX_ERROR, computing_real
from edgerun.tools.mixed.sensitivity import Sensitivity
from edgerun.tools.plan import aligned
from edgerun.tools.profiles import IN_PLACE, Profile
from edgerun.tools.quantize.assign import INTEGERS, keeps_grid
from edgerun.validate import lifetimes

REACH = 4  # files that are built to come within the budget
ROUNDS = 6  # and then to lose less
LOOSE = 2  # pages
RATIOS = (0.25, 64.0)  # of what the problem counts to what is live: anything else is no comparison
SAME = 1.01  # ratio of errors that are no reason to choose the larger file

Types = dict[Op, str]
# from types of the ops, the name of a way to plan the arena, and the bytes that this may have
Build = Callable[[Types, str, "int | None"], Built]


@dataclass(frozen=True)
class Point:
    """A file that was built.

    Attributes:
        built: the file.
        dtypes: of its ops.
        parts: of its ram, see account.ram_of.
        tried: what it is.
    """
    built: Built
    dtypes: Types
    parts: dict[str, int]
    tried: Tried
    obstacles: list[str]

    def excess(self, budget: Budget) -> float:
        """Return by what share the file exceeds its budgets; a device that cannot take it counts
        as a whole one."""
        return sum(max(size / limit - 1, 0.0) for size, limit in (
            (self.tried.ram, budget.ram), (self.tried.flash, budget.flash))
            if limit is not None) + len(self.obstacles)


class Measurer:
    """Measures the error of files on samples, against the graph in fp32."""

    def __init__(self, graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], device: Device,
                 progress: Callable[..., None]):
        self.samples, self.device, self.progress = samples, device, progress
        self.expected: list[dict[str, np.ndarray]] = []
        self.graph = graph

    def __call__(self, model: Model) -> Error:
        """Run a file on all samples."""
        if not self.expected:
            with session_of(self.graph, self.device) as (session, _):
                for number, sample in enumerate(self.samples, 1):
                    self.expected.append(session.run(sample))
                    self.progress("reference", number, len(self.samples))
        return measured(model, self.device, self.samples, self.expected, self.progress)


def drop_of(error: Error) -> float:
    """Return how many percent of the answers changed; where an output is no list of numbers, whose
    largest one is the answer, the worst output's error in percent."""
    return 100 * (1 - error.top1 if error.top1 is not None else error.worst)


class Search:
    """A search for the file that loses least within a budget.

    Attributes:
        points: every file that was built.
    """

    def __init__(self, graph: Graph, build: Build, budget: Budget, profile: Profile | None,
                 allowed: Mapping[Op, Sequence[str]], sensitivity: Callable[[], Sensitivity],
                 measure: Callable[[Model], Error] | None = None, ways: Sequence[str] = ("",),
                 progress: Callable[..., None] = lambda stage, *of: None,
                 cache: dict | None = None):
        """
        Args:
            graph: optimized, in fp32; not changed.
            build: makes a file of types and a way to plan the arena.
            budget, profile: what it may take, and where.
            allowed: op that writes real numbers -> types it may have.
            sensitivity: of the graph; asked for only if fp32 does not fit.
            measure: measures the error of a file; None if there are no samples.
            ways: names of ways to plan the arena, the plain one first.
            progress: called with a stage, what is done of it, and all of it.
            cache: what other searches with the same graph, build and measure made.
        """
        self.cache: dict[tuple, tuple[Built, Error | None]] = {} if cache is None else cache
        self.graph, self.build, self.budget, self.profile = graph, build, budget, profile
        self.allowed, self.sensitivity, self.measure = dict(allowed), sensitivity, measure
        self.ways, self.progress = ways, progress
        self.points: list[Point] = []
        self.problem: Problem | None = None
        self.noise: dict[str, float] = {}
        self._built: dict[tuple, Point] = {}

    @property
    def best(self) -> Point | None:
        """The file within the budget that loses least; None if there is none."""
        fitting = [p for p in self.points if p.tried.fits and not self.loses_too_much(p)]
        return min(fitting, key=self._loss, default=None)

    @property
    def nearest(self) -> Point:
        """The best file, or the one that is nearest to it."""
        fitting = [p for p in self.points if p.tried.fits]
        return self.best or min(fitting, key=lambda p: p.tried.drop or 0, default=None) or min(
            self.points, key=lambda p: p.excess(self.budget))

    def loses_too_much(self, point: Point) -> bool:
        """Whether more answers change than may."""
        return self.budget.max_drop is not None and point.tried.drop is not None and \
            point.tried.drop > self.budget.max_drop

    def _loss(self, point: Point) -> tuple[float, int, int]:
        """Errors that are the same for a person are the same here."""
        found = point.tried.error if point.tried.error is not None else point.tried.estimated
        return (round(math.log(max(found or 0.0, 1e-9)) / math.log(SAME)),
                point.built.patched is not None, point.tried.ram + point.tried.flash)

    def run(self) -> None:
        """Search."""
        for way in self.ways:
            if self.point(self.uniform("fp32"), way).tried.fits:
                return
        sensitivity = self.sensitivity()
        self.noise = allowance(sensitivity.expected, MAX_ERROR)
        self.problem = Problem(self.graph, sensitivity, self.allowed)
        kinds = {dtype for types in self.allowed.values() for dtype in types}
        for way in self.ways:
            self.explore(way)
            for dtype in ("fp16", "int16", "int8"):  # where noise does not add up
                if dtype in kinds:
                    self.point(self.uniform(dtype), way)

    def explore(self, way: str) -> None:
        """Come within the budget, then lose less and less, with one way to plan the arena."""
        limits = self.limits()
        for _ in range(REACH):
            point, limits, known = self.follow(least_excess(self.problem, limits), way, limits)
            if known or point.tried.fits:
                break
        if not point.tried.fits:
            return
        limits = self.improve(way, limits)
        # constants begin on pages: what the corrections count in bytes may just be enough
        self.improve(way, replace(limits, flash=limits.flash + LOOSE * PAGE), whole=True)

    def improve(self, way: str, limits: Limits, whole: bool = False) -> Limits:
        """Ask for less and less noise within limits that each answer corrects; returns the last.

        Args:
            way: to plan the arena.
            limits: to begin with.
            whole: the limits are loose: they are not corrected, and an answer that does not fit is
                only excluded itself.
        """
        for _ in range(ROUNDS):
            self.progress("solve")
            solved = least_noise(self.problem, limits, self.noise)
            if solved is None:
                break
            point, found, known = self.follow(solved[0], way, limits)
            if point.tried.fits:
                if known or whole:
                    break
                limits = replace(found, never=limits.never)
                continue
            never = solved[0] if whole else self.culprits(solved[0], point)
            limits = replace(limits, never=[*limits.never, never] if never else limits.never)
            if not whole:
                limits = replace(limits, flash=min(limits.flash, found.flash))
            if known and not never:
                break
        return limits

    def limits(self) -> Limits:
        """Return the limits as if the problem counted right."""
        return Limits(_limit(self.budget.flash), _limit(self.budget.ram),
                      [1.0] * len(self.graph.ops), self._copies())

    def _copies(self) -> bool:
        return self.profile is not None and self.profile["weights"] != IN_PLACE

    def follow(self, choice: Mapping[Op, str], way: str, limits: Limits
               ) -> tuple[Point, Limits, bool]:
        """Build a choice; returns the file, limits corrected by it, and whether it was known."""
        dtypes, before = self.problem.types(choice), len(self.points)
        point = self.point(dtypes, way)
        known = len(self.points) == before
        stranded = self.stranded(point)
        if stranded and not known:
            for op in stranded:
                self.allowed[op] = tuple(d for d in self.allowed[op] if d != dtypes[op])
            self.problem = Problem(self.graph, self.problem.sensitivity, self.allowed)
            return point, limits, False
        return point, self.corrected(choice, point), known

    def stranded(self, point: Point) -> set[Op]:
        """Return the ops that have no kernel for the integers around them, and compute on real
        numbers instead."""
        if not {*point.dtypes.values()} & {*INTEGERS}:
            return set()
        real = computing_real(point.built.graph)
        return {op for op, dtype in point.dtypes.items() if dtype in INTEGERS
                and op.code != "reshape" and not keeps_grid(op) and len(self.allowed[op]) > 1
                and op.outputs[0].name in real}

    def corrected(self, choice: Mapping[Op, str], point: Point) -> Limits:
        """Return limits that make the problem count what a file really took."""
        cost, tried = self.problem.cost(choice), point.tried
        ratios = self._ratios(cost.live, point)
        flash = _limit(self.budget.flash) - (tried.flash - cost.flash)
        other = tried.ram - point.built.plan.arena_bytes - (cost.flash if self._copies() else 0)
        ram = _limit(self.budget.ram) - other
        return Limits(max(flash, 1.0), max(ram, 1.0), ratios, self._copies())

    def culprits(self, choice: Mapping[Op, str], point: Point) -> dict[Op, str]:
        """Return the types that made a file's arena exceed the budget against all prediction:
        those of the op where it is largest, and of its neighbours. Conversions between them are
        what the problem counts wrong."""
        if point.tried.ram <= _limit(self.budget.ram):
            return {}
        live, group = self.live(point), self.problem.group
        worst = max(self.graph.ops, key=lambda op: live.get(op.outputs[0].name, 0))
        producers, users = self.graph.producers(), self.graph.consumers()
        found = {worst, *(producers[x] for x in worst.inputs if x in producers)}
        after = list(worst.outputs)
        while after:
            for op in users.get(after.pop(), ()):
                found.add(op)
                if keeps_grid(op) or op.code == "reshape":
                    after += op.outputs
        return {group[op]: choice[group[op]] for op in found if op in group}

    def _ratios(self, counted: Sequence[int], point: Point) -> list[float]:
        """Return for each step how many times what is live in a file the problem counts there."""
        live = self.live(point)
        ratios, last = [], 1.0
        for step, op in enumerate(self.graph.ops):
            actual = live.get(op.outputs[0].name, 0)
            if actual and counted[step]:
                last = min(max(counted[step] / actual, RATIOS[0]), RATIOS[1])
            ratios.append(last)
        return ratios

    def live(self, point: Point) -> dict[str, float]:
        """Return, by the names of the graph's tensors, the most bytes that are live while they are
        written or converted, in an arena as large as the file's."""
        model = loader.from_bytes(np.frombuffer(point.built.data, np.uint8), "budget")
        names = {y.name for op in self.graph.ops for y in op.outputs}
        live = live_bytes(model)
        spread = max(model.plan.arena_bytes / max(*live, 1), 1.0)
        found: dict[str, float] = {}
        for op, size in zip(model.ops, live):
            name = op.outputs[0].name.partition(" strip ")[0]
            while name not in names and "." in name:  # what was put between is named after it
                name = name.rpartition(".")[0]
            found[name] = max(found.get(name, 0.0), size * spread)
        return found

    def uniform(self, dtype: str) -> Types:
        """Return one type for all ops that may have it, fp32 (or what they must have) for others.
        """
        chosen = {op: dtype if dtype in types else "fp32" if "fp32" in types else types[0]
                  for op, types in self.allowed.items()}
        for op in self.graph.ops:
            if op.code == "reshape" and op.outputs[0].dtype == "fp32":
                chosen[op] = chosen.get(self.graph.producers().get(op.inputs[0]), dtype)
        return chosen

    def point(self, dtypes: Types, way: str) -> Point:
        """Build a file, and measure it if it fits; a known one is not built again."""
        most = self._most_arena() if way else None
        key = (way, most, *(dtypes.get(op) for op in self.graph.ops))
        if key in self._built:
            return self._built[key]
        self.progress("build")
        built, known = self.cache.get(key, (None, None))
        if built is None:
            built = self.build(dtypes, way, most)
        model = loader.from_bytes(np.frombuffer(built.data, np.uint8), "budget")
        parts = account.ram_of(model, self.profile)
        obstacles = account.obstacles(model, self.profile)
        kinds = {*dtypes.values()}
        tried = Tried(kinds.pop() if len(kinds) == 1 else "mixed", how(built), sum(parts.values()),
                      len(built.data), self.estimate(dtypes), None, None, False)
        point = Point(built, dtypes, parts, tried, obstacles)
        fits = point.excess(self.budget) == 0
        error = drop = None
        if fits and self.measure is not None:
            if tried.types == "fp32":
                error = drop = 0.0
            else:
                known = known or self.measure(model)
                error, drop = known.worst, drop_of(known)
        self.cache[key] = built, known
        point = replace(point, tried=replace(tried, error=error, drop=drop, fits=fits))
        self._built[key] = point
        self.points.append(point)
        return point

    def _most_arena(self) -> int | None:
        """Return what the arena may have if all else is as in the last file."""
        if self.budget.ram is None:
            return None
        last = self.points[-1] if self.points else None
        other = last.tried.ram - last.parts["arena"] if last else 0
        return max(self.budget.ram - other, 1)

    def estimate(self, dtypes: Types) -> float | None:
        """Return the error by the sum of noises, as a relative root mean square."""
        if {*dtypes.values()} <= {"fp32"}:
            return 0.0
        if self.problem is None:
            return None
        choice = {head: dtypes[head] for head in self.problem.groups}
        noise = noise_of(self.problem, choice, self.noise)
        return math.sqrt(noise) * MAX_ERROR if math.isfinite(noise) else math.inf


def how(built: Built) -> str:
    """Return what a file does for its arena beside the choice of types, "" for nothing."""
    if built.patched is None:
        return ""
    ops = sum(stage.ops for stage in built.patched.stages)
    return (f"{ops} ops strip by strip, {built.patched.extra_part:.0%} more multiply-adds")


def live_bytes(model: Model) -> list[int]:
    """Return the bytes that are live at each op of a model file."""
    live = [aligned(op.scratch_bytes) for op in model.ops]
    for index, (first, last) in lifetimes(model).items():
        for step in range(max(first, 0), min(last + 1, len(live))):
            live[step] += aligned(model.tensors[index].bytes)
    return live


def _limit(limit: int | None) -> float:
    return math.inf if limit is None else float(limit)
