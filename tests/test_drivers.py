"""Which driver is opened alone, before pyopencl is imported."""
from __future__ import annotations

import os
import sys

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


@pytest.mark.parametrize("allowed, given, inside", [
    ({0, 1, 2}, None, "1"), ({0, 2}, None, None), ({0, 1, 2}, "0", "0")])
def test_threads_stay_apart_where_every_cpu_may_be_used(monkeypatch, allowed, given, inside):
    """PoCL is told while drivers are opened, and neither the user's setting nor children change."""
    monkeypatch.delenv("POCL_AFFINITY", raising=False)
    if given is not None:
        monkeypatch.setenv("POCL_AFFINITY", given)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: allowed, raising=False)
    with drivers.threads_apart():
        assert os.environ.get("POCL_AFFINITY") == inside
    assert os.environ.get("POCL_AFFINITY") == given
