"""What quantization saves of weights, constants, arena and scratch, by `edgerun memory`."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack
from edgerun.tools.recipes import caffenet, celsius

ROOT = Path(__file__).resolve().parents[1]


def total_bytes(file: Path) -> int:
    """Return weights + constants + arena (its scratch included) from `edgerun memory --json`."""
    found = subprocess.run([sys.executable, "-m", "edgerun", "memory", str(file), "--json"],
                           cwd=ROOT, capture_output=True, text=True, check=True)
    planned = json.loads(found.stdout)["planned"]
    return (sum(planned["weights"].values()) + sum(planned["constants"].values())
            + planned["arena_bytes"])


def lenet(path: Path) -> None:
    """Write LeNet in Caffe's form with random weights: image [1, 1, 28, 28] -> logits [1, 10]."""
    rng, constants, nodes, x = np.random.default_rng(0), [], [], "image"

    def add(op: str, name: str, *shape: int, **attributes) -> None:
        nonlocal x
        inputs = [x]
        if shape:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            for key, value in (("w", rng.normal(0, scale, shape)), ("b", np.zeros(shape[0]))):
                constants.append(numpy_helper.from_array(value.astype(np.float32), name + key))
                inputs.append(name + key)
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        x = name

    add("Conv", "conv1", 20, 1, 5, 5)
    add("MaxPool", "pool1", kernel_shape=[2, 2], strides=[2, 2])
    add("Conv", "conv2", 50, 20, 5, 5)
    add("MaxPool", "pool2", kernel_shape=[2, 2], strides=[2, 2])
    add("Flatten", "flat")
    add("Gemm", "ip1", 500, 800, transB=1)
    add("Relu", "relu1")
    add("Gemm", "ip2", 10, 500, transB=1)
    graph = helper.make_graph(
        nodes, "lenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("ip2", TensorProto.FLOAT, [1, 10])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)


@pytest.fixture(scope="module")
def packed_lenet(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lenet")
    lenet(folder / "lenet.onnx")
    images = np.random.default_rng(1).uniform(0, 1, (40, 1, 1, 28, 28)).astype(np.float32)
    np.savez(folder / "samples.npz", image=images)
    files = {precision: folder / f"{precision}.edge" for precision in ("fp32", "int16", "int8")}
    pack(folder / "lenet.onnx", files["fp32"], "fp32", calibration=folder / "samples.npz")
    for precision in ("int16", "int8"):
        pack(folder / "lenet.onnx", files[precision], precision, calibration=files["fp32"])
    return files


def test_lenet(packed_lenet):
    total = {precision: total_bytes(file) for precision, file in packed_lenet.items()}
    assert total["fp32"] / total["int8"] >= 3.8, total
    assert total["fp32"] / total["int16"] >= 1.95, total


def test_bytes_on_the_device_are_bytes_in_the_file(device, packed_lenet):
    """int8 weights stay int8, and nothing real is kept where integers are computed with."""
    model = loader.read(packed_lenet["int8"])
    with Session(model, device) as session:
        allocated = session.memory().as_dict()["allocated"]
        segments = {s.dtype: len(s.data) for s in model.segments}
        weights = {op.inputs[1].name: op.inputs[1] for op in model.ops
                   if op.code in ("conv2d", "dense")}
        assert {w.dtype for w in weights.values()} == {"int8"}
        stored = sum(w.bytes for w in weights.values())
        assert stored <= segments["int8"] <= stored + 4096
        # how the launches reach the device is no memory of the model; see edgerun/routes.py
        own = allocated["total_bytes"] - allocated["categories"].get("chain", 0)
        assert own == sum(segments.values()) + model.plan.arena_bytes
    real = {t.name for op in model.ops for t in op.outputs if t.dtype == "fp32"}
    assert real == {model.tensors[model.outputs[0].tensor].name}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("batch, least", [(1, 3.9), (16, 3.4)])
def test_alexnet(tmp_path, batch, least):
    model = tmp_path / "alexnet.onnx"
    caffenet.write(model, batch, "alexnet")
    np.savez(tmp_path / "samples.npz", data=caffenet.images(batch, 1))
    pack(model, tmp_path / "fp32.edge", "fp32", calibration=tmp_path / "samples.npz")
    pack(model, tmp_path / "int8.edge", "int8", calibration=tmp_path / "fp32.edge")
    total = [total_bytes(tmp_path / f"{precision}.edge") for precision in ("fp32", "int8")]
    assert total[0] / total[1] >= least, total


def test_alexnet_has_the_layers_of_the_original(shared_data, tmp_path):
    text = (shared_data / "models" / "caffe_prototxt_only"
            / "bvlc_alexnet_deploy.prototxt").read_text()
    caffenet.write(tmp_path / "a.onnx", 1, "alexnet")
    shapes = {t.name: tuple(t.dims) for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    found = []
    for layer in re.split(r"^layer \{", text, flags=re.M)[1:]:
        name = re.search(r'name: "(\w+)"', layer)[1]
        count = re.search(r"num_output: (\d+)", layer)
        if count:
            found.append(name)
            assert shapes[f"{name}_w"][0] == int(count[1])
            kernel = re.search(r"kernel_size: (\d+)", layer)
            if kernel:
                assert shapes[f"{name}_w"][2:] == (int(kernel[1]),) * 2
                want = [re.search(rf"{key}: (\d+)", layer) for key in ("stride", "pad", "group")]
                given = next(c for c in caffenet.CONVOLUTIONS if c[0] == name)[3:6]
                assert [int(w[1]) if w else d for w, d in zip(want, (1, 0, 1))] == list(given)
    assert found == [c[0] for c in caffenet.CONVOLUTIONS] + [d[0] for d in caffenet.DENSE]


def test_celsius(device, tmp_path):
    """One neuron over -273 to 999 degrees: what each precision gets wrong, in Fahrenheit."""
    rows = {row.precision: row.metrics for row in celsius.run(tmp_path, device)}
    worst = {precision: metrics["largest error F"] for precision, metrics in rows.items()}
    assert worst["fp32"] <= 1e-3 and worst["fp16"] <= 1.0 and worst["int16"] <= 0.05, worst
    assert worst["int8"] <= 9.0 and rows["int8"]["mean error F"] <= 4.5, rows["int8"]
