"""One arena for several sessions that take turns, and how many models are loaded that way."""
from __future__ import annotations

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


def _nobody() -> None:
    """Stand for a weak reference to no session."""


class Arena:
    """Memory of activations and scratch for sessions that do not run at the same time.

    A session has the arena from the write of its inputs until its outputs are read: Session.run()
    does both. Meanwhile the others are refused; afterwards they may write over it.

    Attributes:
        device: the opened Device of all its sessions.
        bytes: its size.
        buffer: on the device.
        host: the same, uint8, where the host may use it while no launch runs, else None.
        buffers: the account it is counted in.
        sessions: how many are open.
    """

    def __init__(self, size: int, device: Device | str | int | None = None,
                 buffers: Buffers | None = None):
        """Allocate it.

        Args:
            size: bytes; a model needs Session.model.plan.arena_bytes.
            device: an opened Device, or as for edgerun.load().
            buffers: count it there instead of in an account of its own, which also releases it.

        Raises:
            InputError: `size` is not a number of bytes.
            DeviceError: there is no such device, or it has no room.
        """
        if size < 0:
            raise InputError(f"an arena of {size} bytes, needed at least 0")
        self.device = device if isinstance(device, Device) else Device(device)
        self.bytes = size
        self._own = buffers is None
        self.buffers = Buffers(self.device) if buffers is None else buffers
        self.buffer = self.buffers.arena(size)
        self.host = self.buffers.arena_bytes
        self.sessions = 0
        self._user = _nobody
        self._busy = self._closed = False
        self._lock = threading.Lock()

    def join(self, session: Session) -> None:
        """Let a session that is being prepared use the arena.

        Raises:
            InputError: the arena is too small, or that of another device.
            DeviceError: the arena is closed.
        """
        path, needed = session.model.path, session.model.plan.arena_bytes
        with self._lock:
            if self._closed:
                raise DeviceError(f"{path}: the arena is closed")
            if session.device is not self.device:
                raise InputError(f"{path}: the arena lies on {self.device.info.name}, opened "
                                 "another time than the session's device: give the session "
                                 "arena.device")
            if needed > self.bytes:
                raise InputError(f"{path}: the arena has {self.bytes} bytes, needed {needed}")
            self.sessions += 1

    def leave(self, session: Session) -> None:
        """Forget a session that was closed; the last one takes a closed arena along."""
        with self._lock:
            self.sessions -= 1
            if self._user() is session:
                self._user, self._busy = _nobody, False
            self._release()

    def take(self, session: Session) -> None:
        """Let a session write its inputs.

        Raises:
            DeviceError: another session has not read its outputs yet.
        """
        with self._lock:
            other = self._user()  # None: nobody's, or of a session that was forgotten
            if self._busy and other is not None and other is not session:
                raise DeviceError(f"{session.model.path}: shares its arena with "
                                  f"{other.model.path}, which is running: one of them at a time, "
                                  "from the write of its inputs to the read of its outputs")
            self._user, self._busy = weakref.ref(session), True

    def done(self, session: Session) -> None:
        """Let the others have it: a session has read its outputs, or gave up."""
        if self._user() is session:
            self._busy = False

    def require(self, session: Session) -> None:
        """Require that the arena holds what a session has written.

        Raises:
            DeviceError: another session has written over it.
        """
        other = self._user()
        if other is not session and other is not None:
            raise DeviceError(f"{session.model.path}: {other.model.path} has written over the "
                              "arena that they share: write the inputs again")

    def close(self) -> None:
        """Give it back: now, or when the last of its sessions closes. No other can join."""
        with self._lock:
            self._closed = True
            self._release()

    def _release(self) -> None:
        if self.sessions or self._own and not self._closed:
            return
        if self._own:
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
