"""Compare a packed model with its source model, and make the vectors that it carries."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgerun import arrays, verify as bundled
from edgerun.errors import InputError
from edgerun.model import Model, TensorInfo
from edgerun.session import Session
from edgerun.tools.runtimes import Runtime

MAX_VECTORS = 8  # in one model file: they are for a smoke test on the device, not a data set
# Of the output's range, by the precision of the file: rounding activations adds up. A file that
# keeps the integers of a quantized model may differ by a step of 8 bits.
TOLERANCE = {"fp16": 2e-2, "int16": 2e-2, "mixed": 1e-1, "int8": 2e-1, "source": 5e-3}
DEFAULT_TOLERANCE = 1e-3
INTEGERS = {"int8": "int8", "uint8": "int8", "int16": "int16"}  # dtype -> precision

# Inputs, outputs, tolerance; None if the types of the file are not chosen yet.
Vector = tuple[Sequence[np.ndarray], Sequence[np.ndarray], float | None]


def tolerance_of(precision: str, types: Iterable[str] = ()) -> float:
    """Return the difference allowed to a packed model, relative to the output's range.

    Args:
        precision: that the file tells.
        types: of single ops, where they were chosen one by one: the loosest counts.
    """
    return max(TOLERANCE.get(name, DEFAULT_TOLERANCE) for name in (precision, *types))


def held(vectors: Iterable[Vector], precision: str, types: Iterable[str] = ()) -> list[Vector]:
    """Return vectors whose tolerance is that of a file's types where it was None."""
    allowed = tolerance_of(precision, types)
    return [(inputs, outputs, allowed if tolerance is None else tolerance)
            for inputs, outputs, tolerance in vectors]


def types_of(model: Model) -> set[str]:
    """Return the integer types that ops of a file compute with where its precision does not tell
    them: overrides may give them to single ops."""
    if model.precision in ("source", "mixed"):  # the source model's own; with a bound of their own
        return set()
    return {INTEGERS[y.dtype] for op in model.ops for y in op.outputs
            if y.quantization is not None and y.dtype in INTEGERS}


def samples_of(given: Mapping[str, np.ndarray], infos: Sequence[TensorInfo],
               where: str) -> list[dict[str, np.ndarray]]:
    """Cut arrays into samples.

    Args:
        given: name -> array of the input's own rank (one sample), or with one leading axis of
            samples in front of it; every input the same way.
        infos: the inputs of the model; a dimension of -1 is free.
        where: named in errors.

    Raises:
        InputError: a name is missing or unknown, a rank or dtype is wrong, the numbers of samples
            differ.
    """
    names = [info.name for info in infos]
    if set(given) != set(names):
        raise InputError(f"{where}: has the arrays {', '.join(sorted(map(repr, given)))}, needed "
                         f"{arrays.needed(infos)}")
    counts = {_samples_in(given[info.name], info, where) for info in infos}
    if len(counts) != 1:
        raise InputError(f"{where}: the arrays hold {' and '.join(map(str, sorted(counts)))} "
                         "samples (0: no axis of samples), needed the same number in each")
    count = counts.pop()
    if count == 0:
        return [{name: given[name] for name in names}]
    return [{name: given[name][sample] for name in names} for sample in range(count)]


def _samples_in(array: np.ndarray, info: TensorInfo, where: str) -> int:
    """Return how many samples an array holds; 0 if it is a single one without an axis for it."""
    if array.dtype != info.dtype:
        raise InputError(f"{where}: {info.name!r} is {array.dtype}, needed {info.dtype}")
    extra = array.ndim - len(info.shape)
    if extra not in (0, 1) or array.size == 0 or any(
            needed not in (-1, n) for n, needed in zip(array.shape[extra:], info.shape)):
        raise InputError(f"{where}: {info.name!r} has the shape {array.shape}, needed "
                         f"{info.shape}, or one more axis of samples in front of it")
    return array.shape[0] if extra else 0


def make_vectors(runtime: Runtime, given: Mapping[str, np.ndarray], where: str) -> list[Vector]:
    """Run the source model on a few samples.

    Returns:
        (inputs, outputs, None) per sample, as edgerun.tools.pack takes them.

    Raises:
        InputError: the arrays do not fit the model, hold values that are not finite, or are more
            than MAX_VECTORS samples.
    """
    samples = samples_of(given, runtime.inputs, where)
    if len(samples) > MAX_VECTORS:
        raise InputError(f"{where}: has {len(samples)} samples, at most {MAX_VECTORS} are stored "
                         "in a model file")
    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{where}: {name!r} holds values that are not finite numbers")
    vectors: list[Vector] = []
    for sample in samples:
        outputs = runtime.run(sample)
        vectors.append(([sample[info.name] for info in runtime.inputs],
                        [outputs[info.name] for info in runtime.outputs], None))
    return vectors


def verify_against(session: Session, runtime: Runtime, samples: Sequence[Mapping[str, np.ndarray]],
                   tolerance: float | None = None) -> dict[str, Any]:
    """Run a packed model and its source model on the same samples.

    Args:
        session: the packed model.
        runtime: the source model.
        samples: name -> array, each.
        tolerance: allowed difference relative to the output's range; None for that of the
            precision.

    Returns:
        The same report as edgerun.verify.verify().

    Raises:
        InputError: the models have other inputs or outputs, or refuse a sample.
        DeviceError: the device refuses a launch.
    """
    model = session.model
    for role, mine, its in (("inputs", session.inputs, runtime.inputs),
                            ("outputs", session.outputs, runtime.outputs)):
        if {info.name for info in mine} != {info.name for info in its}:
            raise InputError(f"{model.path}: has the {role} {arrays.needed(mine)}; the source "
                             f"model has {arrays.needed(its)}: was it packed from this model?")
    if tolerance is None:
        tolerance = tolerance_of(model.precision, types_of(model))
    results = []
    for sample in samples:
        found = session.run(sample)
        expected = runtime.run(sample)
        results.append(bundled.result(
            [arrays.difference(info.name, found[info.name], expected[info.name])
             for info in session.outputs], tolerance))
    return {"passed": all(entry["passed"] for entry in results),
            "device": session.device.info.name, "platform": session.device.info.platform,
            "reference": runtime.name, "vectors": results}
