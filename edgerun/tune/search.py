"""Search a space of configurations for the fastest one; knows nothing of OpenCL.

A space says which states there are and how to step from one to the next; a measure function says
how long a state takes, infinity if it is not legal or not right. Every search measures a state at
most once and stops after `budget` measurements.

The greedy best-first and the actor-critic search are those of Zhang, Cheng, Zong and Zhang,
"Compiler-Level Matrix Multiplication Optimization for Deep Learning" (arXiv 1909.10616).
"""
from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

State = Hashable
Measure = Callable[[Any], float]

RHO = 5  # neighbours that a step of the greedy search measures
WALK, COLLECT = 3, 6  # steps of a walk, and new states per round, of the actor-critic search
EPSILON = 0.1  # share of random steps in a walk
HIDDEN = 128
LEARNING_RATE = 1e-3


class Space(Protocol):
    """Configurations, and moves between them.

    Attributes:
        starts: states to begin with, the one that is best known first.
        moves: every move there is, the same for all states.
    """
    starts: Sequence[State]
    moves: Sequence[Any]

    def step(self, state: Any, move: Any) -> Any | None:
        """Return the state that a move leads to, or None if it is not possible."""

    def features(self, state: Any) -> np.ndarray:
        """Return a state as numbers from about -0.5 to 0.5, float64 [count]."""


class Grid:
    """States are one index per axis; a move goes one step along an axis."""

    def __init__(self, lengths: Sequence[int], starts: Sequence[tuple[int, ...]],
                 legal: Callable[[tuple[int, ...]], bool] = lambda state: True):
        self.lengths = tuple(lengths)
        self.starts = list(starts)
        self.legal = legal
        self.moves = [(axis, step) for axis, n in enumerate(lengths) if n > 1 for step in (-1, 1)]

    def step(self, state: tuple[int, ...], move: tuple[int, int]) -> tuple[int, ...] | None:
        """Return the neighbour, or None beyond the end of the axis or where it is not legal."""
        axis, by = move
        to = (*state[:axis], state[axis] + by, *state[axis + 1:])
        return to if 0 <= to[axis] < self.lengths[axis] and self.legal(to) else None

    def features(self, state: tuple[int, ...]) -> np.ndarray:
        """Return each index relative to its axis."""
        return np.array([i / max(1, n - 1) - 0.5 for i, n in zip(state, self.lengths)])

    def states(self) -> Iterator[tuple[int, ...]]:
        """Yield every legal state."""
        return (s for s in itertools.product(*map(range, self.lengths)) if self.legal(s))


class Factors:
    """States are ordered factorizations of some sizes; a move shifts one prime between factors.

    Begins without tiling: (size, 1, ...) for each.
    """

    def __init__(self, sizes: Sequence[int], depths: Sequence[int]):
        self.sizes = tuple(sizes)
        self.starts = [tuple((n, *(1,) * (depth - 1)) for n, depth in zip(sizes, depths))]
        self.moves = [(dim, i, j, p) for dim, (n, depth) in enumerate(zip(sizes, depths))
                      for i, j in itertools.permutations(range(depth), 2) for p in _primes(n)]

    def step(self, state: tuple[tuple[int, ...], ...], move: tuple[int, int, int, int]
             ) -> tuple[tuple[int, ...], ...] | None:
        """Return the neighbour, or None if the prime does not divide the factor."""
        dim, i, j, p = move
        factors = list(state[dim])
        if factors[i] % p:
            return None
        factors[i] //= p
        factors[j] *= p
        return (*state[:dim], tuple(factors), *state[dim + 1:])

    def features(self, state: tuple[tuple[int, ...], ...]) -> np.ndarray:
        """Return the logarithm of each factor relative to that of its size."""
        return np.array([math.log(f) / max(math.log(n), 1e-9) - 0.5
                         for n, factors in zip(self.sizes, state) for f in factors])


def _primes(n: int) -> list[int]:
    found, p = [], 2
    while n > 1:
        if n % p == 0:
            found.append(p)
        while n % p == 0:
            n //= p
        p += 1
    return found


@dataclass
class Log:
    """What a search has measured.

    Attributes:
        measure: of a state, in any unit of time; infinity for one that must not be chosen.
        budget: most measurements.
        costs: state -> its measure, in the order of measuring.
        best: state with the least cost so far, None as long as none is finite.
    """
    measure: Measure
    budget: int
    costs: dict[State, float] = field(default_factory=dict)
    best: State | None = None

    @property
    def cost(self) -> float:
        """The least cost so far."""
        return self.costs.get(self.best, math.inf)

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return len(self.costs) >= self.budget

    def take(self, state: State) -> float | None:
        """Measure a state that is new; returns None if it is not, or if the budget is spent."""
        if state in self.costs or self.full:
            return None
        cost = self.costs[state] = self.measure(state)
        if cost < self.cost or self.best is None and cost < math.inf:
            self.best = state
        return cost


def exhaustive(space: Grid, measure: Measure, budget: int, rng: np.random.Generator) -> Log:
    """Measure the starts, then every other state, in random order where the budget is short."""
    log, states = Log(measure, budget), list(space.states())
    if len(states) > budget:
        rng.shuffle(states)
        states = [tuple(int(i) for i in state) for state in states]
    for state in (*space.starts, *states):
        log.take(state)
    return log


def greedy(space: Space, measure: Measure, budget: int, rng: np.random.Generator,
           rho: int = RHO) -> Log:
    """Greedy best-first search: of the best state not yet expanded, measure rho random neighbours.

    Args:
        space: to search.
        measure: state -> time.
        budget: most measurements.
        rng: for the choice of neighbours.
        rho: neighbours per step.

    Returns:
        The Log; fewer measurements than the budget if every reachable state was measured.
    """
    log, queue, order = Log(measure, budget), [], itertools.count()

    def visit(state: State) -> None:
        cost = log.take(state)
        if cost is not None:
            heapq.heappush(queue, (cost, next(order), state))

    for state in space.starts:
        visit(state)
    while queue and not log.full:
        cost, number, state = heapq.heappop(queue)
        near = [to for to in _neighbours(space, state) if to not in log.costs]
        for index in rng.permutation(len(near))[:rho]:
            visit(near[index])
        if len(near) > rho:  # what is left comes back when nothing better is open
            heapq.heappush(queue, (cost, number, state))
    return log


def _neighbours(space: Space, state: State) -> list[State]:
    return list(dict.fromkeys(to for move in space.moves
                              if (to := space.step(state, move)) is not None))


def random(space: Space, measure: Measure, budget: int, rng: np.random.Generator,
           draw: Callable[[np.random.Generator], State]) -> Log:
    """Measure random states; what the other searches have to beat.

    Args:
        space: its starts are measured first.
        measure: state -> time.
        budget: most measurements.
        rng: source of chance.
        draw: rng -> a state.
    """
    log = Log(measure, budget)
    for state in space.starts:
        log.take(state)
    for _ in range(100 * budget):
        if log.full:
            break
        log.take(draw(rng))
    return log


def actor_critic(space: Space, measure: Measure, budget: int, rng: np.random.Generator) -> Log:
    """Advantage actor-critic search: short walks from the best state, by a policy that learns.

    The reward of a state is the least time so far relative to its own; the value of a state is the
    reward the critic expects behind it.
    """
    log = Log(measure, budget)
    for state in space.starts:
        log.take(state)
    if not space.moves:
        return log
    net = _Net(len(space.features(space.starts[0])), len(space.moves), rng)
    idle, length = 0, WALK
    while not log.full and idle < 50:
        steps, fresh = [], 0
        for _ in range(8 * COLLECT):
            state = log.best if log.best is not None else space.starts[0]
            for _ in range(length):
                possible = [space.step(state, move) for move in space.moves]
                mask = np.array([to is not None for to in possible])
                if not mask.any():
                    break
                x = space.features(state)
                chance = net.policy(x, mask)
                if rng.random() < EPSILON:
                    chance = mask / mask.sum()
                move = int(rng.choice(len(chance), p=chance))
                to = possible[move]
                fresh += log.take(to) is not None
                if to not in log.costs:  # the budget is spent
                    break
                steps.append((x, mask, move, to))
                state = to
            if fresh >= COLLECT or log.full:
                break
        # walks that find nothing new become longer
        idle, length = (idle + 1, length + 1) if not fresh else (0, WALK)
        if steps:
            net.learn([(x, mask, move, _reward(log, to)) for x, mask, move, to in steps])
    return log


def _reward(log: Log, state: State) -> float:
    """Return the least time so far relative to that of a state; 0 for one that fails."""
    cost = log.costs[state]
    return 0.0 if cost == math.inf else log.cost / cost if cost else 1.0


class _Net:
    """Policy and value of a state: one hidden layer, rectified, with two heads; trained by Adam."""

    def __init__(self, inputs: int, moves: int, rng: np.random.Generator):
        scale = math.sqrt(2 / inputs)
        self.params = [rng.normal(0, scale, (HIDDEN, inputs)), np.zeros(HIDDEN),
                       rng.normal(0, 0.01, (moves, HIDDEN)), np.zeros(moves),
                       rng.normal(0, 0.01, HIDDEN), np.zeros(())]
        self.mean = [np.zeros_like(p) for p in self.params]
        self.square = [np.zeros_like(p) for p in self.params]
        self.count = 0

    def _hidden(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(self.params[0] @ x + self.params[1], 0)

    def policy(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the probability of each move; 0 where the mask is false."""
        return self._softmax(self._hidden(x), mask)

    def _softmax(self, hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
        logits = np.where(mask, self.params[2] @ hidden + self.params[3], -np.inf)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def learn(self, steps: list[tuple[np.ndarray, np.ndarray, int, float]]) -> None:
        """Take one step down the gradient of -advantage * log(policy) + (reward - value)^2 / 2."""
        gradients = [np.zeros_like(p) for p in self.params]
        for x, mask, move, reward in steps:
            hidden = self._hidden(x)
            chance, value = self._softmax(hidden, mask), self.params[4] @ hidden + self.params[5]
            advantage = reward - value
            logits = chance * advantage
            logits[move] -= advantage
            back = (self.params[2].T @ logits - advantage * self.params[4]) * (hidden > 0)
            for total, part in zip(gradients, (
                    np.outer(back, x), back, np.outer(logits, hidden), logits,
                    -advantage * hidden, np.asarray(-advantage))):
                total += part
        self._adam([g / len(steps) for g in gradients])

    def _adam(self, gradients: list[np.ndarray]) -> None:
        self.count += 1
        for i, g in enumerate(gradients):
            self.mean[i] = 0.9 * self.mean[i] + 0.1 * g
            self.square[i] = 0.999 * self.square[i] + 0.001 * g * g
            mean = self.mean[i] / (1 - 0.9 ** self.count)
            square = self.square[i] / (1 - 0.999 ** self.count)
            self.params[i] = self.params[i] - LEARNING_RATE * mean / (np.sqrt(square) + 1e-8)


SEARCHES = {"exhaustive": exhaustive, "greedy": greedy, "actor-critic": actor_critic}
