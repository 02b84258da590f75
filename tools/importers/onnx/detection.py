"""What sorts the findings of a network: the host computes it after the graph."""
from __future__ import annotations

from collections.abc import Callable

from edgerun.host_ops import MOST
from edgerun.tools.importers.onnx.context import Context, HostCall, Node, Value, need

MOST_BOXES, OVERLAP, SCORE = 2, 3, 4  # inputs


def _number(node: Node, index: int, what: str) -> float | None:
    return float(node.single(index, what)) if node.given(index) else None


def _suppression(ctx: Context, node: Node) -> Value:
    """boxes [B, N, 4], scores [B, classes, N] -> batch, class and index of what is kept, [n, 3]."""
    boxes, scores = ctx.tensor(0), ctx.tensor(1)
    need(boxes.dtype == scores.dtype == "fp32", f"reads {boxes.dtype} and {scores.dtype}, needed "
                                                "real numbers")
    options = {"center_point_box": float(node.attr("center_point_box", 0))}
    options["max_output_boxes_per_class"] = min(
        _number(node, MOST_BOXES, "max_output_boxes_per_class") or 0, MOST)
    for index, name in ((OVERLAP, "iou_threshold"), (SCORE, "score_threshold")):
        value = _number(node, index, name)
        if value is not None:
            options[name] = value
    return Value(host=HostCall("non_max_suppression", node.name, (boxes, scores), options))


TABLE: dict[str, Callable] = {"NonMaxSuppression": _suppression}
