"""Memory as predicted from the file, as asked of OpenCL, and as the system measures it."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerun import loader
from edgerun.errors import ModelError
from edgerun.session import Session
from edgerun.tools import networks
from tests import models
from tests.memory_account import predicted_is_allocated

ROOT = Path(__file__).resolve().parents[1]
needs_smaps = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"),
    reason="this system has no /proc/self/smaps_rollup to measure with")
ALLOWED, ALLOWED_BYTES = 0.02, 256 << 10  # between predicted and measured
PEAK = 1.05  # of steady memory
TEXT_BYTES = 640 << 10  # which Python needs for a moment, to put the text of programs together
AROUND = (2 << 20) + (128 << 10)  # the system maps what it has in one piece, at most a huge page

# Python and the driver are apart: their part is there before, from a session that was closed.
MEASURE = '''
import gc, json, sys, time
import numpy as np
import edgerun
from edgerun import report, smaps
from edgerun.device import Device
from edgerun.memory import give_back

path, device = sys.argv[1], Device(sys.argv[2])

def cycle():
    session = edgerun.load(path, device)
    inputs = {i.name: np.ones(i.shape, i.dtype) for i in session.inputs}
    for _ in range(3):
        outputs = session.run(inputs)
    return session, inputs, outputs

def settled():
    """The least of a while: drivers free what was released when their threads get to it."""
    sizes = []
    for _ in range(10):
        time.sleep(0.03)
        give_back()
        sizes.append(smaps.resident())
    return min(sizes)

for _ in range(3):  # threads of the driver have run, and have what they keep
    held = cycle()
    held[0].close()
    del held
    gc.collect()
before, resident = smaps.process(), settled()  # PSS depends on other processes, too
smaps.forget_peak()
held = cycle()
peak, after, now = smaps.peak(), smaps.process(), settled()
planned = report.planned_report(held[0].model).planned
chain = held[0].buffers.bytes_by_category.get("chain", 0)
print(json.dumps({
    "predicted": planned["file_bytes"] + planned["arena_bytes"] + planned["io_bytes"] + chain,
    "measured": now - resident,
    "anonymous": after.anonymous_bytes - before.anonymous_bytes,
    "peak": peak - resident, "steady": now - resident}))
'''


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> dict[str, Path]:
    """Networks of several sizes and precisions."""
    folder = tmp_path_factory.mktemp("proof")
    files = {}
    for name, precision, size in (("squeezenet", "fp32", None), ("resnet18", "fp32", None),
                                  ("mobilenetv2", "fp16", None), ("squeezenet", "int8", None)):
        files[f"{name}-{precision}"] = folder / f"{name}-{precision}.edge"
        networks.write(name, files[f"{name}-{precision}"], precision, size)
    return files


def in_a_process(path: Path, device) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), device.info.platform], cwd=ROOT, text=True,
        capture_output=True, env=dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536"))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["squeezenet-fp32", "resnet18-fp32", "mobilenetv2-fp16",
                                  "squeezenet-int8"])
def test_predicted_is_allocated_on_networks(device, packed, name):
    with Session(loader.read(packed[name]), device) as session:
        predicted_is_allocated(session)


@needs_smaps
@pytest.mark.parametrize("name", ["squeezenet-fp32", "resnet18-fp32", "mobilenetv2-fp16",
                                  "squeezenet-int8"])
def test_predicted_is_measured(device, packed, name):
    """Growth by loading and running; the peak is the steady state."""
    found = in_a_process(packed[name], device)
    print(found)
    apart = abs(found["measured"] - found["predicted"])
    assert apart <= max(ALLOWED * found["predicted"], ALLOWED_BYTES), found
    assert found["peak"] <= max(PEAK * found["steady"], found["steady"] + TEXT_BYTES), found


@needs_smaps
def test_a_copy_of_the_weights_is_seen(device, packed):
    """The measurement is no tautology: weights that are copied break it."""
    planted = MEASURE.replace("path, device = ", '''
from edgerun import memory
def bind(self, category, data):
    return self.create(category, self.device.cl.mem_flags.COPY_HOST_PTR, len(data), data.copy())
memory.Buffers._bind = bind
path, device = ''')
    result = subprocess.run(
        [sys.executable, "-c", planted, str(packed["squeezenet-fp32"]), device.info.platform],
        cwd=ROOT, text=True, capture_output=True, check=True)
    found = json.loads(result.stdout)
    assert found["measured"] > 1.2 * found["predicted"], found


# pages nobody needs

TOUCH = '''
import json, sys
import numpy as np
import edgerun
from edgerun import smaps
with edgerun.load(sys.argv[1], sys.argv[2], check_weights=sys.argv[3] == "checked") as session:
    loaded = smaps.mapping(sys.argv[1]).file_bytes
    session.run({i.name: np.zeros(i.shape, i.dtype) for i in session.inputs})
    print(json.dumps([loaded, smaps.mapping(sys.argv[1]).file_bytes]))
'''


def touched(path: Path, device, how: str) -> tuple[int, int]:
    """Return the bytes of a file that are in a process after loading, and after running."""
    result = subprocess.run(
        [sys.executable, "-c", TOUCH, str(path), device.info.platform, how], cwd=ROOT, text=True,
        capture_output=True)
    assert result.returncode == 0, result.stderr
    return tuple(json.loads(result.stdout))


@needs_smaps
def test_rows_of_a_table_that_are_not_read_are_not_touched(device, tmp_path):
    """Of 32 MB of words one is looked up: without the checksums its pages only are read."""
    path = models.words(tmp_path / "words.edge")
    size = path.stat().st_size
    loaded, ran = touched(path, device, "unchecked")
    assert loaded <= AROUND and ran <= loaded + 2 * AROUND < size / 4, (loaded, ran, size)
    assert touched(path, device, "checked")[0] >= 0.95 * size  # it is measured


@needs_smaps
def test_vectors_are_not_touched_by_a_run(device, tmp_path):
    """Test vectors are read by `edgerun verify`, and by the checksums."""
    rows = 900_000
    x = np.random.default_rng(0).standard_normal((rows, 3), np.float32)
    path = models.shift_relu(tmp_path / "vectors.edge", rows=rows,
                             vectors=[([x], [models.expected(x)], 0.0)])
    size = path.stat().st_size
    assert size > 2 * x.nbytes
    assert touched(path, device, "unchecked")[1] <= 2 * AROUND < size / 4
    assert touched(path, device, "checked")[0] >= 0.95 * size
    # what they hold is checked when it is used
    data = bytearray(path.read_bytes())
    data[data.index(x.tobytes()[:64])] ^= 1
    path.write_bytes(data)
    loader.read(path, check_weights=False)
    with pytest.raises(ModelError, match="test vector 0: the checksum does not match"):
        loader.read(path)
