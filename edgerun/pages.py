"""Advice to the system about pages of a mapped file: which to read ahead, and which to leave."""
from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

PAGE = mmap.PAGESIZE
_touched: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # what only_what_is_touched() was asked of


def _mapping(data: np.ndarray) -> mmap.mmap | None:
    """Return the mapping that an array is a view of; None if it is of none, or of a part."""
    view = data.base
    found = view.obj if isinstance(view, memoryview) else None
    return found if isinstance(found, mmap.mmap) and hasattr(found, "madvise") else None


def _advise(mapping: mmap.mmap, *advice: int) -> None:
    try:
        mapping.madvise(*advice)
    except OSError:
        pass  # kernels can be built without it; pages are read all the same


def only_what_is_touched(data: np.ndarray) -> None:
    """Let a page be read from disk when it is touched, and not with the pages around it.

    This holds for as long as the file is mapped, for all that use the mapping.

    Args:
        data: uint8, a whole mapped file; anything else is left alone.
    """
    mapping = _mapping(data)
    if mapping is not None:
        _touched.add(mapping)
        _advise(mapping, mmap.MADV_RANDOM)


@contextmanager
def only_what_is_touched_now(data: np.ndarray) -> Iterator[None]:
    """As only_what_is_touched() inside of the block; then as it was before."""
    mapping = _mapping(data)
    if mapping is None:
        yield
        return
    _advise(mapping, mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if mapping not in _touched:
            _advise(mapping, mmap.MADV_NORMAL)


def ahead(data: np.ndarray, spans: Iterable[tuple[int, int]]) -> None:
    """Start to read parts of a mapped file, without waiting for them.

    Args:
        data: as for only_what_is_touched().
        spans: (first byte, byte behind the last one) of each, in any order; they may overlap.
    """
    mapping = _mapping(data)
    if mapping is None:
        return
    for start, end in joined(spans):
        _advise(mapping, mmap.MADV_WILLNEED, start, min(end, len(data)) - start)


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans rounded to whole pages, in order; those that meet are one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((a // PAGE * PAGE, -(-b // PAGE) * PAGE) for a, b in spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
