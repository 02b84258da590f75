"""Run a graph on OpenCL, op by op, and look at every tensor."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from edgerun import dtypes, loader, quantization
from edgerun.device import Device
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools import blob, layout, lower, mixture, passes, plan as planner
from edgerun.tools.calibrate.data import Samples, given, infos_of
from edgerun.tools.calibrate.observers import OBSERVERS, Observation
from edgerun.tools.calibrate.ranges import Calibration
from edgerun.tools.graph import Graph, Views, copy_of
from edgerun.trace import trace

Progress = Callable[[int, int], None]  # (samples done, all)
Chosen = Device | str | int | None  # an open device, or what Device() takes


def _silent(done: int, total: int) -> None:
    return None


def calibrate(graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], observer: str = "minmax",
              device: Chosen = None, progress: Progress = _silent) -> Calibration:
    """Find the range of every real tensor of a graph that is not constant, inputs included.

    Args:
        graph: optimized, in fp32; not changed.
        samples: from data.read(), or a sequence of input name -> array.
        observer: key of OBSERVERS.
        device: where to run.
        progress: called after each sample.

    Raises:
        InputError: there is no such observer, or the samples do not fit the graph.
        DeviceError: the device cannot run the graph.
    """
    if observer not in OBSERVERS:
        raise InputError(f"observer {observer!r} is not available, needed one of "
                         f"{', '.join(OBSERVERS)}")
    if not isinstance(samples, Samples):
        samples = given(samples, infos_of(graph))
    seen: dict[str, Observation] = {}
    with session_of(graph, device) as (session, roots):
        for number, sample in enumerate(samples, 1):
            for tensor, array in trace(session, sample):
                if tensor.dtype in dtypes.FLOAT:
                    seen.setdefault(tensor.name, Observation()).add(array)
            progress(number, len(samples))
    for name, root in roots.items():
        if root in seen:
            seen[name] = seen[root]
    return Calibration.of(seen, observer, len(samples), samples.where, samples.warnings)


def collect(graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], tensors: Sequence[str],
            reduce: Callable[[np.ndarray], np.ndarray] | None = None, device: Chosen = None,
            progress: Progress = _silent) -> dict[str, np.ndarray]:
    """Return what tensors of a graph hold, for every sample.

    Args:
        graph: optimized; real, or with quantized tensors that are lowered first; not changed.
        samples: as for calibrate().
        tensors: names; quantized ones are turned into real numbers.
        reduce: applied to the values of each sample, to keep less than all of them; see
            channel_means.
        device: where to run.
        progress: called after each sample.

    Returns:
        name -> array [samples, ...], in the axes of the device (channels last).

    Raises:
        InputError: a tensor does not exist, is constant or has been lowered away; or the samples
            do not fit the graph.
        DeviceError: the device cannot run the graph.
    """
    if not isinstance(samples, Samples):
        samples = given(samples, infos_of(graph))
    with session_of(graph, device) as (session, roots):
        shapes = {tensor.name: tensor.shape for tensor in session.model.tensors
                  if not tensor.constant}
        missing = [name for name in tensors if name not in shapes]
        if missing:
            raise InputError(f"{graph.source or 'the graph'}: has no tensor {missing[0]!r} that a "
                             "run computes")
        wanted: dict[str, list[str]] = {}
        for name in dict.fromkeys(tensors):
            wanted.setdefault(roots.get(name, name), []).append(name)
        found: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
        for number, sample in enumerate(samples, 1):
            for tensor, array in trace(session, sample):
                for name in wanted.get(tensor.name, ()):
                    values = array.reshape(shapes[name])
                    if tensor.quantization is not None:
                        values = quantization.dequantize(values, tensor.quantization)
                    found[name].append(np.array(values) if reduce is None else reduce(values))
            progress(number, len(samples))
    return {name: np.stack(values) for name, values in found.items()}


def channel_means(x: np.ndarray) -> np.ndarray:
    """Return the mean over all axes but the last, fp64 [channels]: a `reduce` for collect()."""
    return x.reshape(-1, x.shape[-1]).mean(axis=0, dtype=np.float64)


@contextmanager
def session_of(graph: Graph, device: Chosen = None) -> Iterator[tuple[Session, dict[str, str]]]:
    """Prepare a copy of a graph on a device.

    Yields:
        The session, closed at the end; and tensor name -> name of the tensor whose bytes it has,
        for reshapes.
    """
    copy = copy_of(graph)
    if any(tensor.quantization is not None for tensor in copy.tensors()):
        lower.apply(copy)
    views = passes.alias.apply(copy)
    roots = {tensor.name: view.root.name for tensor, view in views.items()}
    mixture.place(copy, views)
    layout.apply(copy)
    mixture.arrange(copy, views)
    data = blob.encode(copy, _quick_plan(copy, views), views, "fp32")
    model = loader.from_bytes(np.frombuffer(data, np.uint8), graph.source or graph.name or "graph",
                              check_weights=False)
    opened = device if isinstance(device, Device) else Device(device)
    with Session(model, opened) as session:
        yield session, roots


def _quick_plan(graph: Graph, views: Views) -> planner.Plan:
    """Plan the arena by one greedy order: it is used once, on a workstation."""
    blocks, scratch = planner.blocks_of(graph, views)
    everything = [*blocks.values(), *scratch.values()]
    bound, peak = planner.lower_bound(everything)
    arena = planner.place(sorted(everything, key=lambda block: (-block.size, block.first)))
    return planner.Plan(arena, bound, min(peak, len(graph.ops) - 1),
                        {tensor: block.offset for tensor, block in blocks.items()},
                        {op: (block.offset, block.size) for op, block in scratch.items()})
