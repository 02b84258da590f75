"""Host ops: against LiteRT, ONNX Runtime and a plain loop; in files, sessions and reports."""
from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from flatbuffers import flexbuffers
from onnx import TensorProto, helper

from edgerun import host_ops, loader
from edgerun.__main__ import main
from edgerun.errors import ModelError, UnsupportedError
from edgerun.session import Session
from edgerun.timing import HOST
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from edgerun.tools.importers import onnx as onnx_importer
from edgerun.tools.pack import pack
from edgerun.tools.runtimes import LiteRt, OnnxRuntime
from tests.test_parity import read_golden
from tests.tools.tflite_builder import TFLiteBuilder, load, random


# TFLite_Detection_PostProcess

OPTIONS = {"max_detections": 6, "max_classes_per_detection": 1, "detections_per_class": 4,
           "use_regular_nms": False, "nms_score_threshold": 0.3, "nms_iou_threshold": 0.5,
           "num_classes": 3, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0}


def detector(boxes: int = 40, classes: int = 4, quantized: bool = False, **changed
             ) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model of nothing but the op; `classes` counts the background."""
    m = TFLiteBuilder()
    rng = np.random.default_rng(boxes)
    anchors = np.concatenate([rng.uniform(0.2, 0.8, (boxes, 2)), rng.uniform(0.1, 0.4, (boxes, 2))],
                             axis=1).astype(np.float32)
    feeds = {"x0": random((1, boxes, 4), 1), "x1": random((1, boxes, classes), 2, 0, 1)}
    grids = [None] * 3
    kind = "float32"
    if quantized:
        kind, grids = "uint8", [([0.02], [128], 0), ([1 / 256], [0], 0), ([1 / 256], [0], 0)]
        feeds = {name: np.clip(np.rint(x / grid[0][0] + grid[1][0]), 0, 255).astype(np.uint8)
                 for (name, x), grid in zip(feeds.items(), grids)}
        anchors = np.rint(anchors * 256).astype(np.uint8)
    inputs = [m.input((1, boxes, 4), kind, quantization=grids[0]),
              m.input((1, boxes, classes), kind, quantization=grids[1]),
              m.const(anchors, quantization=grids[2])]
    given = bytes(flexbuffers.Dumps({**OPTIONS, **changed}))
    outputs = m.op("CUSTOM", inputs, outs=4, custom="TFLite_Detection_PostProcess",
                   custom_options=given)
    return m.finish(outputs), feeds


@pytest.mark.parametrize("changed", [
    {}, {"quantized": True}, {"max_classes_per_detection": 2}, {"classes": 3},
    {"use_regular_nms": True}, {"use_regular_nms": True, "max_detections": 30},
    {"boxes": 700, "max_detections": 100, "nms_iou_threshold": 0.2},
    {"max_detections": 60, "nms_score_threshold": 0.97}])
def test_detections_of_tflite(changed, tmp_path):
    data, feeds = detector(**changed)
    graph = load(data, tmp_path)
    found = reference.execute(graph, feeds)
    want = LiteRt(tmp_path / "m.tflite").run(feeds)
    assert list(found) == list(want)
    count = int(list(want.values())[3][0])
    wide = changed.get("max_classes_per_detection", 1)
    assert 0 < count
    for name, expected in want.items():
        assert found[name].shape == expected.shape and found[name].dtype == expected.dtype
        rows = slice(None) if expected.ndim == 1 else (0, slice(0, count * wide))
        assert np.allclose(found[name][rows], expected[rows], rtol=1e-5, atol=1e-6), name


def test_a_detector_with_its_tail(device, shared_data, tmp_path):
    """coral_traffic_model: everything that it gives, exactly as LiteRT."""
    source = shared_data / "models" / "tflite" / "coral_traffic_model.tflite"
    golden = read_golden(shared_data / "golden" / "tflite" / "coral_traffic_model.npz")
    pack(source, tmp_path / "m.edge")
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        assert [info.name for info in session.outputs] == list(golden.outputs)
        inputs = {name: array[0] for name, array in golden.inputs.items()}
        found = session.run(inputs)
        times = session.profile(inputs)
    for name, array in golden.outputs.items():
        assert np.array_equal(found[name], array[0]), name
    assert [time.kernel for time in times].count(HOST) == 1
    assert times[-1].code == "detection_postprocess" and times[-1].ns > 0


@pytest.mark.parametrize("changed, message", [
    ({"num_classes": 9}, "has 9 classes and scores of 4"), ({"nms_iou_threshold": 2.0},
                                                            "has the nms_iou_threshold 2"),
    ({"max_detections": 0}, "max_detections 0"), ({"x_scale": 0.0}, "x_scale 0")])
def test_wrong_options(changed, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load(detector(**changed)[0], tmp_path)


def test_damaged_options(tmp_path):
    m = TFLiteBuilder()
    inputs = [m.input((1, 5, 4)), m.input((1, 5, 4)), m.const(random((5, 4)))]
    y = m.op("CUSTOM", inputs, outs=4, custom="TFLite_Detection_PostProcess",
             custom_options=b"\x01\x02\x03")
    with pytest.raises(ModelError, match="its options"):
        load(m.finish(y), tmp_path)


def test_a_tail_that_is_read_is_refused(tmp_path):
    m = TFLiteBuilder()
    inputs = [m.input((1, 5, 4)), m.input((1, 5, 4)), m.const(random((5, 4)))]
    y = m.op("CUSTOM", inputs, outs=4, custom="TFLite_Detection_PostProcess",
             custom_options=bytes(flexbuffers.Dumps(OPTIONS)))
    z = m.op("ABS", [y[0]])
    with pytest.raises(UnsupportedError, match="TFLite_Detection_PostProcess"):
        load(m.finish([z, *y]), tmp_path)


# NonMaxSuppression

def suppression(batch: int = 2, classes: int = 3, boxes: int = 30, center: int = 0,
                limits: tuple = (5, 0.3, 0.2), after: bool = False) -> onnx.ModelProto:
    kinds = (np.int64, np.float32, np.float32)
    constants = [helper.make_tensor(f"c{n}", TensorProto.INT64 if n == 0 else TensorProto.FLOAT,
                                    [1], [kinds[n](value)]) for n, value in enumerate(limits)]
    nodes = [helper.make_node("Sigmoid", ["given"], ["scores"]),
             helper.make_node("NonMaxSuppression", [
                 "boxes", "scores", *(c.name for c in constants)], ["kept"], "nms",
                 center_point_box=center)]
    if after:
        nodes.append(helper.make_node("Cast", ["kept"], ["rows"], "cast", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("boxes", 1, (batch, boxes, 4)),
                     helper.make_tensor_value_info("given", 1, (batch, classes, boxes))],
        [helper.make_tensor_value_info("rows" if after else "kept", 1 if after else 7, None),
         helper.make_tensor_value_info("scores", 1, (batch, classes, boxes))], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def found_boxes(batch: int, boxes: int, center: bool) -> np.ndarray:
    rng = np.random.default_rng(boxes)
    if center:
        return rng.uniform(0.05, 1, (batch, boxes, 4)).astype(np.float32)
    corners = rng.uniform(0, 1, (batch, boxes, 2, 2)).astype(np.float32)
    return corners.reshape(batch, boxes, 4)  # in no order


@pytest.mark.parametrize("options", [
    {}, {"center": 1}, {"limits": (50, 0.0, 0.0)}, {"limits": (3,)}, {"limits": ()},
    {"batch": 1, "classes": 1, "boxes": 600, "limits": (300, 0.5)},
    {"limits": (5, 0.5, 2.0)}])
def test_suppression_of_onnx(device, options, tmp_path):
    model = suppression(**options)
    shape = {"batch": 2, "boxes": 30, "center": 0, **options}
    feeds = {"boxes": found_boxes(shape["batch"], shape["boxes"], bool(shape["center"])),
             "given": random((shape["batch"], options.get("classes", 3), shape["boxes"]), 5)}
    onnx.save(model, tmp_path / "m.onnx")
    want = OnnxRuntime(tmp_path / "m.onnx").run(feeds)
    pack(tmp_path / "m.onnx", tmp_path / "m.edge")
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        assert [(info.name, info.shape) for info in session.outputs][0] == ("kept", (-1, 3))
        found = session.run(feeds)
    assert list(found) == ["kept", "scores"]
    assert found["kept"].dtype == np.int64 and np.array_equal(found["kept"], want["kept"])
    assert np.allclose(found["scores"], want["scores"], atol=1e-6)


def test_an_op_behind_a_host_op_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"Cast \(1 node, first 'cast'\): reads what "
                                               "non_max_suppression 'nms' finds"):
        onnx_importer.import_proto(suppression(after=True))


def test_a_limit_that_is_computed_is_refused():
    model = suppression()
    model.graph.input.append(helper.make_tensor_value_info("c1", 1, (1,)))
    del model.graph.initializer[1]
    with pytest.raises(UnsupportedError, match="NonMaxSuppression.*iou_threshold"):
        onnx_importer.import_proto(model)


# DetectionOutput; wechatqr_detect is in tests/test_parity.py

def plain_detections(loc, conf, prior, options) -> list[list[float]]:
    """Caffe's layer box by box, for one image."""
    boxes, classes = prior.shape[2] // 4, options["num_classes"]
    found = []
    for kind in range(classes):
        if kind == options.get("background_label_id", 0):
            continue
        rows = []
        for n in range(boxes):
            p, v = prior[0, 0, 4 * n:4 * n + 4], prior[0, 1, 4 * n:4 * n + 4]
            e = loc[0].reshape(boxes, -1, 4)[n, 0 if options.get("share_location", 1) else kind]
            if options["code_type"] == host_ops.CORNER:
                box = p + v * e
            else:
                w, h = p[2] - p[0], p[3] - p[1]
                x, y = (p[0] + p[2]) / 2 + v[0] * e[0] * w, (p[1] + p[3]) / 2 + v[1] * e[1] * h
                w, h = np.exp(v[2] * e[2]) * w, np.exp(v[3] * e[3]) * h
                box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2], np.float32)
            score = conf[0, n * classes + kind]
            if score > options["confidence_threshold"]:
                rows.append((score, n, box))
        rows.sort(key=lambda row: (-row[0], row[1]))
        kept, threshold = [], options["nms_threshold"]
        for row in rows[:options["top_k"]] if options["top_k"] >= 0 else rows:
            if all(float(host_ops.overlap(row[2], other[2])) <= threshold for other in kept):
                kept.append(row)
                if options.get("eta", 1) < 1 and threshold > 0.5:
                    threshold *= options["eta"]
        found += [[0, kind, score, *box] for score, _, box in kept]
    found = sorted(found, key=lambda row: -row[2])[:options["keep_top_k"]]
    return sorted(found, key=lambda row: (row[1], -row[2]))


@pytest.mark.parametrize("options", [
    {}, {"code_type": 1}, {"share_location": 0}, {"eta": 0.7, "nms_threshold": 0.8},
    {"background_label_id": -1, "top_k": 5}, {"keep_top_k": 3}, {"confidence_threshold": 2.0}])
def test_detections_of_caffe(options):
    options = {"num_classes": 3, "nms_threshold": 0.4, "top_k": -1, "keep_top_k": 20,
               "confidence_threshold": 0.1, "code_type": 2, **options}
    rng = np.random.default_rng(3)
    boxes = 50
    low = rng.uniform(0, 0.7, (boxes, 2))
    corners = np.concatenate([low, low + rng.uniform(0.05, 0.3, (boxes, 2))], axis=1)
    prior = np.stack([corners.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], boxes)])[None]
    each = 1 if options.get("share_location", 1) else 3
    arrays = [rng.normal(size=(1, boxes * 4 * each)), rng.uniform(0, 1, (1, boxes * 3)), prior]
    arrays = [array.astype(np.float32) for array in arrays]
    y, = host_ops.run("detection_output", arrays, options)
    want = np.array(plain_detections(*arrays, options), np.float32).reshape(-1, 7)
    assert y.shape == (1, 1, options["keep_top_k"], 7)
    assert np.allclose(y[0, 0, :len(want)], want, atol=1e-5)
    assert not y[0, 0, len(want):].any()


def test_two_images():
    arrays = [np.zeros((2, 8), np.float32), np.float32([[0, 1, 0, 0.5]] * 2),
              np.float32([[[0, 0, 1, 1, 2, 2, 3, 3], [1] * 8]])]
    options = {"num_classes": 2, "keep_top_k": 2, "confidence_threshold": 0.1, "code_type": 2}
    y, = host_ops.run("detection_output", arrays, options)
    assert y[0, 0, :, :3].tolist() == [[0, 1, 1], [0, 1, 0.5], [1, 1, 1], [1, 1, 0.5]]


# Files, reports

@pytest.fixture
def packed(tmp_path):
    onnx.save(suppression(), tmp_path / "m.onnx")
    pack(tmp_path / "m.onnx", tmp_path / "m.edge")
    return tmp_path / "m.edge"


def test_info_marks_what_the_host_computes(packed, capsys):
    assert main(["info", str(packed)]) == 0
    assert "non_max_suppression" in capsys.readouterr().out
    assert main(["info", str(packed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [op["code"] for op in found["host_ops"]] == ["non_max_suppression"]
    assert [entry["name"] for entry in found["results"]] == ["kept", "scores"]


def test_vectors_of_results(packed, tmp_path, device):
    """Test vectors hold what the caller gets, whose size depends on what is found."""
    feeds = {"boxes": found_boxes(2, 30, False), "given": random((2, 3, 30), 5)}
    want = OnnxRuntime(tmp_path / "m.onnx").run(feeds)
    pack(tmp_path / "m.onnx", packed,
         vectors=[(list(feeds.values()), [want["kept"], want["scores"]], 1e-3)])
    assert main(["verify", str(packed)]) == 0


def hostile(model, **changes):
    op = replace(model.host_ops[0], **changes)
    return replace(model, host_ops=(op,), results=(*op.outputs, model.results[1]))


@pytest.mark.parametrize("changes, message", [
    ({"code": "mine"}, "not a host op that this edgerun knows"),
    ({"inputs": (0, 7)}, "reads value 7"), ({"inputs": (0,)}, "has 1 inputs, needed 2"),
    ({"inputs": (1, 1)}, r"reads boxes .* and scores"),
    ({"options": {"no": 1.0}}, "has the option 'no'"),
    ({"options": {"iou_threshold": float("nan")}}, "has the iou_threshold nan"),
    ({"options": {"max_output_boxes_per_class": 1e9}}, "max_output_boxes_per_class 1e\\+09")])
def test_hostile_files(packed, changes, message):
    model = loader.read(packed)
    host_ops.check(model)
    with pytest.raises(ModelError, match=message):
        host_ops.check(hostile(model, **changes))


def test_names_of_the_host_are_bounded(packed):
    model = loader.read(packed)
    kept, = model.host_ops[0].outputs
    for changes in ({"name": "x" * 5000}, {"outputs": (replace(kept, name="x" * 5000),)}):
        with pytest.raises(ModelError, match="has a name of 5000 characters"):
            host_ops.check(hostile(model, **changes))


@pytest.mark.parametrize("code, shapes", [
    ("detection_postprocess", [(1, 2**20 + 1, 4), (1, 2**20 + 1, 1), (2**20 + 1, 4)]),
    ("non_max_suppression", [(1, 2**20 + 1, 4), (1, 1, 2**20 + 1)]),
    ("detection_output", [(1, 2**22 + 4), (1, 2**20 + 1), (1, 2, 2**22 + 4)])])
def test_more_boxes_than_can_be_compared(code, shapes):
    with pytest.raises(ValueError, match="reads 1048577 boxes, at most 1048576 are possible"):
        host_ops.specs(code, [(shape, "fp32") for shape in shapes], {})


def test_memory_of_many_kept_boxes():
    """None of them overlap: every one is compared with all that were kept before, some at once."""
    count = 12_000
    corner = np.arange(count, dtype=np.float32)[:, None].repeat(2, axis=1) * 2
    boxes = np.concatenate([corner, corner + 1], axis=1)
    tracemalloc.start()
    try:
        kept = host_ops.suppress(boxes, np.arange(count), count, 0.5)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept == list(range(count))
    assert most < 48e6


def test_boxes_are_compared_with_all_that_were_kept(monkeypatch):
    boxes, scores = found_boxes(1, 500, False)[0], random((500,), 7)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]),
                            np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    order = np.argsort(-scores)
    want = host_ops.suppress(boxes, order, 500, 0.4)
    monkeypatch.setattr(host_ops, "BLOCK", 16)
    monkeypatch.setattr(host_ops, "KEPT", 3)
    assert host_ops.suppress(boxes, order, 500, 0.4) == want and len(want) > 20


def test_hostile_results(packed):
    model = loader.read(packed)
    op = model.host_ops[0]
    for shape in ((3, 3), (-1, 4)):
        with pytest.raises(ModelError, match="its inputs give"):
            host_ops.check(hostile(model, outputs=(replace(op.outputs[0], shape=shape),)))
    with pytest.raises(ModelError, match="is declared twice"):
        host_ops.check(replace(model, results=(op.outputs[0], op.outputs[0])))
    with pytest.raises(ModelError, match="at most 64"):
        host_ops.check(replace(model, host_ops=(op,) * 65))


def test_names_of_what_the_host_reads_do_not_collide():
    graph = Graph()
    boxes, scores = graph.input("kept", (1, 3, 4), "fp32"), graph.input("s", (1, 2, 3), "fp32")
    graph.output("s", graph.add("unary", [scores], kind="relu"))
    graph.host("non_max_suppression", [boxes, scores], ["kept"])
    names = [b.name for b in graph.outputs]
    assert names == ["s", "kept.1", "s.1"] and graph.host_ops[0].inputs == ["kept.1", "s.1"]
