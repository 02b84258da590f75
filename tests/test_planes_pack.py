"""Weights in planes from the source model to the device: every prefix against NumPy, to the bit."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgerun import __main__, loader
from edgerun.errors import InputError, ModelError
from edgerun.ops import OPS
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.tools import calibrate, lower, quantize, reference
from edgerun.tools.graph import Graph, copy_of
from edgerun.tools.importers.onnx import import_proto
from edgerun.tools.pack import Stages, import_model, pack
from edgerun.tools.planes import SIGNS, Planes, curve, packing
from edgerun.tools.planes.onnx import bit_planes
from tests.tools import planes_networks

DEMO = Path(__file__).resolve().parents[1] / "tools" / "demo_data"
MODES = {"low": 2, "high": 4}


def _built(model: onnx.ModelProto, modes: dict[str, int] | None = None):
    """Return the lowered graph of a model, and the model file as the loader reads it."""
    stages = Stages(import_proto(model))
    stages.optimize(integers=True)
    lower.apply(stages.graph)
    packing.finish(stages.graph, modes or {})
    twin = copy_of(stages.graph)
    data, _ = stages.encode("fp32", "source", integers=True)
    return twin, loader.from_bytes(np.frombuffer(data, np.uint8), "model.edge")


def _with(graph: Graph, planes: int) -> Graph:
    """Return a graph in which so many planes count."""
    graph = copy_of(graph)
    graph.modes = {"all": {used: min(planes, most) for used, most in graph.planes().items()}}
    return graph


@pytest.mark.parametrize("signs, bits, k", [("twos", 4, 8), ("twos", 8, 2), ("magnitude", 5, 8),
                                            ("pairs", 3, 4)])
def test_every_prefix_equals_numpy(device, signs, bits, k):
    """Activations of 8 and fewer bits, a normalization with negative factors, a bias per prefix, a
    real result; codes and their formula are tested beside the importer."""
    graph, model = _built(planes_networks.layers(bits, signs, k))
    assert [op.code for op in graph.ops if op.code != "reshape"] == [
        "planes_conv2d", "pool2d", "planes_conv2d", "planes_dense"]
    with Session(model, device) as session:
        for planes in range(bits + 1):
            session.set_precision(planes)
            wanted = _with(graph, planes)
            for seed in range(2):
                x = planes_networks.image(seed)
                found = session.run({"image": x})["out"]
                assert np.array_equal(found, reference.execute(wanted, {"image": x})["out"])


def test_a_prefix_means_what_its_rows_say():
    """The first planes of the graph compute what weights of that prefix compute in real numbers."""
    bits, x = 4, planes_networks.image()
    model = planes_networks.layers(bits, "twos")
    graph, _ = _built(model)
    for planes in (1, 2, 3):
        cut = onnx.ModelProto()
        cut.CopyFrom(model)
        held = {t.name: t for t in cut.graph.initializer}
        for node in cut.graph.node:
            if node.op_type == "BitPlanes":
                arrays = [numpy_helper.to_array(held[name]) for name in node.input]
                arrays = [arrays[0] >> bits - planes, *(a[:planes + 1] for a in arrays[1:])]
                for name, array in zip(node.input, arrays):
                    held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
                next(a for a in node.attribute if a.name == "bits").i = planes
        wanted = reference.execute(import_proto(cut), {"image": x})["out"]
        found = reference.execute(_with(graph, planes), {"image": x})["out"]
        assert np.allclose(found, wanted, atol=0.02)  # a step of an activation may differ
        assert not np.allclose(reference.execute(graph, {"image": x})["out"], wanted, atol=0.02)


def test_modes_keep_the_rows_they_need(device):
    """Modes give the same integers as the number of planes, from fewer bytes."""
    model = planes_networks.layers(4)
    graph, whole = _built(model)
    _, named = _built(model, MODES)
    assert [op.inputs[1].shape[0] for op in whole.ops if "planes" in op.code] == [5, 5, 5]
    assert [op.inputs[1].shape[0] for op in named.ops if "planes" in op.code] == [
        2, 2, 2]
    x = planes_networks.image()
    assert [op.options["counts"] for op in named.ops if "planes" in op.code] == [(2, 4)] * 3
    with Session(named, device) as session:
        assert session.modes == ("low", "high") and session.precision == "high"
        for name, planes in MODES.items():
            session.set_precision(name)
            assert np.array_equal(session.run({"image": x})["out"], reference.execute(
                _with(graph, planes), {"image": x})["out"])
        for planes in (1, 3):
            with pytest.raises(InputError, match=f"{planes} bits"):
                session.set_precision(planes)


@pytest.mark.parametrize("signs", SIGNS)
def test_layers_of_few_and_of_no_planes(device, signs):
    """A mode uses what a layer has; without planes its result is its bias."""
    for middle in (0, 2):
        graph, model = _built(planes_networks.layers(4, signs, middle=middle), {"a": 3, "b": 4})
        x = planes_networks.image()
        with Session(model, device) as session:
            for mode, planes in (("a", 3), ("b", 4)):
                session.set_precision(mode)
                assert session.planes == {"y1": planes, "y2": middle, "y3": planes}
                found = session.run({"image": x})["out"]
                assert np.array_equal(found, reference.execute(graph, {"image": x}, mode)["out"])
    wanted = reference.execute(import_proto(planes_networks.layers(4, signs, middle=2)),
                               {"image": x})["out"]
    assert np.allclose(found, wanted, atol=0.02)


def test_powers_of_two_take_five_planes(device):
    """A table of 0 and of 2^0 to 2^7 with a sign is stored as signs and exponents."""
    rng = np.random.default_rng(0)
    table = [*(-2**n for n in range(7, -1, -1)), 0, *(2**n for n in range(8))]
    net = planes_networks.Network()
    y = net.stored("image", 1 / 255)
    node, held = bit_planes("d", rng.integers(0, 17, (70, 20)), 5, rng.uniform(0.01, 0.1, 20),
                            axis=1, table=table)
    net.nodes.append(node)
    net.initializers += held
    net.node("MatMul", [y, "d.w"], "out")
    source = net.model("out", (3, 20), (3, 70))
    graph, model = _built(source, {"high": 5})
    op, = model.ops
    assert op.code == "planes_dense" and op.options["signs"] == "powers" and len(op.inputs) == 8
    x = planes_networks.image(0, (3, 70))
    wanted = reference.execute(import_proto(source), {"image": x})["out"]
    with Session(model, device) as session:
        found = session.run({"image": x})["out"]
    assert np.array_equal(found, reference.execute(graph, {"image": x})["out"])
    assert np.allclose(found, wanted, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
def test_binary_layers_count_equal_bits(device, plain):
    """Layers of signs are xnor ops, whether their weights are planes or +a and -a in fp32."""
    stages = Stages(import_proto(planes_networks.binary(plain)))
    before = copy_of(stages.graph)
    stages.optimize()
    codes = [op.code for op in stages.graph.ops]
    assert codes.count("binarize") == 2 and "xnor_conv2d" in codes and "xnor_dense" in codes
    assert "where" not in codes
    twin = copy_of(stages.graph)
    data, _ = stages.encode("fp32", "source")
    model = loader.from_bytes(np.frombuffer(data, np.uint8), "model.edge")
    with Session(model, device) as session:
        for seed in range(3):
            x = planes_networks.image(seed)
            wanted = reference.execute(before, {"image": x})["out"]
            assert np.allclose(reference.execute(twin, {"image": x})["out"], wanted, atol=1e-4)
            assert np.allclose(session.run({"image": x})["out"], wanted, atol=1e-4)


def _samples(path: Path, count: int = 100) -> Path:
    np.savez(path, image=np.stack([planes_networks.image(seed) for seed in range(count)]))
    return path


def test_float_activations_are_calibrated(tmp_path, device):
    """A network whose weights alone are planes gets integer activations by --precision."""
    model = planes_networks.layers(4, quantized=False)
    onnx.save(model, tmp_path / "m.onnx")
    x = planes_networks.image(99)
    wanted = reference.execute(import_proto(model), {"image": x})["out"]
    for precision, error in (("int8", 0.05), ("int16", 0.001)):
        report = pack(tmp_path / "m.onnx", tmp_path / "m.edge", precision, device=device,
                      calibration=_samples(tmp_path / "s.npz"), modes=MODES)
        assert not report.notes
        packed = loader.read(report.path)
        assert [op.code for op in packed.ops].count("planes_conv2d") == 2
        with Session(packed, device) as session:
            found = session.run({"image": x})["out"]
        assert np.linalg.norm(found - wanted) < error * np.linalg.norm(wanted)
    report = pack(tmp_path / "m.onnx", tmp_path / "m.edge")
    assert ["keep weights that are planes as real numbers" in note for note in report.notes] == [
        True]
    packed = loader.read(report.path)
    with Session(packed, device) as session:
        assert np.allclose(session.run({"image": x})["out"], wanted, atol=1e-4)


def _dense(outputs: int, inputs: int, step: float = 1 / 255, **options) -> Graph:
    """Return the lowered graph of a dense layer with planes over integers."""
    net = planes_networks.Network()
    node, held = bit_planes("d", np.zeros((outputs, inputs), np.int16), bias=np.zeros(outputs),
                            scale=options.pop("scale", 0.1), **options)
    net.nodes.append(node)
    net.initializers += held
    net.node("Gemm", [net.stored("image", step), "d.w", "d.b"], "out", transB=1)
    graph = import_proto(net.model("out", (1, outputs), (1, inputs)))
    lower.apply(graph)
    return graph


@pytest.mark.parametrize("inputs, options, why", [
    (65_600, {"bits": 8}, "a sum of 65600 products with 8 planes may not fit into 32 bits"),
    (4, {"bits": 3, "table": [-300, -30, 0, 5, 77]}, "the values of their table take 10 planes"),
    (4, {"bits": 2, "scale": 1e37, "step": 1e4}, "their scales or biases are beyond fp32")])
def test_the_note_tells_why_planes_become_real_numbers(inputs, options, why):
    assert not _dense(2, 4, bits=2).notes
    graph = _dense(2, inputs, **options)
    assert [op.code for op in graph.ops].count("planes_dense") == 0
    note, = (note for note in graph.notes if "planes" in note)
    assert "1 layers keep weights that are planes as real numbers, since " + why in note


def test_other_errors_of_layers_with_planes_rise(monkeypatch):
    def infer(op):
        raise ModelError("a rule made an op that cannot be")
    monkeypatch.setitem(OPS, "planes_dense", replace(OPS["planes_dense"], infer=infer))
    with pytest.raises(ModelError, match="a rule made"):
        _dense(2, 4, bits=2)


def test_channels_on_another_axis_are_no_planes():
    """As many inputs as outputs, scales along the inputs: each would scale the wrong channel."""
    graph = Graph()
    given = Planes.of("twos", np.ones((3, 4)), np.zeros((3, 4)), axis=1)
    w = graph.constant(np.ones((4, 4), np.int8), "w", quantization=given)
    x = graph.input("x", (1, 4), "fp32")
    y = graph.add("quantize", [x], "q", dtype="uint8")
    y.quantization = Quantization.per_tensor(0.1, 0)
    y = graph.add("dequantize", [y], "r", dtype="fp32")
    graph.output("y", graph.add("dense", [y, graph.add("dequantize", [w], dtype="fp32")], "d"))
    lower.apply(graph)
    assert "planes_dense" not in [op.code for op in graph.ops]
    assert any("since their output channels are not on the first axis: d." in note
               for note in graph.notes)


def test_file_is_the_sum_of_its_planes(tmp_path):
    """One dense layer of 100 KB and of 1 MB in planes, one mode."""
    rng = np.random.default_rng(0)
    for inputs, outputs, bits in ((1024, 400, 2), (1024, 2048, 4)):
        nodes, held = bit_planes("d", rng.integers(-2**bits // 2, 2**bits // 2, (
            outputs, inputs)), bits, 0.1)
        net = planes_networks.Network()
        net.nodes.append(nodes)
        net.initializers += held
        shape = (1, inputs)
        net.nodes.insert(0, helper.make_node("Identity", ["image"], ["i"]))
        y = net.stored("i", 1 / 255)
        net.node("Gemm", [y, "d.w"], "out", transB=1)
        onnx.save(net.model("out", (1, outputs), shape), tmp_path / "m.onnx")
        report = pack(tmp_path / "m.onnx", tmp_path / "m.edge", modes={"high": bits})
        planes = inputs * outputs * bits // 8
        model = loader.read(report.path)
        segment, = (s for s in model.segments if s.dtype == "bits")
        assert planes <= len(segment.data) < 1.02 * planes
        others = sum(len(s.data) for s in model.segments) - len(segment.data)
        assert others < 2 * 4 * outputs + 1024  # a scale, a bias
        if planes >= 2**20:
            assert report.file_bytes < 1.025 * planes


# --- float models -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The network and images of the demo: samples.npz and labelled.npz."""
    folder = tmp_path_factory.mktemp("demo")
    with np.load(DEMO / "fashion_mnist_images.npz") as data:
        images = (data["images"].astype(np.float32) / 255)[:, None, None]
        np.savez(folder / "samples.npz", image=images[::4])
        np.savez(folder / "labelled.npz", image=images, labels=data["labels"].astype(np.int64))
    return folder


@pytest.mark.parametrize("signs", SIGNS)
def test_accuracy_grows_with_the_planes(demo, device, signs):
    """One file of 8 planes per weight: no re-pack, no loss at 8, hardly one at 4."""
    report = pack(DEMO / "fashion_mnist.onnx", demo / f"{signs}.edge", "int8", device=device,
                  calibration=demo / "samples.npz", bits=8, signs=signs)
    assert "4 layers have integer weights without planes" in report.notes[-1]
    with Session(loader.read(report.path), device) as session:
        samples, labels = curve.read(demo / "labelled.npz", session)
        points = curve.measure(session, samples[::2], labels[::2])
        assert session.precision == "high"
    assert [p.planes for p in points] == list(range(1, 9))
    accuracy = [p.accuracy for p in points]
    assert all(b > a - 0.011 for a, b in zip(accuracy, accuracy[1:]))  # 2 of 200 images
    assert accuracy[3] > accuracy[7] - 0.02 and accuracy[7] > 0.91 and accuracy[0] < 0.5
    errors = [p.error for p in points]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0
    read = np.diff([p.constant_bytes for p in points])
    assert len(set(read)) == 1  # a plane more, the same bytes more
    assert points[-1].modes == ("high",)


def test_packed_planes_equal_numpy(demo, device):
    """The whole demo network at 4 planes of 8, against the graph's reference, bit for bit."""
    graph = import_model(DEMO / "fashion_mnist.onnx")
    stages = Stages(graph)
    stages.optimize(integers=True)
    ranges = calibrate.from_path(graph, demo / "samples.npz", None, None, 20, device)
    dtypes = quantize.assign(graph, "int8")
    quantize.insert(graph, dtypes, ranges.range, planes_of=packing.weights_of(8, "twos", MODES))
    lower.apply(graph)
    twin = _with(graph, 4)
    data, _ = stages.encode("fp32", "int8", integers=True)
    with Session(loader.from_bytes(np.frombuffer(data, np.uint8), "m"), device) as session:
        session.set_precision(4)
        with np.load(demo / "labelled.npz") as labelled:
            for x in labelled["image"][:3]:
                found = session.run({"image": x})["probabilities"]
                wanted = reference.execute(twin, {"image": x})["probabilities"]
                assert np.allclose(found, wanted, atol=1e-6)
                assert np.array_equal(found.argmax(), wanted.argmax())


def test_groups_strides_and_depthwise_layers(device):
    """Groups get planes, a depthwise layer stays 8-bit integers; all of it to the bit."""
    rng, graph = np.random.default_rng(0), Graph()
    x = graph.input("x", (2, 9, 11, 12), "fp32")

    def weights(*shape: int):
        return graph.constant(rng.normal(size=shape).astype(np.float32), "w")

    y = graph.add("conv2d", [x, weights(14, 3, 3, 6)], "grouped", groups=2, stride_h=2, pad_top=1,
                  pad_left=2, dilation_w=2)
    y = graph.add("depthwise_conv2d", [y, weights(3, 3, 14)], "depthwise", pad_top=1, pad_bottom=1)
    graph.output("y", graph.add("conv2d", [y, weights(5, 1, 1, 14)], "pointwise"))
    dtypes = quantize.assign(graph, "int8")
    quantize.insert(graph, dtypes, lambda name, bits: (-9.0, 8.0),
                    planes_of=packing.weights_of(6, "magnitude", {}))
    lower.apply(graph)
    assert [op.code for op in graph.ops] == ["planes_conv2d", "depthwise_conv2d", "planes_conv2d"]
    assert packing.left_out(graph)[0].endswith("fit into 32 bits: depthwise.")
    twin = _with(graph, 4)
    data, _ = Stages(graph).encode("fp32", "int8", integers=True)
    with Session(loader.from_bytes(np.frombuffer(data, np.uint8), "m"), device) as session:
        session.set_precision(4)
        given = rng.normal(size=(2, 9, 11, 12)).astype(np.float32)
        assert np.array_equal(session.run({"x": given})["y"],
                              reference.execute(twin, {"x": given})["y"])


def test_layers_of_too_many_products_get_no_planes():
    graph = Graph()
    for size, signs, planes in ((33_000, "pairs", True), (34_000, "pairs", False),
                                (65_000, "twos", True), (65_600, "twos", False)):
        w = graph.constant(np.ones((1, size), np.float32), "w")
        x = graph.input("x", (1, size), "fp32")
        graph.add("dense", [x, w], "d")
        assert (packing.weights_of(8, signs, {"high": 8})(graph.ops[-1]) is not None) == planes


def test_biases_of_prefixes_make_up_for_rounding():
    """With means of the inputs, the mean of a layer's result is exact with any number of planes."""
    rng = np.random.default_rng(0)
    graph, mean = Graph(), rng.random(30).astype(np.float32)
    x = graph.input("x", (1, 30), "fp32")
    w, bias = rng.normal(size=(4, 30)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    y = graph.add("dense", [x, graph.constant(w, "w"), graph.constant(bias, "b")], "y")
    graph.output("y", y)
    quantize.insert(graph, {graph.ops[0]: "int8"}, lambda name, bits: (-4.0, 4.0),
                    means={"x": mean}, planes_of=packing.weights_of(5, "twos", {}))
    dense, = (op for op in graph.ops if op.code == "dense")
    stored, = (op.inputs[0] for op in graph.ops if op.outputs[0] is dense.inputs[1])
    given = stored.quantization
    assert given.bits == 5 and np.abs(given.shifts[1]).max() > 0.01
    for planes in range(6):
        found = given.reals(stored.data, planes) @ mean + given.shifts[planes]
        assert np.allclose(found + dense.inputs[2].data, w @ mean + bias, atol=1e-5)
    lower.apply(graph)
    levels = next(op for op in graph.ops if op.code == "planes_dense").inputs[1].data
    assert np.allclose(levels[:, 2], dense.inputs[2].data + given.shifts, atol=1e-6)


def test_command_line(demo, capsys):
    out = demo / "cli.edge"
    assert __main__.main(["pack", str(DEMO / "fashion_mnist.onnx"), "-o", str(out), "--precision",
                          "int8", "--bits", "4", "--modes", "low=2,high=4", "--calibration",
                          str(demo / "samples.npz"), "--samples", "10"]) == 0
    capsys.readouterr()
    few = demo / "few.npz"
    with np.load(demo / "labelled.npz") as data:
        np.savez(few, image=data["image"][:4], labels=data["labels"][:4])
    assert __main__.main(["planes", str(out), "--data", str(few)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["planes", "mode", "constants", "accuracy", "as", "all", "planes",
                                "error"]
    assert [line.split()[:2] for line in shown[1:]] == [["2", "low"], ["4", "high"]]
    assert __main__.main(["planes", str(out), "--data", str(few), "--json", "--against",
                          str(DEMO / "fashion_mnist.onnx")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["planes"] for p in found] == [2, 4] and all(p["error"] > 0 for p in found)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the plot, needed pip install edgerun[compare]")
    points = [curve.Point(n, (), 1000 * n, 0.1 * n, 0.1 * n, 1 / n) for n in (1, 2, 3)]
    for name in ("a.svg", "b.png"):
        curve.plot(points, tmp_path / name, "model")
        assert (tmp_path / name).stat().st_size > 1000
    assert "planes that count" in (tmp_path / "a.svg").read_text()
    with pytest.raises(InputError, match="ends with .svg or .png"):
        curve.plot(points, tmp_path / "c.pdf", "model")


REFUSED = [
    ({"bits": 4}, "needed --precision int8 or int16 for the activations, and --calibration"),
    ({"bits": 4, "precision": "fp16"}, "not numbers of precision fp16"),
    ({"bits": 9, "precision": "int8"}, "--bits 9 is not available with the signs twos, needed 1 to"
                                       " 8"),
    ({"bits": 1, "signs": "magnitude", "precision": "int8"}, "needed 2 to 9"),
    ({"bits": 4, "signs": "gray", "precision": "int8"}, "signs 'gray' are not available"),
    ({"signs": "twos"}, "needed --bits too"),
    ({"bits": 4, "precision": "int8", "modes": {"low": 2, "high": 5}},
     "mode 'high' uses 5 planes, but --bits 4 stores 4"),
    ({"bits": 4, "precision": "int8", "modes": {"low": 0}}, "uses 0 planes"),
    ({"bits": 4, "precision": "int8", "modes": {"4": 4}}, "a name that is no number"),
    ({"bits": 4, "precision": "int8", "modes": {"": 4}}, "a name that is no number"),
    ({"bits": 4, "precision": "int8", "modes": {"mixed": 4}}, "mode 'mixed': needed another name"),
    ({"modes": {"high": 4}, "precision": "fp32"}, "the model has none"),
    ({"modes": {"high": 4}, "precision": "mixed"}, "which --precision mixed does not make"),
]


@pytest.mark.parametrize("given, message", REFUSED)
def test_refused(demo, tmp_path, given, message):
    calibration = demo / "samples.npz" if given.get("precision") in ("int8", "mixed") else None
    with pytest.raises(InputError) as error:
        pack(DEMO / "fashion_mnist.onnx", tmp_path / "m.edge", calibration=calibration, **given)
    assert message in str(error.value)
    assert not (tmp_path / "m.edge").exists()


def test_modes_larger_than_stored_planes_are_refused(tmp_path):
    onnx.save(planes_networks.layers(4), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="mode 'high' uses 8 planes, but the weights have 4"):
        pack(tmp_path / "m.onnx", tmp_path / "m.edge", modes={"high": 8})


@pytest.mark.parametrize("model", [planes_networks.layers(4, quantized=False),
                                   planes_networks.binary()])
def test_modes_of_planes_that_become_no_planes_are_refused(tmp_path, model):
    """Real activations, or layers of signs: BitPlanes are there, what is missing are integers."""
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="compute with real numbers or with signs: needed "
                                         "activations that are integers, by --precision int8"):
        pack(tmp_path / "m.onnx", tmp_path / "m.edge", modes={"high": 1})


@pytest.mark.parametrize("text, message", [
    ("low=4,low=8", "the mode 'low' is given twice"), ("low", "is no NAME=BITS"),
    ("low=four", "is no NAME=BITS"), ("=4", "is no NAME=BITS"), ("", "is no NAME=BITS")])
def test_wrong_lines_of_modes(text, message):
    assert packing.parse_modes("low=4, high=8") == MODES | {"low": 4, "high": 8}
    with pytest.raises(InputError) as error:
        packing.parse_modes(text)
    assert message in str(error.value)


class _Source:
    """A source model whose outputs have some names."""
    name = "a runtime"

    def __init__(self, *names: str):
        self.outputs = [SimpleNamespace(name=name) for name in names]


@pytest.mark.parametrize("theirs", [("y",), ("y", "z"), ()])
def test_curve_refuses_a_source_of_other_outputs(device, theirs):
    _, model = _built(planes_networks.layers(4))
    with Session(model, device) as session:
        with pytest.raises(InputError, match=f"has the outputs {', '.join(theirs)}, needed those "
                                             "of model.edge: out"):
            curve.measure(session, [{"image": planes_networks.image()}],
                          reference=_Source(*theirs))


def test_curve_refuses_what_does_not_fit(demo, tmp_path, device):
    pack(DEMO / "fashion_mnist.onnx", tmp_path / "m.edge")
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        samples, labels = curve.read(demo / "labelled.npz", session)
        with pytest.raises(InputError, match="has no planes of weights"):
            curve.measure(session, samples, labels)
        np.savez(tmp_path / "bad.npz", image=np.stack([samples[0]["image"]] * 2),
                 labels=np.zeros(3, np.int64))
        with pytest.raises(InputError, match="needed one integer for each of the 2 samples"):
            curve.read(tmp_path / "bad.npz", session)
