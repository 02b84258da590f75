"""Which pages of a file the system holds in memory, and how to have it drop them."""
from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest

MOST = 0.9  # of pages that were touched are still there; others need memory too


def resident(path) -> np.ndarray:
    """Return for each page of a file whether it is in memory, without touching it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        view = np.frombuffer(mapping, np.uint8)
        flags = (ctypes.c_ubyte * -(-len(view) // mmap.PAGESIZE))()
        library = ctypes.CDLL(None, use_errno=True)
        library.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        if library.mincore(view.ctypes.data, len(view), flags):
            pytest.skip(f"mincore: {os.strerror(ctypes.get_errno())}")
        found = np.array(flags[:], np.uint8) & 1
        del view
    return found.astype(bool)


def drop(path) -> None:
    """Have no page of a file in memory; skip the test where the system keeps them."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise, which drops pages of a file from memory")
    for _ in range(3):
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # pages that are not on disk yet stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        kept = int(resident(path).sum())
        if kept == 0:
            return
    pytest.skip(f"this file system, or its mincore, keeps {kept} pages of a file in memory that it "
                "was asked to drop")


def need_in_place(session) -> None:
    """Skip the test where the device has copied the weights, so that every page was read."""
    if not session.buffers.in_place:
        pytest.skip(f"{session.device.info.name} works on a copy of the weights: every page of the "
                    "file was read")


def whole(pages: np.ndarray, start: int, end: int) -> np.ndarray:
    """Return those of resident() that hold bytes of [start, end) only."""
    return pages[-(-start // mmap.PAGESIZE):max(end, 0) // mmap.PAGESIZE]
