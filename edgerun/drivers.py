"""Find OpenCL drivers before pyopencl is imported, since its loader reads its settings only once.

The loader inside the pyopencl wheel opens what /etc/OpenCL/vendors lists, every driver of it, each
costing tens of megabytes. `OCL_ICD_VENDORS` naming one `.icd` file or one driver library opens just
that one.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

VENDORS = Path("/etc/OpenCL/vendors")
RENDER_NODES = Path("/dev/dri")
# Drivers of GPUs, often installed where there is none: without a render node they have no device.
# "intel" is that of Intel's GPUs.
GPU_DRIVERS = ("mesa", "rusticl", "intel")
POCL = "Portable Computing Language"  # what its platform is called
INSTALL_HINT = ("install one: 'apt install pocl-opencl-icd' (any CPU, root), "
                "'pip install intel-opencl-rt intel-cmplr-lib-rt' (x86-64 CPU, no root), or the "
                "driver of your GPU's vendor")


@dataclass(frozen=True)
class Driver:
    """A driver on disk: its short name and the file that leads the loader to it."""
    name: str
    path: Path


def intel_cpu_runtime() -> Path | None:
    """Return the library of the Intel CPU runtime if pip installed it in this environment.

    The .icd file that comes with it names a path that does not exist, so no loader finds it.
    """
    for name in ("libintelocl.so", "Library/bin/intelocl64.dll"):
        path = Path(sys.prefix, "lib", name) if name.endswith(".so") else Path(sys.prefix, name)
        if path.is_file():
            return path
    return None


def found() -> list[Driver]:
    """Return the drivers on this machine, those that the loader knows by itself first."""
    drivers = [Driver(path.stem, path) for path in sorted(VENDORS.glob("*.icd"))]
    intel = intel_cpu_runtime()
    if intel is not None:
        drivers.append(Driver("intel-cpu", intel))
    return drivers


def choose(wanted: str | None) -> None:
    """Point the loader to one driver, if `wanted` names one or if it would find none by itself.

    Does nothing once pyopencl is imported or when the user has set OCL_ICD_VENDORS.

    Args:
        wanted: part of a driver's name, as in --device; None for whatever there is.
    """
    if "pyopencl" in sys.modules or os.environ.get("OCL_ICD_VENDORS"):
        return
    drivers = found()
    useful = [d for d in drivers if d.name not in GPU_DRIVERS or RENDER_NODES.exists()]
    matching = ([d for d in useful if wanted and wanted.lower() in d.name.lower()]
                or [d for d in drivers if wanted and wanted.lower() in d.name.lower()])
    if matching or len(useful) == 1:
        os.environ["OCL_ICD_VENDORS"] = str((matching or useful)[0].path)


def threads() -> set[int]:
    """Return the numbers of this process's threads; none where the system has no /proc."""
    try:
        return {int(path.name) for path in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


def keep_apart(started: set[int]) -> None:
    """Have each thread of PoCL stay on a CPU of its own.

    PoCL wakes them all at once. Linux then often puts the second behind the first on one CPU, where
    it stays until the first is done: launches of some hundred microseconds run on one core.

    Does nothing where there are not as many threads as CPUs that the process may use, as if other
    drivers have started some, or where the user has set POCL_AFFINITY, to 0 for instance. That
    variable itself would do, but with fewer CPUs than threads it ends the process.

    Args:
        started: numbers of the threads that came by opening drivers, PoCL among them.
    """
    if "POCL_AFFINITY" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    if len(started) != len(allowed):
        return
    for thread, cpu in zip(sorted(started), sorted(allowed)):
        try:
            os.sched_setaffinity(thread, {cpu})
        except OSError:
            return  # a CPU or a thread that is gone, or a sandbox: they run as they did
