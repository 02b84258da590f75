"""What a tuning run did, for people and as JSON."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgerun import text

MOST_FAILURES = 8  # that are printed


@dataclass(frozen=True)
class LaunchResult:
    """How one kind of launch was tuned; times in nanoseconds of one run of its op.

    Attributes:
        key: text of the launch's Key.
        op: label of the first op that has it.
        ops: how many have it.
        family, default, variant: see edgerun.model.Choice; `variant` is the one that was chosen.
        default_ns, ns: measured by turns; equal if the default stays.
        legal, worth: variants there are, and those the cost model leaves.
        measured: variants that were built, checked and timed, besides the default.
        search: how they were found.
        failures: variants that did not build or were wrong, and why.
    """
    key: str
    op: str
    ops: int
    family: str
    default: str
    variant: str
    default_ns: float
    ns: float
    legal: int
    worth: int
    measured: int
    search: str
    failures: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """How many times faster than the default."""
        return self.default_ns / self.ns if self.ns else 1.0


@dataclass
class TuneReport:
    """What a tuning run measured and chose.

    Attributes:
        device, driver: where.
        launches: different launches of the model that have variants.
        known: those that were tuned before, and not measured.
        results: one for each that was measured.
        left: those for which no time was left.
        seconds: all of it.
        built: programs that were compiled.
        model_default_ns, model_ns: latency of the whole model by turns, untuned and tuned; 0 if
            nothing was measured.
        kept: whether the choices were; not if the whole model did not become faster.
        path: where they lie now.
        problem: what was wrong with the choices that were there, which are replaced; or "".
    """
    device: str
    driver: str
    launches: int = 0
    known: int = 0
    results: list[LaunchResult] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0
    built: int = 0
    model_default_ns: float = 0.0
    model_ns: float = 0.0
    kept: bool = True
    path: str = ""
    problem: str = ""

    @property
    def measured(self) -> int:
        """Variants that were measured, besides the defaults."""
        return sum(result.measured for result in self.results)

    @property
    def gain(self) -> float:
        """Geometric mean of the launches' gains; 1 without any."""
        return float(np.exp(np.mean([np.log(r.gain) for r in self.results] or [0.0])))

    @property
    def model_gain(self) -> float:
        """How many times faster the whole model is."""
        return self.model_default_ns / self.model_ns if self.model_ns else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one dict that JSON can hold."""
        return text.plain({
            **asdict(self), "results": [{**asdict(r), "gain": r.gain} for r in self.results],
            "measured": self.measured, "gain": self.gain, "model_gain": self.model_gain})

    def text(self) -> str:
        """Return the report for a terminal."""
        lines = [f"{text.clean(self.device)} ({text.clean(self.driver)})"]
        if self.problem:
            lines.append(f"what was tuned before is not used: {text.clean(self.problem)}")
        if not self.launches:
            return "\n".join([*lines, "the model has no launches with variants"])
        if self.known == self.launches:
            return "\n".join([*lines, f"all {self.launches} launches are tuned already"])
        lines += text.table(
            ("launch", "ops", "variant", "before", "us", "before", "gain", "tried", "of"),
            [(r.key, r.ops, r.variant, r.default if r.variant != r.default else "(the same)",
              f"{r.ns / 1e3:.1f}", f"{r.default_ns / 1e3:.1f}", f"{r.gain:.2f}", r.measured,
              r.worth) for r in self.results], left=(0, 2, 3), cut=72)
        failures = [line for r in self.results for line in r.failures]
        lines += [f"not used: {text.clean(line)}" for line in failures[:MOST_FAILURES]]
        if len(failures) > MOST_FAILURES:
            lines.append(f"not used: {len(failures) - MOST_FAILURES} more")
        changed = sum(r.variant != r.default for r in self.results)
        lines += text.pairs([
            ("launches", f"{self.launches} different: {len(self.results)} tuned now, "
                         f"{self.known} before, {self.left} left for want of time"),
            ("changed", f"{changed}, geometric mean of all gains {self.gain:.3f}"),
            ("measured", f"{self.measured} variants in {self.seconds:.1f} s, {self.built} "
                         "programs built"),
            ("model", f"{text.duration(self.model_default_ns)} untuned, "
                      f"{text.duration(self.model_ns)} tuned, {self.model_gain:.3f} times faster"
                      + ("" if self.kept else ": the defaults stay")),
            ("written to", self.path or "-")])
        return "\n".join(lines)
