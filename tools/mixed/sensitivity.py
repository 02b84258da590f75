"""How much each tensor and each layer disturbs the outputs when it is stored in a smaller type.

Measured, not modelled: a run in fp32 is interrupted behind an op, what the op wrote is rounded as
the smaller type would (or computed again with rounded weights), and the rest runs from there. The
noise of many such roundings is taken to add up, as that of independent sources does; the search
measures the sum in the end.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgerun.device import Device
from edgerun.quantization import Quantization, dequantize, limits, quantize
from edgerun.stepper import Stepper
from edgerun.tools.calibrate.ranges import Calibration
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.graph import Graph, Op, Tensor, copy_of
from edgerun.tools.mixed.error import SMALLEST, powers
from edgerun.tools.precision import FP32_INPUTS, halves
from edgerun.tools.quantize.assign import WEIGHTED
from edgerun.tools.quantize.grids import activation_quantization

SMALLER = ("fp16", "int16", "int8")
BITS = {"int16": 16, "int8": 8}
INTEGER_OPERANDS = ("binary", "matmul", "concat")  # ops whose constants become integers too

Noise = dict[str, float]  # output name -> noise power relative to the output's power
WeightsOf = Callable[[Op, str], Quantization]


@dataclass
class Sensitivity:
    """Noise at the outputs.

    Attributes:
        stored: (tensor name, dtype) -> Noise of storing the tensor in the dtype; absent if none.
        weights: (name of an op's output, dtype) -> Noise of storing the op's constants so.
        expected: outputs of the first sample in fp32, by name.
    """
    stored: dict[tuple[str, str], Noise] = field(default_factory=dict)
    weights: dict[tuple[str, str], Noise] = field(default_factory=dict)
    expected: dict[str, np.ndarray] = field(default_factory=dict)


def rounded(x: np.ndarray, dtype: str, ends: Callable[[int], tuple[float, float]]) -> np.ndarray:
    """Return an activation as it is after being stored: fp32, the shape of x.

    Args:
        x: fp32.
        dtype: one of SMALLER.
        ends: bits -> the calibrated range.
    """
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    grid = activation_quantization(*ends(BITS[dtype]), dtype)
    low, high = limits("uint8" if dtype == "int8" else "int16")
    step, zero = np.float32(grid.step), np.float32(grid.zero)
    return (np.clip(np.rint(x / step), low - zero, high - zero) * step).astype(np.float32)


def with_rounded_constants(graph: Graph, dtype: str, weights_of: WeightsOf) -> Graph:
    """Return a copy of a graph whose constants have the values that they have in a smaller type."""
    copy = copy_of(graph)
    for op in copy.ops:
        for index, constant in enumerate(op.inputs):
            if constant is not None and constant.constant and constant.dtype == "fp32":
                values = _constant(op, index, dtype, weights_of)
                if values is not None:
                    op.inputs[index] = copy.constant(values, constant.name)
    return copy


def _constant(op: Op, index: int, dtype: str, weights_of: WeightsOf) -> np.ndarray | None:
    values = op.inputs[index].data
    if dtype == "fp16":
        return (None if index in FP32_INPUTS.get(op.code, ())
                else halves(values).astype(np.float32))
    if op.code in WEIGHTED:
        if index != 1:
            return None
        grid = weights_of(op, dtype)
        return dequantize(quantize(values, grid, dtype), grid)
    if op.code not in INTEGER_OPERANDS:
        return None
    ends = float(values.min(initial=0)), float(values.max(initial=0))
    return rounded(values, dtype, lambda bits: ends)


def measure(graph: Graph, ranges: Calibration, samples: Sequence[Mapping[str, np.ndarray]],
            weights_of: WeightsOf, device: Device,
            progress: Callable[[int, int], None] = lambda done, total: None) -> Sensitivity:
    """Measure the noise that each tensor and each op's constants bring to the outputs.

    The time is that of some runs per op and sample, however the types are combined later.

    Args:
        graph: optimized, in fp32; not changed.
        ranges: of its tensors.
        samples: a few; the noise of each is weighted with the power of its outputs.
        weights_of: (op, integer dtype) -> quantization of its weights.
        device: open.
        progress: called with the ops done, of all samples.

    Raises:
        InputError: the samples do not fit the graph.
        DeviceError: the device cannot run the graph.
    """
    done = 0
    with contextlib.ExitStack() as stack:
        def open_stepper(of: Graph) -> Stepper:
            return Stepper(stack.enter_context(session_of(of, device))[0])

        probe = _Probe(graph, ranges, open_stepper(graph), open_stepper(graph), {
            dtype: open_stepper(with_rounded_constants(graph, dtype, weights_of))
            for dtype in SMALLER})
        for sample in samples:
            for _ in probe.sample(sample):
                done += 1
                progress(done, len(samples) * probe.main.count)
    return probe.result()


class _Probe:
    """Sessions with the same plan: one runs ahead, one tries, one per type has its constants."""

    def __init__(self, graph: Graph, ranges: Calibration, main: Stepper, trial: Stepper,
                 others: dict[str, Stepper]):
        self.graph, self.ranges = graph, ranges
        self.main, self.trial, self.others = main, trial, others
        self.noise: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        self.signal: dict[str, float] = {}
        self.first: dict[str, np.ndarray] = {}
        self.expected: dict[str, np.ndarray] = {}
        self.tensors = {tensor.name: tensor for tensor in main.session.model.tensors}
        ops = {op.outputs[0].name: op for op in graph.ops}
        self.ops = [ops[op.outputs[0].name] for op in main.session.model.ops]

    def sample(self, sample: Mapping[str, np.ndarray]) -> Iterator[Op]:
        """Try every tensor and every op in every type on one sample; yields the ops done."""
        self.main.start(sample)
        self.main.run(0, self.main.count)
        self.expected = self.main.session.read()
        self.first = self.first or self.expected
        for name, array in self.expected.items():
            self.signal[name] = self.signal.get(name, 0.0) + powers(array, array)[1]
        self.main.start(sample)
        for boundary in self.graph.inputs:
            self.try_storage(boundary.tensor, 0)
        for number, op in enumerate(self.ops):
            self.main.run(number, number + 1)
            for y in op.outputs:
                self.try_storage(y, number + 1)
            self.try_weights(op, number)
            yield op

    def try_storage(self, x: Tensor, after: int) -> None:
        if x.dtype != "fp32" or x.constant:
            return
        values = self.main.get(self.tensors[x.name])
        for dtype in SMALLER:
            found = rounded(values, dtype, lambda bits: self.ranges.range(x.name, bits))
            if np.array_equal(found, values, equal_nan=True):
                continue
            self.trial.copy(self.main)
            self.trial.put(self.tensors[x.name], found)
            self.finish(("stored", x.name, dtype), after)

    def try_weights(self, op: Op, number: int) -> None:
        y = op.outputs[0]
        constant = any(t is not None and t.constant and t.dtype == "fp32" for t in op.inputs)
        if not constant or y.dtype != "fp32":
            return
        values = self.main.get(self.tensors[y.name])
        for dtype, other in self.others.items():
            other.copy(self.main)  # the inputs of the op are still there
            other.run(number, number + 1)
            if np.array_equal(other.get(self.tensors[y.name]), values, equal_nan=True):
                continue
            self.trial.copy(other)
            self.finish(("weights", y.name, dtype), number + 1)

    def finish(self, key: tuple[str, str, str], after: int) -> None:
        """Run the rest and note what became of the outputs."""
        self.trial.run(after, self.trial.count)
        found = self.trial.session.read()
        sums = self.noise.setdefault(key, {})
        for name, want in self.expected.items():
            sums[name] = sums.get(name, 0.0) + powers(found[name], want)[0]

    def result(self) -> Sensitivity:
        found = Sensitivity(expected=self.first)
        for (what, name, dtype), sums in self.noise.items():
            noise = {output: value / max(self.signal[output], SMALLEST)
                     if math.isfinite(value) else math.inf for output, value in sums.items()}
            (found.stored if what == "stored" else found.weights)[name, dtype] = noise
        return found
