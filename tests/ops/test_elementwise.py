"""Elementwise kernels against NumPy."""
import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import Facts, elementwise
from edgerun.tools.graph import Graph
from edgerun.tools.reference import elementwise as reference
from tests.harness import Const, check_mixed, check_op

DOMAIN = {  # kinds that are not defined everywhere
    "log": (0.1, 9), "sqrt": (0, 9), "rsqrt": (0.1, 9), "reciprocal": (0.1, 3), "asin": (-1, 1),
    "acos": (-1, 1), "atanh": (-0.9, 0.9), "acosh": (1, 9), "tan": (-1, 1)}


def numbers(shape, low=-4.0, high=4.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", sorted(elementwise.UNARY))
def test_unary(device, kind, precision):
    """Every kind, on a length that is no multiple of any vector."""
    x = numbers((3, 37), *DOMAIN.get(kind, (-4, 4)))
    check_op(device, "unary", [x], 2e-6 if precision == "fp32" else 2e-3, precision, kind=kind,
             alpha=0.75, beta=1.5)


@pytest.mark.parametrize("kind", sorted(elementwise.UNARY_INT))
def test_unary_int32(device, kind):
    x = np.random.default_rng(1).integers(-1000, 1000, (5, 13)).astype(np.int32)
    check_op(device, "unary", [x], 0, kind=kind)


def test_unary_bool(device):
    x = np.random.default_rng(2).integers(0, 2, 67).astype(bool)
    check_op(device, "unary", [x], 0, kind="not")


def test_every_kind_has_a_reference():
    unary = {*elementwise.UNARY, *elementwise.UNARY_INT, *elementwise.UNARY_BOOL}
    assert unary == {*reference.UNARY}
    assert {*elementwise.BINARY} == {*reference.BINARY}


@pytest.mark.parametrize("kind", [k for k, (f, _) in elementwise.BINARY.items() if f])
def test_binary_float(device, kind):
    low = 0.5 if kind in ("pow", "div", "floor_div", "floor_mod", "fmod") else -4
    a, b = numbers((3, 35), low, 4, 3), numbers((3, 35), low, 4, 4)
    check_op(device, "binary", [a, b], 2e-6, kind=kind)


@pytest.mark.parametrize("kind", [k for k, (_, i) in elementwise.BINARY.items() if i])
def test_binary_int32(device, kind):
    rng = np.random.default_rng(5)
    a = rng.integers(-50, 50, (3, 35)).astype(np.int32)
    b = rng.integers(1, 9, (3, 35)).astype(np.int32) * rng.choice([-1, 1], (3, 35)).astype(np.int32)
    if kind in ("and", "or", "xor"):
        a, b = a % 2 == 0, b % 2 == 0
    if kind.startswith("shift"):
        b = rng.integers(-3, 40, (3, 35)).astype(np.int32)  # by more than there are bits, too
    check_op(device, "binary", [a, b], 0, kind=kind)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shapes", [
    ((1,), (1,)), ((2, 3, 5, 64), (64,)), ((2, 3, 5, 7), (2, 3, 5, 1)), ((4, 1, 6), (1, 5, 1)),
    ((2, 1, 3, 1, 5), (1, 4, 1, 6, 1)), ((17,), ()), ((), (3, 33)), ((1, 9, 1, 31), (8, 9, 1, 31)),
    ((2, 2, 2, 2, 2, 2, 3), (2, 1, 2, 1, 2, 1, 3)), ((3, 250, 21), (3, 1, 21)),
    ((2, 2500, 2), (2, 1, 2)), ((300, 47), (47,)), ((250, 49), (49,)), ((130, 3, 5000), (3, 1))])
def test_broadcast(device, shapes, precision):
    a, b = numbers(shapes[0], seed=6), numbers(shapes[1], seed=7)
    check_op(device, "binary", [a, b], 1e-6, precision, kind="sub")
    check_op(device, "binary", [a, Const(b)], 1e-6, precision, kind="add", activation="relu")


@pytest.mark.parametrize("activation", ["relu", "clip", "leaky_relu", "hard_swish", "sigmoid"])
def test_fused_activation(device, activation):
    check_op(device, "binary", [numbers((5, 21), seed=8), numbers((5, 21), seed=9)], 2e-6,
             kind="mul", activation=activation, alpha=0.25, beta=3.0)


def test_shapes_that_do_not_broadcast():
    graph = Graph()
    a, b = graph.input("a", (2, 3), "fp32"), graph.input("b", (2, 4), "fp32")
    with pytest.raises(ModelError, match=r"\(2, 3\) and \(2, 4\) do not broadcast"):
        graph.add("binary", [a, b], kind="add")


def test_unknown_kind():
    graph = Graph()
    with pytest.raises(ModelError, match="no kind 'frobnicate'"):
        graph.add("unary", [graph.input("a", (2,), "fp32")], kind="frobnicate")


def test_mixed_dtypes():
    graph = Graph()
    a, b = graph.input("a", (2,), "fp32"), graph.input("b", (2,), "int32")
    with pytest.raises(ModelError, match="mixes the dtypes fp32, int32"):
        graph.add("binary", [a, b], kind="add")


@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16", "fp32")])
def test_output_of_another_precision(device, precisions):
    """An op that may be mixed rounds its result to the stored type of the output."""
    check_mixed(device, "unary", [numbers((5, 21))], precisions, kind="exp")
    check_mixed(device, "binary", [numbers((5, 21)), Const(numbers((21,), seed=3))], precisions,
                kind="mul")


@pytest.mark.parametrize("kind", ["div", "floor_div", "floor_mod", "fmod"])
def test_integer_division_by_zero(device, kind):
    """Undefined in OpenCL C, so it is defined here: 0, as in NumPy."""
    a = np.arange(-20, 20, dtype=np.int32)
    found = check_op(device, "binary", [a, np.zeros(40, np.int32)], 0, kind=kind)
    assert not found["y0"].any()


@pytest.mark.parametrize("length", [64, 4096 + 48, 8192 + 5, 2 * elementwise.LONG_RUN + 48])
def test_stores_past_caches(device, monkeypatch, length):
    """Large results, of whole vectors or not: the same numbers, and nothing beside them."""
    monkeypatch.setattr(elementwise, "CACHES", 0)
    x, rows = numbers((length,)), numbers((3, length), seed=1)
    check_op(device, "unary", [x], 2e-6, kind="silu")
    check_op(device, "binary", [x, x], 2e-6, kind="mul", activation="relu")
    check_op(device, "binary", [rows, x], 2e-6, kind="add")
    check_op(device, "binary", [rows, rows[:, :1]], 2e-6, kind="sub")


def test_only_large_results_of_a_cpu_go_past_caches():
    graph = Graph("g")

    def defines(shape, dtype="fp32", kind="cpu", op="unary"):
        xs = [graph.input(f"x{len(graph.inputs)}", shape, dtype) for _ in range(2)]
        inputs = xs[:1] if op == "unary" else xs
        y = graph.add(op, inputs, "y", kind="relu" if op == "unary" else "add")
        prepare = elementwise.unary if op == "unary" else elementwise.binary
        return prepare(graph.ops[-1], Facts(kind=kind))[0].defines, y

    large = (elementwise.CACHES // 4 + 16,)
    for op in ("unary", "binary"):
        assert defines(large, op=op)[0]["PAST_CACHES"] == 1
        for other in ({"shape": (elementwise.CACHES // 4,)}, {"shape": large, "kind": "gpu"},
                      {"shape": large, "dtype": "fp16"}, {"shape": large, "dtype": "int32"}):
            assert "PAST_CACHES" not in defines(**other, op=op)[0]
    assert "PAST_CACHES" not in defines((large[0] + 1,), op="binary")[0]  # ends overlap
