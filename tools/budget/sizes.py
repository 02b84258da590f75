"""Bytes as people write them: 256K, 1.5M, 300000, 64KiB."""
from __future__ import annotations

import math
import re

from edgerun.errors import InputError

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST = 1 << 48  # bytes; more is a slip of the pen
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)", re.ASCII)


def parse(given: str | int, what: str) -> int:
    """Return a number of bytes.

    Args:
        given: bytes, or text: a number with a unit behind it, K, M or G (or KiB, MiB, GiB; powers
            of 1024), B or none.
        what: whose size it is, for messages.

    Raises:
        InputError: it is something else, or no possible size.
    """
    found = _SIZE.fullmatch(str(given).strip())
    unit = found[2] if found else ""
    short = unit[:-2] if unit[1:].lower() == "ib" else unit
    if found and unit.upper() in ("KB", "MB", "GB"):
        raise InputError(f"{what}: {given!r} is 1000 or 1024 times so much, depending on who says "
                         f"it; needed {unit[0].upper()} or {unit[0].upper()}iB for powers of 1024, "
                         "or a number of bytes")
    if not found or short.upper() not in UNITS:
        raise InputError(f"{what}: {given!r} is no size, needed bytes as in 300000, 256K, 1.5M or "
                         "64KiB")
    size = float(found[1]) * UNITS[short.upper()]
    if size < 1:
        raise InputError(f"{what}: {given!r} is less than a byte")
    if size > MOST:
        raise InputError(f"{what}: {given!r} is more than {MOST} bytes, which no device has")
    return math.floor(size)
