"""Quantize a float graph: a storage type for every op, then quantize and dequantize around them."""
from edgerun.tools.quantize.answer import keep_gates, keep_real
from edgerun.tools.quantize.assign import (
    INTEGERS, WEIGHTED, Override, assign, read_overrides, storage)
from edgerun.tools.quantize.exact import keep_exact
from edgerun.tools.quantize.improve import clipped_weights, equalize
from edgerun.tools.quantize.insert import insert
from edgerun.tools.quantize.strip import keep_rows, quantized, strip

__all__ = ["INTEGERS", "WEIGHTED", "Override", "assign", "clipped_weights", "equalize", "insert",
           "keep_exact", "keep_gates", "keep_real", "keep_rows", "quantized", "read_overrides",
           "storage", "strip"]
