"""Named arrays: read and write .npz files, make random inputs, measure differences."""
from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgerun.errors import InputError
from edgerun.files import replacing
from edgerun.model import TensorInfo


def needed(infos: Sequence[TensorInfo]) -> str:
    """Return one line that lists names, shapes and dtypes."""
    return "; ".join(f"{info.name!r} {info.shape} {info.dtype}" for info in infos)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every array of an .npz file; never unpickles anything.

    Raises:
        InputError: there is no such file, it is no .npz file, it is damaged, or it holds objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: is one array (.npy), needed an .npz file whose keys are the "
                             "names of the tensors (numpy.savez)")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; needed an .npz "
                         "file") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile, its codecs and NumPy's header parser raise many kinds
        raise InputError(f"{path}: is not an .npz file of plain arrays ({error}): write it with "
                         "numpy.savez") from None


def check_writable(path: str | os.PathLike) -> None:
    """Find out before the work, not after it, that a file could not be written.

    Raises:
        InputError: its folder is missing or not writable, or the path is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{path}: is a folder, needed the name of a file to write")
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot be written: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written: the folder {target.parent} is read-only")


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file, whole or not at all: into a temporary neighbour, then renamed.

    Raises:
        EdgerunError: the folder is missing or not writable, or the disk is full.
    """
    # numpy.savez takes the names as keyword arguments, so a tensor called "file" would break it
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def random_inputs(infos: Sequence[TensorInfo], seed: int = 0) -> dict[str, np.ndarray]:
    """Return seeded random arrays for the inputs of a model.

    Real numbers are standard normal, bytes take their whole range, bools both values. Wider
    integers are 0 or 1, since they are mostly indices, and only small ones are valid everywhere.
    """
    rng = np.random.default_rng(seed)
    return {info.name: _random(rng, info) for info in infos}


def _random(rng: np.random.Generator, info: TensorInfo) -> np.ndarray:
    dtype = info.dtype
    if dtype.kind == "f":
        return rng.standard_normal(info.shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, info.shape).astype(bool)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, info.shape, dtype, endpoint=True)
    return rng.integers(0, 2, info.shape).astype(dtype)


@dataclass(frozen=True)
class Difference:
    """How far an output is from what was expected.

    Attributes:
        name: of the output.
        max_abs: largest |found - expected| over the finite elements.
        relative: max_abs / range, where range is max - min of the expected finite elements (their
            largest magnitude if they are all equal, 1 if that is 0); infinite if the arrays are not
            finite in the same places, with the same values there.
        snr_db: 10 log10(sum expected^2 / sum difference^2); infinite if they are equal.
        top1: share of the vectors along the last axis whose largest element is the same one; None
            for outputs that are not one vector or a batch of them.
    """
    name: str
    max_abs: float
    relative: float
    snr_db: float
    top1: float | None

    def as_dict(self) -> dict:
        """Return the fields as a dict."""
        return asdict(self)


def difference(name: str, found: np.ndarray, expected: np.ndarray) -> Difference:
    """Compare two arrays of the same shape.

    Raises:
        InputError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise InputError(f"output {name!r}: the shapes are {found.shape} and {expected.shape}, "
                         "needed equal ones to compare")
    y, want = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(want) & np.isfinite(y)
    same = np.array_equal(y[~finite], want[~finite], equal_nan=True)
    y, want = y[finite], want[finite]
    worst = float(np.abs(y - want).max(initial=0.0))
    noise, signal = float(np.square(y - want).sum()), float(np.square(want).sum())
    snr = float("inf") if noise == 0 else 10 * np.log10(signal / noise) if signal else float("-inf")
    return Difference(name, worst, worst / _range(want) if same else float("inf"),
                      float(snr) if same else float("-inf"), _top1(found, expected))


def _range(values: np.ndarray) -> float:
    if not values.size:
        return 1.0
    spread = float(values.max() - values.min())
    return spread or float(np.abs(values).max()) or 1.0


def _top1(found: np.ndarray, expected: np.ndarray) -> float | None:
    width = found.shape[-1] if found.ndim else 0
    if width < 2 or found.dtype.kind == "b" or (found.ndim > 2 and found.size != width):
        return None
    agree = found.reshape(-1, width).argmax(-1) == expected.reshape(-1, width).argmax(-1)
    return float(agree.mean())
