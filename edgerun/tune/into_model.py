"""Give a model file tuned choices."""
from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from edgerun import flat, loader, tuning
from edgerun.errors import ModelError
from edgerun.files import replacing
from edgerun.model import PAGE, Tuning


def write_into(path: str | os.PathLike, tunings: Sequence[Tuning]) -> None:
    """Give a model file another tuning table, by a file that takes its name.

    A new root table goes in front of the file, in pages of its own; everything it points to stays
    as it is. What a former call put there is dropped.

    Raises:
        ModelError: the file is no valid model, or is built in another order than ours.
        EdgerunError: the file cannot be written.
    """
    data = loader.map_file(path)
    loader.from_bytes(data, os.fspath(path))
    front, start = _front(data, tuning.encode(tunings))
    with replacing(path) as file:
        file.write(front)
        for at in range(start, len(data), 1 << 20):
            file.write(data[at:at + (1 << 20)].tobytes())
        file.flush()
        try:
            found = loader.from_bytes(loader.map_file(os.dup(file.fileno())), os.fspath(path))
        except ModelError:
            found = None
        if found is None or found.tuning != tuple(tunings):
            raise ModelError(f"{path}: was not written by 'edgerun pack': cannot take tuned choices"
                             ", nothing was changed")


def _front(data: np.ndarray, payload: bytes) -> tuple[bytes, int]:
    """Return new first pages of a model file, and the first byte of it that stays."""
    fields = flat.schema().tables["Model"]
    raw = data.data
    table, = struct.unpack_from("<I", raw, 0)
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    size, = struct.unpack_from("<H", raw, vtable)
    scalars: dict[str, int] = {"tuning_crc32": zlib.crc32(payload)}
    targets: dict[str, int] = {}
    for field in fields:
        slot = 4 + 2 * field.slot
        at = struct.unpack_from("<H", raw, vtable + slot)[0] if slot < size else 0
        if not at or field.name in ("tuning", "tuning_crc32"):
            continue
        if field.vector or field.type not in flat.SCALARS:
            targets[field.name] = table + at + struct.unpack_from("<I", raw, table + at)[0]
        else:
            width = flat.SCALARS[field.type][1].itemsize
            scalars[field.name] = int.from_bytes(data[table + at:table + at + width], "little")
    start = min(targets.values()) // PAGE * PAGE
    names = {field.name: 4 + 4 * place for place, field in enumerate(fields)}
    slots = {field.slot: names[field.name] for field in fields
             if field.name in scalars or field.name in targets or field.name == "tuning"}
    count = max(slots) + 1
    head = 8 + 4 + 2 * count
    root = -(-head // 8) * 8
    vector = -(-(root + 4 + 4 * len(fields) + 4) // 8) * 8 - 4  # its elements begin on 8 bytes
    length = -(-(vector + 4 + len(payload)) // PAGE) * PAGE
    front = bytearray(length)
    struct.pack_into("<I4sHH", front, 0, root, flat.schema().identifier, 4 + 2 * count,
                     4 + 4 * len(fields))
    for slot, place in slots.items():
        struct.pack_into("<H", front, 12 + 2 * slot, place)
    struct.pack_into("<i", front, root, root - 8)
    targets = {name: at - start + length for name, at in targets.items()} | {"tuning": vector}
    for name, value in scalars.items():
        struct.pack_into("<I", front, root + names[name], value)
    for name, at in targets.items():
        struct.pack_into("<I", front, root + names[name], at - root - names[name])
    struct.pack_into("<I", front, vector, len(payload))
    front[vector + 4:vector + 4 + len(payload)] = payload
    return bytes(front), start
