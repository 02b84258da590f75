"""Calibration data: samples from an .npz file, or from a folder of images and a preprocessing line.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgerun import arrays, dtypes
from edgerun.errors import InputError
from edgerun.model import TensorInfo
from edgerun.tools.calibrate.images import Preprocess
from edgerun.tools.graph import Graph
from edgerun.tools.verify import samples_of

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FEWEST = 32  # samples: with fewer, ranges miss what the data will bring


class Samples(Sequence):
    """Samples of a model's inputs, each a dict input name -> array; images are read when asked for.

    Attributes:
        where: the file or folder, for messages.
        warnings: sentences about the data.
    """

    def __init__(self, where: str, items: Sequence, warnings: Sequence[str] = ()):
        self.where = where
        self.warnings = list(warnings)
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        return self._items[index]


def infos_of(graph: Graph) -> list[TensorInfo]:
    """Return the inputs of a graph as the source model declares them."""
    return [TensorInfo(b.name, tuple(b.shape), dtypes.numpy_dtype(b.dtype)) for b in graph.inputs]


def read(path: str | os.PathLike, infos: Sequence[TensorInfo], preprocess: Preprocess | None = None,
         limit: int | None = None) -> Samples:
    """Open calibration data.

    Args:
        path: an .npz file with an array per input, of the input's shape or with one more axis of
            samples in front of it; or a folder of images (in sub-folders too), in the order of
            their names. A model with further inputs has them in `inputs.npz` in the folder, a
            sample per image or one for all.
        infos: the inputs of the model.
        preprocess: how an image becomes an input; a folder only.
        limit: take this many samples, evenly spread over all.

    Raises:
        InputError: there is no such data, there are no samples, an array has another name, shape or
            dtype than the input or holds values that are not finite, an image cannot be read, or
            the preprocessing does not give what the input needs.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"{path}: {limit} samples are asked for, needed at least 1")
    if path.is_dir():
        items = _images(path, infos, preprocess or Preprocess())
    else:
        if preprocess is not None:
            raise InputError(f"{path}: a preprocessing line is for a folder of images, this is an "
                             ".npz file of arrays as the model takes them")
        items = _arrays(path, infos)
    if limit is not None and limit < len(items):
        items = Subset(items, limit)
    return Samples(os.fspath(path), items, _few(path, len(items)))


def given(samples: Sequence[Mapping[str, np.ndarray]], infos: Sequence[TensorInfo],
          where: str = "calibration data") -> Samples:
    """Check samples that are arrays already, one dict per sample.

    Raises:
        InputError: as for read().
    """
    for number, sample in enumerate(samples):
        label = f"{where}: sample {number}"
        samples_of(sample, infos, label)
        if any(np.ndim(sample[info.name]) != len(info.shape) for info in infos):
            raise InputError(f"{label}: has an axis of samples, needed {arrays.needed(infos)}")
        require_finite(sample, label)
    if not len(samples):
        raise InputError(f"{where}: has no samples")
    return Samples(where, samples, _few(where, len(samples)))


def require_finite(sample: Mapping[str, np.ndarray], where: str) -> None:
    """Require that no real number is infinite or NaN.

    Raises:
        InputError: names the array, and counts them.
    """
    for name, array in sample.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            raise InputError(f"{where}: {name!r} holds {bad} values of {array.size} that are not "
                             "finite numbers")


def _few(where: object, count: int) -> list[str]:
    if count >= FEWEST:
        return []
    return [f"{where}: {count} sample{'s' if count > 1 else ''} to calibrate with: too small, "
            f"ranges are reliable from {FEWEST} on, and 100 are usual"]


class Subset(Sequence):
    """`count` items of a sequence, evenly spread over it."""

    def __init__(self, items: Sequence, count: int):
        self._items = items
        self._chosen = [i * len(items) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int):
        return self._items[self._chosen[index]]


def _arrays(path: Path, infos: Sequence[TensorInfo]) -> Sequence[dict[str, np.ndarray]]:
    found = arrays.read_npz(path)
    for name, array in found.items():
        if array.ndim and not array.shape[0]:
            raise InputError(f"{path}: {name!r} has the shape {array.shape}: no samples")
    samples = samples_of(found, infos, os.fspath(path))
    require_finite(found, os.fspath(path))
    return samples


class _Images(Sequence):
    """Samples made of image files when they are asked for."""

    def __init__(self, files: Sequence[Path], info: TensorInfo, preprocess: Preprocess, batch: int,
                 others: Sequence[Mapping[str, np.ndarray]]):
        self.files, self.info, self.preprocess, self.batch = files, info, preprocess, batch
        self.others = others

    def __len__(self) -> int:
        return len(self.files) // self.batch

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        files = self.files[index * self.batch:(index + 1) * self.batch]
        others = self.others[index if len(self.others) > 1 else 0] if self.others else {}
        return {self.info.name: self.preprocess.batch(files, self.info), **others}


def _images(folder: Path, infos: Sequence[TensorInfo], preprocess: Preprocess) -> _Images:
    files = sorted(path for path in folder.rglob("*")
                   if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not files:
        raise InputError(f"{folder}: has no images, needed files that end in "
                         f"{', '.join(EXTENSIONS)}")
    info = _image_input(folder, infos, preprocess)
    batch = preprocess.batch_of(info)
    if len(files) < batch:
        raise InputError(f"{folder}: has {len(files)} images, needed at least the {batch} of one "
                         f"input {info.name!r} {info.shape}")
    rest = [other for other in infos if other.name != info.name]
    others: Sequence[dict[str, np.ndarray]] = []
    if rest:
        path = folder / "inputs.npz"
        if not path.is_file():
            raise InputError(f"{folder}: images are for the input {info.name!r}; the others must "
                             f"be arrays in {path}, needed {arrays.needed(rest)}")
        others = _arrays(path, rest)
        if len(others) not in (1, len(files) // batch):
            raise InputError(f"{path}: has {len(others)} samples, needed 1 or the "
                             f"{len(files) // batch} of the images")
    return _Images(files, info, preprocess, batch, others)


def _image_input(folder: Path, infos: Sequence[TensorInfo], preprocess: Preprocess) -> TensorInfo:
    """Return the input that takes images: the one named, else the only one of an image's shape."""
    if preprocess.input:
        for info in infos:
            if info.name == preprocess.input:
                return info
        raise InputError(f"preprocessing: input={preprocess.input} is no input of the model, "
                         f"needed one of {arrays.needed(infos)}")
    fitting = [info for info in infos if len(info.shape) >= 3]
    if len(infos) == 1:
        fitting = list(infos)
    if len(fitting) != 1:
        raise InputError(f"{folder}: {len(fitting)} inputs of the model have the shape of images; "
                         f"name it with input=NAME in the preprocessing line: "
                         f"{arrays.needed(infos)}")
    return fitting[0]
