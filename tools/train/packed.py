"""What a packed file predicts, beside the network it was exported from."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerun import loader
from edgerun.device import Device
from edgerun.session import Session


@dataclass(frozen=True)
class Agreement:
    """A file against its labels and its network: both in percent; and the file's sizes.

    weight_bytes is what the file holds for all constants, without the graph around them.
    """
    right: float
    same: float
    file_bytes: int
    weight_bytes: int


def predictions(session: Session, images: Iterable[np.ndarray]) -> np.ndarray:
    """Return the predicted class of each image, int64 [N], one run each."""
    name = session.inputs[0].name
    found = []
    for image in images:
        (output,) = session.run({name: image[None]}).values()
        found.append(int(output.argmax()))
    return np.asarray(found, np.int64)


def compare(path: str | Path, images: np.ndarray, labels: np.ndarray, expected: np.ndarray,
            device: Device | str | int | None = None) -> Agreement:
    """Run a packed file over images.

    Args:
        images: fp32 [N, C, H, W] as the network takes them; labels: int [N].
        expected: what the network predicts, int [N].
    """
    packed = loader.read(path)
    device = device if isinstance(device, Device) else Device(device)
    with Session(packed, device) as session:
        found = predictions(session, images)
    constants = sum(len(segment.data) for segment in packed.segments)
    return Agreement(100 * float((found == labels).mean()), 100 * float((found == expected).mean()),
                     Path(path).stat().st_size, constants)
