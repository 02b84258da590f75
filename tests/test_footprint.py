"""The footprint page follows from its files, and they are true to themselves."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgerun.errors import InputError
from edgerun.tools.compare import curve, footprint, pages
from edgerun.tools.compare.footprint_plot import frontier, plot, points
from tests.test_precision_storage import onnx_model

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "footprint"


def test_page_is_what_the_files_give():
    parts = footprint.read(FOLDER)
    assert (ROOT / "docs" / "footprint.md").read_text() == footprint.page(parts), \
        "docs/footprint.md is not what 'python -m edgerun.tools.compare.footprint' writes"


def test_the_files_are_whole_and_name_no_machine():
    assert {path.stem for path in FOLDER.glob("*.json")} == {*footprint.SECTIONS}
    for path in FOLDER.glob("*.json"):
        assert not [word for word in ("/tmp", "/work", "/root", "/home") if word in
                    path.read_text()], path.name


def test_points_of_the_budget_curve():
    """Every file is within its budgets, and allocated what was predicted."""
    studies = json.loads((FOLDER / "budget.json").read_text())["studies"]
    assert len(studies) >= 3 and {*studies} <= {*curve.STUDIES}
    for study in studies.values():
        assert len(study["points"]) >= 4
        for point in study["points"]:
            assert point["allocated"] == point["ram"] and 0 <= point["accuracy"] <= 1
            for ram, flash in point["budgets"]:
                assert ram is None or point["ram"] <= ram
                assert flash is None or point["flash"] <= flash
        whole = max(study["points"], key=lambda p: p["ram"] + p["flash"])
        assert [*whole["types"]] == ["fp32"]


def test_frontier():
    drawn = [{"ram": ram, "right": right} for ram, right in
             ((10, 50.0), (20, 50.0), (10, 60.0), (30, 70.0), (25, 55.0))]
    assert frontier(drawn, "ram") == [(10, 60.0), (30, 70.0)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small model with random labels, and the folder of its data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "models").mkdir()
    onnx_model(folder / "models" / "small.onnx")
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(12)]
    return folder, curve.Study("small.onnx", lambda _: (images[:4], [
        (image, number % 3) for number, image in enumerate(images)]), "made-up images")


def test_measuring_a_curve(device, study, tmp_path):
    folder, made = study
    found = curve.measure(made, folder, device, tmp_path)
    assert found["samples"] == 12 and len(found["points"]) >= 2 and found["refused"]
    for point in found["points"]:
        assert point["allocated"] == point["ram"] and 0 <= point["accuracy"] <= 1
    document = {"studies": {"small": found}, "machine": {"device": "d", "date": "2026-11-22"}}
    shown = footprint.page({"budget": document})
    assert "### small" in shown and "Nothing fits" in shown
    plot([found], tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "RAM, KiB" in drawn and "flash, KiB" in drawn and ">fp32<" in drawn
    assert len(points(found)) == len(found["points"])


def test_wrong_folders_change_nothing(tmp_path):
    out = tmp_path / "page.md"
    out.write_text("before")
    with pytest.raises(InputError, match="holds none of memory.json, pages.json, budget.json"):
        footprint.main([str(tmp_path), str(out)])
    assert out.read_text() == "before" and [*tmp_path.iterdir()] == [out]
    with pytest.raises(InputError, match="has no models.onnx.mnist_cntk_op13.onnx, no datasets"):
        curve.main([str(tmp_path), str(out)])
    with pytest.raises(InputError, match="no such file; needed a model file"):
        pages.main([str(tmp_path / "none.edge")])
    assert out.read_text() == "before"


@pytest.mark.parametrize("module", [curve, footprint, pages])
def test_help_tells_every_argument(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = capsys.readouterr().out
    if module is curve:
        assert all(name in shown for name in (*curve.STUDIES, "imagenet_A/labels.csv"))
    if module is footprint:
        assert all(f"{name}.json" in shown for name in footprint.SECTIONS)
