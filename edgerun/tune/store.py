"""Tune a model file and keep the choices where they belong."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgerun import loader, tuning
from edgerun.device import Device
from edgerun.errors import InputError, ModelError
from edgerun.tune import into_model
from edgerun.tune.report import LaunchResult, TuneReport
from edgerun.tune.tuner import BUDGET, tune


def tune_file(path: str | os.PathLike, device: Device, *, out: str | os.PathLike | None = None,
              write: bool = False, again: bool = False, how: str | None = None,
              budget: int = BUDGET, seconds: float | None = None,
              progress: Callable[[int, int, LaunchResult], None] = lambda done, total, last: None
              ) -> TuneReport:
    """Tune the launches of a model file that are not tuned yet, and store what was found.

    Args:
        path: a .edge file.
        device: an opened device.
        out: side file to take choices from and to write; None for that of the device, in the cache
            folder, or what EDGERUN_TUNING names.
        write: write the choices into the model file instead.
        again: also measure what is tuned already.
        how, budget, seconds, progress: see edgerun.tune.tune().

    Raises:
        InputError: there is no place to keep choices.
        ModelError: the file is no valid model.
        DeviceError: the device cannot run it.
        EdgerunError: a file cannot be written; nothing was changed.
    """
    model = loader.read(path)
    side = None if write else Path(out) if out is not None else tuning.side_file(device)
    if side is None and not write:
        raise InputError("tune: no folder keeps choices (EDGERUN_TUNING or EDGERUN_CACHE_DIR is 0):"
                         " needed --out FILE or --write")
    stored, problem = model.tuning, ""
    if side is not None:
        try:
            stored = tuning.read_file(side)
        except ModelError as error:
            stored, problem = (), str(error)
    known = {} if again else tuning.valid((*model.tuning, *stored), device)
    report, choices = tune(model, device, known, how, budget, seconds, progress=progress)
    report.problem = problem
    report.path = os.fspath(path if side is None else side)
    if choices:
        every = tuning.merged(stored, tuning.of_device(device, choices))
        if side is None:
            into_model.write_into(path, every)
        else:
            tuning.write_file(side, every)
    return report
