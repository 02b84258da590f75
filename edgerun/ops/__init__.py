"""The table of ops: code -> OpDef. The only registry of the runtime."""
from edgerun.ops import elementwise
from edgerun.ops._base import Facts, Launch, OpDef, Scratch

__all__ = ["OPS", "Facts", "Launch", "OpDef", "Scratch"]

OPS: dict[str, OpDef] = {
    "unary": OpDef(elementwise.infer_unary, elementwise.unary, (1, 1), "UnaryOptions"),
    "binary": OpDef(elementwise.infer_binary, elementwise.binary, (2, 2), "BinaryOptions"),
}
