"""The command line: what each command prints, its exit status, and its one line on every error."""
import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun import __main__, arrays, cli
from edgerun.__main__ import HOST, main
from tests import models

ROOT = Path(__file__).resolve().parents[1]
X = np.array([[-1, 0, 1], [2, 4, -8]], np.float32)
COMMANDS = ("pack", "run", "info", "memory", "bench", "verify", "devices", "demo", "planes")


@pytest.fixture
def tiny(tmp_path):
    return models.shift_relu(tmp_path / "tiny.edge")


@pytest.fixture
def inputs(tmp_path):
    np.savez(tmp_path / "in.npz", x=X)
    return tmp_path / "in.npz"


@pytest.fixture
def source(tmp_path):
    return write_onnx(tmp_path / "tiny.onnx")


def write_onnx(path: Path, shift=models.SHIFT, rows: int | str = 2, name: str = "x") -> Path:
    """The source model of models.shift_relu."""
    graph = helper.make_graph(
        [helper.make_node("Add", [name, "shift"], ["shifted"]),
         helper.make_node("Relu", ["shifted"], ["y"])], "shift_relu",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])],
        [numpy_helper.from_array(np.float32(shift), "shift")])
    opset = helper.make_opsetid("", 13)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def call(capsys, *arguments) -> tuple[int, str, str]:
    """Run a command in this process; returns exit status, stdout, stderr."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *arguments) -> str:
    """Run a command that must fail with one line; returns the line without "edgerun: "."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("edgerun: ") and err.count("\n") == 1 and err.endswith("\n")
    return err[len("edgerun: "):-1]


def usage(capsys, *arguments) -> str:
    """Run a command line that argparse must refuse; returns stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def process(*arguments, code: str = "", **environment) -> subprocess.CompletedProcess:
    """Run a command in a process that chooses its driver itself."""
    environ = {key: value for key, value in os.environ.items()
               if key not in ("OCL_ICD_VENDORS", "EDGERUN_DEVICE")} | environment
    start = ["-c", code] if code else ["-m", "edgerun"]
    return subprocess.run([sys.executable, *start, *map(str, arguments)], cwd=ROOT, env=environ,
                          capture_output=True, text=True)


# help and usage

@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"usage: edgerun {command}" in shown and f"\n  edgerun {command}" in shown


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"    {command} " in shown for command in COMMANDS)
    assert "EDGERUN_DEVICE" in shown and "exit status" in shown


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == "edgerun 0.1.0\n"


@pytest.mark.parametrize("arguments", [
    (), ("frobnicate",), ("info",), ("info", "a", "b"), ("bench", "a", "--runs", "0"),
    ("bench", "a", "--runs", "many"), ("bench", "a", "--warmup", "-1"), ("pack", "a.onnx"),
    ("pack", "a.onnx", "-o", "b", "--shape", "x"), ("pack", "a.onnx", "-o", "b", "--shape", "x=0"),
    ("pack", "a.onnx", "-o", "b", "--shape", "x=1,a"),
    ("pack", "a.onnx", "-o", "b", "--precision", "fp8"),
    ("verify", "a", "--aga", "b")])
def test_wrong_usage(capsys, arguments):
    assert "usage: edgerun" in usage(capsys, *arguments)


# info

def test_info(capsys, tiny):
    status, out, err = call(capsys, "info", tiny)
    assert (status, err) == (0, "")
    for line in ("source         shift_relu.onnx", "precision      fp32",
                 "input   x     2x3    fp32", "output  y     2x3    fp32",
                 " 0  binary  shifted    2x3     fp32        12",
                 " 1  unary   rectified  2x3     fp32"):
        assert line in out


def test_info_json(capsys, tiny):
    status, out, _ = call(capsys, "info", tiny, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["inputs"] == [{"name": "x", "shape": [2, 3], "dtype": "fp32", "perm": [],
                                "device_dtype": "fp32", "pieces": 0}]
    assert [(op["code"], op["weight_bytes"], op["shape"]) for op in found["ops"]] == [
        ("binary", 12, [2, 3]), ("unary", 0, [2, 3])]
    assert found["segments"][0]["file_offset"] % 4096 == 0
    assert {(t["place"], t["dtype"]): t["bytes"] for t in found["tensors"]}[
        ("constant", "fp32")] == 12
    assert found["plan"]["arena_bytes"] >= found["plan"]["lower_bound_bytes"] > 0
    assert found["file_bytes"] == tiny.stat().st_size


@pytest.mark.parametrize("command", [("info",), ("memory", "--no-run")])
def test_what_needs_no_device_imports_no_opencl(tiny, command):
    code = ("import sys; from edgerun.__main__ import main; status = main(sys.argv[1:])\n"
            "assert not {m for m in sys.modules if 'pyopencl' in m or 'edgerun.tools' in m}\n"
            "sys.exit(status)")
    result = process(command[0], tiny, *command[1:], code=code)
    assert (result.returncode, result.stderr) == (0, "")


def test_names_cannot_command_the_terminal(capsys, tmp_path):
    path = models.shift_relu(tmp_path / "evil.edge", x="x\x1b]0;owned\x07")
    _, out, _ = call(capsys, "info", path)
    assert "\x1b" not in out and "\x07" not in out and "x\\x1b]0;owned\\x07" in out


def test_ascii_terminal(tmp_path):
    path = models.shift_relu(tmp_path / "umlaut.edge", x="größe")
    result = process("info", path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and "gr\\xf6\\xdfe" in result.stdout


# run

def test_run(capsys, tiny, inputs, tmp_path, device):
    out = tmp_path / "out.npz"
    assert call(capsys, "run", tiny, "--inputs", inputs, "--outputs", out, "--device",
                device.info.platform) == (0, "", "")
    with np.load(out, allow_pickle=False) as loaded:
        assert loaded.files == ["y"] and loaded["y"].dtype == np.float32
        np.testing.assert_array_equal(loaded["y"], models.expected(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.npz", "tiny.edge"]


def test_run_with_names_that_numpy_keeps_for_itself(capsys, tmp_path, device):
    path = models.shift_relu(tmp_path / "m.edge", x="file", y="scope/allow_pickle:0")
    arrays.write_npz(tmp_path / "in.npz", {"file": X})
    assert call(capsys, "run", path, "--inputs", tmp_path / "in.npz", "--outputs",
                tmp_path / "out.npz", "--device", device.info.platform) == (0, "", "")
    np.testing.assert_array_equal(arrays.read_npz(tmp_path / "out.npz")["scope/allow_pickle:0"],
                                  models.expected(X))


def test_run_tells_what_it_needs(capsys, tiny, inputs):
    assert fails(capsys, "run", tiny).endswith("needed the arrays 'x' (2, 3) float32")
    assert fails(capsys, "run", tiny, "--inputs", inputs).endswith(
        "needed a file for 'y' (2, 3) float32")


@pytest.mark.parametrize("given, message", [
    ({"z": X}, "unknown input 'z': the model has 'x'"),
    ({}, "missing input 'x': the model needs 'x'"),
    ({"x": X, "extra": X}, "unknown input 'extra'"),
    ({"x": X[:1]}, "has the shape (1, 3), needed (2, 3)"),
    ({"x": X.astype(np.float64)}, "the array is float64, needed float32"),
    ({"x": np.full_like(X, np.inf)}, "6 of 6 values are not finite numbers")])
def test_run_refuses_wrong_inputs(capsys, tiny, tmp_path, device, given, message):
    np.savez(tmp_path / "in.npz", **given)
    out = tmp_path / "out.npz"
    assert message in fails(capsys, "run", tiny, "--inputs", tmp_path / "in.npz", "--outputs", out,
                            "--device", device.info.platform)
    assert not out.exists()


def _truncated(path):
    np.savez(path, x=np.random.default_rng(0).standard_normal((100, 100)))
    path.write_bytes(path.read_bytes()[:2000])


def _flipped(path):
    np.savez_compressed(path, x=np.arange(1000))
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)


def _encrypted(path):
    np.savez(path, x=X)
    data = bytearray(path.read_bytes())
    for at in (6, data.index(b"PK\1\2") + 8):  # the flags of the member, in both places
        data[at] |= 1
    path.write_bytes(data)


def _unfinished_header(path):
    header = b"{'descr': '<f4', ('".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + np.uint16([len(header)]).tobytes() + header)


@pytest.mark.parametrize("write, message", [
    (lambda path: path.write_text("hello"), "is not an .npz file of plain arrays"),
    (lambda path: path.write_bytes(b""), "is not an .npz file of plain arrays"),
    (lambda path: np.save(path.open("wb"), X), "is one array (.npy), needed an .npz file"),
    (lambda path: np.savez(path, x=np.array([{}], object)), "is not an .npz file of plain arrays"),
    (_truncated, "is not an .npz file of plain arrays"),
    (_flipped, "is not an .npz file of plain arrays"),
    (_encrypted, "is not an .npz file of plain arrays"),
    (_unfinished_header, "is not an .npz file of plain arrays"),
    (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    (lambda path: None, "cannot be read: No such file or directory")])
def test_run_refuses_files_that_are_no_npz(capsys, tiny, tmp_path, write, message):
    path = tmp_path / "bad.npz"
    write(path)
    assert message in fails(capsys, "run", tiny, "--inputs", path, "--outputs", tmp_path / "o.npz")


def test_run_refuses_outputs_that_cannot_be_written(capsys, tiny, inputs, tmp_path, monkeypatch):
    assert "there is no folder" in fails(capsys, "run", tiny, "--inputs", inputs, "--outputs",
                                         tmp_path / "missing" / "out.npz")
    assert "is a folder" in fails(capsys, "run", tiny, "--inputs", inputs, "--outputs", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "is read-only" in fails(capsys, "run", tiny, "--inputs", inputs, "--outputs",
                                   tmp_path / "out.npz")


def test_run_on_a_full_disk_leaves_nothing_behind(capsys, tiny, inputs, tmp_path, device,
                                                  monkeypatch):
    out = tmp_path / "out.npz"
    out.write_bytes(b"what was there before")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    message = fails(capsys, "run", tiny, "--inputs", inputs, "--outputs", out, "--device",
                    device.info.platform)
    assert "No space left on device" in message and "nothing was changed" in message
    assert out.read_bytes() == b"what was there before"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# wrong models and devices

@pytest.mark.parametrize("command", ["run", "info", "memory", "bench", "verify"])
def test_missing_and_damaged_models(capsys, tiny, tmp_path, command):
    assert "cannot be read: No such file" in fails(capsys, command, tmp_path / "none.edge")
    (tmp_path / "damaged.edge").write_bytes(tiny.read_bytes()[:4096])
    assert "damaged.edge: " in fails(capsys, command, tmp_path / "damaged.edge")


@pytest.mark.parametrize("arguments", [
    ("run", "--inputs", "in.npz", "--outputs", "out.npz"), ("memory",), ("bench",)])
def test_unknown_device(capsys, tiny, inputs, monkeypatch, arguments):
    monkeypatch.chdir(tiny.parent)
    message = fails(capsys, arguments[0], tiny, *arguments[1:], "--device", "frobnicator 9")
    assert "no OpenCL device is meant by 'frobnicator 9', there are: 0: " in message


@pytest.mark.parametrize("arguments", [
    ("run", "TINY", "--inputs", "INPUTS", "--outputs", "out.npz"), ("memory", "TINY"),
    ("bench", "TINY"), ("devices",)])
def test_without_a_driver_every_command_says_what_to_install(tiny, inputs, tmp_path, arguments):
    empty = tmp_path / "empty"
    empty.mkdir()
    names = {"TINY": tiny, "INPUTS": inputs}
    result = process(*(names.get(a, a) for a in arguments), OCL_ICD_VENDORS=f"{empty}/")
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("edgerun: no OpenCL driver found: install one: 'apt install ")


# devices

def test_devices(capsys, device):
    status, out, err = call(capsys, "devices", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    mine = [entry for entry in found["devices"] if entry["platform"] == device.info.platform]
    assert mine[0]["name"] == device.info.name and mine[0]["kind"] == "cpu"
    assert {"index", "version", "compute_units", "memory_bytes", "unified_memory",
            "fp16"} < {*mine[0]}
    assert found["chosen"] in [entry["index"] for entry in found["devices"]]
    assert found["drivers"]
    _, out, _ = call(capsys, "devices")
    assert device.info.name in out and "* is taken unless" in out


def test_devices_when_the_environment_means_none(capsys, monkeypatch):
    monkeypatch.setenv("EDGERUN_DEVICE", "frobnicator")
    status, out, err = call(capsys, "devices", "--json")
    found = json.loads(out)
    assert status == 1 and found["devices"] and found["chosen"] is None
    assert err.startswith("edgerun: no OpenCL device is meant by 'frobnicator'")


def test_device_names_choose_the_driver(tiny, device):
    """By --device, by EDGERUN_DEVICE, and by the name of the driver that `devices` lists."""
    from edgerun import drivers
    name = "pocl" if "Portable" in device.info.platform else "intel-cpu"
    assert name in [driver.name for driver in drivers.found()]
    for result in (process("bench", tiny, "--runs", "1", "--json", "--device", name),
                   process("bench", tiny, "--runs", "1", "--json", EDGERUN_DEVICE=name)):
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["platform"] == device.info.platform


def test_devices_names_the_drivers_that_the_loader_does_not_see():
    """The Intel runtime that pip installs is in no folder that a loader reads."""
    from edgerun import drivers
    if drivers.intel_cpu_runtime() is None:
        pytest.skip("needs pip install intel-opencl-rt intel-cmplr-lib-rt")
    result = process("devices", "--json", EDGERUN_DEVICE="pocl")
    found = json.loads(result.stdout)
    assert found["environment"] == {"EDGERUN_DEVICE": "pocl"}  # not what edgerun sets itself
    assert {d["name"]: d["seen_by_loader"] for d in found["drivers"]}["intel-cpu"] is False
    shown = process("devices", EDGERUN_DEVICE="pocl").stdout
    assert "driver on disk, opened by --device intel-cpu: " in shown
    opened = json.loads(process("devices", "--json", EDGERUN_DEVICE="intel-cpu").stdout)
    assert {d["name"]: d["seen_by_loader"] for d in opened["drivers"]}["intel-cpu"] is True


# memory and bench

def test_memory(capsys, tiny, device):
    status, out, err = call(capsys, "memory", tiny, "--json", "--device", device.info.platform)
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["planned"]["constants"] == {"fp32": 12}
    assert found["allocated"]["categories"]["arena"] == found["planned"]["arena_bytes"]
    assert found["measured"]["stages"]["steady"]["pss_bytes"] > 0
    _, out, _ = call(capsys, "memory", tiny, "--device", device.info.platform)
    assert all(part in out for part in ("planned (from", "allocated (asked", "measured (/proc"))


def test_memory_of_the_plan_alone(capsys, tiny):
    status, out, _ = call(capsys, "memory", tiny, "--no-run", "--json")
    found = json.loads(out)
    assert status == 0 and found["allocated"] == found["measured"] == {}
    assert found["planned"]["peak"]["tensors"]


def test_bench(capsys, tiny, inputs, device):
    status, out, err = call(capsys, "bench", tiny, "--runs", "4", "--warmup", "0", "--per-op",
                            "--inputs", inputs, "--device", device.info.platform, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert (found["runs"], found["warmup"], found["launches"]) == (4, 0, 2)
    assert [op["name"] for op in found["ops"]] == ["shifted", "rectified"]
    _, out, _ = call(capsys, "bench", tiny, "--runs", "2", "--device", device.info.platform)
    assert "2 runs after 5 of warm-up" in out and "enqueue" in out and "GB/s" not in out
    assert "2 launches as 1 command" in out


def test_bench_with_wrong_inputs(capsys, tiny, tmp_path, device):
    np.savez(tmp_path / "in.npz", y=X)
    assert "unknown input 'y'" in fails(capsys, "bench", tiny, "--inputs", tmp_path / "in.npz",
                                        "--device", device.info.platform)
    np.savez(tmp_path / "empty.npz")
    assert "missing input 'x'" in fails(capsys, "bench", tiny, "--inputs", tmp_path / "empty.npz",
                                        "--device", device.info.platform)


# verify

def test_verify_bundled_vectors(capsys, tmp_path, device):
    good = models.shift_relu(tmp_path / "good.edge", [([X], [models.expected(X)], 1e-3)] * 2)
    status, out, _ = call(capsys, "verify", good, "--device", device.info.platform)
    assert status == 0 and "2 of 2 agree with bundled vectors" in out and "MISMATCH" not in out
    status, out, _ = call(capsys, "verify", good, "--json", "--device", device.info.platform)
    found = json.loads(out)
    assert status == 0 and found["passed"] and len(found["vectors"]) == 2
    assert found["vectors"][0]["outputs"][0]["max_abs"] == 0


def test_verify_fails_on_a_mismatch(capsys, tmp_path, device):
    wrong = models.expected(X)  # range 0..4
    wrong[1, 0] += 0.01
    vectors = [([X], [models.expected(X)], 1e-3), ([X], [wrong], 1e-3)]
    bad = models.shift_relu(tmp_path / "bad.edge", vectors)
    status, out, err = call(capsys, "verify", bad, "--device", device.info.platform)
    assert (status, err) == (1, "") and "1 of 2 differ" in out and out.count("MISMATCH") == 1
    loose = models.shift_relu(tmp_path / "loose.edge", [([X], [wrong], 1e-2)])
    assert call(capsys, "verify", loose, "--device", device.info.platform)[0] == 0


def test_verify_without_vectors(capsys, tiny, inputs):
    message = fails(capsys, "verify", tiny)
    assert "has no test vectors: pack it with --vectors" in message and "--against" in message
    assert "go with --against" in fails(capsys, "verify", tiny, "--inputs", inputs)


def test_verify_against_the_source(capsys, tiny, source, tmp_path, device):
    status, out, _ = call(capsys, "verify", tiny, "--against", source, "--device",
                          device.info.platform)
    assert status == 0 and "3 of 3 agree with ONNX Runtime" in out
    other = write_onnx(tmp_path / "other.onnx", [1, -2, 3.5])
    status, out, _ = call(capsys, "verify", tiny, "--against", other, "--samples", "2", "--json",
                          "--device", device.info.platform)
    found = json.loads(out)
    assert status == 1 and not found["passed"] and len(found["vectors"]) == 2
    worst = found["vectors"][0]["outputs"][0]
    assert worst["max_abs"] == pytest.approx(0.5) and worst["snr_db"] < 40
    assert call(capsys, "verify", tiny, "--against", other, "--tolerance", "1", "--device",
                device.info.platform)[0] == 0


def test_verify_against_the_source_with_given_inputs(capsys, tiny, source, tmp_path, device):
    np.savez(tmp_path / "three.npz", x=np.stack([X, X + 1, X - 1]))
    status, out, _ = call(capsys, "verify", tiny, "--against", source, "--inputs",
                          tmp_path / "three.npz", "--json", "--device", device.info.platform)
    assert status == 0 and len(json.loads(out)["vectors"]) == 3
    np.savez(tmp_path / "wrong.npz", x=X[:, :2])
    assert "has the shape (2, 2), needed (2, 3), or one more axis" in fails(
        capsys, "verify", tiny, "--against", source, "--inputs", tmp_path / "wrong.npz")


def test_verify_against_another_model(capsys, tiny, tmp_path, device):
    other = write_onnx(tmp_path / "renamed.onnx", name="image")
    assert "was it packed from this model?" in fails(
        capsys, "verify", tiny, "--against", other, "--device", device.info.platform)
    rows = write_onnx(tmp_path / "rows.onnx", rows=5)
    assert "ONNX Runtime" in fails(capsys, "verify", tiny, "--against", rows, "--device",
                                   device.info.platform)


def test_verify_against_what_is_no_model(capsys, tiny, tmp_path):
    assert "no such file" in fails(capsys, "verify", tiny, "--against", tmp_path / "none.onnx")
    for name in ("bad.onnx", "bad.tflite"):
        (tmp_path / name).write_text("hello")
    assert "cannot load it" in fails(capsys, "verify", tiny, "--against", tmp_path / "bad.onnx")
    assert "no runtime is known for the extension '.edge'" in fails(
        capsys, "verify", tiny, "--against", tiny)
    pytest.importorskip("ai_edge_litert", reason="needs pip install ai-edge-litert")
    assert "cannot load it" in fails(capsys, "verify", tiny, "--against", tmp_path / "bad.tflite")


# pack

def test_pack(capsys, source, tmp_path, device):
    out = tmp_path / "packed.edge"
    status, shown, err = call(capsys, "pack", source, "-o", out, "--json")
    found = json.loads(shown)
    assert (status, err) == (0, "")
    assert found["path"] == str(out) and found["file_bytes"] == out.stat().st_size
    assert {"source_ops", "ops", "passes", "weight_bytes", "arena_bytes", "lower_bound_bytes",
            "notes"} < {*found}
    status, shown, _ = call(capsys, "pack", source, "-o", out, "--precision", "fp16")
    assert status == 0 and "precision  fp16" in shown and "lower bound" in shown
    assert call(capsys, "verify", out, "--against", source, "--device",
                device.info.platform)[0] == 0


def test_pack_with_vectors(capsys, source, tmp_path, device):
    out = tmp_path / "packed.edge"
    np.savez(tmp_path / "in.npz", x=np.stack([X, X * 2]))
    assert call(capsys, "pack", source, "-o", out, "--vectors", tmp_path / "in.npz")[0] == 0
    status, shown, _ = call(capsys, "verify", out, "--device", device.info.platform)
    assert status == 0 and "2 of 2 agree with bundled vectors" in shown


@pytest.mark.parametrize("given, message", [
    ({"x": np.zeros((9, 2, 3), np.float32)}, "has 9 samples, at most 8"),
    ({"y": X}, "has the arrays 'y', needed 'x' (2, 3) float32"),
    ({"x": X.astype(np.float64)}, "'x' is float64, needed float32"),
    ({"x": np.full_like(X, np.nan)}, "not finite")])
def test_pack_refuses_wrong_vectors(capsys, source, tmp_path, given, message):
    np.savez(tmp_path / "in.npz", **given)
    out = tmp_path / "packed.edge"
    assert message in fails(capsys, "pack", source, "-o", out, "--vectors", tmp_path / "in.npz")
    assert not out.exists()


def test_pack_with_a_dynamic_shape(capsys, tmp_path, device):
    source = write_onnx(tmp_path / "dynamic.onnx", rows="n")
    out = tmp_path / "packed.edge"
    np.savez(tmp_path / "in.npz", x=np.ones((5, 3), np.float32))
    assert call(capsys, "pack", source, "-o", out, "--shape", "x=5,3", "--vectors",
                tmp_path / "in.npz")[0] == 0
    where = "--device", device.info.platform
    assert call(capsys, "verify", out, *where)[0] == 0
    assert call(capsys, "verify", out, "--against", source, *where)[0] == 0


def test_pack_of_nothing_to_nowhere(capsys, source, tmp_path):
    out = tmp_path / "packed.edge"
    assert "no such file" in fails(capsys, "pack", tmp_path / "none.onnx", "-o", out)
    (tmp_path / "model.h5").write_text("")
    assert "is not a known model format" in fails(capsys, "pack", tmp_path / "model.h5", "-o", out)
    assert "there is no folder" in fails(capsys, "pack", source, "-o", tmp_path / "none" / "a.edge")
    assert not out.exists()


def test_progress_is_for_terminals_only(capsys, source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = call(capsys, "pack", source, "-o", tmp_path / "packed.edge", "--json")
    assert status == 0 and json.loads(out)  # whatever the progress shows is not on stdout


@pytest.mark.parametrize("package", ["onnx", "edgerun.tools.cli"])
def test_pack_without_the_host_libraries(source, tmp_path, package):
    code = (f"import sys; sys.modules[{package!r}] = None\n"
            "from edgerun.__main__ import main; sys.exit(main(sys.argv[1:]))")
    result = process("pack", source, "-o", tmp_path / "packed.edge", code=code)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert f"{package!r} is missing" in result.stderr
    assert 'pip install "edgerun[tools]"' in result.stderr


def test_verify_without_the_source_runtime(tiny, source):
    code = ("import sys; sys.modules['onnxruntime'] = None\n"
            "from edgerun.__main__ import main; sys.exit(main(sys.argv[1:]))")
    result = process("verify", tiny, "--against", source, code=code)
    assert result.returncode == 1 and "pip install onnxruntime" in result.stderr


# the end of a process

def test_runtime_never_imports_the_tools():
    for path in (ROOT / "edgerun").rglob("*.py"):
        lines = [line for line in path.read_text().splitlines() if "import" in line.split()[:3]]
        assert not [line for line in lines if "edgerun.tools" in line or "tests" in line], path
    assert all(module.startswith("edgerun.tools.") for module, _, _ in HOST.values())


def test_interrupt(capsys, monkeypatch, tiny):
    def interrupted(_):
        raise KeyboardInterrupt
    monkeypatch.setattr(cli.info_module, "describe", interrupted)
    assert call(capsys, "info", tiny) == (130, "", "")


def test_out_of_memory(capsys, monkeypatch, tiny):
    def exhausted(_):
        raise MemoryError
    monkeypatch.setattr(cli.info_module, "describe", exhausted)
    assert "not enough memory" in fails(capsys, "info", tiny)


def test_messages_are_one_line(capsys):
    assert __main__._fail("a\n  b\n\nc") == 1
    assert capsys.readouterr().err == "edgerun: a b c\n"
    assert __main__._fail("names come from files: \x1b[31m") == 1
    assert capsys.readouterr().err == "edgerun: names come from files: \\x1b[31m\n"


def test_nobody_reads_stdout(tiny):
    """A closed pipe ends the command quietly, as `edgerun info model | head -1` needs."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-m", "edgerun", "info", tiny], cwd=ROOT,
                            stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"),
                    reason="there is no device that is always full")
def test_no_room_for_stdout(tiny):
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "edgerun", "info", tiny], cwd=ROOT,
                                stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (
        1, "edgerun: standard output: No space left on device\n")
