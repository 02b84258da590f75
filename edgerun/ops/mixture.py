"""Mixture of experts: the choice of experts, and the sum of what they say."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, count, i32, int4_arg, require, require_dtype, require_rank)

RUN = 4096  # elements a work-item of a CPU clears or adds
LONG = 256  # elements; a work-item with fewer shares a work-group
WEIGHTS, Y, CHOSEN, SLOTS = range(4)  # outputs of route
SLOT = 3  # input of blend


def infer_route(op: OpLike) -> Outputs:
    """Weights like the gates, the sum before any expert has run, indices of the experts; for
    several samples also which one each expert runs for."""
    gates, k, shape = op.inputs[0], op.options["k"], tuple(op.options["shape"])
    require_dtype(gates, ("fp32",), op)
    require_rank(gates, 2, op)
    batch, experts = gates.shape
    require(1 <= k <= experts, op, f"chooses {k} of {experts} experts, needed 1 to {experts}")
    require(len(shape) > 0 and all(n >= 1 for n in shape) and shape[0] == batch, op,
            f"has results of the shape {shape}, needed {batch} samples as the gates have")
    slots = [((experts,), "int32")] if batch > 1 else []
    return [((batch, experts), "fp32"), (shape, "fp32"), ((batch, k), "int32"), *slots]


def route(op: OpLike, facts: Facts) -> list[Launch]:
    """weights_j = gates_j / sum of the k largest gates of a sample, where gates_j is one of them,
    else 0. Of equal gates the lower index is taken; a gate that is no number comes last.

    gates [B, E] fp32 -> weights [B, E] fp32, y [`shape`] fp32 with B samples, all 0, chosen [B, k]
    int32 from the largest gate on, and if B > 1 slots [E] int32, all 0. The ops of the experts
    follow, see Mixture in the schema: a session runs those of the chosen ones only, and puts into
    slots_e which sample expert e runs for.
    """
    gates, (batch, experts) = op.inputs[0], op.inputs[0].shape
    slots = op.outputs[SLOTS] if len(op.outputs) > SLOTS else op.outputs[CHOSEN]
    n = count(op.outputs[Y].shape)
    run = RUN if facts.kind == "cpu" else 16
    return [Launch("mixture", "route", {"T_fp32": 1, "VEC": facts.lanes},
                   (max(batch, -(-n // run)), 1, 1),
                   (gates, op.outputs[WEIGHTS], op.outputs[Y], op.outputs[CHOSEN], slots,
                    int4_arg([batch, experts, op.options["k"], experts * (batch > 1)]), i32(n),
                    i32(run)), facts.one)]


def infer_blend(op: OpLike) -> Outputs:
    """y has the shape of the sum so far."""
    before, x, weights = op.inputs[:3]
    slot = op.inputs[SLOT] if len(op.inputs) > SLOT else None
    require_dtype(before, ("fp32",), op)
    require_dtype(x, FLOAT, op)
    require_dtype(weights, ("fp32",), op)
    require_rank(weights, 2, op)
    batch, experts = weights.shape
    require(len(before.shape) > 0 and before.shape[0] == batch, op,
            f"adds to {before.name} of the shape {before.shape}, needed {batch} samples as the "
            "weights have")
    require(x.shape == (1, *before.shape[1:]), op,
            f"adds {x.name} of the shape {x.shape}, needed {(1, *before.shape[1:])}")
    require(0 <= op.options["expert"] < experts, op,
            f"is of expert {op.options['expert']}, the weights are of {experts}")
    require((slot is not None) == (batch > 1), op,
            f"has {'a' if slot is not None else 'no'} slot for {batch} samples, needed one for "
            "several samples only")
    if slot is not None:
        require_dtype(slot, ("int32",), op)
        require(slot.shape == (1,), op, f"has a slot of the shape {slot.shape}, needed (1,)")
    return [(before.shape, "fp32")]


def blend(op: OpLike, facts: Facts) -> list[Launch]:
    """y[s, ...] = before[s, ...] + weights[s, expert] * x, s = slot_0, in fp32; other samples stay.

    before [B, ...] fp32, x [1, ...] fp32 or fp16, weights [B, E] fp32, slot int32 [1] if B > 1 ->
    y [B, ...] fp32, in place of `before`. An expert of weight 0 changes no bit.
    """
    x, weights = op.inputs[1:3]
    y, n = op.outputs[0], count(x.shape)
    batch, experts = weights.shape
    run = min(n, RUN) if facts.kind == "cpu" else facts.lanes
    slot = op.inputs[SLOT] if batch > 1 else weights
    return [Launch("mixture", "blend", {f"T_{x.dtype}": 1, "VEC": facts.lanes},
                   (-(-n // run), 1, 1),
                   (y, x, weights, slot,
                    int4_arg([n, experts, op.options["expert"], batch if batch > 1 else 0]),
                    i32(run)), facts.one if run >= LONG else None)]
