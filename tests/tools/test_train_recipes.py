"""Recipes that train, over a few images: what they write, and that nothing else differs."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the recipes that train need PyTorch")

import torch  # noqa: E402

from edgerun.tools.recipes import (  # noqa: E402
    bsq, cyclic, fastfood, lenet_moe, rounding, seeds, transfer)
from edgerun.tools.train import loop  # noqa: E402
from edgerun.tools.train.transfer import average_precision  # noqa: E402


@pytest.fixture
def given(tmp_path):
    """Arguments that name files of stripes, whose place is the label."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 300), ("test", 60)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 60, (count, 28, 28), np.uint8)
        images[np.arange(count), 2 * labels + 4] += 180
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    return ["--train", str(tmp_path / "train.npz"), "--test", str(tmp_path / "test.npz"),
            "--seeds", "1", "2", "--epochs", "1", "--results", str(tmp_path)]


def rows(tmp_path, name: str) -> list[dict]:
    return json.loads((tmp_path / f"{name}.json").read_text())["ours"]


def test_rounding_at_random_has_a_row_for_each_format_and_seed(given, tmp_path):
    assert rounding.main(given) == 0
    assert [(row["format"], row["seed"]) for row in rows(tmp_path, "stochastic-rounding")] == [
        (name, seed) for seed in (1, 2) for name in rounding.FORMATS]


def test_gain_is_told_seed_by_seed():
    rows = [{"way": way, "seed": seed, "mAP %": value} for way, seed, value in (
        ("a", 1, 70.0), ("a", 2, 72.5), ("b", 2, 70.25), ("b", 1, 72.0), ("b", 3, 1.0))]
    assert seeds.gain(rows, "mAP %", "way", "a", "b", "3 more") == (
        "Mean mAP % over seeds 1, 2: a 71.25, b 71.12; that is +0.12 points (-2.00, +2.25), where "
        "3 more was aimed at.")


def test_cyclic_and_static_training_differ_in_bits_alone(given, tmp_path, monkeypatch):
    seen = []
    train = loop.train

    def watched(network, x, y, *, hooks, **options):
        seen.append((torch.cat([p.detach().flatten() for p in network.parameters()]).sum().item(),
                     {type(hook) for hook in hooks} ^ {loop.Gradients}, options))
        return train(network, x, y, hooks=hooks, **options)

    monkeypatch.setattr(loop, "train", watched)
    assert cyclic.main(given) == 0
    for static, changed in (seen[:2], seen[2:]):
        assert static[1] == set() and changed[1] == {loop.Cyclic}
        assert static[0] == changed[0] and static[2] == changed[2]
    found = rows(tmp_path, "cyclic-precision")
    assert [(row["training"], row["seed"]) for row in found] == [
        (name, seed) for seed in (1, 2) for name in ("static", "cyclic")]
    assert {row["bit operations %"] for row in found if row["training"] == "static"} == {100}


def test_bit_operations_of_cyclic_training(monkeypatch):
    monkeypatch.setattr(cyclic, "CYCLES", 2)
    # 3 and 8 bits, rounded from 3, 5.5 and so on: 3 + 5 (1 - cos(pi t / 2)) / 2 with t = 0, 1
    least, middle = (bits * bits + 16 * bits for bits in (3, 6))
    assert cyclic.bit_operations(4) == pytest.approx(100 * (least + middle) / 2 / (64 + 128))


def test_students_of_a_teacher_start_from_the_same(given, tmp_path, monkeypatch):
    starts = []
    train = loop.train

    def watched(network, *arguments, epochs, **options):
        starts.append(({name: value.clone() for name, value in network.state_dict().items()},
                       epochs, options["rate"]))
        return train(network, *arguments, epochs=epochs, **options)

    monkeypatch.setattr(loop, "train", watched)
    arguments = [*given, "--teacher-epochs", "1", "--out", str(tmp_path / "out")]
    assert transfer.main(arguments) == 0
    found = rows(tmp_path, "knowledge-transfer")
    methods = ["labels only", *transfer.METHODS]
    assert [(row["method"], row["seed"], row["epochs"]) for row in found] == [
        ("teacher", 0, 1 + transfer.LAST_EPOCHS),
        *((method, seed, 1 if method == "labels only" else 2)
          for seed in (1, 2) for method in methods)]
    students = starts[2:]  # the teacher is trained in two parts
    count = len(methods)
    for (first, *_), *others in (students[:count], students[count:]):
        for other, *how in others:
            same = [torch.equal(other[name], others[0][0][name]) for name in other]
            assert all(same) and not torch.equal(other["head.weight"], first["head.weight"])
            assert how == [1, transfer.RATE]


def test_a_teacher_is_taken_for_its_images_alone(given, tmp_path, monkeypatch):
    trained = []
    taught = transfer.taught
    monkeypatch.setattr(transfer, "taught", lambda *a: trained.append(a) or taught(*a))
    arguments = [*given, "--seeds", "1", "--teacher-epochs", "1", "--out", str(tmp_path / "out")]
    assert transfer.main(arguments) == 0 and len(trained) == 1
    once = rows(tmp_path, "knowledge-transfer")
    file, = (tmp_path / "out").iterdir()
    torch.save({**torch.load(file, weights_only=False), "seconds": 6000.0}, file)
    (tmp_path / "knowledge-transfer.json").unlink()
    assert transfer.main([*arguments, "--again"]) == 0 and len(trained) == 1
    assert rows(tmp_path, "knowledge-transfer") == once
    minutes = json.loads((tmp_path / "knowledge-transfer.json").read_text())["minutes"]
    assert 100 <= minutes < 110  # those of the teacher are counted as it says
    held = dict(np.load(tmp_path / "train.npz"))
    for changed in ({"images": held["images"][::-1]}, {"labels": held["labels"][::-1]}):
        np.savez(tmp_path / "train.npz", **held | changed)
        before = len(trained)
        assert transfer.main([*arguments, "--again"]) == 0 and len(trained) == before + 1


def test_what_differs_is_told_of_data_that_have_rows():
    def told(*names: str) -> str:
        return " ".join(transfer.differs([
            {"data": name, "method": method, "seed": 1, "mAP %": 50.0}
            for name in names for method in transfer.METHODS]))

    assert "JPEG" in told("CIFAR-10") and "Fashion" not in told("CIFAR-10")
    assert "JPEG" not in told("other") and "Fashion" not in told("other")
    assert "Fashion-MNIST was tried" in told("CIFAR-10", "Fashion-MNIST, a run that was stopped")


def test_ties_of_retrieval_keep_the_order_of_the_database():
    database = np.zeros((1000, 2), np.float32)
    database[::7, 0] = 1
    labels = np.arange(1000) // 3 % 2
    order = [*range(0, 1000, 7), *(n for n in range(1000) if n % 7)]
    right = labels[order] == 1
    wanted = (np.cumsum(right) / np.arange(1, 1001))[right].mean()
    found = average_precision(np.eye(2, dtype=np.float32)[:1], np.ones(1), database, labels)
    assert found == pytest.approx(100 * wanted, rel=1e-12)


def document(tmp_path, name: str) -> dict:
    return json.loads((tmp_path / f"{name}.json").read_text())


def test_rows_of_fastfood_say_how_they_were_trained(given, tmp_path, monkeypatch):
    """And none takes the place of one that was trained in another way."""
    monkeypatch.setattr(fastfood, "measured", lambda name, *_: [
        {"network": name, "precision": "fp32", "seed": _[-1], "error %": 1.0, "test images": 60}])
    given = [*given, "--seeds", "1", "--out", str(tmp_path / "out"), "--device", "portable"]
    for more in (["--shift", "0"], ["--shift", "2"], ["--shift", "2"]):
        assert fastfood.main([*given, "--again", *more]) == 0
    assert "bfloat16" not in "".join(document(tmp_path, "fastfood")["differs"])
    assert fastfood.main([*given, "--shift", "2", "--network", "lenet", "--bfloat16"]) == 0
    found = document(tmp_path, "fastfood")
    assert [(row["network"], row["shift"], row["bfloat16"]) for row in found["ours"]] == [
        ("lenet", 0, False), ("adaptive-1024", 0, False), ("lenet", 2, False),
        ("adaptive-1024", 2, False), ("lenet", 2, True)]
    assert {(row["epochs"], row["rate"], row["diagonals"]) for row in found["ours"]} == {
        (1, fastfood.RATE, fastfood.DIAGONALS)}
    said = "\n".join(found["differs"])
    assert said.count("points apart") == 2 and "in fp32 with shift 0, bfloat16 no, mean" in said
    assert "the 60 images" in said
    assert "Where `bfloat16` is yes" in said and "--times" not in said
    times = [*fastfood.differs([{"table": "time", "dense us": 1.0}])]
    assert len(times) == 1 and "--times" in times[0]


def test_times_of_a_mixture_need_no_trained_rows(given, tmp_path, monkeypatch):
    rows = [{"table": "time", "images": images, "precision": "fp32", "rounds": 5, "runs": 100,
             "ms, 3 of 9": 1.0, "ms, all 9": 2.0, "ratio": 0.5}
            for images in (1, lenet_moe.TOGETHER)]
    monkeypatch.setattr(lenet_moe, "batches", lambda *_: rows)
    monkeypatch.setattr(lenet_moe, "accuracies", lambda folder, test, device: [
        {"network": name, "precision": "fp32", "accuracy %": 9.0, "test images": len(test[0])}
        for name in lenet_moe.NAMES])
    given = [*given, "--out", str(tmp_path / "out"), "--device", "portable"]
    assert lenet_moe.main([*given, "--measure"]) == 0
    alone = document(tmp_path, "mixture-lenet")["differs"]
    assert "--measure" in alone[0] and not any("epochs" in each or "nan" in each for each in alone)
    assert lenet_moe.main([*given, "--seeds", "1"]) == 0
    found = document(tmp_path, "mixture-lenet")
    assert [row["seed"] for row in found["ours"][2:]] == [1, 1]
    assert found["differs"][0].startswith("1 epochs of 300 images")
    assert "There are 60 test images." in found["differs"]
    assert not any("bfloat16" in each for each in found["differs"])
    assert all(each in found["differs"] for each in alone)


def test_what_files_of_bsq_hold_beside_their_planes():
    title = "With hidden dense layers of 8 and 9 outputs (--hidden)"
    rows = [{"alpha": alpha, "file bytes": planes + more, "weight bytes": planes,
             "times smaller": 4_000 / planes, "file above planes %": 100 * more / planes} | extra
            for alpha, planes, more, extra in (
                (0.1, 500, 100, {}), (0.2, 250, 1_100, {}),
                (0.25, 400, 8, {"table": title, "hidden": "8 9"}),
                (0.5, 400, 8, {"table": title, "hidden": "8 9"}))]
    rows.append({"alpha": None, "file bytes": 4_100, "weight bytes": 4_000, "times smaller": 1.0})
    assert [*bsq.differs(rows)][-2:] == [
        "without hidden dense layers, 1,000 weights, they are larger by 100 to 1,100 bytes, "
        "20.0 to 440.0 %",
        "with hidden dense layers of 8 and 9 outputs (--hidden), 1,000 weights, they are larger "
        "by 8 bytes, 2.0 %; the command with `--hidden 8 9 --alpha 0.25 0.5`"]
