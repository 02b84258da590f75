"""The ONNX ops that are imported: op type -> function(context, node) -> its outputs."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgerun.tools.importers.onnx import elementwise, layers, movement, norms, resize
from edgerun.tools.importers.onnx.context import Context, Node

# A function returns a Tensor, an array (known contents), a Value, or a list of them per output.
TABLE: dict[str, Callable[[Context, Node], Any]] = {
    **elementwise.TABLE, **layers.TABLE, **movement.TABLE, **norms.TABLE, **resize.TABLE,
}
