"""Run a session op by op, look at tensors between ops and change them."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.errors import DeviceError, UnsupportedError
from edgerun.model import Tensor
from edgerun.session import Session, Step


class Stepper:
    """A session whose ops run one after the other, those of all experts too.

    Attributes:
        session: open as long as this is used.
        count: number of ops.
    """

    def __init__(self, session: Session):
        if any(mixture.slot >= 0 for mixture in session.model.mixtures):
            raise UnsupportedError(f"{session.model.path}: experts run sample by sample, which no "
                                   "range of ops does: needed a batch of 1")
        self.session = session
        self.count = len(session.model.ops)
        self._launches: list[list[Step]] = [[] for _ in range(self.count)]
        for step in session.steps:
            self._launches[step.op.index].append(step)
        self._arriving = session.model.arriving()

    def start(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copy inputs, as for Session.run(), into the arena; streamed ones come with the ops.

        The session has the arena until done(), where it shares it.

        Raises:
            InputError: the inputs are wrong.
            DeviceError: OpenCL refused something, or the session is closed.
        """
        self.session.write(self.session.check(inputs))

    def done(self) -> None:
        """Let the other sessions of the arena have it; what it holds may be written over."""
        self.session.arena.done(self.session)

    def run(self, first: int, last: int) -> None:
        """Enqueue the ops from number `first` up to `last`, which is left out.

        Raises:
            DeviceError: OpenCL refused a launch.
        """
        for number, launches in enumerate(self._launches[first:last], first):
            self.session.copy_pieces(self._arriving.get(number, []))
            self.session.launch(launches)

    def get(self, tensor: Tensor) -> np.ndarray:
        """Return a copy of the elements of a tensor that is live now."""
        with self.session.access(tensor, self.session.device.cl.map_flags.READ) as array:
            return np.array(array)

    def put(self, tensor: Tensor, values: np.ndarray) -> None:
        """Give a tensor that is live now other elements: its shape and dtype."""
        with self.session.access(tensor, self.session.device.cl.map_flags.WRITE) as array:
            array[...] = values

    def copy(self, other: Stepper) -> None:
        """Take over all tensors of a stepper whose session has the same plan on the same device.

        Raises:
            DeviceError: OpenCL refused the copy.
        """
        device, size = self.session.device, self.session.model.plan.arena_bytes
        if other.session.device is not device or other.session.model.plan.arena_bytes != size:
            raise ValueError("the sessions have other arenas")
        other.session.arena.require(other.session)
        self.session.arena.take(self.session)
        if not size:
            return
        for session in (self.session, other.session):
            session.arena.launched(device.queue)
        try:
            device.cl.enqueue_copy(device.queue, self.session.memory_objects[0],
                                   other.session.memory_objects[0], byte_count=size)
        except device.cl.Error as error:
            raise DeviceError(f"{self.session.model.path}: {device.info.name} copies no arena: "
                              f"{error}") from None
