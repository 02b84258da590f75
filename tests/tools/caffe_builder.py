"""Write small Caffe networks for tests: a prototxt from text, a caffemodel from arrays."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgerun.tools.importers.caffe.messages import Net

Blobs = Mapping[str, Sequence[np.ndarray]]


def head(*shape: int, name: str = "data") -> str:
    """Return the text of an input."""
    dims = " ".join(f"dim: {n}" for n in shape)
    return (f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f'input_param {{ shape {{ {dims} }} }} }}\n')


def layer(kind: str, params: str = "", name: str = "", bottom: str = "data", top: str = "") -> str:
    """Return the text of a layer; several blobs are separated by spaces."""
    name = name or kind.lower()
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    tops = " ".join(f'top: "{t}"' for t in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {params} }}\n'


def weights(blobs: Blobs, old: bool = False) -> bytes:
    """Return a caffemodel.

    Args:
        blobs: layer name -> its weights.
        old: layers of version 1, with shapes of four numbers.
    """
    net = Net()
    for name, arrays in blobs.items():
        message = (net.layers if old else net.layer).add(name=name)
        for array in arrays:
            blob = message.blobs.add()
            blob.data.extend(np.asarray(array, np.float32).reshape(-1).tolist())
            if old:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            else:
                blob.shape.dim.extend(array.shape)
    return net.SerializeToString()


def write(folder: Path, text: str, blobs: Blobs, old: bool = False) -> Path:
    """Write net.prototxt and net.caffemodel; returns the first."""
    path = folder / "net.prototxt"
    path.write_text(text)
    path.with_suffix(".caffemodel").write_bytes(weights(blobs, old))
    return path
