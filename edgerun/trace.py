"""Run a session op by op and look at what each op wrote, before a later one takes its place."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgerun import mixture
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
        the outputs of every op in order; a piece of a streamed input right before its op. An array
        is a view of the arena, valid until the next step. An alias (a reshape) is not yielded: it
        has the bytes of its root.

    Raises:
        InputError: the inputs are wrong.
        DeviceError: OpenCL refused something, or the session is closed.
    """
    model, read = session.model, session.device.cl.map_flags.READ
    arriving, arrays = model.arriving(), session.check(inputs)
    with session.turn():
        session.write(arrays)
        for info in model.inputs:
            if info.pieces:
                continue
            tensor = model.root_of(model.tensors[info.tensor])
            with session.access(tensor, read) as array:
                yield tensor, array
        launches: dict[int, list[Step]] = {}
        for step in session.steps:
            launches.setdefault(step.op.index, []).append(step)
        for op, sample in mixture.order(model):  # all experts, for every sample
            if sample:
                mixture.point(session, *sample)
            session.copy_pieces(arriving.get(op.index, []))
            for _, piece in arriving.get(op.index, ()):
                with session.access(model.tensors[piece.tensor], read) as array:
                    yield model.tensors[piece.tensor], array
            session.launch(launches.get(op.index, ()))
            for tensor in op.outputs:
                with session.access(tensor, read) as array:
                    yield tensor, array
