"""Packing with patch execution: real networks in less memory, with the same outputs."""
from __future__ import annotations

import json

import numpy as np
import pytest

from edgerun import InputError, arrays, loader
from edgerun.__main__ import main
from edgerun.ops import OPS
from edgerun.session import Session
from edgerun.tools import networks, reductions
from edgerun.tools.pack import pack

VWW = "models/tflite/vww01_mbv1_96_int8.tflite"


def outputs(path, device, count: int = 2) -> list[dict[str, np.ndarray]]:
    with Session(loader.read(path), device) as session:
        return [session.run(arrays.random_inputs(session.inputs, seed)) for seed in range(count)]


def macs(path) -> int:
    return sum(OPS[op.code].macs(op) for op in loader.read(path).ops)


def test_visual_wake_words(device, shared_data, tmp_path):
    """At least half of the memory, the same integers, and what the report says is so."""
    plain, cut = tmp_path / "plain.edge", tmp_path / "cut.edge"
    before = pack(shared_data / VWW, plain, without=reductions.NAMES)
    report = pack(shared_data / VWW, cut, patch="auto")
    assert before.arena_bytes == 55_296 and before.patch is None
    assert 2 * report.arena_bytes <= before.arena_bytes
    whole = pack(shared_data / VWW, plain)
    assert report.patch.arena_without_bytes == whole.arena_bytes
    assert report.patch.extra_ops == report.ops - whole.ops == len(loader.read(cut).ops) - 30
    copying = pack(shared_data / VWW, cut, patch="auto", without=["views"])
    assert report.ops < copying.ops and report.arena_bytes == copying.arena_bytes
    pack(shared_data / VWW, cut, patch="auto")
    assert report.patch.streamed and loader.read(cut).inputs[0].pieces
    assert macs(cut) - macs(plain) == report.patch.extra_macs
    assert report.patch.extra_part == report.patch.extra_macs / macs(plain) < 0.25
    assert ("patch", report.patch.arena_without_bytes) in [
        (found.name, found.without_bytes) for found in report.reductions]
    for found, expected in zip(outputs(cut, device), outputs(plain, device)):
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("name, precision, less", [
    ("mobilenetv2", "fp32", 2.0), ("mobilenetv2", "fp16", 2.0), ("squeezenet", "fp32", 1.5)])
def test_networks(device, tmp_path, name, precision, less):
    """Residual blocks, and concats of channels: the same numbers from strips."""
    source, plain, cut = (tmp_path / file for file in ("n.onnx", "plain.edge", "cut.edge"))
    networks.write(name, source, size=96)
    before = pack(source, plain, precision, without=reductions.NAMES)
    report = pack(source, cut, precision, patch="auto")
    assert less * report.arena_bytes <= before.arena_bytes
    assert 0 < report.patch.extra_part < 0.25
    for found, expected in zip(outputs(cut, device), outputs(plain, device)):
        for output, values in expected.items():
            if precision == "fp32":
                np.testing.assert_allclose(found[output], values, rtol=1e-6, atol=1e-6)
            else:
                np.testing.assert_allclose(found[output], values, rtol=0.05, atol=0.05)


def test_quantized_network(device, tmp_path):
    """Our own integers, quantized inputs and all: bit for bit."""
    source, plain, cut = (tmp_path / file for file in ("n.onnx", "plain.edge", "cut.edge"))
    networks.write("mobilenetv2", source, size=64)
    np.savez(tmp_path / "samples.npz", **networks.samples("mobilenetv2", 2, size=64))
    given = {"precision": "int8", "calibration": tmp_path / "samples.npz",
             "device": device.info.index}
    before = pack(source, plain, without=reductions.NAMES, **given)
    report = pack(source, cut, patch="auto", **given)
    assert 2 * report.arena_bytes <= before.arena_bytes and report.patch.streamed
    for found, expected in zip(outputs(cut, device), outputs(plain, device)):
        np.testing.assert_array_equal(found["scores"], expected["scores"])


def test_a_number_of_strips_and_without(shared_data, tmp_path):
    report = pack(shared_data / VWW, tmp_path / "m.edge", patch=3)
    assert {stage.strips for stage in report.patch.stages} == {3}
    for asked in (4, "auto"):
        with pytest.raises(InputError, match=f"--patch {asked}.*--without patch.*needed one"):
            pack(shared_data / VWW, tmp_path / "n.edge", patch=asked, without=["patch"])
    assert pack(shared_data / VWW, tmp_path / "n.edge", without=["patch"]).patch is None


@pytest.mark.parametrize("bad", ["on", 1, "1", "1000", "2.5", ""])
def test_bad_patch(shared_data, tmp_path, bad):
    with pytest.raises(InputError, match="needed off, auto, or a number of strips from 2 to 256"):
        pack(shared_data / VWW, tmp_path / "m.edge", patch=bad)
    assert not (tmp_path / "m.edge").exists()


def test_command_line(shared_data, tmp_path, capsys):
    path = tmp_path / "m.edge"
    assert main(["pack", str(shared_data / VWW), "-o", str(path), "--patch", "auto"]) == 0
    text = capsys.readouterr().out
    assert "input streamed" in text and "more multiply-adds" in text and "arena without" in text
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "more multiply-adds; the arena would be 54.0 KiB without" in text
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["patch"]
    assert found["arena_bytes"] == 55_296 and found["stages"][0]["streamed"]
    assert main(["pack", str(shared_data / VWW), "-o", str(path), "--patch", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patch"]["extra_part"] < 0.25
    assert main(["pack", str(shared_data / VWW), "-o", str(path), "--patch", "some"]) == 1
    assert "patch 'some': needed off, auto, or a number" in capsys.readouterr().err
    assert main(["memory", str(path)]) == 0
