"""Starts: what they report, that the second one compiles nothing, and checksums in parts."""
from __future__ import annotations

import dataclasses
import json
import zlib

import numpy as np
import pytest

from edgerun import DeviceError, EdgerunError, __main__, cold, loader, programs, validate
from edgerun.device import Device
from edgerun.ops import Launch
from edgerun.session import Session
from tests import models

GOOD = Launch("elementwise", "unary", {"T_fp32": 1, "VEC": 4, "EXPRESSION": "(x * 5.0f)"}, (1,), ())
BAD = dataclasses.replace(GOOD, defines={"T_fp32": 1, "EXPRESSION": "nonsense(x)"})


@pytest.fixture
def tiny(tmp_path):
    return models.shift_relu(tmp_path / "tiny.edge")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_report(device, tiny):
    """A start without caches compiles every program, one with them none; stages make the total."""
    found = cold.measure(tiny, device.info.platform, starts=1)
    without, cached = found.without_cache, found.with_cache
    assert (found.device, found.launches) == (device.info.name, 2)
    assert without.built == cached.cached > 0 == cached.built == without.cached
    for part in (without, cached):
        assert list(part.stages) == list(cold.STAGES)
        assert all(part.stages[stage] > 0 for stage in ("python", "numpy", "pyopencl", "programs"))
        assert 0 < part.own_ns < part.total_ns == sum(part.stages.values())
    assert without.own_ns > cached.own_ns
    shown = found.as_dict()
    assert set(shown["with_cache"]["stages"]) == {f"{stage}_ns" for stage in cold.STAGES}
    assert f"programs built, cached         {without.built}, 0" in found.text()


def test_stages_inside_stages_count_once(monkeypatch):
    """Programs that are built while it is found out how to sum, while a session is made."""
    now, found = [0], {"map": 5}
    monkeypatch.setattr(cold.time, "monotonic_ns", lambda: now[0])
    clock = cold.Clock(found)

    def takes(ns, *stages):
        now[0] += ns
        for stage, inner in stages:
            clock.timed(stage, takes, *inner)
        return ns
    assert clock.timed("launches", takes, 1, ("sums", (10, ("programs", (100,)))),
                       ("programs", (1000,)), ("map", (10_000,))) == 1
    assert found == {"map": 10_005, "launches": 1, "sums": 10, "programs": 1100}
    watched = clock.watched("first", takes)
    assert watched(7) == 7 and found["first"] == 7 and sum(found.values()) == 5 + now[0]


def test_command(tiny, capsys, monkeypatch):
    part = cold.Starts(dict.fromkeys(cold.STAGES, 1), 12, 8, 3, 4, 2, 0)
    asked = []

    def measure(*arguments):
        asked.append(arguments)
        return cold.ColdReport("a device", "a platform", 4, 2, part, part)
    monkeypatch.setattr(cold, "measure", measure)
    command = ["bench", str(tiny), "--cold", "--starts", "4", "--device", "gpu"]
    assert __main__.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"device", "platform", "starts", "launches", "without_cache", "with_cache"}
    assert set(found["with_cache"]) == {
        "stages", "total_ns", "own_ns", "later_ns", "close_ns", "built", "cached"}
    assert __main__.main(command) == 0
    assert "medians of 4 processes, 2 launches" in capsys.readouterr().out
    assert asked == 2 * [(str(tiny), "gpu", 4)]
    assert __main__.main([*command, "--per-op"]) == 1
    assert "--inputs and --per-op do not go with --cold" in capsys.readouterr().err


def test_failed_start(tiny):
    with pytest.raises(EdgerunError, match="no OpenCL device is meant by 'voodoo'"):
        cold.measure(tiny, "voodoo")


def test_second_start_builds_nothing(device, tiny, cache):
    for built in (True, False):
        opened = Device(device.info.platform)
        with Session(loader.read(tiny), opened) as session:
            session.run({"x": np.zeros((2, 3), np.float32)})
        assert (opened.programs.built > 0, opened.programs.cached > 0) == (built, not built)
        assert opened.programs.binary_bytes() > 0


def test_sessions_that_nobody_closes_are_stored_at_exit(device, tiny, cache):
    opened = Device(device.info.platform)
    session = Session(loader.read(tiny), opened)
    programs._store_at_exit()  # of this and of every other device
    assert len(list(cache.glob("*.bin"))) >= opened.programs.built > 0
    assert opened.programs.binary_bytes() > 0
    session.close()


def test_pocl_is_asked_for_binaries_last(device, cache):
    """It compiles them again: nobody must wait for that before the first result."""
    opened = Device(device.info.platform)
    opened.build([GOOD])
    opened.programs.store()
    late = opened.info.platform == programs.SLOW_TO_ASK
    assert len(list(cache.glob("*.bin"))) == (0 if late else 1)
    opened.programs.store(closing=True)
    assert len(list(cache.glob("*.bin"))) == 1


def test_build_names_the_program_that_fails(device, cache):
    opened = Device(device.info.platform)
    with pytest.raises(DeviceError, match="kernels/elementwise.cl .*nonsense.* cannot build it: "):
        opened.build([GOOD, BAD])
    assert (len(opened.programs), opened.programs.built) == (1, 1)
    opened.programs.store(closing=True)
    assert len(list(cache.glob("*.bin"))) == 1


def test_equal_launches_share_a_program(device, cache):
    opened = Device(device.info.platform)
    opened.build([GOOD, dataclasses.replace(GOOD, defines=dict(reversed(GOOD.defines.items())))])
    assert (len(opened.programs), opened.created["program"]) == (1, 1)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000, 4097])
def test_checksum_in_parts(monkeypatch, size):
    monkeypatch.setattr(validate, "PART", 64)
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert validate.checksum(data) == zlib.crc32(data)


def test_every_part_is_summed(monkeypatch):
    monkeypatch.setattr(validate, "PART", 64)
    data = np.zeros(1000, np.uint8)
    sums = {validate.checksum(data)}
    for at in (0, 63, 64, 500, 999):
        data[at] ^= 1
        sums.add(validate.checksum(data))
    assert len(sums) == 6
