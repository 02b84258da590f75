"""Memory report, times, and the arrays, differences and texts they are made of."""
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerun import arrays, loader, report, smaps, text, timing
from edgerun.errors import DeviceError, InputError
from edgerun.memory import SLACK
from edgerun.model import TensorInfo
from edgerun.session import Session
from edgerun.tools.graph import Graph
from tests import models

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def layers(tmp_path):
    return models.two_layers(tmp_path / "layers.edge")


@pytest.fixture
def session(device, layers):
    with Session(loader.read(layers), device) as opened:
        yield opened


def feed():
    return {"x": np.random.default_rng(1).standard_normal((4, 32), np.float32)}


# planned

def test_planned_bytes_are_those_of_the_file(layers):
    model = loader.read(layers)
    planned = report.planned_report(model).planned
    assert planned["file_bytes"] == layers.stat().st_size
    assert planned["weights"] == {"fp32": 4 * (16 * 32 + 8 * 16)}
    assert planned["padding_bytes"] >= SLACK
    assert sum(planned["weights"].values()) + sum(planned["constants"].values()) \
        + planned["padding_bytes"] == sum(planned["segments"].values())
    assert planned["constants"]["fp32"] >= 4 * 16  # b1, and whatever zeros the layout pass adds
    assert planned["io_bytes"] == 4 * (4 * 32 + 4 * 8)


def test_planned_peak_names_what_lives_there(layers):
    model = loader.read(layers)
    peak = report.planned_report(model).planned["peak"]
    assert (peak["op"], peak["code"], peak["name"]) == (0, "dense", "hidden")
    assert [(t["name"], t["bytes"]) for t in peak["tensors"]] == [("x", 512), ("hidden", 256)]
    assert peak["bytes"] == 768 == model.plan.lower_bound_bytes


def test_weights_are_counted_once_per_dtype(tmp_path):
    planned = report.planned_report(
        loader.read(models.two_layers(tmp_path / "half.edge", "fp16"))).planned
    assert planned["weights"] == {"fp16": 2 * (16 * 32 + 8 * 16)}
    assert planned["constants"]["fp32"] >= 4 * 16  # the bias stays fp32


def test_shared_constants_are_counted_once(tmp_path):
    graph = Graph("shared")
    w = graph.constant(np.random.default_rng(0).standard_normal((32, 32), np.float32), "w")
    hidden = graph.add("dense", [graph.input("x", (1, 32), "fp32"), w], "once")
    graph.output("y", graph.add("dense", [hidden, w], "twice"))
    planned = report.planned_report(
        loader.read(models.save(graph, tmp_path / "shared.edge"))).planned
    assert planned["weights"] == {"fp32": 4 * 32 * 32}


def test_report_without_a_device_has_only_the_plan(layers):
    found = report.planned_report(loader.read(layers))
    assert found.allocated == {} and found.measured == {}
    assert "peak at op 0 (dense 'hidden')" in found.text() and "allocated" not in found.text()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.planned = {}


# allocated

def test_allocated_bytes_are_the_buffers_of_the_session(session):
    session.run(feed())
    found = session.memory()
    allocated = found.allocated
    assert allocated["categories"]["arena"] == session.model.plan.arena_bytes
    assert allocated["categories"]["weights fp32"] == len(session.model.segments[0].data)
    assert allocated["total_bytes"] == sum(allocated["categories"].values())
    chained = session.route.name == "chain"
    assert allocated["buffers"] == 2 + chained and ("chain" in allocated["categories"]) == chained
    assert allocated["kernels"] == (1 if chained else len(session.steps))
    programs = allocated["programs"]
    # a driver that is slow to ask tells nothing of programs that it has just built
    assert programs["count"] > 0 and (programs["bytes"] > 0 or programs["built"] > 0)
    assert allocated["rungs"]["weights fp32"].startswith("in place")
    assert json.loads(text.json_text(found.as_dict()))["allocated"]["buffers"] == 2 + chained
    for word in ("planned", "allocated", "measured", "weights fp32: in place", "arena"):
        assert word in found.text()


# measured

MEASURE = """
import json, sys
from edgerun import report
print(json.dumps(report.measure(sys.argv[1], sys.argv[2]).as_dict()))
"""


def test_measured_parts_add_up_in_a_fresh_process(device, layers):
    result = subprocess.run([sys.executable, "-c", MEASURE, str(layers), device.info.platform],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)["measured"]
    assert list(measured["stages"]) == [report.START, report.IMPORTED, report.OPENED, report.READ,
                                        report.PREPARED, report.FIRST, report.STEADY]
    last = measured["stages"][report.STEADY]
    assert sum(measured["parts"].values()) == last["pss_bytes"]
    assert list(measured["parts"]) == ["python and libraries", "opencl driver", "session"]
    assert sum(measured["explained"].values()) == measured["parts"]["session"]
    assert measured["explained"]["arena"] == loader.read(layers).plan.arena_bytes
    assert measured["parts"]["python and libraries"] > 5e6 < measured["parts"]["opencl driver"]
    assert measured["model_file"]["anonymous_bytes"] == 0  # weights were not copied
    assert 0 < measured["model_file"]["file_bytes"] <= layers.stat().st_size + 4096


def test_without_smaps_the_report_says_so(session, monkeypatch):
    monkeypatch.setattr(smaps, "process", lambda: None)
    found = session.memory()
    assert found.measured == {"notes": [report.NO_SMAPS]}
    assert report.NO_SMAPS in found.text()
    assert found.planned["arena_bytes"] and found.allocated["total_bytes"]


def test_measuring_twice_in_a_process_cannot_tell_python_from_the_driver(device, layers):
    found = report.measure(layers, device.info.platform)
    assert report.START not in found.measured["stages"]
    assert list(found.measured["parts"]) == ["python, libraries, opencl driver", "session"]
    assert any("cannot be told apart" in note for note in found.measured["notes"])


# /proc

SMAPS = """\
55d0-55e0 r--p 00000000 08:01 1234   {path}
Size:                 16 kB
Pss:                   8 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
VmFlags: rd mr mw me
55e0-55f0 rw-p 00000000 00:00 0
Size:                 16 kB
Pss:                  12 kB
Private_Dirty:        12 kB
Anonymous:            12 kB
VmFlags: rd wr
"""


def test_process_sums_the_mappings_of_an_old_kernel(tmp_path):
    (tmp_path / "smaps").write_text(SMAPS.format(path="/some/where"))
    assert smaps.process(tmp_path) == smaps.Memory(20 * 1024, 16 * 1024, 16 * 1024, 4 * 1024)


def test_process_prefers_the_rollup(tmp_path):
    (tmp_path / "smaps").write_text(SMAPS.format(path="/some/where"))
    (tmp_path / "smaps_rollup").write_text(
        "0-1 ---p 0 0:0 0 [rollup]\nPss: 9 kB\nPss_File: 7 kB\nPss_Anon: 2 kB\nAnonymous: 2 kB\n"
        "Private_Dirty: 2 kB\n")
    assert smaps.process(tmp_path) == smaps.Memory(9 * 1024, 2 * 1024, 2 * 1024, 7 * 1024)


def test_no_proc_is_none(tmp_path):
    assert smaps.process(tmp_path) is None
    assert smaps.mapping("x", tmp_path) is None
    assert smaps.gpu_bytes(tmp_path) is None


def test_mapping_is_that_of_one_file(tmp_path):
    wanted = tmp_path / "with space.edge"
    (tmp_path / "smaps").write_text(SMAPS.format(path=os.path.realpath(wanted)))
    assert smaps.mapping(wanted, tmp_path) == smaps.Memory(8192, 4096, 4096, 4096)
    assert smaps.mapping(tmp_path / "other.edge", tmp_path) is None


def test_mapping_sees_a_real_copy(tmp_path):
    """A private page that is written stops being the file's: what the report must notice."""
    import mmap
    path = tmp_path / "pages"
    path.write_bytes(bytes(8 * 4096))
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    assert sum(pages[i * 4096] for i in range(8)) == 0
    assert smaps.mapping(path).anonymous_bytes == 0
    pages[0] = 1
    assert smaps.mapping(path).anonymous_bytes == 4096


def test_gpu_bytes_count_a_client_once(tmp_path):
    (tmp_path / "fdinfo").mkdir()
    client = "pos:\t0\ndrm-driver:\tpanfrost\ndrm-client-id:\t{}\ndrm-total-memory:\t900 KiB\n" \
             "drm-resident-memory:\t{} KiB\n"
    for descriptor, (number, size) in enumerate([(7, 100), (7, 100), (8, 20)]):
        (tmp_path / "fdinfo" / str(descriptor)).write_text(client.format(number, size))
    (tmp_path / "fdinfo" / "9").write_text("pos:\t0\nflags:\t02\n")
    assert smaps.gpu_bytes(tmp_path) == 120 * 1024


# times

def test_profile_has_one_time_per_launch(session):
    times = session.profile(feed())
    assert [(t.op, t.code, t.name) for t in times] == [
        (0, "dense", "hidden"), (1, "dense", "scores")]
    assert [t.macs for t in times] == [4 * 32 * 16, 4 * 16 * 8]
    # operands once, results once, whatever helpers the layout pass has added to the operands
    constants = 4 * (16 * 32 + 16)
    assert times[0].bytes >= 4 * (4 * 32 + 4 * 16) + constants
    assert all(t.ns > 0 and t.gflops > 0 and t.gbytes_per_s > 0 and t.kernel for t in times)


def test_an_op_of_several_launches_is_counted_once(session):
    session.steps = [session.steps[0], *session.steps]
    times = session.profile(feed())
    assert len(times) == 3
    assert sorted(t.macs for t in times[:2]) == [0, 4 * 32 * 16]
    longest = max(times[:2], key=lambda t: t.ns)
    assert longest.macs and longest.bytes


def test_profile_leaves_the_session_usable(session):
    before = session.run(feed())
    session.profile(feed())
    np.testing.assert_array_equal(session.run(feed())["y"], before["y"])


def test_profile_checks_its_arguments(session):
    with pytest.raises(InputError, match="missing input 'x'"):
        session.profile({})
    with pytest.raises(InputError, match="0 runs, needed at least 1"):
        timing.profile(session, feed(), runs=0)


def test_bench_measures_and_makes_nothing(session):
    found = timing.bench(session, feed(), runs=7, warmup=2, per_op=True, load_ns=5)
    assert found.created == dict.fromkeys(found.created, 0)
    assert found.runs == 7 and found.launches == 2 and found.load_ns == 5 and found.first_ns > 0
    assert found.macs == 4 * 32 * 16 + 4 * 16 * 8
    for spread in (found.total, found.write, found.enqueue, found.wait, found.read, found.host):
        assert 0 < spread["min"] <= spread["median"] <= spread["p90"] <= spread["max"]
    assert found.enqueue["min"] < found.total["min"]
    document = json.loads(text.json_text(found.as_dict()))
    assert len(document["ops"]) == 2 and document["gflops"] > 0
    assert "made during runs  nothing" in found.text() and "hidden" in found.text()


def test_bench_notices_what_a_run_makes(session, monkeypatch):
    read = session.read
    monkeypatch.setattr(session, "read", lambda: (session.device.profiling_queue(), read())[1])
    found = timing.bench(session, feed(), runs=3, warmup=0)
    # a run as a whole and one in parts, 3 times
    assert found.created["queue"] == 6 and "made during runs  6 queue" in found.text()


@pytest.mark.parametrize("counts", [(0, 1), (1, -1)])
def test_bench_checks_its_counts(session, counts):
    with pytest.raises(InputError, match="needed at least 1 and 0"):
        timing.bench(session, feed(), *counts)


def test_bench_of_a_closed_session(session):
    session.close()
    with pytest.raises(DeviceError, match="is closed"):
        timing.bench(session, feed())


# arrays and texts

def test_difference_is_relative_to_the_range():
    found = arrays.difference("y", np.float32([0, 5, 10.5]), np.float32([0, 5, 10]))
    assert (found.max_abs, found.relative, found.top1) == (0.5, 0.05, 1)
    assert found.snr_db == pytest.approx(10 * np.log10(125 / 0.25))


@pytest.mark.parametrize("found, expected, relative", [
    ([4, 4], [2, 2], 1.0),             # no range: the magnitude
    ([0.5, 0], [0, 0], 0.5),           # all zero: absolute
    ([1, np.nan], [1, np.nan], 0.0),
    ([1, 2], [1, np.nan], np.inf),
    ([1, np.inf], [1, -np.inf], np.inf),
    ([1, np.nan], [1, 2], np.inf)])
def test_difference_of_odd_arrays(found, expected, relative):
    assert arrays.difference("y", np.float32(found), np.float32(expected)).relative == relative


def test_equal_arrays_have_infinite_snr():
    assert arrays.difference("y", np.arange(3), np.arange(3)).snr_db == np.inf


def test_difference_of_bytes_does_not_wrap():
    assert arrays.difference("y", np.uint8([0, 255]), np.uint8([255, 0])).max_abs == 255


def test_top1_is_a_share_of_rows():
    expected = np.float32([[1, 2], [2, 1]])
    assert arrays.difference("y", np.float32([[1, 2], [1, 2]]), expected).top1 == 0.5
    assert arrays.difference("y", np.zeros((2, 2, 2)), np.zeros((2, 2, 2))).top1 is None


def test_difference_needs_equal_shapes():
    with pytest.raises(InputError, match=r"\(1, 2\) and \(2,\)"):
        arrays.difference("y", np.zeros((1, 2)), np.zeros(2))


@pytest.mark.parametrize("dtype, low, high", [
    ("float32", -10, 10), ("float64", -10, 10), ("int8", -128, 127), ("uint8", 0, 255),
    ("int32", 0, 1), ("int64", 0, 1), ("bool", 0, 1)])
def test_random_inputs(dtype, low, high):
    info = TensorInfo("x", (40, 50), np.dtype(dtype))
    x, again = (arrays.random_inputs([info], seed=3)["x"] for _ in range(2))
    assert x.dtype == dtype and x.shape == (40, 50) and low <= x.min() < x.max() <= high
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(x, arrays.random_inputs([info], seed=4)["x"])


@pytest.mark.parametrize("count, shown", [
    (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB"),
    (-2048, "-2.0 KiB")])
def test_size(count, shown):
    assert text.size(count) == shown


@pytest.mark.parametrize("ns, shown", [
    (0, "0 ns"), (999, "999 ns"), (999_700, "1 ms"), (12_500, "12.5 us"), (3.21e6, "3.21 ms"),
    (1.2e9, "1.20 s")])
def test_duration(ns, shown):
    assert text.duration(ns) == shown


def test_json_has_no_values_that_json_lacks():
    document = {"a": np.float32("nan"), "b": (np.int64(1), np.inf), "c": np.arange(2)}
    assert json.loads(text.json_text(document)) == {"a": None, "b": [1, None], "c": [0, 1]}


def test_control_characters_do_not_reach_a_terminal():
    assert text.clean("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert text.table(("name",), [("x" * 60,)], left=(0,))[1] == "x" * 41 + "..."
