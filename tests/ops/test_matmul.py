"""Matrix product kernels against NumPy."""
import dataclasses

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import OPS
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op


def numbers(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def operands(a_batch, b_batch, m, n, k, transpose_a, transpose_b):
    a = numbers((*a_batch, k, m) if transpose_a else (*a_batch, m, k), 1)
    b = numbers((*b_batch, n, k) if transpose_b else (*b_batch, k, n), 2)
    return a, b


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("m, n, k", [
    (1, 1, 1), (1, 64, 33), (7, 1, 20), (2, 3, 5), (3, 17, 16), (4, 16, 64), (9, 40, 65),
    (33, 31, 130), (16, 7, 70), (70, 19, 3), (5, 130, 17), (130, 32, 8)])
def test_sizes(device, m, n, k, transpose_a, transpose_b, precision):
    a, b = operands((), (), m, n, k, transpose_a, transpose_b)
    check_op(device, "matmul", [a, b], 2e-6, precision, transpose_a=transpose_a,
             transpose_b=transpose_b)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("a_batch, b_batch", [
    ((3,), (3,)), ((3,), ()), ((), (3,)), ((2, 1, 3), (4, 1)), ((2, 3), (1, 3)), ((2, 3), (2, 1)),
    ((1, 2, 1, 2, 1, 2), (2, 1, 2, 1, 2, 1)), ((1,), (1, 1))])
def test_batches(device, a_batch, b_batch, transpose_a, transpose_b):
    for m, n, k in ((5, 6, 7), (17, 33, 18)):
        a, b = operands(a_batch, b_batch, m, n, k, transpose_a, transpose_b)
        check_op(device, "matmul", [a, b], 2e-6, transpose_a=transpose_a, transpose_b=transpose_b)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_attention(device, precision):
    """Scores and values of eight heads, as a transformer multiplies them."""
    query, key = numbers((8, 320, 64), 3), numbers((8, 320, 64), 4)
    check_op(device, "matmul", [query, key], 2e-6, precision, transpose_b=True)
    check_op(device, "matmul", [numbers((8, 320, 320), 5), key], 2e-6, precision)


def test_constant_operand(device):
    check_op(device, "matmul", [numbers((2, 9, 24), 6), Const(numbers((24, 18), 7))], 2e-6)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("activation", ["relu", "clip", "gelu", "leaky_relu"])
def test_activation(device, activation, transpose_b):
    for m in (3, 20):
        a, b = operands((), (), m, 21, 13, False, transpose_b)
        check_op(device, "matmul", [a, b], 2e-6, activation=activation, alpha=0.25, beta=0.5,
                 transpose_b=transpose_b)


def test_macs():
    graph = Graph()
    a, b = graph.input("a", (5, 7, 3), "fp32"), graph.input("b", (2, 1, 11, 7), "fp32")
    op = graph.insert(0, "matmul", [a, b], transpose_a=True, transpose_b=True)
    assert op.outputs[0].shape == (2, 5, 3, 11)
    assert OPS["matmul"].macs(op) == 2 * 5 * 3 * 11 * 7


@pytest.mark.parametrize("a_shape, b_shape, options, message", [
    ((4,), (4, 2), {}, "needed 2 to 8 dimensions"),
    ((2, 4), (4,), {}, "needed 2 to 8 dimensions"),
    ((1,) * 7 + (2, 4), (4, 2), {}, "needed 2 to 8 dimensions"),
    ((2, 4), (3, 2), {}, r"multiplies \[2, 4\] by \[3, 2\]"),
    ((2, 4), (4, 2), {"transpose_b": True}, r"multiplies \[2, 4\] by \[2, 4\]"),
    ((2, 4), (4, 2), {"transpose_a": True}, r"multiplies \[4, 2\] by \[4, 2\]"),
    ((3, 2, 4), (2, 4, 2), {}, "do not broadcast"),
    ((2, 4), (4, 2), {"activation": "boom"}, "unknown activation"),
])
def test_invalid(a_shape, b_shape, options, message):
    graph = Graph()
    a, b = graph.input("a", a_shape, "fp32"), graph.input("b", b_shape, "fp32")
    with pytest.raises(ModelError, match=message):
        graph.add("matmul", [a, b], **options)


@pytest.mark.parametrize("a_dtype, b_dtype, message", [
    ("int32", "int32", "is int32"), ("fp32", "fp16", "mixes the dtypes fp16, fp32")])
def test_invalid_dtypes(a_dtype, b_dtype, message):
    graph = Graph()
    a, b = graph.input("a", (2, 4), a_dtype), graph.input("b", (4, 2), b_dtype)
    with pytest.raises(ModelError, match=message):
        graph.add("matmul", [a, b])


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_small_work_items(device, monkeypatch, transpose_a, transpose_b):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for m, n, k in ((1, 70, 30), (19, 23, 37), (16, 3, 5)):
        a, b = operands((2,), (2,), m, n, k, transpose_a, transpose_b)
        check_op(device, "matmul", [a, b], 2e-6, transpose_a=transpose_a, transpose_b=transpose_b)
