"""Calibration: from a float model and data to the range of every activation tensor."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgerun import arrays
from edgerun.device import Device
from edgerun.errors import InputError
from edgerun.tools.calibrate.data import Samples, infos_of, read
from edgerun.tools.calibrate.images import Preprocess
from edgerun.tools.calibrate.observers import OBSERVERS, Observation
from edgerun.tools.calibrate.ranges import Calibration, ranges_of
from edgerun.tools.calibrate.run import calibrate, channel_means, collect
from edgerun.tools.graph import Graph

DEFAULT_OBSERVER = "minmax"


def holds_ranges(path: str | os.PathLike) -> bool:
    """Whether a path is that of a model file, not of samples."""
    return Path(path).suffix == ".edge" and not Path(path).is_dir()


def open_samples(graph: Graph, path: str | os.PathLike, preprocess: Preprocess | str | None = None,
                 limit: int | None = None) -> Samples:
    """Return the samples in an .npz file or a folder of images, as data.read() does.

    Raises:
        InputError: as data.read(), or the path is that of a model file.
    """
    if holds_ranges(path):
        raise InputError(f"{path}: is a model file, which holds ranges but no samples: needed an "
                         ".npz file or a folder of images")
    if isinstance(preprocess, str):
        preprocess = Preprocess.parse(preprocess)
    return read(path, infos_of(graph), preprocess, limit)


def from_path(graph: Graph, path: str | os.PathLike, preprocess: Preprocess | str | None = None,
              observer: str | None = None, limit: int | None = None,
              device: Device | str | int | None = None,
              progress: Callable[[int, int], None] = lambda done, total: None) -> Calibration:
    """Calibrate a graph, or take the ranges that a model file holds.

    Args:
        graph: optimized, in fp32; not changed.
        path: an .npz file or a folder of images, see data.read(); or an .edge file that holds
            ranges.
        preprocess: how an image becomes an input; a folder only.
        observer: key of OBSERVERS, default DEFAULT_OBSERVER; samples only.
        limit: take this many samples, evenly spread; samples only.
        device, progress: as for calibrate().

    Raises:
        InputError: an option does not fit the kind of data, or the data do not fit the graph.
        ModelError: the .edge file is not a valid model.
        DeviceError: the device cannot run the graph.
    """
    if not holds_ranges(path):
        samples = open_samples(graph, path, preprocess, limit)
        return calibrate(graph, samples, observer or DEFAULT_OBSERVER, device, progress)
    found = ranges_of(path)
    if preprocess is not None or limit is not None:
        raise InputError(f"{path}: holds ranges, not samples: neither a preprocessing line nor a "
                         "number of samples applies")
    if observer not in (None, found.observer):
        raise InputError(f"{path}: was calibrated with the observer {found.observer}; {observer} "
                         "needs samples")
    real = [*(b.tensor for b in graph.inputs), *(t for op in graph.ops if op.code != "dequantize"
                                                 for t in op.outputs)]
    missing = [tensor.name for tensor in real
               if tensor.dtype == "fp32" and tensor.name not in found.ranges]
    if missing:
        raise InputError(f"{path}: has no range of the tensor {missing[0]!r} ({len(missing)} are "
                         f"missing): was it calibrated from this model, with the inputs "
                         f"{arrays.needed(infos_of(graph))}?")
    return found


__all__ = ["Calibration", "OBSERVERS", "Observation", "Preprocess", "Samples", "calibrate",
           "channel_means", "collect", "from_path", "open_samples", "ranges_of"]
