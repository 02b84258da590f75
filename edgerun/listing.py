"""What OpenCL offers on this machine, which device would be taken, what could be had besides."""
from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from edgerun import drivers, text
from edgerun.device import devices, select
from edgerun.errors import DeviceError


def survey() -> dict[str, Any]:
    """Return "devices", "chosen" (index or None), "problem", "drivers" on disk."""
    given = {name: os.environ[name] for name in ("EDGERUN_DEVICE", "OCL_ICD_VENDORS")
             if name in os.environ}  # before a driver is chosen, which sets the second one
    found = devices()
    chosen, problem = None, ""
    try:
        chosen = select()[2].index
    except DeviceError as error:
        problem = str(error)
    return {"devices": [asdict(info) for info in found], "chosen": chosen, "problem": problem,
            "drivers": [_driver(driver) for driver in drivers.found()],
            "environment": given}


def _driver(driver: drivers.Driver) -> dict[str, Any]:
    return {"name": driver.name, "path": str(driver.path),
            "seen_by_loader": driver.path.parent == drivers.VENDORS
            or str(driver.path) == os.environ.get("OCL_ICD_VENDORS")}


def survey_text(found: dict[str, Any]) -> str:
    """Return what survey() found, for a terminal."""
    rows = [("*" if info["index"] == found["chosen"] else "", info["index"], info["name"],
             info["platform"], info["version"], info["kind"], info["compute_units"],
             text.size(info["memory_bytes"]), "yes" if info["unified_memory"] else "no",
             "yes" if info["fp16"] else "no") for info in found["devices"]]
    lines = text.table(("", "index", "device", "platform", "version", "kind", "units", "memory",
                        "unified", "fp16"), rows, left=(0, 2, 3, 4, 5), cut=None) if rows else []
    if found["chosen"] is not None:
        lines.append("* is taken unless --device or EDGERUN_DEVICE says otherwise")
    lines += [f"{name} is set to {text.clean(value)!r}"
              for name, value in found["environment"].items()]
    for driver in found["drivers"]:
        if not driver["seen_by_loader"]:
            how = ("if OCL_ICD_VENDORS is not set" if "OCL_ICD_VENDORS" in found["environment"]
                   else f"by --device {driver['name']}")
            lines.append(f"driver on disk, opened {how}: {driver['path']}")
    return "\n".join(lines)
