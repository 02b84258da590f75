"""Write the problem down for a solver of integer linear programs (HiGHS, through SciPy)."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from edgerun.ops import OPS
from edgerun.tools.graph import Op
from edgerun.tools.mixed.problem import (
    DTYPES, OP_BYTES, REAL, SEGMENT_BYTES, TRAFFIC, Held, Problem)
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
    return _Formulation(problem, allowance, single or allowance).solve()


class _Formulation:
    def __init__(self, problem: Problem, allowance: Mapping[str, float],
                 single: Mapping[str, float]):
        self.problem, self.allowance, self.program = problem, allowance, _Program()
        self.single = single
        self.noise: dict[str, Terms] = {output: [] for output in allowance}
        steps = range(len(problem.graph.ops))
        arena = self.program.variable(cost=UNIT, upper=np.inf)
        self.live: list[Terms] = [[(arena, 1.0)] for _ in steps]
        self.x = {(op, dtype): self.program.variable(integer=True)
                  for op in problem.groups for dtype in problem.allowed[op]}
        for op in problem.groups:
            terms = [(self.x[op, dtype], 1.0) for dtype in problem.allowed[op]]
            self.program.at_least(terms, 1.0)
            self.program.at_least([(variable, -1.0) for variable, _ in terms], -1.0)
        self.add_layers()
        for held in problem.held:
            self.add_held(held)
        for step, terms in enumerate(self.live):
            self.program.at_least(terms, problem.scratch(step) / UNIT)
        for terms in self.noise.values():
            if terms:
                self.program.at_least([(variable, -share) for variable, share in terms], -1.0)

    def choice(self, op: Op, dtype: str) -> int | None:
        """Return the variable that an op computes in a type, None if it never does."""
        return self.x.get((self.problem.group.get(op), dtype))

    def disturb(self, variable: int, noise: Mapping[str, float]) -> None:
        """Let a variable bring noise; one that is more than all that is allowed is 0."""
        for output, value in noise.items():
            allowed = self.allowance[output]
            if value > min(allowed, self.single[output]):
                self.program.upper[variable] = 0.0
            elif value > NEGLIGIBLE * allowed:
                self.noise[output].append((variable, value / allowed))

    def add_layers(self) -> None:
        """Add what the constants of ops disturb and cost."""
        for op in self.problem.group:
            for dtype in DTYPES:
                variable = self.choice(op, dtype)
                if variable is not None:
                    self.disturb(variable, self.problem.noises(op, dtype))
        segments: dict[str, int] = {}
        for readers in self.problem.constants.values():
            for op, index in readers:
                for dtype in DTYPES:
                    segment, variable = (self.problem.segment(op, index, dtype),
                                         self.choice(op, dtype))
                    if variable is not None:
                        if segment not in segments:
                            segments[segment] = self.program.variable(cost=SEGMENT_BYTES)
                        self.program.at_least([(segments[segment], 1.0), (variable, -1.0)])
            for dtype in DTYPES:
                wanted = {self.choice(op, dtype): self.problem.constant_bytes(op, index, dtype)
                          for op, index in readers}
                wanted.pop(None, None)
                if len(wanted) == 1:
                    (variable, size), = wanted.items()
                    self.program.cost[variable] += size / UNIT
                elif wanted:
                    stored = self.program.variable(cost=max(wanted.values()))
                    for variable in wanted:
                        self.program.at_least([(stored, 1.0), (variable, -1.0)])

    def add_held(self, held: Held) -> None:
        """Add the copies of a tensor in every type, over its life."""
        for number, (start, end, readers) in enumerate(self.problem.spans(held)):
            for dtype in DTYPES:
                size = held.bytes(dtype)
                copy = self.program.variable(
                    cost=OP_BYTES + TRAFFIC * size if number == 0 else 0.0)
                for variable in {self.choice(op, dtype) for op in readers} - {None}:
                    self.program.at_least([(copy, 1.0), (variable, -1.0)])
                self.keep(held, copy, dtype, bool(readers))
                if number == 0:
                    self.write(held, copy, dtype)
                    self.disturb_copy(held, copy, dtype)
                for step in range(max(start, 0), min(end, len(self.live))):
                    self.live[step].append((copy, -size / UNIT))

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
            self.disturb(copy, noise)
            return
        rounded = self.program.variable()
        self.program.at_least([(rounded, 1.0), (copy, -1.0), (own, 1.0)])
        self.disturb(rounded, noise)

    def solve(self) -> tuple[dict[Op, str], float] | None:
        result = self.program.solve()
        if result.x is None:
            return None
        choice = {op: max(self.problem.allowed[op], key=lambda dtype: result.x[self.x[op, dtype]])
                  for op in self.problem.groups}
        # every tensor has one copy that is no conversion
        return choice, result.fun * UNIT - OP_BYTES * len(self.problem.held)
