"""One arena for several sessions that take turns, and how many models are loaded that way."""
from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgerun.device import Device
from edgerun.errors import DeviceError, InputError
from edgerun.memory import Buffers

if TYPE_CHECKING:
    from edgerun.session import Session


class Arena:
    """Memory of activations and scratch for sessions that do not run at the same time.

    A session has the arena from the write of its inputs until its outputs are read: Session.run()
    does both. Meanwhile the others are refused; afterwards they may write over it.

    Attributes:
        device: the opened Device of all its sessions.
        bytes: its size.
        private: it belongs to the session that made it, and no other can join.
        buffer: on the device.
        host: the same, uint8, where the host may use it while no launch runs, else None.
        buffers: the account it is counted in.
        pending: queues with launches that may still use it, whoever enqueued them.
        turns: how many times a session has taken it.
    """

    def __init__(self, size: int, device: Device | str | int | None = None,
                 buffers: Buffers | None = None):
        """Allocate it.

        Args:
            size: bytes; a model needs Session.model.plan.arena_bytes.
            device: an opened Device, or as for edgerun.load().
            buffers: of a session that makes its own arena: count it there, and go with it.

        Raises:
            InputError: `size` is not a number of bytes.
            DeviceError: there is no such device, or it has no room.
        """
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise InputError(f"an arena of {size!r} bytes, needed a whole number")
        size = operator.index(size)
        if size < 0:
            raise InputError(f"an arena of {size} bytes, needed at least 0")
        self.device = device if isinstance(device, Device) else Device(device)
        self.bytes = size
        self.private = buffers is not None
        self.buffers = Buffers(self.device) if buffers is None else buffers
        self.buffer = self.buffers.arena(size)
        self.host = self.buffers.arena_bytes
        self.pending: list = []
        self.turns = 0
        self._members: set[weakref.ref] = set()  # sessions that have joined
        self._user: weakref.ref | None = None    # whose turn it is
        self._writer: weakref.ref | None = None  # who wrote last, even if it is closed since
        self._writer_path = ""
        self._closed = False
        self._lock = threading.RLock()  # a session may be collected inside of any method here

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._members)

    def join(self, session: Session) -> None:
        """Let a session that is being prepared use the arena.

        Raises:
            InputError: the arena is too small, that of another device, or another session's own.
            DeviceError: the arena is closed.
        """
        path, needed = session.model.path, session.model.plan.arena_bytes
        with self._lock:
            if self._closed:
                raise DeviceError(f"{path}: the arena is closed")
            if self.private and self._members:
                raise InputError(f"{path}: the arena belongs to another session alone: make an "
                                 "edgerun.Arena for both")
            if session.device is not self.device:
                raise InputError(f"{path}: the arena lies on {self.device.info.name}, opened "
                                 "another time than the session's device: give the session "
                                 "arena.device")
            if needed > self.bytes:
                raise InputError(f"{path}: the arena has {self.bytes} bytes, needed {needed}")
            self._members.add(weakref.ref(session, self._forget))

    def leave(self, session: Session) -> None:
        """Forget a session that was closed; the last one takes a closed arena along."""
        self._forget(weakref.ref(session))

    def _forget(self, member: weakref.ref) -> None:
        with self._lock:
            self._members.discard(member)
            if self._user == member:
                self._user = None
            self._closed = self._closed or self.private
            self._release()

    def take(self, session: Session) -> None:
        """Let a session write its inputs.

        Raises:
            DeviceError: another session has not read its outputs yet.
        """
        with self._lock:
            other = self._user and self._user()  # None: nobody's, or of one that was forgotten
            if other is not None and other is not session:
                raise DeviceError(f"{session.model.path}: shares its arena with "
                                  f"{other.model.path}, which is running: one of them at a time, "
                                  "from the write of its inputs to the read of its outputs")
            self._user = self._writer = weakref.ref(session)
            self._writer_path = session.model.path
            self.turns += 1

    def done(self, session: Session) -> None:
        """Let the others have it: a session has read its outputs, or gave up."""
        with self._lock:
            if self._user is not None and self._user() is session:
                self._user = None

    def require(self, session: Session) -> None:
        """Require that the arena holds what a session has written.

        Raises:
            DeviceError: another session has written over it.
        """
        writer = self._writer
        if writer is not None and writer() is not session:
            raise DeviceError(f"{session.model.path}: {self._writer_path} has written over the "
                              "arena that they share: write the inputs again")

    def launched(self, queue) -> None:
        """Remember that a queue has, or will have, launches that use the arena."""
        if queue not in self.pending:
            self.pending.append(queue)

    def finish(self) -> None:
        """Wait for all launches that use the arena, and for what else the device's queue has.

        Only who has the arena may clear `pending` afterwards.

        Raises:
            pyopencl.Error: one has failed.
        """
        own = self.device.queue
        for queue in (own, *(other for other in self.pending if other is not own)):
            queue.finish()

    def close(self) -> None:
        """Give it back: now, or when the last of its sessions closes. No other can join."""
        with self._lock:
            self._closed = True
            self._release()

    def _release(self) -> None:
        if self._members or not self._closed or self.buffer is None:
            return
        if not self.private:
            try:
                if self.pending:
                    self.finish()  # of a session that was forgotten while its launches ran
            except self.device.cl.Error:
                pass  # nobody reads their results any more
            self.buffers.release()
        self.buffer = self.host = None

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def load_many(paths: Sequence[str | os.PathLike], device: Device | str | int | None = None,
              check_weights: bool = True) -> list[Session]:
    """Prepare models that take turns: on one device, in one arena as large as the largest needs.

    A path that is given twice is read once. Sessions may be closed in any order; the last one
    gives the arena back.

    Args:
        paths: .edge files; they must stay unchanged while the sessions live.
        device, check_weights: as for load().

    Returns:
        One session per path.

    Raises:
        InputError: `paths` is one path, not a list.
        ModelError, DeviceError: as load(); no session is left open.
    """
    from edgerun import loader
    from edgerun.session import Session
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise InputError(f"load_many({os.fspath(paths)!r}): needed a list of paths")
    models = {}
    for path in paths:
        if os.path.realpath(path) not in models:
            models[os.path.realpath(path)] = loader.read(path, check_weights)
    if not models:
        return []
    opened = device if isinstance(device, Device) else Device(device)
    sessions: list[Session] = []
    with Arena(max(m.plan.arena_bytes for m in models.values()), opened) as arena:
        try:
            for path in paths:
                sessions.append(Session(models[os.path.realpath(path)], opened, arena=arena))
        except BaseException:
            for session in sessions:
                session.close()
            raise
    return sessions
