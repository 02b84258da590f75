"""The networks that speed is measured on: shapes as published, outputs that runtimes agree on."""
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgerun import loader
from edgerun.errors import InputError
from edgerun.ops import OPS
from edgerun.session import Session
from edgerun.tools import networks
from edgerun.tools.networks.__main__ import main
from edgerun.tools.networks.layers import Conv, Dense, Residual, to_onnx
from edgerun.tools.networks.qdq import quantized
from edgerun.tools.networks.shapes import NETWORKS

# Multiply-accumulates and parameters (in millions) as published or as torchvision counts them,
# without the parameters of batch normalization, which is folded into a bias.
PUBLISHED = {"resnet18": (1814, 11.69), "resnet50": (4089, 25.53), "mobilenetv1": (569, 4.22),
             "mobilenetv2": (301, 3.49), "squeezenet": (349, 1.24), "alexnet": (714, 61.10),
             "vgg16": (15470, 138.36)}
SMALL = {"alexnet": 67, "vgg16": 32, "squeezenet": 67}  # sizes; 64 for the others


def size_of(name: str) -> int:
    return SMALL.get(name, 64)


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0]


def parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.name[0] in "wb")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_counts_are_the_published_ones(name):
    macs, params = PUBLISHED[name]
    assert round(NETWORKS[name].macs / 1e6) == macs
    assert parameters(networks.build(name)) / 1e6 == pytest.approx(params, abs=0.02)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "squeezenet", "mlp", "attention"])
def test_multiply_accumulates_of_the_packed_file(name, tmp_path):
    networks.write(name, tmp_path / "n.edge")
    model = loader.read(tmp_path / "n.edge")
    assert sum(OPS[op.code].macs(op) for op in model.ops) == NETWORKS[name].macs


@pytest.mark.parametrize("name", sorted(set(networks.NAMES) - {"alexnet", "vgg16"}))
def test_runs_as_in_onnx_runtime(name, tmp_path, device):
    size = size_of(name)
    x = networks.samples(name, 1, size, seed=3)["image"][0]
    wanted = expected(networks.build(name, size), x)
    networks.write(name, tmp_path / "n.edge", size=size)
    with Session(loader.read(tmp_path / "n.edge"), device) as session:
        found = session.run({"image": x})["scores"]
    assert found.shape == wanted.shape and wanted.std() > 0
    assert np.abs(found - wanted).max() <= 1e-3 * np.ptp(wanted)


@pytest.mark.parametrize("name", networks.NAMES)
def test_activations_keep_their_size(name):
    """No layer may overflow fp16, nor die out: every activation counts in a measurement."""
    model = networks.build(name, 67 if name in SMALL else 64)
    wanted = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in wanted)
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    x = networks.samples(name, 1, 67 if name in SMALL else 64)["image"][0]
    for output, values in zip(wanted, session.run(wanted, {"image": x})):
        assert 0.05 < values.std() < 50 and np.abs(values).max() < 1000, output


def test_seeded():
    first, same, other = (networks.build("mlp", seed=s).SerializeToString() for s in (0, 0, 1))
    assert first == same != other


def test_quantized_for_other_runtimes(tmp_path):
    size = 64
    float_model = networks.build("resnet18", size)
    model = quantized(float_model, networks.samples("resnet18", 2, size))
    types = {t.data_type for t in model.graph.initializer if t.name.endswith("_quantized")}
    assert types == {onnx.TensorProto.INT8, onnx.TensorProto.INT32}
    scales = [t.dims for t in model.graph.initializer
              if t.name.startswith("w_") and t.name.endswith("_scale")]
    assert [64] in [list(dims) for dims in scales]  # one per channel
    x = networks.samples("resnet18", 1, size, seed=3)["image"][0]
    wanted, found = expected(float_model, x), expected(model, x)
    assert 0 < np.sqrt(np.mean((found - wanted) ** 2)) < 0.1 * wanted.std()


@pytest.mark.parametrize("precision", networks.PRECISIONS)
def test_packs_in_every_precision(precision, tmp_path, device):
    networks.write("mlp", tmp_path / "n.edge", precision, device=device.info.index)
    x = networks.samples("mlp", 1, seed=3)["image"][0]
    wanted = expected(networks.build("mlp"), x)
    with Session(loader.read(tmp_path / "n.edge"), device) as session:
        assert session.model.precision == precision
        found = session.run({"image": x})["scores"]
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.05 * wanted.std()


@pytest.mark.parametrize("name", ["file", "allow_pickle"])
def test_an_input_may_have_the_name_of_an_argument_of_numpy(name, tmp_path, device):
    model = networks.build("mlp")
    for node in model.graph.node:
        node.input[:] = [name if given == "image" else given for given in node.input]
    model.graph.input[0].name = name
    onnx.save(model, tmp_path / "n.onnx")
    given = {name: networks.samples("mlp", 4)["image"]}
    networks.pack_as(tmp_path / "n.onnx", tmp_path / "n.edge", "int8", given, device.info.index)
    assert [info.name for info in loader.read(tmp_path / "n.edge").inputs] == [name]


def test_command_line(tmp_path, capsys):
    assert main(["squeezenet", "-o", str(tmp_path / "n.onnx"), "--size", "67"]) == 0
    onnx.checker.check_model(onnx.load(tmp_path / "n.onnx"), full_check=True)
    assert main(["squeezenet", "-o", str(tmp_path / "n.txt")]) == 1
    assert "needed a name that ends in .onnx or .edge" in capsys.readouterr().err
    assert main(["lenet", "-o", str(tmp_path / "n.onnx")]) == 1
    assert "'lenet' is not known, needed one of resnet18" in capsys.readouterr().err
    assert main(["mlp", "-o", str(tmp_path / "n.onnx"), "--precision", "int16"]) == 1
    assert "'int16', needed one of fp32, int8" in capsys.readouterr().err


def test_an_image_can_be_too_small():
    with pytest.raises(InputError, match="'alexnet' of size 16: .* too small for a window of 3"):
        networks.build("alexnet", 16)


def test_layers_check_what_they_get():
    with pytest.raises(ValueError, match="a residual branch of shape"):
        to_onnx("n", [Residual([Conv(4)])], (1, 3, 8, 8), 0)
    with pytest.raises(ValueError, match="activation 'tanh', needed one of"):
        to_onnx("n", [Dense(4, "tanh")], (1, 3), 0)
