"""Conversion between dtypes."""
from __future__ import annotations

from edgerun.dtypes import BOUNDARY_ONLY, NUMPY
from edgerun.ops._base import Facts, Launch, OpLike, Outputs, count, i32, require

RUN = 2048  # elements a work-item of a CPU converts
DTYPES = tuple(name for name in NUMPY if name not in (*BOUNDARY_ONLY, "bits"))


def infer_cast(op: OpLike) -> Outputs:
    """y has the shape of x and the dtype of the option."""
    dtype = op.options["dtype"]
    require(dtype in DTYPES, op, f"to {dtype}, needed {' or '.join(DTYPES)}")
    return [(op.inputs[0].shape, dtype)]


def cast(op: OpLike, facts: Facts) -> list[Launch]:
    """y = x in the dtype `dtype`.

    x [...] any dtype -> y [...]. A real number becomes an integer by dropping its fraction, fp16 by
    rounding to nearest even; an integer becomes a shorter one by keeping its low bits; bool is x
    != 0.
    """
    x, y = op.inputs[0], op.outputs[0]
    n, run = count(x.shape), RUN if facts.kind == "cpu" else 1
    return [Launch("cast", "cast", {f"FROM_{x.dtype}": 1, f"TO_{y.dtype}": 1}, (-(-n // run), 1, 1),
                   (x, y, i32(n), i32(run)), facts.one)]
