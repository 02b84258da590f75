"""Tune a model: every launch that has variants, the slowest first."""
from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgerun import arrays, tuning
from edgerun.device import Device
from edgerun.memory import Buffers, Weights
from edgerun.model import Choice, Model, Op
from edgerun.ops import OPS, Facts, _tile
from edgerun.ops._base import Key, Launch, Variant
from edgerun.session import Session
from edgerun.tune import measure, search
from edgerun.tune.report import LaunchResult, TuneReport

SMALL = 40  # so many variants are all measured
BUDGET = 60  # variants that other searches measure of a launch
# Variants that keep the busiest core longer than this many times the least are not tried.
MOST_WORK = 1.6
CONTEST, CONTEST_ROUNDS = 3, 15  # the best of a search meet the default again
CLEAR_GAIN = 0.98  # of the default's time: what is not below stays with the default
MODEL_ROUNDS = (15, 60)  # the second if the first do not show a gain


@dataclass
class Task:
    """One key to tune, with every op that has it."""
    key: Key
    family: str
    facts: Facts
    ops: list[Op] = field(default_factory=list)
    default_ns: float = 0.0


def tasks_of(model: Model, device: Device) -> dict[str, Task]:
    """Return by the text of its key every launch of a model that has variants."""
    found: dict[str, Task] = {}
    for op in model.ops:
        facts = device.facts_for(op)
        for launch in OPS[op.code].prepare(op, facts):
            if launch.key is None:
                continue
            task = found.setdefault(str(launch.key), Task(launch.key, launch.family, facts))
            if op not in task.ops:
                task.ops.append(op)
    return found


def tune(model: Model, device: Device, known: Mapping[str, Choice] | None = None,
         how: str | None = None, budget: int = BUDGET, seconds: float | None = None, seed: int = 0,
         progress: Callable[[int, int, LaunchResult], None] = lambda done, total, result: None
         ) -> tuple[TuneReport, list[Choice]]:
    """Find the fastest variants of the launches of a model.

    Args:
        model: a validated model.
        device: where to measure; nothing else should run there.
        known: choices of before by key (edgerun.tuning.valid); their launches are left out.
        how: a key of edgerun.tune.search.SEARCHES; None measures all of up to SMALL variants, and
            searches greedily among more.
        budget: variants to measure of each launch, at most.
        seconds: no new variant is tried after so long.
        seed: of inputs and searches.
        progress: called with the number of launches done and of all, and the last result.

    Returns:
        The report, and the choices to store: also where the default stays, since that is known now.

    Raises:
        DeviceError: the device cannot run the model, or has no room to measure.
    """
    start, rng = time.monotonic(), np.random.default_rng(seed)
    end = math.inf if seconds is None else start + seconds
    own = tuning.of_device(device)
    report = TuneReport(own.device, own.driver)
    tasks = tasks_of(model, device)
    known = {key: choice for key, choice in (known or {}).items() if key in tasks
             and _legal(tasks[key], choice)}
    report.launches, report.known = len(tasks), len(known)
    todo = [task for key, task in tasks.items() if key not in known]
    if not todo:
        return report, []
    built, used = device.programs.built, []
    buffers = Buffers(device)
    try:
        weights = buffers.weights(model)
        for task in todo:
            bench = measure.Bench(device, task.ops[0], weights, rng)
            task.default_ns = bench.warm_up()
            bench.close()
        todo.sort(key=lambda task: -task.default_ns * len(task.ops))
        for number, task in enumerate(todo):
            if time.monotonic() >= end:
                report.left = len(todo) - number
                break
            result = _tune_one(task, device, weights, how, budget, end, rng, used)
            report.results.append(result)
            progress(number + 1, len(todo), result)
    finally:
        device.queue.finish()
        buffers.release()
    device.programs.keep_only(used)
    _whole_model(model, device, report, known, rng)
    report.seconds = time.monotonic() - start
    report.built = device.programs.built - built
    return report, [Choice(r.key, r.family, tuning.kernels_of(r.family), r.variant,
                           int(r.ns), int(r.default_ns)) for r in report.results]


def _legal(task: Task, choice: Choice) -> bool:
    variant = tuning.variant_of(choice.variant)
    return variant is not None and _tile.is_legal(task.key, task.facts, variant)


def _work(task: Task, variant: Variant) -> float:
    """Return vectors of multiply-accumulates of the busiest core, times the length of the sums."""
    launch = _keyed(task, {str(task.key): variant})
    items = math.prod(launch.global_size)
    chosen = dict(variant.values)
    each = math.prod(chosen.get(name, 1) for name in ("P", "NV", "ROWS", "tiles"))
    if "run" in chosen:
        each *= -(-chosen["run"] // chosen["VEC"])
    return -(-items // task.facts.compute_units) * each


def _keyed(task: Task, choices: Mapping[str, Variant]) -> Launch:
    """Return the launch of the first op that has the key."""
    facts = dataclasses.replace(task.facts, choices=choices)
    return next(launch for launch in OPS[task.ops[0].code].prepare(task.ops[0], facts)
                if launch.key == task.key)


def worth_trying(task: Task) -> list[Variant]:
    """Return the legal variants without those that waste too much of their work, default first."""
    variants = _tile.candidates(task.key, task.facts)
    work = {variant: _work(task, variant) for variant in variants}
    limit = MOST_WORK * min(work.values())
    return [variants[0], *(v for v in variants[1:] if work[v] <= limit)]


def _tune_one(task: Task, device: Device, weights: Weights, how: str | None, budget: int,
              end: float, rng: np.random.Generator, used: list) -> LaunchResult:
    bench = measure.Bench(device, task.ops[0], weights, rng)
    try:
        bench.warm_up()
        worth = worth_trying(task)
        name = how or ("exhaustive" if len(worth) <= SMALL else "greedy")
        failures: list[str] = []
        ready: dict[Variant, measure.Prepared] = {}

        def cost(variant: Variant) -> float:
            if time.monotonic() >= end:
                return math.inf
            try:
                prepared = bench.prepare({str(task.key): variant})
                bench.check(prepared)
            except measure.WrongVariant as error:
                failures.append(f"{variant} for {task.key}: {error}")
                return math.inf
            ready[variant] = prepared
            return measure.quick(bench, prepared)

        costs = _search(task, worth, cost, name, budget, rng)
        best = sorted((v for v in costs if v in ready and v != worth[0]), key=costs.get)
        winner, ratio = _contest(bench, [v for v in best[:CONTEST] if costs[v] < 1.0], ready)
        if winner is not None and not _right_everywhere(task, winner, device, weights, rng,
                                                        failures):
            winner, ratio = None, 1.0
        used += bench.default.kernels + (ready[winner].kernels if winner else ())
        base = statistics.median(bench.time(bench.default) for _ in range(3))
        return LaunchResult(
            str(task.key), str(task.ops[0]), len(task.ops), task.family, str(worth[0]),
            str(winner or worth[0]), base, base * ratio,
            len(_tile.candidates(task.key, task.facts)), len(worth), len(ready), name,
            tuple(failures))
    finally:
        bench.close()


def _search(task: Task, worth: list[Variant], cost: Callable[[Variant], float], name: str,
            budget: int, rng: np.random.Generator) -> dict[Variant, float]:
    """Search among variants; returns what each costs that was measured."""
    axes = _tile.axes(task.key, task.facts)
    at = {variant: tuple(axes[axis].index(value) for axis, value in variant.values)
          for variant in worth}
    of = {place: variant for variant, place in at.items()}

    def measured(place: tuple[int, ...]) -> float:
        return 1.0 if of[place] == worth[0] else cost(of[place])

    # from the default, and from what the cost model likes best
    least = sorted(worth[1:], key=lambda v: _work(task, v))[:3]
    grid = search.Grid([len(values) for values in axes.values()],
                       [at[worth[0]], *(at[v] for v in least)], of.__contains__)
    log = search.SEARCHES[name](grid, measured, budget + 1, rng)
    return {of[place]: cost for place, cost in log.costs.items()}


def _contest(bench: measure.Bench, variants: list[Variant],
             ready: Mapping[Variant, measure.Prepared]) -> tuple[Variant | None, float]:
    """Return the variant that is clearly faster than the default, and its time relative to it."""
    if not variants:
        return None, 1.0
    ratios = bench.ratios([ready[variant] for variant in variants], CONTEST_ROUNDS)
    medians = [statistics.median(found) for found in ratios]
    order = sorted(range(len(variants)), key=medians.__getitem__)
    for index in order:
        if medians[index] < CLEAR_GAIN and float(np.percentile(ratios[index], 75)) < 1.0:
            return variants[index], medians[index]
    return None, 1.0


def _right_everywhere(task: Task, variant: Variant, device: Device, weights: Weights,
                      rng: np.random.Generator, failures: list[str]) -> bool:
    """Whether a variant is right for the other ops with the key: activations may differ."""
    seen = {_program(task, task.ops[0], variant)}
    for op in task.ops[1:]:
        program = _program(task, op, variant)
        if program in seen:
            continue
        seen.add(program)
        other = measure.Bench(device, op, weights, rng)
        try:
            other.check(other.prepare({str(task.key): variant}))
        except measure.WrongVariant as error:
            failures.append(f"{variant} for {task.key}: {error}")
            return False
        finally:
            other.close()
    return True


def _program(task: Task, op: Op, variant: Variant) -> str:
    facts = dataclasses.replace(task.facts, choices={str(task.key): variant})
    return str([(x.family, sorted(x.defines.items())) for x in OPS[op.code].prepare(op, facts)])


def _whole_model(model: Model, device: Device, report: TuneReport, known: Mapping[str, Choice],
                 rng: np.random.Generator) -> None:
    """Compare the whole model untuned and tuned, and take the choices back if it is not faster."""
    if not report.results:
        return
    chosen = {key: tuning.variant_of(choice.variant) for key, choice in known.items()}
    chosen |= {r.key: tuning.variant_of(r.variant) for r in report.results}
    changed = any(r.variant != r.default for r in report.results)
    with Session(model, device, {}) as untuned, Session(model, device, chosen) as tuned:
        inputs = arrays.random_inputs(untuned.inputs)
        for rounds in MODEL_ROUNDS:
            report.model_default_ns, report.model_ns = by_turns(untuned, tuned, inputs, rounds)
            if not changed or report.model_ns < report.model_default_ns:
                break
    if changed and report.model_ns >= report.model_default_ns:
        report.kept = False
        report.results = [dataclasses.replace(r, variant=r.default, ns=r.default_ns)
                          for r in report.results]


def by_turns(one: Session, other: Session, inputs: Mapping[str, np.ndarray], rounds: int
             ) -> tuple[float, float]:
    """Return the latencies of two sessions that run by turns, in nanoseconds.

    The first is a median; the second is it times the median of the ratios, which do not feel that
    a machine becomes slower or faster meanwhile.
    """
    found: tuple[list[int], list[int]] = ([], [])
    for number in range(rounds + 2):
        pair = [(one, found[0]), (other, found[1])]
        for session, times in (pair if number % 2 else pair[::-1]):
            start = time.perf_counter_ns()
            session.run(inputs)
            if number >= 2:
                times.append(time.perf_counter_ns() - start)
    base = statistics.median(found[0])
    return base, base * statistics.median(b / a for a, b in zip(*found))
