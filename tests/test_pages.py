"""Advice about pages: it is never what a load fails at, and a session keeps what it asked for."""
from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

import edgerun
from edgerun import loader, pages
from edgerun.memory import Buffers
from edgerun.tools import reference
from tests.page_cache import need_in_place
from tests.plane_networks import inputs, network, packed


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "m.edge"
    file.write_bytes(packed(network()))
    return file


def test_advice_about_arrays_and_files():
    """Only whole mapped files can be advised about; spans are joined to whole pages."""
    array = np.zeros(10, np.uint8)
    pages.only_what_is_touched(array)
    pages.ahead(array, [(0, 10)])
    with pages.only_what_is_touched_now(array):
        pass
    page = pages.PAGE
    assert pages.joined([(page + 1, page + 2), (5, 6), (4 * page, 5 * page)]) == [
        (0, 2 * page), (4 * page, 5 * page)]


class Refusing:
    """A mapping where the system knows no advice."""

    def __init__(self):
        self.asked = []

    def madvise(self, *arguments) -> None:
        self.asked.append(arguments)
        raise OSError(38, "Function not implemented")


def test_a_system_that_takes_no_advice(device, path, monkeypatch):
    """It fails no load, switch or run."""
    mapping = Refusing()
    monkeypatch.setattr(pages, "_mapping", lambda data: mapping)
    with edgerun.load(path, device, check_weights=False, precision="low") as session:
        for name in ("low", "high"):
            session.set_precision(name)
            np.testing.assert_array_equal(session.run(inputs())["y"],
                                          reference.execute(network(), inputs(), name)["y"])
    assert {arguments[0] for arguments in mapping.asked} >= {
        mmap.MADV_RANDOM, mmap.MADV_NORMAL, mmap.MADV_WILLNEED}


def random_access(path: Path) -> bool:
    """Whether the system was told to read single pages of a file, wherever it is mapped."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError as error:
        pytest.skip(f"this system does not tell how files are mapped: {error}")
    inside, found = False, []
    for line in lines:
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = line.endswith(f" {path}")
        elif inside and name == "VmFlags:":
            found.append("rr" in rest)
    if not found:
        pytest.skip("/proc/self/smaps has no VmFlags of a mapped file")
    assert len(set(found)) == 1
    return found[0]


def test_a_read_leaves_what_a_session_asked_for(device, path):
    """Sessions on one file share its mapping: one more read must not undo their advice."""
    model = loader.read(path, check_weights=False)
    assert not random_access(path)
    with edgerun.load(path, device, check_weights=False, precision="low") as session:
        need_in_place(session)
        assert random_access(path)
        again = loader.read(path, check_weights=False)
        assert again.data is session.model.data is model.data
        assert random_access(path)


def test_a_device_with_a_copy_gets_no_advice(device, path, monkeypatch):
    """Where weights are not in place, nothing of the file is read any more."""
    asked = []
    monkeypatch.setattr(pages, "ahead", lambda data, spans: asked.append(spans))
    monkeypatch.setattr(pages, "only_what_is_touched", asked.append)
    for in_place in (True, False):
        monkeypatch.setattr(Buffers, "in_place", in_place)
        model = loader.read(path)
        asked.clear()
        with edgerun.Session(model, device, precision="low") as session:
            session.set_precision("high")
        assert len(asked) == (3 if in_place else 0)
