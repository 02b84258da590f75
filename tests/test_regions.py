"""Which tensors of shared bytes hold what was written into them."""
from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgerun.errors import ModelError
from edgerun.regions import Contents


@dataclass
class Part:
    """Bytes of the arena as a tensor of int8."""
    name: str
    index: int
    offset: int
    shape: tuple[int, ...]
    dtype: str = "int8"
    pitch: int = 0


WHOLE = Part("whole", 0, 0, (1, 8))
FIRST, SECOND, THIRD = (Part(name, 1 + i, 2 * i, (1, 2))
                        for i, name in enumerate(("first", "second", "third")))
OVER_FIRST, ACROSS = Part("over", 7, 0, (1, 2)), Part("across", 8, 1, (1, 2))


def contents(*written: Part) -> Contents:
    found = Contents()
    for part in written:
        found.write(part, 0, "op")
    return found


def test_views_beside_what_was_written_over_hold_what_they_held():
    """A cell of an LSTM writes over one gate, and reads the others afterwards."""
    found = contents(WHOLE)
    found.read(FIRST, 0, "op 1")
    found.write(OVER_FIRST, 0, "op 1")
    for part in (SECOND, THIRD, OVER_FIRST):
        found.read(part, 0, "op 2")


@pytest.mark.parametrize("part, message", [
    (WHOLE, "'whole', of which something was written over"),
    (ACROSS, "'across', of which nothing has written 1 bytes")])
def test_what_was_written_over_is_gone(part, message):
    with pytest.raises(ModelError, match=message):
        contents(WHOLE, OVER_FIRST).read(part, 0, "op 2")


def test_a_view_read_before_may_not_be_written_over():
    found = contents(WHOLE)
    found.read(FIRST, 0, "op 1")
    found.write(OVER_FIRST, 0, "op 1")
    with pytest.raises(ModelError, match="written over since it was read before"):
        found.read(FIRST, 0, "op 2")


def test_views_of_two_writers():
    """Behind another write over the rest nothing of the whole is left."""
    found = contents(WHOLE, OVER_FIRST, Part("rest", 9, 2, (1, 6)))
    for part in (SECOND, OVER_FIRST):
        found.read(part, 0, "op 3")
    with pytest.raises(ModelError, match="'whole', of which something was written over"):
        found.read(WHOLE, 0, "op 3")
