"""What a device can do at most: peak arithmetic, bandwidth by size, the cost of a launch.

Measured once by the kernels of kernels/roofline.cl, and kept on disk beside the compiled programs.
No op is faster than its arithmetic at the peak or its bytes at the bandwidth (Williams, Waterman,
Patterson: Roofline, 2009).
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import text
from edgerun.device import Device
from edgerun.errors import DeviceError
from edgerun.ops._base import OpLike

FORMAT = 1  # of the file; and what it means
REPEATS = 15  # timed launches of each kernel, after one that is not
SPAN_NS = 4e6  # how long one of them should take, at least
INNER, MIDDLE = 128 << 10, (1 << 20, 4 << 20)  # bytes per compute unit: caches of their own, shared
OUTER = 256 << 20  # bytes beyond all caches
LAUNCHES = 100
PAIRS = ("vnni", "avxvnni", "madd")  # ways to sum with an instruction for two 16-bit products
DOTTED = ("conv2d", "conv_transpose2d", "dense", "matmul")  # ops that sum over input channels
SPARSE = ("gather", "resize", "slice")  # may read only a part of their operand
LAUNCH_BOUND = 3  # an op shorter than so many launches is limited by them


@dataclass(frozen=True)
class Roofline:
    """Peaks of a device.

    Attributes:
        device, platform: which one.
        dot: how it sums products of integers, see edgerun.ops.Facts.
        fma_ops, dot4_ops, dot2_ops: operations per nanosecond (10^9/s), two per
            multiply-accumulate: fp32; 8-bit and 16-bit integers, by whatever way is fastest.
        sizes: bytes of the data that the bandwidths belong to, ascending.
        read, copy: bytes per nanosecond (GB/s) of data of each size; copy counts both directions.
        launch_ns: host and device time of a launch among many.
        wait_ns: a launch and waiting for it.
    """
    device: str
    platform: str
    dot: str
    fma_ops: float
    dot4_ops: float
    dot2_ops: float
    sizes: tuple[int, ...]
    read: tuple[float, ...]
    copy: tuple[float, ...]
    launch_ns: float
    wait_ns: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)

    def bandwidths(self, size: int) -> tuple[float, float]:
        """Return read and copy for data of `size` bytes: those of the next larger one measured."""
        at = next((i for i, s in enumerate(self.sizes) if size <= s), len(self.sizes) - 1)
        return self.read[at], self.copy[at]

    def text(self) -> str:
        """Return the peaks for a terminal."""
        spans = ", ".join(f"{read:.0f}/{copy:.0f} ({text.size(size)})" for size, read, copy
                          in zip(self.sizes, self.read, self.copy))
        return "\n".join(text.pairs([
            ("peak fp32", f"{self.fma_ops:.0f} GFLOP/s"),
            ("peak int8", f"{self.dot4_ops:.0f} GOP/s ({self.dot})"),
            ("peak int16", f"{self.dot2_ops:.0f} GOP/s"), ("read/copy GB/s", spans),
            ("launch", f"{text.duration(self.launch_ns)} among many, "
                       f"{text.duration(self.wait_ns)} with waiting")]))


@dataclass(frozen=True)
class Bound:
    """How fast an op can be on a device, in nanoseconds.

    Attributes:
        compute_ns: its multiply-accumulates at the peak; 0 for an op without any.
        memory_ns: its bytes at the bandwidth.
    """
    compute_ns: float
    memory_ns: float

    @property
    def possible_ns(self) -> float:
        """The longer of the two: arithmetic and memory can overlap."""
        return max(self.compute_ns, self.memory_ns)

    def limit(self, ns: float, launch_ns: float) -> str:
        """Return what limits an op that took `ns`: "launch", "compute" or "memory"."""
        if ns < LAUNCH_BOUND * launch_ns:
            return "launch"
        return "compute" if self.compute_ns > self.memory_ns else "memory"


def bound(op: OpLike, macs: int, peaks: Roofline, model_bytes: int) -> Bound:
    """Return how fast an op can be.

    Args:
        op: of a model file.
        macs: its multiply-accumulates.
        peaks: of the device.
        model_bytes: weights and arena. Weights are read once a run, so what a cache holds of them
            depends on everything that is read in between; activations were just written.
    """
    x = op.inputs[0].dtype if op.inputs and op.inputs[0] is not None else ""
    peak = peaks.fma_ops
    if op.code in DOTTED:
        peak = {"uint8": peaks.dot4_ops, "int16": peaks.dot2_ops}.get(x, peak)
    operands = {t.index: t for t in op.inputs if t is not None}.values()
    constants = sum(t.bytes for t in operands if t.constant)
    reads = sum(t.bytes for t in operands if not t.constant)
    writes = sum(t.bytes for t in op.outputs)
    if op.code in SPARSE:
        constants, reads = min(constants, writes), min(reads, writes)
    read, copy = peaks.bandwidths(reads + writes)
    both = min(reads, writes)
    memory_ns = (2 * both / copy + (reads - both) / read + (writes - both) / copy
                 + constants / peaks.bandwidths(model_bytes)[0])
    return Bound(2 * macs / peak, memory_ns)


def roofline(device: Device, again: bool = False) -> Roofline:
    """Return the peaks of a device: from disk if they were measured before.

    Args:
        device: an opened one.
        again: measure in any case.

    Raises:
        DeviceError: the device cannot run the kernels.
    """
    path = _path(device)
    found = None if again or path is None else _read(path)
    if found is None:
        found = _measure(device)
        if path is not None:
            _write(path, found)
    return found


def _path(device: Device) -> Path | None:
    """Return the file of a device's peaks, or None where nothing is kept."""
    from edgerun.programs import cache_folder, source  # imports pyopencl
    folder, on = cache_folder(), device.device
    if folder is None:
        return None
    parts = [str(FORMAT), on.name, on.version, on.driver_version, on.platform.name,
             on.platform.version, str(device.facts.compute_units), source("roofline", {})]
    return folder / f"roofline-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Roofline | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for key in ("sizes", "read", "copy"):
            data[key] = tuple(data[key])
        found = Roofline(**data)
        numbers = [found.fma_ops, found.dot4_ops, found.dot2_ops, found.launch_ns, found.wait_ns,
                   *found.sizes, *found.read, *found.copy]
        sane = all(math.isfinite(n) and n > 0 for n in numbers)
        whole = len(found.sizes) == len(found.read) == len(found.copy) > 0
        return found if sane and whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, found: Roofline) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found.as_dict(), file)
        os.replace(temporary, path)
    except OSError:
        return  # no room or no right to write: the next one measures again


class Bench:
    """Launches the kernels of kernels/roofline.cl."""

    def __init__(self, device: Device):
        self.device = device
        self.cl, self.queue = device.cl, device.queue
        facts = device.facts
        self.cpu, self.lanes, self.units = facts.kind == "cpu", facts.lanes, facts.compute_units
        self.items = self.units if self.cpu else self.units * min(256, facts.max_work_group) * 8
        self.local = (1,) if self.cpu else None
        memory = device.device.global_mem_size
        largest = min(OUTER, device.device.max_mem_alloc_size, memory // 16)
        self.largest = largest // (self.items * self.lanes * 4) * (self.items * self.lanes * 4)
        flags = self.cl.mem_flags.READ_WRITE
        self.x = self.cl.Buffer(device.context, flags, self.largest)
        self.y = self.cl.Buffer(device.context, flags, self.largest)
        for buffer in (self.x, self.y):  # pages exist only once they are written
            self.cl.enqueue_fill_buffer(self.queue, buffer, np.zeros(1, np.float32), 0,
                                        self.largest)
        self.queue.finish()

    def close(self) -> None:
        """Give the buffers back."""
        self.x.release()
        self.y.release()

    def time(self, launch: Callable[[], object]) -> float:
        """Return the shortest of REPEATS launches, in ns: what the device can do."""
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter_ns()
            launch()
            self.queue.finish()
            times.append(time.perf_counter_ns() - start)
        return float(min(times[1:]))

    def arithmetic(self, name: str, defines: dict[str, Any], ops: int, *operands) -> float:
        """Return operations per ns; `ops` of them per lane and chain."""
        kernel = self.device.kernel("roofline", name, {"VEC": self.lanes, **defines})
        rounds = 1000
        while True:
            kernel.set_args(self.y, np.uint32(0), np.int32(rounds), *operands)
            ns = self.time(lambda: self._launch(kernel))
            if ns > SPAN_NS or rounds > 1 << 28:
                return ops * 12 * self.lanes * self.items * rounds / ns
            rounds *= 4

    def stream(self, name: str, size: int, past_caches: bool = False
               ) -> tuple[int, Callable[..., None]]:
        """Prepare a kernel that streams over memory.

        Args:
            name: "read_peak", "copy_peak" or "sum_peak".
            size: bytes of each of its tensors; they are cut to what there is room for.
            past_caches: see kernels/stream.cl.

        Returns:
            The bytes of a tensor as they are, whole vectors, and a function that launches the
            kernel to move them as many times as its argument says.
        """
        size = min(size, self.largest // (2 if name == "sum_peak" else 1))
        count = max(1, size // (self.items * self.lanes * 4))
        used = count * self.items * self.lanes * 4
        first, step = (count, 1) if self.cpu else (1, self.items)
        kernel = self.device.kernel("roofline", name, {
            "VEC": self.lanes, **({"PAST_CACHES": 1} if past_caches else {})})
        second = (self.x, np.uint32(used)) if name == "sum_peak" else ()

        def launch(rounds: int = 1) -> None:
            kernel.set_args(self.x, np.uint32(0), *second, self.y, np.uint32(0),
                            *map(np.int32, (count, first, step, rounds)))
            self._launch(kernel)

        return used, launch

    def bandwidth(self, name: str, size: int, past_caches: bool = False) -> tuple[int, float]:
        """Return the bytes that are moved over and over, and bytes per ns; see stream()."""
        used, launch = self.stream(name, size, past_caches)
        rounds = 1
        while True:
            ns = self.time(lambda: launch(rounds))
            if ns > SPAN_NS or rounds > 1 << 24:
                return used, used * rounds / ns
            rounds *= 4

    def _launch(self, kernel, size: int | None = None) -> None:
        self.cl.enqueue_nd_range_kernel(self.queue, kernel, (size or self.items,), self.local)

    def launches(self) -> tuple[float, float]:
        """Return the time of a launch among many and of one that is waited for, in ns: medians."""
        kernel = self.device.kernel("roofline", "nothing", {"VEC": self.lanes})
        kernel.set_args(self.y, np.uint32(0))
        many, single = [], []
        for _ in range(REPEATS + 1):
            start = time.perf_counter_ns()
            for _ in range(LAUNCHES):
                self._launch(kernel, self.units)
            self.queue.finish()
            many.append((time.perf_counter_ns() - start) / LAUNCHES)
            for _ in range(10):
                start = time.perf_counter_ns()
                self._launch(kernel, self.units)
                self.queue.finish()
                single.append(time.perf_counter_ns() - start)
        return float(np.median(many[1:])), float(np.median(single[10:]))


def _measure(device: Device) -> Roofline:
    from edgerun import dots
    dot = dots.choose(device)
    macro = {f"DOT_{dot.upper()}": 1}
    try:
        bench = Bench(device)
        try:
            fma = bench.arithmetic("fma_peak", {}, 2, np.float32(0.999), np.float32(0.001))
            dot2 = bench.arithmetic("dot2_peak", macro if dot in PAIRS else {}, 4,
                                    np.int32(0x00010002))
            # without an instruction for four products, 8-bit integers go the way of wider ones
            dot4 = (bench.arithmetic("dot4_peak", macro, 8, np.int32(0x01020304))
                    if dot in dots.INSTRUCTIONS else dot2)
            sizes = [size * bench.units for size in (INNER, *MIDDLE)]
            sizes = [size for size in sizes if size < bench.largest // 2]
            # sizes count both buffers of a copy: it is what has to stay in a cache
            reads = [bench.bandwidth("read_peak", size) for size in (*sizes, bench.largest)]
            copies = [bench.bandwidth("copy_peak", size // 2) for size in (*sizes, bench.largest)]
            copies[-1] = max(copies[-1], bench.bandwidth("copy_peak", bench.largest // 2, True))
            launch_ns, wait_ns = bench.launches()
        finally:
            bench.close()
    except device.cl.Error as error:
        raise DeviceError(f"{device.info.name}: cannot measure its peaks: {error}") from None
    return Roofline(device.info.name, device.info.platform, dot, fma, max(dot4, fma),
                    max(dot2, fma), tuple(size for size, _ in reads),
                    tuple(rate for _, rate in reads), tuple(2 * rate for _, rate in copies),
                    launch_ns, wait_ns)
