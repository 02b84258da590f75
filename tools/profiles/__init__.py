"""Device profiles: what is known of a device before there is one, as data with sources.

A profile is a JSON file in this folder, its name without ".json" the one that --target takes:

    title      what it is, for people
    based_on   another profile whose facts and limits it shares; optional
    facts      name (a key of FACTS) -> {"value", "source", "verified"}
    limits     [{"what", "source"}]: what else to know, for people

A value is null where nobody has told it; nothing depends on it then. "verified" is true only where
this project has measured it on such a device.
"""
from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerun.dots import NAMES as DOTS
from edgerun.errors import InputError

FOLDER = Path(__file__).parent
IN_PLACE, SHARED, DEVICE = RUNGS = ("in place", "shared memory", "device memory")
# name of a fact -> (types of its value, what it tells)
FACTS: dict[str, tuple[tuple[type, ...], str]] = {
    "kind": ((str,), "cpu or gpu"),
    "weights": ((str,), "where constants are on the device: one of RUNGS; all but the first copy"),
    "chained": ((bool,), "whether the runtime makes one launch of all, which needs a table"),
    "alignment": ((int,), "bytes: of a buffer's begin, CL_DEVICE_MEM_BASE_ADDR_ALIGN"),
    "max_allocation": ((int, type(None)), "bytes of one buffer, CL_DEVICE_MAX_MEM_ALLOC_SIZE"),
    "compute_units": ((int, type(None)), "cores, CL_DEVICE_MAX_COMPUTE_UNITS"),
    "max_work_group": ((int, type(None)), "work-items, CL_DEVICE_MAX_WORK_GROUP_SIZE"),
    "dot": ((str, type(None)), "how products of 8-bit integers are summed: of edgerun.dots.NAMES"),
    "fp16": ((bool, type(None)), "whether kernels may compute in half; edgerun only stores it"),
    "memory": ((int, type(None)), "bytes of memory that CPU and device share"),
}


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a device.

    Attributes:
        value: of the type that FACTS gives; None if it is not known.
        source: where it is from.
        verified: whether this project has measured it on such a device.
    """
    value: Any
    source: str
    verified: bool


@dataclass(frozen=True)
class Profile:
    """A device, or a class of devices.

    Attributes:
        name, title: for --target; for people.
        facts: name -> Fact, one for each of FACTS.
        limits: (sentence, source) of what else to know.
    """
    name: str
    title: str
    facts: dict[str, Fact]
    limits: tuple[tuple[str, str], ...]

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact].value

    @property
    def verified(self) -> bool:
        """Whether all that is known of it was measured by this project."""
        return all(fact.verified for fact in self.facts.values() if fact.value is not None)


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@functools.cache
def load(name: str) -> Profile:
    """Return a profile.

    Raises:
        InputError: there is none of this name; the message lists those there are.
    """
    if name not in names():
        raise InputError(f"there is no device profile called {name!r}, there are: "
                         f"{', '.join(names())}")
    return parse(name, json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def parse(name: str, document: Any) -> Profile:
    """Return the profile that a JSON document describes.

    Raises:
        InputError: it is no profile; the message says what is wrong.
    """
    def need(right: bool, what: str) -> None:
        if not right:
            raise InputError(f"device profile {name}: {what}")

    need(isinstance(document, dict), "is no JSON object")
    unknown = sorted({*document} - {"title", "based_on", "facts", "limits"})
    need(not unknown, f"{unknown} is not a key of a profile")
    need(isinstance(document.get("title"), str) and document["title"].strip(), "has no title")
    base = document.get("based_on")
    need(base is None or isinstance(base, str) and base != name, f"is based on {base!r}")
    facts = dict(load(base).facts) if base else {}
    limits = list(load(base).limits) if base else []
    for key, entry in document.get("facts", {}).items():
        need(key in FACTS, f"{key!r} is no fact, there are {', '.join(FACTS)}")
        need(isinstance(entry, dict) and {*entry} == {"value", "source", "verified"},
             f"{key} needs value, source and verified, and no more")
        value, types = entry["value"], FACTS[key][0]
        need(type(value) in types, f"{key} is {value!r}, needed {FACTS[key][1]}")
        need(type(value) is not int or value > 0, f"{key} is {value}, needed more than 0")
        need(isinstance(entry["source"], str) and entry["source"].strip(), f"{key} has no source")
        need(isinstance(entry["verified"], bool), f"verified of {key} is no true or false")
        facts[key] = Fact(**entry)
    missing = [key for key in FACTS if key not in facts]
    need(not missing, f"has no {', '.join(missing)}")
    need(facts["kind"].value in ("cpu", "gpu"), f"kind is {facts['kind'].value!r}")
    need(facts["weights"].value in RUNGS,
         f"weights is {facts['weights'].value!r}, needed one of {', '.join(RUNGS)}")
    need(facts["dot"].value in (None, *DOTS), f"dot is {facts['dot'].value!r}, needed one of "
                                              f"{', '.join(DOTS)}")
    for entry in document.get("limits", ()):
        need(isinstance(entry, dict) and {*entry} == {"what", "source"}
             and all(isinstance(text, str) and text.strip() for text in entry.values()),
             "a limit needs what and source, both text")
        limits.append((entry["what"], entry["source"]))
    return Profile(name, document["title"], facts, tuple(limits))
