"""Strided copies (reshape, transpose, slice, concat, expand, tile) against NumPy, bit for bit."""
import itertools

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import Facts, copy, tile
from edgerun.tools import passes
from edgerun.tools.graph import Graph
from tests.harness import Const, check_op

DTYPES = ["float32", "float16", "int32", "int16", "int8", "uint8", "bool"]


def values(shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def as_gpu(device, monkeypatch):
    """Make the ops choose launches as for a GPU: small work-items, short vectors."""
    monkeypatch.setattr(device, "facts", Facts(kind="gpu", lanes=4))


def refused(match, code, shape, /, **options):
    graph = Graph()
    with pytest.raises(ModelError, match=match):
        graph.add(code, [graph.input("a", shape, "fp32")], **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape, perm", [
    ((1,), (0,)), ((), ()), ((5, 7), (1, 0)), ((16, 16), (1, 0)), ((33, 66), (1, 0)),
    ((3, 131), (1, 0)), ((131, 3), (1, 0)), ((2, 9, 11, 3), (0, 3, 1, 2)),
    ((2, 3, 9, 11), (0, 2, 3, 1)), ((1, 64, 8, 8), (0, 2, 3, 1)), ((2, 5, 3, 16), (0, 2, 1, 3)),
    ((2, 5, 3, 17), (0, 2, 3, 1)), ((4, 5, 6), (2, 1, 0)), ((7, 3, 5, 2), (3, 2, 1, 0)),
    ((2, 3, 2, 3, 2, 3, 2, 3), (7, 5, 3, 1, 6, 4, 2, 0)), ((6, 1, 5), (1, 2, 0))])
def test_transpose(device, shape, perm, precision):
    check_op(device, "transpose", [values(shape)], 0 if precision == "fp32" else 2e-3, precision,
             perm=perm)


@pytest.mark.parametrize("perm", list(itertools.permutations(range(4))))
def test_transpose_every_order(device, perm):
    check_op(device, "transpose", [values((3, 18, 5, 21))], 0, perm=perm)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(device, dtype):
    x = values((3, 35, 37), dtype)
    check_op(device, "transpose", [x], 0, perm=(0, 2, 1))
    check_op(device, "slice", [x], 0, starts=(1, 30, 2), steps=(1, -3, 1), sizes=(2, 10, 35))
    check_op(device, "concat", [x, x[:, :, :5]], 0, axis=2)
    check_op(device, "concat", [x[..., None], x[..., None] == 0 if dtype == "bool"
                                else x[..., None] // 2], 0, axis=3)
    check_op(device, "tile", [x], 0, repeats=(1, 2, 3))
    check_op(device, "expand", [x[:, :, :1]], 0, shape=(3, 35, 19))


@pytest.mark.parametrize("shape", [(56 * 56, 64), (4097, 19), (19, 4097)])
def test_transpose_of_more_than_a_block(device, shape):
    check_op(device, "transpose", [values(shape)], 0, perm=(1, 0))


@pytest.mark.parametrize("shape, starts, steps, sizes", [
    ((), (), (), ()), ((7,), (0,), (1,), (7,)), ((7,), (6,), (-1,), (7,)),
    ((7,), (6,), (-3,), (3,)), ((9, 40), (2, 3), (1, 1), (5, 33)),
    ((9, 40), (0, 39), (2, -2), (5, 20)),
    ((2, 8, 8, 20), (0, 1, 0, 4), (1, 2, 2, 1), (2, 4, 4, 16)),
    ((2, 8, 8, 20), (1, 7, 7, 19), (-1, -1, -1, -1), (2, 8, 8, 20)),
    ((5, 5), (2, 0), (999999999, 1), (1, 5)),
    ((3, 3, 3, 3, 3, 3, 3, 3), (0, 1, 0, 1, 0, 1, 2, 1), (2, 1, 2, 1, 2, 1, -1, 1),
     (2, 2, 2, 2, 2, 2, 2, 2)), ((1, 1917, 91), (0, 0, 1), (1, 1, 1), (1, 1917, 90))])
def test_slice(device, shape, starts, steps, sizes):
    check_op(device, "slice", [values(shape)], 0, starts=starts, steps=steps, sizes=sizes)


@pytest.mark.parametrize("shapes, axis", [
    ([(3,)], 0), ([(3,), (1,), (9,)], 0), ([(1, 14, 14, 256), (1, 14, 14, 33)], 3),
    ([(2, 3, 4), (2, 5, 4)], 1), ([(2, 3, 4), (2, 3, 4)], -3), ([(5, 2, 1)] * 7, -1),
    ([(1, 13, 13, 64), (1, 13, 13, 64)], -1), ([(70, n) for n in (6, 1, 40, 3, 117, 16)], 1),
    ([(3, 2100, 1), (3, 2100, 1)], 2), ([(1,), (1,)], 0), ([(5000, 2), (9, 2)], 0)])
def test_concat(device, shapes, axis):
    check_op(device, "concat", [values(s, seed=i) for i, s in enumerate(shapes)], 0, axis=axis)


def test_concat_of_a_constant(device):
    check_op(device, "concat", [Const(values((1, 1, 48))), values((1, 7, 48), seed=1)], 0, axis=1)


@pytest.mark.parametrize("shape, to", [
    ((1,), (5,)), ((), (3, 4)), ((3, 1), (3, 37)), ((1, 37), (9, 1)),
    ((2, 1, 3, 1), (7, 2, 5, 1, 6)),
    ((1, 3, 1, 3, 1, 3, 1, 3), (2, 1, 2, 1, 2, 1, 2, 1))])
def test_expand(device, shape, to):
    check_op(device, "expand", [values(shape)], 0, shape=to)


@pytest.mark.parametrize("shape, repeats", [
    ((), ()), ((5,), (7,)), ((2, 3), (1, 4)), ((2, 3), (4, 1)), ((2, 3, 4), (2, 3, 4)),
    ((3, 2, 1, 5), (2, 2, 9, 2)), ((2, 3, 2, 3, 2), (2, 2, 2, 2, 2)),
    ((2, 1, 2, 2, 1, 2, 2, 2), (2, 3, 2, 2, 1, 2, 2, 2))])
def test_tile(device, shape, repeats):
    check_op(device, "tile", [values(shape)], 0, repeats=repeats)


@pytest.mark.parametrize("shape, to", [((4, 6), (2, 3, 4)), ((12,), (3, 4)), ((1, 1), ())])
def test_reshape(device, shape, to, monkeypatch):
    check_op(device, "reshape", [values(shape)], 0, shape=to)
    monkeypatch.setattr(passes.alias, "apply", lambda graph: {})  # as an op of a file
    check_op(device, "reshape", [values(shape)], 0, shape=to)


@pytest.mark.parametrize("seed", range(40))
def test_random_shapes(device, seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 9))
    shape = rng.integers(1, {1: 200, 2: 80, 3: 20, 4: 10}.get(rank, 4), rank)
    x = values(shape, DTYPES[seed % len(DTYPES)], seed)
    check_op(device, "transpose", [x], 0, perm=rng.permutation(rank))
    check_op(device, "tile", [x], 0, repeats=rng.integers(1, 4 if rank < 5 else 3, rank))
    steps = rng.integers(1, 4, rank)
    sizes = rng.integers(1, -(-shape // steps) + 1)
    starts = rng.integers(0, shape - (sizes - 1) * steps)
    if seed % 2:
        starts, steps = starts + (sizes - 1) * steps, -steps
    check_op(device, "slice", [x], 0, starts=starts, steps=steps, sizes=sizes)
    check_op(device, "concat", [x, x, x], 0, axis=int(rng.integers(rank)))


def test_launches_for_a_gpu(device, monkeypatch):
    as_gpu(device, monkeypatch)
    x = values((3, 18, 5, 21))
    for perm in ((0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 2, 3)):
        check_op(device, "transpose", [x], 0, perm=perm)
    check_op(device, "slice", [x], 0, starts=(0, 1, 0, 20), steps=(1, 2, 1, -1),
             sizes=(3, 8, 5, 21))
    check_op(device, "concat", [x, x[..., :3]], 0, axis=3)
    check_op(device, "tile", [x], 0, repeats=(2, 1, 2, 3))


def test_collapsed_axes_are_few():
    """A tile that has more axes than the kernel takes a path of its own."""
    shape, sx, sy = tile._tiled((2, 3, 2, 3, 2), (2, 2, 2, 2, 2))
    assert len(copy.collapse(shape, sx, sy)[0]) > copy.MAX_AXES


def test_invalid_reshape():
    refused(r"has 6 elements, \(4, 2\) needs 8", "reshape", (2, 3), shape=(4, 2))
    refused("every dimension must be at least 1", "reshape", (2, 3), shape=(-2, -3))


@pytest.mark.parametrize("perm", [(0,), (0, 0), (0, 2), (-1, 0), (0, 1, 2)])
def test_invalid_transpose(perm):
    refused("needed a permutation of the 2 axes", "transpose", (2, 3), perm=perm)


@pytest.mark.parametrize("start, step, size", [
    (-1, 1, 1), (5, 1, 1), (0, 1, 6), (0, 0, 1), (0, 1, 0), (0, -1, 2), (4, 1, 2), (3, 2, 2)])
def test_invalid_slice(start, step, size):
    refused("along axis 0 of a, which has 5", "slice", (5,), starts=(start,), steps=(step,),
            sizes=(size,))


def test_invalid_slice_rank():
    refused("needed 2 of each", "slice", (5, 2), starts=(0, 0), steps=(1,), sizes=(1, 1))


def test_invalid_concat():
    graph = Graph()
    a, b, c, d = (graph.input(name, shape, dtype) for name, shape, dtype in [
        ("a", (2, 3), "fp32"), ("b", (2, 4), "fp32"), ("c", (2, 3), "int32"), ("d", (), "fp32")])
    for inputs, axis, match in [
            ([a, b], 0, r"needed that of a \(2, 3\) except along axis 0"),
            ([a, b], 2, "axis 2 of 2"), ([a, c], 0, "mixes the dtypes"), ([d, d], 0, "is a scalar"),
            ([a, d], 0, "needed that of a"), ([a, None], 0, "has an input left out")]:
        with pytest.raises(ModelError, match=match):
            graph.add("concat", inputs, axis=axis)


def test_invalid_expand():
    refused("do not broadcast", "expand", (2, 3), shape=(2, 4))
    refused("every dimension must be at least 1", "expand", (2, 1), shape=(2, 0))


@pytest.mark.parametrize("repeats", [(1,), (1, 0), (1, -1), (1, 1, 1)])
def test_invalid_tile(repeats):
    refused("needed 2 numbers of at least 1", "tile", (2, 3), repeats=repeats)
