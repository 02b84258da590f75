"""Run a session op by op and look at what each op wrote, before a later one takes its place."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgerun.errors import DeviceError
from edgerun.model import Tensor
from edgerun.session import Session, Step


def trace(session: Session, inputs: Mapping[str, np.ndarray]
          ) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Run the model once; nothing is copied and no memory is needed beyond the arena.

    Args:
        session: an open session.
        inputs: as for Session.run().

    Yields:
        (tensor, its elements on the device: shape and dtype of the tensor) for the inputs, then for
        the outputs of every op in order. An array is a view of the arena, valid until the next
        step. An alias (a reshape) is not yielded: it has the bytes of its root.

    Raises:
        InputError: the inputs are wrong.
        DeviceError: OpenCL refused something, or the session is closed.
    """
    cl, queue = session.device.cl, session.device.queue
    model = session.model
    session.write(session.check(inputs))
    for info in model.inputs:
        yield from _view(session, model.root_of(model.tensors[info.tensor]))
    launches: dict[int, list[Step]] = {}
    for step in session.steps:
        launches.setdefault(step.op.index, []).append(step)
    for op in model.ops:
        try:
            for step in launches.get(op.index, ()):
                cl.enqueue_nd_range_kernel(queue, step.kernel, step.global_size, step.local_size)
        except cl.Error as error:
            raise DeviceError(f"{op}: {session.device.info.name} refuses a launch: "
                              f"{error}") from None
        for tensor in op.outputs:
            yield from _view(session, tensor)


def _view(session: Session, tensor: Tensor) -> Iterator[tuple[Tensor, np.ndarray]]:
    mapped = session._map(tensor, session.device.cl.map_flags.READ)
    try:
        yield tensor, mapped
    finally:
        mapped.base.release(session.device.queue)
