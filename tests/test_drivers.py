"""Which driver is opened alone, before pyopencl is imported."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgerun import drivers


@pytest.mark.parametrize("names, gpu, wanted, opened", [
    (["pocl"], False, None, "pocl"),
    (["pocl"], False, "portable computing language", "pocl"),
    (["mesa", "pocl", "rusticl"], False, None, "pocl"),
    (["mesa", "pocl", "rusticl"], True, None, None),
    (["mesa", "pocl", "rusticl"], False, "rusticl", "rusticl"),  # its CPU device, if that is on
    (["intel", "pocl"], False, None, "pocl"),
    (["intel", "pocl", "intel-cpu"], False, "intel", "intel-cpu"),
    (["intel", "pocl", "intel-cpu"], True, "intel", "intel"),
    (["intel", "pocl"], False, "intel", "intel"),
    (["pocl", "intel-cpu"], False, None, None),
    (["pocl", "intel-cpu"], False, "nvidia", None),
    ([], False, None, None),
])
def test_one_driver_is_opened_alone(monkeypatch, tmp_path, names, gpu, wanted, opened):
    """The one that is meant, or the only one that can have a device; None: all of them."""
    monkeypatch.delitem(sys.modules, "pyopencl", raising=False)
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    monkeypatch.setattr(drivers, "RENDER_NODES", tmp_path if gpu else tmp_path / "none")
    monkeypatch.setattr(drivers, "found", lambda: [
        drivers.Driver(name, tmp_path / f"{name}.icd") for name in names])
    drivers.choose(wanted)
    chosen = os.environ.pop("OCL_ICD_VENDORS", None)
    assert chosen == (None if opened is None else str(tmp_path / f"{opened}.icd"))


THREADS = """
import json, os
import numpy
from edgerun import drivers
from edgerun.device import Device
before = drivers.threads()
Device("pocl")
print(json.dumps(sorted(sorted(os.sched_getaffinity(thread))
                        for thread in drivers.threads() - before)))
"""


@pytest.mark.parametrize("variable", ["", "POCL_AFFINITY", "POCL_MAX_PTHREAD_COUNT"])
def test_threads_stay_apart(variable):
    """Each thread of PoCL, opened alone, has a CPU, unless the user has set where or how many."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        pytest.skip("there is one CPU: nothing to keep apart")
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("POCL_AFFINITY", "POCL_MAX", "OCL_ICD"))}
    if variable:
        environment[variable] = {"POCL_AFFINITY": "0"}.get(variable, str(len(allowed) + 1))
    ran = subprocess.run([sys.executable, "-c", THREADS], text=True, capture_output=True,
                         env=environment, check=False, cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found == ([allowed] * len(found) if variable else [[cpu] for cpu in allowed])
    assert len(found) >= len(allowed)
