"""Recipes that train, over a few images: what they write, and that nothing else differs."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the recipes that train need PyTorch")

import torch  # noqa: E402

from edgerun.tools.recipes import cyclic, rounding, seeds, transfer  # noqa: E402
from edgerun.tools.train import loop  # noqa: E402


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

    def watched(network, *arguments, **options):
        starts.append({name: value.clone() for name, value in network.state_dict().items()})
        return train(network, *arguments, **options)

    monkeypatch.setattr(loop, "train", watched)
    arguments = [*given, "--teacher-epochs", "1", "--out", str(tmp_path / "out")]
    assert transfer.main(arguments) == 0
    found = rows(tmp_path, "knowledge-transfer")
    methods = ["labels only", *transfer.METHODS]
    assert [(row["method"], row["seed"]) for row in found] == [
        ("teacher", 0), *((method, seed) for seed in (1, 2) for method in methods)]
    students = starts[2:]  # the teacher is trained in two parts
    count = len(methods)
    for first, *others in (students[:count], students[count:]):
        for other in others:
            same = [torch.equal(other[name], others[0][name]) for name in other]
            assert all(same) and not torch.equal(other["head.weight"], first["head.weight"])
    starts.clear()
    assert transfer.main(arguments) == 0  # the teacher is taken from its file
    assert len(starts) == 2 * count
