"""Routes to the device: the chain, the command buffer and single launches give the same results."""
from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from edgerun import DeviceError, loader, routes
from edgerun.device import Device
from edgerun.errors import EdgerunError
from edgerun.memory import Buffers
from edgerun.ops import Launch
from edgerun.session import Session
from edgerun.stepper import Stepper
from edgerun.trace import trace
from tests.conftest import PROMISED
from tests.models import save
from edgerun.tools.graph import Graph

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
SHAPE = (1, 33, 31, 3)


def branches(path: Path) -> Path:
    """Two outputs of nine ops that depend on each other: any wrong order or race shows.

    The reversed rows make first work-items depend on the last ones of the launch before.
    """
    rng = np.random.default_rng(0)

    def normal(*shape):
        return graph.constant(rng.standard_normal(shape).astype(np.float32), f"c{shape}")

    graph = Graph("branches")
    x = graph.input("x", SHAPE, "fp32")
    a = graph.add("conv2d", [x, normal(20, 3, 3, 3), normal(20)], "a", pad_top=1, pad_left=1,
                  pad_bottom=1, pad_right=1, activation="relu")
    turned = graph.add("slice", [a], "turned", starts=(0, 32, 0, 0), steps=(1, -1, 1, 1),
                       sizes=(1, 33, 31, 20))
    b = graph.add("conv2d", [turned, normal(20, 1, 1, 20)], "b")
    c = graph.add("binary", [a, b], "c", kind="add")
    d = graph.add("pool2d", [c], "d", kind="max", kernel_h=2, kernel_w=2,
                  stride_h=2, stride_w=2)
    e = graph.add("unary", [d], "e", kind="tanh")
    graph.output("y", graph.add("reduce", [e], "f", kind="mean", axes=(1, 2)))
    graph.output("z", graph.add("softmax", [e], "g", axis=3))
    return save(graph, path)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return branches(tmp_path_factory.mktemp("routes") / "branches.edge")


def opened(path: Path, device, route: str | None, monkeypatch) -> Session:
    if route is None:
        monkeypatch.delenv("EDGERUN_ROUTE", raising=False)
    else:
        monkeypatch.setenv("EDGERUN_ROUTE", route)
    return Session(loader.read(path), device)


def feeds(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).standard_normal((count, *SHAPE)).astype(np.float32))


def results(session: Session, inputs: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [session.run({"x": x}) for x in inputs]


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        for name in ("y", "z"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("route", [name for name in routes.NAMES if name != "launches"])
def test_every_route_gives_the_same(device, path, monkeypatch, route):
    inputs = feeds(30)
    with opened(path, device, "launches", monkeypatch) as session:
        wanted = results(session, inputs)
        assert session.route.commands == session.route.launches == len(session.steps) > 6
    for _ in range(2):  # closed and opened again
        with opened(path, device, route, monkeypatch) as session:
            assert session.route.name == route and session.route.commands == 1
            assert_same(results(session, inputs), wanted)
            profiled = session.profile({"x": inputs[0]})
            assert len(profiled) == session.route.launches
            assert_same(results(session, inputs[::-1]), wanted[::-1])
            stepper = Stepper(session)
            stepper.start({"x": inputs[0]})
            stepper.run(0, stepper.count)
            assert_same([session.read()], wanted[:1])
            seen = {tensor.name: array.copy() for tensor, array in trace(session, {"x": inputs[0]})}
            np.testing.assert_allclose(seen["g"], wanted[0]["z"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("driver", ["pocl"])
def test_chains_of_two_threads_beside_each_other(driver, path, monkeypatch):
    """Work-groups of one wait while those of the other hold the cores; nobody waits for ever."""
    monkeypatch.setenv("EDGERUN_ROUTE", "chain")
    device, inputs = Device(PROMISED[driver][0]), feeds(4)
    shared = Device(PROMISED[driver][0])
    sessions = [Session(loader.read(path), d) for d in (device, shared, shared)]
    wanted, wrong = results(sessions[0], inputs), []

    def work(own: list[Session]) -> None:
        for number in range(1500):
            session = own[number % len(own)]
            found = session.run({"x": inputs[number % 4]})
            for name in ("y", "z"):
                if not np.array_equal(found[name], wanted[number % 4][name]):
                    wrong.append((number, name))

    threads = [threading.Thread(target=work, args=(own,)) for own in (sessions[:1], sessions[1:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not any(thread.is_alive() for thread in threads) and not wrong
    for session in sessions:
        session.close()


@pytest.mark.parametrize("groups", [1, 5])
def test_chain_of_any_number_of_work_groups(path, monkeypatch, groups):
    """More than there are cores: some start only when others are through, and do nothing."""
    device, inputs = Device(PROMISED["pocl"][0]), feeds(50)
    with opened(path, device, "launches", monkeypatch) as session:
        wanted = results(session, inputs)
    monkeypatch.setattr(routes, "_cores", lambda _: groups)
    with opened(path, device, "chain", monkeypatch) as session:
        assert_same(results(session, inputs), wanted)


def test_chain_of_launches_of_one_tile(tmp_path, monkeypatch):
    """Shares without tiles: nothing of theirs may be counted as done, or a launch begins early."""
    graph = Graph("turns")
    shape = (1, 64, 64, 4)
    last = graph.input("x", shape, "fp32")
    for turn in range(6):  # a large launch reads the end of the one before first
        large = graph.add("slice", [last], f"turned{turn}", starts=(0, 63, 0, 0),
                          steps=(1, -1, 1, 1), sizes=shape)
        small = graph.add("reduce", [large], f"mean{turn}", kind="mean", axes=(1, 2, 3))
        small = graph.add("unary", [small], f"tanh{turn}", kind="tanh")
        last = graph.add("binary", [large, small], f"sum{turn}", kind="add")
    graph.output("y", last)
    path, device = save(graph, tmp_path / "turns.edge"), Device(PROMISED["pocl"][0])
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    with opened(path, device, "launches", monkeypatch) as session:
        wanted = session.run({"x": x})["y"]
    with opened(path, device, "chain", monkeypatch) as session:
        for _ in range(300):
            np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)


def test_chain_where_fewer_cores_are_allowed(monkeypatch):
    class Opened:
        info = type("Info", (), {"compute_units": 8})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert routes._cores(Opened) == 3


def test_default_route(device, path, monkeypatch):
    with opened(path, device, None, monkeypatch) as session:
        fast = device.info.platform in routes.FASTER_AS_CHAIN
        assert session.route.name == ("chain" if fast else "launches")
        made = dict(device.created)
        session.run({"x": feeds(1)[0]})
        assert device.created == made
        if fast:
            assert "steps" not in vars(session), "kernels were made that nobody needs"
        described = session.memory().text()
        assert f"{session.route.launches} launches as {session.route.commands} command" in described
        assert session.route.why in described


def test_default_route_of_other_drivers(device, path, monkeypatch):
    monkeypatch.setattr(routes, "FASTER_AS_CHAIN", ())
    with opened(path, device, None, monkeypatch) as session:
        assert session.route.name == "launches"


def test_routes_that_are_not_possible(device, path, monkeypatch):
    with pytest.raises(DeviceError, match="EDGERUN_ROUTE: there is no route called 'wire'.*chain"):
        opened(path, device, "wire", monkeypatch)
    monkeypatch.setattr(routes, "has", lambda _: False)
    with pytest.raises(DeviceError, match="buffer is not possible: the driver has no cl_khr_comm"):
        opened(path, device, "buffer", monkeypatch)
    with monkeypatch.context() as other:
        other.setattr("platform.machine", lambda: "aarch64")
        with pytest.raises(DeviceError, match="chain is not possible: cores .* another order"):
            opened(path, device, "chain", monkeypatch)
    monkeypatch.setattr("edgerun.chain.BUFFERS", 1)
    with pytest.raises(DeviceError, match="chain is not possible: there are more than 0 segments"):
        opened(path, device, "chain", monkeypatch)


@pytest.mark.parametrize("failing", ["clCreateCommandBufferKHR", "clCommandNDRangeKernelKHR",
                                     "clFinalizeCommandBufferKHR", "clEnqueueCommandBufferKHR"])
def test_command_buffer_that_fails(device, path, monkeypatch, failing):
    """Whatever the driver refuses is a DeviceError with the number that it gave."""
    from edgerun import command_buffer
    real = command_buffer._functions

    def functions(of):
        def refuse(*arguments):
            if failing == "clCreateCommandBufferKHR":
                arguments[3]._obj.value = -5
                return None
            return -5
        return {**real(of), failing: refuse}
    monkeypatch.setattr(command_buffer, "_functions", functions)
    with pytest.raises(DeviceError, match="cannot .*: OpenCL error -5"):
        with opened(path, device, "buffer", monkeypatch) as session:
            session.run({"x": feeds(1)[0]})


class Counted:
    """A device whose queue counts how often it was waited for, or fails at that."""

    def __init__(self, device, error: Exception | None = None):
        self.cl, self.info, self.queue, self.waits = device.cl, device.info, self, 0
        self._finish, self._error = device.queue.finish, error

    def finish(self) -> None:
        self.waits += 1
        if self._error is not None:
            raise self._error
        self._finish()


def recorded(session, error: Exception | None = None) -> tuple[Counted, list[int]]:
    """Have the route of a session count: returns its device, and the list of enqueued parts."""
    session.route._device = counted = Counted(session.device, error)
    enqueued, pending, finished = [], set(), session.route.finished

    def enqueue(part: int, replay) -> None:
        assert part not in pending, "a buffer was enqueued that may be pending"
        pending.add(part)
        enqueued.append(part)
        replay()

    for number, buffer in enumerate(session.route._buffers):
        buffer.enqueue = lambda part=number, replay=buffer.enqueue: enqueue(part, replay)
    session.route.finished = lambda: (pending.clear(), finished())
    return counted, enqueued


def test_a_command_buffer_is_pending_once(device, path, monkeypatch):
    """Runs that are read wait for nothing more; one that is not read, once."""
    if not routes.has(device):
        pytest.skip("the driver has no command buffers")
    with opened(path, device, "launches", monkeypatch) as session:
        wanted = results(session, feeds(3))
    with opened(path, device, "buffer", monkeypatch) as session:
        counted, enqueued = recorded(session)
        assert_same(results(session, feeds(3)), wanted)
        assert counted.waits == 0 and enqueued == [0, 0, 0]
        session.write(feeds(3)[:1])
        for _ in range(3):
            session.enqueue()
        assert counted.waits == 2 and enqueued == [0] * 6
        session.finish()
        assert_same(results(session, feeds(3)), wanted)
        assert counted.waits == 2


def test_parts_that_are_pending(device, path, monkeypatch):
    """Each part has a buffer of its own; all are waited for when one comes a second time."""
    if not routes.has(device):
        pytest.skip("the driver has no command buffers")
    with opened(path, device, "launches", monkeypatch) as session:
        count = len(session.prepared)
    real = Session._cut

    def cut(session, experts):
        real(session, experts)
        return [[], []], [range(0, 3), range(3, count)]
    monkeypatch.setattr(Session, "_cut", cut)
    with opened(path, device, "buffer", monkeypatch) as session:
        counted, enqueued = recorded(session)
        session.write(feeds(1))
        for part in (0, 1, 0, 1, 1, 0, 1):
            session.arena.launched(device.queue)
            session.route.enqueue(part)
        assert enqueued == [0, 1, 0, 1, 1, 0, 1] and counted.waits == 3


def test_a_launch_that_fails_before_the_next(device, path, monkeypatch):
    """It shows when a route waits for it, as a DeviceError that names the model."""
    if not routes.has(device):
        pytest.skip("the driver has no command buffers")
    import pyopencl as cl
    error = cl.RuntimeError("it", cl.status_code.OUT_OF_RESOURCES)
    with opened(path, device, "buffer", monkeypatch) as session:
        recorded(session, error)
        session.write(feeds(1))
        session.enqueue()
        with pytest.raises(DeviceError, match=r"branches.edge: .* failed while it ran"):
            session.enqueue()


def test_arena_that_must_be_mapped(device, path, monkeypatch):
    """Without memory that host and device share, everything goes through maps."""
    inputs = feeds(3)
    with opened(path, device, "launches", monkeypatch) as session:
        assert session.buffers.arena_bytes is not None
        wanted = results(session, inputs)
    monkeypatch.setattr(Buffers, "_coherent", lambda _: False)
    with opened(path, device, "launches", monkeypatch) as session:
        assert session.buffers.arena_bytes is None
        assert_same(results(session, inputs), wanted)
        seen = {tensor.name: array.copy() for tensor, array in trace(session, {"x": inputs[0]})}
        np.testing.assert_array_equal(seen["g"], wanted[0]["z"])
        import pyopencl as cl

        def refuse(*_, **__):
            raise cl.RuntimeError("it", cl.status_code.OUT_OF_RESOURCES)
        monkeypatch.setattr(cl, "enqueue_map_buffer", refuse)
        with pytest.raises(DeviceError, match="gives no access to 'x'"):
            session.run({"x": inputs[0]})


def test_writing_waits_for_launches(device, path, monkeypatch):
    """New inputs must not reach the arena while launches still read the old ones."""
    first, second = feeds(2)
    with opened(path, device, "launches", monkeypatch) as session:
        wanted = results(session, [first])
        for _ in range(20):
            session.write([first])
            session.enqueue()
            session.write([second])  # the outputs are still those of the first
            assert_same([session.read()], wanted)


def test_shared_memory_that_is_refused(device, path, monkeypatch):
    import pyopencl as cl

    def refuse(*_, **__):
        raise cl.MemoryError("clSVMAlloc", cl.status_code.OUT_OF_RESOURCES)
    monkeypatch.setattr(cl, "SVMAllocation", refuse)
    with pytest.raises(DeviceError, match="no room for the arena: [0-9]+ bytes asked"):
        opened(path, device, None, monkeypatch)


KERNEL = re.compile(r"^__kernel void (\w+)\(", re.M)
SETS = [{}, {"T_fp16": 1}, {"T_uint8": 1}]
SKIPPED = {"chain", "roofline"}  # of no op


def test_all_kernels_live_in_one_program():
    """Every kernel, in several variants at once: no name of one reaches another."""
    device = Device(PROMISED["pocl"][0])
    from edgerun import chain  # only now: it imports pyopencl
    sections, made = [], 0
    for file in sorted(KERNELS.glob("*.cl")):
        names = KERNEL.findall(file.read_text(encoding="utf-8"))
        for name in names if file.stem not in SKIPPED else []:
            for defines in SETS:
                launch = Launch(file.stem, name, defines, (1,), ())
                try:
                    device.programs.get(file.stem, defines)
                except EdgerunError:
                    continue  # not a legal set for this file
                sections.append(chain._section(launch, made))
                made += 1
    text = "\n".join([*sections, "__kernel void nothing(void) {}"])
    device.programs.get("all", {}, text)
    assert made > 60
