"""What a model takes on a device, by the categories under which the runtime counts its buffers.

ram    the arena; a copy of the constants, where the device cannot read them in the mapped file; the
       table of a chain of launches, where the runtime makes one launch of all. All are planned to
       the byte. Driver, compiled kernels, Python and the caller's arrays are not among them.
flash  the file.
"""
from __future__ import annotations

from edgerun import mixture, text
from edgerun.model import Model
from edgerun.ops import OPS, Facts
from edgerun.tools.profiles import IN_PLACE, Profile

CORES = 8  # where a profile does not tell: the table of a chain has a line of 128 bytes for each
LANES = {"cpu": 16, "gpu": 4}  # of the widest vectors; a table of launches has no more rows by it


def ram_of(model: Model, profile: Profile | None = None) -> dict[str, int]:
    """Return what the runtime allocates on a device: category of edgerun.memory.Buffers -> bytes.

    Args:
        model: the loaded file.
        profile: the device; None for one that reads the mapped file and launches op by op.
    """
    found = {"arena": max(model.plan.arena_bytes, 1)}
    if profile is None:
        return found
    if profile["weights"] != IN_PLACE:
        found |= {f"weights {segment.dtype}": len(segment.data) for segment in model.segments}
    table = chain_bytes(model, profile) if profile["chained"] else 0
    return found | ({"chain": table} if table else {})


def chain_bytes(model: Model, profile: Profile) -> int:
    """Return the bytes of the table of a chain; 0 if the launches of a model are not chained."""
    from edgerun import chain  # imports pyopencl, but opens no driver
    cores = profile["compute_units"] or CORES
    facts = Facts(kind=profile["kind"], lanes=LANES[profile["kind"]], compute_units=cores,
                  max_work_group=profile["max_work_group"] or 256, dot=profile["dot"] or "plain")
    prepared = [(op, launch) for op in model.ops for launch in OPS[op.code].prepare(op, facts)]
    if len(prepared) < 2 or len(model.segments) + 1 > chain.BUFFERS:
        return 0
    return chain.table_bytes([launch for _, launch in prepared], facts.compute_units,
                             mixture.choosing(model, [op.index for op, _ in prepared]))


def obstacles(model: Model, profile: Profile | None) -> list[str]:
    """Return why a device cannot hold a model however much memory it has, a sentence each."""
    most = profile["max_allocation"] if profile is not None else None
    if most is None:
        return []
    buffers = [(f"the segment of {segment.dtype} constants", len(segment.data))
               for segment in model.segments] + [("the arena", model.plan.arena_bytes)]
    return [f"{what} is one buffer of {text.size(size)}, and {profile.name} allocates at most "
            f"{text.size(most)} at once: needed smaller types, or a smaller model"
            for what, size in buffers if size > most]
