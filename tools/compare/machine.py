"""What numbers were measured on, and where files that are made for it are kept."""
from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from edgerun.errors import InputError


def machine(threads: int) -> dict[str, Any]:
    """Return the CPU, the system and the date."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines
                    if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux on x86
    return {"cpu": name, "cpus": os.cpu_count(), "threads": threads,
            "system": platform.system(), "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d", time.gmtime())}


def default_folder(given: str | None) -> Path:
    """Return the folder for converted models: the given one, else one beside compiled kernels.

    Raises:
        InputError: none is given, and the user keeps no compiled kernels.
    """
    from edgerun.programs import cache_folder
    kept = cache_folder()
    if given is None and kept is None:
        raise InputError("EDGERUN_CACHE_DIR=0 keeps no files: give a --folder for converted models")
    return Path(given) if given else kept / "compare"
