"""Compare what a file plans with what a session asked of OpenCL, byte by byte."""
from __future__ import annotations

from edgerun import report
from edgerun.session import Session


def predicted_is_allocated(session: Session) -> None:
    """Fail unless arena and segments are what the file plans, and the driver made them so large.

    How the launches reach the device is no memory of the model; see edgerun/routes.py.
    """
    planned = report.planned_report(session.model).planned
    account = dict(session.buffers.bytes_by_category)
    account.pop("chain", None)
    expected: dict[str, int] = {"arena": max(planned["arena_bytes"], 1)}
    for segment in session.model.segments:
        category = f"weights {segment.dtype}"
        expected[category] = expected.get(category, 0) + len(segment.data)
    assert account == expected
    assert planned["device_bytes"] == sum(expected.values())
    assert sum(buffer.size for buffer in session.memory_objects) == planned["device_bytes"]
