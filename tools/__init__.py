"""The host side of edgerun: import, optimize, plan and pack models; installed as edgerun.tools."""

__all__ = ["pack"]


def __getattr__(name: str):
    """Import the packer when it is first used: it needs onnx and other host libraries."""
    if name == "pack":
        import importlib
        return importlib.import_module("edgerun.tools.pack").pack
    raise AttributeError(f"module 'edgerun.tools' has no attribute {name!r}")
