"""Quantize a float graph: a storage type for every op, then quantize and dequantize around them."""
from edgerun.tools.quantize.assign import INTEGERS, Override, assign, read_overrides
from edgerun.tools.quantize.insert import insert
from edgerun.tools.quantize.strip import quantized, strip

__all__ = ["INTEGERS", "Override", "assign", "insert", "quantized", "read_overrides", "strip"]
