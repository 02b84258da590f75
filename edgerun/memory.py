"""Every byte on the device: one function creates buffers and counts them by category.

Weights climb a ladder: the mapped file itself where the device works in place; a buffer the driver
allocates in shared memory, filled straight from the file; chunked writes to a separate memory.
"""
from __future__ import annotations

import numpy as np

from edgerun.device import Device
from edgerun.errors import DeviceError
from edgerun.model import Model, Segment

# Kernels load whole vectors of weights: behind the last block up to 15 elements may be read (never
# used). The packer pads every segment with these bytes.
SLACK = 64
CHUNK = 1 << 20  # bytes written at a time to a device with its own memory
IN_PLACE, SHARED, COPIED = ("in place (mapped file)", "shared memory, one copy",
                            "device memory, one copy")


class Buffers:
    """Creates the buffers of a session and keeps the account.

    Attributes:
        bytes_by_category: what the device was asked for, in bytes.
        rung: category -> how its bytes got there.
    """

    def __init__(self, device: Device):
        self.device = device
        self.bytes_by_category: dict[str, int] = {}
        self.rung: dict[str, str] = {}
        self.buffers: list = []

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
            raise DeviceError(f"{self.device.info.name}: no room for the {category}: {size} bytes "
                              f"asked, {self._total()} bytes already allocated ({error})") from None
        self.device.created["buffer"] += 1
        self.bytes_by_category[category] = self.bytes_by_category.get(category, 0) + size
        self.buffers.append(buffer)
        return buffer

    def _total(self) -> int:
        return sum(self.bytes_by_category.values())

    def arena(self, size: int):
        """Create the one buffer of activations and scratch.

        Args:
            size: bytes, from the plan of the model.
        """
        flags = self.device.cl.mem_flags.READ_WRITE
        if self.device.info.unified_memory:
            flags |= self.device.cl.mem_flags.ALLOC_HOST_PTR
        return self.create("arena", flags, max(size, 1))

    def weights(self, model: Model) -> list:
        """Bind every segment of the model; returns one buffer per segment."""
        return [self._segment(segment) for segment in model.segments]

    def _segment(self, segment: Segment):
        cl, info, category = self.device.cl, self.device.info, f"weights {segment.dtype}"
        flags, size = cl.mem_flags.READ_ONLY, len(segment.data)
        if info.kind == "cpu" or (info.unified_memory and "intel" in info.platform.lower()):
            self.rung[category] = IN_PLACE
            return self.create(category, flags | cl.mem_flags.USE_HOST_PTR, size, segment.data)
        self.rung[category] = SHARED if info.unified_memory else COPIED
        if info.unified_memory:
            flags |= cl.mem_flags.ALLOC_HOST_PTR
        buffer = self.create(category, flags, size)
        try:
            self._fill(buffer, segment.data)
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
