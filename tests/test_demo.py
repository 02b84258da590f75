"""The demo tells the truth: its data are what the recipe says, its numbers are the device's."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgerun.errors import DeviceError
from edgerun.tools import demo

SAMPLE = demo.Sample.read()
OPERATORS = len(onnx.load(SAMPLE.model).graph.node)


def test_data_are_what_the_recipe_wrote():
    facts = SAMPLE.facts
    assert hashlib.sha256(SAMPLE.model.read_bytes()).hexdigest() == facts["sha256"]
    assert SAMPLE.images.shape == (facts["demo_images"], 28, 28)
    assert SAMPLE.images.dtype == np.uint8
    assert set(SAMPLE.labels) == set(range(len(facts["classes"])))
    assert (SAMPLE.predictions == SAMPLE.labels).sum() == facts["demo_correct"]
    assert facts["test_correct"] / facts["test_images"] > 0.89


def test_data_are_small():
    assert SAMPLE.model.stat().st_size < 500_000
    assert sum(path.stat().st_size for path in demo.DATA.iterdir()) < 1_000_000


def test_predictions_are_the_models():
    """The stored predictions come from PyTorch; ONNX Runtime must see the same in the file."""
    runtime = pytest.importorskip("onnxruntime").InferenceSession(SAMPLE.model)
    classes = [runtime.run(None, SAMPLE.input(i))[0].argmax() for i in range(len(SAMPLE.images))]
    assert (classes == SAMPLE.predictions).all()


def test_numbers(device, capsys, tmp_path):
    """All precisions agree with PyTorch, and what is allocated is what was planned."""
    assert demo.main(["--device", device.info.platform, "--json", "--keep", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    for run in told["runs"]:
        assert run["device"] == device.info.name
        rounded = 8 if run["precision"] == "int8" else 1
        assert run["agree"] >= len(SAMPLE.images) - rounded
        assert abs(run["correct"] - SAMPLE.facts["demo_correct"]) <= rounded
        assert run["correct"] == (np.array(run["predictions"]) == SAMPLE.labels).sum()
        # beside weights and arena: the table of a chain of launches, see edgerun/chain.py
        more = run["allocated_bytes"] - run["weight_bytes"] - run["arena_bytes"]
        assert 0 <= more < 16_384
        assert run["launches"] < OPERATORS
        assert (tmp_path / f"fashion_mnist_{run['precision']}.edge").stat().st_size \
            == run["file_bytes"]
    fp32, fp16, int8 = told["runs"]
    assert fp16["weight_bytes"] < 0.6 * fp32["weight_bytes"]
    assert int8["weight_bytes"] < 0.4 * fp32["weight_bytes"]
    assert int8["arena_bytes"] < 0.3 * fp32["arena_bytes"]


def test_story(device, capsys):
    assert demo.main(["--device", device.info.platform]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert device.info.name in told
    assert f"of {len(SAMPLE.images)} images" in told
    assert "Right: image" in told and "Wrong: image" in told
    assert "[bold]" not in told and "[/]" not in told


def test_disagreement_is_a_failure(device, capsys, monkeypatch):
    """If the device saw something else than PyTorch, the demo must not end well."""
    other = dataclasses.replace(SAMPLE, predictions=(SAMPLE.predictions + 1) % 10)
    monkeypatch.setattr(demo.Sample, "read", classmethod(lambda cls: other))
    assert demo.main(["--device", device.info.platform, "--json"]) == 1
    assert "agrees with PyTorch on 0 of" in capsys.readouterr().err


def test_tutorial(device, capsys, tmp_path, monkeypatch):
    """The Python code of README.md runs as it stands."""
    page = Path(__file__).resolve().parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert "edgerun.load(" in blocks[0] and len(blocks) >= 2
    shutil.copy(SAMPLE.model, tmp_path / "model.onnx")
    np.savez(tmp_path / "samples.npz", image=np.stack([SAMPLE.input(n)["image"] for n in range(8)]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGERUN_DEVICE", device.info.platform)
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, str(page), "exec"), names)
        for name in ("detect.edge", "classify.edge"):  # the files that the later blocks speak of
            shutil.copy(tmp_path / "model.edge", tmp_path / name)
    told = capsys.readouterr().out
    assert "{'probabilities': (1, 10)}" in told
    assert device.info.name in told
    assert not np.array_equal(names["quick"]["probabilities"], names["exact"]["probabilities"])


def test_unknown_device(capsys):
    with pytest.raises(DeviceError, match="no OpenCL device is meant by 'no such device'"):
        demo.main(["--device", "no such device"])
    assert capsys.readouterr().out == ""


def test_picture():
    """Ink grows with brightness; every character stands for 1 x 2 pixels."""
    image = np.zeros((28, 28), np.uint8)
    image[:2, 27] = 255
    image[27, 0] = 255
    lines = demo.picture(image)
    assert [len(line) for line in lines] == [28] * 14
    assert lines[0] == " " * 27 + "@"
    assert lines[13] == "=" + " " * 27
