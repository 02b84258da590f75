"""The host side of edgerun: import, optimize, plan and pack models; installed as edgerun.tools."""
# Not lazily: the function has the name of its module, and the one that is bound last is what
# `from edgerun.tools import pack` gives.
from edgerun.tools.pack import pack
from edgerun.tools.pytorch import from_torch

__all__ = ["from_torch", "pack"]
