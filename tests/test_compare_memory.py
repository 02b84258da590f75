"""Memory beside other runtimes: the measurement sees what a runtime takes, the page is true."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerun.tools.compare import footprint_memory, memory, pages
from tests import models

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "footprint"
BLOCK = 20 << 20
needs_smaps = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"),
    reason="this system has no /proc/self/smaps_rollup to measure with")


class Greedy:
    """Takes a block when it is loaded, another one when it runs, and for a moment two more."""
    version, facts = "1", {}

    def __init__(self, path, inputs, threads, device):
        self.kept = [np.ones(BLOCK, np.uint8)]

    def run(self):
        if len(self.kept) == 1:
            self.kept.append(np.ones(BLOCK, np.uint8))
            np.ones(2 * BLOCK, np.uint8)


def measure_greedy(inputs):
    """Print what is measured of Greedy, in a process where nothing else happens meanwhile."""
    memory.PEERS["greedy"], memory.MODULES["greedy"] = Greedy, ()
    print(json.dumps(memory.added({"runtime": "greedy", "model": "", "threads": 1,
                                   "device": None, "inputs": inputs})))


@needs_smaps
def test_what_a_runtime_takes_is_seen(tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.zeros(1))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from tests.test_compare_memory import *; "
         "measure_greedy(sys.argv[1])", str(tmp_path / "inputs.npz")],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    slack = 1 << 20
    for key in ("pss_bytes", "anonymous_bytes"):
        assert abs(found["load"][key] - BLOCK) < slack
        assert abs(found["run"][key] - 2 * BLOCK) < slack
    assert found["run"]["file_bytes"] < slack
    assert abs(found["resident_bytes"] - 2 * BLOCK) < slack
    assert found["peak_bytes"] is None or abs(found["peak_bytes"] - 4 * BLOCK) < slack


@needs_smaps
def test_edgerun_s_own_part(device, tmp_path):
    """The driver's part is told apart, and edgerun's is a little more than file and arena."""
    path = models.wide(tmp_path / "wide.edge")
    np.savez(tmp_path / "inputs.npz", x=np.zeros((1, 512), np.float32))
    request = {"runtime": "edgerun", "model": str(path), "threads": os.cpu_count(),
               "device": device.info.platform, "inputs": str(tmp_path / "inputs.npz")}
    size = path.stat().st_size
    for left in (2, 1, 0):  # a process that starts or ends meanwhile shares the driver's pages
        done = subprocess.run(
            [sys.executable, "-m", "edgerun.tools.compare.memory", "--here", json.dumps(request)],
            cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if left == 0 or (found["driver"]["anonymous_bytes"] > 2 << 20
                         and 0.9 * size <= found["load"]["file_bytes"]):
            break
    assert found["driver"]["anonymous_bytes"] > 2 << 20
    assert 0.9 * size <= found["load"]["file_bytes"] and found["facts"]["planned_bytes"] > size


def test_errors_are_lines_of_the_table(tmp_path, capsys):
    assert memory.main(["nothing.onnx", "--folder", str(tmp_path)]) == 1
    assert "nothing.onnx" in capsys.readouterr().err
    assert memory.main(["resnet18", "--peers", "abc", "--folder", str(tmp_path)]) == 1
    assert "'abc' is not one of" in capsys.readouterr().err
    results = [{"model": "m", "runtime": "ncnn", "device": None, "error": "reads .param"}]
    assert memory.rows(results)[0][:3] == ("m", "ncnn", "reads .param")


def test_cold_files_are_measured(device, tmp_path):
    found = pages.measure(models.wide(tmp_path / "wide.edge"), device, rounds=1)
    assert len(found) == 2 * len(pages.ADVICE)
    assert all(0 < row["load_ns"] <= row["total_ns"] for row in found)


# what the page says

@pytest.fixture(scope="module")
def measured():
    return json.loads((FOLDER / "memory.json").read_text())["results"]


def test_edgerun_takes_the_least_of_every_model(measured):
    found = {}
    for result in measured:
        assert not result["error"], result
        found.setdefault(result["model"], {}).setdefault(
            result["runtime"] == "edgerun", []).append(result["run"])
    assert {*found} == {"squeezenet", "resnet18", "mobilenetv2", "alexnet"}
    for model, sides in found.items():
        assert len(sides[True]) == 2 and len(sides[False]) >= 4, model
        for key in ("pss_bytes", "anonymous_bytes"):
            own, others = ([run[key] for run in sides[side]] for side in (True, False))
            assert max(own) < min(others), (model, key)


def test_a_tenth_of_onnx_runtime_s_anonymous_memory(measured):
    taken = {(r["runtime"], r["device"]): r["run"]["anonymous_bytes"] for r in measured
             if r["model"] == "resnet18"}
    own = max(count for (runtime, _), count in taken.items() if runtime == "edgerun")
    assert taken["onnxruntime", None] >= 10 * own


def test_sections_of_the_page(measured):
    document = json.loads((FOLDER / "memory.json").read_text())
    lines = footprint_memory.memory(document)
    assert sum(line.startswith("| ") for line in lines) == 1 + len(measured)
    lines = footprint_memory.pages(json.loads((FOLDER / "pages.json").read_text()))
    assert any("madvise WILLNEED" in line for line in lines)


def test_no_advice_is_the_best_with_checksums():
    """What edgerun.loader does is what the measurement recommends."""
    results = json.loads((FOLDER / "pages.json").read_text())["results"]
    for device in {r["device"] for r in results}:
        times = {r["advice"]: r["total_ns"] for r in results
                 if r["device"] == device and r["checksums"]}
        assert times[pages.NONE] <= 1.05 * min(times.values()), (device, times)
