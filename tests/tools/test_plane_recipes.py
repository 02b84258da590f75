"""Recipes of bit planes, with networks that are not trained: files are what PyTorch computes."""
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack
from edgerun.tools.planes import onnx as planes_onnx
from edgerun.tools.recipes import bit_planes, plane_times, results

SMALL = {"mlp": (70, 40, 10), "lstm": (24, 16)}
FILES = ("fp32", "planes, 8-bit activations")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(plane_times, "SIZES", SMALL)
    monkeypatch.setattr(plane_times, "FILES", {name: plane_times.FILES[name] for name in FILES})


def test_times_of_every_file_and_number_of_planes(device, tmp_path, small):
    plane_times.pack_all("mlp", tmp_path, device)
    rows = plane_times.measure("mlp", tmp_path, device, rounds=1)
    assert [row["bits"] for row in rows] == [32, *range(1, 9)]
    assert all(row["ms"] > 0 for row in rows) and rows[0]["times as fast as fp32"] == 1
    steps = np.diff([row["MB of constants"] * 1e6 for row in rows[1:]])
    assert steps == pytest.approx((40 * 96 + 10 * 64) / 8)  # whole words
    x, spread = np.random.default_rng(2).uniform(-1, 1, (1, 70)).astype(np.float32), []
    for name in FILES:  # planes compute something: outputs as large as those of real weights
        with Session(loader.read(tmp_path / f"mlp {name}.edge"), device) as session:
            spread.append(float(session.run({"x": x})["y"].std()))
    assert 0.3 < spread[0] / spread[1] < 3


def test_stored_errors_are_those_of_the_quantizer():
    stored = results.read(Path(__file__).parents[2] / "docs/research/bit-planes-curve.json")
    kept = [row for row in stored["ours"] if row["table"] == bit_planes.ERRORS]
    found = bit_planes.errors()
    assert [list(row) for row in kept] == [list(row) for row in found]
    for old, new in zip(kept, found):
        for column, value in new.items():
            assert old[column] == (pytest.approx(value, rel=1e-3) if isinstance(value, float)
                                   else value), (new["packed with"], column)


def test_accuracy_of_every_number_of_planes(device, tmp_path, monkeypatch):
    whole = bit_planes.demo.Sample.read()
    some = dataclasses.replace(whole, images=whole.images[:100], labels=whole.labels[:100])
    monkeypatch.setattr(bit_planes.demo.Sample, "read", lambda: some)
    monkeypatch.setattr(bit_planes, "SIGNS", ("pairs",))
    pairs, corrected = bit_planes.accuracies(tmp_path, device)
    for row in pairs, corrected:
        figures = list(row.values())[2:]
        assert len(figures) == 8 and figures[0] < 60 and figures[-1] > 90
    assert pairs["packed with"] == "--signs pairs"
    assert corrected["packed with"] == "--signs twos --improve correct-bias"


def test_a_step_of_an_lstm(tmp_path, small):
    """By ONNX's own rules: the gates are i, f, o and g."""
    plane_times.write_lstm(tmp_path / "m.onnx", None)
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model)
    w, b = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    rng = np.random.default_rng(0)
    x, h, c = (rng.standard_normal((1, size)).astype(np.float32) for size in (24, 16, 16))
    i, f, o, g = np.split(np.concatenate([x, h], 1) @ w.T + b, 4, axis=1)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    cell = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    found = ReferenceEvaluator(model).run(None, {"x": x, "h": h, "c": c})
    assert np.allclose(found[0], sigmoid(o) * np.tanh(cell), atol=1e-5)
    assert np.allclose(found[1], cell, atol=1e-5)


def test_a_file_is_its_planes(tmp_path):
    """Within 2 %, for a layer of AlexNet's fc6, an eighth as wide (B2 of the seeds, 6.3)."""
    grid = [numpy_helper.from_array(np.asarray(value), name)
            for name, value in (("scale", np.float32(1 / 255)), ("zero", np.uint8(0)))]
    codes = np.random.default_rng(0).integers(-3, 4, (512, 9216))
    scale = np.outer([0, 4, 2, 1], np.ones(512))
    node, constants = planes_onnx.bit_planes("fc", codes, 3, scale, 0 * scale, np.zeros(512),
                                             "magnitude")
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]), node,
             helper.make_node("Gemm", ["r", *node.output], ["y"], transB=1)]
    infos = [helper.make_tensor_value_info(name, 1, (1, size))
             for name, size in (("x", 9216), ("y", 512))]
    graph = helper.make_graph(nodes, "m", infos[:1], infos[1:], grid + constants)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 13), planes_onnx.OPSET]), tmp_path / "m.onnx")
    pack(tmp_path / "m.onnx", tmp_path / "m.edge", modes={"high": 3})
    planes = 3 * 512 * 9216 // 8
    assert planes < (tmp_path / "m.edge").stat().st_size < 1.02 * planes


class TestTrained:
    """Networks of the trainer, at random weights."""

    torch = None

    @pytest.fixture(autouse=True)
    def needs_torch(self):
        type(self).torch = pytest.importorskip(
            "torch", reason="PyTorch is an extra: pip install edgerun[train]")
        self.torch.manual_seed(0)

    @pytest.fixture
    def images(self):
        return self.torch.rand(20, 1, 28, 28).mul(255).round() / 255

    @pytest.mark.parametrize("empty", [False, True])
    def test_bsq_with_layers_of_few_planes_and_none(self, device, images, tmp_path, empty):
        from edgerun.tools.recipes import bsq as recipe, small_cnn
        from edgerun.tools.train import bsq, loop
        from edgerun.tools.train.layers import layers_of
        network = small_cnn.with_activations(small_cnn.network(), bsq.Stepped)
        bsq.begin(network, 0.1)
        planes = [layer.scheme for layer in layers_of(network)]
        planes[1].store((planes[1].integers() / (1000 if empty else 100)).trunc(), 8)
        planes[2].store((planes[2].integers() / 30).trunc(), 8)
        for scheme in planes:
            scheme.requantize()
            scheme.scale = 1.0
        for _ in range(30):  # the normalizations see something
            network(images)
        bsq.fix(network)
        labels = loop.predict(network, images)
        row = recipe.measure(network, 0.1, 1, images, labels, tmp_path, device)
        left = 0 if empty else 3
        assert row["planes of the layers"] == f"9 {left} 5 9"
        assert row["accuracy %"] == 100
        wanted = loop.outputs(network, images).numpy()
        assert (np.ptp(wanted, axis=0).max() == 0) == empty
        with Session(loader.read(tmp_path / "alpha-0.1.edge"), device) as session:
            found = [session.run({"image": image[None]})["logits"][0] for image in images.numpy()]
        assert np.allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
        # whole words of 32 weights: 9 of the first layer are one; no planes, no bytes
        words = 9 * 16 + left * 32 * 5 + 5 * 64 * 9 + 9 * 10 * 98
        assert row["weight bytes"] == 4 * words

    def test_a_file_of_wide_layers_is_its_planes(self, device, images, tmp_path):
        """Within 2 % from a hidden layer of 1,024 outputs on, in three planes; 8 times smaller."""
        from edgerun.tools.recipes import bsq as recipe, small_cnn
        from edgerun.tools.train import bsq
        from edgerun.tools.train.layers import layers_of
        network = small_cnn.with_activations(small_cnn.network(hidden=[1024]), bsq.Stepped)
        for layer in layers_of(network):
            layer.scheme = bsq.Bits(layer.weight, 2 if layer.weight.numel() > 2**20 else 8)
        row = recipe.measure(network, 0.1, 1, images[:2], self.torch.zeros(2), tmp_path, device)
        assert row["planes of the layers"] == "9 9 9 3 9"
        assert row["times smaller"] > 8 and 0 < row["file above planes %"] < 2

    def test_every_precision_of_a_file_is_the_networks(self, device, images, tmp_path):
        from edgerun.tools.recipes import dual_precision as recipe, small_cnn
        from edgerun.tools.train import dual
        network = recipe.nested(small_cnn.network(), 8, (4, 8, 2), 4)
        for bits in (8, 4, 2):
            dual.observe(network, bits, images, 10)
        rows = recipe.measure("two phases", network, 1, images, self.torch.zeros(20), tmp_path,
                              device)
        assert [row["bits"] for row in rows] == [8, 4, 2]
        assert all(row["as PyTorch %"] == 100 for row in rows)

    def test_networks_are_kept(self, tmp_path):
        from edgerun.tools.recipes.kept import Kept
        made = []

        def train():
            made.append(self.torch.nn.Linear(3, 2))
            return made[-1]

        first = Kept(tmp_path, "bsq", 1, again=False)("one net", train)
        later = Kept(tmp_path, "bsq", 1, again=True)
        assert self.torch.equal(later("one net", train).weight, first.weight)
        assert len(made) == 1 and later.seconds >= 0
        Kept(tmp_path, "bsq", 1, again=False)("one net", train)
        assert len(made) == 2
        for count, (recipe, seed) in enumerate((("bsq", 2), ("dual-precision", 1)), 3):
            Kept(tmp_path, recipe, seed, again=True)("one net", train)
            assert len(made) == count

    def test_schemes_of_another_seed_are_trained(self, tmp_path, monkeypatch):
        from edgerun.tools.recipes import schemes
        seeds = []
        monkeypatch.setattr(schemes.loop, "train", lambda *_, seed, **options: seeds.append(seed))
        x = y = self.torch.zeros(1)
        for name, seed, trained in (("fp32", 1, [1]), ("fp32", 1, []), ("twn", 1, [1]),
                                    ("twn", 2, [2, 2]), ("twn", 2, [])):
            seeds.clear()
            schemes.trained(name, tmp_path, x, y, seed)
            assert seeds == trained
