"""Fastfood against products of matrices, in every form of its kernels."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as matrix_of

from edgerun.errors import ModelError
from edgerun.ops import Facts
from edgerun.ops.fastfood import PARTED, fastfood, generator, permutation
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph
from edgerun.tools.reference.fastfood import hadamard
from tests.harness import Const, Quantized, check_integer, check_mixed, check_op
from tests.ops.test_copy import as_gpu


def operands(samples, inputs: int, outputs: int, d: int, perm: str = "int16", bias: bool = True
             ) -> list:
    """x, B, G, S, the permutation and the bias of a layer."""
    rng = np.random.default_rng(inputs + 7 * outputs + 31 * d)
    blocks = -(-outputs // d)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    found = [numbers(*np.atleast_1d(samples), inputs), *(Const(numbers(blocks, d)) for _ in "BGS")]
    order = np.stack([rng.permutation(d) for _ in range(blocks)])
    found.append(Const(order.astype(perm)) if perm else None)
    found.append(Const(numbers(outputs)) if bias else None)
    while found[-1] is None:
        found.pop()
    return found


def dense(d: int) -> np.ndarray:
    return matrix_of(d) / np.sqrt(d)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("samples, inputs, outputs, d, perm, bias, options", [
    (1, 2, 1, 2, "int16", True, {}), (3, 3, 9, 4, "", False, {"seed": 5}),
    (2, 7, 8, 8, "int32", True, {"activation": "relu"}), ((2, 3), 13, 40, 16, "", True, {}),
    (5, 17, 33, 32, "int16", False, {"activation": "tanh"}),
    (1, 1, 100, 64, "", True, {"seed": 2**32 - 1}), (2, 100, 128, 128, "int16", True, {}),
    (1, 800, 2048, 1024, "", True, {"activation": "clip", "alpha": -0.5, "beta": 0.7})])
def test_layers(device, samples, inputs, outputs, d, perm, bias, options, precision, monkeypatch):
    """By a work-item for each block, and by one launch for some bits after the other."""
    given = operands(samples, inputs, outputs, d, perm, bias)
    found = check_op(device, "fastfood", given, 1e-5, precision, outputs=outputs, **options)["y0"]
    as_gpu(device, monkeypatch)
    parts = check_op(device, "fastfood", given, 1e-5, precision, outputs=outputs, **options)["y0"]
    assert np.abs(parts - found).max() <= (1e-5 if precision == "fp32" else 2e-3) * max(
        1, np.abs(found).max())


@pytest.mark.parametrize("d", [2**k for k in range(1, 13)])
def test_the_transform(device, d):
    """H times G, against the matrix; and H H = 1."""
    rng = np.random.default_rng(d)
    ones, order = Const(np.ones((1, d), np.float32)), Const(np.arange(d, dtype=np.int16)[None])
    g, x = (rng.normal(size=(1, d)).astype(np.float32) for _ in range(2))
    first = np.zeros((1, d), np.float32)
    first[0, 0] = np.sqrt(d)  # whose transform is 1 everywhere
    for precision, tolerance in (("fp32", 1e-5), ("fp16", 2e-3)):
        found = check_op(device, "fastfood", [first, ones, Const(g), ones, order], 1e-5, precision,
                         outputs=d)["y0"]
        expected = g @ dense(d)
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
        twice = check_op(device, "fastfood", [x, ones, ones, ones, order], 1e-5, precision,
                         outputs=d)["y0"]
        assert np.abs(twice - x).max() < tolerance * np.abs(x).max()


def test_a_product_of_matrices(device):
    """800 inputs and 2048 outputs, S H G P H B written out."""
    d, given = 1024, operands(4, 800, 2048, 1024, "int16", False)
    found = check_op(device, "fastfood", given, 1e-5, outputs=2048)["y0"]
    b, g, s, order = (c.array for c in given[1:])
    rows = [np.diag(s[n].astype(np.float64)) @ dense(d) @ np.diag(g[n]) @ np.eye(d)[order[n]]
            @ dense(d) @ np.diag(b[n]) for n in range(2)]
    expected = given[0] @ np.concatenate(rows)[:, :800].T
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("samples", [1, 3])
def test_sizes_of_several_launches(device, samples):
    """9216 -> 16384, as behind AlexNet's convolutions: in parts for one sample, on a CPU too."""
    given = operands(samples, 9216, 16384, 16384, "", True)
    check_op(device, "fastfood", given, 1e-5, outputs=16384, seed=11, activation="relu")


@pytest.mark.parametrize("outputs", [37, 128])
@pytest.mark.parametrize("types", [("fp32", "fp16"), ("fp16", "fp32")])
def test_another_type_of_the_output(device, outputs, types):
    check_mixed(device, "fastfood", operands(3, 50, outputs, 64), types, outputs=outputs)


@pytest.mark.parametrize("dtype, scale, zero", [("uint8", 0.02, 130), ("int16", 1e-4, 0)])
@pytest.mark.parametrize("gpu", [False, True])
def test_integers(device, dtype, scale, zero, gpu, monkeypatch):
    """Read and written as numbers: at most a step from the reference, where a sum lies between."""
    if gpu:
        as_gpu(device, monkeypatch)
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    for inputs, outputs, d in ((13, 9, 16), (100, 300, 128), (2, 3, 2)):
        x = rng.integers(info.min, info.max + 1, (2, inputs)).astype(dtype)
        given = operands(2, inputs, outputs, d)[1:]
        y = Quantization.per_tensor(40 * scale, zero)
        found = check_integer(device, "fastfood", [Quantized(x, scale, zero), *given], dtype, y,
                              within=1, outputs=outputs, activation="relu")
        assert outputs < 4 or len({*found.ravel().tolist()}) > 2


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.data())
def test_any_sizes(device, k, data):
    d = 2**k
    inputs = data.draw(st.integers(1, d))
    outputs = data.draw(st.integers(1, 3 * d))
    samples = data.draw(st.integers(1, 3))
    perm = data.draw(st.sampled_from(["", "int16", "int32"]))
    check_op(device, "fastfood", operands(samples, inputs, outputs, d, perm), 1e-5,
             outputs=outputs, seed=data.draw(st.integers(0, 2**32 - 1)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_generated_permutations(seed, k):
    """Each is one to one; blocks and seeds have different ones."""
    found = permutation(seed, 3, 2**k)
    assert np.array_equal(np.sort(found), np.tile(np.arange(2**k), (3, 1)))
    if k > 6:
        assert (found[0] != found[1]).any() and (found[0] != permutation(seed ^ 1, 1, 2**k)).any()
        assert abs(np.corrcoef(found[0], np.arange(2**k))[0, 1]) < 0.6


def test_the_generator_is_as_documented():
    """Numbers that a file may rely on."""
    z = (2654435769 + 1) & 0xFFFFFFFF
    z = (747796405 * z + 2891336453) % 2**32
    assert generator(1, 0)[0][0] == (z ^ z >> 15) | 1
    assert permutation(1, 1, 16).tolist() == [
        [1, 2, 6, 9, 10, 13, 3, 12, 15, 11, 7, 5, 4, 14, 8, 0]]


def test_the_reference():
    x = np.random.default_rng(4).normal(size=(2, 32))
    assert np.allclose(hadamard(x), x @ dense(32)) and np.allclose(hadamard(hadamard(x)), x)


def test_forms():
    """One launch on a CPU, unless a transform is long and cores would have nothing to do."""
    def kernels(facts: Facts, samples: int, d: int) -> list[str]:
        graph = Graph("test")
        diagonals = [graph.constant(np.ones((1, d), np.float32)) for _ in "BGS"]
        graph.add("fastfood", [graph.input("x", (samples, d), "fp32"), *diagonals], outputs=d)
        return [launch.kernel for launch in fastfood(graph.ops[0], facts)]

    cpu, gpu = Facts(compute_units=2), Facts("gpu", lanes=4)
    assert kernels(cpu, 1, PARTED) == kernels(cpu, 2, 2 * PARTED) == ["whole"]
    assert kernels(cpu, 1, 16384) == ["start", "on_u", "on_u", "gather", "on_v", "finish"]
    assert kernels(gpu, 1, 4) == ["start", "once"]
    assert kernels(gpu, 1, 64) == ["start", "on_u", "gather", "finish"]


def refused(message: str, change, **options):
    """Require that a layer 5 -> 20 of d = 8 is refused once one of its operands is changed."""
    graph = Graph("test")
    x, *others = operands(2, 5, 20, 8)
    inputs = {"x": graph.input("x", x.shape, "fp32"),
              **{name: graph.constant(c.array, name) for name, c in zip("bgspc", others)}}
    change(graph, inputs)
    with pytest.raises(ModelError, match=message):
        graph.add("fastfood", [*inputs.values()], **{"outputs": 20, **options})


@pytest.mark.parametrize("message, name, shape, dtype", [
    ("is a scalar", "x", (), "fp32"), ("x has 9 elements in a row, more than the 8", "x", (2, 9),
                                       "fp32"),
    ("needed 2 dimensions", "b", (24,), "fp32"), ("a power of two of 2", "b", (3, 7), "fp32"),
    ("a power of two of 2", "b", (3, 1), "fp32"), ("diagonals of the shapes", "g", (2, 8), "fp32"),
    ("diagonals of the shapes", "s", (3, 16), "fp32"), ("mixes the dtypes", "s", (3, 8), "fp16"),
    ("b is int32, needed fp32 or fp16", "b", (3, 8), "int32"),
    ("p has the shape", "p", (2, 8), "int16"), ("p is int8, needed int16 or int32", "p", (3, 8),
                                                "int8"),
    ("c has the shape", "c", (24,), "fp32"), ("c is fp16, needed fp32", "c", (20,), "fp16")])
def test_what_does_not_fit(message, name, shape, dtype):
    def change(graph: Graph, inputs: dict) -> None:
        numpy_dtype = {"fp32": np.float32, "fp16": np.float16}.get(dtype, dtype)
        inputs[name] = (graph.input("x2", shape, dtype) if name == "x" else
                        graph.constant(np.zeros(shape, numpy_dtype), name))
        inputs[name].name = name
    refused(message, change)


def test_options_that_do_not_fit():
    for outputs in (0, 16, 25):
        refused(f"has {outputs} outputs of 3 blocks of 8", lambda *_: None, outputs=outputs)
    refused("the unknown activation 'none'", lambda *_: None, activation="none")


def test_too_many_numbers():
    graph = Graph("test")
    diagonals = [graph.constant(np.zeros((1, 1024), np.float32)) for _ in "BGS"]
    with pytest.raises(ModelError, match="transforms 268436480 numbers at once"):
        graph.add("fastfood", [graph.input("x", (2**18 + 1, 2), "fp32"), *diagonals], outputs=1)


def test_a_long_permutation_of_short_integers():
    graph = Graph("test")
    d = 2**16
    diagonals = [graph.constant(np.zeros((1, d), np.float32)) for _ in "BGS"]
    order = graph.constant(np.zeros((1, d), np.int16), "order")
    with pytest.raises(ModelError, match="order is int16, needed int32"):
        graph.add("fastfood", [graph.input("x", (1, 2), "fp32"), *diagonals, order], outputs=1)
