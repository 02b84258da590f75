"""How a device sums products of 8-bit integers: which ways it has, and which is fastest.

The sums are the same; see kernels/conv_integer.cl. The environment variable EDGERUN_DOT overrides
the choice with one of NAMES, for tests and measurements.
"""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgerun.errors import DeviceError

NAMES = ("vnni", "khr", "float", "plain")  # see Facts.dot
CPU_FLAGS = ("avx512_vnni", "avx512vl")
KHR = "cl_khr_integer_dot_product"

_proven: dict[tuple, bool] = {}


def _flags() -> set[str]:
    """Return the features of the CPU as Linux on x86 names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines
                 if line.startswith("flags")), set())


def _works(device, name: str) -> bool:
    """Whether a tiny program with that way to sum builds, and is right. Once per process."""
    cl, on = device.cl, device.device
    key = (name, on.platform.name, on.name, on.driver_version)
    if key not in _proven:
        found = np.zeros(1, np.int32)
        try:
            program = device.programs.get("dot_probe", {"VEC": 4, f"DOT_{name.upper()}": 1})
            y = cl.Buffer(device.context, cl.mem_flags.READ_WRITE, 4)
            # bytes 1, 2, 3, 200 times -1, 2, -3, 4
            cl.Kernel(program, "probe")(device.queue, (1,), (1,), y,
                                        np.uint32(0xC8030201), np.uint32(0x04FD02FF))
            cl.enqueue_copy(device.queue, found, y)
            y.release()
        except (DeviceError, cl.Error):
            pass  # the compiler or the device refuses it: found is not the sum
        _proven[key] = bool(found[0] == -1 + 4 - 9 + 800)
    return _proven[key]


def has(device, name: str) -> bool:
    """Whether an opened Device can sum in the way called `name`."""
    if name == "vnni":
        return ("Portable Computing Language" in device.info.platform
                and device.info.kind == "cpu" and _flags().issuperset(CPU_FLAGS)
                and _works(device, name))
    if name == "khr":
        return KHR in device.device.extensions.split() and _works(device, name)
    return name in NAMES


def choose(device) -> str:
    """Return the fastest way of an opened Device.

    Raises:
        DeviceError: EDGERUN_DOT names a way that the device does not have.
    """
    wanted = os.environ.get("EDGERUN_DOT")
    if wanted:
        if not has(device, wanted):
            raise DeviceError(f"EDGERUN_DOT: {device.info.name} has no way to sum called "
                              f"{wanted!r}, needed one of "
                              f"{', '.join(name for name in NAMES if has(device, name))}")
        return wanted
    if device.info.kind == "cpu":
        # The Intel CPU runtime has the extension but computes it lane by lane.
        return "vnni" if has(device, "vnni") else "float"
    return "khr" if has(device, "khr") else "plain"
