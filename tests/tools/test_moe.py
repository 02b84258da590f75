"""Mixtures of experts in the packer: imported, kept together, laid out, refused."""
from __future__ import annotations

import mmap

import numpy as np
import onnx
import pytest
from onnx import helper

from edgerun import ModelError, loader, mixture as runtime
from edgerun.errors import InputError, UnsupportedError
from edgerun.tools import mixture, moe, passes, reference, schedule
from edgerun.tools.importers.onnx import import_proto
from edgerun.tools.importers.onnx.mixture import DOMAIN, OP, silent
from edgerun.tools.pack import PRECISIONS, pack
from tests.moe_networks import (
    CHANNELS, CHOSEN, EXPERTS, SIZE, Weights, by_hand, expert, gate, images, network, packed)


@pytest.mark.parametrize("batch, experts, k", [
    (1, EXPERTS, CHOSEN), (3, EXPERTS, CHOSEN), (1, 1, 1), (2, 1, 1), (1, 4, 4), (2, 16, 4)])
def test_import_computes_what_onnx_runtime_does(batch, experts, k):
    """The reference runs every expert, sample by sample; ONNX Runtime gets plain ONNX."""
    graph = import_proto(network(batch, experts, k))
    for image in images(batch, 3):
        found = reference.execute(graph, {"image_x": image})["y"]
        np.testing.assert_allclose(found, by_hand(network(1, experts, k), image), atol=2e-6)


def proto(gate_part=None, experts=None, k: int = 2, batch: int = 1, **more) -> onnx.ModelProto:
    """image [batch, 4, 8, 8] -> mixture of 3 experts -> y."""
    weights = Weights(0)
    gate_part = gate_part or gate(weights, batch, 3).graph()
    experts = [expert(weights).graph() for _ in range(3)] if experts is None else experts
    whole = moe.Part("image", (batch, CHANNELS, SIZE, SIZE))
    whole.add(OP, domain=DOMAIN, **moe.attributes(gate_part, experts, k))
    return moe.model(whole.graph("y"))


def of_units(*units: int) -> list[onnx.GraphProto]:
    weights = Weights(1)
    return [expert(weights, units=count).graph() for count in units]


def nested() -> onnx.GraphProto:
    weights = Weights(2)
    part = moe.Part("inner", (1, CHANNELS, SIZE, SIZE))
    part.add(OP, domain=DOMAIN, **moe.attributes(
        gate(weights, 1, 2).graph(), [expert(weights).graph() for _ in range(2)], 1))
    return part.graph()


def two_inputs() -> onnx.GraphProto:
    found = of_units(7)[0]
    found.input.append(helper.make_tensor_value_info("more", 1, [1]))
    return found


def flat() -> onnx.GraphProto:
    part = moe.Part("flat", (1, CHANNELS, SIZE, SIZE))
    part.add("Reshape", np.array([CHANNELS * SIZE * SIZE], np.int64))
    return part.graph()


@pytest.mark.parametrize("model, error, message", [
    (lambda: proto(k=4), ModelError, "chooses 4 of 3 experts, needed 1 to 3"),
    (lambda: proto(k=0), ModelError, "chooses 0 of 3 experts"),
    (lambda: proto(experts=of_units(7, 8, 7)), ModelError,
     r"expert 1 gives \(1, 8\), expert 0 \(1, 7\): needed the same of all"),
    (lambda: proto(gate(Weights(0), 1, 4).graph()), ModelError,
     r"its gate gives \(1, 4\), needed one number for each of the 1 samples and 3 experts"),
    (lambda: proto(experts=[flat()] * 3), ModelError,
     r"expert 0 gives \(256,\) fp32, needed real numbers for one sample"),
    (lambda: proto(experts=[*of_units(7, 7), nested()]), UnsupportedError,
     "expert 2 holds a mixture of experts itself"),
    (lambda: proto(experts=[*of_units(7, 7), two_inputs()]), ModelError,
     "expert 2 has 2 inputs and 1 outputs, needed one input"),
    (lambda: proto(experts=[]), (ModelError, ValueError), "no experts|empty"),
])
def test_malformed_models(model, error, message):
    with pytest.raises(error, match=message):
        import_proto(model())


def noisy(op: str, **attributes) -> onnx.GraphProto:
    """A gate whose logits get a random head by an op."""
    part = moe.Part("gate", (1, CHANNELS, SIZE, SIZE))
    part.add("Flatten")
    logits = part.add("Gemm", Weights(0)(3, CHANNELS * SIZE * SIZE), transB=1)
    drawn = part.add("RandomNormalLike", reads=logits, **attributes)
    part.join(op, logits, drawn)
    part.add("Softmax", axis=1)
    return part.graph()


def test_noise_and_balance_heads_are_left_out():
    """Neither random numbers, nor what only a balance loss reads, reaches the file."""
    weights = Weights(0)
    part = gate(weights, 1, 3)
    found = part.graph()
    found.output.append(helper.make_tensor_value_info(found.node[2].output[0], 1, None))
    quiet = silent(found)
    assert len(quiet.output) == 1 and "Random" not in str([n.op_type for n in quiet.node])
    graph = import_proto(proto(found))
    assert not [op for op in graph.ops if op.code == "unary" and op.options["kind"] == "random"]
    named = {op.name for op in graph.ops}
    assert not any("RandomNormalLike" in name for name in named)
    for mean, message in ((0.5, "noise of the mean 0.5"), (0.0, "more with noise than to add it")):
        with pytest.raises(UnsupportedError, match=message):
            import_proto(proto(noisy("Add" if mean else "Max", mean=mean)))


def test_what_experts_compute_alike_is_computed_once():
    """The same op on what all experts read is in front of them, not an expert's."""
    same = expert(Weights(3)).graph()
    graph = import_proto(proto(experts=[same] * 3))
    for _, step in passes.pipeline():
        step(graph)
    views = passes.alias.apply(graph)
    mixture.place(graph, views)
    mixture.arrange(graph, views)
    assert [op.code for op in graph.ops].count("conv2d") == 1
    ((route, spans),) = mixture.spans(graph)
    assert [len(span) for span in spans] == [1, 1, 1] and graph.ops[route].code == "route"


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("source", "mixed")])
def test_every_expert_has_pages_of_its_own(tmp_path, precision):
    """Its large weights start on a page, and no other tensor lies there."""
    model = loader.read(packed(tmp_path, network(channels=300), precision))
    found = runtime.runs(model)
    assert len(found) == EXPERTS
    pages: dict[int, set] = {}
    for tensor in model.tensors:
        if tensor.constant:
            start = model.segments[tensor.segment].file_offset + tensor.offset
            end = start + tensor.bytes + 64  # what a vector loaded behind the end may touch
            who = [owner for owner, held in found.items()
                   if any(a <= start < b and b - a >= mmap.PAGESIZE for a, b in held)]
            for page in range(start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)):
                pages.setdefault(page, set()).add(who[0] if who else None)
    assert all(len(who) == 1 for who in pages.values() if who != {None})
    assert len({next(iter(who)) for who in pages.values()} - {None}) == EXPERTS


def test_experts_stay_together_whatever_is_reduced(tmp_path):
    """Reordering, views and places in place, alone and all: the same numbers, whole spans."""
    import edgerun
    expected = None
    for number, without in enumerate([(), ("reorder",), ("views",), ("in-place",),
                                      ("reorder", "views", "in-place")]):
        file = packed(tmp_path, network(2, twice=True), name=f"m{number}", without=without)
        model = loader.read(file)
        for found in model.mixtures:
            codes = [op.code for op in model.ops[found.route:found.experts[-1].first
                                                 + found.experts[-1].ops]]
            assert codes.count("route") == 1 and codes.count("blend") == EXPERTS
        with edgerun.load(file, "portable") as session:
            y = session.run({"image_x": images(2)[0]})["y"]
        expected = y if expected is None else expected
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_order_of_ops_keeps_experts_together(batch):
    """Every op needs all those of the section before its own, so no search takes them apart."""
    graph = import_proto(network(batch, twice=True))
    views = passes.alias.apply(graph)
    mixture.place(graph, views)
    mixture.arrange(graph, views)
    sections = mixture.sections(graph)
    assert sections == sorted(sections) and len({*sections}) == 1 + 2 * (1 + EXPERTS) + 2
    needs = schedule.Liveness(graph, views).needs
    for number, section in enumerate(sections):
        before = [n for n, other in enumerate(sections) if other < section]
        before = [n for n in before if sections[n] == sections[before[-1]]]
        assert all(needs[number] >> n & 1 for n in before)


@pytest.mark.parametrize("patch", ["auto", 2])
def test_strips_before_the_experts(tmp_path, patch):
    """Ops in front of a mixture may run over strips."""
    import edgerun
    image = images()[0]
    with edgerun.load(packed(tmp_path, network(), patch=patch), "portable") as session:
        y = session.run({"image_x": image})["y"]
    np.testing.assert_allclose(y, by_hand(network(), image), atol=1e-5)


def test_mixed_precision(tmp_path):
    """Types are searched for one sample; of several there is no running op by op."""
    source, samples = tmp_path / "m.onnx", tmp_path / "samples.npz"
    onnx.save(network(2), source)
    np.savez(samples, image_x=images(2))
    with pytest.raises((UnsupportedError, InputError), match="needed a batch of 1"):
        pack(source, tmp_path / "m.edge", "mixed", calibration=samples, device="portable")


def test_join_of_models():
    """Parts that exporters wrote one by one become one model."""
    weights = Weights(4)

    def whole(part: moe.Part) -> onnx.ModelProto:
        return helper.make_model(part.graph(), ir_version=8,
                                 opset_imports=[helper.make_opsetid("", moe.OPSET)])

    trunk = moe.Part("t", (1, 1, SIZE, SIZE))
    trunk.add("Conv", weights(CHANNELS, 1, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    head = moe.Part("h", (1, 7))
    head.add("Relu")
    gates, experts = gate(weights, 1, 3), [expert(weights) for _ in range(3)]
    model = moe.join(whole(trunk), whole(gates), [whole(e) for e in experts], whole(head), 2)
    graph, image = import_proto(model), images()[0]
    found = reference.execute(graph, {graph.inputs[0].name: image})
    (y,) = found.values()
    np.testing.assert_allclose(y, by_hand(model, image), atol=2e-6)
