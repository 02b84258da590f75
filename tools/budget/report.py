"""What came of a budget, as data and as text."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgerun import text
from edgerun.errors import EdgerunError

PRECISION_OF_DROP = 2  # digits behind the point, of percentage points


@dataclass(frozen=True)
class Budget:
    """What a model may take.

    Attributes:
        ram, flash: bytes; None without a bound. See edgerun.tools.budget.account.
        max_drop: percentage points of samples whose answer may change; None for any.
        target: name of a device profile; "" for any device that reads the file in place.
    """
    ram: int | None = None
    flash: int | None = None
    max_drop: float | None = None
    target: str = ""


@dataclass(frozen=True)
class Tried:
    """A file that was built while searching.

    Attributes:
        types: "fp32" and the like where all ops have one, else "mixed".
        how: of the arena, "" for nothing special.
        ram, flash: bytes.
        estimated: error by the sum of noises; None if nothing is known of them.
        error: measured on the samples, None if it was not; see edgerun.tools.mixed.error.Error.
        drop: measured, in percentage points; None if it was not.
        fits: both budgets and the device.
    """
    types: str
    how: str
    ram: int
    flash: int
    estimated: float | None
    error: float | None
    drop: float | None
    fits: bool


@dataclass(frozen=True)
class Suggestion:
    """Something that would make a model fit; it was planned.

    Attributes:
        what: to do.
        cost: what that costs.
        ram, flash: bytes of the file that it leads to.
    """
    what: str
    cost: str
    ram: int
    flash: int


@dataclass(frozen=True)
class BudgetReport:
    """Whether a model fits a budget, with what loss, or by how much it does not.

    Attributes:
        source: path of the model.
        fits: whether there is a file within the budget.
        budget: what was asked for.
        ram, flash: bytes of the file chosen; of the one that comes nearest, if none fits.
        parts: of ram, by category.
        over_ram, over_flash: bytes above the budget.
        types: dtype -> how many ops got it.
        how: what else was done for the arena; "" for nothing special.
        estimated, error, drop: as in Tried, of the file chosen.
        samples: on which error and drop were measured.
        obstacles: why the device cannot take it, sentences.
        tried: every file that was built.
        suggestions: the cheapest things that would make it fit, if it does not.
        choices: (op, code, dtype) of every op that writes real numbers.
        notes: what else to know, sentences.
    """
    source: str
    fits: bool
    budget: Budget
    ram: int
    flash: int
    parts: dict[str, int]
    over_ram: int
    over_flash: int
    types: dict[str, int]
    how: str = ""
    estimated: float | None = None
    error: float | None = None
    drop: float | None = None
    samples: int = 0
    obstacles: list[str] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    choices: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    def sentence(self) -> str:
        """Return whether it fits, and by how much it does not, in one sentence."""
        if self.fits:
            return f"{self.source}: fits"
        lacking = [f"{text.size(over)} too much {name} ({size} of {limit} bytes)"
                   for name, over, size, limit in (
                       ("RAM", self.over_ram, self.ram, self.budget.ram),
                       ("flash", self.over_flash, self.flash, self.budget.flash)) if over > 0]
        if not lacking and not self.obstacles and self.drop is not None:
            lacking = [f"the best file within the budget changes {_points(self.drop)} of the "
                       f"answers, and {self.budget.max_drop:g} are allowed"]
        return f"{self.source}: does not fit: " + "; ".join([*lacking, *self.obstacles])

    def text(self) -> str:
        """Return the report for a terminal."""
        rows = [("fits", "yes" if self.fits else "no")]
        for name, size, limit, over in (("ram", self.ram, self.budget.ram, self.over_ram),
                                        ("flash", self.flash, self.budget.flash, self.over_flash)):
            bound = "" if limit is None else f" of {limit:,} B"
            state = "" if limit is None else (f", {over:,} B too much" if over > 0
                                              else f", {limit - size:,} B left")
            rows.append((name, f"{size:,} B{bound}{state}"))
        rows.append(("  that is", ", ".join(f"{name} {size:,} B"
                                            for name, size in self.parts.items())))
        if self.budget.target:
            rows.append(("target", self.budget.target))
        rows.append(("types", ", ".join(f"{count} {'op' if count == 1 else 'ops'} {dtype}"
                                        for dtype, count in self.types.items())))
        if self.how:
            rows.append(("how", self.how))
        if self.error is not None:
            rows.append(("error", f"{self.error:.3g}, measured on {self.samples} samples"))
        elif self.estimated is not None:
            rows.append(("error", f"{self.estimated:.2g}, estimated"))
        if self.drop is not None:
            rows.append(("drop", f"{_points(self.drop)} of the answers change"))
        lines = text.pairs(rows)
        lines += [f"obstacle: {text.clean(sentence)}" for sentence in self.obstacles]
        if self.suggestions:
            lines += ["", "what would make it fit, the cheapest first:",
                      *text.table(("", "ram", "flash", "costs"), [
                          (s.what, f"{s.ram:,} B", f"{s.flash:,} B", s.cost)
                          for s in self.suggestions], left=(0, 3), cut=None)]
        return "\n".join(lines + [f"note: {text.clean(note)}" for note in self.notes])


def _points(drop: float) -> str:
    return f"{drop:.{PRECISION_OF_DROP}f} %"


class BudgetError(EdgerunError):
    """A model does not fit; nothing was written.

    Attributes:
        report: BudgetReport.
    """

    def __init__(self, report: BudgetReport):
        first = [f"{s.what} ({s.cost})" for s in report.suggestions]
        hint = "; what would make it fit: " + "; or ".join(first) if first else ""
        super().__init__(report.sentence() + hint)
        self.report = report


def types_of(dtypes: Mapping[Any, str]) -> dict[str, int]:
    """Return dtype -> number of ops that have it, the most frequent first."""
    found: dict[str, int] = {}
    for dtype in dtypes.values():
        found[dtype] = found.get(dtype, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))
