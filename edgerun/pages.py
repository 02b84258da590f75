"""Advice to the system about pages of a mapped file: which to read ahead, and which to leave."""
from __future__ import annotations

import mmap
from collections.abc import Iterable

import numpy as np

PAGE = mmap.PAGESIZE


def _mapping(data: np.ndarray) -> mmap.mmap | None:
    """Return the mapping that an array is a view of; None if it is of none, or of a part."""
    view = data.base
    found = view.obj if isinstance(view, memoryview) else None
    return found if isinstance(found, mmap.mmap) and hasattr(found, "madvise") else None


def only_what_is_touched(data: np.ndarray) -> None:
    """Let a page be read from disk when it is touched, and not with the pages around it.

    Args:
        data: uint8, a whole mapped file; anything else is left alone.
    """
    mapping = _mapping(data)
    if mapping is not None:
        mapping.madvise(mmap.MADV_RANDOM)


def as_usual(data: np.ndarray) -> None:
    """Undo only_what_is_touched()."""
    mapping = _mapping(data)
    if mapping is not None:
        mapping.madvise(mmap.MADV_NORMAL)


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
        mapping.madvise(mmap.MADV_WILLNEED, start, min(end, len(data)) - start)


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans rounded to whole pages, in order; those that meet are one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((a // PAGE * PAGE, -(-b // PAGE) * PAGE) for a, b in spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
