"""Run a session op by op, look at tensors between ops and change them."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.errors import DeviceError
from edgerun.model import Tensor
from edgerun.session import Session, Step


class Stepper:
    """A session whose ops run one after the other.

    Attributes:
        session: open as long as this is used.
        count: number of ops.
    """

    def __init__(self, session: Session):
        self.session = session
        self.count = len(session.model.ops)
        self._launches: list[list[Step]] = [[] for _ in range(self.count)]
        for step in session.steps:
            self._launches[step.op.index].append(step)

    def start(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copy inputs, as for Session.run(), into the arena.

        Raises:
            InputError: the inputs are wrong.
            DeviceError: OpenCL refused something, or the session is closed.
        """
        self.session.write(self.session.check(inputs))

    def run(self, first: int, last: int) -> None:
        """Enqueue the ops from number `first` up to `last`, which is left out.

        Raises:
            DeviceError: OpenCL refused a launch.
        """
        device = self.session.device
        for launches in self._launches[first:last]:
            for step in launches:
                try:
                    device.cl.enqueue_nd_range_kernel(device.queue, step.kernel, step.global_size,
                                                      step.local_size)
                except device.cl.Error as error:
                    raise DeviceError(f"{step.op}: {device.info.name} refuses a launch: "
                                      f"{error}") from None

    def get(self, tensor: Tensor) -> np.ndarray:
        """Return a copy of the elements of a tensor that is live now."""
        mapped = self.session._map(tensor, self.session.device.cl.map_flags.READ)
        try:
            return np.array(mapped)
        finally:
            mapped.base.release(self.session.device.queue)

    def put(self, tensor: Tensor, values: np.ndarray) -> None:
        """Give a tensor that is live now other elements: its shape and dtype."""
        mapped = self.session._map(tensor, self.session.device.cl.map_flags.WRITE)
        try:
            mapped[...] = values
        finally:
            mapped.base.release(self.session.device.queue)

    def copy(self, other: Stepper) -> None:
        """Take over all tensors of a stepper whose session has the same plan on the same device.

        Raises:
            DeviceError: OpenCL refused the copy.
        """
        device, size = self.session.device, self.session.model.plan.arena_bytes
        if other.session.device is not device or other.session.model.plan.arena_bytes != size:
            raise ValueError("the sessions have other arenas")
        if not size:
            return
        try:
            device.cl.enqueue_copy(device.queue, self.session._arena, other.session._arena,
                                   byte_count=size)
        except device.cl.Error as error:
            raise DeviceError(f"{self.session.model.path}: {device.info.name} copies no arena: "
                              f"{error}") from None
