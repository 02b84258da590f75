"""Devices and programs: choosing, missing drivers, and a cache that never breaks a run."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgerun import DeviceError, chain, dots
from edgerun.device import Device, devices, select
from edgerun.ops import OPS
from edgerun.programs import Programs, cache_folder, options_of, source
from edgerun.tools import layout
from edgerun.tools.graph import Graph
from tests import integer_ops

FAMILY, DEFINES = "elementwise", {"T_fp32": 1, "VEC": 4, "EXPRESSION": "(x * 3.0f)"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fresh(device) -> Programs:
    return Programs(device.context, device.device)


def test_devices_lists_every_driver(device):
    listed = devices()
    assert [info.index for info in listed] == list(range(len(listed)))
    assert device.info.name in [info.name for info in listed]


def test_choose_by_index_and_name(device):
    index = device.info.index
    assert select(index)[2] == select(str(index))[2] == device.info
    assert select(device.info.platform)[2] == device.info


def test_environment_chooses(device, monkeypatch):
    monkeypatch.setenv("EDGERUN_DEVICE", device.info.platform)
    assert select()[2] == device.info


@pytest.mark.parametrize("wanted", ["voodoo 2", 999, "999", -1, "-", "", " ", "\u00b2"])
def test_unknown_device(device, wanted):
    with pytest.raises(DeviceError,
                       match=f"no OpenCL device is meant by '{wanted}', there are: 0: "):
        Device(wanted)


def test_no_driver(tmp_path):
    """Without any driver the message says what to install; no traceback of the loader."""
    code = ("import edgerun\n"
            "from edgerun.device import select\n"
            "try: select()\n"
            "except edgerun.DeviceError as error: print(error)\n")
    environment = dict(os.environ, OCL_ICD_VENDORS=str(tmp_path))
    environment.pop("EDGERUN_DEVICE", None)
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                         text=True, check=True,
                         cwd=os.path.dirname(os.path.dirname(__file__))).stdout
    assert out.startswith("no OpenCL driver found: install one: 'apt install pocl-opencl-icd'"), out


def test_cache_is_used(device, cache):
    first = fresh(device)
    first.get(FAMILY, DEFINES)
    first.store(closing=True)
    assert (first.built, first.cached, len(list(cache.glob("*.bin")))) == (1, 0, 1)
    assert cache.stat().st_mode & 0o777 == 0o700
    second = fresh(device)
    second.get(FAMILY, DEFINES)
    assert (second.built, second.cached) == (0, 1)


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:20], lambda data: data[:-7],
    lambda data: b"EDGEBIN0" + data[8:], lambda data: data[:8] + bytes(32) + data[40:],
    lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]],
    ids=["empty", "header cut", "end cut", "other version", "other key", "flipped bit"])
def test_broken_cache_entry_is_rebuilt(device, cache, damage):
    """Whatever is wrong with an entry: it is ignored, built again and written again."""
    first = fresh(device)
    first.get(FAMILY, DEFINES)
    first.store(closing=True)
    entry, = cache.glob("*.bin")
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    second = fresh(device)
    second.get(FAMILY, DEFINES)
    assert (second.built, second.cached) == (1, 0)
    second.store(closing=True)
    assert fresh(device).get(FAMILY, DEFINES) is not None
    assert entry.read_bytes()[:72] == good[:72] or len(entry.read_bytes()) > 72


def test_stale_driver_is_rebuilt(device, cache):
    """Another driver version is another key."""
    first = fresh(device)
    first.get(FAMILY, DEFINES)
    first.store(closing=True)
    second = fresh(device)
    second._identity += " updated"
    second.get(FAMILY, DEFINES)
    assert (second.built, second.cached) == (1, 0)


def test_cache_that_cannot_be_written(device, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(blocked / "cache"))
    programs = fresh(device)
    programs.get(FAMILY, DEFINES)
    programs.store(closing=True)
    assert programs.built == 1


def test_cache_of_a_user_without_a_home(device, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")
    for name in ("EDGERUN_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", unknown)
    programs = fresh(device)
    programs.get(FAMILY, DEFINES)
    programs.store(closing=True)
    assert programs.built == 1


def test_cache_switched_off(device, monkeypatch, cache):
    monkeypatch.setenv("EDGERUN_CACHE_DIR", "0")
    assert cache_folder() is None
    programs = fresh(device)
    programs.get(FAMILY, DEFINES)
    programs.store(closing=True)
    assert not cache.exists()


def test_compiler_messages_name_the_real_file(device, cache):
    """#line directives: an error in a kernel file is reported with that file's name."""
    with pytest.raises(DeviceError, match=r"elementwise\.cl"):
        fresh(device).get(FAMILY, {"T_fp32": 1, "EXPRESSION": "missing_function(x)"})
    assert '#line 1 "elementwise.cl"' in source(FAMILY, DEFINES)


@pytest.mark.parametrize("name", ["matmul uint8", "dense uint8", "dense weights int8"])
def test_the_first_quantized_op_asks_how_to_sum(device, name):
    opened, graph = Device(device.info.platform), Graph()
    x = graph.input("x", (4,), "fp32")
    plain = graph.insert(0, "unary", [x], kind="relu")
    assert opened.facts_for(plain).dot == ""
    op = integer_ops.add(graph, integer_ops.FORMS[name])
    assert opened.facts_for(op).dot in dots.NAMES


def test_no_integer_program_makes_the_compiler_warn(device):
    """PoCL tells the number of warnings on stderr, where a command says at most one line."""
    opened, logs = Device(device.info.platform), {}
    info = opened.cl.program_build_info.LOG
    for name, form in integer_ops.FORMS.items():
        graph = Graph()
        op = integer_ops.add(graph, form)
        layout.apply(graph)
        for launch in OPS[op.code].prepare(op, opened.facts_for(op)):
            text = source(launch.family, launch.defines)
            if text not in logs:
                program = opened.cl.Program(opened.context, text).build(
                    options_of(launch.defines), devices=[opened.device], cache_dir=False)
                logs[text] = program.get_build_info(opened.device, info)
            # Intel's runtime says so where vec_type_hint keeps it from what takes it long
            log = logs[text].replace("can't be vectorized due to unsupported vec type hint", "")
            log = log.replace('warning: kernel "conv2d_integer": Kernel', "")
            assert "warning" not in log, f"{name}: {logs[text]}"


def test_no_chain_makes_the_compiler_warn(device):
    """Kernels that share a program, whose names and macros must not meet."""
    opened, launches = Device(device.info.platform), []
    forms = {name: form for name, form in integer_ops.FORMS.items()
             if form.code in ("conv2d", "depthwise_conv2d", "table")}
    for form in forms.values():
        graph = Graph()
        op = integer_ops.add(graph, form)
        layout.apply(graph)
        launches += OPS[op.code].prepare(op, opened.facts_for(op))
    made = chain.make(launches, lambda number, arg: (0, 0), 2)
    assert made.variants > 4
    program = opened.cl.Program(opened.context, made.text).build(
        options_of(made.defines), devices=[opened.device], cache_dir=False)
    log = program.get_build_info(opened.device, opened.cl.program_build_info.LOG)
    assert "redefined" not in log and "warning: unused" not in log, log
