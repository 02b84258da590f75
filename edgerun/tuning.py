"""Tuned choices: how they are stored, and which of them hold for a device.

They lie in the model file (`edgerun tune --write`, `edgerun pack --tune`), in a file per device
and driver in the cache folder (`edgerun tune`), or in a file that EDGERUN_TUNING names;
EDGERUN_TUNING=0 takes none. All of them hold the table Tunings of schema/edgerun.fbs, with a
checksum.

A choice is a hint from a file, and never trusted: one for another device, driver or kernel source
is left out, and _tile.choose() takes only what is a legal variant of the launch.
"""
from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgerun import flat
from edgerun.errors import EdgerunError, ModelError
from edgerun.model import Choice, Tuning
from edgerun.ops._base import Variant

if TYPE_CHECKING:
    from edgerun.device import Device

MAGIC = b"EDGETUN1"
MOST_CHOICES, MOST_CHARACTERS = 65_536, 4096
_VARIANT = re.compile(r"\w{1,32}=\d{1,9}( \w{1,32}=\d{1,9}){0,15}")
_FAMILY = re.compile(r"[a-z0-9_]{1,64}")


def decode(data: np.ndarray, where: str) -> tuple[Tuning, ...]:
    """Read a table Tunings.

    Args:
        data: its bytes, uint8.
        where: for messages.

    Raises:
        ModelError: it is damaged, or holds more or longer text than a tuner writes.
    """
    values = flat.Reader(data, where).root("Tunings")["tunings"]
    found = tuple(Tuning(t["device"], t["driver"], t["compute_units"],
                         tuple(Choice(**choice) for choice in t["choices"])) for t in values)
    texts = [text for t in found for text in (
        t.device, t.driver, *(part for c in t.choices for part in (
            c.key, c.family, c.kernels, c.variant)))]
    if len(texts) > 4 * MOST_CHOICES or any(len(text) > MOST_CHARACTERS for text in texts):
        raise ModelError(f"{where}: the tuning table has {len(texts)} texts, at most "
                         f"{4 * MOST_CHOICES} of {MOST_CHARACTERS} characters are allowed")
    return found


def encode(tunings: Sequence[Tuning]) -> bytes:
    """Return the bytes of a table Tunings."""
    import flatbuffers

    from edgerun.flat_writer import encode_table
    builder = flatbuffers.Builder(4096)
    builder.Finish(encode_table(builder, "Tunings", {"tunings": [asdict(t) for t in tunings]}))
    return bytes(builder.Output())


def of_device(device: Device, choices: Iterable[Choice] = ()) -> Tuning:
    """Return the Tuning of an opened device with some choices."""
    on = device.device
    return Tuning(device.info.name, f"{on.driver_version.strip()}, {on.platform.version.strip()}",
                  device.info.compute_units, tuple(choices))


@functools.lru_cache(maxsize=None)
def kernels_of(family: str) -> str:
    """Return the checksum of a kernel family's source; "" if there is no such family."""
    from edgerun.programs import source
    if not _FAMILY.fullmatch(family):
        return ""
    try:
        return hashlib.sha256(source(family, {}).encode()).hexdigest()[:16]
    except OSError:
        return ""


def variant_of(text: str) -> Variant | None:
    """Return the Variant that a text like "P=7 NV=4" means, or None if it means none."""
    if not _VARIANT.fullmatch(text):
        return None
    pairs = (item.partition("=") for item in text.split(" "))
    return Variant(tuple((name, int(value)) for name, _, value in pairs))


def merged(old: Iterable[Tuning], new: Tuning) -> tuple[Tuning, ...]:
    """Return all tunings with one more; its choices take the place of those with their keys."""
    kept, choices = [], {}
    for tuning in old:
        if tuning.fits(new):
            choices |= {choice.key: choice for choice in tuning.choices}
        else:
            kept.append(tuning)
    choices |= {choice.key: choice for choice in new.choices}
    return (*kept, Tuning(new.device, new.driver, new.compute_units, tuple(choices.values())))


def side_file(device: Device) -> Path | None:
    """Return where choices for a device are kept beside its models; None if nothing is."""
    from edgerun.programs import cache_folder
    chosen = os.environ.get("EDGERUN_TUNING")
    if chosen:
        return None if chosen == "0" else Path(chosen)
    folder, own = cache_folder(), of_device(device)
    if folder is None:
        return None
    name = hashlib.sha256(f"{own.device}\0{own.driver}\0{own.compute_units}".encode()).hexdigest()
    return folder / "tuning" / f"{name[:32]}.tuning"


def read_file(path: Path) -> tuple[Tuning, ...]:
    """Read a side file; a missing one holds nothing.

    Raises:
        ModelError: it is damaged, or no file of tuned choices.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    head, payload = data[:len(MAGIC) + 32], data[len(MAGIC) + 32:]
    if head != MAGIC + hashlib.sha256(payload).digest():
        raise ModelError(f"{path}: is no file of tuned choices, or is damaged: delete it and run "
                         "'edgerun tune' again")
    return decode(np.frombuffer(payload, np.uint8), str(path))


def write_file(path: Path, tunings: Sequence[Tuning]) -> None:
    """Write a side file, whole or not at all.

    Raises:
        EdgerunError: its folder cannot be made or written.
    """
    from edgerun.files import replacing
    payload = encode(tunings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EdgerunError(f"{path.parent}: cannot be made: {error.strerror}") from None
    with replacing(path) as file:
        file.write(MAGIC + hashlib.sha256(payload).digest() + payload)


def valid(tunings: Iterable[Tuning], device: Device) -> dict[str, Choice]:
    """Return by key the choices for a device and its driver whose kernels are still the same."""
    own = of_device(device)
    return {choice.key: choice for tuning in tunings if tuning.fits(own)
            for choice in tuning.choices
            if choice.kernels and choice.kernels == kernels_of(choice.family)}


def choices(in_model: Iterable[Tuning], device: Device) -> dict[str, Variant]:
    """Return by key what a session on a device takes: of the model file, then of the side file.

    A side file that is damaged is left out: it must not keep a model from running.
    """
    if os.environ.get("EDGERUN_TUNING") == "0":
        return {}
    path, beside = side_file(device), ()
    if path is not None:
        try:
            beside = read_file(path)
        except ModelError:
            beside = ()
    found = {**valid(in_model, device), **valid(beside, device)}
    parsed = {key: variant_of(choice.variant) for key, choice in found.items()}
    return {key: variant for key, variant in parsed.items() if variant is not None}


def table_text(tunings: Iterable[dict]) -> list[str]:
    """Return the lines in which `edgerun info` prints what plain() returned."""
    from edgerun import text
    lines = []
    for tuning in tunings:
        lines += [f"tuned for {text.clean(tuning['device'])} ({text.clean(tuning['driver'])}), "
                  f"{tuning['compute_units']} compute units",
                  *text.table(("launch", "variant", "us", "untuned us"),
                              [(c["key"], c["variant"], f"{c['ns'] / 1e3:.1f}",
                                f"{c['default_ns'] / 1e3:.1f}") for c in tuning["choices"]],
                              left=(0, 1), cut=100)]
    return lines


def plain(tunings: Iterable[Tuning]) -> list[dict]:
    """Return tunings as JSON can hold them."""
    return [asdict(tuning) for tuning in tunings]
