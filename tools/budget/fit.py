"""From a source model and a budget to a file that meets it, or to what would."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from edgerun.tools.precision import widen
from edgerun.tools.quantize.assign import REALS

Progress = Callable[..., None]
UNCALIBRATED = ("without calibration data only fp32 and fp16 were considered: int8 and int16 need "
                "the range of every tensor (--calibration), and what types cost in accuracy is "
                "estimated from the number of roundings")
QUANTIZED = "the model is quantized already: its own integers are kept as they are"


@dataclass(frozen=True)
class Source:
    """A model to be packed, and how; see edgerun.tools.pack.pack() for each."""
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

    def build(self, dtypes: Types, way: str) -> mixed.Built:
        """Make a file of types and a way to plan the arena."""
        stages = self._stages(copy_of(self.graph), without=self.source.without)
        twins = dict(zip(self.graph.ops, stages.graph.ops))
        assigned = {twins[op]: dtype for op, dtype in dtypes.items()}
        kinds = {*dtypes.values()}
        if self.exact or kinds <= {"fp32"}:
            label, real, storage = "source" if self.exact else "fp32", "fp32", {}
            real = self.own if self.exact else "fp32"
        elif kinds == {"fp16"}:
            label, real, storage = "fp16", "fp16", {}
        else:
            label, real, storage = "mixed", "fp32", quantize.storage(assigned)
            if kinds & {*quantize.INTEGERS}:
                stages.run("quantize", lambda graph: quantize.insert(
                    graph, assigned, self.ranges.range))
        data, plan = stages.encode(real, label, self.source.vectors, self.integers, None, storage)
        return mixed.Built(data, plan, stages.graph, stages.steps, stages.reductions)


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


def find(source: Source, budget: Budget, progress: Progress = lambda stage, *of: None,
         suggest: bool = True) -> tuple[BudgetReport, Point, Project]:
    """Search the file that loses least within a budget.

    Args:
        source: the model.
        budget: what it may take.
        progress: called with the name of each stage, what is done of it, and all of it.
        suggest: plan what would make it fit, if it does not.

    Returns:
        The report; the file that was chosen, or that comes nearest; and the model.

    Raises:
        InputError, ModelError, UnsupportedError, DeviceError: as edgerun.tools.pack.pack().
    """
    check(budget, source)
    profile = profiles.load(budget.target) if budget.target else None
    project = Project(source, budget.target, progress, source.calibration is not None)
    notes = list(project.graph.notes)
    if project.exact:
        if source.calibration is not None or source.overrides is not None:
            raise InputError(f"{source.path}: is quantized already; calibration and overrides are "
                             "for a float model")
        notes.append(QUANTIZED)
    elif source.calibration is None:
        notes.append(UNCALIBRATED)
    search = _search(project, budget, profile, progress)
    search.run()
    best = search.best
    point = best or search.nearest
    report = _report(source, budget, search, point, best is not None, notes)
    if best is None and suggest:
        from edgerun.tools.budget.suggest import suggestions  # imports this
        report = replace(report, suggestions=suggestions(project, budget, profile, search,
                                                         progress))
    return report, point, project


def _search(project: Project, budget: Budget, profile: profiles.Profile | None,
            progress: Progress) -> Search:
    source, measure = project.source, None
    opened: list[Device] = []

    def device() -> Device:
        if not opened:
            opened.append(source.device if isinstance(source.device, Device)
                          else Device(source.device))
        return opened[0]

    if source.calibration is not None:
        if calibrate.holds_ranges(source.calibration):
            raise InputError(f"{source.calibration}: holds ranges; a budget needs samples too, to "
                             "measure what types cost")
        project.ranges = calibrate.from_path(
            project.graph, source.calibration, source.preprocess, source.observer, source.samples,
            device(), lambda done, total: progress("calibrate", done, total))
        project.graph.notes += project.ranges.warnings
        samples = calibrate.open_samples(project.graph, source.calibration, source.preprocess,
                                         source.samples)
        measure = Measurer(project.graph, samples, device(), progress)

    def noise() -> sensitivity.Sensitivity:
        if measure is None:
            return modelled(project.graph)
        return sensitivity.measure(
            project.graph, project.ranges, Subset(samples, min(PROBES, len(samples))), unclipped,
            device(), lambda done, total: progress("sensitivity", done, total))

    overrides = quantize.read_overrides(source.overrides) if source.overrides else ()
    integers = [line for line in overrides if line.dtype in quantize.INTEGERS]
    if integers and project.ranges is None:
        raise InputError(f"{integers[0].where}: an integer type needs the range of every tensor: "
                         "give --calibration")
    return Search(project.graph, project.build, budget, profile,
                  project.allowed(project.types, overrides), noise, measure, progress=progress)


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
    """Answer whether a model fits a budget, without writing; see find()."""
    return find(source, budget, progress)[0]


def pack(source: Source, out: str | os.PathLike, budget: Budget,
         progress: Progress = lambda stage, *of: None):
    """Write the file that loses least within a budget.

    Returns:
        edgerun.tools.pack.PackReport; BudgetReport.

    Raises:
        BudgetError: there is no such file; nothing was written.
        InputError, ModelError, UnsupportedError, DeviceError: as find().
    """
    from edgerun.tools.pack import PackReport  # imports this
    report, point, project = find(source, budget, progress)
    if not report.fits:
        raise BudgetError(report)
    progress("write")
    built = point.built
    blob.write(out, built.data)
    weights = sum(len(segment.data) for segment in
                  loader.from_bytes(np.frombuffer(built.data, np.uint8), os.fspath(out)).segments)
    return PackReport(
        os.fspath(out), "source" if project.exact else point.tried.types, len(built.data), weights,
        built.plan.arena_bytes, built.plan.lower_bound_bytes, built.plan.proven,
        project.graph.source_ops, len(built.graph.ops), [*project.steps, *built.steps],
        built.graph.notes, reductions=built.reductions()), report
