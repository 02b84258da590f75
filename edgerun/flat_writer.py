"""Write FlatBuffers by the rules of schema/edgerun.fbs, from plain dicts."""
from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np

from edgerun.flat import MAX_REUSE, SCALARS, Field, schema

# Vectors of numbers that were written, by type and bytes: the place; how many fields lead there.
Known = dict[tuple[str, bytes], tuple[int, int]]
# So that readers, who count the bytes of what is shared, do not refuse the file: how many fields
# may lead to one vector, if it has more bytes than a reader allows for the field itself.
OFTEN, SMALL = MAX_REUSE - 1, 4 * MAX_REUSE


def encode_table(builder: flatbuffers.Builder, table: str, values: dict[str, Any],
                 known: Known | None = None) -> int:
    """Write one table from a dict of its fields, children first; returns its offset.

    Fields left out, None, or equal to the default take no space; equal texts and
    small equal vectors of numbers are written once, large vectors once for some fields. A value
    that is an int subclass Offset is something already written.
    """
    rules, known = schema(), {} if known is None else known
    fields = [f for f in rules.tables[table] if values.get(f.name) is not None]
    offsets = {f.name: _child(builder, f, values[f.name], known) for f in fields
               if f.vector or f.type not in SCALARS and f.type not in rules.enums}
    builder.StartObject(max((f.slot for f in rules.tables[table]), default=-1) + 1)
    for f in fields:
        value = values[f.name]
        if f.type in rules.unions:
            tag = rules.unions[f.type].index(value[0]) + 1
            builder.PrependUint8Slot(f.slot - 1, tag, 0)
        if f.name in offsets:
            if offsets[f.name] is not None:
                builder.PrependUOffsetTRelativeSlot(f.slot, offsets[f.name], 0)
        elif f.type in rules.enums:
            number = rules.enums[f.type]
            builder.PrependUint8Slot(f.slot, number[value], number[f.default])
        else:
            _SLOT[f.type](builder, f.slot, value, f.default)
    return builder.EndObject()


class Offset(int):
    """The place of something that the caller has written into the builder already."""


_SLOT = {
    "bool": flatbuffers.Builder.PrependBoolSlot, "ubyte": flatbuffers.Builder.PrependUint8Slot,
    "ushort": flatbuffers.Builder.PrependUint16Slot, "int": flatbuffers.Builder.PrependInt32Slot,
    "uint": flatbuffers.Builder.PrependUint32Slot, "ulong": flatbuffers.Builder.PrependUint64Slot,
    "float": flatbuffers.Builder.PrependFloat32Slot,
}


def _child(builder: flatbuffers.Builder, field: Field, value: Any, known: Known) -> int | None:
    if isinstance(value, Offset):
        return value
    if field.type == "string":
        return builder.CreateSharedString(value) if value or field.required else None
    if field.type in schema().unions:
        return encode_table(builder, *value, known)
    if not field.vector:
        return encode_table(builder, field.type, value, known)
    if len(value) == 0:
        return None
    if field.type in SCALARS:
        numbers = np.asarray(value, SCALARS[field.type][1])
        key = field.type, numbers.tobytes()
        at, uses = known.get(key, (0, 0))
        if key not in known or uses == OFTEN and numbers.nbytes > SMALL:
            at, uses = builder.CreateNumpyVector(numbers), 0
        known[key] = at, min(uses + 1, OFTEN)
        return at
    children = [encode_table(builder, field.type, item, known) for item in value]
    builder.StartVector(4, len(children), 4)
    for child in reversed(children):
        builder.PrependUOffsetTRelative(child)
    return builder.EndVector()
