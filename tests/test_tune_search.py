"""The searches of edgerun.tune.search on an analytic cost surface whose optimum is known."""
from __future__ import annotations

import math

import numpy as np
import pytest

from edgerun.tune import search

SIZE = 1024
BUDGET = 900  # 0.1 % of the space
SEEDS = range(10)


def cost(m, k, n):
    """Seconds of a matrix product of 1024 on an invented machine: a roofline.

    m, n: factors of the sizes (outer loop, cores, tile in the second cache, tile in registers);
    k: (outer, inner). Time passes in arithmetic, which runs at its peak if vectors are full,
    registers hold the sums and enough of them are in flight; in moving what neither the registers
    nor a cache keeps; and in starting tiles. Works on numbers and on arrays.
    """
    vectors = np.ceil(n[3] / 16)
    spilled = np.maximum(1.0, (m[3] * vectors + vectors + 1) / 32) ** 2
    full = n[3] / (vectors * 16) * np.minimum(1.0, m[3] * vectors / 10)
    cores = m[1] * n[1]
    busy = cores / (np.ceil(cores / 8) * 8)
    arithmetic = 2 * SIZE**3 / 1e12 * spilled / full / busy * (1 + 8 / k[1])
    from_first = 4 * SIZE**3 * (1 / m[3] + 1 / n[3]) / 4e12
    tile_m, tile_n = m[2] * m[3], n[2] * n[3]
    first, second = 4 * (m[3] + n[3]) * k[1], 4 * (tile_m + tile_n) * k[1] + 4 * tile_m * tile_n
    missed = np.maximum(1.0, first / 2**15) * np.maximum(1.0, second / 2**19)
    from_memory = 4 * SIZE**3 * (1 / tile_m + 1 / tile_n) * missed / 5e10
    tiles = m[0] * m[1] * m[2] * n[0] * n[1] * n[2] * k[0]
    return arithmetic + from_first + from_memory + tiles / busy * 1e-7


def factorizations(depth):
    """Every ordered factorization of SIZE, [depth][count]."""
    exponents = [e for e in np.ndindex(*(11,) * depth) if sum(e) == 10]
    return (2 ** np.array(exponents)).T.astype(np.float64)


@pytest.fixture(scope="module")
def optimum():
    """The least cost over the whole space, and the number of states."""
    m = n = factorizations(4)
    k = factorizations(2)
    costs = cost(m[:, :, None, None], k[:, None, :, None], n[:, None, None, :])
    return costs.min(), costs.size


def space():
    return search.Factors((SIZE, SIZE, SIZE), (4, 2, 4))


def measure(state):
    m, k, n = state
    return float(cost(m, k, n))


def uniform(rng):
    """A state of the space, each as likely as the others."""
    def one(depth):
        bars = np.sort(rng.choice(10 + depth - 1, depth - 1, replace=False))
        stars = np.diff(np.concatenate(([-1], bars, [10 + depth - 1]))) - 1
        return tuple(2 ** int(s) for s in stars)
    return one(4), one(2), one(4)


def test_space_is_that_of_the_paper(optimum):
    assert optimum[1] == 899_756
    assert space().starts == [((1024, 1, 1, 1), (1024, 1), (1024, 1, 1, 1))]
    assert len(space().moves) == 12 + 2 + 12
    assert measure(space().starts[0]) > 20 * optimum[0], "no tiling is far from the optimum"


@pytest.mark.parametrize("name", ["greedy", "actor-critic"])
def test_search_comes_near_the_optimum(optimum, name):
    """Within 10 % of the optimum after 0.1 % of the space, in at least 9 of 10 seeds."""
    found = [search.SEARCHES[name](space(), measure, BUDGET, np.random.default_rng(seed))
             for seed in SEEDS]
    assert all(len(log.costs) <= BUDGET for log in found)
    near = sum(log.cost <= 1.1 * optimum[0] for log in found)
    assert near >= 9, [log.cost / optimum[0] for log in found]
    chance = [search.random(space(), measure, BUDGET, np.random.default_rng(seed), uniform).cost
              for seed in SEEDS]
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
