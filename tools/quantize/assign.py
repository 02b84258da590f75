"""Choose in which type every op computes, and in which its result is stored."""
from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerun.errors import InputError
from edgerun.ops import binary_integer
from edgerun.ops.elementwise import BINARY_TO_BOOL, UNARY_TO_BOOL
from edgerun.tools.graph import MOVES, Graph, Op

INTEGERS = ("int8", "int16")
REALS = ("fp32", "fp16")
DTYPES = (*REALS, *INTEGERS)

# Ops that compute on quantized tensors, by the integer type.
WEIGHTED = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "dense")
_BOTH = {*WEIGHTED, "matmul", "pool2d", "unary", "binary", "concat", "resize", "pad", "reduce",
         "lrn", "layer_norm", "instance_norm", "l2_normalize", "softmax", "where",
         "fastfood"}
COMPUTING = {"int8": _BOTH, "int16": _BOTH}
BINARY_KINDS = {"int8": binary_integer.KINDS,
                "int16": tuple(k for k in binary_integer.KINDS if k != "squared_difference")}


def keeps_grid(op: Op) -> bool:
    """Whether the result of an op has the very numbers of its first input."""
    return (op.code in MOVES or op.code == "pool2d" and op.options["kind"] == "max"
            and not op.options["activation"]
            or op.code == "resize" and op.options["kind"] == "nearest"
            or op.code == "pad" and (op.options["mode"] != "constant" or op.options["value"] == 0))


def able(op: Op, dtype: str) -> bool:
    """Whether an op can compute on tensors quantized to an integer dtype."""
    if any(t.dtype != "fp32" for t in op.outputs):
        return False
    if keeps_grid(op):
        return True
    if op.code == "unary":
        return op.options["kind"] not in UNARY_TO_BOOL
    if op.code == "binary":
        # with a number any kind is a table
        return op.options["kind"] in BINARY_KINDS[dtype] or (
            op.options["kind"] not in BINARY_TO_BOOL and any(
                x.constant and x.data.size == 1 for x in op.inputs))
    return op.code in COMPUTING[dtype]


@dataclass(frozen=True)
class Override:
    """One line of an override file: ops or tensors whose name matches get a dtype."""
    pattern: str
    dtype: str
    where: str

    def matches(self, name: str) -> bool:
        """Whether a name is meant."""
        return fnmatch.fnmatchcase(name, self.pattern)


def read_overrides(path: str | os.PathLike) -> list[Override]:
    """Read an override file: lines `PATTERN DTYPE`; `#` starts a comment.

    PATTERN is the name of an op or of a tensor, with * and ? as in file names; DTYPE is fp32, fp16,
    int8 or int16. A later line wins.

    Raises:
        InputError: the file cannot be read, or a line is something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); needed a text file of lines "
                         "'PATTERN DTYPE'") from None
    overrides = []
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != 2 or words[1] not in DTYPES:
            raise InputError(f"{where}: is {line.strip()!r}, needed a name pattern and one of "
                             f"{', '.join(DTYPES)}")
        overrides.append(Override(words[0], words[1], where))
    return overrides


def assign(graph: Graph, dtype: str, overrides: Sequence[Override] = (),
           reals: str = "fp32") -> dict[Op, str]:
    """Choose the dtype of every op.

    Args:
        graph: optimized, in fp32.
        dtype: "int8" or "int16" where an op can; "fp16" or "fp32" for all.
        overrides: for the ops they name, and the ops whose output tensors they name.
        reals: the dtype of ops that cannot compute on integers.

    Returns:
        op -> one of DTYPES; ops whose outputs are not real numbers are left out.

    Raises:
        InputError: an override names nothing, or an op that cannot compute in its dtype.
    """
    chosen: dict[Op, str] = {}
    hits = dict.fromkeys(overrides, 0)
    for op in graph.ops:
        if any(t.dtype != "fp32" for t in op.outputs):
            continue
        want, by = dtype, None
        for override in overrides:
            if any(override.matches(name) for name in names_of(op)):
                hits[override] += 1
                want, by = override.dtype, override
        if want in INTEGERS and not able(op, want):
            if by is not None and not any(c in by.pattern for c in "*?["):
                raise InputError(f"{by.where}: {op} cannot compute in {want}, which only ops on "
                                 "quantized tensors can: needed fp32 or fp16 for it")
            want = reals
        chosen[op] = want
    for override, count in hits.items():
        if not count:
            raise InputError(f"{override.where}: {override.pattern!r} names no op and no tensor; "
                             f"the first ops are {_some(graph.ops)}")
    return chosen


def storage(dtypes: Mapping[Op, str]) -> dict[str, str]:
    """Return the types of the real ops of an assignment by the names of their outputs, which stay
    while integers are lowered."""
    return {op.outputs[0].name: dtype for op, dtype in dtypes.items() if dtype in REALS}


def names_of(op: Op) -> list[str]:
    """Return the names by which an override may mean an op: its own and its outputs'."""
    return [op.name, *(t.name for t in op.outputs)]


def _some(ops: Iterable[Op]) -> str:
    return ", ".join(repr(op.name or op.outputs[0].name) for op in list(ops)[:5])
