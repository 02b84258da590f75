"""Run a model with state step by step: outputs that are inputs of the next step stay on the device.

    with edgerun.load("dtln.edge") as session:
        stream = Stream(session, {"state_out": "state_in"})
        for block in blocks:
            clean = stream.run({"audio": block})["clean"]
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.errors import DeviceError, InputError
from edgerun.model import Tensor, TensorInfo
from edgerun.regions import region_of, shared
from edgerun.session import Session, checked


class Stream:
    """Steps of a session whose states are carried from one to the next.

    Attributes:
        session: open as long as this is used; between two steps only this may run it.
        states: output -> the input that it is in the next step.
        way: "arena" (copied inside of the arena: no array is made), or "arrays" (through the host,
            where tensors are stored differently, others may use the arena, see edgerun.Arena, or
            the host cannot reach it).
    """

    def __init__(self, session: Session, states: Mapping[str, str]):
        """Check the states; the first step starts with zeros.

        Raises:
            InputError: an output or input does not exist, is given twice, or has another shape or
                dtype than its partner.
        """
        self.session, self.states = session, dict(states)
        outputs, inputs = ({info.name: info for info in infos}
                           for infos in (session.outputs, session.inputs))
        if len(set(self.states.values())) != len(self.states):
            raise InputError("an input is the state of two outputs, needed one")
        for out, into in self.states.items():
            for name, known, role in ((out, outputs, "output"), (into, inputs, "input")):
                if name not in known:
                    raise InputError(f"there is no {role} {name!r}: needed one of "
                                     f"{', '.join(map(repr, known))}")
            a, b = outputs[out], inputs[into]
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise InputError(f"the state {out!r} is {a.shape} {a.dtype}, the input {into!r} "
                                 f"{b.shape} {b.dtype}: needed the same")
        self._pairs = [(outputs[out], inputs[into]) for out, into in self.states.items()]
        self.way = "arena" if self._stays() else "arrays"
        self._given: dict[str, np.ndarray] = {}
        self.reset()

    def _stays(self) -> bool:
        session, tensors = self.session, self.session.model.tensors
        pairs = [(tensors[a.tensor], tensors[b.tensor]) for a, b in self._pairs if a.tensor >= 0]
        return (session.arena.host is not None and session.arena.private
                and not session.model.host_ops and len(pairs) == len(self._pairs)
                and all(not x.constant and not b.pieces and a.perm == b.perm and _alike(x, y)
                        for (x, y), (a, b) in zip(pairs, self._pairs)))

    def reset(self, states: Mapping[str, np.ndarray] | None = None) -> None:
        """Let the next step start with given states, by the names of inputs; others are 0.

        The arrays are copied.

        Raises:
            InputError: a name is none of a state; an array is none that Session.run() takes.
        """
        given = dict(states or {})
        for name in given:
            if name not in self.states.values():
                raise InputError(f"{name!r} is no state: needed one of "
                                 f"{', '.join(map(repr, self.states.values()))}")
        self._given = {b.name: np.array(checked(b, given[b.name])) if b.name in given
                       else _zeros(b) for _, b in self._pairs}
        self._carried: int | None = None  # the turn that left the states in the arena
        self._failed = False

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one step.

        Args:
            inputs: all but the states, as for Session.run().

        Returns:
            The outputs that are no states.

        Raises:
            InputError: as Session.run(); a state is given: that is for reset(). The states stay.
            DeviceError: as Session.run(), after which the stream needs a reset(); it needs one; the
                session ran outside of the stream and wrote over states in the arena.
        """
        session, names = self.session, set(self.states.values())
        for name in inputs:
            if name in names:
                raise InputError(f"input {name!r} is a state, which the stream carries: give it to "
                                 "reset()")
        arrays = session.check(inputs, leave=names)
        if self._failed:
            raise DeviceError(f"{session.model.path}: a step of the stream failed, and its states "
                              "are lost: reset() it")
        if self._carried not in (None, session.arena.turns):
            raise DeviceError(f"{session.model.path}: the session ran outside of the stream, and "
                              "wrote over its states: reset() it")
        with session.turn():
            self._failed = True  # until the step is done
            if self._carried is None:
                arrays = [self._given.get(info.name, array)
                          for info, array in zip(session.inputs, arrays)]
            else:
                self._carry()
            session.write(arrays)
            session.enqueue()
            if self.way == "arrays":
                outputs = session.read()
                self._given = {into: outputs.pop(out) for out, into in self.states.items()}
            else:
                outputs = session.copy_out(leave=self.states)
                self._carried = session.arena.turns
            self._failed = False
        return outputs

    def _carry(self) -> None:
        """Copy states to where the next step reads them; a state may lie over another's place."""
        tensors = self.session.model.tensors
        pairs = [(tensors[a.tensor], tensors[b.tensor]) for a, b in self._pairs]
        apart = all(shared(region_of(x), region_of(y)) == 0 for x, _ in pairs for _, y in pairs)
        found = [(self.session.in_reach(x), self.session.in_reach(y)) for x, y in pairs]
        for source, target in found if apart else [(np.array(a), b) for a, b in found]:
            np.copyto(target, source)


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the same bytes."""
    grids = [t.quantization and t.quantization.grid for t in (x, y)]
    return (x.shape, x.dtype) == (y.shape, y.dtype) and grids[0] == grids[1]


def _zeros(info: TensorInfo) -> np.ndarray:
    """Return what means 0 in an input."""
    return np.full(info.shape, info.zero_point or 0, info.dtype)
