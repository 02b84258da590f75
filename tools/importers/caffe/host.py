"""Layers at the end of a network that the host computes; see edgerun/host_ops.py."""
from __future__ import annotations

import math
from collections.abc import Callable

from edgerun.errors import ModelError
from edgerun.tools.importers.caffe.context import Context, need


def _detection_output(ctx: Context) -> list:
    """Locations [N, 4 boxes], confidences [N, boxes classes], boxes [1, 2, 4 boxes]."""
    param = ctx.param("detection_output")
    if len(ctx.bottoms) < 3 or len(ctx.layer.tops) != 1:
        raise ModelError(f"reads {len(ctx.bottoms)} blobs and writes {len(ctx.layer.tops)}, needed "
                         "3 and 1")
    need(len(ctx.bottoms) == 3, f"reads {len(ctx.bottoms)} blobs, needed 3: refined boxes are not "
                                "supported")
    need(param.normalized_bbox, "its boxes are counted in pixels, needed parts of the image")
    need(param.code_type in (1, 2, 3), f"its code_type is {param.code_type}, needed CORNER, "
                                       "CENTER_SIZE or CORNER_SIZE")
    loc, conf, prior = (ctx.bottom(number) for number in range(3))
    if len(prior.shape) != 3 or not param.num_classes:
        raise ModelError(f"has {param.num_classes} classes and boxes of the shape {prior.shape}, "
                         "needed at least 1 and 3 dimensions")
    loc, conf = (x if len(x.shape) == 2 else ctx.reshape(
        x, (x.shape[0], math.prod(x.shape[1:]))) for x in (loc, conf))
    options = {
        "num_classes": param.num_classes, "share_location": param.share_location,
        "background_label_id": param.background_label_id,
        "nms_threshold": param.nms_param.nms_threshold, "eta": param.nms_param.eta,
        "top_k": param.nms_param.top_k if param.nms_param.HasField("top_k") else -1,
        "keep_top_k": (param.keep_top_k if param.keep_top_k >= 0
                       else param.num_classes * (prior.shape[2] // 4)),
        "code_type": param.code_type, "clip": param.clip,
        "variance_encoded_in_target": param.variance_encoded_in_target}
    if param.HasField("confidence_threshold"):
        options["confidence_threshold"] = param.confidence_threshold
    ctx.graph.host("detection_output", [loc, conf, prior], ctx.layer.tops, ctx.layer.name,
                   **{name: float(value) for name, value in options.items()})
    return []


TABLE: dict[str, Callable] = {"DetectionOutput": _detection_output}
