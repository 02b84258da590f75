"""Models that are already quantized, packed as they are and run on every driver, against golden
outputs of LiteRT and ONNX Runtime.

Integers must be equal. Where an output is real numbers made of integers, it may differ by a
thousandth of their step.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgerun import loader
from edgerun.model import Model, TensorInfo
from edgerun.session import Session
from edgerun.tools import cli
from edgerun.tools.importers.tflite.source import read as read_tflite
from edgerun.tools.pack import PackReport, pack
from edgerun.tools.runtimes import open_source
from edgerun.tools.verify import verify_against
from tests.memory_account import predicted_is_allocated
from tests.test_parity import Golden, output_range, read_golden

SAMPLES = 8
STEPS = 1e-3  # of real numbers that are made of integers


@dataclass(frozen=True)
class Case:
    """A model and what is special about its outputs.

    Attributes:
        relative: of the output's range; for real numbers that are not made of integers.
    """
    name: str
    relative: float = 0.0

    def __str__(self) -> str:
        return self.name


TFLITE = [
    Case("ad01_fc_ae_int8"),
    Case("ad_toycar_quant", relative=1e-3),  # rows of activations rounded to int8 as they come
    Case("coral_deeplabv3_mnv2_dm05_pascal_quant"),
    Case("coral_mobilenet_v1_0.25_128_quant"),
    Case("coral_mobilenet_v1_0.5_160_quant"),
    Case("coral_movenet_single_pose_lightning_ptq"),
    Case("coral_traffic_model"),
    Case("dtln_model_quant_1", relative=1e-3),
    Case("hello_world_int8"),
    Case("ic01_resnet8_int8"),
    Case("kws01_dscnn_int8"),
    Case("micro_speech_quantized"),
    Case("mnist_lstm_int8"),
    Case("sww01_int8"),
    Case("vww01_mbv1_96_int8"),
]
ONNX = [
    Case("fashion_mnist_cnn_qdq_int8", relative=1e-5),  # logarithms of a softmax in fp32
    Case("shufflenet-v2-12-int8"),
    Case("squeezenet_v1.0_dc_qdq_int8"),
]
CASES = [*(("tflite", case) for case in TFLITE), *(("onnx", case) for case in ONNX)]

# Single int16 ops: op -> numbers of the files. Those of UNSUPPORTED are not promised to be exact.
OPS_INT16 = {
    "add": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16),
    "conv": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21),
    "leaky_relu": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22),
    "pad": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18),
    "quantize": (0, 1),
    "strided_slice": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22, 24, 25, 27, 28, 30,
                      31, 33),
    "sub": (0, 1, 3, 4),
    "transpose_conv": (0, 1, 3, 4),
}
UNSUPPORTED: dict[str, str] = {}  # file -> why it is not exact


def step_of(model: Model, info: TensorInfo) -> float:
    """Return the real number that one step of an output is; 1 for integers, 0 if it has none."""
    if info.dtype.kind in "iu" or info.tensor < 0:  # what the host finds is equal or another box
        return 1.0
    quantization = model.tensors[info.tensor].quantization
    return quantization.step if quantization is not None else 0.0


@pytest.fixture(scope="session")
def packed(shared_data, tmp_path_factory):
    """Return a function (format, name) -> (file, PackReport, Golden); it packs once."""
    folder = tmp_path_factory.mktemp("quantized")
    done: dict[tuple[str, str], tuple[Path, PackReport, Golden]] = {}

    def get(kind: str, name: str) -> tuple[Path, PackReport, Golden]:
        if (kind, name) not in done:
            golden = read_golden(shared_data / "golden" / kind / f"{name}.npz")
            shapes = {tensor: array.shape[1:] for tensor, array in golden.inputs.items()}
            out = folder / f"{name}.{kind}.edge"
            report = pack(shared_data / "models" / kind / f"{name}.{kind}", out, shapes=shapes)
            done[kind, name] = out, report, golden
        return done[kind, name]
    return get


@pytest.mark.parametrize("kind,case", CASES, ids=str)
def test_golden_outputs(packed, device, kind, case):
    path, _, golden = packed(kind, case.name)
    differences: dict[str, float] = {}
    with Session(loader.read(path), device) as session:
        predicted_is_allocated(session)
        infos = {info.name: info for info in session.outputs}
        assert list(infos) == list(golden.outputs)
        for sample in range(min(SAMPLES, len(next(iter(golden.inputs.values()))))):
            inputs = {name: array[sample] for name, array in golden.inputs.items()}
            found = session.run(inputs)
            wanted = {name: array[sample] for name, array in golden.outputs.items()}
            for name, y in found.items():
                want = wanted[name]
                assert (y.shape, y.dtype) == (want.shape, want.dtype), name
                step = (case.relative * output_range(golden.outputs[name]) if case.relative
                        else step_of(session.model, infos[name]))
                assert step, f"{name} is not made of integers"
                apart = np.abs(y.astype(np.float64) - want.astype(np.float64)).max() / step
                differences[name] = max(differences.get(name, 0.0), float(apart))
    for name, most in differences.items():
        assert most <= (1 if case.relative else STEPS), (name, most)


def test_a_model_whose_last_op_is_the_host_s_can_be_verified(packed, shared_data, device):
    path, _, golden = packed("tflite", "coral_traffic_model")
    source = shared_data / "models" / "tflite" / "coral_traffic_model.tflite"
    with Session(loader.read(path), device) as session:
        runtime = open_source(source, [info.name for info in session.outputs])
        samples = [{name: array[0] for name, array in golden.inputs.items()}]
        found = verify_against(session, runtime, samples)
    assert found["passed"]
    assert [entry["name"] for entry in found["vectors"][0]["outputs"]] == list(golden.outputs)


@pytest.mark.parametrize("op", OPS_INT16)
def test_int16_ops_are_exact(shared_data, device, tmp_path, op):
    wrong = {}
    for number in OPS_INT16[op]:
        name = f"{op}{number}"
        if name in UNSUPPORTED:
            continue
        source = shared_data / "models" / "tflite_ops_int16" / f"{name}.tflite"
        with np.load(shared_data / "golden" / "tflite_ops_int16" / f"{name}.npz") as arrays:
            golden = dict(arrays)
        model = read_tflite(source)
        inputs = {model.tensors[index].name: golden[f"input_{k}"]
                  for k, index in enumerate(model.inputs)}
        pack(source, tmp_path / "op.edge")
        with Session(loader.read(tmp_path / "op.edge"), device) as session:
            found, = session.run(inputs).values()
        want = golden["output_0"]
        assert (found.shape, found.dtype) == (want.shape, want.dtype)
        if not np.array_equal(found, want):
            apart = np.abs(found.astype(np.int64) - want.astype(np.int64))
            wrong[name] = f"at most {apart.max()}, {np.mean(apart > 0):.2%} differ"
    assert not wrong


def test_int16_ops_are_all_named(shared_data):
    files = {path.stem for path in (shared_data / "models" / "tflite_ops_int16").glob("*.tflite")}
    assert files == {f"{op}{number}" for op, numbers in OPS_INT16.items() for number in numbers}
    assert set(UNSUPPORTED) <= files


def test_rows_are_rounded_only_as_the_source_does(shared_data, device, tmp_path):
    """With another precision than the source's the activations are real numbers."""
    source = shared_data / "models" / "tflite" / "dtln_model_quant_1.tflite"
    golden = read_golden(shared_data / "golden" / "tflite" / "dtln_model_quant_1.npz")
    inputs = {name: array[0] for name, array in golden.inputs.items()}
    apart = {}
    for precision in ("source", "fp32"):
        pack(source, tmp_path / "m.edge", precision=precision)
        with Session(loader.read(tmp_path / "m.edge"), device) as session:
            found = session.run(inputs)
            rounded = [op for op in session.model.ops if op.code == "round_rows"]
        assert len(rounded) == (5 if precision == "source" else 0)
        apart[precision] = max(float(np.abs(found[name] - array[0]).max()) / output_range(array)
                               for name, array in golden.outputs.items())
    assert apart["source"] <= 1e-4 and 1e-3 < apart["fp32"] < 0.2


def test_vectors_of_a_model_whose_last_op_is_the_host_s(shared_data, tmp_path, capsys):
    """`edgerun pack --vectors` stores what the caller gets."""
    source = shared_data / "models" / "tflite" / "coral_traffic_model.tflite"
    golden = read_golden(shared_data / "golden" / "tflite" / "coral_traffic_model.npz")
    np.savez(tmp_path / "in.npz", **{name: array[:1] for name, array in golden.inputs.items()})
    assert cli.pack([str(source), "-o", str(tmp_path / "m.edge"), "--vectors",
                     str(tmp_path / "in.npz")]) == 0
    capsys.readouterr()
    (vector,) = loader.read(tmp_path / "m.edge").vectors
    assert [y.shape for y in vector.outputs][:4] == [(1, 40, 4), (1, 40), (1, 40), (1,)]
    assert len(vector.outputs) == len(golden.outputs)
