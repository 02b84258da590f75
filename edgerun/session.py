"""A model prepared on a device: everything that can fail happens here once, then run only runs."""
from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgerun import boundary, dtypes, host_ops, loader, mixture, modes, routes, tuning
from edgerun.arena import Arena
from edgerun.device import Device
from edgerun.errors import DeviceError, InputError
from edgerun.memory import Buffers, give_back
from edgerun.model import Model, Op, Piece, Tensor, TensorInfo
from edgerun.ops import OPS, Launch, Scratch
from edgerun.ops._base import Variant
from edgerun.regions import region_of


@dataclass(frozen=True)
class Step:
    """One prepared launch: a kernel with its arguments set, and its work sizes."""
    op: Op
    kernel: object
    global_size: tuple[int, ...]
    local_size: tuple[int, ...] | None
    label: str


def load(path: str | os.PathLike, device: Device | str | int | None = None,
         check_weights: bool = True, arena: Arena | None = None,
         precision: str | int | None = None) -> Session:
    """Map a model file, validate it and prepare it on a device.

    Args:
        path: a .edge file; it must stay unchanged while the session lives.
        device: index or part of the platform or device name; None takes EDGERUN_DEVICE, else the
            best device found. Or a Device that is open: sessions on it share compiled programs.
        check_weights: compare the checksums of the weights, which reads the whole file once.
        arena: use this one, on its device, in turns with other sessions; see edgerun.load_many().
        precision: what the session starts with, see Session.set_precision(); None for the file's
            default.

    Raises:
        ModelError: the file is not a valid model.
        DeviceError: there is no such device, it has too little memory, or it cannot build a kernel.
        InputError: the arena is too small, or not on this device; there is no such precision.
    """
    model = loader.read(path, check_weights)
    if arena is not None and device is None:
        device = arena.device
    return Session(model, device if isinstance(device, Device) else Device(device), arena=arena,
                   precision=precision)


class Session:
    """A model on a device. Not thread-safe: one session per thread.

    Attributes:
        model: the validated Model.
        device: the opened Device.
        inputs, outputs: TensorInfo of each, as the source model declares them.
        choices: text of a Key -> tuned variant; what is given here, else what edgerun.tuning finds.
        prepared: (op, launch) of everything a run does, in the order of the ops.
        parts: the launches in spans of their numbers: in front of each, pieces of streamed inputs
            are copied in, or it is an expert's that the host chooses. One, if there is neither.
        experts: which of the experts' parts a run enqueues.
        steps: the same as kernels with their arguments set. Where the route is another one they
            are made when somebody asks for them, as profile() does.
        route: how a run reaches the device, see edgerun/routes.py.
        memory_objects: the arena, then the segments.
        arena: its own, or the one that it shares.
        buffers: the account of what the device was asked for, without an arena that is shared.
    """

    def __init__(self, model: Model, device: Device,
                 choices: Mapping[str, Variant] | None = None, arena: Arena | None = None,
                 precision: str | int | None = None):
        self.model = model
        self.device = device
        self.inputs: list[TensorInfo] = list(model.inputs)
        self.outputs: list[TensorInfo] = list(model.results)
        self.buffers = Buffers(device)
        self.choices = tuning.choices(model.tuning, device) if choices is None else choices
        self._closed = False
        self._streamed: dict[str, np.ndarray] = {}  # by name: arrays whose pieces are copied later
        self.arena: Arena | None = None
        self.route: routes.Launches | None = None
        try:
            self._weights = self.buffers.weights(model)
            if arena is None:
                arena = Arena(model.plan.arena_bytes, device, self.buffers)
            arena.join(self)
            self.arena = arena
            self._precision = modes.Precision(self, precision)
            self.memory_objects = [arena.buffer, *self._weights.buffers]
            self.prepared = [(op, launch) for op in model.ops for launch in self._launches(op)]
            route, why = routes.choose(self)
            self._arriving, self.parts = self._cut(not route.chooses(self))
            self.route = route(self, why)
            self._boundary = [(info, model.tensors[info.tensor],
                               self.in_reach(model.tensors[info.tensor]))
                              for info in (*model.inputs, *model.outputs)]
            device.programs.store()
            give_back()
        except BaseException:
            if self.route is not None:
                self.route.release()
            self.buffers.release()
            if self.arena is not None:
                self.arena.leave(self)
            raise

    def _cut(self, experts: bool) -> tuple[list[list[tuple[TensorInfo, Piece]]], list[range]]:
        """Cut the launches where pieces are copied in, and experts begin if the host chooses them;
        returns the pieces, and the spans behind them."""
        arriving = self.model.arriving()
        stops = sorted({0, *arriving, *(mixture.stops(self.model) if experts else ())})
        numbers = [next((n for n, (op, _) in enumerate(self.prepared) if op.index >= stop),
                        len(self.prepared)) for stop in stops]
        self.experts = mixture.Experts(self.model, stops, self.buffers.in_place)
        return ([arriving.get(stop, []) for stop in stops],
                [range(a, b) for a, b in zip(numbers, [*numbers[1:], len(self.prepared)])])

    def _launches(self, op: Op) -> list[Launch]:
        return OPS[op.code].prepare(op, replace(self.device.facts_for(op), choices=self.choices))

    @cached_property
    def steps(self) -> list[Step]:
        """The prepared launches, one kernel each."""
        self.device.build(launch for _, launch in self.prepared)
        return [self._bind(op, launch) for op, launch in self.prepared]

    def place(self, op: Op | None, arg: Tensor | Scratch) -> tuple[int, int]:
        """Return where an argument of a launch of `op` lies: number in memory_objects, offset."""
        if isinstance(arg, Scratch):
            return 0, op.scratch_offset + arg.at
        if not arg.constant:
            return 0, arg.offset
        number, offset = self._weights.place(arg)
        return 1 + number, offset

    def _bind(self, op: Op, launch: Launch) -> Step:
        kernel = self.device.kernel(launch.family, launch.kernel, launch.defines)
        args: list[object] = []
        for arg in launch.args:
            if isinstance(arg, (Tensor, Scratch)):
                number, offset = self.place(op, arg)
                args += [self.memory_objects[number], np.uint32(offset)]
            else:
                args.append(arg)
        try:
            kernel.set_args(*args)
        except self.device.cl.Error as error:
            raise DeviceError(f"{op}: the arguments of kernel {launch.kernel} are refused: "
                              f"{error}") from None
        return Step(op, kernel, launch.global_size, launch.local_size, launch.kernel)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            inputs: name -> array with the shape and dtype that `inputs` lists.

        Returns:
            name -> array, in the order, shapes and dtypes that `outputs` lists.

        Raises:
            InputError: a name is missing or unknown; an array has another shape or dtype, or holds
                a value that is not finite.
            DeviceError: OpenCL refused a launch, or the session is closed.
        """
        arrays = self.check(inputs)
        with self.turn():
            self.write(arrays)
            self.enqueue()
            return self.read()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the arena, and give it back however the work on it ends.

        Raises:
            DeviceError: the session is closed, or another one uses the arena.
        """
        self._require_open()
        self.arena.take(self)
        try:
            yield
        finally:
            self._streamed = {}
            self.arena.done(self)

    def set_precision(self, precision: str | int, ops: Iterable[str] | str | None = None) -> None:
        """Let other planes of the weights count, from the next run on.

        This may be done between any two runs: nothing on the device is allocated, built or copied.
        The first switch upwards asks the system to read the planes.

        Args:
            precision: name of a mode of the file, see `modes`; or a number of bits: of each op so
                many planes count, all if it has fewer.
            ops: names of the ops that change; None for all.

        Raises:
            InputError: the file has no such mode, more bits are wanted than any op has, or there is
                no op of a name with planes.
        """
        self._precision.set(precision, ops)

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of the precisions that the file lists; the last one is its default."""
        return tuple(mode.name for mode in self.model.modes)

    @property
    def precision(self) -> str | int | None:
        """Name of the mode that runs have now; else the bits that were set; "mixed" if ops differ
        in another way; None if the weights have no planes."""
        return self._precision.name

    @property
    def planes(self) -> dict[str, int]:
        """Name of an op -> how many planes of its weights count now."""
        return self._precision.planes

    def counted(self, op: Op) -> Op:
        """Return an op of the model without the planes that do not count now."""
        return modes.counted(self.model, self._precision.counts, op)

    def check(self, inputs: Mapping[str, np.ndarray], leave: Container[str] = ()
              ) -> list[np.ndarray | None]:
        """Return the arrays in the order of `inputs` after checking them as run() does.

        Inputs that are named in `leave` are not needed, and None.
        """
        names = [info.name for info in self.inputs]
        unknown = [name for name in inputs if name not in names]
        if unknown:
            raise InputError(f"unknown input {', '.join(map(repr, unknown))}: the model has "
                             f"{', '.join(map(repr, names))}")
        missing = [name for name in names if name not in inputs and name not in leave]
        if missing:
            raise InputError(f"missing input {', '.join(map(repr, missing))}: the model needs "
                             f"{', '.join(map(repr, names))}")
        return [None if info.name in leave else checked(info, inputs[info.name])
                for info in self.inputs]

    def enqueue(self, queue=None, events: list | None = None) -> None:
        """Enqueue every launch on the arrays that write() got, without waiting for the last one.

        Where an input is streamed, this waits for launches before it copies a piece; where experts
        are chosen, before it reads which, and leaves out the launches of the others. If the route
        does that, it waits as long as there are experts that no run has chosen yet.

        Args:
            queue: another queue of the same device; None for the session's own. Every expert runs
                then, for one sample.
            events: collects one event per launch if given; experts as with another queue.

        Raises:
            DeviceError: OpenCL refused a launch, or the session is closed.
        """
        self._require_open()
        self.arena.require(self)
        apart = queue is not None or events is not None
        for number, sample in self.experts.walk(self, apart):
            pieces, part = self._arriving[number], self.parts[number]
            if sample:
                mixture.point(self, *sample, queue)
            if pieces:
                if queue is not None:
                    queue.finish()
                self.copy_pieces(pieces)
                if queue is not None:
                    self.device.queue.finish()
            if not apart:
                self.arena.launched(self.device.queue)
                self.route.enqueue(number)
            else:
                steps = self.steps[part.start:part.stop] if len(self.parts) > 1 else self.steps
                self.launch(steps, queue, events)

    def launch(self, steps: Iterable[Step], queue=None, events: list | None = None) -> None:
        """Enqueue some of `steps`; the rest as for enqueue()."""
        self._require_open()
        self.arena.require(self)
        self.arena.launched(queue or self.device.queue)
        routes.enqueue_steps(self.device, steps, queue, events)

    def copy_pieces(self, pieces: list[tuple[TensorInfo, Piece]]) -> None:
        """Copy pieces of streamed inputs into the arena, once all launches before are done.

        Raises:
            InputError: write() got no arrays since the last run.
            DeviceError: a launch before or the transfer failed, or the session is closed.
        """
        for info, piece in pieces:
            if info.name not in self._streamed:
                raise InputError(f"input {info.name!r}: is streamed, and there is no array that "
                                 "its pieces could be copied from")
            tensor = self.model.tensors[piece.tensor]
            rows = boundary.rows(info, self._streamed[info.name], piece.row, tensor.shape[1])
            with self.access(tensor, self.device.cl.map_flags.WRITE_INVALIDATE_REGION) as mapped:
                boundary.put(info, tensor, rows, mapped)

    def in_reach(self, tensor: Tensor) -> np.ndarray | None:
        """A tensor's memory where the host has it without a command, else None."""
        memory = (self.model.segments[tensor.segment].data if tensor.constant
                  else self.arena.host)
        if memory is None or self.arena.host is None:
            return None
        part = memory[tensor.offset:region_of(tensor).end]
        return _in_rows(part.view(dtypes.numpy_dtype(tensor.dtype)), tensor)

    @contextmanager
    def access(self, tensor: Tensor, flags: int) -> Iterator[np.ndarray]:
        """Give the host a tensor's memory, once all launches before are done.

        Args:
            tensor: live now.
            flags: cl.map_flags of what is done there.

        Yields:
            its elements, of its shape and dtype.

        Raises:
            DeviceError: a launch or OpenCL failed, or the session is closed.
        """
        self._require_open()
        self.arena.require(self)
        array = self.in_reach(tensor)
        if array is not None:
            self.finish()
            yield array
            return
        mapped = self._map(tensor, flags)
        try:
            yield _in_rows(mapped, tensor)
        finally:
            mapped.base.release(self.device.queue)

    def finish(self) -> None:
        """Wait for all launches.

        Raises:
            DeviceError: one has failed.
        """
        try:
            self.arena.finish()
        except self.device.cl.Error as error:
            raise DeviceError(f"{self.model.path}: {self.device.info.name} failed while it ran: "
                              f"{error}") from None
        self.arena.pending.clear()
        self.route.finished()

    def _map(self, tensor: Tensor, flags: int) -> np.ndarray:
        number, offset = self.place(None, tensor)
        size = region_of(tensor).end - offset
        try:
            array, _ = self.device.cl.enqueue_map_buffer(
                self.device.queue, self.memory_objects[number], flags, offset,
                (size // dtypes.size(tensor.dtype),), dtypes.numpy_dtype(tensor.dtype),
                is_blocking=True)
        except (self.device.cl.Error, MemoryError) as error:
            raise DeviceError(f"{self.model.path}: {self.device.info.name} gives no access to "
                              f"{tensor.name!r}: {error}") from None
        return array

    def _require_open(self) -> None:
        # a buffer that was given back must not reach OpenCL: PoCL ends the process
        if self._closed:
            raise DeviceError(f"{self.model.path}: the session is closed")

    def write(self, arrays: list[np.ndarray | None]) -> None:
        """Copy arrays, in the order of `inputs` and checked by check(), into the arena.

        None leaves what an input's tensor holds.

        An array of a streamed input is only kept until the end of the run, which copies its pieces.

        Raises:
            DeviceError: OpenCL refused the transfer, the session is closed, or another one uses
                the arena.
        """
        self._require_open()
        self.arena.take(self)
        try:
            if self.arena.pending:
                self.finish()
            self._put(arrays)
        except BaseException:
            self.arena.done(self)
            raise

    def _put(self, arrays: list[np.ndarray | None]) -> None:
        self._precision.put(self)
        for (info, tensor, memory), array in zip(self._boundary, arrays):
            if array is None:
                continue
            if info.pieces:
                self._streamed[info.name] = array
            elif memory is not None:
                boundary.put(info, tensor, array, memory)
            else:
                with self.access(tensor,
                                 self.device.cl.map_flags.WRITE_INVALIDATE_REGION) as mapped:
                    boundary.put(info, tensor, array, mapped)

    def read(self) -> dict[str, np.ndarray]:
        """Wait for the launches, copy the outputs out of the arena, and run the host ops on them.

        Raises:
            DeviceError: a launch or the transfer failed, the session is closed, or another one
                has written over the arena.
        """
        return host_ops.finish(self.model, self.copy_out())

    def copy_out(self, leave: Container[str] = ()) -> dict[str, np.ndarray]:
        """As read(), without the host ops, and without the outputs that are left in the arena."""
        self._require_open()
        self.arena.require(self)
        self.finish()
        outputs = {}
        for info, tensor, memory in self._boundary[len(self.inputs):]:
            if info.name in leave:
                continue
            if memory is not None:
                outputs[info.name] = boundary.take(info, tensor, memory)
                continue
            with self.access(tensor, self.device.cl.map_flags.READ) as mapped:
                outputs[info.name] = boundary.take(info, tensor, mapped)
        self.arena.done(self)
        return outputs

    def stream(self, states: Mapping[str, str]):
        """Return a Stream, which carries states (output -> input) from step to step."""
        from edgerun.stream import Stream
        return Stream(self, states)

    def memory(self):
        """Return the MemoryReport: planned, allocated and measured bytes."""
        from edgerun.report import memory_report
        return memory_report(self)

    def profile(self, inputs: Mapping[str, np.ndarray]):
        """Run with timestamps; returns a list of OpTime, one per launch."""
        from edgerun.timing import profile
        return profile(self, inputs)

    def close(self) -> None:
        """Give the buffers back. The session cannot run afterwards."""
        if not self._closed:
            self._closed = True
            try:
                self.arena.finish()
            except self.device.cl.Error:
                pass  # a launch whose results nobody reads any more; buffers go back all the same
            self.route.release()
            self.steps = []
            self._boundary = []
            self._streamed = {}
            self.buffers.release()
            self.arena.leave(self)
            self.device.programs.store(closing=True)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _in_rows(elements: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return elements from the first to the last of a tensor as an array of its shape."""
    if not tensor.pitch:
        return elements.reshape(tensor.shape)
    steps, step = [elements.itemsize], elements.itemsize * tensor.pitch
    for n in reversed(tensor.shape[:-1]):
        steps.append(step)
        step *= n
    return np.lib.stride_tricks.as_strided(elements, tensor.shape, steps[::-1])


def checked(info: TensorInfo, value: np.ndarray) -> np.ndarray:
    """Return the array that a caller gave for an input.

    Raises:
        InputError: it has another shape or dtype, or holds a value that the device cannot take.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {info.name!r}: cannot be made an array ({error}), needed "
                         f"{info.shape} {info.dtype}") from None
    if array.dtype != info.dtype:
        raise InputError(f"input {info.name!r}: the array is {array.dtype}, needed {info.dtype}")
    if array.shape != info.shape:
        raise InputError(f"input {info.name!r}: the array has the shape {array.shape}, needed "
                         f"{info.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"input {info.name!r}: {bad} of {array.size} values are not finite "
                         "numbers")
    kept = dtypes.numpy_dtype(dtypes.device_dtype(dtypes.name_of(info.dtype)))
    if kept != info.dtype and array.size:
        limits = np.finfo(kept) if kept.kind == "f" else np.iinfo(kept)
        if array.min() < limits.min or array.max() > limits.max:
            raise InputError(f"input {info.name!r}: a value does not fit into 32 bits, which the "
                             f"device uses for {info.dtype}")
    return array
