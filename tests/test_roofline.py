"""The peaks of a device, and how `edgerun bench` compares ops with them."""
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edgerun import arrays, dots, loader, roofline, text, timing
from edgerun.roofline import Bound, Roofline, bound
from edgerun.session import Session
from edgerun.tools import networks

PEAKS = Roofline("d", "p", "vnni", 200.0, 800.0, 400.0, (1 << 10, 1 << 20, 1 << 30),
                 (100.0, 50.0, 10.0), (80.0, 40.0, 8.0), 2000.0, 20000.0)


@dataclasses.dataclass
class FakeTensor:
    index: int
    dtype: str
    bytes: int
    constant: bool = False


@dataclasses.dataclass
class FakeOp:
    code: str
    inputs: list
    outputs: list


@pytest.fixture
def fast(monkeypatch, tmp_path):
    """Measure coarsely, into a folder of the test's own."""
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(roofline, "REPEATS", 2)
    monkeypatch.setattr(roofline, "SPAN_NS", 2e5)
    monkeypatch.setattr(roofline, "OUTER", 8 << 20)
    monkeypatch.setattr(roofline, "LAUNCHES", 5)
    return tmp_path


def test_measures_once(device, fast, monkeypatch):
    first = roofline.roofline(device)
    assert first.fma_ops > 1 and first.dot4_ops >= first.fma_ops and first.dot2_ops >= first.fma_ops
    assert first.sizes == tuple(sorted(first.sizes)) and len(first.sizes) >= 2
    assert all(rate > 0.1 for rate in (*first.read, *first.copy))
    assert first.launch_ns > 0 and first.wait_ns > 0 and "peak fp32" in first.text()

    def forbidden(device):
        raise AssertionError("measured a second time")

    monkeypatch.setattr(roofline, "_measure", forbidden)
    assert roofline.roofline(device) == first
    with pytest.raises(AssertionError, match="second time"):
        roofline.roofline(device, again=True)


def test_sums_of_products_are_not_optimized_away(device, fast):
    """A loop whose products are computed once would be far above what lanes can do."""
    found = roofline.roofline(device)
    assert found.dot2_ops <= 2.5 * found.fma_ops
    assert found.dot4_ops <= (5 if found.dot in dots.INSTRUCTIONS else 2.5) * found.fma_ops


@pytest.mark.parametrize("damage", [
    lambda data: data[:-20], lambda data: b"[]", lambda data: b"\xff\xfe",
    lambda data: data.replace(b'"launch_ns": ', b'"launch_ns": -'),
    lambda data: data.replace(b'"fma_ops": ', b'"fma_ops": "x", "z": '),
    lambda data: data.replace(b'"read": [', b'"read": [1.0, ')])
def test_a_damaged_file_is_measured_again(device, fast, monkeypatch, damage):
    monkeypatch.setattr(roofline, "_measure", lambda device: PEAKS)
    assert roofline.roofline(device) == PEAKS
    path, = fast.glob("roofline-*.json")
    path.write_bytes(damage(path.read_bytes()))
    newer = dataclasses.replace(PEAKS, fma_ops=1.0)
    monkeypatch.setattr(roofline, "_measure", lambda device: newer)
    assert roofline.roofline(device) == newer
    assert roofline.roofline(device) == newer and len(list(fast.iterdir())) == 1


def test_nothing_is_kept_without_a_folder(device, monkeypatch):
    monkeypatch.setenv("EDGERUN_CACHE_DIR", "0")
    calls = []
    monkeypatch.setattr(roofline, "_measure", lambda device: calls.append(1) or PEAKS)
    assert roofline.roofline(device) == roofline.roofline(device) == PEAKS
    assert len(calls) == 2


def test_bandwidth_by_size():
    assert PEAKS.bandwidths(1) == (100.0, 80.0) == PEAKS.bandwidths(1 << 10)
    assert PEAKS.bandwidths((1 << 10) + 1) == (50.0, 40.0)
    assert PEAKS.bandwidths(1 << 40) == (10.0, 8.0)


def test_bound_of_a_convolution():
    x, w, y = (FakeTensor(0, "fp32", 600), FakeTensor(1, "fp32", 1000, True),
               FakeTensor(2, "fp32", 400))
    found = bound(FakeOp("conv2d", [x, w, None], [y]), 50_000, PEAKS, 1 << 20)
    assert found.compute_ns == 100_000 / 200
    # activations from the smallest size: 400 both ways, 200 read; weights from the model's
    assert found.memory_ns == pytest.approx(800 / 80 + 200 / 100 + 1000 / 50)
    assert found.possible_ns == 500 and found.limit(6001, 2000) == "compute"
    assert found.limit(5999, 2000) == "launch"
    assert Bound(1.0, 2.0).limit(10_000, 2000) == "memory"


@pytest.mark.parametrize("code, dtype, peak", [
    ("conv2d", "uint8", 800), ("dense", "int16", 400), ("matmul", "fp16", 200),
    ("depthwise_conv2d", "uint8", 200), ("conv_transpose2d", "uint8", 800)])
def test_peak_by_type(code, dtype, peak):
    op = FakeOp(code, [FakeTensor(0, dtype, 8)], [FakeTensor(1, dtype, 8)])
    assert bound(op, 1600, PEAKS, 8).compute_ns == 3200 / peak


def test_a_slice_reads_what_it_writes():
    x, y = FakeTensor(0, "fp32", 1 << 25), FakeTensor(1, "fp32", 512)
    assert bound(FakeOp("slice", [x], [y]), 0, PEAKS, 8).memory_ns == 1024 / 80
    table, i = FakeTensor(0, "fp32", 1 << 29, True), FakeTensor(2, "int32", 8)
    assert bound(FakeOp("gather", [table, i], [y]), 0, PEAKS, 1 << 29).memory_ns < 200


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("roofline") / "mlp.edge"
    networks.write("mlp", path)
    return path


def test_bench_compares_with_the_peaks(network, device, fast):
    with Session(loader.read(network), device) as session:
        found = timing.bench(session, arrays.random_inputs(session.inputs), 5, 2, per_op=True)
    assert found.peaks == roofline.roofline(device)
    document = json.loads(text.json_text(found.as_dict()))
    assert {"launch_share", "attained", "peaks", "host", "wait"} <= document.keys()
    assert document["peaks"]["sizes"] == list(found.peaks.sizes)
    assert [op["limit"] for op in document["ops"]] and all(
        op["limit"] in ("compute", "memory", "launch") for op in document["ops"])
    # weights of 4 MB, measured beyond 8 MB: from a cache they may come faster, but not by magic
    assert all(0 < op["attained"] < 20 for op in document["ops"])
    assert document["launch_share"] == pytest.approx(
        found.route["commands"] * found.peaks.launch_ns / found.total["median"])
    shown = found.text()
    assert "% possible" in shown and "launch share" in shown and "host: all but waiting" in shown


def test_bench_without_ops_needs_no_peaks(network, device, monkeypatch):
    monkeypatch.setattr(timing, "roofline", lambda *_: pytest.fail("measured the peaks"))
    with Session(loader.read(network), device) as session:
        found = timing.bench(session, arrays.random_inputs(session.inputs), 1, 0)
    assert found.peaks is None and found.launch_share is None and found.attained is None


def test_an_op_cannot_beat_the_peak(device, tmp_path):
    """Large products run for long enough to be measured: no more than the peak, but for noise."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from edgerun.tools.pack import pack
    w = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (512, 512))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (512, 512))],
        [numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "m.onnx")
    pack(tmp_path / "m.onnx", tmp_path / "m.edge")
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        for _ in range(5):  # other work may steal time while the peaks are measured
            peaks = roofline.roofline(device, again=True)
            op = max(timing.profile(session, arrays.random_inputs(session.inputs), 9, peaks),
                     key=lambda op: op.macs)
            assert op.limit == "compute" and op.attained > 0.02
            if op.attained <= 1.2:
                return
    pytest.fail(f"in every of five measurements beyond the peak, at last {op.attained:.2f}")


def test_shapes_in_short(tmp_path):
    networks.write("attention", tmp_path / "n.edge", size=32)
    ops = loader.read(tmp_path / "n.edge").ops
    shapes = [timing.shape_of(op) for op in ops]
    assert shapes[0] == "16x16/16 3->192 2x2"
    assert "192->1000 1" in shapes and any("192->768" in shape for shape in shapes)
    networks.write("mobilenetv2", tmp_path / "m.edge", size=32)
    shapes = [timing.shape_of(op) for op in loader.read(tmp_path / "m.edge").ops]
    assert shapes[:3] == ["3x3/2 3->32 16x16", "3x3/1 32->32 16x16", "1x1/1 32->16 16x16"]


@pytest.mark.parametrize("at", [0, 4, 20])
def test_stores_past_caches_may_be_unaligned(device, at):
    """Views into other tensors start anywhere; a whole-vector store there would be a fault."""
    cl, lanes = device.cl, device.facts.lanes
    x = np.linspace(-1, 1, 2048, dtype=np.float32)
    buffers = [cl.Buffer(device.context, cl.mem_flags.READ_WRITE, x.nbytes) for _ in range(2)]
    for buffer, array in zip(buffers, (x, np.full(x.size, 7, np.float32))):
        cl.enqueue_copy(device.queue, buffer, array)
    kernel = device.kernel("roofline", "copy_peak", {"VEC": lanes, "PAST_CACHES": 1})
    kernel.set_args(buffers[0], np.uint32(0), buffers[1], np.uint32(at),
                    *map(np.int32, (32, 32, 1, 1)))
    cl.enqueue_nd_range_kernel(device.queue, kernel, (2,), (1,))
    found = np.empty_like(x)
    cl.enqueue_copy(device.queue, found, buffers[1])
    size, first = 2 * 32 * lanes, at // 4
    assert np.array_equal(found[first:first + size], x[:size])
    assert (found[:first] == 7).all() and (found[first + size:] == 7).all()
