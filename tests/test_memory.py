"""Footprint of a real model: weights in place, arena near its bound, fp16 half of fp32."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgerun import loader
from edgerun.tools.pack import pack

ROOT = Path(__file__).resolve().parents[1]
PINNED_ARENA_BYTES = 5_892_864
MEASURE = '''
import gc, json, sys, time
import numpy as np
import edgerun
from edgerun import memory

def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

def settled():
    """The least over a second: drivers free what was released when their threads get to it."""
    sizes = []
    for _ in range(20):
        time.sleep(0.05)
        sizes.append(anonymous())
    return min(sizes)

def of_file(path):
    found, total = False, {"Rss": 0, "Anonymous": 0}
    for line in open("/proc/self/smaps"):
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            found = line.rstrip().endswith(path)
        elif found and words[0][:-1] in total:
            total[words[0][:-1]] += int(words[1]) * 1024
    return total

path, device, copied = sys.argv[1], sys.argv[2], sys.argv[3] == "copied"
if copied:
    def bind(self, category, data):
        return self.create(category, self.device.cl.mem_flags.COPY_HOST_PTR, len(data), data.copy())
    memory.Buffers._bind = bind

def cycle():
    session = edgerun.load(path, device)
    info = session.inputs[0]
    session.run({info.name: np.zeros(info.shape, info.dtype)})
    return session

cycle().close()  # driver, threads and programs are up, their memory is in the baseline
gc.collect()
before = settled()
session = cycle()
after = anonymous()
print(json.dumps({"growth": after - before, "file": of_file(path), "rung": session.buffers.rung,
                  "arena": session.model.plan.arena_bytes}))
'''


@pytest.fixture(scope="module")
def packed(shared_data, tmp_path_factory) -> dict[str, Path]:
    """SqueezeNet packed in fp32 and fp16."""
    folder = tmp_path_factory.mktemp("squeezenet")
    for precision in ("fp32", "fp16"):
        pack(shared_data / "models" / "onnx" / "squeezenet_v1.0_dc.onnx",
             folder / f"{precision}.edge", precision=precision)
    return {precision: folder / f"{precision}.edge" for precision in ("fp32", "fp16")}


def measure(path: Path, device, how: str = "as is") -> dict:
    """Load and run in a process of its own; returns bytes that its anonymous memory grew by."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), device.info.platform, how], cwd=ROOT, text=True,
        capture_output=True,
        # glibc: every large block its own mapping, so that freed ones leave the process at once and
        # the second session cannot hide in what the first one left
        env=dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536"))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"),
                    reason="this system has no /proc/self/smaps_rollup to measure with")
def test_weights_add_no_anonymous_memory(device, packed):
    """Loading and running grows anonymous memory by the arena, not by the weights."""
    weights = sum(len(s.data) for s in loader.read(packed["fp32"]).segments)
    found = measure(packed["fp32"], device)
    assert found["file"]["Anonymous"] == 0, found
    assert found["file"]["Rss"] >= 0.95 * weights, found
    # kernel objects, the model's Python objects and the input array are there too: about 1.2 MB
    assert found["growth"] <= found["arena"] + 0.4 * weights, found
    copied = measure(packed["fp32"], device, "copied")
    assert copied["growth"] >= found["growth"] + 0.7 * weights, \
        "the measurement does not see a copy of the weights: " + str((found, copied))


def test_fp16_is_half(packed):
    """Weights and arena of fp16 are half of fp32's within 2 %."""
    def total(path):
        model = loader.read(path)
        return model.plan.arena_bytes + sum(len(s.data) for s in model.segments)
    ratio = total(packed["fp16"]) / total(packed["fp32"])
    assert abs(ratio - 0.5) <= 0.01, ratio


def test_arena_is_at_its_bound(packed):
    plan = loader.read(packed["fp32"]).plan
    assert plan.arena_bytes <= 1.05 * plan.lower_bound_bytes


def test_arena_of_squeezenet_is_pinned(packed):
    """The plan is deterministic: these bytes change only with the planner or with a pass."""
    plan = loader.read(packed["fp32"]).plan
    assert plan.arena_bytes == PINNED_ARENA_BYTES

