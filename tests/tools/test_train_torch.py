"""Schemes of quantization-aware training as PyTorch modules, and their way into a file."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun.errors import InputError, UnsupportedError

torch = pytest.importorskip("torch", reason="training is not checked: it needs pip install "
                            "'.[train]', which is too large for every test run")

from torch import nn  # noqa: E402

from edgerun.tools import reference  # noqa: E402
from edgerun.tools.importers import onnx as importer  # noqa: E402
from edgerun.tools.train import (activations, codes, data, export, layers, loop,  # noqa: E402
                                 rounding, transfer, weights)

SCHEMES = {
    "symmetric": lambda: weights.Symmetric(8),
    "min_max": lambda: weights.MinMax(5),
    "dorefa1": lambda: weights.Dorefa(1),
    "dorefa2": lambda: weights.Dorefa(2),
    "dorefa4": lambda: weights.Dorefa(4),
    "binary": weights.Binary,
    "binary_connect": lambda: weights.Binary(scaled=False),
    "ternary": weights.Ternary,
    "trained_ternary": weights.TrainedTernary,
    "power_of_two": weights.PowerOfTwo,
    "fixed": lambda: weights.Fixed(8),
}
ROUNDED = {
    "clipped": lambda: activations.Clipped(2),
    "learned": lambda: activations.Clipped(8, 3.0, learned=True),
    "ranged": lambda: activations.Ranged(8),
    "ranged5": lambda: activations.Ranged(5),
    "fixed_point": lambda: activations.FixedPoint(8),
    "sign": activations.Sign,
    "relu": nn.ReLU,
}


def network(scheme, activation) -> nn.Sequential:
    """A small network of every kind of layer: [N, 1, 8, 8] -> [N, 10]."""
    torch.manual_seed(0)
    return nn.Sequential(
        activations.Pixels(), layers.Conv(1, 6, 3, weights.Symmetric(8)), nn.BatchNorm2d(6),
        nn.Sequential(activation(), nn.MaxPool2d(2)),
        layers.Conv(6, 17, 3, scheme(), padding=1, bias=True), nn.BatchNorm2d(17), activation(),
        nn.Dropout(0.1), nn.Flatten(), layers.Dense(17 * 9, 33, scheme()), nn.BatchNorm1d(33),
        activation(), layers.Dense(33, 10, weights.Symmetric(8), bias=True))


def samples(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (count, 1, 8, 8), generator=generator).float() / 255
    return x, (x.mean((1, 2, 3)) * 20).long() % 10


def trained(scheme, activation) -> nn.Sequential:
    """A network after some steps, with factors below 0 among its normalizations."""
    result = network(scheme, activation)
    loop.train(result, *samples(), epochs=3, batch=16, log=None)
    if scheme is not weights.TrainedTernary:
        with torch.no_grad():
            result[2].weight[::3] *= -1
            result[5].weight[::4] *= -1
    return result


@pytest.mark.parametrize("name", SCHEMES)
def test_network_and_file_compute_with_the_same_weights(name):
    """What a layer multiplies by in evaluation is what its codes stand for."""
    result = trained(SCHEMES[name], lambda: activations.Clipped(8))
    for layer in layers.layers_of(result):
        w = layer.scheme(layer.weight).detach().numpy()
        step = float(layer.scheme.codes(layer.weight).scale[-1].max())
        # learned scales are whole steps of 1/127 in a file
        exact = 0.5 * step if name == "trained_ternary" else 4e-7
        np.testing.assert_allclose(layer.scheme.codes(layer.weight).decode(), w, rtol=0,
                                   atol=exact)


@pytest.mark.parametrize("scheme, activation", [
    *(("dorefa2", activation) for activation in ROUNDED),
    ("binary", "sign"), ("ternary", "learned"), ("power_of_two", "learned")])
def test_exported_network_computes_the_same(scheme, activation, tmp_path):
    result = trained(SCHEMES[scheme], ROUNDED[activation])
    export.write(result, tmp_path / "m.onnx", (1, 8, 8))
    graph = importer.load(tmp_path / "m.onnx")
    x = samples(8)[0]
    wanted = loop.outputs(result, x).numpy()
    found = np.concatenate([reference.execute(graph, {"image": image[None].numpy()})["logits"]
                            for image in x])
    # a value in the middle between two integers may fall to either side
    close = np.isclose(found, wanted, rtol=1e-3, atol=1e-3).all(1)
    assert close.sum() >= 7, np.abs(found - wanted).max(1)


@pytest.mark.parametrize("scheme", ["dorefa2", "binary", "ternary", "power_of_two", "min_max"])
def test_normalization_below_zero_turns_codes_over(scheme):
    layer = layers.Conv(3, 8, 3, SCHEMES[scheme]())
    norm = nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, 8))
        norm.running_mean.normal_()
    stored = layer.scheme.codes(layer.weight)
    found, bias = export.folded(stored, np.zeros(8), norm)
    factor, shift = layers.affine(norm, stored.bits)
    for planes in (range(1, stored.bits + 1) if not stored.table else [stored.bits]):
        np.testing.assert_allclose(found.decode(planes),
                                   stored.decode(planes) * factor.reshape(-1, 1, 1, 1), rtol=1e-5,
                                   atol=1e-6)
    np.testing.assert_allclose(bias, np.broadcast_to(shift, bias.shape), rtol=1e-6)
    assert (found.scale[1:] > 0).all()


def test_table_that_is_not_symmetric_refuses_a_factor_below_zero():
    norm = nn.BatchNorm2d(4).eval()
    norm.weight.data[1] = -1
    stored = codes.trained_ternary(np.float32(np.linspace(-1, 1, 16)).reshape(4, 4), 0.2, 0.3)
    with pytest.raises(UnsupportedError, match="table that is not symmetric"):
        export.folded(stored, np.zeros(4), norm)


def test_export_names_a_module_that_it_cannot_write(tmp_path):
    with pytest.raises(UnsupportedError, match="Softplus.*cannot be written"):
        export.write(nn.Sequential(nn.Softplus()), tmp_path / "m.onnx", (1, 8, 8))


def _exported(network: nn.Module, x: torch.Tensor, path: Path) -> np.ndarray:
    """Return what the file of a network computes of one image."""
    export.write(network, path, x.shape)
    return reference.execute(importer.load(path), {"image": x[None].numpy()})["logits"]


@pytest.mark.parametrize("pool", [nn.MaxPool2d((3, 2)), nn.MaxPool2d(2, (1, 3), (0, 0)),
                                  nn.MaxPool2d(2, dilation=(2, 3))])
def test_pools_are_written_as_they_are(pool, tmp_path):
    count = pool(torch.zeros(1, 9, 8)).numel()
    network = nn.Sequential(pool, nn.Flatten(), layers.Dense(count, 10))
    x = samples(1)[0][0].repeat(1, 2, 1)[:, :9]
    found = _exported(network, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, loop.outputs(network, x[None]).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, padding=1),
                                  nn.MaxPool2d(3, padding=(0, 1))])
def test_pools_that_cannot_be_written_are_refused(pool, tmp_path):
    with pytest.raises(UnsupportedError, match="MaxPool2d.*cannot be written as ONNX"):
        export.write(nn.Sequential(pool), tmp_path / "m.onnx", (1, 9, 9))


@pytest.mark.parametrize("scheme", ["fixed", "none"])
def test_normalization_without_factors_of_its_own(scheme, tmp_path):
    layer = layers.Conv(1, 6, 3, SCHEMES[scheme]() if scheme != "none" else None)
    norm = nn.BatchNorm2d(6, affine=False)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    network = nn.Sequential(layer, norm, nn.Flatten(), layers.Dense(6 * 36, 10)).eval()
    x = samples(1)[0][0]
    found = _exported(network, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(found, loop.outputs(network, x[None]).numpy(), rtol=1e-4, atol=1e-5)
    network[1] = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(UnsupportedError, match="keeps no statistics"):
        export.write(network, tmp_path / "m.onnx", x.shape)


def test_power_of_two_freezes_the_largest_first():
    scheme, w = weights.PowerOfTwo(5, (0.5, 1.0), (0.5, 0.9)), torch.randn(16, 33)
    before = w.clone()
    scheme.progress(0.4, w)
    assert scheme(w) is w
    scheme.progress(0.5, w)
    assert int(scheme.frozen.sum()) == w.numel() // 2
    assert w.abs()[scheme.frozen].min() >= w.abs()[~scheme.frozen].max()
    w += 0.01  # what is frozen stays
    np.testing.assert_array_equal(scheme(w)[scheme.frozen], scheme.values[scheme.frozen])
    np.testing.assert_array_equal(scheme(w)[~scheme.frozen], before[~scheme.frozen] + 0.01)
    x = w.clone().requires_grad_()
    scheme(x).sum().backward()
    np.testing.assert_array_equal(x.grad != 0, ~scheme.frozen)
    scheme.progress(1.0, w)
    assert bool(scheme.frozen.all())


def test_symmetric_weights_of_one_bit_are_refused():
    with pytest.raises(ValueError, match="1 bits have no symmetric steps, needed 2 or more"):
        weights.Symmetric(1)
    scheme = weights.Symmetric(8)
    scheme.bits = 1  # as cyclic precision changes it
    with pytest.raises(ValueError, match="1 bits have no symmetric steps"):
        scheme(torch.ones(3, 4))


def test_dynamic_fixed_point_follows_overflows():
    scheme, w = weights.Fixed(8, every=1), torch.linspace(-0.9, 0.9, 256)[None]
    scheme(w)
    assert scheme.fraction == 7
    scheme.settle(w * 3)
    assert scheme.fraction == 6
    for _ in range(3):
        scheme.settle(w / 9)
    assert scheme.fraction == 9


def test_learned_ternary_scales_get_their_gradients():
    scheme, w = weights.TrainedTernary(), torch.tensor([[1.0, 0.01, -0.5]], requires_grad=True)
    scheme(w).backward(torch.tensor([[2.0, 3.0, 5.0]]))
    assert float(scheme.positive.grad) == 2 and float(scheme.negative.grad) == -5
    np.testing.assert_allclose(w.grad, [[0.2, 3.0, 0.5]])


def test_straight_through_is_exact():
    x = torch.tensor([0.3, -1.2], requires_grad=True)
    y = weights.through(x.round(), x)
    np.testing.assert_array_equal(y.detach(), [0, -1])
    (y * torch.tensor([2.0, 3.0])).sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 3])


def test_cyclic_hook_sets_every_precision():
    result = network(lambda: weights.MinMax(8), lambda: activations.Ranged(8))
    seen = []

    class Watch(loop.Hook):
        def before(self, net, step, steps):
            seen.append({m.bits for m in net.modules() if hasattr(m, "bits")})

    loop.train(result, *samples(), epochs=4, batch=16, log=None,
               hooks=(loop.Cyclic(3, 8, 2), Watch()))
    assert seen[0] == seen[8] == {3} and seen[7] == seen[15] == {8}
    loop.train(result, *samples(), epochs=1, batch=16, log=None, hooks=(loop.Cyclic(3, 8, 4),))
    assert seen[-1] == {8}
    assert {m.bits for m in result.modules() if hasattr(m, "bits")} == {8}


def test_gradients_are_rounded_at_random():
    torch.manual_seed(0)
    x, given = torch.randn(200, 50, requires_grad=True), torch.randn(200, 50)
    y = layers.coarse(x, 3)
    np.testing.assert_array_equal(y.detach(), x.detach())
    drawn = torch.stack([torch.autograd.grad(y, x, given, retain_graph=True)[0]
                         for _ in range(400)])
    low, high = given.min(), given.max()
    steps = (drawn - low) / (high - low) * 7
    np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
    assert steps.min() > -0.1 and steps.max() < 7.1
    step = float(high - low) / 7  # a value is off by less than a step, its mean by little
    assert float((drawn - given).abs().max()) < step * 1.001
    assert float((drawn.mean(0) - given).abs().max()) < step * 0.5 / 400 ** 0.5 * 5
    for same in (given * 0, given * 0 + 2):
        np.testing.assert_array_equal(torch.autograd.grad(y, x, same, retain_graph=True)[0], same)
    assert layers.coarse(x, None) is x


@pytest.mark.parametrize("layer", [layers.Conv(4, 9, 1, bias=True), layers.Dense(4, 9, bias=True)])
def test_gradients_of_layers_are_rounded_while_they_train(layer):
    seen = []

    class Watch(loop.Hook):
        def after(self, net, step, steps):
            seen.append(layer.bias.grad.unique().numel())

    x = torch.randn(1, 4, 1, 1) if isinstance(layer, layers.Conv) else torch.randn(1, 4)
    network = nn.Sequential(layer, nn.Flatten())
    loop.train(network, x, torch.tensor([3]), epochs=2, batch=1, log=None,
               hooks=(loop.Gradients(1), Watch()))
    assert seen == [2, 2]  # one sample: the bias' gradient is the output's
    loop.train(network, x, torch.tensor([3]), epochs=1, batch=1, log=None, hooks=(Watch(),))
    assert seen[2] > 2


@pytest.mark.parametrize("stochastic", [False, True])
def test_parameters_stay_in_fixed_point(stochastic):
    result = network(weights.Weights, nn.ReLU)
    loop.train(result, *samples(), epochs=1, batch=16, log=None,
               hooks=(loop.FixedPoint(1, 6, stochastic),))
    for p in result.parameters():  # factors of 1 do not fit, and saturate
        np.testing.assert_array_equal(rounding.fixed(p.detach(), 1, 6), p.detach())
    assert any(bool((p % 1 != 0).any()) for p in result.parameters())


def test_training_is_the_same_twice():
    losses = []
    for _ in range(2):
        losses.append(loop.train(network(weights.Ternary, nn.ReLU), *samples(), epochs=2, batch=16,
                                 augment=data.shifted, log=None))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_parameters_with_a_rate_of_their_own(momentum):
    """After one step of a rate that is not yet falling; those of rate 0 stay."""
    def moved(*parts) -> list[float]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        before = [p.detach().clone() for p in layer.parameters()]
        x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
        loop.train(layer, x, y, epochs=1, batch=4, momentum=momentum, log=None,
                   parts=[([getattr(layer, name)], part) for name, part in parts])
        return [float((p.detach() - b).norm()) for p, b in zip(layer.parameters(), before)]

    weight, bias = moved()
    assert moved(("weight", 3.0)) == pytest.approx([3 * weight, bias], rel=1e-3)
    assert moved(("weight", 0.0), ("bias", 0.5)) == pytest.approx([0, bias / 2], rel=1e-3)


def test_images_are_read_and_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((3, 4, 5, 3), 51, np.uint8),
             labels=np.arange(3, dtype=np.uint8))
    x, y = data.images(tmp_path / "a.npz", limit=2)
    assert x.shape == (2, 3, 4, 5) and y.tolist() == [0, 1] and bool((x == 0.2).all())
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 4), np.uint8), labels=np.zeros(3))
    with pytest.raises(InputError, match=r"images uint8 \(3, 4\)"):
        data.images(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=np.zeros((3, 4), np.uint8))
    with pytest.raises(InputError, match="needed images and labels"):
        data.images(tmp_path / "c.npz")


def test_likeness_of_samples():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    similar = np.array([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    np.testing.assert_allclose(transfer.likeness(features), similar / similar.sum(1)[:, None],
                               atol=1e-6)
    assert float(transfer.probabilistic(features, features * 7)) == pytest.approx(0, abs=1e-6)
    other = torch.tensor([[1.0, 1.0], [0.0, 3.0], [-1.0, 0.2]])
    p, q = (transfer.likeness(f).double().numpy() for f in (features, other))
    wanted = np.where(p > 0, p * np.log((p + 1e-7) / (q + 1e-7)), 0).mean()
    assert float(transfer.probabilistic(other, features)) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0


def test_soft_targets():
    logits, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -2.0]])
    p = np.exp([1.0, -0.5]) / np.exp([1.0, -0.5]).sum()
    q = np.exp([0.25, 0.5]) / np.exp([0.25, 0.5]).sum()
    wanted = 0.9 * 16 * (p * np.log(p / q)).sum() + 0.1 * np.log(1 + np.exp(1))
    found = transfer.soft_targets(logits, teacher, torch.tensor([0]))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_lessons_train_what_they_say():
    """Transfer leaves the body to the teacher's features and the head to the labels."""
    torch.manual_seed(0)
    student = transfer.Student(nn.Linear(6, 4), 4, 3)
    lessons = transfer.Lessons(torch.randn(8, 3), torch.randn(8, 5), torch.arange(8) % 3)
    labels, logits, features = lessons.apart(lessons.targets[2:6])
    assert labels.tolist() == [2, 0, 1, 2] and logits.shape == (4, 3) and features.shape == (4, 5)
    x = torch.randn(8, 6)
    for objective in (lessons.labels_only, lessons.distilled, lessons.transferred):
        before = objective(student, x, lessons.targets).item()
        loop.train(student, x.repeat(8, 1), lessons.targets.repeat(8, 1), epochs=40, batch=64,
                   rate=1e-2, objective=objective, log=None)
        assert objective(student, x, lessons.targets).item() < before
    labels, _, features = lessons.apart(lessons.targets)
    own = transfer.probabilistic(student.body(x), features)
    plain = nn.functional.cross_entropy(student(x), labels)
    wanted = [*torch.autograd.grad(100 * len(x) * own, student.body.weight),
              *torch.autograd.grad(plain, student.head.weight)]
    found = torch.autograd.grad(lessons.transferred(student, x, lessons.targets),
                                [student.body.weight, student.head.weight])
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        assert one.abs().max() > 1e-4


def test_average_precision_of_retrieval():
    queries, database = np.eye(2), np.array([[1, 0.0], [0.8, 0.6], [0.6, 0.8], [0, 1]])
    labels = np.array([0, 1, 0, 1])
    # the first finds 0 1 0 1 for 0, the second 1 0 1 0 for 1: (1/1 + 2/3) / 2 each
    found = transfer.average_precision(queries, np.array([0, 1]), database, labels)
    assert found == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    """docs/training.md's program runs, and its file answers as PyTorch does."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "train.npz", images=generator.integers(0, 256, (300, 28, 28), np.uint8),
             labels=generator.integers(0, 10, 300))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/training.md", "exec"), {})
    same = float(capsys.readouterr().out.split("same=")[1].split(",")[0])
    assert same >= 99
