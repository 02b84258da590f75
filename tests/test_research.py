"""docs/research.md follows from its files, which are checked as they are written and read."""
from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgerun.errors import EdgerunError, InputError
from edgerun.tools.recipes import comparison, page, results, systems

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "research"
GIVEN = {"command": "python -m edgerun.tools.recipes.bsq --model tests/data/x --out DIR",
         "seeds": [1, 2], "minutes": 2.64,
         "ours": [{"network": "small", "accuracy %": 91.256, "bytes": 12345}],
         "published": [{"network": "large", "accuracy %": 92.6, "source": "paper, table 1"}],
         "differs": ["a smaller network"]}


def written(folder: Path, name: str = "bsq", **changes) -> Path:
    """Write a file of results."""
    return results.write(folder, name, **(GIVEN | changes))


def test_page_is_current():
    assert (ROOT / "docs" / "research.md").read_text() == \
        page.page(page.read(FOLDER), FOLDER), \
        "docs/research.md is not what 'python -m edgerun.tools.recipes.page' writes"


def test_what_is_said_of_systems_has_no_figures():
    """A measured or published figure belongs into a file; numbers of papers and bits are none."""
    for system in systems.SYSTEMS:
        words = re.sub(r"\(arXiv|--\w+ \S+", "", f"{system.what} {system.unknown}")
        assert not re.search(r"\d+\.\d+|\d\s?%|\d times", words), system.title
        assert not re.search(r"  |/(work|root|home)", " ".join(words.split())), system.title


def test_written_and_read(tmp_path):
    path = written(tmp_path / "research")
    found = results.read(path)
    assert found["minutes"] == 2.6 and found["ours"] == GIVEN["ours"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["made"]) and "date" not in found["machine"]
    assert not results.write(None, "bsq", **GIVEN) and len(list(tmp_path.rglob("*.*"))) == 1


def test_numpy_scalars_and_device(tmp_path):
    path = written(tmp_path, ours=[{"planes": np.int64(3), "accuracy %": np.float32(0.5),
                                    "exact": np.bool_(True)}], device="PoCL")
    found = results.read(path)
    assert found["ours"] == [{"planes": 3, "accuracy %": 0.5, "exact": True}]
    assert found["machine"]["device"] == "PoCL"


def test_rows_of_other_runs_stay(tmp_path):
    rows = [{"seed": seed, "accuracy %": 90.0 + seed} for seed in (1, 2)]
    written(tmp_path, ours=rows, seeds=[1, 2])
    written(tmp_path, ours=[{"seed": 3, "accuracy %": 93.0}, {"seed": 1, "accuracy %": 95.0}],
            seeds=[1, 3], minutes=1.0, merge=("seed",))
    found = results.read(tmp_path / "bsq.json")
    assert [(r["seed"], r["accuracy %"]) for r in found["ours"]] == [(1, 95), (2, 92), (3, 93)]
    assert found["seeds"] == [1, 2, 3] and found["minutes"] == 3.6
    written(tmp_path)
    assert results.read(tmp_path / "bsq.json")["ours"] == GIVEN["ours"]


def test_sentences_follow_from_all_rows(tmp_path):
    def differs(rows: list[results.Row]) -> list[str]:
        return [f"{len(rows)} rows."]

    for seed in (1, 2):
        written(tmp_path, ours=[{"seed": seed, "accuracy %": 90.0}], merge=("seed",),
                differs=differs)
    assert results.read(tmp_path / "bsq.json")["differs"] == ["2 rows."]
    with pytest.raises(InputError, match="needed sentences"):
        written(tmp_path, differs=lambda rows: [""])


def test_two_networks_beside_each_other():
    rows = [{"network": name, "precision": "fp32", "seed": seed, "error %": error + 0.1 * seed}
            for name, error, seeds in (("small", 0.8, (1, 2, 4)), ("large", 0.6, (1, 2, 3)))
            for seed in seeds] + [
        {"network": "small", "precision": "int8", "seed": 1, "error %": 9.0}]
    rows[1]["error %"] = 1.1
    assert [*comparison.beside(rows, "error %", "small", "large", 0.2)] == [
        "Error % in fp32, mean of seeds 1, 2: small 1.00, large 0.75; that is 0.25 points apart "
        "(+0.20, +0.30), where at most 0.2 was aimed at."]
    assert not [*comparison.beside(rows, "error %", "small", "another", 0.2)]


def test_networks_of_equal_settings_are_set_beside_each_other():
    rows = [{"network": name, "precision": "fp32", "seed": seed, "shift": shift, "error %": error}
            for name, seed, shift, error in (
                ("small", 1, 0, 0.9), ("small", 1, 1, 0.7), ("large", 1, 1, 0.5),
                ("large", 1, 2, 0.1), ("small", 2, 2, 0.2))]
    assert [*comparison.beside(rows, "error %", "small", "large", 0.2, ["shift"])] == [
        "Error % in fp32 with shift 1, mean of seeds 1: small 0.70, large 0.50; that is 0.20 "
        "points apart (+0.20), where at most 0.2 was aimed at."]
    assert results.values([*rows, {"images": 60_000}], "shift") == "0 or 1 or 2"
    assert results.values([*rows, {"images": 60_000}], "images") == "60,000"


def test_what_one_way_gains_over_another():
    rows = [{"way": way, "seed": seed, "mAP %": value}
            for way, seed, value in (("a", 1, 70.0), ("a", 2, 72.5), ("b", 2, 70.25),
                                     ("b", 1, 68.0), ("b", 3, 1.0), ("c", 1, 2.0))]
    assert results.paired(rows, "mAP %", "way", ("a", "b")) == ([1, 2], [71.25, 69.125], [2, 2.25])


def test_rows_of_another_cpu_are_not_merged(tmp_path, monkeypatch):
    path = written(tmp_path)
    before = path.read_bytes()
    facts = results.machine(1)
    monkeypatch.setattr(results, "machine", lambda threads: facts | {"cpu": "Another"})
    with pytest.raises(InputError, match="was measured on .*, this is Another: a file tells one"):
        written(tmp_path, merge=("network",))
    assert path.read_bytes() == before
    written(tmp_path)
    assert results.read(path)["machine"]["cpu"] == "Another"


@pytest.mark.parametrize("changes, problem", [
    ({"name": "BSQ"}, "lower-case words"),
    ({"command": "python\n-m x"}, "several lines"),
    ({"command": "python -m x --train /somewhere/a.npz"}, "a path of one machine"),
    ({"command": "python -m x --train=~/a.npz"}, "a path of one machine"),
    ({"seeds": ["a"]}, "needed integers"),
    ({"minutes": -1.0}, "minutes are -1"),
    ({"ours": []}, "ours has no row"),
    ({"ours": [{}]}, r"ours\[0\]: is {}"),
    ({"ours": [{"table": "curve"}]}, "has no figure"),
    ({"ours": [{"planes": [1]}]}, r"planes is \[1\], needed text"),
    ({"ours": [{"planes": float("nan")}]}, "planes is nan, needed text, a finite number"),
    ({"ours": [{" ": 1}]}, "a column is named"),
    ({"ours": [{"accuracy": 1.0, "source": "us"}]}, "if and only if it was published"),
    ({"published": [{"accuracy": 1.0}]}, "if and only if it was published"),
    ({"published": [{"accuracy": 1.0, "source": ""}]}, "source is '', needed text"),
    ({"differs": [""]}, "needed sentences"),
])
def test_malformed_results_are_refused(tmp_path, changes, problem):
    with pytest.raises(InputError, match=problem):
        written(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, problem", [
    (lambda d: d.pop("seeds"), "needed exactly"),
    (lambda d: d.update(more=1), "needed exactly"),
    (lambda d: d.update(made="today"), "needed a date"),
    (lambda d: d.update(machine={}), "machine has no cpu"),
    (lambda d: d.update(minutes=True), "minutes is True"),
    (lambda d: d.update(minutes=float("nan")), "minutes are nan"),
    (lambda d: d.update(name="other"), "needed that of the file"),
])
def test_damaged_files_are_refused(tmp_path, change, problem):
    path = written(tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=problem):
        results.read(path)


def test_no_json(tmp_path):
    (tmp_path / "bsq.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        page.read(tmp_path)


def test_a_file_belongs_to_one_system(tmp_path):
    assert page.system_of("bsq-fashion").title == page.system_of("bsq").title == "BSQ"
    assert page.system_of("precision-batching-lstm").title == "PrecisionBatching"
    written(tmp_path, "bsqx")
    with pytest.raises(InputError, match="bsqx.json: belongs to no system"):
        page.read(tmp_path)
    names = [name for system in systems.SYSTEMS for name in system.names]
    assert not [(a, b) for a in names for b in names if a != b and f"{a}-".startswith(f"{b}-")]
    assert len(set(names)) == len(names)


def test_page_of_files(tmp_path):
    """Ours and what was published share a table; what is missing is said to be missing."""
    written(tmp_path)
    written(tmp_path, "ktanh", published=[], seeds=[], ours=[
        {"table": "error", "driver": "PoCL", "worst": 0.008921, "exact": True},
        {"table": "time", "us": 41234.5, "driver": None}], differs=[])
    (tmp_path / "ktanh.svg").write_text("<svg/>")
    shown = page.page(page.read(tmp_path), tmp_path)
    assert "| from | network | accuracy % | bytes |\n|---|---|---:|---:|\n" \
        "| here | small | 91.26 | 12,345 |\n| paper, table 1 | large | 92.60 | - |\n" in shown
    assert ", in 3 minutes, seeds 1, 2." in shown and "- a smaller network\n" in shown
    assert "**error**\n\n| driver | exact | worst |\n|---|---|---:|\n| PoCL | yes | 0.008921 |" \
        in shown
    assert "| driver | us |\n|---|---:|\n| - | 41,234 |" in shown
    assert f"![ktanh]({tmp_path.name}/ktanh.svg)" in shown
    assert shown.count("Not measured yet.") == len(systems.SYSTEMS) - 2
    assert shown.count("Published figures: none that could be read.") == 1
    written(tmp_path, published=[{"network": "large", "accuracy %": None, "source": "paper"}])
    assert "| paper | large | not readable | - |" in page.page(page.read(tmp_path), tmp_path)


def test_page_is_written_whole_or_not_at_all(tmp_path, capsys):
    written(tmp_path)
    assert page.main([str(tmp_path), str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text().startswith("# Research\n")
    written(tmp_path, "unknown")
    assert page.main([str(tmp_path), str(tmp_path / "page.md")]) == 1
    assert "belongs to no system" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text().startswith("# Research\n")
    with pytest.raises(EdgerunError):
        written(tmp_path / "page.md" / "below")
