"""Find the smallest file and arena whose measured error stays within a bound."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgerun import loader
from edgerun.device import Device
from edgerun.errors import InputError
from edgerun.tools import lower
from edgerun.tools.calibrate.data import Subset
from edgerun.tools.calibrate.ranges import Calibration
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.graph import Graph, Op, copy_of
from edgerun.tools.mixed import sensitivity
from edgerun.tools.mixed.error import Error, allowance, measured
from edgerun.tools.mixed.problem import DTYPES, Problem
from edgerun.tools.mixed.solve import solve
from edgerun.tools.patch import PatchReport
from edgerun.tools.plan import Plan
from edgerun.tools.quantize.assign import INTEGERS, Override, able, assign, keeps_grid
from edgerun.tools.quantize.grids import WEIGHT_AXIS, weight_quantization
from edgerun.tools.quantize.insert import insert
from edgerun.tools.reductions import Reduction

MAX_ERROR = 0.02  # 34 dB: what int8 throughout does to a network that takes it well
PROBES = 4  # samples on which noise is measured; the error is measured on all
ROUNDS = 8
WORTH = 0.01  # share of the size that another round must promise to save
SLACK = 1.5  # noise power of one rounding, in that allowed: what a few samples may be off
REPAIRS = (0, 1, 2, 4, 8)  # noisiest ops that stay in fp32 while all others have one type
MARGIN = 0.97
FASTEST = 16.0  # by how much the allowance grows at most in a round
CONVERSIONS = ("quantize", "dequantize", "requantize", "cast")


@dataclass(frozen=True)
class Choice:
    """What one op got, and why.

    Attributes:
        op, code: name and kind of the op.
        dtype: of its weights and its result.
        weight_bytes: of its constants in the file.
        saved_bytes: what they would have more in fp32.
        noise: share of the allowed noise power that this is predicted to take.
        reason: one phrase.
    """
    op: str
    code: str
    dtype: str
    weight_bytes: int
    saved_bytes: int
    noise: float
    reason: str


@dataclass(frozen=True)
class MixedReport:
    """How a mixed-precision file was found.

    Attributes:
        max_error: the bound.
        error: the worst output's, measured with the file on all samples; see Error.
        outputs: output -> its error.
        snr_db: the same as a signal-to-noise ratio.
        top1: share of samples whose largest output element is that of fp32; None if no output is a
            list of numbers.
        samples: how many.
        rounds: files built and measured.
        choices: one per op.
    """
    max_error: float
    error: float
    outputs: dict[str, float]
    snr_db: float
    top1: float | None
    samples: int
    rounds: int
    choices: list[Choice] = field(default_factory=list)


@dataclass(frozen=True)
class Built:
    """A file, the graph that is in it, and what tells what the reductions of its arena bring; what
    runs strip by strip."""
    data: bytes
    plan: Plan
    graph: Graph
    steps: list[tuple[str, int, int]]
    reductions: Callable[[], list[Reduction]] = list
    patched: PatchReport | None = None

    @property
    def size(self) -> int:
        """Bytes of the file and of the arena."""
        return len(self.data) + self.plan.arena_bytes


Build = Callable[[dict[Op, str]], Built]  # from the types of the ops of the optimized graph


def unclipped(op: Op, dtype: str):
    """Return symmetric scales of an op's weights, per output channel."""
    return weight_quantization(op.inputs[1].data, WEIGHT_AXIS[op.code], dtype)


def search(graph: Graph, ranges: Calibration, samples: Sequence[Mapping[str, np.ndarray]],
           build: Build, max_error: float = MAX_ERROR, overrides: Sequence[Override] = (),
           device: Device | str | int | None = None, weights_of: sensitivity.WeightsOf = unclipped,
           progress: Callable[..., None] = lambda stage, *of: None) -> tuple[Built, MixedReport]:
    """Choose a type for every op: the least bytes of file and arena within an error bound.

    Args:
        graph: optimized, in fp32; not changed.
        ranges: of its tensors.
        samples: the error is measured on all of them.
        build: makes a file of a choice.
        max_error: bound of Error.worst, above 0.
        overrides: types that are given.
        device: where to measure.
        weights_of: as build() quantizes weights.
        progress: called with a stage, what is done of it, and all of it.

    Returns:
        The file and the report.

    Raises:
        InputError: the bound is no positive number, an override is wrong, or no choice stays within
            the bound.
        DeviceError: the device cannot run the model.
    """
    if not (math.isfinite(max_error) and max_error > 0):
        raise InputError(f"the error bound is {max_error}, needed a number above 0")
    opened = device if isinstance(device, Device) else Device(device)
    fixed = fixed_types(graph, overrides)
    found = sensitivity.measure(
        graph, ranges, Subset(samples, min(PROBES, len(samples))), weights_of, opened,
        lambda done, total: progress("sensitivity", done, total))
    allowed = candidates(graph, ranges, weights_of, fixed)
    return _Search(graph, samples, build, max_error, opened, progress, found, allowed,
                   fixed).run()


def fixed_types(graph: Graph, overrides: Sequence[Override]) -> dict[Op, str]:
    """Return the types of the ops that overrides name.

    Raises:
        InputError: an override names nothing, or an op that cannot compute in its type.
    """
    if not overrides:
        return {}
    # no type at all marks what no override names, or names with a pattern and in vain
    return {op: dtype for op, dtype in assign(graph, "", overrides, reals="").items() if dtype}


def candidates(graph: Graph, ranges: Calibration, weights_of: sensitivity.WeightsOf,
               fixed: Mapping[Op, str]) -> dict[Op, tuple[str, ...]]:
    """Return the types that each op may have: those for which it has a kernel."""
    real = [op for op in graph.ops if op.code != "reshape"
            and all(t.dtype == "fp32" for t in op.outputs)]
    stays = {}
    for dtype in INTEGERS:
        copy = copy_of(graph)
        twins = dict(zip(graph.ops, copy.ops))
        insert(copy, {twins[op]: dtype for op in graph.ops if able(op, dtype)}, ranges.range,
               weights_of)
        lower.apply(copy)
        stays[dtype] = computing_real(copy)
    return {op: (fixed[op],) if op in fixed else tuple(
        dtype for dtype in DTYPES if dtype not in INTEGERS
        or able(op, dtype) and op.outputs[0].name not in stays[dtype]) for op in real}


def computing_real(graph: Graph) -> set[str]:
    """Return the names of the outputs of ops that compute with real activations."""
    return {op.outputs[0].name for op in graph.ops if op.code not in CONVERSIONS and any(
        t is not None and not t.constant and t.dtype in ("fp32", "fp16") for t in op.inputs)}


class _Search:
    def __init__(self, graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], build: Build,
                 max_error: float, device: Device, progress: Callable[..., None],
                 found: sensitivity.Sensitivity, allowed: dict[Op, tuple[str, ...]],
                 fixed: dict[Op, str]):
        self.graph, self.samples, self.build, self.max_error = graph, samples, build, max_error
        self.device, self.progress, self.found = device, progress, found
        self.allowed, self.fixed = allowed, fixed
        self.problem = Problem(graph, found, allowed)
        self.rounds = 0
        self.best: tuple[Built, Error, dict[Op, str]] | None = None
        self.least = math.inf
        self.expected: list[dict[str, np.ndarray]] = []

    def run(self) -> tuple[Built, MixedReport]:
        with session_of(self.graph, self.device) as (session, _):
            for number, sample in enumerate(self.samples, 1):
                self.expected.append(session.run(sample))
                self.progress("reference", number, len(self.samples))
        self.narrow()
        for dtype in ("int8", "fp16"):  # where noise does not add up, these may have been missed
            self.repair(dtype)
        if self.best is None:
            self.judge(self.build(self.uniform("fp32")), self.uniform("fp32"))
        if self.best is None:
            raise InputError(
                f"{self.graph.source or 'the model'}: no choice of types stays within an error of "
                f"{self.max_error:g}: the least that was measured on {len(self.samples)} samples "
                f"is {self.least:.3g}" + (", with the types that overrides ask for"
                                             if self.fixed else ""))
        built, error, dtypes = self.best
        return built, MixedReport(
            self.max_error, error.worst, error.relative, error.snr_db, error.top1,
            len(self.samples), self.rounds, self.choices(dtypes))

    def narrow(self) -> None:
        """Solve with an allowance that follows the ratio of measured to allowed error."""
        scale, low, high = 1.0, 0.0, math.inf
        smallest = math.inf  # predicted, of what is within the bound
        seen: dict[tuple, float] = {}
        single = allowance(self.found.expected, self.max_error * math.sqrt(SLACK))
        for _ in range(ROUNDS):
            self.progress("solve")
            solved = solve(self.problem, allowance(self.found.expected, self.max_error * scale),
                           single)
            if solved is None:
                return
            choice, size = solved
            if size > smallest * (1 - WORTH):
                return
            key = tuple(choice.values())
            if key not in seen:
                dtypes = self.problem.types(choice)
                error, stranded = self.try_types(dtypes)
                if stranded:
                    self.forbid(stranded, dtypes)
                    continue
                seen[key] = error / self.max_error
            ratio = seen[key]
            if ratio <= 1:
                low, smallest = max(low, scale), min(smallest, size)
                wanted = scale * min(MARGIN / max(ratio, 1e-9), FASTEST)
            else:
                high = min(high, scale)
                wanted = scale * (max(MARGIN / ratio, 1 / FASTEST) if math.isfinite(ratio)
                                  else 1 / FASTEST)
            if low < wanted < high:
                scale = wanted
            else:
                scale = math.sqrt(low * high)
            if high / max(low, 1e-9) < 1.05:
                return

    def uniform(self, dtype: str) -> dict[Op, str]:
        """Return one type for all ops that may have it; for others fp32, or what they must have."""
        return self.problem.types({op: dtype if dtype in types else
                           "fp32" if "fp32" in types else types[0]
                           for op, types in self.problem.allowed.items()})

    def repair(self, dtype: str) -> None:
        """Give all ops one type, then more and more of the noisiest, and those that read their
        results, fp32, until the error is within the bound or the file no longer the smallest."""
        dtypes = self.uniform(dtype)
        noisy = sorted((op for op in dtypes if dtypes[op] == dtype and op not in self.fixed),
                       key=lambda op: self.share(op, dtype), reverse=True)
        users = self.graph.consumers()
        for count in REPAIRS:
            if count > len(noisy):
                return
            self.progress("compare")
            repaired = {user for op in noisy[:count] for user in (op, *users.get(op.outputs[0], ()))
                        if user in dtypes and user not in self.fixed}
            tried = dtypes | dict.fromkeys(repaired, "fp32")
            built = self.build(tried)
            if self.best is not None and built.size >= self.best[0].size:
                return
            if self.judge(built, tried) <= self.max_error:
                return

    def try_types(self, dtypes: dict[Op, str]) -> tuple[float, set[Op]]:
        """Build and measure; returns the error and the ops that fell back to real numbers."""
        self.progress("build")
        built = self.build(dtypes)
        real = computing_real(built.graph)
        stranded = {op for op, dtype in dtypes.items() if dtype in INTEGERS
                    and op.code != "reshape" and not keeps_grid(op) and op not in self.fixed
                    and op.outputs[0].name in real}
        return self.judge(built, dtypes), stranded

    def judge(self, built: Built, dtypes: dict[Op, str]) -> float:
        error = self.measure(built)
        self.rounds += 1
        self.least = min(self.least, error.worst)
        if error.worst <= self.max_error and (
                self.best is None or built.size < self.best[0].size):
            self.best = (built, error, dtypes)
        return error.worst

    def forbid(self, stranded: set[Op], dtypes: dict[Op, str]) -> None:
        """Take integers from ops that had no kernel for the integers around them."""
        for op in stranded:
            self.allowed[op] = tuple(d for d in self.allowed[op] if d != dtypes[op])
        self.problem = Problem(self.graph, self.found, self.allowed)

    def measure(self, built: Built) -> Error:
        """Run a file on all samples."""
        model = loader.from_bytes(np.frombuffer(built.data, np.uint8), "mixed")
        return measured(model, self.device, self.samples, self.expected, self.progress)

    def choices(self, dtypes: dict[Op, str]) -> list[Choice]:
        """Explain a choice."""
        rows = []
        for op in self.problem.group:
            dtype, y = dtypes[op], op.outputs[0].name
            constants = [i for i, t in enumerate(op.inputs)
                         if t is not None and t.constant and t.dtype == "fp32"]
            size = {d: sum(self.problem.constant_bytes(op, i, d) for i in constants)
                    for d in (dtype, "fp32")}
            rows.append(Choice(op.name or y, op.code, dtype, size[dtype],
                               size["fp32"] - size[dtype], self.share(op, dtype),
                               self.reason(op, dtype)))
        return rows

    def share(self, op: Op, dtype: str) -> float:
        """Return the share of the allowed noise that an op's weights and result take in a type."""
        noises = [self.problem.noises(op, dtype)]
        if not keeps_grid(op):
            noises.append(self.found.stored.get((op.outputs[0].name, dtype), {}))
        return self._largest(noises)

    def share_of_inputs(self, op: Op, dtype: str) -> float:
        """Return the share of the allowed noise that what an op reads would take in a type."""
        producers, noises = self.graph.producers(), []
        for x in op.inputs:
            while x in producers and (keeps_grid(producers[x]) or producers[x].code == "reshape"):
                x = producers[x].inputs[0]
            if x is not None:
                noises.append(self.found.stored.get((x.name, dtype), {}))
        return self._largest(noises)

    def _largest(self, noises: Sequence[Mapping[str, float]]) -> float:
        """Return the sum of noises relative to what is allowed, of the output where it is most."""
        return max((sum(noise.get(output, 0.0) for noise in noises) / limit for output, limit in
                    allowance(self.found.expected, self.max_error).items()), default=0.0)

    def reason(self, op: Op, dtype: str) -> str:
        if op in self.fixed:
            return "override"
        if self.problem.group[op] is not op:
            return "moves what it reads"
        smaller = [d for d in self.problem.allowed[op] if DTYPES.index(d) > DTYPES.index(dtype)]
        if not smaller:
            return "smallest type it has"
        worst = self.share(op, smaller[-1])
        if math.isinf(worst):
            return f"{smaller[-1]} overflows"
        read = self.share_of_inputs(op, smaller[-1])
        if read > worst:
            return f"reading {smaller[-1]} would take {read:.1%} of the noise"
        return f"{smaller[-1]} would take {worst:.1%} of the noise"
