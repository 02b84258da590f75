"""The schema parser, the reader and the writer against the FlatBuffers compiler."""
from __future__ import annotations

import json
import shutil
import subprocess

import flatbuffers
import numpy as np
import pytest

from edgerun import flat, loader
from edgerun._paths import folder
from edgerun.ops import OPS
from edgerun.tools import blob, plan as planner
from edgerun.tools.graph import Graph


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    graph = Graph("net", "net.onnx")
    x = graph.input("x", (1, 4, 6), "fp32")
    y = graph.add("binary", [x, graph.constant(np.float32([[1.5], [2], [3], [-4]]), "c")], "scaled",
                  kind="mul", activation="clip", alpha=-1.5, beta=2.5)
    graph.output("y", y)
    graph.outputs[0].perm, graph.outputs[0].shape = (0, 2, 1), (1, 6, 4)
    path = tmp_path_factory.mktemp("schema") / "net.edge"
    blob.write(path, blob.encode(graph, planner.plan(graph, {}), {}, "fp32"))
    return path


@pytest.fixture(scope="module")
def flatc():
    path = shutil.which("flatc")
    if path is None:
        pytest.fail("flatc is needed to check the format: apt install flatbuffers-compiler")
    return path


def test_flatc_reads_what_we_write(file, flatc, tmp_path):
    subprocess.run([flatc, "--json", "--strict-json", "--defaults-json", "-o", tmp_path,
                    folder("schema") / "edgerun.fbs", "--", file], check=True, capture_output=True)
    written = json.loads((tmp_path / "net.json").read_text())
    op = written["graph"]["ops"][0]
    assert (op["code"], op["name"], op["options_type"]) == ("binary", "scaled", "BinaryOptions")
    assert op["options"] == {"kind": "mul", "activation": "clip", "alpha": -1.5, "beta": 2.5}
    assert written["graph"]["outputs"][0]["perm"] == [0, 2, 1]
    assert written["segments"][0]["dtype"] == "fp32"
    read = flat.Reader(loader.map_file(file), "net").root("Model", b"EDGR")
    assert written["graph_crc32"] == read["graph_crc32"]
    assert bytes(written["segments"][0]["data"]) == read["segments"][0]["data"].tobytes()


def test_we_read_what_flatc_writes(file, flatc, tmp_path):
    """A file that flatc builds from JSON holds the same tables for our reader."""
    ours = flat.Reader(loader.map_file(file), "net").root("Model")
    graph = flat.Reader(ours["graph"], "net").root("Graph")
    text = (folder("schema") / "edgerun.fbs").read_text()
    (tmp_path / "graph.fbs").write_text(text.replace("root_type Model", "root_type Graph"))
    (tmp_path / "graph.bin").write_bytes(ours["graph"].tobytes())
    command = [flatc, "-o", tmp_path, tmp_path / "graph.fbs", "--"]
    subprocess.run([flatc, "--json", "--strict-json", "--raw-binary", *command[1:],
                    tmp_path / "graph.bin"], check=True, capture_output=True)
    (tmp_path / "graph.bin").unlink()
    subprocess.run([flatc, "--binary", *command[1:-1], tmp_path / "graph.json"], check=True,
                   capture_output=True)
    made = next(path for path in tmp_path.iterdir() if path.suffix == ".edge")
    again = flat.Reader(np.frombuffer(made.read_bytes(), np.uint8), "net").root("Graph")
    np.testing.assert_equal(again, graph)


def test_equal_vectors_are_not_shared_too_often():
    """Or the reader, who bounds what a small file may stand for, would refuse what was packed."""
    grid = {"scale": np.ones(256, np.float32), "zero_point": np.zeros(256, np.int32)}
    builder = flatbuffers.Builder(1024)
    builder.Finish(blob.encode_table(builder, "Graph", {
        "tensors": [{"name": f"t{n}", "quantization": grid} for n in range(50)]}))
    data = np.frombuffer(builder.Output(), np.uint8)
    assert len(flat.Reader(data, "here").root("Graph")["tensors"]) == 50
    assert len(data) < 50 * 2048 / 2  # some are shared


def test_every_options_table_is_used():
    """A table of options in the schema belongs to an op, and the other way round."""
    assert {definition.options for definition in OPS.values()} - {None} == \
        set(flat.schema().unions["OpOptions"])


def test_schema_line_that_cannot_be_read():
    with pytest.raises(ValueError, match="cannot read 'x int' in table T"):
        flat.parse('table T { x int; } file_identifier "EDGR"; root_type T;')


def test_writing_into_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """A failed write raises one sentence, keeps the old file and leaves no temporary file."""
    target = tmp_path / "model.edge"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    from edgerun import EdgerunError
    with pytest.raises(EdgerunError,
                       match="model.edge: cannot be written .No space left on device"):
        blob.write(target, b"new")
    assert target.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["model.edge"]


def test_writing_into_a_missing_folder(tmp_path):
    from edgerun import EdgerunError
    with pytest.raises(EdgerunError, match="No such file or directory"):
        blob.write(tmp_path / "nowhere" / "model.edge", b"new")
