"""Read FlatBuffers by the rules of schema/edgerun.fbs, with every offset checked.

The schema file is the only description of the format: it is parsed here, once, and drives both
this reader and the packer's writer. The `flatbuffers` package has no verifier for Python, so the
reader checks each offset and length against the buffer before it follows it.
"""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import packer

from edgerun._paths import folder
from edgerun.errors import ModelError

# FlatBuffers scalar -> (reader/writer of the flatbuffers package, NumPy type)
SCALARS = {
    "bool": (packer.boolean, np.dtype(np.bool_)),
    "ubyte": (packer.uint8, np.dtype(np.uint8)),
    "ushort": (packer.uint16, np.dtype("<u2")),
    "int": (packer.int32, np.dtype("<i4")),
    "uint": (packer.uint32, np.dtype("<u4")),
    "ulong": (packer.uint64, np.dtype("<u8")),
    "float": (packer.float32, np.dtype("<f4")),
}
# Offsets may all lead to the same place, so that a small file stands for a large one: this bounds
# how many tables are read, and how many bytes of text and vectors for each byte of data.
MAX_TABLES = 500_000
MAX_REUSE = 8


@dataclass(frozen=True)
class Field:
    """One field of a table: `type` is a scalar, "string", an enum, a table or a union."""
    name: str
    type: str
    vector: bool
    default: Any
    required: bool
    slot: int  # index in the vtable; a union has its type at slot - 1


@dataclass(frozen=True)
class Schema:
    """The parsed schema: enums {name: {member: value}}, tables {name: fields}, unions."""
    enums: dict[str, dict[str, int]]
    tables: dict[str, tuple[Field, ...]]
    unions: dict[str, tuple[str, ...]]
    identifier: bytes
    root: str

    def defaults(self, table: str) -> dict[str, Any]:
        """Return the value of every field of `table` when it is absent from a file."""
        return {field.name: absent(self, field) for field in self.tables[table]}


def absent(schema: Schema, field: Field) -> Any:
    """Return what an absent `field` reads as: its default, "" , an empty list or None."""
    if field.vector:
        return []
    if field.type == "string":
        return ""
    return field.default


def _members(body: str) -> dict[str, int]:
    members: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in body.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        members[name] = int(value) if value else max(members.values(), default=-1) + 1
    return members


def _default(text: str | None, kind: str, enums: dict[str, dict[str, int]], unions) -> Any:
    if kind in enums:
        return text if text is not None else next(iter(enums[kind]))
    if kind == "bool":
        return text == "true"
    if kind == "float":
        return float(text or 0)
    if kind in SCALARS:
        return int(text or 0)
    return None


def parse(text: str) -> Schema:
    """Parse the subset of the FlatBuffers schema language that edgerun uses."""
    text = re.sub(r"//[^\n]*", "", text)
    enums = {name: _members(body) for name, body in re.findall(
        r"\benum\s+(\w+)\s*:\s*ubyte\s*\{([^}]*)\}", text)}
    unions = {name: tuple(_members(body)) for name, body in re.findall(
        r"\bunion\s+(\w+)\s*\{([^}]*)\}", text)}
    tables = {}
    for table, body in re.findall(r"\btable\s+(\w+)\s*\{([^}]*)\}", text):
        fields, slot = [], 0
        for item in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(
                r"(\w+)\s*:\s*(\[?)(\w+)\]?\s*(?:=\s*([-\w.+]+))?\s*(?:\(([^)]*)\))?", item)
            if match is None:
                raise ValueError(f"edgerun.fbs: cannot read {item!r} in table {table}")
            name, bracket, kind, default, attributes = match.groups()
            slot += kind in unions
            fields.append(Field(name, kind, bool(bracket), _default(default, kind, enums, unions),
                                "required" in (attributes or ""), slot))
            slot += 1
        tables[table] = tuple(fields)
    identifier = re.search(r'file_identifier\s+"(\w{4})"', text)
    root = re.search(r"root_type\s+(\w+)", text)
    return Schema(enums, tables, unions, identifier[1].encode(), root[1])


@functools.lru_cache(maxsize=1)
def schema() -> Schema:
    """Return the schema of the model file."""
    return parse(Path(folder("schema") / "edgerun.fbs").read_text(encoding="utf-8"))


class Reader:
    """Reads tables out of `data` (uint8, one dimension) into plain dicts.

    Scalars become Python values, enums their member's name, strings str, vectors of scalars NumPy
    views into `data`, tables dicts, unions (table name, dict) or None.
    """

    def __init__(self, data: np.ndarray, where: str, rules: Schema | None = None):
        self.data = data
        self.view = memoryview(data)
        self.where = where
        self.schema = rules or schema()
        self.tables_left = MAX_TABLES
        self.bytes_left = MAX_REUSE * len(data)

    def root(self, table: str, identifier: bytes | None = None) -> dict[str, Any]:
        """Return the root table.

        Raises:
            ModelError: the identifier is another one, or any offset leads outside the data.
        """
        if len(self.data) < 8:
            raise self._error("the file", f"has {len(self.data)} bytes, needed at least 8")
        if identifier is not None and self.data[4:8].tobytes() != identifier:
            raise self._error("the file", f"has the identifier {self.data[4:8].tobytes()!r}, "
                              f"needed {identifier!r}: it is not an edgerun model")
        return self._table(self._offset(0, table), table)

    def _error(self, what: str, why: str) -> ModelError:
        return ModelError(f"{self.where}: {what} {why}")

    def _scalar(self, at: int, kind: str, what: str) -> Any:
        pack, dtype = SCALARS[kind]
        if at < 0 or at + dtype.itemsize > len(self.data):
            raise self._error(what, f"lies at byte {at}, outside the {len(self.data)} bytes")
        return pack.unpack_from(self.view, at)[0]

    def _offset(self, at: int, what: str) -> int:
        target = at + self._scalar(at, "uint", what)
        if target + 4 > len(self.data):
            raise self._error(what, f"points to byte {target}, outside the {len(self.data)} bytes")
        return target

    def _table(self, at: int, table: str) -> dict[str, Any]:
        self.tables_left -= 1
        if self.tables_left < 0:
            raise self._error(table, f"is one of more than {MAX_TABLES} tables")
        if at < 0 or at + 4 > len(self.data):
            raise self._error(table, f"lies at byte {at}, outside the {len(self.data)} bytes")
        vtable = at - packer.soffset.unpack_from(self.view, at)[0]
        slots = (self._scalar(vtable, "ushort", table) - 4) // 2
        if slots < 0 or vtable + 4 + 2 * slots > len(self.data):
            raise self._error(table, "has a damaged field table")
        values: dict[str, Any] = {}
        for field in self.schema.tables[table]:
            place = self._place(vtable, slots, field.slot, at, table)
            if place is None:
                if field.required:
                    raise self._error(f"{table}.{field.name}", "is missing")
                values[field.name] = absent(self.schema, field)
            elif field.type in self.schema.unions:
                values[field.name] = self._union(vtable, slots, field, at, place, table)
            else:
                values[field.name] = self._value(place, field, f"{table}.{field.name}")
        return values

    def _place(self, vtable: int, slots: int, slot: int, at: int, table: str) -> int | None:
        if slot >= slots:
            return None
        offset = self._scalar(vtable + 4 + 2 * slot, "ushort", table)
        return at + offset if offset else None

    def _union(self, vtable: int, slots: int, field: Field, at: int, place: int, table: str):
        tag_at = self._place(vtable, slots, field.slot - 1, at, table)
        tag = 0 if tag_at is None else self._scalar(tag_at, "ubyte", field.name)
        members = self.schema.unions[field.type]
        if not tag:
            return None
        if tag > len(members):
            raise self._error(f"{table}.{field.name}", f"is of type {tag}, known are 1 to "
                              f"{len(members)}: written by a newer edgerun?")
        name = members[tag - 1]
        return name, self._table(self._offset(place, name), name)

    def _value(self, place: int, field: Field, what: str) -> Any:
        if field.vector:
            return self._vector(self._offset(place, what), field, what)
        if field.type == "string":
            return self._string(self._offset(place, what), what)
        if field.type in self.schema.enums:
            return self._enum(self._scalar(place, "ubyte", what), field.type, what)
        if field.type in SCALARS:
            return self._scalar(place, field.type, what)
        return self._table(self._offset(place, what), field.type)

    def _enum(self, value: int, enum: str, what: str) -> str:
        for name, number in self.schema.enums[enum].items():
            if number == value:
                return name
        raise self._error(what, f"is {value}, which no {enum} has: written by a newer edgerun?")

    def _span(self, at: int, item: int, what: str) -> int:
        count = self._scalar(at, "uint", what)
        if count * item > len(self.data) - at - 4:
            raise self._error(what, f"has {count} elements of {item} bytes, more than the "
                              f"{len(self.data) - at - 4} bytes that follow")
        self.bytes_left -= count * item
        if self.bytes_left < 0:
            raise self._error(what, f"shares its bytes too often: more than {MAX_REUSE} times the "
                              f"{len(self.data)} bytes would be read")
        return count

    def _string(self, at: int, what: str) -> str:
        count = self._span(at, 1, what)
        try:
            return self.data[at + 4:at + 4 + count].tobytes().decode("utf-8")
        except UnicodeDecodeError:
            raise self._error(what, "is not UTF-8 text") from None

    def _vector(self, at: int, field: Field, what: str) -> Any:
        if field.type in SCALARS:
            dtype = SCALARS[field.type][1]
            count = self._span(at, dtype.itemsize, what)
            return self.data[at + 4:at + 4 + count * dtype.itemsize].view(dtype)
        count = self._span(at, 4, what)
        return [self._table(self._offset(at + 4 + 4 * i, what), field.type) for i in range(count)]
