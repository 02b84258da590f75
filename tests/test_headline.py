"""The table of memory, time and accuracy, over the bundled model."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgerun import arrays, loader
from edgerun.session import Session
from edgerun.tools import demo
from edgerun.tools.recipes import headline, results

IMAGES = 40


def bundled(*_):
    """The bundled classifier: samples to calibrate with, and others with their labels."""
    sample = demo.Sample.read()
    seen = [sample.input(at)["image"] for at in range(IMAGES, IMAGES + 20)]
    return sample.model, np.stack(seen), [
        (sample.input(at)["image"], int(sample.labels[at])) for at in range(IMAGES)]


@pytest.fixture
def networks(monkeypatch):
    found = {"demo": headline.Network("Demo", bundled),
             "small": headline.Network("Unlabelled, small", lambda *_: (*bundled()[:2], ()),
                                       timed=False),
             "twin": headline.Network("Twin", lambda *_: (*bundled()[:2], ()), beside="small")}
    monkeypatch.setattr(headline, "NETWORKS", found)
    monkeypatch.setattr(headline, "PRECISIONS", ("fp32", "int16"))
    monkeypatch.setattr(headline, "ROUNDS", 2)


def test_table(device, networks, tmp_path, monkeypatch, capsys):
    """Rows of every file, kept where a run was ended, into files that the page takes."""
    command = [str(tmp_path), "--out", str(tmp_path), "--results", str(tmp_path / "research"),
               "--device", device.info.platform]
    assert headline.main([*command, "--only", "demo"]) == 0
    assert "times faster" in capsys.readouterr().out
    monkeypatch.setattr(headline, "pack", lambda *_, **__: pytest.fail("packed again"))
    assert headline.main([*command, "--only", "demo"]) == 0
    again = []
    monkeypatch.setattr(headline, "pack", lambda model, file, *_, **__: again.append(file.name))
    assert headline.main([*command, "--only", "demo", "--steps", "pack", "--again", "4 bits",
                          "int16"]) == 0
    assert again == ["int16.edge", "4 bits.edge"]
    monkeypatch.undo()
    rows = results.read(tmp_path / "research" / "headline.json")["ours"]
    assert [row["precision"] for row in rows] == ["fp32", "int16", "4 bits"]
    for row in rows:
        model = loader.read(tmp_path / "demo" / f"{row['precision']}.edge")
        assert row["arena KiB"] == model.plan.arena_bytes / 1024 and row["ms"] > 0
        with Session(model, device) as session:
            right = headline.curve.right(session, bundled()[2])
        assert row["right %"] == 100 * right / IMAGES > 70
        assert row["times smaller"] == pytest.approx(
            (rows[0]["weights KiB"] + rows[0]["arena KiB"])
            / (row["weights KiB"] + row["arena KiB"]))
    assert rows[0]["times smaller"] == rows[0]["times faster"] == 1
    assert 1.5 < rows[1]["times smaller"] < 2.1 < rows[2]["times smaller"]
    half, = results.read(tmp_path / "research" / "int16.json")["ours"]
    assert half["points lost"] == rows[0]["right %"] - rows[1]["right %"]


def test_networks_without_labels(device, networks, tmp_path):
    """Their column is the error; what stands for another network is compared with that, too."""
    command = [str(tmp_path), "--out", str(tmp_path), "--results", str(tmp_path / "research"),
               "--device", device.info.platform]
    assert headline.main([*command, "--only", "small", "--only", "twin"]) == 0
    rows = results.read(tmp_path / "research" / "headline.json")["ours"]
    small, twin = rows[:3], rows[3:]
    assert {"ms", "right %"}.isdisjoint(small[0]) and not (tmp_path / "research" / "int16.json"
                                                          ).exists()
    expected = arrays.read_npz(tmp_path / "small" / "output.npz")["probabilities"]
    assert expected.shape == (1, 10)
    assert small[0]["output error"] == 0 < small[1]["output error"] < small[2]["output error"]
    assert [row["times smaller than Unlabelled fp32"] for row in twin] == \
        [row["times smaller"] for row in twin]
    assert all(row["times faster than Unlabelled fp32"] > 0 for row in twin)


def test_turns_are_by_turns(monkeypatch):
    """Every round has a turn of every session: what slows the machine slows them all."""
    taken = []

    class Runs:
        def __init__(self, name: str):
            self.name, self.inputs = name, [SimpleNamespace(name=f"x of {name}")]

        def run(self, inputs) -> None:
            assert [*inputs] == [f"x of {self.name}"]
            taken.append(self.name)

    monkeypatch.setattr(headline, "TURN_NS", 1e5)
    ns = headline.turns([Runs("a"), Runs("b")], np.zeros(1), rounds=4)
    assert ns.shape == (4, 2) and (ns > 0).all()
    order = [name for at, name in enumerate(taken) if not at or taken[at - 1] != name]
    assert order == ["a", "b"] * 5  # once to see how long a run takes, then the rounds
