"""Run the launches of one op with other variants than the default: are they right, how fast?

The op gets buffers of its own, with guard bytes around every tensor that it could overwrite and
between the rows of one whose rows lie apart, and random inputs. An output that takes the place of
an input does so here too. A variant counts only if it gives what the default gives: the same
integers, or real numbers that differ by rounding.
"""
from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from edgerun import dtypes
from edgerun.device import Device
from edgerun.errors import DeviceError, EdgerunError
from edgerun.memory import Buffers, Weights
from edgerun.model import Op, Tensor
from edgerun.ops import OPS, Launch, Scratch
from edgerun.ops._base import Variant
from edgerun.quantization import Quantization
from edgerun.regions import Region, region_of

GUARD, CANARY = 256, 0xA5  # bytes around a tensor, and their value
BATCH_NS = 2_000_000  # least time of one measurement
MOST_LAUNCHES = 2000  # of one measurement
# Allowed difference relative to the largest element: sums are added up in another order.
TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3}


class WrongVariant(EdgerunError):
    """A variant does not build, writes where it must not, or computes something else."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The launches of an op with their arguments set."""
    launches: tuple[Launch, ...]
    kernels: tuple[object, ...]


class Bench:
    """One op on a device, for as long as it is tuned.

    Attributes:
        op: with its tensors.
        device: an opened device.
    """

    def __init__(self, device: Device, op: Op, weights: Weights, rng: np.random.Generator):
        """Make guarded buffers and fill the inputs.

        Args:
            device: an opened device.
            op: of a model file.
            weights: the model's constants on the device.
            rng: for the inputs.

        Raises:
            DeviceError: the device has no room for the op's tensors.
        """
        self.device, self.op = device, op
        self._weights = weights
        self._buffers = Buffers(device)
        self._places: dict[Region | None, object] = {}
        self._images: dict[Region | None, np.ndarray] = {}
        self._repeat = 1
        try:
            # what ops need at once shares no byte, unless an output takes the place of an input
            for index, tensor in enumerate((*op.inputs, *op.outputs)):
                if tensor is None or tensor.constant or region_of(tensor) in self._places:
                    continue
                place = region_of(tensor)
                image = np.full(place.end - place.start + 2 * GUARD, CANARY, np.uint8)
                if all(tensor is not y for y in op.outputs):
                    values = (np.int32([len(OPS[op.code].planes(op))])  # all of them count
                              if index == OPS[op.code].used else _random(tensor, rng))
                    _rows(image, place)[...] = values.view(np.uint8).reshape(
                        place.rows, place.width)
                self._place(place, image)
            self._place(None, np.full(op.scratch_bytes + 2 * GUARD, CANARY, np.uint8))
            self.default = self.prepare({})
            self._expected = self._outputs(self.default)
        except BaseException:
            self.close()
            raise

    def _place(self, place: Region | None, image: np.ndarray) -> None:
        """Make a buffer for a region of the arena, None for scratch."""
        self._places[place] = self._buffers.create(
            "tuning", self.device.cl.mem_flags.READ_WRITE, len(image))
        self._images[place] = image
        self._upload(place)

    def _upload(self, place: Region | None) -> None:
        self.device.cl.enqueue_copy(self.device.queue, self._places[place], self._images[place])

    def close(self) -> None:
        """Give the buffers back."""
        self.device.queue.finish()
        self._buffers.release()

    def prepare(self, choices: Mapping[str, Variant]) -> Prepared:
        """Build the kernels of the op for some choices and set their arguments.

        Raises:
            WrongVariant: a kernel does not build or refuses its arguments.
        """
        facts = dataclasses.replace(self.device.facts_for(self.op), choices=choices)
        try:
            launches = tuple(OPS[self.op.code].prepare(self.op, facts))
            kernels = tuple(self.device.kernel(x.family, x.kernel, x.defines) for x in launches)
            for launch, kernel in zip(launches, kernels):
                kernel.set_args(*self._args(launch))
        except (DeviceError, self.device.cl.Error) as error:
            raise WrongVariant(f"{self.op}: {error}") from None
        return Prepared(launches, kernels)

    def _args(self, launch: Launch) -> list[object]:
        args: list[object] = []
        for arg in launch.args:
            if isinstance(arg, Tensor) and arg.constant:
                number, offset = self._weights.place(arg)
                args += [self._weights.buffers[number], np.uint32(offset)]
            elif isinstance(arg, Tensor):
                args += [self._places[region_of(arg)], np.uint32(GUARD)]
            elif isinstance(arg, Scratch):
                args += [self._places[None], np.uint32(GUARD + arg.at)]
            else:
                args.append(arg)
        return args

    def _enqueue(self, prepared: Prepared) -> None:
        enqueue, queue = self.device.cl.enqueue_nd_range_kernel, self.device.queue
        for launch, kernel in zip(prepared.launches, prepared.kernels):
            enqueue(queue, kernel, launch.global_size, launch.local_size)

    def _outputs(self, prepared: Prepared) -> list[np.ndarray]:
        """Run once and return the bytes of each output, after a look at everything around."""
        written = {region_of(y) for y in self.op.outputs}
        for place in (*written, None):
            self._upload(place)
        try:
            self._enqueue(prepared)
            self.device.queue.finish()
            found = {}
            for place, image in self._images.items():
                found[place] = np.empty_like(image)
                self.device.cl.enqueue_copy(self.device.queue, found[place], self._places[place])
        except self.device.cl.Error as error:
            raise WrongVariant(f"{self.op}: the device refuses it: {error}") from None
        for place, after in found.items():
            same = after == self._images[place]
            if place is None:
                same[GUARD:-GUARD] = True
            elif place in written:
                _rows(same, place)[...] = True
            if not same.all():
                for damaged in found:
                    self._upload(damaged)
                raise WrongVariant(f"{self.op}: writes outside its outputs")
        return [_rows(found[place], place).reshape(-1) for place in map(region_of, self.op.outputs)]

    def check(self, prepared: Prepared) -> None:
        """Compare the outputs with those of the default.

        Raises:
            WrongVariant: they differ, or something else was written.
        """
        for y, found, expected in zip(self.op.outputs, self._outputs(prepared), self._expected):
            if y.dtype not in TOLERANCE:
                right = np.array_equal(found, expected)
            else:
                kind = dtypes.numpy_dtype(y.dtype)
                a, b = (part.view(kind).astype(np.float64) for part in (found, expected))
                limit = TOLERANCE[y.dtype] * max(1.0, float(np.abs(b).max()))
                right = bool((np.abs(a - b) <= limit).all())
            if not right:
                raise WrongVariant(f"{self.op}: computes another {y.name} than the default")

    def time(self, prepared: Prepared) -> float:
        """Return nanoseconds of one run, the mean over a batch without waiting in between."""
        self.device.queue.finish()
        start = time.perf_counter_ns()
        for _ in range(self._repeat):
            self._enqueue(prepared)
        self.device.queue.finish()
        return (time.perf_counter_ns() - start) / self._repeat

    def warm_up(self) -> float:
        """Choose how many runs a measurement takes; returns nanoseconds of the default."""
        self._repeat = 1
        while (once := self.time(self.default)) * self._repeat < BATCH_NS:
            if self._repeat >= MOST_LAUNCHES:
                break
            self._repeat = min(MOST_LAUNCHES, max(2 * self._repeat, int(1.2 * BATCH_NS / once)))
        return once

    def ratios(self, others: Sequence[Prepared], rounds: int) -> list[list[float]]:
        """Measure by turns with the default; returns for each other its times relative to it."""
        found: list[list[float]] = [[] for _ in others]
        for number in range(rounds):
            base = self.time(self.default)
            order = list(enumerate(others))
            for index, prepared in (order if number % 2 else order[::-1]):
                found[index].append(self.time(prepared) / base)
        return found


def quick(bench: Bench, prepared: Prepared, rounds: int = 3, hopeless: float = 1.5) -> float:
    """Return the median time relative to the default, from few rounds; one if it is hopeless."""
    first = bench.ratios([prepared], 1)[0]
    if first[0] > hopeless:
        return first[0]
    return statistics.median(first + bench.ratios([prepared], rounds - 1)[0])


def _rows(image: np.ndarray, place: Region) -> np.ndarray:
    """Return the bytes of a region [rows, width] in the image of its buffer."""
    return np.lib.stride_tricks.as_strided(image[GUARD:-GUARD], (place.rows, place.width),
                                           (place.pitch, 1))


def _random(tensor: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return elements as an op may meet them: real numbers around 0, any integers."""
    kind = dtypes.numpy_dtype(tensor.dtype)
    if kind.kind == "f":
        return rng.standard_normal(tensor.elements, np.float32).astype(kind)
    if kind.kind == "b":
        return rng.random(tensor.elements) < 0.5
    q: Quantization | None = tensor.quantization
    ends = np.iinfo(kind) if q is not None or tensor.dtype == "bits" else None
    low, high = (ends.min, ends.max) if ends is not None else (0, 1)
    return rng.integers(low, high + 1, tensor.elements).astype(kind)
