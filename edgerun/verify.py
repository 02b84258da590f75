"""Run the test vectors that a model file carries, and compare with what they promise."""
from __future__ import annotations

from typing import Any

from edgerun import text
from edgerun.arrays import Difference, difference
from edgerun.errors import InputError
from edgerun.model import Model
from edgerun.session import Session


def require_vectors(model: Model) -> None:
    """Require that a model file carries test vectors.

    Raises:
        InputError: it has none.
    """
    if not model.vectors:
        raise InputError(f"{model.path}: has no test vectors: pack it with --vectors IN.npz, or "
                         "compare it with its source model: edgerun verify --against MODEL")


def verify(session: Session) -> dict[str, Any]:
    """Run every bundled vector.

    Returns:
        "passed", "device", and per vector its tolerance and the Difference of every output.

    Raises:
        InputError: the file has no vectors.
    """
    require_vectors(session.model)
    results = []
    for vector in session.model.vectors:
        found = session.run({info.name: array
                             for info, array in zip(session.inputs, vector.inputs)})
        differences = [difference(info.name, found[info.name], expected)
                       for info, expected in zip(session.outputs, vector.outputs)]
        results.append(result(differences, vector.tolerance))
    return {"passed": all(entry["passed"] for entry in results),
            "device": session.device.info.name, "platform": session.device.info.platform,
            "reference": "bundled vectors", "vectors": results}


def result(differences: list[Difference], tolerance: float) -> dict[str, Any]:
    """Return the verdict on one vector: each output within the tolerance, relative to its range."""
    return {"passed": all(entry.relative <= tolerance for entry in differences),
            "tolerance": tolerance, "outputs": [entry.as_dict() for entry in differences]}


def verify_text(report: dict[str, Any]) -> str:
    """Return a report of verify() for a terminal."""
    rows = [(number, entry["name"], text.number(entry["max_abs"]), text.number(entry["relative"]),
             text.number(vector["tolerance"]),
             text.number(entry["snr_db"]), text.number(entry["top1"]),
             "ok" if entry["relative"] <= vector["tolerance"] else "MISMATCH")
            for number, vector in enumerate(report["vectors"]) for entry in vector["outputs"]]
    count = len(report["vectors"])
    failed = sum(not vector["passed"] for vector in report["vectors"])
    verdict = (f"{count} of {count} agree with {report['reference']}" if report["passed"] else
               f"{failed} of {count} differ from {report['reference']}")
    return "\n".join([
        f"{report['device']} ({report['platform']})",
        *text.table(("vector", "output", "max abs", "relative", "allowed", "SNR dB", "top-1", ""),
                    rows, left=(1, 7)), verdict])
