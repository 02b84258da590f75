"""Ops at the end of a model that the host computes with NumPy: sorting what a network has found.

They read outputs of the graph, or results of host ops before them, and their results are what the
caller gets. HOST_OPS is their table, as edgerun.ops.OPS is that of the device's. To add one, write
its function, its shape rule and its line there.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.model import MAX_NAME, Model, TensorInfo

Spec = tuple[tuple[int, ...], str]  # shape (-1 for what depends on the values) and dtype
Options = Mapping[str, float]
MOST = 2**20  # boxes, classes or rows of a result
MAX_HOST_OPS = 64
BLOCK, KEPT = 256, 4096  # candidates that are compared at once, and with how many that were kept


@dataclass(frozen=True)
class HostDef:
    """The table line of a host op.

    Attributes:
        infer: (specs of the inputs, options) -> specs of the outputs; raises ValueError if the
            inputs do not fit.
        run: (arrays, options) -> arrays.
        inputs: how many there are.
        options: name -> (default, least, largest).
    """
    infer: Callable[[Sequence[Spec], Options], list[Spec]]
    run: Callable[[Sequence[np.ndarray], Options], list[np.ndarray]]
    inputs: int
    options: dict[str, tuple[float, float, float]]


def specs(code: str, inputs: Sequence[Spec], options: Options) -> tuple[list[Spec], dict]:
    """Return the outputs of an op, and all of its options.

    Raises:
        ValueError: there is no such op or option, or something does not fit.
    """
    definition = HOST_OPS.get(code)
    if definition is None:
        raise ValueError("is not a host op that this edgerun knows: written by a newer edgerun?")
    for name, value in options.items():
        if name not in definition.options:
            raise ValueError(f"has the option {name[:80]!r}, needed "
                             f"{', '.join(definition.options)}")
        _, low, high = definition.options[name]
        if not low <= value <= high:
            raise ValueError(f"has the {name} {value:g}, needed {low:g} to {high:g}")
    if len(inputs) != definition.inputs:
        raise ValueError(f"has {len(inputs)} inputs, needed {definition.inputs}")
    found = {name: default for name, (default, _, _) in definition.options.items()} | dict(options)
    return definition.infer(inputs, found), found


def check(model: Model) -> None:
    """Check the host ops of a model whose indices have been resolved.

    Raises:
        ModelError: names the op, what it is, and what was needed.
    """
    if len(model.host_ops) > MAX_HOST_OPS:
        raise ModelError(f"the graph: has {len(model.host_ops)} host ops, at most {MAX_HOST_OPS} "
                         "are allowed")
    names: set[str] = set()
    values: list[TensorInfo] = list(model.outputs)
    for number, op in enumerate(model.host_ops):
        where = f"host op {number} ({op.code[:200]} {op.name[:200]!r})"
        for name in (op.name, *(info.name for info in op.outputs)):
            if len(name) > MAX_NAME:
                raise ModelError(f"{where}: has a name of {len(name)} characters")
        for index in op.inputs:
            if not 0 <= index < len(values):
                raise ModelError(f"{where}: reads value {index}, there are {len(values)} before it")
        try:
            inferred, _ = specs(op.code, [_spec(values[index]) for index in op.inputs], op.options)
        except ValueError as error:
            raise ModelError(f"{where}: {error}") from None
        declared = [_spec(info) for info in op.outputs]
        if declared != inferred:
            raise ModelError(f"{where}: has the outputs {declared}, its inputs give {inferred}")
        values += op.outputs
    if not model.results:
        raise ModelError("the graph: has no result")
    for info in model.results:
        if info.name in names:
            raise ModelError(f"result {info.name[:200]!r}: is declared twice")
        names.add(info.name)


def finish(model: Model, outputs: Mapping[str, np.ndarray],
           took: list[int] | None = None) -> dict[str, np.ndarray]:
    """Run the host ops of a model.

    Args:
        model: validated.
        outputs: of its graph, by name.
        took: collects the nanoseconds of each op if given.

    Returns:
        The results of the model by name.
    """
    if model.results is model.outputs:
        return dict(outputs)
    values = [outputs[info.name] for info in model.outputs]
    for op in model.host_ops:
        start = time.perf_counter_ns()
        values += run(op.code, [values[index] for index in op.inputs], op.options)
        if took is not None:
            took.append(time.perf_counter_ns() - start)
    infos = [*model.outputs, *(info for op in model.host_ops for info in op.outputs)]
    numbers = {id(info): number for number, info in enumerate(infos)}
    return {info.name: values[numbers[id(info)]] for info in model.results}


def run(code: str, arrays: Sequence[np.ndarray], options: Options) -> list[np.ndarray]:
    """Return the outputs of one host op; what is not in `options` has its default."""
    definition = HOST_OPS[code]
    found = {name: default for name, (default, _, _) in definition.options.items()} | dict(options)
    with np.errstate(all="ignore"):  # exp() of what no trained network gives
        return definition.run(arrays, found)


def _spec(info: TensorInfo) -> Spec:
    return tuple(info.shape), dtypes.name_of(info.dtype)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_boxes(count: int) -> None:
    _require(count <= MOST, f"reads {count} boxes, at most {MOST} are possible")


def _floats(inputs: Sequence[Spec], *ranks: int) -> None:
    for (shape, dtype), rank in zip(inputs, ranks):
        _require(dtype == "fp32" and len(shape) == rank and min(shape) >= 1, f"reads {dtype} "
                 f"{shape}, needed fp32 of {rank} dimensions")


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of boxes [..., 4], each two corners, the lower one first.

    Boxes without area overlap nothing.
    """
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.maximum(size, 0)
    common = common[..., 0] * common[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    share = common / (areas[0] + areas[1] - common)
    return np.where((areas[0] > 0) & (areas[1] > 0), share, 0)


def suppress(boxes: np.ndarray, order: np.ndarray, most: int, threshold: float,
             eta: float = 1.0) -> list[int]:
    """Return the boxes that no better one overlaps by more than a threshold, at most `most`.

    Args:
        boxes: [n, 4] as for overlap().
        order: indices of candidates, the best first.
        most: number.
        threshold: of the overlap.
        eta: the threshold is multiplied by it after each box that is kept, while it is above 0.5.
    """
    kept: list[int] = []
    block = 1 if eta < 1 else BLOCK
    for start in range(0, len(order), block):
        if len(kept) >= most:
            break
        some = order[start:start + block]
        for at in range(0, len(kept), KEPT):
            better = boxes[kept[at:at + KEPT]]
            some = some[overlap(boxes[some][:, None], better[None]).max(axis=1) <= threshold]
        while len(some) and len(kept) < most:
            best, some = int(some[0]), some[1:]
            kept.append(best)
            some = some[overlap(boxes[best], boxes[some]) <= threshold]
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


def _best_first(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the indices of the chosen scores, the largest first; equal ones as they stand."""
    candidates = np.flatnonzero(chosen)
    return candidates[np.argsort(-scores[candidates], kind="stable")]


def _infer_postprocess(inputs: Sequence[Spec], options: Options) -> list[Spec]:
    _floats(inputs, 3, 3, 2)
    (boxes, _), (scores, _), (anchors, _) = inputs
    classes = int(options["num_classes"])
    rows = int(options["max_detections"]) * int(options["max_classes_per_detection"])
    _require(boxes[0] == scores[0] == 1 and boxes[1] == scores[1] == anchors[0] and boxes[2] >= 4
             and anchors[1] == 4, f"reads boxes {boxes}, scores {scores} and anchors {anchors}, "
             "needed [1, N, 4], [1, N, classes] and [N, 4]")
    _require_boxes(anchors[0])
    _require(scores[2] - classes in (0, 1), f"has {classes} classes and scores of {scores[2]}")
    _require(rows <= MOST, f"writes {rows} rows, at most {MOST} are possible")
    return [((1, rows, 4), "fp32"), ((1, rows), "fp32"), ((1, rows), "fp32"), ((1,), "fp32")]


def _postprocess(arrays: Sequence[np.ndarray], options: Options) -> list[np.ndarray]:
    """TFLite_Detection_PostProcess: boxes relative to anchors, both as centre and size (y, x, h,
    w), decoded; the best of them without overlaps, of each class or of all together."""
    encoded, scores, anchors = arrays[0][0].astype(np.float64), arrays[1][0], arrays[2]
    scale = np.array([options[f"{axis}_scale"] for axis in "yxhw"], np.float32).astype(np.float64)
    anchors = anchors.astype(np.float64)
    centre = encoded[:, :2] / scale[:2] * anchors[:, 2:] + anchors[:, :2]
    half = 0.5 * np.exp(encoded[:, 2:4] / scale[2:]) * anchors[:, 2:]
    centre, half = centre.astype(np.float32), half.astype(np.float32)
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    classes, rows = int(options["num_classes"]), int(options["max_detections"])
    scores = scores[:, scores.shape[1] - classes:]
    low = np.float32(options["nms_score_threshold"])
    threshold = np.float32(options["nms_iou_threshold"])
    wide = int(options["max_classes_per_detection"])
    if options["use_regular_nms"]:
        found: list[tuple[float, int, int]] = []
        for kind in range(classes):
            column = np.ascontiguousarray(scores[:, kind])
            kept = suppress(boxes, _best_first(column, column >= low),
                            int(options["detections_per_class"]), threshold)
            found = sorted([*found, *((column[box], box, kind) for box in kept)],
                           key=lambda entry: -entry[0])[:rows]
        picked = [(place, *entry) for place, entry in enumerate(found)]
        count = len(found)
    else:
        best = scores.max(axis=1)
        kept = suppress(boxes, _best_first(best, best >= low), rows, threshold)
        count = len(kept)
        picked = []
        for place, box in enumerate(kept):
            kinds = np.argsort(-scores[box], kind="stable")[:wide]
            picked += [(place * wide + n, scores[box, kind], box, kind)
                       for n, kind in enumerate(kinds)]
    y = [np.zeros((1, rows * wide, 4), np.float32), np.zeros((1, rows * wide), np.float32),
         np.zeros((1, rows * wide), np.float32), np.array([count], np.float32)]
    for place, score, box, kind in picked:
        y[0][0, place], y[1][0, place], y[2][0, place] = boxes[box], kind, score
    return y


def _infer_suppression(inputs: Sequence[Spec], options: Options) -> list[Spec]:
    _floats(inputs, 3, 3)
    (boxes, _), (scores, _) = inputs
    _require(boxes[0] == scores[0] and boxes[1] == scores[2] and boxes[2] == 4,
             f"reads boxes {boxes} and scores {scores}, needed [B, N, 4] and [B, classes, N]")
    _require_boxes(boxes[1])
    return [((-1, 3), "int64")]


def _suppression(arrays: Sequence[np.ndarray], options: Options) -> list[np.ndarray]:
    """ONNX NonMaxSuppression: batch, class and index of the boxes that are kept."""
    boxes, scores = arrays
    if options["center_point_box"]:  # x, y, width, height
        half = boxes[..., 2:] / np.float32(2)
        boxes = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
    low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2],
                                                                       boxes[..., 2:])
    boxes = np.concatenate([low, high], axis=-1)
    rows = [np.zeros((0, 3), np.int64)]
    for batch in range(len(boxes)):
        for kind, column in enumerate(scores[batch]):
            kept = suppress(boxes[batch],
                            _best_first(column, column > np.float32(options["score_threshold"])),
                            int(options["max_output_boxes_per_class"]),
                            np.float32(options["iou_threshold"]))
            rows.append(np.array([(batch, kind, box) for box in kept], np.int64).reshape(-1, 3))
    return [np.concatenate(rows)]


def _infer_detections(inputs: Sequence[Spec], options: Options) -> list[Spec]:
    _floats(inputs, 2, 2, 3)
    (loc, _), (conf, _), (prior, _) = inputs
    classes, rows = int(options["num_classes"]), int(options["keep_top_k"]) * loc[0]
    boxes = prior[2] // 4
    each = 1 if options["share_location"] else classes
    _require(prior[2] % 4 == 0 and prior[:2] in ((1, 1), (1, 2)) and conf[1] == boxes * classes
             and loc[1] == 4 * boxes * each and loc[0] == conf[0],
             f"reads locations {loc}, confidences {conf} and boxes {prior}, needed [N, 4 boxes], "
             "[N, boxes classes] and [1, 2, 4 boxes]")
    _require_boxes(boxes)
    _require(prior[1] == 2 or bool(options["variance_encoded_in_target"]),
             f"reads boxes {prior} without variances")
    _require(rows <= MOST, f"writes {rows} rows, at most {MOST} are possible")
    return [((1, 1, rows, 7), "fp32")]


def _detections(arrays: Sequence[np.ndarray], options: Options) -> list[np.ndarray]:
    """Caffe (SSD) DetectionOutput: rows of image, class, confidence, xmin, ymin, xmax, ymax; what
    is found in all images one below the other, and zeros below."""
    locations, confidences, prior = arrays
    boxes, classes = prior.shape[2] // 4, int(options["num_classes"])
    priors = prior[0, 0].reshape(boxes, 4)
    ratios = (np.ones((boxes, 4), np.float32) if options["variance_encoded_in_target"]
              else prior[0, 1].reshape(boxes, 4))
    keep = int(options["keep_top_k"])
    y = np.zeros((1, 1, keep * len(locations), 7), np.float32)
    at = 0
    for image in range(len(locations)):
        conf = confidences[image].reshape(boxes, classes)
        loc = locations[image].reshape(boxes, -1, 4)
        found = []
        for kind in range(classes):
            if kind == int(options["background_label_id"]):
                continue
            corners = _decoded(loc[:, 0 if options["share_location"] else kind], priors, ratios,
                               int(options["code_type"]))
            corners = np.clip(corners, 0, 1) if options["clip"] else corners
            column = np.ascontiguousarray(conf[:, kind])
            order = _best_first(column, column > np.float32(options["confidence_threshold"]))
            order = order[:int(options["top_k"])] if options["top_k"] >= 0 else order
            found += [(image, kind, column[box], *corners[box])
                      for box in suppress(corners, order, boxes,
                                          np.float32(options["nms_threshold"]), options["eta"])]
            found = sorted(found, key=lambda row: -row[2])[:keep]
        rows = sorted(found, key=lambda row: (row[1], -row[2]))
        y[0, 0, at:at + len(rows)] = np.array(rows, np.float32).reshape(-1, 7)
        at += len(rows)
    return [y]


CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3  # code types of SSD


def _decoded(loc: np.ndarray, priors: np.ndarray, ratios: np.ndarray, code: int) -> np.ndarray:
    """Return corners [n, 4] of what is encoded relative to other boxes (SSD, Liu et al. 2016)."""
    size = priors[:, 2:] - priors[:, :2]
    if code == CORNER:
        return priors + ratios * loc
    if code == CORNER_SIZE:
        return priors + ratios * loc * np.concatenate([size, size], axis=1)
    centre = (priors[:, :2] + priors[:, 2:]) / 2 + ratios[:, :2] * loc[:, :2] * size
    half = np.exp(ratios[:, 2:] * loc[:, 2:]) * size / 2
    return np.concatenate([centre - half, centre + half], axis=1)


FLAG, SHARE, COUNT = (0, 0, 1), (0.5, 0, 1), (1, 1, MOST)
NUMBER = (0, -math.inf, math.inf)
SCALE = (1, 1e-30, 1e30)
HOST_OPS: dict[str, HostDef] = {
    "detection_postprocess": HostDef(_infer_postprocess, _postprocess, 3, {
        "max_detections": COUNT, "max_classes_per_detection": COUNT, "detections_per_class":
        (100, 1, MOST), "use_regular_nms": FLAG, "nms_score_threshold": NUMBER,
        "nms_iou_threshold": SHARE, "num_classes": COUNT, "y_scale": SCALE, "x_scale": SCALE,
        "h_scale": SCALE, "w_scale": SCALE}),
    "non_max_suppression": HostDef(_infer_suppression, _suppression, 2, {
        "max_output_boxes_per_class": (0, 0, MOST), "iou_threshold": (0, 0, 1),
        "score_threshold": (-math.inf, -math.inf, math.inf), "center_point_box": FLAG}),
    "detection_output": HostDef(_infer_detections, _detections, 3, {
        "num_classes": COUNT, "share_location": (1, 0, 1), "background_label_id": (0, -1, MOST),
        "nms_threshold": (0.3, 0, 1), "top_k": (-1, -1, MOST), "keep_top_k": COUNT,
        "confidence_threshold": (-math.inf, -math.inf, math.inf), "code_type": (1, 1, 3),
        "variance_encoded_in_target": FLAG, "eta": (1, 1e-6, 1), "clip": FLAG}),
}
