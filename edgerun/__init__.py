"""edgerun: run neural networks on OpenCL devices from one memory-mapped file."""
from pathlib import Path as _Path

__version__ = "0.1.0"

# In a plain checkout the host tools lie beside this package; installed, they lie inside it.
if (_Path(__file__).resolve().parents[1] / "tools" / "pack.py").is_file():
    __path__.append(str(_Path(__file__).resolve().parents[1]))

from edgerun.errors import (  # noqa: E402
    DeviceError, EdgerunError, InputError, ModelError, UnsupportedError)
from edgerun.model import TensorInfo  # noqa: E402

__all__ = ["Arena", "DeviceError", "EdgerunError", "InputError", "MemoryReport", "ModelError",
           "Session", "TensorInfo", "UnsupportedError", "__version__", "devices", "load",
           "load_many"]

_LAZY = {"Arena": "edgerun.arena", "MemoryReport": "edgerun.report", "Session": "edgerun.session",
         "devices": "edgerun.device", "load": "edgerun.session", "load_many": "edgerun.arena"}


def __getattr__(name: str):
    """Import the parts that need OpenCL when they are first used."""
    if name in _LAZY:
        import importlib
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edgerun' has no attribute {name!r}")
