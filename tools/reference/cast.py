"""NumPy reference of the conversion between dtypes."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.tools.graph import Op


def _cast(op: Op, x: np.ndarray) -> np.ndarray:
    to = dtypes.numpy_dtype(op.options["dtype"])
    if x.dtype.kind == "f" and to.kind in "iu":
        x = np.clip(np.nan_to_num(x.astype(np.float64)), -2**31, 2**31 - 1).astype(np.int32)
    return x.astype(to)


REFERENCE = {"cast": _cast}
