"""The choice of types with the least noise, or the least excess, within given bytes.

The program is that of edgerun.tools.mixed; what differs is what is bound and what is minimized.
With F the bytes of the file that depend on the choice and L[t] those live at step t:

    F <= flash + e_flash
    L[t] / ratio[t] + copied F <= ram + e_ram   at every step t
    sum of noise at output o <= allowed[o] z    for every output o

minimize z (all e = 0), or the sum of e, each in its budget.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerun.tools.graph import Op
from edgerun.tools.mixed.problem import Problem
from edgerun.tools.mixed.solve import UNIT, Formulation

PASSES = 4  # each with a finer unit of noise
FINE = 0.1  # of that unit: what a solution must be above to count as exact
TIE = 1e-3  # weight of the noise at all outputs together, and of bytes where noise is equal


@dataclass(frozen=True)
class Limits:
    """What a choice may take, in bytes that the problem counts.

    Attributes:
        flash: of the file.
        ram: of the device.
        ratios: of each step, how many times the bytes that are really live the problem counts:
            it knows nothing of views, results in place and strips.
        copied: whether the device keeps a copy of the constants in ram.
        never: types of a few groups that must not come together, each as first op -> type.
    """
    flash: float
    ram: float
    ratios: Sequence[float]
    copied: bool = False
    never: Sequence[Mapping[Op, str]] = ()


def least_excess(problem: Problem, limits: Limits) -> dict[Op, str]:
    """Return the choice that exceeds the limits least, each excess in units of its limit.

    Args:
        problem: the problem.
        limits: positive, or infinite.

    Returns:
        first op of a group -> type.
    """
    if not problem.groups:
        return {}
    written = Formulation(problem)
    over = [written.program.variable(upper=np.inf) for _ in range(2)]
    _bind(written, limits, *over)
    for variable, limit in zip(over, (limits.flash, limits.ram)):
        written.program.cost[variable] = 1 / max(limit / UNIT, 1e-3) if math.isfinite(limit) else 0
    for variable, size in written.flash:  # what is smaller anyhow breaks ties
        written.program.cost[variable] += TIE * TIE * size / UNIT
    result = written.program.solve()
    return written.chosen(result.x)


def least_noise(problem: Problem, limits: Limits, allowed: Mapping[str, float]
                ) -> tuple[dict[Op, str], float] | None:
    """Return the choice within the limits whose noise is least.

    Args:
        problem: the problem.
        limits: as they are for least_excess().
        allowed: output name -> noise power that counts as 1.

    Returns:
        (first op of a group -> type, largest noise of an output in that allowed); None if no
        choice is within the limits.
    """
    if not problem.groups:
        return {}, 0.0
    unit, best = _scale(problem, allowed), None
    for _ in range(PASSES):
        written = Formulation(problem)
        _bind(written, limits)
        worst = written.program.variable(upper=np.inf)
        written.program.cost[worst] = 1.0
        _weigh(written, worst, allowed, unit)
        result = written.program.solve()
        if result.x is None:
            return best
        choice = written.chosen(result.x)
        found = noise_of(problem, choice, allowed)
        if best is None or found < best[1]:
            best = choice, found
        if found == 0 or found >= FINE * unit:
            return best
        unit = found
    return best


def noise_of(problem: Problem, choice: Mapping[Op, str], allowed: Mapping[str, float]) -> float:
    """Return the largest noise of an output, in that allowed, that a choice brings."""
    noise = problem.cost(choice).noise
    return max((noise.get(name, 0.0) / limit for name, limit in allowed.items()), default=0.0)


def _scale(problem: Problem, allowed: Mapping[str, float]) -> float:
    """Return the noise of the noisiest finite choice there is, roughly: where to begin."""
    noises = [*problem.sensitivity.stored.values(), *problem.sensitivity.weights.values()]
    values = [value / allowed[name] for noise in noises for name, value in noise.items()
              if math.isfinite(value)]
    return max(max(values, default=0.0), 1e-12)


def _weigh(written: Formulation, worst: int, allowed: Mapping[str, float], unit: float) -> None:
    rows = {name: [(worst, 1.0)] for name in allowed}
    for variable, noise in written.noise:
        total = 0.0
        for name, value in noise.items():
            share = value / allowed[name] / unit
            if share > 1.001:  # alone more than another choice brings in all
                written.program.upper[variable] = 0.0
            elif share:
                rows[name].append((variable, -share))
                total += share
        written.program.cost[variable] += TIE * total / len(allowed)
    for terms in rows.values():
        written.program.at_least(terms)


def _bind(written: Formulation, limits: Limits, over_flash: int | None = None,
          over_ram: int | None = None) -> None:
    program, problem = written.program, written.problem
    for types in limits.never:
        terms = [(written.x[pair], -1.0) for pair in types.items() if pair in written.x]
        if len(terms) == len(types):
            program.at_least(terms, 1.0 - len(terms))
    held = [(variable, -size / UNIT) for variable, size in written.flash]
    free = written.free_bytes / UNIT
    if math.isfinite(limits.flash):
        slack = [] if over_flash is None else [(over_flash, 1.0)]
        program.at_least([*held, *slack], -(limits.flash / UNIT + free))
    if not math.isfinite(limits.ram):
        return
    copied = program.variable(upper=np.inf)
    if limits.copied:
        program.at_least([(copied, 1.0), *held], -free)
    slack = [] if over_ram is None else [(over_ram, 1.0)]
    for step, terms in enumerate(written.live):
        ratio = limits.ratios[step]
        live = [(variable, -size / UNIT / ratio) for variable, size in terms]
        room = limits.ram - problem.scratch(step) / ratio
        program.at_least([*live, (copied, -1.0), *slack], -room / UNIT)
