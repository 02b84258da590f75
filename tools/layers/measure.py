"""Run a model file and its reference op by op on the same inputs, and compare."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgerun.dtypes import FLOAT, name_of
from edgerun.model import Op, Tensor
from edgerun.quantization import dequantize, limits
from edgerun.regions import Contents, region_of
from edgerun.session import Session
from edgerun.stepper import Stepper
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.layers.reference import Match, Reference
from edgerun.tools.layers.source import Inside
from edgerun.tools.quantize.strip import ends
from edgerun.trace import trace

MOST = 0.5  # of the error power: the ops that add so much together are marked


@dataclass
class Layer:
    """One op of a file (or an input) against the same in fp32, over all samples.

    Power ratios are in decibels, infinite where there is no error; None where there is nothing to
    compare with.

    Attributes:
        index: of the op in the file, -1 for an input.
        code, name: of the op; "input" and its name.
        reads, writes: dtypes of its first input and of its output on the device.
        weight_bytes: of its constants.
        output_bytes: of its output.
        snr_db: power of the output in fp32 over that of its error.
        change_db: what that has more than the worst of the op's inputs.
        own_db: power of the output in fp32 over that of the error that the op itself adds: how far
            it is from what the op in fp32 makes of the same inexact inputs.
        share: of the own relative error powers of all ops.
        marked: among the ops that add most, and together at least MOST.
        elements: that were compared.
        saturated: of them, those at an end of the integers whose value in fp32 lies beyond it.
        max_steps: largest error in steps of the output's integers.
        rounding: how the op rounds them, see Rounding in the schema.
        source_equal: share of the integers that are those of the source's runtime.
        source_steps: largest difference from them.
        tie_steps: where the inputs are the runtime's and the output is not: how far the exact
            result is from the middle between two integers, at most, in steps.
    """
    index: int
    code: str
    name: str
    reads: str
    writes: str
    weight_bytes: int
    output_bytes: int
    snr_db: float | None = None
    change_db: float | None = None
    own_db: float | None = None
    share: float | None = None
    marked: bool = False
    elements: int = 0
    saturated: int | None = None
    max_steps: float | None = None
    rounding: str | None = None
    source_equal: float | None = None
    source_steps: int | None = None
    tie_steps: float | None = None


@dataclass
class Layers:
    """What layers() found.

    Attributes:
        rows: inputs, then the ops of the file in order.
        samples: how many.
        unmatched: ops that write real numbers which the reference does not compute.
        source: name of the source's runtime, "" if its integers were not looked at.
    """
    rows: list[Layer] = field(default_factory=list)
    samples: int = 0
    unmatched: int = 0
    source: str = ""

    @property
    def marked(self) -> list[Layer]:
        """The ops that add most of the error, the worst first."""
        return sorted((row for row in self.rows if row.marked), key=lambda row: -row.share)

    @property
    def first_difference(self) -> Layer | None:
        """The first op whose integers differ from those of the source's runtime."""
        return next((row for row in self.rows if row.source_steps), None)


def layers(session: Session, reference: Reference, samples: Sequence[Mapping[str, np.ndarray]],
           source: Inside | None = None,
           progress: Callable[[int, int], None] = lambda done, total: None) -> Layers:
    """Measure every op of a file.

    Args:
        session: the file, open.
        reference: of the same source model, from reference_of().
        samples: inputs, as for Session.run().
        source: the runtime of a quantized source model, to compare integers too.
        progress: called after each sample.

    Raises:
        InputError: the samples do not fit the model.
        DeviceError: the device cannot run the reference.
    """
    with session_of(reference.graph, session.device) as (exact, _):
        run = _Run(session, reference, Stepper(exact), source)
        for number, sample in enumerate(samples, 1):
            run.sample(sample)
            progress(number, len(samples))
    return run.result(len(samples))


class _Exact:
    """The reference, open: its values for one sample, and single ops of it on other inputs."""

    def __init__(self, stepper: Stepper):
        self.stepper, self.model = stepper, stepper.session.model
        self.tensors = {t.name: t for t in self.model.tensors if not t.constant}
        self.writers = {y.index: op for op in self.model.ops for y in op.outputs}
        self.values: dict[int, np.ndarray] = {}

    def root(self, name: str) -> int | None:
        """Return the index of the tensor whose bytes a tensor has, None if it was lowered away."""
        return self.model.root_of(self.tensors[name]).index if name in self.tensors else None

    def run(self, inputs: Mapping[str, np.ndarray], wanted: set[int]) -> None:
        """Run once and keep what is wanted, by root."""
        self.values = {tensor.index: np.array(array)
                       for tensor, array in trace(self.stepper.session, inputs)
                       if tensor.index in wanted}

    def of(self, y: int, given: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """Return what a tensor is if others have given values, None if it needs more than them.

        Args:
            y: index of a root.
            given: index of a root -> values.
        """
        if y in given:
            return given[y]
        ops = self._between(y, given)
        if ops is None:
            return None
        for op in ops:
            # what an op reads is live together at that op, and only then
            for index in {self.model.root_of(x).index for x in op.inputs
                          if x is not None and not x.constant} & given.keys():
                tensor = self.model.tensors[index]
                self.stepper.put(tensor, given[index].reshape(tensor.shape))
            self.stepper.run(op.index, op.index + 1)
        return self.stepper.get(self.model.tensors[y])

    def _between(self, y: int, given: Mapping[int, np.ndarray]) -> list[Op] | None:
        found: dict[int, Op] = {}
        pending = [y]
        while pending:
            op = self.writers.get(pending.pop())
            if op is None:
                return None  # it depends on an input that is not given
            if op.index in found:
                continue
            found[op.index] = op
            pending += {self.model.root_of(x).index for x in op.inputs
                        if x is not None and not x.constant} - given.keys()
        return [found[index] for index in sorted(found)]


@dataclass
class _Sums:
    """What is added up for one row."""
    row: Layer
    tensor: Tensor
    match: Match | None
    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0
    has_own: bool = True
    compared: int = 0
    equal: int = 0


class _Run:
    def __init__(self, session: Session, reference: Reference, stepper: Stepper,
                 source: Inside | None):
        self.session, self.model = session, session.model
        self.reference, self.exact, self.source = reference, _Exact(stepper), source
        self.sums: dict[int, _Sums] = {}  # tensor that is written -> of the op that does
        self.reads: list[list[tuple[int, ...]]] = []  # per input of every op: the tensors in it
        contents, arriving = Contents(), self.model.arriving()
        for info in self.model.inputs:
            if not info.pieces:
                tensor = self.model.root_of(self.model.tensors[info.tensor])
                contents.write(tensor, tensor.index, info.name)
                self._add(tensor, None, Layer(-1, "input", info.name, name_of(info.dtype),
                                              tensor.dtype, 0, tensor.bytes))
        for op in self.model.ops:
            self._follow(contents, op, arriving.get(op.index, ()))
            constants = {(t.segment, t.offset): t.bytes for t in op.inputs
                         if t is not None and t.constant}
            y = op.outputs[0]
            reads = next((t.dtype for t in op.inputs if t is not None), y.dtype)
            self._add(y, op, Layer(op.index, op.code, op.name, reads, y.dtype,
                                   sum(constants.values()), y.bytes))
        self.wanted = {index for sums in self.sums.values() if sums.match is not None
                       for index in map(self.exact.root, (sums.match.exact, sums.match.real))}
        self.last: dict[int, int] = {}
        for op in self.model.ops:
            for x in self._read(op):
                self.last[x] = op.index

    def _add(self, tensor: Tensor, op: Op | None, row: Layer) -> None:
        match = self.reference.find(tensor, op)
        if match is not None and None in map(self.exact.root, (match.exact, match.real)):
            match = None
        if tensor.quantization is not None:
            row.rounding = tensor.quantization.rounding
        self.sums[tensor.index] = _Sums(row, tensor, match)

    def _follow(self, contents: Contents, op: Op, arriving: Sequence[tuple]) -> None:
        """Note what the inputs of the next op hold, and what it writes."""
        for _, piece in arriving:
            tensor = self.model.tensors[piece.tensor]
            contents.write(tensor, self.model.root_of(tensor).index, tensor.name)
        self.reads.append([
            () if x is None or x.constant else
            contents.read(x, self.model.root_of(x).index, op.name) for x in op.inputs])
        for y in op.outputs:
            contents.write(y, self.model.root_of(y).index, op.name)

    def _read(self, op: Op) -> list[int]:
        """Return the tensors that were written and that an op reads."""
        return [index for indices in self.reads[op.index] for index in indices]

    def sample(self, sample: Mapping[str, np.ndarray]) -> None:
        """Take in one sample."""
        self.exact.run(self.reference.sample(sample), self.wanted)
        theirs = self.source.tensors(sample) if self.source is not None else {}
        values: dict[int, np.ndarray] = {}  # of the file, as real numbers, while they are read
        same: set[int] = set()  # roots whose integers are those of the source's runtime
        for tensor, array in trace(self.session, sample):
            sums = self.sums.get(tensor.index)
            if sums is None:
                continue
            real = array
            if tensor.quantization is not None:
                real = dequantize(array, tensor.quantization)
            elif tensor.dtype in FLOAT:
                real = np.array(array, np.float32)
            op = self.model.ops[sums.row.index] if sums.row.index >= 0 else None
            own = self._own(sums, op, values) if sums.match is not None else None
            if sums.match is not None:
                self._compare(sums, array, real, own)
            if tensor.quantization is not None and tensor.name in theirs:
                trusted = op is not None and all(x in same for x in self._read(op))
                if self._equal(sums, array, theirs[tensor.name], own if trusted else None):
                    same.add(tensor.index)
            elif op is not None and all(x in same for x in self._read(op)):
                same.add(tensor.index)  # made of equal integers
            if op is not None:
                for x in self._read(op):
                    if self.last[x] <= op.index:
                        values.pop(x, None)
            values[tensor.index] = np.array(real)

    def _own(self, sums: _Sums, op: Op | None, values: Mapping[int, np.ndarray]
             ) -> np.ndarray | None:
        """Return what the reference makes of the file's own inputs of an op."""
        target = self.exact.root(sums.match.real)
        if op is None:
            return self.exact.values[target]
        given = {}
        for x, written in zip(op.inputs, self.reads[op.index]):
            whole = (self.reference.find(x, self._writer(x))
                     if len(written) == 1 and self._covers(written[0], x) else None)
            for index in written:
                match = whole or (self.sums[index].match if index in self.sums else None)
                exact = self.exact.root(match.real) if match is not None else None
                if exact is None and index in self.sums and self.sums[index].match is not None:
                    exact = self.exact.root(self.sums[index].match.real)
                if exact is not None and index in values:
                    given[exact] = values[index]
        return self.exact.of(target, given)

    def _covers(self, index: int, x: Tensor) -> bool:
        """Whether a tensor has all the bytes of another one, and no more."""
        return region_of(self.model.tensors[index]) == region_of(x)

    def _writer(self, x: Tensor) -> Op | None:
        sums = self.sums.get(x.index)
        return self.model.ops[sums.row.index] if sums is not None and sums.row.index >= 0 else None

    def _compare(self, sums: _Sums, array: np.ndarray, real: np.ndarray,
                 own: np.ndarray | None) -> None:
        row, tensor = sums.row, sums.tensor
        want = self.exact.values[self.exact.root(sums.match.real)].reshape(real.shape)
        signal, noise = _powers(real, want)
        sums.signal += signal
        sums.noise += noise
        row.elements += real.size
        if own is None:
            sums.has_own = False
        else:
            sums.own += _powers(real, own.reshape(real.shape))[1]
        q = tensor.quantization
        if q is None:
            return
        with np.errstate(all="ignore"):
            error = np.abs(real.astype(np.float64) - want) / q.step
        row.max_steps = max(row.max_steps or 0.0, float(error.max(initial=0.0)))
        exact = self.exact.values[self.exact.root(sums.match.exact)].reshape(real.shape)
        low, high = ends(tensor.dtype, q)
        first, last = limits(tensor.dtype)
        beyond = (array == last) & (exact > high + q.step / 2)
        # where 0 is the least number of a quantized source, the clamp is a relu
        if low != 0 or sums.match.exact == sums.match.real:
            beyond |= (array == first) & (exact < low - q.step / 2)
        row.saturated = (row.saturated or 0) + int(np.count_nonzero(beyond))

    def _equal(self, sums: _Sums, array: np.ndarray, theirs: np.ndarray,
               own: np.ndarray | None) -> bool:
        """Compare with the integers of the source's runtime; returns whether all are equal."""
        row, q = sums.row, sums.tensor.quantization
        apart = np.abs(array.astype(np.int64) - theirs)
        row.source_steps = max(row.source_steps or 0, int(apart.max(initial=0)))
        sums.compared += apart.size
        sums.equal += int(np.count_nonzero(apart == 0))
        if own is not None and apart.any():
            steps = own.reshape(array.shape)[apart > 0].astype(np.float64) / q.step
            away = float(np.abs(np.abs(steps - np.rint(steps)) - 0.5).max())
            row.tie_steps = max(row.tie_steps or 0.0, away)
        return not apart.any()

    def result(self, samples: int) -> Layers:
        """Return what came out."""
        found = Layers([sums.row for sums in self.sums.values()], samples,
                       source=self.source.name if self.source is not None else "")
        ratios: dict[int, float] = {}
        for sums in self.sums.values():
            row = sums.row
            if sums.compared:
                row.source_equal = sums.equal / sums.compared
            if sums.match is None:
                found.unmatched += sums.tensor.quantization is not None or (
                    sums.tensor.dtype in FLOAT)
                continue
            row.snr_db = _db(sums.signal, sums.noise)
            if sums.has_own:
                row.own_db = _db(sums.signal, sums.own)
                ratios[sums.tensor.index] = (sums.own / sums.signal if sums.signal
                                             else math.inf if sums.own else 0.0)
            if row.index >= 0:
                before = [self.sums[x].row.snr_db for x in self._read(self.model.ops[row.index])
                          if x in self.sums and self.sums[x].row.snr_db is not None]
                if before and math.isfinite(row.snr_db) and math.isfinite(min(before)):
                    row.change_db = row.snr_db - min(before)
        total, marked = sum(ratios.values()), 0.0
        if math.isinf(total):  # nothing else counts beside ops that write infinities or NaN
            ratios = {index: float(math.isinf(ratio)) for index, ratio in ratios.items()}
            total = sum(ratios.values())
        for index in sorted(ratios, key=lambda index: -ratios[index]):
            row = self.sums[index].row
            row.share = ratios[index] / total if total else 0.0
            row.marked = row.share > 0 and marked < MOST
            marked += row.share
        return found


def _powers(found: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Return the power of what is wanted and of the difference; infinite ones if only one of them
    is finite."""
    finite = np.isfinite(want)
    if not np.array_equal(found[~finite], want[~finite], equal_nan=True) or (
            not np.isfinite(found[finite]).all()):
        return 0.0, math.inf
    want, found = want[finite].astype(np.float64), found[finite].astype(np.float64)
    return float(np.square(want).sum()), float(np.square(found - want).sum())


def _db(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


__all__ = ["Layer", "Layers", "layers"]
