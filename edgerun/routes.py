"""How the launches of a session reach the device: one by one, recorded, or as one.

  launches   every launch is a command
  buffer     the launches are recorded once, and replayed by one command; command_buffer.py
  chain      one launch of a program that holds them all; chain.py

The environment variable EDGERUN_ROUTE takes one of NAMES instead of the choice made here, for tests
and measurements.
"""
from __future__ import annotations

import os
import platform
from collections.abc import Iterable

import numpy as np

from edgerun import drivers, mixture
from edgerun.command_buffer import EXTENSION, CommandBuffer, has
from edgerun.errors import DeviceError

NAMES = ("launches", "buffer", "chain")

# CPUs where all cores see stores in the order of the program: PoCL 3.1 makes no instruction of the
# fences of OpenCL C 1.2, by which a work-group that waits would see what others stored.
IN_ORDER = ("x86_64", "amd64", "i386", "i686")


class Launches:
    """Every launch is a command of its own.

    A run is enqueued part by part (Session.parts): in front of each, pieces of streamed inputs are
    copied in, or it is an expert's.

    Attributes:
        name: of the route, one of NAMES.
        why: why it was taken.
        launches: of a run; commands: what they are enqueued as.
        kernels: how many kernel objects it made.
    """
    name = "launches"

    def __init__(self, session, why: str):
        self.why = why
        self.launches = self.commands = self.kernels = len(session.prepared)
        self._device = session.device  # not the session: what it holds must go when it goes
        self._parts = [session.steps[part.start:part.stop] for part in session.parts]

    @staticmethod
    def chooses(session) -> bool:
        """Whether the device itself leaves out experts of a session, so that they are no parts."""
        return False

    def enqueue(self, part: int = 0) -> None:
        """Enqueue a part of a run, without waiting.

        Raises:
            DeviceError: the device refuses a launch.
        """
        enqueue_steps(self._device, self._parts[part])

    def finished(self) -> None:
        """Take note that the device has done everything that was enqueued."""

    def release(self) -> None:
        """Give back what the route holds on the device beside kernels and the session's."""

    def as_dict(self) -> dict:
        """Return what described() needs."""
        return {"name": self.name, "why": self.why, "launches": self.launches,
                "commands": self.commands}


def enqueue_steps(device, steps, queue=None, events: list | None = None) -> None:
    """Enqueue prepared launches one by one.

    Args:
        device: theirs.
        steps: Steps.
        queue: another queue of the same device; None for the session's own.
        events: collects one event per launch if given.

    Raises:
        DeviceError: the device refuses a launch.
    """
    launch, queue = device.cl.enqueue_nd_range_kernel, queue or device.queue
    try:
        for step in steps:
            event = launch(queue, step.kernel, step.global_size, step.local_size)
            if events is not None:
                events.append(event)
    except device.cl.Error as error:
        raise DeviceError(f"{step.op}: {device.info.name} refuses kernel {step.label} of size "
                          f"{step.global_size}: {error}") from None


class Recorded(Launches):
    """The launches are replayed by one command for each part."""
    name = "buffer"

    def __init__(self, session, why: str):
        super().__init__(session, why)
        self.commands = len(self._parts)
        self._path = session.model.path
        self._pending: set[int] = set()  # parts that were enqueued since the device was done
        self._buffers: list[CommandBuffer] = []
        try:
            for steps in self._parts:
                self._buffers.append(CommandBuffer(session.device, [
                    (step.kernel, step.global_size, step.local_size) for step in steps]))
        except BaseException:
            self.release()
            raise

    def enqueue(self, part: int = 0) -> None:
        """Enqueue a part of a run, without waiting.

        Raises:
            DeviceError: the device refuses it, or a launch before has failed.
        """
        if part in self._pending:  # an expert's next sample, or a run before that nobody read
            self._wait()  # for the driver may refuse a buffer that is still pending
        self._buffers[part].enqueue()
        self._pending.add(part)

    def _wait(self) -> None:
        device = self._device
        try:
            device.queue.finish()
        except device.cl.Error as error:
            raise DeviceError(f"{self._path}: {device.info.name} failed while it ran: "
                              f"{error}") from None
        self.finished()

    def finished(self) -> None:
        """Take note that the device has done everything that was enqueued."""
        self._pending.clear()

    def release(self) -> None:
        """Give back what the route holds on the device."""
        for buffer in self._buffers:
            buffer.release()


class Chained(Launches):
    """All launches of a part are one command; the session's steps are not needed, and not made.

    The parts have one program and one table, of which a command gets its rows. Where the host
    shares the table's memory, experts are no parts: the chain leaves out those that are not chosen,
    and stops at one that Experts.cold names, until go_on().
    """
    name = "chain"

    def __init__(self, session, why: str):
        from edgerun import chain  # imports pyopencl
        device, prepared = session.device, session.prepared
        self.why = why
        self.launches, self.commands, self.kernels = len(prepared), len(session.parts), 1
        self._device, self._path = device, session.model.path
        self._size = (_cores(device),)
        self._experts, mixtures = session.experts, []
        if self.chooses(session):
            mixtures = mixture.choosing(session.model, [op.index for op, _ in prepared])
        made = chain.make([launch for _, launch in prepared],
                          lambda number, arg: session.place(prepared[number][0], arg),
                          *self._size, mixtures)
        self._kernel = device.kernel(chain.FAMILY, chain.KERNEL, made.defines, made.text)
        self._table = made.table
        buffer, self._ints = session.buffers.numbers("chain", made.table.ints)
        buffers = session.memory_objects
        spare = [buffers[0]] * (chain.BUFFERS - len(buffers))
        self._kernel.set_args(*buffers, *spare, buffer, *[np.int32(0)] * 4)
        self._at = chain.BUFFERS + 1  # of the arguments that say which rows
        self._set: tuple = (0, 0, 0, 0)  # those arguments as they are; None: not known
        self._start = 0  # of what was enqueued last
        self._spans = [(made.table.starts[part.start], made.table.starts[part.stop])
                       for part in session.parts]
        self._end = 0
        if mixtures:
            self._experts.kept = [
                self._ints[at:at + m.batch * m.k].reshape(m.batch, m.k)
                for at, m in zip(made.table.kept, mixtures)]
            for which, expert in self._experts.cold:
                self._ints[made.table.cold[which][expert]] = 1

    @staticmethod
    def chooses(session) -> bool:
        """Whether the device itself leaves out experts of a session, so that they are no parts."""
        return bool(session.model.mixtures) and session.arena.host is not None

    def enqueue(self, part: int = 0) -> None:
        """Enqueue a part of a run, without waiting.

        Raises:
            DeviceError: the device refuses the launch.
        """
        self._enqueue(*self._spans[part])

    def _enqueue(self, start: int, end: int) -> None:
        """Enqueue the rows between two places of the table."""
        device, row = self._device, self._table.row
        self._start, self._end = start, end
        wanted = start, (end - start) // row, row, int(self._experts.every)
        try:
            if wanted != self._set:  # which takes longer than to enqueue the chain
                known, self._set = self._set, (None,) * len(wanted)  # if one of them is refused
                for at, (value, old) in enumerate(zip(wanted, known), self._at):
                    if value != old:
                        self._kernel.set_arg(at, np.int32(value))
                self._set = wanted
            device.cl.enqueue_nd_range_kernel(device.queue, self._kernel, self._size, (1,))
        except device.cl.Error as error:
            raise DeviceError(f"{self._path}: {device.info.name} refuses the chain "
                              f"of launches: {error}") from None

    def stopped(self) -> int:
        """Return the number of the mixture at whose cold expert the chain has stopped; -1 if it has
        not. The device must have done what was enqueued."""
        row = self._ints[self._table.stopped]
        return -1 if row < 0 else self._table.mixture_at(self._place(row))

    def _place(self, row: np.int32) -> int:
        """Return the place of a row that is counted from the first one of the last command."""
        return self._start + int(row) * self._table.row

    def go_on(self, which: int, experts: Iterable[int]) -> None:
        """Enqueue what is left where stopped() was no -1; experts of the mixture `which` are cold
        no more.

        Raises:
            DeviceError: the device refuses the launch.
        """
        for expert in experts:
            self._ints[self._table.cold[which][expert]] = 0
        self._enqueue(self._place(self._ints[self._table.stopped]), self._end)

    def release(self) -> None:
        """Forget the memory that goes back with the session's."""
        self._ints = self._experts.kept = None


def _cores(device) -> int:
    """How many cores of a CPU this process may use: more would wait for each other in turns."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1 << 16
    return max(1, min(device.info.compute_units, allowed))


def described(route: dict) -> str:
    """Return one line about a route, from its as_dict()."""
    commands = "1 command" if route["commands"] == 1 else f"{route['commands']} commands"
    return f"{route['launches']} launches as {commands} ({route['name']}: {route['why']})"


def choose(session) -> tuple[type[Launches], str]:
    """Return the kind of route of a session whose launches are prepared, and why it is taken.

    Raises:
        DeviceError: the device cannot build what the route needs; EDGERUN_ROUTE names no route, or
            one that is not possible here.
    """
    wanted = os.environ.get("EDGERUN_ROUTE")
    if wanted and wanted not in NAMES:
        raise DeviceError(f"EDGERUN_ROUTE: there is no route called {wanted!r}, needed one of "
                          f"{', '.join(NAMES)}")
    obstacles = {"chain": _against_chain(session), "buffer": _against_buffer(session)}
    if wanted:
        if obstacles.get(wanted):
            raise DeviceError(f"EDGERUN_ROUTE: {wanted} is not possible: {obstacles[wanted]}")
        return ROUTES[wanted], "EDGERUN_ROUTE asks for it"
    many = len(session.prepared) > 1
    if many and not obstacles["chain"] and session.device.info.platform in FASTER_AS_CHAIN:
        return Chained, "fastest on this driver"
    return Launches, obstacles["chain"] or "fastest on this driver"


# Platforms where a chain was measured to be faster, by 2 (large models) to 65 % (small ones).
FASTER_AS_CHAIN = (drivers.POCL, "Intel(R) OpenCL")
ROUTES = {"launches": Launches, "buffer": Recorded, "chain": Chained}


def _against_buffer(session) -> str:
    """Why launches cannot be recorded; "" if they can."""
    return "" if has(session.device) else f"the driver has no {EXTENSION}"


def _against_chain(session) -> str:
    """Why the launches of a session cannot be one; "" if they can."""
    from edgerun.chain import BUFFERS  # imports pyopencl
    if session.device.info.kind != "cpu":
        return "the device is no CPU"
    if platform.machine().lower() not in IN_ORDER:
        return "cores of this CPU may see stores in another order"
    if not session.prepared:
        return "there is nothing to chain"
    if len(session.memory_objects) > BUFFERS:
        return f"there are more than {BUFFERS - 1} segments"
    return ""
