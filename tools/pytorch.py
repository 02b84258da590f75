"""Pack a PyTorch module: export it with PyTorch's own ONNX exporter, then pack what that wrote."""
from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerun import arrays
from edgerun.errors import EdgerunError, InputError, ModelError
from edgerun.model import TensorInfo
from edgerun.tools.pack import CALIBRATED, PackReport, pack

if TYPE_CHECKING:
    import torch

SAMPLES = 128  # taken from a data loader: ranges are reliable from 32 on, and 100 are usual
LOADED = "loader.npz"
NEEDED = "pip install 'edgerun[tools,torch]'"


def from_torch(module: torch.nn.Module,
               example_inputs: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
               out: str | os.PathLike, precision: str = "source",
               calibration: Iterable | str | os.PathLike | None = None,
               samples: int | None = None, input_names: Sequence[str] | None = None,
               output_names: Sequence[str] | None = None,
               progress: Callable[..., None] = lambda stage, *of: None, **options: Any
               ) -> PackReport:
    """Export a PyTorch module in evaluation mode and pack it.

    Args:
        module: what torch.export can follow; its mode (training or not) is that of before in the
            end.
        example_inputs: the tensors that forward() takes: one, several, or by the names of its
            arguments. Their shapes and dtypes are those of the packed model.
        out: the .edge file to write; it appears whole or not at all.
        precision: as in pack().
        calibration: for int8, int16 and mixed: a data loader, or anything that yields batches: a
            tensor or array, a sequence that begins with the inputs (labels may follow), or a
            mapping from the names of inputs. A batch is cut into samples of the packed model's
            own batch. Or a path, as in pack().
        samples: take this many samples, the first of a loader (default 128).
        input_names, output_names: of the packed model; default: the arguments of forward(), and
            what the exporter calls the outputs.
        progress: called with the name of each stage.
        **options: observer, overrides, improve, max_error, tune, device, vectors: as in pack().

    Returns:
        PackReport.

    Raises:
        EdgerunError: PyTorch, or the package that its exporter needs, is not installed.
        InputError: an argument is wrong, or what the loader yields is not what the module takes.
        ModelError: the exporter cannot follow the module; the message has its reason.
        UnsupportedError: the module needs an op that edgerun has not; lists every one.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"the module is a {type(module).__name__}, needed a torch.nn.Module")
    name = type(module).__name__
    args, kwargs = _examples(torch, name, example_inputs)
    arrays.check_writable(out)
    if calibration is None and precision in CALIBRATED:
        raise InputError(f"{name}: precision {precision} needs the range of every tensor: give a "
                         "data loader (calibration)")
    with tempfile.TemporaryDirectory(prefix="edgerun-torch-") as folder:
        path = Path(folder) / f"{name}.onnx"
        progress("export")
        _export(torch, module, args, kwargs, path, input_names, output_names)
        if calibration is not None and not isinstance(calibration, (str, os.PathLike)):
            progress("samples")
            loaded = _from_loader(calibration, _infos(path),
                                  SAMPLES if samples is None else samples)
            calibration, samples = path.with_name(LOADED), None
            arrays.write_npz(calibration, loaded)
        def told(text: str) -> str:  # the files are gone when it is read
            return text.replace(str(path), name).replace(str(path.with_name(LOADED)),
                                                         "the data loader")
        try:
            report = pack(path, out, precision, calibration=calibration, samples=samples,
                          progress=progress, **options)
        except EdgerunError as error:
            raise type(error)(told(str(error))) from None
    return replace(report, notes=[told(note) for note in report.notes])


def _torch():
    """Return the module `torch`.

    Raises:
        EdgerunError: it, or onnxscript, is not installed.
    """
    try:
        import torch
    except ImportError:
        raise EdgerunError(f"PyTorch is not installed, which from_torch exports with: {NEEDED}"
                           ) from None
    try:
        import onnxscript  # noqa: F401 - torch.onnx says so later, and less clearly
    except ImportError:
        raise EdgerunError("onnxscript is not installed, which PyTorch's ONNX exporter needs: "
                           f"{NEEDED}") from None
    return torch


def _examples(torch, name: str, given) -> tuple[tuple, dict]:
    """Return the positional and the keyword arguments of forward()."""
    if isinstance(given, torch.Tensor):
        given = (given,)
    if not isinstance(given, (Mapping, tuple, list)) or not given:
        raise InputError(f"{name}: the example inputs are a {type(given).__name__}, needed a "
                         "tensor, a sequence of tensors, or tensors by name")
    tensors = list(given.values() if isinstance(given, Mapping) else given)
    wrong = [type(value).__name__ for value in tensors if not isinstance(value, torch.Tensor)]
    if wrong:
        raise InputError(f"{name}: an example input is a {wrong[0]}, needed a tensor")
    if isinstance(given, Mapping):
        return (), dict(given)
    return tuple(given), {}


def _export(torch, module: torch.nn.Module, args: tuple, kwargs: dict, path: Path,
            input_names: Sequence[str] | None, output_names: Sequence[str] | None) -> None:
    """Write the module as ONNX."""
    with _evaluation(module), _quiet():
        try:
            program = torch.onnx.export(
                module, args, kwargs=kwargs, dynamo=True, verbose=False,
                input_names=list(input_names) if input_names else None,
                output_names=list(output_names) if output_names else None)
            program.save(str(path))
        except Exception as error:  # the exporter's, torch.export's, or the module's own
            reason = " ".join(str(error.__cause__ or error).split())
            raise ModelError(f"{type(module).__name__}: PyTorch cannot export it: {reason[:800]}"
                             ) from error


@contextlib.contextmanager
def _evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back into its own mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says about itself: packages it could use, its own deprecations.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _infos(path: Path) -> list[TensorInfo]:
    """Return the inputs of an ONNX file."""
    import onnx
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [TensorInfo(info.name, tuple(d.dim_value for d in info.type.tensor_type.shape.dim),
                       onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
            for info in graph.input if info.name not in constants]


def _from_loader(loader: Iterable, infos: Sequence[TensorInfo], limit: int
                 ) -> dict[str, np.ndarray]:
    """Return the first samples of a loader, stacked: input name -> [samples, ...]."""
    if limit < 1:
        raise InputError(f"{limit} samples are asked for, needed at least 1")
    found: list[dict[str, np.ndarray]] = []
    try:
        batches = iter(loader)
    except TypeError:
        raise InputError(f"the calibration is a {type(loader).__name__}, needed a data loader or a "
                         "path") from None
    for number, batch in enumerate(batches):
        found += _samples(_inputs(batch, infos, number), infos, number)
        if len(found) >= limit:
            break
    if not found:
        raise InputError("the data loader yields no batch that fills an input, needed "
                         f"{arrays.needed(infos)}")
    return {info.name: np.stack([sample[info.name] for sample in found[:limit]])
            for info in infos}


def _inputs(batch: Any, infos: Sequence[TensorInfo], number: int) -> dict[str, np.ndarray]:
    """Return the arrays of a batch by the names of the inputs."""
    where = f"batch {number} of the data loader"
    if isinstance(batch, Mapping):
        missing = [info.name for info in infos if info.name not in batch]
        if missing:
            raise InputError(f"{where}: has no {missing[0]!r}, needed {arrays.needed(infos)}")
        values = [batch[info.name] for info in infos]
    else:
        values = list(batch) if isinstance(batch, (tuple, list)) else [batch]
        if len(values) < len(infos):
            raise InputError(f"{where}: holds {len(values)} tensors, needed "
                             f"{arrays.needed(infos)}")
    return {info.name: _array(value, f"{where}: {info.name!r}")
            for info, value in zip(infos, values)}


def _array(value: Any, where: str) -> np.ndarray:
    try:
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: is no array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where}: is a {type(value).__name__} of {array.dtype}, needed numbers")
    return array


def _samples(batch: Mapping[str, np.ndarray], infos: Sequence[TensorInfo], number: int
             ) -> list[dict[str, np.ndarray]]:
    """Cut a batch into samples; a rest that does not fill one is left out."""
    counts = {}
    for info in infos:
        array, shape = batch[info.name], info.shape
        fits = array.shape == shape or (
            shape and array.ndim == len(shape) and array.shape[1:] == shape[1:])
        if not fits or array.dtype != info.dtype:
            raise InputError(
                f"batch {number} of the data loader: {info.name!r} is {array.shape} {array.dtype}, "
                f"needed {shape} {info.dtype}, or another number in front")
        counts[info.name] = array.shape[0] // shape[0] if shape else 1
    if len(set(counts.values())) != 1:
        raise InputError(f"batch {number} of the data loader: has {counts} samples, needed the "
                         "same number of each input")
    sizes = {info.name: info.shape[0] if info.shape else 0 for info in infos}
    return [{info.name: batch[info.name][i * sizes[info.name]:(i + 1) * sizes[info.name]]
             if info.shape else batch[info.name] for info in infos}
            for i in range(next(iter(counts.values())))]
