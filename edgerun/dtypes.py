"""The element types: their names, their NumPy types and their sizes, in one place."""
from collections.abc import Sequence

import numpy as np

from edgerun.errors import ModelError

NUMPY = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "int64": np.dtype(np.int64),
    "fp64": np.dtype(np.float64),
    "bits": np.dtype(np.uint32),  # 32 of them
}
_NAMES = {dtype: name for name, dtype in NUMPY.items() if name != "bits"}  # not of a caller
BOUNDARY_ONLY = ("int64", "fp64")
FLOAT = ("fp32", "fp16")
QUANTIZED = ("uint8", "int8", "int16")  # storage of quantized activations and weights
# layout of weights
BLOCKED = {"fp32": "oc16", "fp16": "oc16", "int16": "oc16x2", "int8": "oc16x4", "bits": "oc16"}
WORD = {"oc16": 1, "oc16x2": 2, "oc16x4": 4}  # input channels side by side in a block


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy type of a dtype name."""
    return NUMPY[name]


def size(name: str) -> int:
    """Return the bytes of one element."""
    return NUMPY[name].itemsize


def stored_bytes(shape: Sequence[int], dtype: str, layout: str) -> int:
    """Return the bytes that a tensor takes in a layout; the innermost axis fills whole words."""
    total, word = size(dtype), WORD.get(layout, 1)
    for axis, n in enumerate(shape):
        total *= -(-int(n) // word) * word if axis == len(shape) - 1 else int(n)
    return total


def name_of(dtype) -> str:
    """Return the dtype name of a NumPy type.

    Raises:
        ModelError: edgerun has no such element type.
    """
    try:
        return _NAMES[np.dtype(dtype)]
    except KeyError:
        raise ModelError(f"element type {np.dtype(dtype)} is not one of "
                         f"{', '.join(_NAMES.values())}") from None


def known(dtype) -> str:
    """Return the dtype name of a NumPy type as it is stored, "bits" for words of them; "" if there
    is none."""
    return next((name for name, found in NUMPY.items() if found == np.dtype(dtype)), "")


def device_dtype(name: str) -> str:
    """Return the dtype in which a boundary dtype is kept on the device."""
    return {"int64": "int32", "fp64": "fp32"}.get(name, name)
