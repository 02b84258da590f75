"""How long a model takes from the start of a process to its first result, stage by stage.

Every start is a process of its own. Those without caches get empty folders for edgerun's programs
and for what drivers keep; those with caches share folders that one start before all has filled. The
bytecode of Python's modules is there for both, as it is after an installation.
"""
from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerun import text
from edgerun.errors import DeviceError, EdgerunError

LATER_RUNS = 10
# Environment variables that name the folders of caches: ours, PoCL's, Mesa's, NVIDIA's, Intel's.
CACHES = ("EDGERUN_CACHE_DIR", "POCL_CACHE_DIR", "MESA_SHADER_CACHE_DIR", "CUDA_CACHE_PATH",
          "NEO_CACHE_DIR")
# What a fresh process runs. NumPy comes first, so that what it costs is not counted as edgerun's.
CHILD = """
import time
begun = time.monotonic_ns()
import numpy
ready = time.monotonic_ns()
import edgerun.session
loaded = time.monotonic_ns()
from edgerun.cold import child
child(begun, ready, loaded)
"""
STAGES = {
    "python": "Python itself", "numpy": "import numpy", "edgerun": "import edgerun",
    "pyopencl": "import pyopencl", "driver": "driver, context, queue",
    "map": "map and validate", "checksums": "checksums of the weights",
    "buffers": "buffers", "sums": "how to sum products", "programs": "programs",
    "launches": "kernels and arguments", "first": "first run"}
OTHERS = ("python", "numpy", "pyopencl", "driver")  # not edgerun's own time


@dataclass(frozen=True)
class Starts:
    """Medians over several starts.

    Attributes:
        stages: key of STAGES -> nanoseconds.
        total_ns: from the start of the process to the first result.
        own_ns: the same without Python, the imports of NumPy and pyopencl, and the driver.
        later_ns: a run after the first ones.
        close_ns: closing the session, which is when some drivers are asked for binaries.
        built, cached: programs that were compiled, and that came from edgerun's cache.
    """
    stages: dict[str, int]
    total_ns: int
    own_ns: int
    later_ns: int
    close_ns: int
    built: int
    cached: int


@dataclass(frozen=True)
class ColdReport:
    """What `edgerun bench --cold` finds; each of the two is a median of `starts` processes."""
    device: str
    platform: str
    starts: int
    launches: int
    without_cache: Starts
    with_cache: Starts

    def as_dict(self) -> dict[str, Any]:
        """Return the report as one dict that JSON can hold; times have keys that end in _ns."""
        found = dataclasses.asdict(self)
        for part in ("without_cache", "with_cache"):
            found[part]["stages"] = {f"{stage}_ns": ns
                                     for stage, ns in found[part]["stages"].items()}
        return found

    def text(self) -> str:
        """Return the report for a terminal."""
        both = (self.without_cache, self.with_cache)
        rows = [(label, *(text.duration(part.stages[stage]) for part in both))
                for stage, label in STAGES.items()]
        rows += [(label, *(text.duration(getattr(part, name)) for part in both))
                 for label, name in (("= first result", "total_ns"),
                                     ("  of it edgerun's own", "own_ns"),
                                     ("later run", "later_ns"), ("close", "close_ns"))]
        rows.append(("programs built, cached", *(f"{p.built}, {p.cached}" for p in both)))
        return "\n".join([f"{self.device} ({self.platform})",
                          f"medians of {self.starts} processes, {self.launches} launches",
                          *text.table(("", "no caches", "caches"), rows, left=(0,))])


def measure(path: str | os.PathLike, device: str | None = None, starts: int = 3) -> ColdReport:
    """Start a model in fresh processes, with and without what earlier starts have compiled.

    Args:
        path: a .edge file.
        device: as for edgerun.load().
        starts: how many processes of each kind.

    Raises:
        EdgerunError: a start failed; the message is its own.
    """
    import tempfile
    with tempfile.TemporaryDirectory(prefix="edgerun-cold-") as folder:
        filled = Path(folder, "filled")
        _start(path, device, filled)
        fresh = [_start(path, device, Path(folder, f"empty-{i}")) for i in range(starts)]
        warm = [_start(path, device, filled) for _ in range(starts)]
    return ColdReport(fresh[0]["device"], fresh[0]["platform"], starts, fresh[0]["launches"],
                      _medians(fresh), _medians(warm))


def _medians(found: list[dict[str, Any]]) -> Starts:
    """Return the median of every time; the sums are those of the medians of their stages."""
    def median(values: Iterable[int]) -> int:
        return sorted(values)[len(found) // 2]
    stages = {stage: median(one["stages"][stage] for one in found) for stage in STAGES}
    total = sum(stages.values())
    return Starts(stages, total, total - sum(stages[stage] for stage in OTHERS),
                  *(median(one[name] for one in found)
                    for name in ("later", "close", "built", "cached")))


def _start(path: str | os.PathLike, device: str | None, caches: Path) -> dict[str, Any]:
    """Start one process; returns what child() prints."""
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=str(caches.parent / "bytecode"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in CACHES:
        folder = caches / name.lower()
        folder.mkdir(parents=True, exist_ok=True)
        environment[name] = str(folder)
    package = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get(
        "PYTHONPATH"))))
    arguments = {"path": os.fspath(path), "device": device, "spawned": time.monotonic_ns()}
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(arguments)], env=environment,
                          capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DeviceError(f"{path}: a fresh process could not run the model: {reason}")
    found = json.loads(lines[-1])
    if "error" in found:
        raise EdgerunError(found["error"])
    return found


def child(begun: int, ready: int, loaded: int) -> None:
    """Start the model of sys.argv[1] in this process, and print the times as one line of JSON.

    Args:
        begun, ready, loaded: time.monotonic_ns() at the first line of the process, behind NumPy
            and behind edgerun.
    """
    arguments = json.loads(sys.argv[1])
    stages = {"python": begun - arguments["spawned"], "numpy": ready - begun,
              "edgerun": loaded - ready}
    try:
        found = _child(arguments["path"], arguments["device"], stages)
    except EdgerunError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


class Clock:
    """Adds up the time of stages; a stage inside another one is not counted twice.

    Args:
        stages: key of STAGES -> nanoseconds; is added to.
    """

    def __init__(self, stages: dict[str, int]):
        self._stages, self._inside = stages, 0

    def timed(self, stage: str, function: Callable, *args: Any) -> Any:
        """Call a function as a part of a stage; returns what it returns."""
        outside, self._inside = self._inside, 0
        start = time.monotonic_ns()
        result = function(*args)
        ns = time.monotonic_ns() - start
        self._stages[stage] = self._stages.get(stage, 0) + ns - self._inside
        self._inside = outside + ns
        return result

    def watched(self, stage: str, function: Callable) -> Callable:
        """Return a function that does the same as a part of a stage."""
        return lambda *args: self.timed(stage, function, *args)


def _child(path: str, wanted: str | None, stages: dict[str, int]) -> dict[str, Any]:
    from edgerun import arrays, loader, validate
    from edgerun import device as device_module
    from edgerun.memory import Buffers
    from edgerun.session import Session
    clock = Clock(stages)
    timed, watched = clock.timed, clock.watched

    timed("pyopencl", device_module.opencl, wanted or os.environ.get("EDGERUN_DEVICE"))
    timed("edgerun", __import__, "edgerun.programs")
    device = timed("driver", device_module.Device, wanted)
    model = timed("map", loader.read, path, False)
    timed("checksums", validate.check_segments, model)
    device.facts_for = watched("sums", device.facts_for)
    device.programs.get = watched("programs", device.programs.get)
    Buffers.weights = watched("buffers", Buffers.weights)
    Buffers.arena = watched("buffers", Buffers.arena)
    session = timed("launches", Session, model, device)
    inputs = arrays.random_inputs(session.inputs)
    timed("first", session.run, inputs)
    later = []
    for _ in range(LATER_RUNS):
        start = time.monotonic_ns()
        session.run(inputs)
        later.append(time.monotonic_ns() - start)
    launches, start = len(session.prepared), time.monotonic_ns()
    session.close()
    return {"stages": {stage: stages.get(stage, 0) for stage in STAGES},
            "later": sorted(later)[LATER_RUNS // 2], "close": time.monotonic_ns() - start,
            "device": device.info.name, "platform": device.info.platform, "launches": launches,
            "built": device.programs.built, "cached": device.programs.cached}
