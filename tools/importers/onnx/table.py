"""The ONNX ops that are imported: op type -> function(context, node) -> its outputs."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgerun.tools.importers.onnx import (
    detection, einsum, elementwise, fastfood, indexing, layers, movement, norms, planes,
    qlinear, recurrent, resize, sampling, selection, signal)
from edgerun.tools.importers.onnx.context import Context, Node

# A function returns a Tensor, an array (known contents), a Value, or a list of them per output.
TABLE: dict[str, Callable[[Context, Node], Any]] = {
    **detection.TABLE, **einsum.TABLE, **elementwise.TABLE, **indexing.TABLE, **layers.TABLE,
    **movement.TABLE, **norms.TABLE, **recurrent.TABLE, **resize.TABLE, **qlinear.TABLE,
    **sampling.TABLE, **selection.TABLE, **signal.TABLE,
}
DOMAINS = {"": TABLE, "ai.onnx.ml": selection.ML, "com.microsoft": qlinear.MICROSOFT,
           "edgerun": {**planes.TABLE, **fastfood.TABLE}}
