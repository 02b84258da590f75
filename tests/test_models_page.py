"""docs/models.md says what its stored results say, for every model that there is."""
from __future__ import annotations

import pytest

from tests import models_report as report


def test_page_is_current():
    assert report.PAGE.read_text() == report.text(report.read()), report.HOW


def test_every_row_is_whole():
    rows = report.read()["rows"]
    assert len(rows) > 50
    for row in rows:
        if not row["packs"]:
            assert row["reason"] and "Error" not in row["reason"].split(":")[0], row["model"]
            continue
        assert 0 < row["least_bytes"] <= row["arena_bytes"], row["model"]
        assert row["file_bytes"] > 0 and set(row["runs"]) == set(report.DRIVERS)
        for found in row["runs"].values():
            assert found["runs"] or found["reason"], row["model"]


def test_every_shared_model_is_listed(shared_data):
    listed = list(dict.fromkeys(row["model"] for row in report.read()["rows"]))
    assert listed == report.models(shared_data), "run `python -m tests.models_report`"


@pytest.mark.parametrize("found, precision, expected", [
    ({"runs": True, "missing": [], "range": 9e-4}, "fp32", True),
    ({"runs": True, "missing": [], "range": 2e-3}, "fp32", False),
    ({"runs": True, "missing": [], "range": 2e-3}, "fp16", True),
    ({"runs": True, "missing": [], "steps": 1.0}, "source", True),
    ({"runs": True, "missing": [], "steps": 1.5}, "source", False),
    ({"runs": True, "missing": ["boxes"]}, "fp32", False),
    ({"runs": False, "reason": "refused"}, "fp32", False)])
def test_matches(found, precision, expected):
    row = {"golden": True, "precision": precision, "runs": {"pocl": found}}
    assert report.matches(row, "pocl") is expected
    assert report.matches({**row, "golden": False}, "pocl") is None
