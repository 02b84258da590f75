"""Mixture of experts on devices: which experts run, what they share, what a file may not say."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import edgerun
from edgerun import ModelError, loader, mixture, modes, pages, routes
from edgerun.command_buffer import has
from edgerun.errors import UnsupportedError
from edgerun.info import describe, describe_text
from edgerun.model import PAGE
from edgerun.ops import OPS
from edgerun.report import planned_report
from edgerun.session import Session
from edgerun.stepper import Stepper
from edgerun.timing import bench
from edgerun.tools.pack import pack
from edgerun.trace import trace
from edgerun.validate import lifetimes
from tests import mutate, page_cache
from tests.moe_networks import CHOSEN, EXPERTS, UNITS, by_hand, feed, images, network, packed


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(batch, precision) -> a packed network; each is packed once."""
    folder, found = tmp_path_factory.mktemp("moe"), {}

    def file(batch: int = 1, precision: str = "fp32", twice: bool = False):
        key = batch, precision, twice
        if key not in found:
            found[key] = packed(folder, network(batch, twice=twice), precision, f"m{batch}{twice}")
        return found[key]
    return file


def everything(session: Session, image: np.ndarray) -> np.ndarray:
    """What all experts together say, those of weight 0 among them."""
    session.experts.every = True
    try:
        return session.run(feed(session, image))["y"]
    finally:
        session.experts.every = False


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_chosen_experts_give_the_bits_of_all(device, files, batch, precision):
    """Sparse equals masked dense, and both what ONNX Runtime computes of every expert."""
    with edgerun.load(files(batch, precision), device) as session:
        for image in images(batch):
            found = session.run(feed(session, image))["y"]
            (chosen,) = session.experts.chosen
            assert chosen.shape == (batch, CHOSEN) and all(len({*row}) == CHOSEN for row in chosen)
            np.testing.assert_array_equal(found, everything(session, image))
            if precision in ("fp32", "fp16"):
                tolerance = 1e-5 if precision == "fp32" else 5e-3
                np.testing.assert_allclose(found, by_hand(network(), image), atol=tolerance)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_expert_that_is_not_chosen_adds_nothing(device, files, batch, value):
    """Even if what it says is no finite number: 0 times that would be no number."""
    def change(root: dict, graph: dict) -> None:
        for expert in range(0, EXPERTS, 2):
            bias = graph["tensors"][ops({"ops": inside(graph, expert)}, "dense")[0]["inputs"][2]]
            segment = root["segments"][bias["segment"]]
            segment["data"] = data = np.array(segment["data"])
            data[bias["offset"]:bias["offset"] + 4].view(np.float32)[:] = value
    data = np.frombuffer(mutate.changed(files(batch).read_bytes(), change), np.uint8)
    with Session(loader.from_bytes(data, "m.edge"), device) as session:
        finite = []
        for image in images(batch, 20):
            found = session.run(feed(session, image))["y"]
            np.testing.assert_array_equal(found, everything(session, image))
            finite += (session.experts.chosen[0] % 2 == 1).all(axis=1).tolist()
            assert np.isfinite(found[finite[-batch:]]).all()
        assert 0 < sum(finite) < len(finite)


def test_other_images_choose_other_experts(device, files):
    with edgerun.load(files(), device) as session:
        seen = set()
        for image in images(count=20):
            session.run(feed(session, image))
            seen.add(tuple(session.experts.chosen[0][0]))
    assert len(seen) > 3


@pytest.mark.parametrize("route", routes.NAMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_route(device, files, monkeypatch, batch, route):
    """An expert's launches are a part of their own, but where the device leaves some out."""
    if route == "buffer" and not has(device):
        pytest.skip("the driver has no command buffers")
    given = images(batch)
    with edgerun.load(files(batch), device) as session:
        expected = [session.run(feed(session, image))["y"] for image in given]
    monkeypatch.setenv("EDGERUN_ROUTE", route)
    with edgerun.load(files(batch), device) as session:
        assert session.route.name == route
        assert len(session.parts) == (1 if route == "chain" else EXPERTS + 2)
        assert [n for part in session.parts for n in part] == list(range(len(session.prepared)))
        for image, y in zip(given, expected):
            np.testing.assert_array_equal(session.run(feed(session, image))["y"], y)


@pytest.mark.parametrize("batch", [1, 3])
def test_only_the_chosen_experts_are_enqueued(device, files, monkeypatch, batch):
    """Each as often as samples have chosen it, its samples one after the other, where the host
    chooses; tests/test_mixture_chain.py has the device do so."""
    monkeypatch.setenv("EDGERUN_ROUTE", "launches")
    with edgerun.load(files(batch), device) as session:
        enqueued, enqueue = [], session.route.enqueue
        session.route.enqueue = lambda part: (enqueued.append(part), enqueue(part))
        for image in images(batch):
            session.run(feed(session, image))
            chosen = session.experts.chosen[0]
            assert enqueued == [0, *sorted(chosen.ravel() + 1), EXPERTS + 1]
            enqueued.clear()


def test_the_choice_is_read_once(device, files, monkeypatch):
    """One tensor is read while a run is enqueued, and the queue is waited for once."""
    monkeypatch.setenv("EDGERUN_ROUTE", "launches")
    with edgerun.load(files(3), device) as session:
        read, access = [], session.access
        session.access = lambda tensor, flags: (read.append(tensor.name), access(tensor, flags))[1]
        session.write(session.check(feed(session, images(3)[0])))
        read.clear()
        session.enqueue()
        assert read == [session.model.tensors[session.model.mixtures[0].chosen].name]
        session.read()


def test_a_run_creates_nothing(device, files):
    with edgerun.load(files(3), device) as session:
        for image in images(3):
            session.run(feed(session, image))
        before = dict(device.created)
        for image in images(3, seed=9):
            session.run(feed(session, image))
        assert device.created == before


@pytest.mark.parametrize("batch", [1, 2])
def test_two_mixtures_behind_one_another(device, files, batch):
    with edgerun.load(files(batch, twice=True), device) as session:
        assert len(session.model.mixtures) == 2
        for image in images(batch):
            found = session.run(feed(session, image))["y"]
            assert all(chosen is not None for chosen in session.experts.chosen)
            np.testing.assert_array_equal(found, everything(session, image))
            np.testing.assert_allclose(found, by_hand(network(twice=True), image), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_traces_and_profiles_run_all_experts(device, files, batch):
    with edgerun.load(files(batch), device) as session:
        image = images(batch)[0]
        expected = session.run(feed(session, image))["y"]
        seen, last = [], None
        for tensor, array in trace(session, feed(session, image)):
            seen.append(tensor.name)
            last = np.array(array)
        np.testing.assert_array_equal(last, expected)
        ends = [op.outputs[0].name for op in session.model.ops if op.code == "dense"]
        assert all(seen.count(name) == batch for name in ends[2:-1])  # gate, experts, the last
        assert len(session.profile(feed(session, image))) == len(session.prepared)
        np.testing.assert_array_equal(session.run(feed(session, image))["y"], expected)
        report = bench(session, feed(session, image), runs=2)
        assert report.macs == mixture.macs(session.model)


def test_steps_of_one_sample(device, files):
    """A stepper runs ops one by one, so every expert; of several samples it cannot."""
    with edgerun.load(files(), device) as session:
        image = images()[0]
        expected = session.run(feed(session, image))["y"]
        stepper = Stepper(session)
        stepper.start(feed(session, image))
        stepper.run(0, 9)
        stepper.run(9, stepper.count)
        np.testing.assert_array_equal(session.read()["y"], expected)
    with edgerun.load(files(3), device) as session:
        with pytest.raises(UnsupportedError, match="needed a batch of 1"):
            Stepper(session)


def test_the_arena_is_that_of_one_expert(tmp_path):
    """Nine experts need no more than two: one of them, and what the next one reads."""
    few, many = (loader.read(packed(tmp_path, network(experts=count, k=1), name=f"e{count}"))
                 for count in (2, 9))
    gates, weights = 2 * [64]  # bytes that nine numbers take, and one, aligned
    assert many.plan.arena_bytes <= few.plan.arena_bytes + gates + weights
    spans = lifetimes(many)
    own = [{index for op in many.ops[span.first:span.first + span.ops - 1]
            for index in (many.root_of(op.outputs[0]).index,)}
           for span in many.mixtures[0].experts]
    ends = [max(spans[index][1] for index in held) for held in own]
    starts = [min(spans[index][0] for index in held) for held in own]
    assert all(end <= start for end, start in zip(ends, starts[1:]))


def test_reports(device, files):
    model = loader.read(files())
    found = describe(model)
    total = sum(op["macs"] for op in found["ops"])
    assert found["mixtures"][0]["experts"] == EXPERTS and found["mixtures"][0]["chosen"] == CHOSEN
    assert found["macs"] < total and "2 of 5 experts run" in describe_text(found)
    assert "2 of 5 experts run" in planned_report(model).text()
    with edgerun.load(files(), device) as session:
        assert "2 of 5 experts run" in session.memory().text()


@pytest.mark.parametrize("precision, channels", [("fp32", 256), ("int8", 256), ("fp32", 143)])
def test_pages_of_experts_that_are_not_chosen_stay_cold(device, tmp_path, precision, channels):
    """From a cold file, the first run reads the weights of the chosen experts and no others; nor
    the padding behind one that fills whole pages, a page and some bytes."""
    given = images()[0]
    path = packed(tmp_path, network(channels=channels), precision)
    with edgerun.load(path, device) as session:
        expected = session.run(feed(session, given))["y"]
    cold = tmp_path / "cold.edge"
    shutil.copy(path, cold)
    page_cache.drop(cold)
    with edgerun.load(cold, device, check_weights=False) as session:
        page_cache.need_in_place(session)
        found = session.run(feed(session, given))["y"]
        cached, chosen = page_cache.resident(cold), {*session.experts.chosen[0][0].tolist()}
        own = mixture.runs(session.model)
    np.testing.assert_array_equal(found, expected)
    assert len(chosen) == CHOSEN
    (_, first), (second, _) = (own[0, expert][0] for expert in (0, 1))
    assert (channels == 143) == (second - first > PAGE)
    for (_, expert), held in own.items():
        large = [(a, -(-b // PAGE) * PAGE) for a, b in held if b - a >= PAGE]
        assert large, "an expert has no pages of its own"
        for start, end in large:
            assert start % PAGE == 0
            used = page_cache.whole(cached, start, end)
            if expert in chosen:
                assert not len(used) or used.mean() >= page_cache.MOST
            else:
                assert not used.any(), f"{used.sum()} of {len(used)} pages of expert {expert}"


def test_planes_that_count_are_read_ahead(device, tmp_path, monkeypatch):
    """Those outside of experts as soon as a file is loaded, in its default mode too; those of an
    expert when it is first chosen."""
    path = packed(tmp_path, network(), "int8", bits=6, modes={"low": 3, "high": 6})
    read, ahead = [], pages.ahead
    monkeypatch.setattr(pages, "ahead", lambda data, spans: (
        read.extend(spans := list(spans)), ahead(data, spans)))
    for precision, count in (("high", 6), ("low", 3)):
        read.clear()
        with edgerun.load(path, device, check_weights=False, precision=precision) as session:
            page_cache.need_in_place(session)
            model = session.model
            whose = {op: expert for expert, span in enumerate(model.mixtures[0].experts)
                     for op in range(span.first, span.first + span.ops)}

            def known(chosen=()):
                for op in (op for op in model.ops if OPS[op.code].planes(op)):
                    for number, held in enumerate(modes.planes_of(op)):
                        spans = modes.spans(model, held)
                        yield number < count and whose.get(op.index) in (None, *chosen), any(
                            a <= start and end <= b for start, end in spans for a, b in read)
            assert all(counts == found for counts, found in known())
            session.run(feed(session, images()[0]))
            assert all(counts == found for counts, found in known(session.experts.chosen[0][0]))


def ops(graph: dict, code: str) -> list[dict]:
    return [op for op in graph["ops"] if op["code"] == code]


def of(graph: dict) -> dict:
    return graph["mixtures"][0]


def experts(graph: dict) -> list[dict]:
    return of(graph)["experts"]


def inside(graph: dict, expert: int) -> list[dict]:
    span = experts(graph)[expert]
    return graph["ops"][span["first"]:span["first"] + span["ops"]]


def given(op: dict, index: int, tensor: int) -> None:
    """Let an op read another tensor."""
    op["inputs"] = [tensor if n == index else x for n, x in enumerate(op["inputs"])]


def swapped(graph: dict) -> None:
    """Exchange two blends' numbers."""
    a, b = ops(graph, "blend")[:2]
    a["options"], b["options"] = b["options"], a["options"]


def moved_sum(graph: dict) -> None:
    """Let a sum lie beside the one before it."""
    y = graph["tensors"][ops(graph, "blend")[0]["outputs"][0]]
    y.update(alias_of=-1, offset=graph["plan"]["arena_bytes"])
    graph["plan"]["arena_bytes"] += 4096


def alias_of_sum(graph: dict, shape: list[int]) -> int:
    """Return a new tensor in the bytes of the sum."""
    y = ops(graph, "route")[0]["outputs"][1]
    graph["tensors"].append(dict(graph["tensors"][y], name="alias", shape=shape, alias_of=y))
    return len(graph["tensors"]) - 1


def read_sum(graph: dict) -> None:
    """Let an expert read, as a bias, what the one before it has added."""
    given(ops({"ops": inside(graph, 1)}, "dense")[0], 2, alias_of_sum(graph, [UNITS]))


def piece_of_an_expert(graph: dict) -> None:
    """Let a further input arrive between the ops of an expert."""
    at = graph["plan"]["arena_bytes"]
    graph["plan"]["arena_bytes"] += 64
    graph["tensors"].append(dict(graph["tensors"][graph["inputs"][0]["tensor"]], name="z",
                                 shape=[1, 3], offset=at))
    tensor = len(graph["tensors"]) - 1
    graph["inputs"].append({"name": "z", "tensor": tensor, "shape": [1, 3], "dtype": "fp32",
                            "pieces": [{"tensor": tensor, "op": experts(graph)[1]["first"] + 1}]})


HOSTILE = {
    "no such op": (lambda g: of(g).update(route=999), "mixture 0: is routed by op 999"),
    "another op": (lambda g: of(g).update(route=0), "mixture 0: is routed by conv2d"),
    "other gates": (lambda g: of(g).update(gates=0), "has the gates in tensor 0, its route in"),
    "other choice": (lambda g: of(g).update(chosen=0), "has the chosen experts in tensor 0"),
    "a slot": (lambda g: of(g).update(slot=0), "has the slots in tensor 0, its route in -1"),
    "twice": (lambda g: g["mixtures"].append(of(g)), "mixture 1: is routed by op"),
    "too few experts": (lambda g: experts(g).pop(), "has 4 experts, its gates 'g.*' are of 5"),
    "a gap": (lambda g: experts(g)[1].update(first=experts(g)[1]["first"] + 1),
              "expert 1 starts at op"),
    "an overlap": (lambda g: experts(g)[1].update(first=experts(g)[1]["first"] - 1),
                   "expert 1 starts at op"),
    "no ops": (lambda g: experts(g)[0].update(ops=0), "expert 0 has 0 ops"),
    "negative ops": (lambda g: experts(g)[0].update(ops=-3), "expert 0 has -3 ops"),
    "beyond the ops": (lambda g: experts(g)[4].update(ops=1000), "expert 4 has 1000 ops, needed 1"),
    "no blend at the end": (lambda g: experts(g)[0].update(ops=2), "expert 0 ends with pool2d"),
    "two blends": (lambda g: (experts(g)[0].update(ops=experts(g)[0]["ops"] + experts(g)[1]["ops"]),
                              experts(g)[1].update(first=experts(g)[2]["first"])),
                   "expert 0 ends with blend 'image_2.blend1'"),
    "another expert's blend": (swapped, "expert 0 ends with blend .*, needed the blend of expert"),
    "not in place": (moved_sum, "expert 0 writes .* elsewhere than in place"),
    "another sum": (lambda g: given(ops(g, "blend")[1], 0, alias_of_sum(g, [1, UNITS])),
                    "expert 1 does not add to"),
    "reads the sum": (read_sum, "expert 1 reads the sum of the experts"),
    "k above E": (lambda g: ops(g, "route")[0]["options"][1].update(k=6),
                  "chooses 6 of 5 experts"),
    "no mixture": (lambda g: g["mixtures"].clear(), "belongs to no mixture"),
    "read outside": (lambda g: g["outputs"].append(dict(
        g["outputs"][0], name="z", tensor=inside(g, 2)[0]["outputs"][0],
        shape=g["tensors"][inside(g, 2)[0]["outputs"][0]]["shape"])),
        "expert 2 of mixture 0 writes .*, whose bytes others use"),
    "the sum too early": (lambda g: g["outputs"].append(dict(
        g["outputs"][0], name="z", tensor=ops(g, "blend")[0]["outputs"][0], shape=[1, 7])),
        "reads .* of which something was written over"),
    "a piece between experts": (piece_of_an_expert, "between the ops of experts"),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_malformed_mixtures(files, what):
    change, message = HOSTILE[what]
    data = mutate.changed(files().read_bytes(), lambda root, graph: change(graph))
    with pytest.raises(ModelError, match=message):
        loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


MALFORMED_SLOTS = {
    "no slots": (lambda g: of(g).update(slot=-1), "has the slots in tensor -1"),
    "another expert's slot": (
        lambda g: given(ops(g, "blend")[0], 3, ops(g, "blend")[1]["inputs"][3]),
        "expert 0 has its slot in .*, needed element 0"),
    "not kept": (lambda g: ops(g, "blend")[0].update(inputs=ops(g, "blend")[0]["inputs"][:4]),
                 "expert 0 reads .*, which its blend does not keep for the next sample"),
}


@pytest.mark.parametrize("what", sorted(MALFORMED_SLOTS))
def test_malformed_slots(files, what):
    change, message = MALFORMED_SLOTS[what]
    data = mutate.changed(files(3).read_bytes(), lambda root, graph: change(graph))
    with pytest.raises(ModelError, match=message):
        loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


def test_unchanged_files_read(files):
    for batch in (1, 3):
        data = mutate.changed(files(batch).read_bytes(), lambda root, graph: None)
        assert loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge").mixtures


DATA = Path(__file__).parent / "data"  # written by edgerun.tools.recipes.lenet_moe --example


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """50 images as inputs, their labels, and the logits of ONNX Runtime."""
    with np.load(DATA / "lenet_moe.npz") as arrays:
        return (arrays["images"][:, None, None].astype(np.float32) / 255, arrays["labels"],
                arrays["logits"])


def answers(path, device, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and chosen experts; those of the first images also with all experts."""
    with edgerun.load(path, device) as session:
        found, chosen = [], []
        for image in given:
            found.append(session.run({"image_x": image})["logits"][0])
            chosen.append(np.sort(session.experts.chosen[0][0]))
        session.experts.every = True
        for image, y in zip(given[:10], found):
            np.testing.assert_array_equal(session.run({"image_x": image})["logits"][0], y)
    return np.array(found), np.array(chosen)


def test_a_trained_network(device, tmp_path, digits):
    """LeNet with 9 experts, 3 for an image, trained on MNIST: the answers of ONNX Runtime. In int8
    most images choose the same experts, and nearly the same logits come of them."""
    given, labels, logits = digits
    np.savez(tmp_path / "samples.npz", image_x=given)
    pack(DATA / "lenet_moe.onnx", tmp_path / "fp32.edge", "fp32", device=device)
    pack(DATA / "lenet_moe.onnx", tmp_path / "int8.edge", "int8", device=device,
         calibration=tmp_path / "samples.npz")
    real, chosen = answers(tmp_path / "fp32.edge", device, given)
    assert np.abs(real - logits).max() <= 1e-5 * np.abs(logits).max()
    assert len(np.unique(chosen)) == 9 and (np.argmax(real, axis=1) == labels).all()
    found, others = answers(tmp_path / "int8.edge", device, given)
    same = (chosen == others).all(axis=1)
    assert same.mean() >= 0.85, f"{same.sum()} of {len(same)} choose the same experts"
    assert np.abs(found - logits)[same].max() <= 0.015 * np.abs(logits).max()
    assert (np.argmax(found, axis=1) == labels).all()


def test_the_end_of_a_gate_stays_real(tmp_path, digits):
    """Its last layer computes in fp32, as everything behind it; experts and the rest in int8."""
    np.savez(tmp_path / "samples.npz", image_x=digits[0])
    pack(DATA / "lenet_moe.onnx", tmp_path / "m.edge", "int8", device="portable",
         calibration=tmp_path / "samples.npz")
    model = loader.read(tmp_path / "m.edge")
    route = model.mixtures[0].route
    layers = [op for op in model.ops if op.code in ("dense", "conv2d")]
    real = [op for op in layers if op.inputs[1].dtype == "fp32"]
    assert len(real) == 1 and real[0].index < route and real[0].outputs[0].shape == (1, 9)
    assert len(layers) == 1 + 2 + 2 * 9 + 1
    assert all(op.inputs[1].dtype == "fp32" for op in model.ops if op.code == "blend")
