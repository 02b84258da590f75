"""Copy between a caller's arrays and the tensors of a device, which may be stored otherwise.

The array has the source model's axes and dtype; the tensor has its axes in another order, and may
be fp16 or fp32, quantized real numbers, or int8 with the top bit flipped (uint8).
"""
from __future__ import annotations

import numpy as np

from edgerun.model import Tensor, TensorInfo
from edgerun.quantization import limits

CHUNK = 65_536  # elements converted at a time: what is needed beside the two arrays stays small
FEW, LARGE = 4, 4096  # channels and elements of an image that is copied channel by channel
TOP_BIT = np.uint8(0x80)


def put(info: TensorInfo, tensor: Tensor, array: np.ndarray, mapped: np.ndarray) -> None:
    """Copy an array of the caller into a tensor's memory.

    Args:
        info: how the model declares it.
        tensor: what the device holds.
        array: of info's shape and dtype.
        mapped: the tensor's memory, of its shape and dtype.
    """
    source = array.transpose(info.perm) if info.perm else array
    if info.dtype == np.int8 and mapped.dtype == np.uint8:
        np.bitwise_xor(source.view(np.uint8), TOP_BIT, out=mapped)
    elif info.dtype.kind == "f" and mapped.dtype.kind in "iu":
        # in the order of the array, which is read three times faster than across it
        inverse = np.argsort(info.perm) if info.perm else range(mapped.ndim)
        for part, target in _parts(array, mapped.transpose(inverse)):
            _quantize(part, tensor, target)
    else:
        with np.errstate(over="ignore"):  # fp16 storage: a value too large becomes infinite
            _copy(mapped, source)


def rows(info: TensorInfo, array: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return rows (axis 1 on the device) of an array of the caller; nothing is copied."""
    axis = info.perm[1] if info.perm else 1
    return array[(slice(None),) * axis + (slice(first, first + count),)]


def take(info: TensorInfo, tensor: Tensor, mapped: np.ndarray) -> np.ndarray:
    """Return a tensor's memory as a new array of info's shape and dtype."""
    array = np.empty(info.shape, info.dtype)
    target = array.transpose(info.perm) if info.perm else array
    if info.dtype == np.int8 and mapped.dtype == np.uint8:
        np.bitwise_xor(mapped, TOP_BIT, out=target.view(np.uint8))
    elif info.dtype.kind == "f" and mapped.dtype.kind in "iu":
        q = tensor.quantization
        for part, out in _parts(mapped, target):
            np.copyto(out, (part.astype(np.float32) - np.float32(q.zero)) * q.scale[0],
                      casting="unsafe")
    else:
        _copy(target, mapped)
    return array


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    """Copy, converting: channel by channel where one side has few of them next to each other.

    NumPy walks along the axis that is last in memory, which costs four times as much if it is
    short.
    """
    if target.size >= LARGE and 1 < target.shape[-1] <= FEW and (
            target.strides[-1] != target.itemsize or source.strides[-1] != source.itemsize):
        for channel in range(target.shape[-1]):
            np.copyto(target[..., channel], source[..., channel], casting="unsafe")
    else:
        np.copyto(target, source, casting="unsafe")


def _quantize(real: np.ndarray, tensor: Tensor, target: np.ndarray) -> None:
    """edgerun.quantization.quantize without its fp64, in place; the numbers are finite."""
    q, (low, high) = tensor.quantization, limits(tensor.dtype)
    steps = np.empty(real.shape, np.float32)  # an array even without dimensions
    with np.errstate(over="ignore"):
        np.divide(real, q.scale[0], out=steps, dtype=np.float32, casting="unsafe")
    np.rint(steps, out=steps)
    steps += np.float32(q.zero)  # exact where it is not clamped: both are far below 2^24
    np.clip(steps, low, high, out=steps)
    np.copyto(target, steps.astype(target.dtype))  # converting to where it is apart takes longer


def _parts(a: np.ndarray, b: np.ndarray):
    """Yield matching parts of two arrays of one shape, of about CHUNK elements."""
    axis = next((k for k, n in enumerate(a.shape) if n > 1), None)
    if axis is None or a.size <= CHUNK:
        yield a, b
        return
    step = max(1, CHUNK * a.shape[axis] // a.size)
    for start in range(0, a.shape[axis], step):
        cut = (slice(None),) * axis + (slice(start, start + step),)
        yield a[cut], b[cut]
