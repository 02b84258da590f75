"""cl_khr_command_buffer by ctypes: launches recorded once, enqueued again as one command.

pyopencl does not wrap the extension. Its functions come from the driver, through the OpenCL loader
that pyopencl itself is linked to.
"""
from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p

from edgerun.errors import DeviceError

EXTENSION = "cl_khr_command_buffer"
# name -> type of the result, types of the arguments
_FUNCTIONS = {
    "clCreateCommandBufferKHR": (c_void_p, [c_uint, POINTER(c_void_p), c_void_p, POINTER(c_int)]),
    "clCommandNDRangeKernelKHR": (c_int, [
        c_void_p, c_void_p, c_void_p, c_void_p, c_uint, POINTER(c_size_t), POINTER(c_size_t),
        POINTER(c_size_t), c_uint, POINTER(c_uint), POINTER(c_uint), c_void_p]),
    "clFinalizeCommandBufferKHR": (c_int, [c_void_p]),
    "clEnqueueCommandBufferKHR": (c_int, [
        c_uint, POINTER(c_void_p), c_void_p, c_uint, c_void_p, c_void_p]),
    "clReleaseCommandBufferKHR": (c_int, [c_void_p]),
}


def has(device) -> bool:
    """Whether an opened Device offers the extension."""
    return EXTENSION in device.device.extensions.split()


def _functions(device) -> dict:
    loader = ctypes.CDLL(device.cl._cl.__file__)  # a handle also finds what it is linked to
    find = loader.clGetExtensionFunctionAddressForPlatform
    find.restype, find.argtypes = c_void_p, [c_void_p, c_char_p]
    found = {}
    for name, (result, arguments) in _FUNCTIONS.items():
        address = find(device.device.platform.int_ptr, name.encode())
        if not address:
            raise DeviceError(f"{device.info.name}: offers {EXTENSION} without {name}")
        found[name] = ctypes.CFUNCTYPE(result, *arguments)(address)
    return found


def _sizes(values: Sequence[int] | None):
    return None if values is None else (c_size_t * len(values))(*values)


class CommandBuffer:
    """Launches in order, ready to be enqueued as often as wanted, one run at a time."""

    def __init__(self, device, launches: Sequence[tuple]):
        """Record launches.

        Args:
            device: an opened Device that has() the extension; its own queue is used.
            launches: (kernel with its arguments set, global size, local size or None); the kernels
                must live as long as this.

        Raises:
            DeviceError: the driver refuses something.
        """
        self._device, self._handle = device, None
        self._call = _functions(device)
        self._queue = c_void_p(device.queue.int_ptr)
        status = c_int()
        self._handle = self._call["clCreateCommandBufferKHR"](
            1, byref(self._queue), None, byref(status))
        self._check(status.value, "make a command buffer")
        try:
            # Each waits for the one before, whatever the driver makes of an in-order queue.
            before, after = None, c_uint()
            for kernel, size, local in launches:
                self._check(self._call["clCommandNDRangeKernelKHR"](
                    self._handle, None, None, kernel.int_ptr, len(size), None, _sizes(size),
                    _sizes(local), 0 if before is None else 1,
                    None if before is None else byref(before), byref(after), None),
                    "record a launch")
                before, after = after, c_uint()
            self._check(self._call["clFinalizeCommandBufferKHR"](self._handle),
                        "finish a command buffer")
        except BaseException:
            self.release()
            raise
        device.created["command buffer"] = device.created.get("command buffer", 0) + 1
        self._enqueue = self._call["clEnqueueCommandBufferKHR"]

    def _check(self, status: int, what: str) -> None:
        if status:
            raise DeviceError(f"{self._device.info.name}: cannot {what}: OpenCL error {status}")

    def enqueue(self) -> None:
        """Enqueue all launches on the device's queue, without waiting.

        Raises:
            DeviceError: the driver refuses it.
        """
        self._check(self._enqueue(0, None, self._handle, 0, None, None),
                    "enqueue a command buffer")

    def release(self) -> None:
        """Give it back to the driver; it cannot be enqueued afterwards."""
        handle, self._handle = self._handle, None
        if handle:
            self._call["clReleaseCommandBufferKHR"](handle)
