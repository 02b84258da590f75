"""The element types: their names, their NumPy types and their sizes, in one place."""
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
}
_NAMES = {dtype: name for name, dtype in NUMPY.items()}
BOUNDARY_ONLY = ("int64", "fp64")
FLOAT = ("fp32", "fp16")


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy type of a dtype name."""
    return NUMPY[name]


def size(name: str) -> int:
    """Return the bytes of one element."""
    return NUMPY[name].itemsize


def name_of(dtype) -> str:
    """Return the dtype name of a NumPy type.

    Raises:
        ModelError: edgerun has no such element type.
    """
    try:
        return _NAMES[np.dtype(dtype)]
    except KeyError:
        raise ModelError(f"element type {np.dtype(dtype)} is not one of "
                         f"{', '.join(NUMPY)}") from None


def device_dtype(name: str) -> str:
    """Return the dtype in which a boundary dtype is kept on the device."""
    return {"int64": "int32", "fp64": "fp32"}.get(name, name)
