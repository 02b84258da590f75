"""Side by side with other runtimes: turns, ratios, errors that become rows, the page."""
from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgerun import arrays, timing
from edgerun.errors import EdgerunError, InputError
from edgerun.tools.compare import (
    bandwidth, convert, files as files_module, process as process_module, report, show, suite)
from edgerun.tools.compare.__main__ import main
from edgerun.tools.compare.files import Files, NoFile, Source
from edgerun.tools.compare.measure import Result, Turns, difference, runners
from edgerun.tools.compare.plot import plot, points
from edgerun.tools.compare.process import Process, WorkerError
from edgerun.tools.compare.ratios import BEST, geometric_mean, ratios, summary

ROOT = Path(__file__).resolve().parents[1]
MS = 1_000_000


class FakeFiles:
    """Has every file but those for ncnn."""

    def file(self, source, runtime, precision):
        if runtime == "ncnn":
            raise NoFile("its converter is missing")
        return Path(f"{source.name}.{runtime}.{precision}")


class FakeProcess:
    """A worker whose times are given by the runtime: ms of each run, or an error."""
    latency = {"edgerun": 2.0, "onnxruntime": 3.0, "litert": "no such op", "openvino": 1.0}
    log: list[tuple[str, dict]] = []
    slower = 0  # ns, from run to run of a turn

    def __init__(self, threads):
        self.runtime, self.turns = "", 0

    def ask(self, request, limit_s=0.0):
        self.runtime = request.get("runtime", self.runtime)
        self.log.append((self.runtime, request))
        ms = self.latency[self.runtime]
        if isinstance(ms, str):
            raise WorkerError(ms)
        if "runtime" in request:
            return {"version": "1", "facts": {"launches": 7}, "load_ns": 5, "first_ns": 6,
                    "pss_bytes": 1000}
        if "outputs" in request:
            np.savez(request["outputs"], np.full(4, ms, np.float32))
            return {}
        self.turns += 1
        drift = 1 + self.turns / 10  # the machine becomes slower from round to round
        times = [int(ms * drift * MS) + self.slower * i for i in range(request["runs"])]
        return {"ns": times}

    def close(self):
        self.log.append((self.runtime, {"close": True}))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(FakeProcess, "log", [])
    return FakeProcess.log


def source(name="net", quantized=False):
    return Source(name, Path("net.onnx"), quantized, Path("in.npz"), Path("samples.npz"))


def measured(fakes, peers=("onnxruntime", "litert", "openvino", "ncnn"), rounds=6):
    turns = Turns(source(), runners(("fp32",), (None,), peers), FakeFiles(), 2, FakeProcess)
    turns.measure(rounds)
    turns.compare_outputs()
    turns.close()
    return turns.results


def test_turns_alternate(fakes):
    results = measured(fakes)
    order = [name for name, request in fakes if request.get("runs", 0) > 3]
    rounds = [order[i:i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 6 and all(
        sorted(turn) == ["edgerun", "onnxruntime", "openvino"] for turn in rounds)
    assert len({turn[0] for turn in rounds}) == 3  # everybody is the first at times
    assert [len(r.turns_ns) for r in results] == [6, 6, 0, 6, 0]
    assert fakes.count(("edgerun", {"close": True})) == 1


def test_the_start_of_a_turn_is_not_measured(fakes, monkeypatch):
    monkeypatch.setattr(FakeProcess, "slower", 1000)
    own = measured(fakes, rounds=1)[0]
    # runs of 2 ms and more: 2 make 3 ms, which are not measured, 14 or 15 then 30 ms
    runs = next(request["runs"] for name, request in fakes if request.get("runs", 0) > 3)
    assert runs == own.runs + 2
    first = 2 * 1.2 * MS  # the machine has become slower once before
    assert own.turns_ns == [first + 1000 * (2 + (own.runs - 1) / 2)]


def test_what_cannot_run_gets_a_row_that_says_why(fakes):
    results = measured(fakes)
    assert {r.runtime: r.error for r in results if r.error} == {
        "litert": "no such op", "ncnn": "its converter is missing"}
    shown = show.rows(results, ratios(results))
    assert ["no such op"] == [row[-1] for row in shown if row[2] == "litert"]
    assert all("error" in r.as_dict() and "median_ns" not in r.as_dict() for r in results
               if r.error)


def test_an_error_in_a_turn_ends_that_runtime_only(fakes, monkeypatch):
    ask = FakeProcess.ask

    def fails_later(self, request, limit_s=0.0):
        if self.runtime == "openvino" and self.turns == 3:
            raise WorkerError("the process ended with signal 11")
        return ask(self, request, limit_s)

    monkeypatch.setattr(FakeProcess, "ask", fails_later)
    results = {r.runtime: r for r in measured(fakes)}
    assert "signal 11" in results["openvino"].error and not results["onnxruntime"].error
    assert {r.peer for r in ratios(list(results.values()))} == {"onnxruntime"}


def test_ratios_are_above_one_where_edgerun_is_faster(fakes):
    found = {r.peer: r for r in ratios(measured(fakes))}
    assert found["onnxruntime"].value == pytest.approx(1.5)  # drift cancels out
    assert found["openvino"].value == pytest.approx(0.5)
    assert found["onnxruntime"].low == pytest.approx(found["onnxruntime"].high)


def result(model, runtime, precision, device, *ms, error=""):
    return Result(model, runtime, precision, device, turns_ns=[m * MS for m in ms], error=error)


def test_ratios_by_device_and_precision():
    found = ratios([
        result("a", "edgerun", "fp32", "x", 4, 4, 4), result("a", "edgerun", "fp32", "y", 2, 2, 2),
        result("a", "edgerun", "int8", "x", 1, 1, 1), result("a", "edgerun", "int8", "y", 8, 8, 8),
        result("a", "peer", "fp32", None, 3, 6, 3), result("a", "peer", "int8", None, 2, 2, 2)])
    values = {(r.precision, r.peer, r.device): r.value for r in found}
    assert values == {
        ("fp32", "peer", "x"): 0.75, ("fp32", "peer", "y"): 1.5, ("fp32", "peer", BEST): 1.5,
        ("int8", "peer", "x"): 2.0, ("int8", "peer", "y"): 0.25, ("int8", "peer", BEST): 2.0,
        ("int8", "edgerun fp32", "x"): 4.0, ("int8", "edgerun fp32", "y"): 0.25,
        ("int8", "edgerun fp32", BEST): 4.0}


def test_summary():
    found = ratios([result("a", "edgerun", "fp32", "x", 1), result("a", "peer", "fp32", None, 2),
                    result("b", "edgerun", "fp32", "x", 1), result("b", "peer", "fp32", None, 8)])
    entry, = summary(found)
    assert entry["geometric_mean"] == pytest.approx(4) and entry["models"] == 2
    assert entry["smallest"] == 2 and entry["smallest_model"] == "a"
    assert geometric_mean([1, 100]) == pytest.approx(10)


def test_difference():
    wanted = [np.array([3.0, 4.0], np.float32)]
    assert difference(wanted, wanted) == 0
    assert difference([np.array([[3.0], [9.0]])], wanted) == pytest.approx(1)
    assert difference([np.zeros(3)], wanted) is None


def test_quantized_models_keep_their_precision():
    assert source(quantized=True).precisions(("fp32", "int8")) == ("source",)
    assert source().precisions(("fp32", "int8")) == ("fp32", "int8")


# processes

WORKER = """
import json, sys, os, time
for line in sys.stdin:
    request = json.loads(line)
    if request.get("end"): os._exit(request["end"])
    if request.get("sleep"): time.sleep(request["sleep"])
    print(json.dumps(request.get("answer", {"pid": os.getpid(),
                     "cpus": len(os.sched_getaffinity(0)),
                     "units": os.environ["POCL_MAX_PTHREAD_COUNT"]})), flush=True)
"""


@pytest.fixture
def process():
    found = Process(1, [sys.executable, "-c", textwrap.dedent(WORKER)])
    yield found
    found.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_stands_still_while_it_is_not_its_turn(process):
    for _ in range(2):
        answer = process.ask({})
        for _ in range(100):
            if state(answer["pid"]) == "T":
                break
            time.sleep(0.01)
        assert state(answer["pid"]) == "T"
    assert answer["cpus"] == 1 and answer["units"] == "1"


def test_a_worker_that_ends(process):
    with pytest.raises(WorkerError, match="ended with status 3"):
        process.ask({"end": 3})


def test_a_worker_that_is_slow(process):
    with pytest.raises(WorkerError, match=r"no answer in 0\.3 s"):
        process.ask({"sleep": 30}, 0.3)


def test_a_worker_that_answers_with_an_error(process):
    with pytest.raises(WorkerError, match="it is broken"):
        process.ask({"answer": {"error": "it is\nbroken"}})


@pytest.mark.parametrize("stays_s, kept", [(0, True), (30, False)])
def test_a_worker_may_finish_when_it_is_closed(tmp_path, monkeypatch, stays_s, kept):
    """As programs do that keep what they compiled when they end; but not for ever."""
    monkeypatch.setattr(process_module, "END_S", 0.5 if stays_s else 20.0)
    text = f"import time\ntime.sleep({stays_s})\nopen({str(tmp_path / 'kept')!r}, 'w')\n"
    worker = Process(1, [sys.executable, "-c", textwrap.dedent(WORKER) + text])
    worker.ask({})
    started = time.monotonic()
    worker.close()
    worker.close()
    assert (tmp_path / "kept").exists() == kept and time.monotonic() - started < 15


def test_a_worker_with_caches_of_its_own(tmp_path):
    found = process_module.environment(2, tmp_path)
    for name in ("EDGERUN_CACHE_DIR", "POCL_CACHE_DIR", "XDG_CACHE_HOME"):
        assert Path(found[name]).is_dir() and Path(found[name]).parent == tmp_path
        assert process_module.environment(2).get(name) == os.environ.get(name)


# files

def test_files_are_made_once(tmp_path, monkeypatch):
    files = Files(tmp_path)
    found = files.source("mlp")
    assert found.path.is_file() and not found.quantized
    with np.load(found.inputs) as one, np.load(found.samples) as several:
        assert one["image"].shape == (1, 784) and several["image"].shape == (4, 1, 784)
    packed = files.file(found, "edgerun", "int8")
    monkeypatch.setattr(Files, "_convert", lambda *_, **__: pytest.fail("converted again"))
    assert Files(tmp_path).file(found, "edgerun", "int8") == packed
    assert files.file(found, "onnxruntime", "fp32") == found.path


def test_inputs_may_have_any_name(tmp_path):
    """numpy.savez() takes names as keywords, and has some of its own."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["file"], ["y"])], "names",
        [onnx.helper.make_tensor_value_info("file", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])])
    onnx.save(onnx.helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    request = {name: str(tmp_path / name) for name in ("samples", "inputs", "out")}
    convert.inputs({"source": str(tmp_path / "m.onnx")} | request)
    assert {name: array.shape for name, array in arrays.read_npz(request["samples"]).items()} == \
        {"file": (4, 1, 3)}
    assert arrays.read_npz(request["inputs"])["file"].shape == (1, 3)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    """The page, its picture and the files of numbers appear whole or not at all."""
    for path in (ROOT / "docs" / "performance").glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    out = tmp_path / "page.md"
    assert report.main([str(tmp_path), str(out)]) == 0
    before = {path: path.read_bytes() for path in (out, out.with_suffix(".svg"))}
    monkeypatch.setattr("edgerun.files.os.fsync", raising)
    with pytest.raises(EdgerunError, match="nothing was changed"):
        report.main([str(tmp_path), str(out)])
    with pytest.raises(EdgerunError, match="nothing was changed"):
        plot(report._results([report.read(tmp_path)["precisions-alexnet"]]),
             out.with_suffix(".svg"))
    assert {path: path.read_bytes() for path in before} == before


def raising(*_) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("runtime, precision, why", [
    ("litert", "fp32", "reads .tflite"), ("onnxruntime", "int16", "edgerun's own"),
    ("mnn", "int8", "in fp32 only")])
def test_what_a_runtime_does_not_read(tmp_path, runtime, precision, why):
    with pytest.raises(NoFile, match=why):
        Files(tmp_path).file(source(), runtime, precision)


def test_a_conversion_that_fails_is_tried_once(tmp_path, monkeypatch):
    files, broken = Files(tmp_path), tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    given = Source("broken", broken, False, tmp_path / "in.npz", tmp_path / "samples.npz")
    with pytest.raises(NoFile, match="ModelError"):
        files.file(given, "edgerun", "fp32")
    monkeypatch.setattr(files_module.subprocess, "run", lambda *_, **__: pytest.fail("again"))
    with pytest.raises(NoFile, match="ModelError"):
        files.file(given, "edgerun", "fp32")


def test_unknown_models(tmp_path, capsys):
    with pytest.raises(InputError, match="neither a file nor one of resnet18"):
        Files(tmp_path).source("resnet19")
    assert main(["resnet19", "--folder", str(tmp_path)]) == 1
    assert "neither a file nor" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--peers", "tensorrt", "mlp"], ["--precision", "int4", "mlp"]])
def test_wrong_command_lines(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and "is not one of" in capsys.readouterr().err


def test_against_onnx_runtime(tmp_path, capsys, device):
    """The whole path: convert, two processes, turns, outputs that agree, JSON, tables."""
    out = tmp_path / "out.json"
    threads = device.facts.compute_units
    assert main(["mlp", "--peers", "onnxruntime", "--precision", "fp32,int8", "--rounds", "2",
                 "--threads", str(threads), "--device", device.info.platform.split("(")[0],
                 "--folder", str(tmp_path), "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    results = document["results"]
    assert [(r["runtime"], r["precision"], r["error"]) for r in results] == [
        ("edgerun", "fp32", ""), ("edgerun", "int8", ""), ("onnxruntime", "fp32", ""),
        ("onnxruntime", "int8", "")]
    assert all(len(r["turns_ns"]) == 2 and r["median_ns"] > 0 and r["first_ns"] > 0
               for r in results)
    assert results[2]["difference"] < 1e-5 and results[3]["difference"] < 0.05
    assert {(r["precision"], r["peer"]) for r in document["ratios"]} == {
        ("fp32", "onnxruntime"), ("int8", "onnxruntime"), ("int8", "edgerun fp32")}
    assert document["machine"]["threads"] == threads
    shown = capsys.readouterr().out
    assert "peer / edgerun" in shown and "geometric mean" in shown


# the page

def test_page_is_what_the_files_give():
    parts = report.read(ROOT / "docs" / "performance")
    assert (ROOT / "docs" / "performance.md").read_text() == report.page(parts), \
        "docs/performance.md is not what 'python -m edgerun.tools.compare.report' writes"


def test_the_files_are_whole_and_name_no_machine():
    folder = ROOT / "docs" / "performance"
    assert {"tried"} < {path.stem for path in folder.glob("*.json")} <= {*suite.PARTS, "tried"}
    for path in folder.glob("*.json"):
        assert not [word for word in ("/tmp", "/work", "/root", "/home") if word in
                    path.read_text()], path.name


def test_parts_of_the_suite():
    assert len(suite.PARTS) == len(set(suite.PARTS))
    assert suite.find(None, "resnet18") == "resnet18" and suite.find(None, "a.onnx") is None
    with pytest.raises(InputError, match=r"has no nothing\.onnx"):
        suite.find(ROOT / "docs", "nothing.onnx")


# memory

def test_shares_are_of_the_faster_bound_and_of_the_same_round():
    """The machine is three times slower in the last round, for the op and its bounds alike."""
    found = bandwidth.shares([200, 100, 600], 1000, {False: (2000, [300, 300, 900]),
                                                     True: (500, [50, 40, 150])})
    assert found == {"ns": 200, "bound_ns": 100, "share": 0.5, "low": pytest.approx(0.5),
                     "high": pytest.approx(0.65), "past_caches": 1}
    assert bandwidth.shares([10], 64, {False: (128, [10])})["share"] == 0.5


def test_bandwidth_counts_what_ops_move(device, monkeypatch):
    monkeypatch.setattr(bandwidth, "TENSOR", 1 << 20)
    cases = [*bandwidth.CASES[:2], bandwidth._dense(256, 1024)]
    found = bandwidth.measure(device, 3, cases)
    assert [(r["op"], r["bound"]) for r in found] == [
        ("relu", "read, write"), ("add", "read twice, write"),
        ("dense 256->1024, batch 1", "read")]
    assert [r["bytes"] for r in found] == [2 << 20, 3 << 20, 4 * (256 * 1024 + 256 + 1024)]
    # small, from caches, on a machine that does other things: right but for a factor
    assert all(0.02 < r["share"] < 50 and r["low"] <= r["share"] <= r["high"] for r in found)
    monkeypatch.setattr(bandwidth, "_turns", lambda _, launches, rounds: dict.fromkeys(
        launches, rounds * [1000]))
    for r in bandwidth.measure(device, 3, cases):  # as fast as a bound that moves as much
        assert r["share"] == pytest.approx(1, rel=0.01)


def test_a_case_is_the_op_that_it_names(device, monkeypatch):
    monkeypatch.setattr(bandwidth, "TENSOR", 1 << 12)
    with bandwidth.session_of(bandwidth.CASES[0], device) as session:
        x = np.linspace(-1, 1, 1 << 10, dtype=np.float32)
        assert np.array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
        assert timing.op_bytes(session.model.ops[0]) == 2 << 12


def test_bandwidth_on_the_command_line(monkeypatch, capsys):
    row = {"op": "relu", "bound": "read, write", "bytes": 2 << 20, "ns": 4e4, "bound_ns": 3e4,
           "share": 0.75, "low": 0.7, "high": 0.8, "past_caches": 1}
    asked = []

    def measure(device, rounds):
        asked.append(rounds)
        return [row]
    monkeypatch.setattr(bandwidth, "measure", measure)
    assert bandwidth.main(["--rounds", "9"]) == 0
    shown = capsys.readouterr().out
    assert "75 (70 to 80)" in shown and "52.4" in shown and "69.9" in shown
    assert bandwidth.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"] == [row]
    assert asked == [9, bandwidth.ROUNDS]
    assert bandwidth.main(["--device", "voodoo"]) == 1
    assert "voodoo" in capsys.readouterr().err


# tinygrad

def test_tinygrad_starts_from_empty_caches_and_from_filled_ones(monkeypatch, fakes):
    folders, processes = [], []

    class Starting(FakeProcess):
        def __init__(self, threads, caches):
            super().__init__(threads)
            folders.append(caches)
            processes.append(self)

        def ask(self, request, limit_s=0.0):
            answer = super().ask(request, limit_s)
            if "runtime" in request:
                answer["load_ns"] = 100 * MS if len(processes) <= 3 else 10 * MS
            return answer

    monkeypatch.setitem(FakeProcess.latency, "tinygrad", 40.0)
    monkeypatch.setattr(suite, "Process", Starting)
    monkeypatch.setattr(FakeFiles, "source", lambda self, name: source(name), raising=False)
    found = suite.Suite(FakeFiles(), None, ["x", "y"], 2)._tinygrad("net")
    assert [(r["runtime"], r["device"], r["error"]) for r in found] == [
        ("edgerun", "x", ""), ("edgerun", "y", ""), ("tinygrad", None, "")]
    assert len({*folders}) == 1 and len(folders) == 6 and not folders[0].exists()
    assert all(r["empty_ns"] == 100 * MS + 6 and r["load_ns"] == 10 * MS for r in found)
    lines = report._starts([{**r, "load_ns": r["load_ns"] * (1 + (r["runtime"] == "tinygrad"))}
                            for r in found])
    assert lines[2].startswith("| net | edgerun, x | 100 (1.0) | 10 (2.0) |")
    assert "(20.0)" in lines[2] and "(" not in lines[4]


def test_points_of_the_plot():
    own = Result("a", "edgerun", "fp32", "x", facts={"arena_bytes": 2**20, "weight_bytes": 2**20},
                 pss_bytes=3 * 2**20, turns_ns=[2 * MS])
    found = points([own.as_dict(), result("a", "peer", "fp32", None, error="no").as_dict()])
    assert found == [{"model": "a", "runtime": "edgerun", "precision": "fp32",
                      "label": "edgerun (x)", "ms": 2.0, "mib": 3.0, "planned_mib": 2.0}]


def test_classes_of_layers():
    assert report.layer_class({"code": "conv2d", "shape": "3x3/2 64->128 28x28"}) == "conv2d 3x3/2"
    assert report.layer_class({"code": "dense", "shape": "512->1000 1"}) == "dense"
