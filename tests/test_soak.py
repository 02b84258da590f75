"""Sessions opened and closed a thousand times, many at once, and with every allocation failing."""
from __future__ import annotations

import gc
import os
import sys
import time

import numpy as np
import pytest

import edgerun
from edgerun import loader, smaps
from edgerun.device import Device
from edgerun.errors import DeviceError
from edgerun.memory import give_back
from edgerun.session import Session
from tests import models

CYCLES, SAMPLES = 1000, 20
SESSIONS = 20
NOISE = 64  # bytes that a cycle may add: pages come and go, one in 64 cycles is not seen
MADE = ("Buffer", "SVMAllocation", "Kernel", "Program", "CommandQueue", "Context")

needs_smaps = pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"),
    reason="this system has no /proc/self/smaps_rollup to measure with")


@pytest.fixture
def living(device, monkeypatch):
    """Count the OpenCL objects that are not released: returns {kind: how many}."""
    import pyopencl as cl
    counts = dict.fromkeys(MADE, 0)

    def counted(kind: str):
        real = getattr(cl, kind)

        class Counted(real):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.counts = True
                counts[kind] += 1

            def release(self):
                super().release()
                self.__del__()

            def __del__(self):
                if getattr(self, "counts", False):
                    self.counts = False
                    counts[kind] -= 1
        Counted.__name__ = Counted.__qualname__ = kind
        return Counted

    for kind in MADE:
        if kind != "Program":  # it is a Python class around one, kept by Device.programs
            monkeypatch.setattr(cl, kind, counted(kind))
    return counts


def feed(session: Session) -> dict[str, np.ndarray]:
    return {i.name: np.ones(i.shape, i.dtype) for i in session.inputs}


def slope(sizes: list[int]) -> float:
    """Return by how much a size grows from one moment to the next: the median over a few.

    One step, as of a table that grows once, is no slope.
    """
    apart = len(sizes) // 4
    return float(np.median([(later - size) / apart for size, later in zip(sizes, sizes[apart:])]))


def growth(cycle, cycles: int = CYCLES) -> list[int]:
    """Return resident memory at SAMPLES moments of many cycles."""
    sizes = []
    for number in range(cycles):
        cycle()
        if number % (cycles // SAMPLES) == 0:
            gc.collect()
            give_back()
            sizes.append(smaps.resident())
    return sizes[2:]  # the first cycles fill caches


def test_the_slope_of_noise_is_none_and_that_of_a_leak_is_seen():
    rng = np.random.default_rng(0)
    still = (10**8 + rng.integers(-2, 2, SAMPLES) * 4096).tolist()
    assert abs(slope([*still[:9], *(size + 2**19 for size in still[9:])])) < 2048
    leaking = [size + 4096 * number for number, size in enumerate(still)]
    assert slope(leaking) > 3072


@needs_smaps
def test_a_thousand_cycles_do_not_grow(device, living, tmp_path):
    """load, run, close: no resident memory is added, and no OpenCL object is left."""
    path = models.two_layers(tmp_path / "model.edge")
    expected, started = [], time.monotonic()

    def cycle() -> None:
        session = edgerun.load(path, device)
        expected.append(session.run(feed(session))["y"].tobytes())
        session.close()
        del expected[1:]
    cycle()
    gc.collect()
    before, programs = dict(living), len(device.programs)
    assert max(before.values()) == 0, before
    sizes = growth(cycle)
    assert dict(living) == before and len(device.programs) == programs
    per_cycle = slope(sizes) / (CYCLES / SAMPLES)
    print(f"{per_cycle:.0f} bytes per cycle, {time.monotonic() - started:.1f} s")
    assert per_cycle <= NOISE, (per_cycle, [size - sizes[0] for size in sizes])


@needs_smaps
def test_the_soak_sees_a_small_leak(device, tmp_path):
    """Four kilobytes per cycle are found, also where the heap has room for the first ones."""
    path, kept = models.two_layers(tmp_path / "model.edge"), []

    def cycle() -> None:
        edgerun.load(path, device).close()
        kept.append(os.urandom(4000))
    per_cycle = slope(growth(cycle, 400)) / (400 / SAMPLES)
    assert per_cycle > NOISE, per_cycle


@needs_smaps
def test_twenty_sessions_at_once(device, living, tmp_path):
    """Twenty sessions run in turn and close in any order; opening them again adds nothing."""
    path = models.two_layers(tmp_path / "model.edge")
    rng = np.random.default_rng(0)

    def cycle() -> None:
        sessions = [edgerun.load(path, device) for _ in range(SESSIONS)]
        results = {session.run(feed(session))["y"].tobytes()
                   for _ in range(2) for session in sessions}
        assert len(results) == 1
        assert living["Buffer"] == sum(len(s.buffers.buffers) for s in sessions)
        for number in rng.permutation(SESSIONS):
            sessions[number].close()
    cycle()
    sizes = growth(cycle, 40)
    gc.collect()
    assert max(living.values()) == 0, living
    # a step of the heap of a page per session and forty cycles is noise
    assert slope(sizes) / 2 <= NOISE * SESSIONS, [size - sizes[0] for size in sizes]


def test_devices_of_their_own_leave_no_object(device, living, tmp_path):
    """load() opens the device anew each time: context and queue go as well."""
    path = models.two_layers(tmp_path / "model.edge")
    for _ in range(20):
        session = edgerun.load(path, device.info.index)
        session.run(feed(session))
        assert living["Context"] == living["CommandQueue"] == 1
        session.close()
        del session
        gc.collect()
        assert max(living.values()) == 0, living


@pytest.mark.parametrize("route", ["launches", "chain"])
@pytest.mark.parametrize("kind", ["Buffer", "SVMAllocation", "Kernel", "enqueue_copy"])
def test_whatever_allocation_fails(device, living, tmp_path, monkeypatch, kind, route):
    """The n-th fails, for every n until a session is made: DeviceError, and nothing is left."""
    import pyopencl as cl
    monkeypatch.setenv("EDGERUN_ROUTE", route)
    model = loader.read(models.two_layers(tmp_path / "model.edge"))
    with Session(model, device) as session:
        expected = session.run(feed(session))["y"]
    del session
    gc.collect()
    assert max(living.values()) == 0, living
    real, refused = getattr(cl, kind), 0
    for failing in range(100):
        calls = [0]

        def planted(*args, **kwargs):
            # pyopencl asks a program for a kernel of the name of each attribute that it has not
            calls[0] += sys._getframe(1).f_code.co_name != "__getattr__"
            if calls[0] == failing + 1:
                raise cl.MemoryError("planted", cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE)
            return real(*args, **kwargs)
        monkeypatch.setattr(cl, kind, planted)
        session = None
        try:
            session = Session(model, device)
        except DeviceError as error:
            refused += 1
            assert "planted" in str(error), error
        finally:
            monkeypatch.setattr(cl, kind, real)
        if session is not None:
            assert calls[0] <= failing
            np.testing.assert_array_equal(session.run(feed(session))["y"], expected)
            session.close()
            break
        gc.collect()
        assert max(living.values()) == 0, (failing, living)
    else:
        pytest.fail("no session was ever made")
    del session
    gc.collect()
    assert max(living.values()) == 0, living
    if kind in ("Buffer", "Kernel"):  # the others depend on the driver and the route
        assert refused > 0


# a device that allocates little at once

def small(device: Device, most: int) -> Device:
    """The same device, which promises to allocate no more than `most` bytes at once."""
    import copy
    import dataclasses
    faked = copy.copy(device)
    faked.info = dataclasses.replace(device.info, allocation_bytes=most)
    return faked


def test_a_segment_larger_than_an_allocation_is_split(device, tmp_path):
    """Constants stay whole, no buffer is larger than promised, and the outputs are the same."""
    model = loader.read(models.wide(tmp_path / "wide.edge", 256))
    with Session(model, device) as session:
        expected = session.run(feed(session))["y"]
        whole = len(session.memory_objects)
    most = 256 * 256 * 4 + 8192
    assert len(model.segments[0].data) > most
    with Session(model, small(device, most)) as session:
        sizes = [buffer.size for buffer in session.memory_objects]
        assert len(sizes) > whole and max(sizes) <= most
        found = session.run(feed(session))["y"]
        assert "weights fp32" in session.memory().allocated["categories"]
    np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_split_is_refused(device, tmp_path):
    model = loader.read(models.wide(tmp_path / "wide.edge", 256))
    with pytest.raises(DeviceError, match=r"no room for the constant 'w1.oc16' of 262144 bytes: "
                                          r"the device allocates at most 100000 at once"):
        Session(model, small(device, 100_000))
    model = loader.read(models.shift_relu(tmp_path / "rows.edge", rows=4000))
    with pytest.raises(DeviceError, match=f"the arena is {model.plan.arena_bytes} bytes, and the "
                                          "device allocates at most 40000 at once"):
        Session(model, small(device, 40_000))
