"""Parts of the arena that tensors share: which bytes they are, and what they hold op by op."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edgerun import dtypes
from edgerun.errors import ModelError

# Pairs of tensors of one root that may be compared: a few seconds.
MAX_COMPARED = 4_000_000


class Region(NamedTuple):
    """`rows` runs of `width` bytes, `pitch` bytes from one to the next; the first is at `start`."""
    start: int
    rows: int
    width: int
    pitch: int

    @property
    def end(self) -> int:
        """Byte behind the last one."""
        return self.start + (self.rows - 1) * self.pitch + self.width

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return self.rows * self.width

    def moved(self, by: int) -> Region:
        """Return the region so many bytes further."""
        return self._replace(start=self.start + by)


def region(offset: int, shape: tuple[int, ...], size: int, pitch: int = 0) -> Region:
    """Return the bytes of a tensor in rows.

    Args:
        offset: bytes before its first element.
        shape: of the tensor.
        size: bytes of an element.
        pitch: elements from one position of the last axis to the next; 0: dense rows.
    """
    elements = size
    for n in shape:
        elements *= int(n)
    if not pitch or int(shape[-1]) * size == elements:
        return Region(offset, 1, elements, elements)
    width = int(shape[-1]) * size
    return Region(offset, elements // width, width, pitch * size)


def shared(a: Region, b: Region) -> int | None:
    """Return how many bytes two regions share; None if that is not known: rows of two pitches."""
    if a.end <= b.start or b.end <= a.start:
        return 0
    if b.rows == 1:
        a, b = b, a
    if a.rows == 1:
        return _below(b, a.end) - _below(b, a.start)
    if a.pitch != b.pitch:
        return None
    down, right = divmod(b.start - a.start, a.pitch)
    same = max(0, min(a.width, right + b.width) - right)
    wrapped = max(0, min(a.width, right + b.width - a.pitch))  # rows of b that go on in the next
    return (same * _common(a.rows, down, b.rows)
            + wrapped * _common(a.rows, down + 1, b.rows))


def _below(region: Region, end: int) -> int:
    """Return how many bytes of a region lie before `end`."""
    if end <= region.start:
        return 0
    row, rest = divmod(end - region.start, region.pitch)
    if row >= region.rows:
        return region.bytes
    return row * region.width + min(rest, region.width)


def _common(rows: int, start: int, count: int) -> int:
    """Return how many of the rows 0 .. rows - 1 are among `count` rows from `start` on."""
    return max(0, min(rows, start + count) - max(0, start))


class Placed(Protocol):
    """A tensor of a model file that lies in the arena."""
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    pitch: int
    index: int


def region_of(tensor: Placed) -> Region:
    """Return the bytes of the arena that a tensor has."""
    return region(tensor.offset, tensor.shape, dtypes.size(tensor.dtype), tensor.pitch)


@dataclass
class _Root:
    """What is in the bytes of a root: the tensors written last, and those of which a part was
    written over since, with these parts."""
    fresh: dict[int, Region]
    torn: dict[int, tuple[Region, list[Region]]]
    seen: dict[int, tuple[int, ...]]  # a view that no op writes -> the tensors it was read from


class Contents:
    """Follows, op by op, which tensors of the arena hold what was written into them.

    A tensor that an op writes holds that until something else is written over a part of it. One
    that no op writes (a view, or a root that consists of views) holds what the tensors hold that
    cover it.
    """

    def __init__(self):
        self._roots: dict[int, _Root] = {}
        self._written: set[int] = set()
        self._compared = 0

    def write(self, tensor: Placed, root: int, where: str) -> None:
        """Note that a tensor is written.

        Args:
            tensor: in the arena.
            root: index of the tensor whose bytes it uses.
            where: of the writer, for errors.

        Raises:
            ModelError: it has been written before.
        """
        if tensor.index in self._written:
            raise ModelError(f"{where}: writes {tensor.name!r} a second time")
        self._written.add(tensor.index)
        held = self._roots.setdefault(root, _Root({}, {}, {}))
        place = region_of(tensor)
        for index, other in self._each(held, where):
            common = shared(place, other)
            if common and common < other.bytes:
                held.torn[index] = other, []
            if common != 0:
                del held.fresh[index]
        for other, holes in held.torn.values():
            if shared(place, other) != 0:
                holes.append(place)
        held.fresh[tensor.index] = place

    def read(self, tensor: Placed, root: int, where: str) -> tuple[int, ...]:
        """Require that a tensor holds what it should.

        Returns:
            Indices of the tensors that were written there, in the order of their writing.

        Raises:
            ModelError: something of it was never written, or written over.
        """
        held = self._roots.get(root)
        if held is None:
            raise ModelError(f"{where}: reads {tensor.name!r} before anything has written it")
        if tensor.index in held.fresh:
            return (tensor.index,)
        if tensor.index in self._written:
            raise ModelError(f"{where}: reads {tensor.name!r}, of which something was written over")
        place, left, parts = region_of(tensor), 0, []
        left = place.bytes
        whole = [(index, other, []) for index, other in self._each(held, where)]
        torn = [(index, *held.torn[index]) for index in held.torn]
        for index, other, holes in whole + torn:
            common = shared(place, other)
            if any(shared(place, hole) != 0 for hole in holes):
                continue  # what is there is not the tensor's any more
            if common is None:
                raise ModelError(f"{where}: reads {tensor.name!r}, whose rows have another pitch "
                                 "than what was written there")
            if common:
                left -= common
                parts.append(index)
        if left:
            raise ModelError(f"{where}: reads {tensor.name!r} before anything has written it"
                             if not parts else
                             f"{where}: reads {tensor.name!r}, of which nothing has written "
                             f"{left} bytes")
        if held.seen.setdefault(tensor.index, tuple(parts)) != tuple(parts):
            raise ModelError(f"{where}: reads {tensor.name!r}, of which something was written over "
                             "since it was read before")
        return tuple(parts)

    def _each(self, held: _Root, where: str) -> list[tuple[int, Region]]:
        self._compared += len(held.fresh) + sum(1 + len(holes) for _, holes in held.torn.values())
        if self._compared > MAX_COMPARED:
            raise ModelError(f"{where}: too many tensors share their bytes, at most {MAX_COMPARED} "
                             "comparisons are allowed")
        return list(held.fresh.items())
