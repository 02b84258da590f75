"""The searches of edgerun.tune.search on an analytic cost surface whose optimum is known."""
from __future__ import annotations

import math

import numpy as np
import pytest

from edgerun.tools.recipes import searches
from edgerun.tune import search


@pytest.fixture(scope="module")
def optimum():
    """The least cost over the whole space, and the number of states."""
    return searches.optimum()


def test_space_is_that_of_the_paper(optimum):
    assert optimum[1] == 899_756
    assert searches.space().starts == [((1024, 1, 1, 1), (1024, 1), (1024, 1, 1, 1))]
    assert len(searches.space().moves) == 12 + 2 + 12
    start, = searches.space().starts
    assert searches.measure(start) > 20 * optimum[0], "no tiling is far from the optimum"


@pytest.mark.parametrize("name", ["greedy", "actor-critic"])
def test_search_comes_near_the_optimum(optimum, name):
    """Within 10 % of the optimum after 0.1 % of the space, in at least 9 of 10 seeds."""
    found = searches.found(name)
    assert len(found) == 10 and all(len(log.costs) <= searches.BUDGET for log in found)
    near = sum(log.cost <= 1.1 * optimum[0] for log in found)
    assert near >= 9, [log.cost / optimum[0] for log in found]
    chance = [log.cost for log in searches.found("random")]
    assert np.mean([log.cost for log in found]) < np.mean(chance)
    assert sum(log.cost < other for log, other in zip(found, chance)) >= 9


@pytest.mark.parametrize("name", search.SEARCHES)
def test_small_grid(name):
    """Every search finds the least of a few states, never one that is infinite, each taken once."""
    taken = []

    def measure(state):
        taken.append(state)
        return math.inf if state == (0, 0) else 1 + abs(state[0] - 2) + abs(state[1] - 1)

    log = search.SEARCHES[name](search.Grid((4, 3), [(3, 2)], lambda s: s != (1, 1)), measure, 40,
                                np.random.default_rng(0))
    assert log.best == (2, 1) and log.cost == 1
    assert taken[0] == (3, 2) and len(taken) == len(set(taken)) == len(log.costs)
    assert (1, 1) not in taken
    if name == "exhaustive":
        assert len(taken) == 11


@pytest.mark.parametrize("name", search.SEARCHES)
@pytest.mark.parametrize("budget", [1, 5])
def test_budget(name, budget):
    log = search.SEARCHES[name](search.Grid((9, 9, 9), [(4, 4, 4)]), sum, budget,
                                np.random.default_rng(0))
    assert len(log.costs) == budget


@pytest.mark.parametrize("name", search.SEARCHES)
def test_nothing_is_legal(name):
    """A search over states that all fail ends, without a best one."""
    log = search.SEARCHES[name](search.Grid((2, 2), [(0, 0)]), lambda state: math.inf, 40,
                                np.random.default_rng(0))
    assert log.best is None and log.cost == math.inf


@pytest.mark.parametrize("name", search.SEARCHES)
def test_single_state(name):
    log = search.SEARCHES[name](search.Grid((1, 1), [(0, 0)]), lambda state: 3.0, 40,
                                np.random.default_rng(0))
    assert log.best == (0, 0) and log.cost == 3


def test_factors_of_any_size():
    """Primes move between the factors of one size; products stay."""
    space = search.Factors((12, 7), (3, 2))
    seen, todo = set(), list(space.starts)
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += [to for move in space.moves if (to := space.step(state, move))]
    assert all(np.prod(factors) == size for state in seen
               for factors, size in zip(state, (12, 7)))
    assert len(seen) == (math.comb(4, 2) * 3) * 2  # 12 = 2 * 2 * 3 over 3 places, 7 over 2


def test_gradient():
    """The step the network takes goes down the loss it is meant to."""
    rng = np.random.default_rng(0)
    net = search._Net(3, 4, rng)
    net.params = [rng.normal(0, 0.5, p.shape) for p in net.params]
    x, mask, move, reward = rng.normal(size=3), np.array([1, 1, 0, 1], bool), 3, 0.7
    advantage = reward - (net.params[4] @ net._hidden(x) + net.params[5])

    def loss():
        value = net.params[4] @ net._hidden(x) + net.params[5]
        return -advantage * np.log(net.policy(x, mask)[move]) + (reward - value) ** 2 / 2

    taken = []
    net._adam = taken.extend
    net.learn([(x, mask, move, reward)])
    for param, gradient in zip(net.params, taken):
        for at in list(np.ndindex(param.shape))[:40]:
            kept = param[at] if param.shape else float(param)
            param[at] = kept + 1e-6
            above = loss()
            param[at] = kept - 1e-6
            below = loss()
            param[at] = kept
            assert abs((above - below) / 2e-6 - gradient[at]) < 1e-5
