"""Ops that mostly move memory, each beside a kernel that moves as much in the same way.

    python -m edgerun.tools.compare.bandwidth [--device D] [--rounds N] [--json]

The bandwidth of memory changes from minute to minute, and with what else uses it. So ops and
kernels take turns in one process, and only what was measured in the same round is compared. All of
them together touch so much memory in a round that no cache holds anything of the round before.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun import cli, loader, text
from edgerun.device import Device
from edgerun.errors import EdgerunError
from edgerun.roofline import Bench
from edgerun.session import Session
from edgerun.timing import op_bytes
from edgerun.tools import blob, layout, plan as planner
from edgerun.tools.graph import Graph

Key = tuple[str, bool | None]  # label of a case; OP, or whether its bound stores past the caches
OP = None
ROUNDS, WARM = 25, 2
TENSOR = 64 << 20  # bytes of an elementwise tensor
# Kernel of kernels/roofline.cl -> what it does, tensors it moves.
BOUNDS = {"read_peak": ("read", 1), "copy_peak": ("read, write", 2),
          "sum_peak": ("read twice, write", 3)}


@dataclass(frozen=True)
class Case:
    """An op and its bound.

    Attributes:
        label: for people.
        bound: of BOUNDS.
        build: adds the op, named y, to a graph.
    """
    label: str
    bound: str
    build: Callable[[Graph], Any]


def _relu(graph: Graph):
    return graph.add("unary", [graph.input("x", (TENSOR // 4,), "fp32")], "y", kind="relu")


def _add(graph: Graph):
    shape = (TENSOR // 4,)
    return graph.add("binary", [graph.input(name, shape, "fp32") for name in "ab"], "y", kind="add")


def _dense(in_c: int, out_c: int) -> Case:
    def build(graph: Graph):
        w = np.random.default_rng(0).standard_normal((out_c, in_c), np.float32)
        return graph.add("dense", [graph.input("x", (1, in_c), "fp32"), graph.constant(w, "w")],
                         "y")
    return Case(f"dense {in_c}->{out_c}, batch 1", "read_peak", build)


# The dense layers are those of AlexNet.
CASES = (Case("relu", "copy_peak", _relu), Case("add", "sum_peak", _add),
         _dense(9216, 4096), _dense(4096, 4096), _dense(4096, 1000))


def session_of(case: Case, device: Device) -> Session:
    """Return a session of the case's op alone, after one run."""
    graph = Graph(case.label)
    graph.output("y", case.build(graph))
    layout.apply(graph)
    data = blob.encode(graph, planner.plan(graph, {}), {}, "fp32")
    session = Session(loader.from_bytes(np.frombuffer(data, np.uint8), case.label), device)
    session.run({info.name: np.ones(info.shape, np.float32) for info in session.inputs})
    return session


def shares(ns: Sequence[float], moved: int, bounds: Mapping[bool, tuple[int, Sequence[float]]]
           ) -> dict[str, float]:
    """Compare an op with the faster one of its bounds.

    Args:
        ns: of the op, by rounds.
        moved: bytes it reads and writes.
        bounds: whether stores go past the caches -> bytes a kernel moves, ns by rounds.

    Returns:
        "ns": median of the op; "bound_ns": median of the bound for as many bytes; "share", "low",
        "high": median and quartiles over the rounds of bound / op; "past_caches": 1 or 0.
    """
    past = min(bounds, key=lambda p: np.median(bounds[p][1]) / bounds[p][0])
    amount, times = bounds[past]
    scaled = np.array(times, np.float64) * (moved / amount)
    low, share, high = np.percentile(scaled / np.array(ns, np.float64), (25, 50, 75))
    return {"ns": float(np.median(ns)), "bound_ns": float(np.median(scaled)),
            "share": float(share), "low": float(low), "high": float(high),
            "past_caches": int(past)}


def measure(device: Device, rounds: int = ROUNDS, cases: Sequence[Case] = CASES
            ) -> list[dict[str, Any]]:
    """Measure every case by turns.

    Args:
        device: an opened one.
        rounds: at least 1, after WARM that are not counted.
        cases: what to measure.

    Returns:
        For each case "op", "bound", "bytes" that the op moves, and what shares() finds.
    """
    bench = Bench(device)
    sessions: list[Session] = []
    try:
        launches: dict[Key, Callable[[], object]] = {}
        amounts: dict[Key, int] = {}
        for case in cases:
            session = session_of(case, device)
            sessions.append(session)
            op, = session.model.ops
            launches[case.label, OP], amounts[case.label, OP] = session.enqueue, op_bytes(op)
            tensors = BOUNDS[case.bound][1]
            for past in (False, True)[:tensors]:  # reading alone stores nothing
                used, launch = bench.stream(case.bound, op_bytes(op) // tensors, past)
                launches[case.label, past], amounts[case.label, past] = launch, used * tensors
        times = _turns(device, launches, rounds)
    finally:
        for session in sessions:
            session.close()
        bench.close()
    found = []
    for case in cases:
        bounds = {past: (amounts[label, past], times[label, past]) for label, past in times
                  if label == case.label and past is not OP}
        own = (case.label, OP)
        found.append({"op": case.label, "bound": BOUNDS[case.bound][0], "bytes": amounts[own],
                      **shares(times[own], amounts[own], bounds)})
    return found


def _turns(device: Device, launches: Mapping[Key, Callable[[], object]], rounds: int
           ) -> dict[Key, list[int]]:
    """Return the ns of every launch, by rounds."""
    times: dict[Key, list[int]] = {key: [] for key in launches}
    for number in range(WARM + rounds):
        for key, launch in launches.items():
            start = time.perf_counter_ns()
            launch()
            device.queue.finish()
            if number >= WARM:
                times[key].append(time.perf_counter_ns() - start)
    return times


def main(argv: list[str] | None = None) -> int:
    """Measure one device; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.compare.bandwidth", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="D", help="as for edgerun run")
    parser.add_argument("--rounds", metavar="N", type=cli.positive, default=ROUNDS,
                        help=f"turns of every op and kernel ({ROUNDS})")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        device = Device(args.device)
        found = measure(device, args.rounds)
    except EdgerunError as error:
        print(f"edgerun: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"device": device.info.name, "platform": device.info.platform,
                          "rounds": args.rounds, "ops": found}))
        return 0
    rows = [(r["op"], text.size(r["bytes"]), f"{r['bytes'] / r['ns']:.1f}", r["bound"],
             f"{r['bytes'] / r['bound_ns']:.1f}",
             f"{100 * r['share']:.0f} ({100 * r['low']:.0f} to {100 * r['high']:.0f})")
            for r in found]
    print("\n".join([f"{device.info.name} ({device.info.platform}), {args.rounds} rounds",
                     *text.table(("op", "moves", "GB/s", "bound", "GB/s", "% of bound"), rows,
                                 left=(0, 3))]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
