"""From a source model and a budget to a file that meets it, or to what would."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edgerun import loader
from edgerun.device import Device
from edgerun.errors import InputError
from edgerun.tools import blob, calibrate, mixed, profiles, quantize, reductions
from edgerun.tools.budget.noise import modelled
from edgerun.tools.budget.report import Budget, BudgetError, BudgetReport, types_of
from edgerun.tools.budget.search import Measurer, Point, Search, Types
from edgerun.tools.graph import Graph, copy_of
from edgerun.tools.mixed import sensitivity
from edgerun.tools.mixed.problem import DTYPES
from edgerun.tools.mixed.search import PROBES, candidates, fixed_types, unclipped
from edgerun.tools.calibrate.data import Subset
from edgerun.tools.patch.apply import AUTO, OFF
from edgerun.tools.precision import widen
from edgerun.tools.quantize.assign import REALS
from edgerun.tools.verify import held

Progress = Callable[..., None]
STRIPS = "strips"  # the way to plan the arena with as many as are needed
UNCALIBRATED = ("without calibration data only fp32 and fp16 were considered: int8 and int16 need "
                "the range of every tensor (--calibration), and what types cost in accuracy is "
                "estimated from the number of roundings")
QUANTIZED = "the model is quantized already: its own integers are kept as they are"


@dataclass(frozen=True)
class Source:
    """A model to be packed, and how; see edgerun.tools.pack.pack() for each.

    The tolerance of a vector may be None: that of the types that are chosen.
    """
    path: str | os.PathLike
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    calibration: str | os.PathLike | None = None
    preprocess: calibrate.Preprocess | str | None = None
    observer: str | None = None
    samples: int | None = None
    overrides: str | os.PathLike | None = None
    vectors: Sequence = ()
    weights: str | os.PathLike | None = None
    random_weights: int | None = None
    without: Sequence[str] = ()
    device: Device | str | int | None = None


class Nominal:
    """Ranges of no data: all tensors lie between -1 and 1. Sizes do not depend on ranges."""

    @staticmethod
    def range(name: str, bits: int) -> tuple[float, float]:
        """Return (low, high) of a tensor."""
        return -1.0, 1.0


class Project:
    """An imported and optimized model that can become many files.

    Attributes:
        graph: in fp32, or of integers if the source model is quantized.
        exact: whether it is.
        own: the type of the source model's real numbers.
        steps: as in PackReport.passes.
        ranges: of its tensors; None without calibration.
    """

    def __init__(self, source: Source, target: str, progress: Progress, integers: bool,
                 change: Callable[[Graph], None] = lambda graph: None):
        from edgerun.tools.pack import Stages, import_model  # imports this
        self._stages, self.target, self.source = Stages, target, source
        progress("import")
        self.graph = import_model(source.path, source.shapes, source.weights,
                                  source.random_weights)
        self.graph.target = target
        self.own = widen(self.graph)
        self.exact = quantize.quantized(self.graph)
        stages = Stages(self.graph, progress)
        self.integers = integers or self.exact
        if self.integers and not self.exact:
            stages.run("real-weights", quantize.strip)
        stages.optimize(self.integers)
        change(self.graph)
        self.steps = stages.steps
        self.ranges: calibrate.Calibration | Nominal | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """The types that may be considered."""
        return DTYPES if self.ranges is not None else REALS

    def allowed(self, types: Sequence[str], overrides=()) -> dict:
        """Return the types that each op may have, of those given."""
        if self.exact:
            return {}
        fixed = fixed_types(self.graph, overrides)
        found = candidates(self.graph, self.ranges or Nominal, unclipped, fixed)
        return {op: tuple(d for d in able if d in types or op in fixed) or ("fp32",)
                for op, able in found.items()}

    def ways(self, budget: Budget) -> tuple[str, ...]:
        """Return the ways to plan the arena: strips are taken only where RAM needs them."""
        return ("",) if "patch" in self.source.without or budget.ram is None else (STRIPS,)

    def build(self, dtypes: Types, way: str, most_bytes: int | None) -> mixed.Built:
        """Make a file of types and a way to plan the arena, of which it may have some bytes."""
        strips = way == STRIPS and most_bytes is not None
        stages = self._stages(copy_of(self.graph), without=self.source.without,
                              patch=AUTO if strips else OFF, most_bytes=most_bytes)
        twins = dict(zip(self.graph.ops, stages.graph.ops))
        assigned = {twins[op]: dtype for op, dtype in dtypes.items()}
        kinds = {*dtypes.values()}
        if self.exact or kinds <= {"fp32"}:
            label, real, storage = "source" if self.exact else "fp32", "fp32", {}
            real = self.own if self.exact else "fp32"
        elif kinds == {"fp16"}:
            label, real, storage = "fp16", "fp16", {}
        else:
            label = kinds.copy().pop() if len(kinds) == 1 else "mixed"
            real, storage = "fp32", quantize.storage(assigned)
            if kinds & {*quantize.INTEGERS}:
                stages.run("quantize", lambda graph: quantize.insert(
                    graph, assigned, self.ranges.range))
        vectors = held(self.source.vectors, label if label != "mixed" else "fp32", kinds)
        data, plan = stages.encode(real, label, vectors, self.integers, None, storage)
        return mixed.Built(data, plan, stages.graph, stages.steps, stages.reductions,
                           stages.patched)


def check(budget: Budget, source: Source) -> None:
    """Raise InputError if a budget asks for what cannot be answered."""
    if budget.ram is None and budget.flash is None:
        raise InputError("a budget needs --ram, --flash, or both")
    if budget.max_drop is not None and not 0 <= budget.max_drop <= 100:
        raise InputError(f"a drop of {budget.max_drop:g} percentage points is none: needed 0 to "
                         "100")
    if budget.max_drop is not None and source.calibration is None:
        raise InputError("a bound of the accuracy drop needs samples to measure it: give "
                         "--calibration")
    if source.calibration is None and (source.preprocess, source.observer,
                                       source.samples) != (None, None, None):
        raise InputError("a preprocessing line, an observer or a number of samples says how to "
                         "calibrate: needed calibration data too (--calibration)")
    if budget.target:
        profiles.load(budget.target)
    reductions.check(source.without)


class Finder:
    """Searches files of one model for several budgets; what they share is done once.

    Attributes:
        project: the model.
        samples: for measurements; None without calibration.
    """

    def __init__(self, source: Source, target: str = "",
                 progress: Progress = lambda stage, *of: None):
        """
        Args:
            source: the model.
            target: name of a device profile, "" for none.
            progress: called with the name of each stage, what is done of it, and all of it.
        """
        self.source, self.progress = source, progress
        self.profile = profiles.load(target) if target else None
        self.project = Project(source, target, progress, source.calibration is not None)
        self.samples: calibrate.Samples | None = None
        self.measure: Measurer | None = None
        self._cache: dict = {}
        if self.project.exact and (source.calibration is not None or source.overrides is not None):
            raise InputError(f"{source.path}: is quantized already; calibration and overrides are "
                             "for a float model")
        if source.calibration is not None:
            self._calibrate()
        self._overrides = quantize.read_overrides(source.overrides) if source.overrides else ()
        integers = [line for line in self._overrides if line.dtype in quantize.INTEGERS]
        if integers and self.project.ranges is None:
            raise InputError(f"{integers[0].where}: an integer type needs the range of every "
                             "tensor: give --calibration")

    def _calibrate(self) -> None:
        source, graph = self.source, self.project.graph
        if calibrate.holds_ranges(source.calibration):
            raise InputError(f"{source.calibration}: holds ranges; a budget needs samples too, to "
                             "measure what types cost")
        self.device = (source.device if isinstance(source.device, Device)
                       else Device(source.device))
        self.project.ranges = calibrate.from_path(
            graph, source.calibration, source.preprocess, source.observer, source.samples,
            self.device, lambda done, total: self.progress("calibrate", done, total))
        graph.notes += self.project.ranges.warnings
        self.samples = calibrate.open_samples(graph, source.calibration, source.preprocess,
                                              source.samples)
        self.measure = Measurer(graph, self.samples, self.device, self.progress)

    @cached_property
    def noise(self) -> sensitivity.Sensitivity:
        """What roundings disturb: measured where there are samples."""
        if self.samples is None:
            return modelled(self.project.graph)
        return sensitivity.measure(
            self.project.graph, self.project.ranges,
            Subset(self.samples, min(PROBES, len(self.samples))), unclipped, self.device,
            lambda done, total: self.progress("sensitivity", done, total))

    def find(self, budget: Budget, suggest: bool = True) -> tuple[BudgetReport, Point]:
        """Search the file that loses least within a budget.

        Args:
            budget: what it may take, on the target of this.
            suggest: plan what would make it fit, if it does not.

        Returns:
            The report, and the file that was chosen, or that comes nearest.
        """
        project = self.project
        notes = list(project.graph.notes)
        if project.exact:
            notes.append(QUANTIZED)
        elif self.samples is None:
            notes.append(UNCALIBRATED)
        search = Search(project.graph, project.build, budget, self.profile,
                        project.allowed(project.types, self._overrides), lambda: self.noise,
                        self.measure, project.ways(budget), self.progress, self._cache)
        search.run()
        best = search.best
        point = best or search.nearest
        report = _report(self.source, budget, search, point, best is not None, notes)
        if best is None and suggest:
            from edgerun.tools.budget.suggest import suggestions  # imports this
            report = replace(report, suggestions=suggestions(project, budget, self.profile, search,
                                                             self.progress))
        return report, point

    def pack(self, out: str | os.PathLike, budget: Budget):
        """Write the file that loses least within a budget; see pack()."""
        from edgerun.tools.pack import PackReport  # imports this
        report, point = self.find(budget)
        if not report.fits:
            raise BudgetError(report)
        self.progress("write")
        built, project = point.built, self.project
        blob.write(out, built.data)
        model = loader.from_bytes(np.frombuffer(built.data, np.uint8), os.fspath(out))
        return PackReport(
            os.fspath(out), "source" if project.exact else point.tried.types, len(built.data),
            sum(len(segment.data) for segment in model.segments), built.plan.arena_bytes,
            built.plan.lower_bound_bytes, built.plan.proven, project.graph.source_ops,
            len(built.graph.ops), [*project.steps, *built.steps], built.graph.notes,
            reductions=built.reductions(), patch=built.patched), report


def _report(source: Source, budget: Budget, search: Search, point: Point, fits: bool,
            notes: list[str]) -> BudgetReport:
    tried = point.tried

    def over(size: int, limit: int | None) -> int:
        return 0 if limit is None else max(size - limit, 0)

    return BudgetReport(
        os.fspath(source.path), fits, budget, tried.ram, tried.flash, point.parts,
        over(tried.ram, budget.ram), over(tried.flash, budget.flash),
        types_of(point.dtypes) or {"source": len(search.graph.ops)}, tried.how, tried.estimated,
        tried.error, tried.drop, len(search.measure.samples) if search.measure else 0,
        point.obstacles, [p.tried for p in search.points], [],
        [(op.name or op.outputs[0].name, op.code, dtype) for op, dtype in point.dtypes.items()],
        notes)


def fit(source: Source, budget: Budget, progress: Progress = lambda stage, *of: None
        ) -> BudgetReport:
    """Answer whether a model fits a budget, without writing.

    Args:
        source: the model.
        budget: what it may take.
        progress: called with the name of each stage, what is done of it, and all of it.

    Raises:
        InputError, ModelError, UnsupportedError, DeviceError: as edgerun.tools.pack.pack().
    """
    check(budget, source)
    return Finder(source, budget.target, progress).find(budget)[0]


def pack(source: Source, out: str | os.PathLike, budget: Budget,
         progress: Progress = lambda stage, *of: None):
    """Write the file that loses least within a budget.

    Args:
        source, budget, progress: as for fit().
        out: the .edge file to write; it appears whole or not at all.

    Returns:
        edgerun.tools.pack.PackReport; BudgetReport.

    Raises:
        BudgetError: there is no such file; nothing was written.
        InputError, ModelError, UnsupportedError, DeviceError: as edgerun.tools.pack.pack().
    """
    check(budget, source)
    return Finder(source, budget.target, progress).pack(out, budget)
