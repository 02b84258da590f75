"""Ops at the end of a model that the host computes; see edgerun/host_ops.py."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flatbuffers import flexbuffers

from edgerun.tools.importers.tflite.context import Context
from edgerun.tools.importers.tflite.source import DAMAGE, SourceModel, SourceOp

BOXES, SCORES, ANCHORS = range(3)  # inputs
NEEDED = ("max_detections", "max_classes_per_detection", "nms_score_threshold",
          "nms_iou_threshold", "num_classes", "y_scale", "x_scale", "h_scale", "w_scale")
OPTIONAL = ("detections_per_class", "use_regular_nms")


def detection_postprocess(ctx: Context, op: SourceOp, names: list[str]) -> None:
    """Boxes [1,N,4+], scores [1,N,classes], anchors [N,4] -> boxes, classes, scores, count."""
    given = _options(ctx, op)
    missing = [name for name in NEEDED if name not in given]
    if missing:
        raise ctx.damaged(op, f"its options have no {', '.join(missing)}")
    options = {name: float(given[name]) for name in (*NEEDED, *OPTIONAL) if name in given}
    if len(op.inputs) != 3 or len(op.outputs) != 4:
        raise ctx.damaged(op, f"{len(op.inputs)} inputs and {len(op.outputs)} outputs, needed 3 "
                              "and 4")
    inputs = [ctx.input(op, number) for number in (BOXES, SCORES)]
    anchors = ctx.weights(op, ANCHORS)
    if anchors.constant:
        given = ctx.source.tensors[op.inputs[ANCHORS]]
        real = (given.data if anchors.quantization is None else
                (given.data.astype(np.float32) - np.float32(anchors.quantization.zero))
                * anchors.quantization.scale)
        anchors = ctx.graph.constant(real.astype(np.float32), given.name)
    ctx.graph.host("detection_postprocess", [*inputs, anchors], names, op.name, **options)


def _options(ctx: Context, op: SourceOp) -> Mapping[str, Any]:
    try:
        given = flexbuffers.Loads(op.options["CustomOptions"])
        return {name: float(value) for name, value in given.items()
                if isinstance(value, (int, float))}
    except (*DAMAGE, AssertionError, KeyError, UnicodeDecodeError) as error:
        raise ctx.damaged(op, f"its options are damaged: {error}") from error


def at_the_end(source: SourceModel, op: SourceOp) -> bool:
    """Whether no op reads what an op writes."""
    return not any(index in other.inputs for other in source.ops for index in op.outputs)


HOST: dict[str, Callable[[Context, SourceOp, list[str]], None]] = {
    "CUSTOM(TFLite_Detection_PostProcess)": detection_postprocess,
}
