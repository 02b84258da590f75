"""Write the problem down for a solver of integer linear programs (HiGHS, through SciPy)."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from edgerun.ops import OPS
from edgerun.tools.graph import Op
from edgerun.tools.mixed.problem import (
    DTYPES, OP_BYTES, REAL, SEGMENT_BYTES, TRAFFIC, Held, Problem)
from edgerun.tools.mixed.sensitivity import Noise
from edgerun.tools.quantize.assign import INTEGERS

UNIT = 1024  # bytes: numbers of the size of 1 suit the solver
SECONDS = 60.0  # after which the best choice so far is taken
GAP = 1e-4  # of the objective
NEGLIGIBLE = 1e-7  # share of an allowance

Terms = list[tuple[int, float]]  # (variable, factor)


class _Program:
    """Variables between 0 and 1 (or without upper bound), and rows sum of terms >= bound."""

    def __init__(self):
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.integer: list[int] = []
        self.rows: list[tuple[Terms, float]] = []

    def variable(self, cost: float = 0.0, upper: float = 1.0, integer: bool = False) -> int:
        self.cost.append(cost / UNIT)
        self.upper.append(upper)
        self.integer.append(int(integer))
        return len(self.cost) - 1

    def at_least(self, terms: Iterable[tuple[int, float]], bound: float = 0.0) -> None:
        self.rows.append((list(terms), bound))

    def solve(self):
        from scipy import sparse  # here: half a second that no other precision needs
        from scipy.optimize import Bounds, LinearConstraint, milp
        entries = [(row, variable, factor) for row, (terms, _) in enumerate(self.rows)
                   for variable, factor in terms]
        rows, columns, factors = zip(*entries)
        matrix = sparse.csr_array((factors, (rows, columns)),
                                  shape=(len(self.rows), len(self.cost)))
        return milp(self.cost, integrality=self.integer, bounds=Bounds(0, self.upper),
                    constraints=LinearConstraint(matrix, [bound for _, bound in self.rows]),
                    options={"time_limit": SECONDS, "mip_rel_gap": GAP})


def solve(problem: Problem, allowance: Mapping[str, float],
          single: Mapping[str, float] | None = None) -> tuple[dict[Op, str], float] | None:
    """Return the choice of least size whose noise stays within an allowance.

    Args:
        problem: the problem.
        allowance: output name -> noise power, relative to that of the output.
        single: the same for the noise of one rounding alone; default: the allowance.

    Returns:
        (first op of a group -> type, value of the objective in bytes); None if there is none.
    """
    if not problem.groups:
        return {}, problem.evaluate({})[0]
    written = Formulation(problem)
    program = written.program
    _allow(written, allowance, single or allowance)
    arena = program.variable(cost=UNIT, upper=np.inf)
    for step, terms in enumerate(written.live):
        program.at_least([(arena, 1.0), *((variable, -size / UNIT) for variable, size in terms)],
                         problem.scratch(step) / UNIT)
    for variable, size in written.flash:
        program.cost[variable] += size / UNIT
    for variable, size in written.traffic:
        program.cost[variable] += TRAFFIC * size / UNIT
    result = program.solve()
    if result.x is None:
        return None
    return written.chosen(result.x), result.fun * UNIT - written.free_bytes


def _allow(written: Formulation, allowance: Mapping[str, float],
           single: Mapping[str, float]) -> None:
    """Bound the noise; a variable that alone brings more than all that is allowed is 0."""
    rows: dict[str, Terms] = {output: [] for output in allowance}
    for variable, noise in written.noise:
        for output, value in noise.items():
            allowed = allowance[output]
            if value > min(allowed, single[output]):
                written.program.upper[variable] = 0.0
            elif value > NEGLIGIBLE * allowed:
                rows[output].append((variable, -value / allowed))
    for terms in rows.values():
        if terms:
            written.program.at_least(terms, -1.0)


class Formulation:
    """The choice of types as a program without an objective.

    Attributes:
        program: its variables and rows.
        flash: (variable, bytes of the file that it stands for); free_bytes less in all.
        traffic: (variable, bytes that are written).
        live: of each step, (variable, bytes of the arena).
        noise: (variable, noise it brings).
        free_bytes: every tensor has one copy that is no conversion.
    """

    def __init__(self, problem: Problem):
        self.problem, self.program = problem, _Program()
        self.flash: Terms = []
        self.traffic: Terms = []
        self.live: list[Terms] = [[] for _ in problem.graph.ops]
        self.noise: list[tuple[int, Noise]] = []
        self.free_bytes = OP_BYTES * len(problem.held)
        self.x = {(op, dtype): self.program.variable(integer=True)
                  for op in problem.groups for dtype in problem.allowed[op]}
        for op in problem.groups:
            terms = [(self.x[op, dtype], 1.0) for dtype in problem.allowed[op]]
            self.program.at_least(terms, 1.0)
            self.program.at_least([(variable, -1.0) for variable, _ in terms], -1.0)
        self.add_layers()
        for held in problem.held:
            self.add_held(held)

    def choice(self, op: Op, dtype: str) -> int | None:
        """Return the variable that an op computes in a type, None if it never does."""
        return self.x.get((self.problem.group.get(op), dtype))

    def add_layers(self) -> None:
        """Add what the constants of ops disturb and cost."""
        for op in self.problem.group:
            for dtype in DTYPES:
                variable = self.choice(op, dtype)
                if variable is not None:
                    self.noise.append((variable, self.problem.noises(op, dtype)))
        segments: dict[str, int] = {}
        for readers in self.problem.constants.values():
            for op, index in readers:
                for dtype in DTYPES:
                    segment, variable = (self.problem.segment(op, index, dtype),
                                         self.choice(op, dtype))
                    if variable is not None:
                        if segment not in segments:
                            segments[segment] = self.program.variable()
                            self.flash.append((segments[segment], SEGMENT_BYTES))
                        self.program.at_least([(segments[segment], 1.0), (variable, -1.0)])
            for dtype in DTYPES:
                wanted = {self.choice(op, dtype): self.problem.constant_bytes(op, index, dtype)
                          for op, index in readers}
                wanted.pop(None, None)
                if len(wanted) == 1:
                    (variable, size), = wanted.items()
                    self.flash.append((variable, size))
                elif wanted:
                    stored = self.program.variable()
                    self.flash.append((stored, max(wanted.values())))
                    for variable in wanted:
                        self.program.at_least([(stored, 1.0), (variable, -1.0)])

    def add_held(self, held: Held) -> None:
        """Add the copies of a tensor in every type, over its life."""
        for number, (start, end, readers) in enumerate(self.problem.spans(held)):
            for dtype in DTYPES:
                size = held.bytes(dtype)
                copy = self.program.variable()
                for variable in {self.choice(op, dtype) for op in readers} - {None}:
                    self.program.at_least([(copy, 1.0), (variable, -1.0)])
                self.keep(held, copy, dtype, bool(readers))
                if number == 0:
                    self.flash.append((copy, OP_BYTES))
                    self.traffic.append((copy, size))
                    self.write(held, copy, dtype)
                    self.disturb_copy(held, copy, dtype)
                for step in range(max(start, 0), min(end, len(self.live))):
                    self.live[step].append((copy, size))

    def keep(self, held: Held, copy: int, dtype: str, read: bool) -> None:
        """Keep what the caller reads, or nobody."""
        if read and not held.output:
            return
        if held.writer not in self.problem.group:
            if dtype == "fp32":
                self.program.at_least([(copy, 1.0)], 1.0)
            return
        for own in DTYPES:
            variable = self.choice(held.writer, own)
            if variable is not None and self.problem.kept(held, own) == dtype:
                self.program.at_least([(copy, 1.0), (variable, -1.0)])

    def write(self, held: Held, copy: int, dtype: str) -> None:
        """Let a copy exist in the type of the op that writes it, if it must."""
        variable = self.choice(held.writer, dtype)
        if variable is None:
            return
        if dtype in INTEGERS:
            if not self.problem.real_result(held):
                self.program.at_least([(copy, 1.0), (variable, -1.0)])
            return
        terms = [(copy, 1.0), (variable, -1.0)]
        if OPS[held.writer.code].mixed:
            other, = REAL - {dtype}
            terms += [(v, 1.0) for v in {self.choice(op, other) for _, op in held.readers} - {None}]
        self.program.at_least(terms)

    def disturb_copy(self, held: Held, copy: int, dtype: str) -> None:
        noise = self.problem.roundings(held, dtype)
        if not noise:
            return
        own = self.choice(held.writer, dtype) if self.problem.follows(held) else None
        if own is None:
            self.noise.append((copy, noise))
            return
        rounded = self.program.variable()
        self.program.at_least([(rounded, 1.0), (copy, -1.0), (own, 1.0)])
        self.noise.append((rounded, noise))

    def chosen(self, values: np.ndarray) -> dict[Op, str]:
        """Return the choice that a solution means: first op of a group -> type."""
        return {op: max(self.problem.allowed[op], key=lambda dtype: values[self.x[op, dtype]])
                for op in self.problem.groups}
