"""ONNX Einsum against ONNX Runtime, and what it becomes."""
from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, codes, floats, model_of

CASES = {
    "bqhd,bkhd->bhqk": ((2, 3, 4, 5), (2, 6, 4, 5)),
    "bhqk,bkhd->bqhd": ((2, 4, 3, 6), (2, 6, 4, 5)),
    "byhwc,hkc->byhwk": ((2, 3, 4, 5, 6), (4, 7, 6)),
    "ij,jk": ((3, 4), (4, 5)),
    "kj,jb->bk": ((3, 4), (4, 5)),
    "ki,kj->ij": ((4, 3), (4, 5)),
    "ik,jk->ij": ((3, 4), (5, 4)),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "i,i->": ((7,), (7,)),
    "i,j->ij": ((3,), (4,)),
    "i,j->ji": ((3,), (4,)),
    "bij,bij->b": ((2, 3, 4), (2, 3, 4)),
    "bij,bij->bij": ((2, 3, 4), (2, 3, 4)),
    "bij,j->bij": ((2, 3, 4), (4,)),
    "bci,cj->bj": ((2, 3, 4), (3, 5)),
    "bhwc,bHwc->bhH": ((2, 3, 4, 5), (2, 6, 4, 5)),
    "...ij,...jk->...ik": ((2, 1, 3, 4), (2, 5, 4, 6)),
    "...ij,jk": ((2, 3, 4), (4, 5)),
    "i...,i...->...": ((3, 1, 4), (3, 2, 4)),
    "bij->bji": ((2, 3, 4),),
    "bij->b": ((2, 3, 4),),
    "ba": ((2, 3),),
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 5)),
    "b i j , b j -> b i": ((2, 3, 4), (2, 4)),
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("equation", CASES)
def test_einsum(equation, constant):
    arrays = {f"x{i}": floats(*shape) for i, shape in enumerate(CASES[equation])}
    names = list(arrays)
    constants = {name: arrays.pop(name) for name in names[1:]} if constant else {}
    check(make_node("Einsum", names, ["y"], equation=equation), arrays, constants)


@pytest.mark.parametrize("equation,shapes", [
    ("bij,bjk->bik", CASES["bij,bjk->bik"]), ("bij,bkj->bik", ((2, 3, 4), (2, 5, 4))),
    ("bji,bjk->bik", ((2, 4, 3), (2, 4, 5)))])
def test_einsum_that_is_a_matmul_needs_no_transpose(equation, shapes):
    arrays = {f"x{i}": floats(*shape) for i, shape in enumerate(shapes)}
    graph = check(make_node("Einsum", list(arrays), ["y"], equation=equation), arrays)
    assert set(codes(graph)) <= {"matmul", "reshape"}


@pytest.mark.parametrize("equation,shapes,error", [
    ("ii->i", ((3, 3),), UnsupportedError), ("ij->k", ((3, 3),), ModelError),
    ("ij,jk", ((3, 3),), ModelError), ("ijk->i", ((3, 3),), ModelError),
    ("ij,jk->ik", ((3, 4), (5, 6)), ModelError), ("i?->i", ((3, 3),), ModelError)])
def test_einsum_refusals(equation, shapes, error):
    arrays = {f"x{i}": floats(*shape) for i, shape in enumerate(shapes)}
    model = model_of(make_node("Einsum", list(arrays), ["y"], equation=equation), arrays)
    with pytest.raises(error, match="Einsum"):
        import_proto(model)


def test_einsum_of_integers_is_refused():
    arrays = {"a": np.ones((2, 3), np.int32), "b": np.ones((3, 2), np.int32)}
    model = model_of(make_node("Einsum", ["a", "b"], ["y"], equation="ij,jk"), arrays)
    with pytest.raises(UnsupportedError, match="int32, needed float"):
        import_proto(model)
