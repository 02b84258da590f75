"""Open an OpenCL device: context, queue, programs, buffers, and the facts kernels may know.

Driver quirks are here, those of kernels in kernels/common.cl, and nowhere else.
"""
from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass

from edgerun import dots, drivers
from edgerun.dtypes import QUANTIZED
from edgerun.errors import DeviceError
from edgerun.ops import Facts, Launch
from edgerun.ops._base import OpLike


@dataclass(frozen=True)
class DeviceInfo:
    """One OpenCL device as `edgerun devices` lists it.

    `allocation_bytes` is the largest buffer that it promises to make.
    """
    index: int
    name: str
    platform: str
    version: str
    kind: str
    compute_units: int
    memory_bytes: int
    unified_memory: bool
    fp16: bool
    allocation_bytes: int


def opencl(wanted: str | None = None):
    """Import pyopencl late: the choice of a driver comes first and its absence is a message.

    Args:
        wanted: as for select(); only drivers.choose() reads it.

    Raises:
        DeviceError: pyopencl is not installed, or broken.
    """
    drivers.choose(wanted)
    os.environ.setdefault("PYOPENCL_NO_CACHE", "1")
    try:
        import pyopencl
    except ImportError as error:
        raise DeviceError(f"pyopencl cannot be imported ({error}): reinstall edgerun with "
                          "pip") from None
    _generate_once(pyopencl)
    return pyopencl


def _generate_once(pyopencl) -> None:
    """Let pyopencl write the Python function that sets a kernel's arguments once, not per object.

    It generates and compiles that text for every kernel object: a third of the time to prepare a
    model whose programs are cached, and each stays in the line cache for tracebacks. The text
    depends on the kernel's name and on the number of arguments, not on the object.
    """
    from pyopencl import invoker
    generate = getattr(invoker, "generate_enqueue_and_set_args", None)
    if generate is None or hasattr(generate, "kept"):
        return
    kept: dict[tuple, tuple] = {}

    @functools.wraps(generate)
    def once(name, passed, arguments, types, *workarounds, **named):
        if types is not None:  # not ours: all that we make are without types
            return generate(name, passed, arguments, types, *workarounds, **named)
        if (name, passed, arguments) not in kept:
            kept[name, passed, arguments] = generate(name, passed, arguments, types, *workarounds,
                                                     **named)
        return kept[name, passed, arguments]
    once.kept = kept
    invoker.generate_enqueue_and_set_args = once


def _kind(cl, device) -> str:
    if device.type & cl.device_type.GPU:
        return "gpu"
    return "cpu" if device.type & cl.device_type.CPU else "accelerator"


def _enumerate(wanted: str | None):
    cl = opencl(wanted)
    before = drivers.threads()
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        platforms = []  # the loader reports "no platform" as an error
    listed = []
    for platform in platforms:
        try:
            listed += [(platform, device) for device in platform.get_devices()]
        except cl.Error:
            continue  # a platform without devices says so with an error
    if any(platform.name.strip() == drivers.POCL for platform in platforms):
        drivers.keep_apart(drivers.threads() - before)
    return cl, listed


def _describe(cl, index: int, platform, device) -> DeviceInfo:
    return DeviceInfo(
        index, device.name.strip(), platform.name.strip(), device.version.strip(),
        _kind(cl, device), device.max_compute_units, device.global_mem_size,
        bool(device.host_unified_memory), "cl_khr_fp16" in device.extensions.split(),
        device.max_mem_alloc_size)


def devices() -> list[DeviceInfo]:
    """Return every device of the loaded drivers; an empty list if there is none."""
    cl, listed = _enumerate(os.environ.get("EDGERUN_DEVICE"))
    return [_describe(cl, i, *pair) for i, pair in enumerate(listed)]


def _matches(wanted: str, info: DeviceInfo) -> bool:
    try:
        return info.index == int(wanted)
    except ValueError:
        text = f"{info.platform} {info.name} {info.version} {info.kind}".lower()
    words = wanted.lower().replace("-", " ").split()
    return bool(words) and all(word in text for word in words)


def select(wanted: str | int | None = None):
    """Return the OpenCL device that `wanted` means.

    Args:
        wanted: an index of devices(), or a part of the platform, device or driver name; None reads
            EDGERUN_DEVICE, and without it takes the first GPU, else the first device.

    Returns:
        (pyopencl module, cl.Device, DeviceInfo).

    Raises:
        DeviceError: no driver is installed, or no device is meant by `wanted`.
    """
    wanted = str(wanted) if wanted is not None else os.environ.get("EDGERUN_DEVICE") or None
    cl, listed = _enumerate(wanted)
    if not listed:
        raise DeviceError(f"no OpenCL driver found: {drivers.INSTALL_HINT}")
    infos = [_describe(cl, i, *pair) for i, pair in enumerate(listed)]
    if wanted is None:
        best = next((i for i in infos if i.kind == "gpu"), infos[0])
        return cl, listed[best.index][1], best
    for info in infos:
        if _matches(wanted, info):
            return cl, listed[info.index][1], info
    names = "; ".join(f"{i.index}: {i.name} ({i.platform})" for i in infos)
    raise DeviceError(f"no OpenCL device is meant by {wanted!r}, there are: {names}")


def _lanes(device, kind: str) -> int:
    """fp32 lanes of a vector: what a CPU reports as native; 4 on GPUs, which load no wider."""
    if kind != "cpu":
        return 4
    return max(4, min(16, device.native_vector_width_float))


class Device:
    """An opened device. Every OpenCL object of a session is created through it, and counted.

    Attributes:
        info: DeviceInfo.
        facts: what ops may know; `dot` is "" until an op asks for it, see facts_for().
        created: number of OpenCL objects made so far, by kind: "buffer", "program", "kernel",
            "queue", "context".
    """

    def __init__(self, wanted: str | int | None = None, profiling: bool = False):
        self.cl, self.device, self.info = select(wanted)
        cl = self.cl
        self.created = {"context": 1, "queue": 1, "buffer": 0, "program": 0, "kernel": 0}
        try:
            self.context = cl.Context([self.device])
            self.queue = self._queue(profiling)
        except cl.Error as error:
            raise DeviceError(f"{self.info.name}: cannot be opened: {error}") from None
        self.facts = Facts(
            kind=self.info.kind, lanes=_lanes(self.device, self.info.kind),
            compute_units=self.info.compute_units, max_work_group=self.device.max_work_group_size,
            quirks=dots.quirks(self.info), dot="")
        from edgerun.programs import Programs  # imports pyopencl
        self.programs = Programs(self.context, self.device)

    def facts_for(self, op: OpLike) -> Facts:
        """Return what an op may know; how to sum products is found out for quantized tensors only.

        Raises:
            DeviceError: EDGERUN_DOT asks for what the device does not have.
        """
        if not self.facts.dot and any(t is not None and t.dtype in QUANTIZED for t in op.inputs):
            self.facts = dataclasses.replace(self.facts, dot=dots.choose(self))
        return self.facts

    def _queue(self, profiling: bool):
        properties = self.cl.command_queue_properties.PROFILING_ENABLE if profiling else 0
        return self.cl.CommandQueue(self.context, self.device, properties=properties)

    def profiling_queue(self):
        """Return a second queue that records times (counted as created)."""
        self.created["queue"] += 1
        return self._queue(True)

    def build(self, launches: Iterable[Launch]) -> None:
        """Get every program that some launches need, from the cache or the compiler.

        Raises:
            DeviceError: the compiler refused one; the message names it, with the head of its log.
        """
        for launch in launches:
            self._program(launch.family, launch.defines)

    def _program(self, family: str, defines: dict, text: str | None = None):
        before = self.programs.built + self.programs.cached
        program = self.programs.get(family, defines, text)
        self.created["program"] += self.programs.built + self.programs.cached - before
        return program

    def kernel(self, family: str, name: str, defines: dict, text: str | None = None):
        """Return a new kernel object; a kernel holds its arguments, so each launch has its own.

        Args:
            family, defines, text: of its program, see Programs.get().
            name: of the kernel.
        """
        program = self._program(family, defines, text)
        self.created["kernel"] += 1
        try:
            kernel = self.cl.Kernel(program, name)
        except self.cl.Error as error:
            raise DeviceError(f"{self.info.name}: cannot make kernel {name} of "
                              f"kernels/{family}.cl: {error}") from None
        return kernel
