"""Every byte on the device: one function creates buffers and counts them by category.

Weights climb a ladder: the mapped file itself where the device works in place; a buffer the driver
allocates in shared memory, filled straight from the file; chunked writes to a separate memory. A
segment that is larger than what the device allocates at once is bound in pieces.
"""
from __future__ import annotations

import bisect
import ctypes
import functools
from dataclasses import dataclass

import numpy as np

from edgerun import text
from edgerun.device import Device
from edgerun.errors import DeviceError
from edgerun.model import PAGE, Model, Tensor

# Kernels load whole vectors of weights: behind the last block up to 15 elements may be read (never
# used). The packer pads every segment with these bytes.
SLACK = 64
ALIGNMENT = 128  # of shared memory: the most the standard promises, and any plan asks for
CHUNK = 1 << 20  # bytes written at a time to a device with its own memory
IN_PLACE, SHARED, COPIED = ("in place (mapped file)", "shared memory, one copy",
                            "device memory, one copy")


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library would keep it.

    Building programs, also from their binaries, and finding out which ones are needed frees
    megabytes, which glibc keeps for later.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def _c_library():
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # there is none to find, as on Windows
        return None


@dataclass(frozen=True)
class Weights:
    """The constants of a model on a device.

    Attributes:
        buffers: in the order of the segments; a segment is one of them, or several.
        starts: per segment, the bytes at which its buffers begin.
        first: per segment, the number of its first buffer.
    """
    buffers: list
    starts: list[list[int]]
    first: list[int]

    def place(self, tensor: Tensor) -> tuple[int, int]:
        """Return where a constant lies: number of its buffer, byte offset."""
        starts = self.starts[tensor.segment]
        piece = bisect.bisect_right(starts, tensor.offset) - 1
        return self.first[tensor.segment] + piece, tensor.offset - starts[piece]


class Buffers:
    """Creates the buffers of a session and keeps the account.

    Attributes:
        bytes_by_category: what the device was asked for, in bytes.
        rung: category -> how its bytes got there.
        arena_bytes: the arena, uint8, where the host may read and write it while no launch runs;
            None where it must be mapped for that.
    """

    def __init__(self, device: Device):
        self.device = device
        self.bytes_by_category: dict[str, int] = {}
        self.rung: dict[str, str] = {}
        self.buffers: list = []
        self.arena_bytes: np.ndarray | None = None
        self._shared: list = []

    @property
    def in_place(self) -> bool:
        """Whether the device works on weights where the file is mapped."""
        return all(rung == IN_PLACE for rung in self.rung.values())

    def create(self, category: str, flags: int, size: int, hostbuf: np.ndarray | None = None):
        """Create a buffer and count it. The only place where a buffer is made.

        Args:
            category: what it is for, as the memory report names it.
            flags: cl.mem_flags.
            size: bytes.
            hostbuf: memory to use in place (uint8), with USE_HOST_PTR only.

        Raises:
            DeviceError: the device has no room; the message says for what and how much.
        """
        cl = self.device.cl
        try:
            if hostbuf is not None:
                buffer = cl.Buffer(self.device.context, flags, hostbuf=hostbuf)
            else:
                buffer = cl.Buffer(self.device.context, flags, size)
        except (cl.Error, MemoryError) as error:
            raise self._no_room(category, size, error) from None
        self.device.created["buffer"] += 1
        self.bytes_by_category[category] = self.bytes_by_category.get(category, 0) + size
        self.buffers.append(buffer)
        return buffer

    def _total(self) -> int:
        return sum(self.bytes_by_category.values())

    def arena(self, size: int):
        """Create the one buffer of activations and scratch.

        Where a CPU offers fine-grained shared virtual memory, the arena lies in that: a host needs
        no commands then to reach it, which cost more than a small model computes.

        Args:
            size: bytes, from the plan of the model.

        Raises:
            DeviceError: the device has no room, or none for so many bytes at once.
        """
        cl, size, most = self.device.cl, max(size, 1), self.device.info.allocation_bytes
        if size > most:
            raise DeviceError(f"{self.device.info.name}: the arena is {size} bytes, and the device "
                              f"allocates at most {most} at once: pack the model for a smaller one")
        flags = cl.mem_flags.READ_WRITE
        if self._coherent():
            self.arena_bytes = self._share("arena", size)
            return self.create("arena", flags | cl.mem_flags.USE_HOST_PTR, size, self.arena_bytes)
        if self.device.info.unified_memory:
            flags |= cl.mem_flags.ALLOC_HOST_PTR
        return self.create("arena", flags, size)

    def _coherent(self) -> bool:
        cl = self.device.cl
        if self.device.info.kind != "cpu":
            return False
        try:
            offered = self.device.device.svm_capabilities
        except (cl.Error, AttributeError):  # OpenCL 1.2 knows no such memory
            return False
        return bool(offered & cl.device_svm_capabilities.FINE_GRAIN_BUFFER)

    def _share(self, category: str, size: int) -> np.ndarray:
        """Allocate memory that host and device address alike; a buffer in it counts its bytes."""
        cl = self.device.cl
        flags = cl.svm_mem_flags.READ_WRITE | cl.svm_mem_flags.SVM_FINE_GRAIN_BUFFER
        try:
            memory = cl.SVMAllocation(self.device.context, size, ALIGNMENT, flags)
        except (cl.Error, MemoryError) as error:
            raise self._no_room(category, size, error) from None
        self._shared.append(memory)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(memory.svm_ptr), np.uint8)

    def _no_room(self, category: str, size: int, error: Exception) -> DeviceError:
        return DeviceError(f"{self.device.info.name}: no room for the {category}: {size} bytes "
                           f"asked, {self._total()} bytes already allocated ({error})")

    def numbers(self, category: str, values: np.ndarray):
        """Create a buffer of numbers that launches read and count in (one dimension).

        Returns:
            The buffer; the same where the host may use it while no launch runs, else None.
        """
        cl, flags = self.device.cl, self.device.cl.mem_flags.READ_WRITE
        if self._coherent():
            memory = self._share(category, values.nbytes).view(values.dtype)
            memory[:] = values
            return self.create(category, flags | cl.mem_flags.USE_HOST_PTR, values.nbytes,
                               memory), memory
        buffer = self.create(category, flags, values.nbytes)
        try:
            cl.enqueue_copy(self.device.queue, buffer, values, is_blocking=True)
        except (cl.Error, MemoryError) as error:
            raise self._no_room(category, values.nbytes, error) from None
        return buffer, None

    def weights(self, model: Model) -> Weights:
        """Bind every segment of the model.

        Raises:
            DeviceError: the device has no room, or none for a constant.
        """
        found = Weights([], [], [])
        for index, segment in enumerate(model.segments):
            found.first.append(len(found.buffers))
            cuts = self._cuts(model, index)
            found.starts.append([start for start, _ in cuts])
            for start, end in cuts:
                found.buffers.append(
                    self._bind(f"weights {segment.dtype}", segment.data[start:end]))
        return found

    def _cuts(self, model: Model, index: int) -> list[tuple[int, int]]:
        """Divide a segment into parts that the device can allocate, each of whole constants."""
        most, size = self.device.info.allocation_bytes, len(model.segments[index].data)
        if size <= most:
            return [(0, size)]
        cuts: list[tuple[int, int]] = []
        inside = [t for t in model.tensors if t.constant and t.segment == index]
        for tensor in sorted(inside, key=lambda t: t.offset):
            end = min(tensor.offset + tensor.bytes + SLACK, size)
            if cuts and end - cuts[-1][0] <= most:
                cuts[-1] = cuts[-1][0], max(end, cuts[-1][1])
                continue
            cuts.append((tensor.offset // PAGE * PAGE, end))
            if end - cuts[-1][0] > most:
                raise DeviceError(
                    f"{self.device.info.name}: no room for the constant "
                    f"{text.clean(tensor.name, text.CUT)!r} of {tensor.bytes} bytes: the device "
                    f"allocates at most {most} at once")
        return cuts or [(0, min(size, most))]

    def _bind(self, category: str, data: np.ndarray):
        cl, info = self.device.cl, self.device.info
        flags, size = cl.mem_flags.READ_ONLY, len(data)
        if info.kind == "cpu" or (info.unified_memory and "intel" in info.platform.lower()):
            self.rung[category] = IN_PLACE
            return self.create(category, flags | cl.mem_flags.USE_HOST_PTR, size, data)
        self.rung[category] = SHARED if info.unified_memory else COPIED
        if info.unified_memory:
            flags |= cl.mem_flags.ALLOC_HOST_PTR
        buffer = self.create(category, flags, size)
        try:
            self._fill(buffer, data)
        except (cl.Error, MemoryError) as error:
            raise DeviceError(f"{info.name}: cannot take the {category} ({size} bytes): "
                              f"{error}") from None
        return buffer

    def _fill(self, buffer, data: np.ndarray) -> None:
        cl, queue, size = self.device.cl, self.device.queue, len(data)
        if self.device.info.unified_memory:
            mapped, _ = cl.enqueue_map_buffer(
                queue, buffer, cl.map_flags.WRITE_INVALIDATE_REGION, 0, (size,), np.uint8)
            np.copyto(mapped, data)
            mapped.base.release(queue)
        else:
            for at in range(0, size, CHUNK):
                cl.enqueue_copy(queue, buffer, data[at:at + CHUNK], dst_offset=at, is_blocking=True)
        queue.finish()

    def release(self) -> None:
        """Give every buffer back to the driver now, not when Python collects it."""
        for buffer in self.buffers:
            buffer.release()
        self.buffers.clear()
        self.arena_bytes = None
        for memory in self._shared:
            memory.release()
        self._shared.clear()
