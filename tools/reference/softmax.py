"""NumPy reference of softmax."""
from __future__ import annotations

import numpy as np
from scipy import special

from edgerun.tools.graph import Op
from edgerun.tools.reference.real import on_numbers


def _softmax(op: Op, x: np.ndarray) -> np.ndarray:
    function = special.log_softmax if op.options["log"] else special.softmax
    return function(x * np.float32(op.options["scale"]), op.options["axis"] if x.ndim else None)


REFERENCE = {"softmax": on_numbers(_softmax)}
