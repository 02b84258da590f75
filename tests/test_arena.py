"""Sessions that take turns in one arena, and sessions of one file in one mapping."""
from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import edgerun
from edgerun import loader, report, smaps
from edgerun.arena import Arena, load_many
from edgerun.errors import DeviceError, InputError, ModelError
from edgerun.session import Session
from tests import models

SMALL, LARGE = 2, 4000  # rows of shift_relu


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Three models whose arenas differ: the second has the largest."""
    folder = tmp_path_factory.mktemp("arena")
    return [models.shift_relu(folder / "small.edge", rows=SMALL),
            models.shift_relu(folder / "large.edge", rows=LARGE),
            models.two_layers(folder / "layers.edge")]


def feed(session: Session, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {i.name: rng.standard_normal(i.shape).astype(i.dtype) for i in session.inputs}


def close(sessions) -> None:
    for session in sessions:
        session.close()


# turns

def test_alternating_sessions_are_right(device, files):
    alone = []
    for path in files:
        with Session(loader.read(path), device) as session:
            alone.append([session.run(feed(session, seed))["y"] for seed in range(4)])
    sessions = load_many(files, device)
    try:
        for seed in range(4):
            for number in (0, 1, 2, 1, 0):
                found = sessions[number].run(feed(sessions[number], seed))["y"]
                np.testing.assert_array_equal(found, alone[number][seed])
    finally:
        close(sessions)


def test_the_arena_is_as_large_as_the_largest(device, files):
    sessions = load_many(files, device)
    largest = max(session.model.plan.arena_bytes for session in sessions)
    assert len({id(session.arena) for session in sessions}) == 1
    assert sessions[0].arena.bytes == largest == sessions[1].model.plan.arena_bytes
    assert sessions[0].arena.buffer.size == largest and sessions[0].arena.sessions == 3
    assert all("arena" not in session.buffers.bytes_by_category for session in sessions)
    close(sessions)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_any_order_of_closing(device, files, order):
    """Whoever is left still runs; the last one gives the memory back."""
    sessions = load_many(files, device)
    arena, released = sessions[0].arena, []
    real = arena.buffers.release
    arena.buffers.release = lambda: (released.append(True), real())
    left = {0, 1, 2}
    for number in order:
        for still in left:
            x = feed(sessions[still])
            found = sessions[still].run(x)["y"]
            if still < 2:
                np.testing.assert_array_equal(found, models.expected(x["x"]))
        assert not released
        sessions[number].close()
        left.remove(number)
    assert released == [True] and arena.buffer is None and arena.host is None


def test_the_caller_s_own_arena(device, files):
    """It outlives sessions, and goes when it is closed."""
    with Arena(1 << 20, device) as arena:
        for path in files:
            with edgerun.load(path, arena=arena) as session:
                assert session.device is device and session.arena is arena
                session.run(feed(session))
            assert arena.buffer is not None
        with edgerun.load(files[0], arena=arena) as first, \
                edgerun.load(files[0], device, arena=arena) as second:
            assert arena.sessions == 2
            np.testing.assert_array_equal(first.run(feed(first))["y"],
                                          second.run(feed(second))["y"])
    assert arena.buffer is None
    with pytest.raises(DeviceError, match="small.edge: the arena is closed"):
        edgerun.load(files[0], arena=arena)


def test_a_forgotten_session_blocks_nobody(device, files):
    sessions = load_many(files, device)
    sessions[0].write([feed(sessions[0])["x"]])
    del sessions[0]
    gc.collect()
    sessions[0].run(feed(sessions[0]))
    close(sessions)


def test_a_forgotten_session_leaves(device, files):
    """Also the last one of an arena that was closed, while its launches run."""
    sessions = load_many(files[:2], device)
    arena = sessions[0].arena
    del sessions[0]
    gc.collect()
    assert arena.sessions == 1 and arena.buffer is not None
    sessions[0].write([feed(sessions[0])["x"]])
    sessions[0].enqueue()
    sessions.clear()
    gc.collect()
    assert arena.sessions == 0 and arena.buffer is None and not arena.buffers.buffers


# misuse

def test_a_session_s_own_arena_is_not_shared(device, files):
    """It goes with the session, so nobody may be left in it."""
    large = Session(loader.read(files[1]), device)
    arena = large.arena
    with pytest.raises(InputError, match="small.edge: the arena belongs to another session alone"):
        edgerun.load(files[0], arena=arena)
    assert arena.sessions == 1
    large.run(feed(large))
    large.close()
    with pytest.raises(DeviceError, match="small.edge: the arena is closed"):
        edgerun.load(files[0], arena=arena)


def test_an_interrupted_run_is_waited_for(device, files, monkeypatch):
    """Ctrl-C between the launches and their end: the next one must not write underneath."""
    sessions = load_many(files[:2], device)
    first, second = sessions
    events = []
    for name, session in (("first", first), ("second", second)):
        monkeypatch.setattr(session, "_put",
                            lambda arrays, name=name, put=session._put:
                            (events.append(f"{name} writes"), put(arrays)), raising=False)
    real = Arena.finish
    monkeypatch.setattr(Arena, "finish", lambda self: (events.append("waited"), real(self)),
                        raising=False)
    for interrupted in (lambda: first.run(feed(first)), lambda: first.profile(feed(first))):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(first, "copy_out", interrupt)
            patch.setattr(first, "finish", interrupt, raising=False)
            interrupted()
        events.clear()
        x = feed(second)
        np.testing.assert_array_equal(second.run(x)["y"], models.expected(x["x"]))
        assert events[:2] == ["waited", "second writes"]
    close(sessions)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_launches_between_ops_are_waited_for(device, files):
    from edgerun.stepper import Stepper
    from edgerun.trace import trace
    sessions = load_many(files[:2], device)
    steps = trace(sessions[0], feed(sessions[0]))
    for _ in range(2):
        next(steps)
    steps.close()
    stepper = Stepper(sessions[0])
    stepper.start(feed(sessions[0]))
    stepper.run(0, 1)
    with pytest.raises(DeviceError, match="which is running"):
        sessions[1].run(feed(sessions[1]))
    stepper.done()
    assert sessions[0].arena.pending
    sessions[1].run(feed(sessions[1]))
    assert not sessions[0].arena.pending
    with pytest.raises(DeviceError, match="large.edge has written over"):
        stepper.run(1, stepper.count)
    close(sessions)


def test_who_wrote_last_is_remembered(device, files):
    """Also when that session is closed or forgotten: what is left is no result of another."""
    for end in (lambda sessions: sessions.pop().close(), lambda sessions: sessions.pop()):
        sessions = load_many(files[:2], device)
        sessions[0].run(feed(sessions[0]))
        sessions[1].run(feed(sessions[1]))
        end(sessions)
        gc.collect()
        with pytest.raises(DeviceError, match="large.edge has written over the arena"):
            sessions[0].read()
        close(sessions)


def test_a_write_that_fails_frees_the_arena(device, files, monkeypatch):
    from edgerun import boundary
    from edgerun.stepper import Stepper
    from edgerun.timing import bench
    from edgerun.trace import trace
    sessions = load_many(files[:2], device)
    first, second = sessions
    x = feed(first)
    for use in (lambda: first.run(x), lambda: first.write([x["x"]]), lambda: first.profile(x),
                lambda: list(trace(first, x)), lambda: Stepper(first).start(x),
                lambda: bench(first, x, 1, 0)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(boundary, "put", interrupt)
            use()
        second.run(feed(second))
    close(sessions)



def test_running_at_the_same_time_is_refused(device, files):
    sessions = load_many(files, device)
    first, second = sessions[:2]
    x = feed(first)
    first.write([x["x"]])
    with pytest.raises(DeviceError, match="large.edge: shares its arena with .*small.edge, which "
                                          "is running"):
        second.run(feed(second))
    first.enqueue()
    with pytest.raises(DeviceError, match="which is running"):
        second.write([feed(second)["x"]])
    np.testing.assert_array_equal(first.read()["y"], models.expected(x["x"]))
    second.run(feed(second))
    for use in (first.read, first.enqueue, lambda: first.access(first.model.tensors[0], 1)
                .__enter__()):
        with pytest.raises(DeviceError, match="small.edge: .*large.edge has written over the arena "
                                              "that they share: write the inputs again"):
            use()
    first.run(x)
    close(sessions)


def test_a_run_that_fails_frees_the_arena(device, files, monkeypatch):
    sessions = load_many(files, device)
    monkeypatch.setattr(sessions[0].route, "enqueue",
                        lambda *_: (_ for _ in ()).throw(DeviceError("planted")))
    with pytest.raises(DeviceError, match="planted"):
        sessions[0].run(feed(sessions[0]))
    sessions[1].run(feed(sessions[1]))
    sessions[1].write([feed(sessions[1])["x"]])
    sessions[1].close()  # in the middle of its turn
    sessions[2].run(feed(sessions[2]))
    close(sessions)


def test_profile_and_trace_take_a_turn(device, files):
    from edgerun.trace import trace
    sessions = load_many(files, device)
    sessions[0].profile(feed(sessions[0]))
    sessions[1].run(feed(sessions[1]))
    steps = trace(sessions[0], feed(sessions[0]))
    next(steps)
    with pytest.raises(DeviceError, match="which is running"):
        sessions[1].run(feed(sessions[1]))
    steps.close()
    sessions[1].run(feed(sessions[1]))
    close(sessions)


def test_threads_never_mix(device, files):
    """Two threads that do not take turns: every run is right or refused."""
    sessions = load_many([files[1], files[1]], device)
    x = [feed(session, seed) for seed, session in enumerate(sessions)]
    want = [models.expected(given["x"]) for given in x]
    wrong, refused, done = [], [0, 0], [0, 0]

    def work(number: int) -> None:
        for _ in range(300):
            try:
                found = sessions[number].run(x[number])["y"]
            except DeviceError as error:
                refused[number] += "which is running" in str(error)
                continue
            done[number] += 1
            if not np.array_equal(found, want[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sum(refused) + sum(done) == 600 and sum(done) > 0
    close(sessions)


def test_an_arena_that_does_not_fit(device, files):
    needed = loader.read(files[1]).plan.arena_bytes
    with Arena(needed - 1, device) as arena:
        with pytest.raises(InputError, match=f"large.edge: the arena has {needed - 1} bytes, "
                                             f"needed {needed}"):
            edgerun.load(files[1], arena=arena)
        assert arena.sessions == 0
        edgerun.load(files[0], arena=arena).close()
    for size in (-1, True, "x", None, 1.5):
        with pytest.raises(InputError, match="an arena of .* bytes, needed"):
            Arena(size, device)
    Arena(np.int64(4), device).close()


def test_an_arena_of_another_device(device, files):
    with Arena(1 << 20, device) as arena:
        with pytest.raises(InputError, match="give the session arena.device"):
            edgerun.load(files[0], device.info.index, arena=arena)


def test_load_many_leaves_nothing_when_one_fails(device, files, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="missing.edge"):
        load_many([files[0], tmp_path / "missing.edge"], device)
    made = []
    real = Session.__init__

    def failing(self, model, *rest, **named):
        real(self, model, *rest, **named)
        made.append(self)
        if len(made) == 2:
            self.close()
            raise DeviceError("planted")
    monkeypatch.setattr(Session, "__init__", failing)
    with pytest.raises(DeviceError, match="planted"):
        load_many(files, device)
    assert made[0].arena.buffer is None and all(session._closed for session in made)
    assert load_many([], device) == []
    with pytest.raises(InputError, match="needed a list of paths"):
        load_many(str(files[0]), device)


# the account

def test_the_report_counts_the_arena_once(device, files):
    sessions = load_many([*files, files[1]], device)
    arena = sessions[0].arena.bytes
    single = sessions[0].memory()
    assert single.allocated["categories"]["arena"] == arena
    assert single.allocated["arena_sessions"] == 4
    assert "the arena is shared by 4 sessions" in single.text()
    found = report.together(sessions)
    segments = {s.model.path: sum(len(part.data) for part in s.model.segments) for s in sessions}
    chains = sum(s.buffers.bytes_by_category.get("chain", 0) for s in sessions)
    assert found["categories"]["arena"] == arena
    assert found["categories"].get("chain", 0) == chains
    weights = sum(size for name, size in found["categories"].items() if name.startswith("weights"))
    assert weights == sum(segments.values())  # large.edge is open twice, and mapped once
    assert found["total_bytes"] == arena + weights + chains
    close(sessions)
    with Session(loader.read(files[0]), device) as session:
        assert session.memory().allocated["arena_sessions"] == 1
        assert report.together([session])["total_bytes"] == sum(
            session.buffers.bytes_by_category.values())


# one mapping

def test_twenty_sessions_have_one_mapping(device, files, tmp_path):
    """Weights are mapped once, whatever opens the file, and stay the file's own pages."""
    path = models.wide(tmp_path / "wide.edge")
    sessions = [edgerun.load(path, device) for _ in range(20)]
    results = [session.run(feed(session))["y"] for session in sessions]
    assert all(np.array_equal(result, results[0]) for result in results)
    with open("/proc/self/smaps", errors="surrogateescape") as file:
        mappings = [line for line in file if line.rstrip().endswith(os.path.realpath(path))]
    assert len(mappings) == 1, mappings
    found = smaps.mapping(path)
    size = path.stat().st_size
    assert found.anonymous_bytes == 0 and 0.9 * size <= found.pss_bytes <= size + 4096, found
    assert report.together(sessions)["mapped_files"] == 1
    close(sessions)
    del sessions
    gc.collect()
    assert smaps.mapping(path) is None


def test_a_file_that_was_replaced_is_mapped_anew(tmp_path):
    path = models.two_layers(tmp_path / "model.edge")
    first = loader.read(path)
    assert loader.read(path).data is first.data
    os.utime(path, ns=(1, 1))
    assert loader.read(path).data is not first.data
    models.shift_relu(path)
    assert loader.read(path).name == "shift_relu" and first.name == "two_layers"
