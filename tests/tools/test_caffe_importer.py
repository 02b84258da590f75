"""Caffe layers against OpenCV, which reads the same files; and what is refused."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.__main__ import main
from edgerun.errors import InputError, ModelError, UnsupportedError
from edgerun.tools.importers import caffe
from edgerun.tools.reference import execute
from tests.tools.caffe_builder import head, layer, weights, write

rng = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def compute(path: Path, inputs: dict[str, np.ndarray], **options) -> dict[str, np.ndarray]:
    """Import a network and compute it with the NumPy reference."""
    graph = caffe.load(path, **options)
    found = execute(graph, inputs)
    return {boundary.name: found[boundary.name] for boundary in graph.outputs}


def against_opencv(folder: Path, text: str, blobs: dict, inputs: dict[str, np.ndarray]) -> None:
    path = write(folder, text, blobs)
    found = compute(path, inputs)
    net = cv2.dnn.readNetFromCaffe(str(path), str(path.with_suffix(".caffemodel")))
    for name, values in inputs.items():
        net.setInput(values, name)
    for name, values in zip(found, net.forward(list(found)), strict=True):
        assert found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=2e-5)


X = (1, 6, 9, 8)
W = array(4, 6, 3, 2)
LAYERS = {
    "convolution": (layer("Convolution", "convolution_param { num_output: 4 kernel_h: 3 "
                          "kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0 }", "c"), {"c": [W, array(4)]}),
    "no bias, dilated": (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 "
                               "dilation: 2 pad: 2 bias_term: false }", "c"),
                         {"c": [array(4, 6, 3, 3)]}),
    "groups": (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 1 group: 2 }",
                     "c"), {"c": [array(4, 3, 1, 1), array(4)]}),
    "depthwise": (layer("Convolution", "convolution_param { num_output: 12 kernel_size: 3 pad: 1 "
                        "group: 6 }", "c"), {"c": [array(12, 1, 3, 3), array(12)]}),
    "deconvolution": (layer("Deconvolution", "convolution_param { num_output: 4 kernel_size: 4 "
                            "stride: 2 pad: 1 }", "c"), {"c": [array(6, 4, 4, 4), array(4)]}),
    "deconvolution in groups": (
        layer("Deconvolution", "convolution_param { num_output: 6 kernel_size: 2 stride: 2 "
              "group: 6 bias_term: false }", "c"), {"c": [array(6, 1, 2, 2)]}),
    "max pool": (layer("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"), {}),
    "max pool, padded": (layer("Pooling", "pooling_param { kernel_size: 3 stride: 3 pad: 1 }"), {}),
    "average pool": (layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 "
                           "pad: 1 }"), {}),
    "average pool, ceiled": (layer("Pooling", "pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 "
                                   "stride_h: 2 stride_w: 2 }"), {}),
    "global pool": (layer("Pooling", "pooling_param { pool: AVE global_pooling: true }"), {}),
    "inner product": (layer("InnerProduct", "inner_product_param { num_output: 5 }", "f"),
                      {"f": [array(5, 432), array(5)]}),
    "relu": (layer("ReLU"), {}),
    "leaky relu": (layer("ReLU", "relu_param { negative_slope: 0.1 }"), {}),
    "prelu": (layer("PReLU", name="p"), {"p": [array(6)]}),
    "elu": (layer("ELU", "elu_param { alpha: 0.7 }"), {}),
    "sigmoid": (layer("Sigmoid"), {}), "tanh": (layer("TanH"), {}), "abs": (layer("AbsVal"), {}),
    "bnll": (layer("BNLL"), {}),
    "power": (layer("AbsVal", top="a") + layer(
        "Power", "power_param { power: 1.5 scale: 0.5 shift: 0.25 }", bottom="a"), {}),
    "affine": (layer("Power", "power_param { scale: -2 shift: 3 }"), {}),
    "exp": (layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.25 }"), {}),
    "softmax": (layer("Softmax"), {}),
    "softmax of rows": (layer("Softmax", "softmax_param { axis: 2 }"), {}),
    "lrn": (layer("LRN", "lrn_param { local_size: 5 alpha: 0.3 beta: 0.6 }"), {}),
    "lrn of pixels": (layer("LRN", "lrn_param { local_size: 3 alpha: 0.3 "
                            "norm_region: WITHIN_CHANNEL }"), {}),
    "batch norm": (layer("BatchNorm", "batch_norm_param { eps: 0.01 }", "b"),
                   {"b": [array(6), np.abs(array(6)), np.array([2.0], np.float32)]}),
    "scale": (layer("Scale", "scale_param { bias_term: true }", "s"), {"s": [array(6), array(6)]}),
    "normalize": (layer("Normalize", "norm_param { across_spatial: false channel_shared: false }",
                        "n"), {"n": [array(6)]}),
    "mvn": (layer("MVN", "mvn_param { across_channels: false }"), {}),
    "permute": (layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"), {}),
    "flatten": (layer("Flatten", "flatten_param { axis: 2 }"), {}),
    "reshape": (layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }"), {}),
    "slice": (layer("Slice", "slice_param { slice_point: 1 slice_point: 4 }", top="a b c")
              + "".join(layer("TanH", name=f"y{b}", bottom=b) for b in "abc"), {}),
    "slice equally": (layer("Slice", "slice_param { axis: 3 }", top="a b")
                      + layer("Eltwise", bottom="a b"), {}),
    "concat": (layer("ReLU", top="a") + layer("Concat", bottom="data a data"), {}),
    "dropout": (layer("Dropout", "dropout_param { dropout_ratio: 0.9 }", top="a")
                + layer("ReLU", bottom="a"), {}),
    "sum": (layer("ReLU", top="a") + layer(
        "Eltwise", "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 }", bottom="data a"), {}),
    "product": (layer("ReLU", top="a") + layer(
        "Eltwise", "eltwise_param { operation: PROD }", bottom="data a"), {}),
    "maximum": (layer("TanH", top="a") + layer(
        "Eltwise", "eltwise_param { operation: MAX }", bottom="data a"), {}),
    "in place": (layer("Power", "power_param { shift: 1 }", "p", top="y")
                 + layer("ReLU", name="r", bottom="y", top="y")
                 + layer("TanH", name="y", bottom="y", top="y"), {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, tmp_path):
    text, blobs = LAYERS[name]
    against_opencv(tmp_path, head(*X) + text, blobs, {"data": array(*X)})


def test_prior_boxes(tmp_path):
    text = head(1, 3, 96, 128, name="image") + head(1, 6, 3, 4) + layer(
        "PriorBox", "prior_box_param { min_size: 20 min_size: 30 max_size: 40 max_size: 50 "
        "aspect_ratio: 2 aspect_ratio: 3 flip: true clip: true variance: 0.1 variance: 0.1 "
        "variance: 0.2 variance: 0.2 step: 32 }", "boxes", "data image")
    against_opencv(tmp_path, text, {}, {"image": array(1, 3, 96, 128), "data": array(1, 6, 3, 4)})


def test_crop(tmp_path):
    """From an axis on, at one offset or one per axis; OpenCV's crop layer wants other shapes."""
    x, small = array(1, 6, 9, 8), np.zeros((1, 2, 5, 4), np.float32)
    for params, cut in (("axis: 2 offset: 3", np.s_[:, :, 3:8, 3:7]),
                        ("axis: 1 offset: 4 offset: 0 offset: 2", np.s_[:, 4:6, 0:5, 2:6]),
                        ("", np.s_[:, :, 0:5, 0:4])):
        path = tmp_path / "net.prototxt"
        path.write_text(head(1, 6, 9, 8) + head(1, 2, 5, 4, name="like") + layer(
            "Crop", f"crop_param {{ {params} }}", bottom="data like"))
        np.testing.assert_array_equal(compute(path, {"data": x, "like": small})["crop"], x[cut])


@pytest.mark.parametrize("shape, expected", [
    ((2, 5), (2, 1, 1)), ((2, 5, 3), (2, 1, 1)), ((2, 5, 3, 4), (2, 1, 1, 1))])
def test_arg_max_without_an_axis(shape, expected, tmp_path):
    """Caffe gives as many axes as the input has, but at least 3."""
    path, x = tmp_path / "net.prototxt", array(*shape)
    path.write_text(head(*shape) + layer("ArgMax"))
    found = compute(path, {"data": x})["argmax"]
    assert found.shape == expected
    np.testing.assert_array_equal(found.reshape(-1), x.reshape(2, -1).argmax(1))


@pytest.mark.parametrize("params", ["", "argmax_param { axis: 1 }"])
def test_arg_max_of_equal_elements_is_the_last(params, tmp_path):
    """Caffe's ArgMaxLayer sorts pairs (value, index) with std::greater."""
    path, x = tmp_path / "net.prototxt", np.float32([[1, 3, 3, 2], [0, 0, 0, 0]])
    path.write_text(head(2, 4) + layer("ArgMax", params))
    found = compute(path, {"data": x})["argmax"].reshape(-1)
    np.testing.assert_array_equal(found, [2, 3])


@pytest.mark.parametrize("params, beta", [("", 1), ("swish_param { beta: 2 }", 2)])
def test_swish(params, beta, tmp_path):
    path, x = tmp_path / "net.prototxt", array(1, 6)
    path.write_text(head(1, 6) + layer("Swish", params))
    np.testing.assert_allclose(compute(path, {"data": x})["swish"], x / (1 + np.exp(-beta * x)),
                               rtol=1e-5, atol=1e-6)


HARMLESS = {
    "what only training needs": layer(
        "Convolution", "lr: 3 loss_weight: 1 propagate_down: true param { lr_mult: 1 other: 2 } "
        "transform_param { mirror: true } convolution_param { engine: CAFFE num_output: 2 "
        "kernel_size: 1 lr_mult: 2 weight_filler { type: 'msra' file: \"x } {\" } "
        "cudnn_math: 3 }"),
    "a layer that feeds": 'layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 3 '
                          '} } my_param { batch: 3 } }\n' + layer("ReLU", bottom="l"),
    "a layer that is trained": 'layer { type: "ReLU" bottom: "data" top: "data" include { phase: '
                               'TRAIN } relu_param { slope: 1 } }\n' + layer("ReLU"),
    "a loss": layer("ReLU") + layer("SoftmaxWithLoss", "focal_param < alpha: 2 >", bottom="relu"),
    "a comment": "# relu_param { slope: 1 }\n" + layer("ReLU", "transform_param: { a: [1, 2] }"),
    "a list": 'layer: [ { name: "a" type: "ReLU" bottom: "data" top: "a" engine { a: 1 } }, '
              '{ name: "b" type: "TanH" bottom: "a" top: "b" } ]',
}


@pytest.mark.parametrize("name", HARMLESS)
def test_unknown_fields_that_change_nothing(name, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(head(1, 3, 4, 4) + HARMLESS[name])
    assert caffe.load(path, random_weights=0).outputs


def test_lrn_adds_k(tmp_path):
    """OpenCV takes k for 1, Caffe does not."""
    x = array(1, 7, 3, 2)
    path = tmp_path / "net.prototxt"
    path.write_text(head(1, 7, 3, 2) + layer(
        "LRN", "lrn_param { local_size: 3 alpha: 0.9 beta: 0.5 k: 2 }"))
    padded = np.pad(x**2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    total = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    np.testing.assert_allclose(compute(path, {"data": x})["lrn"], x / np.sqrt(2 + 0.3 * total),
                               rtol=1e-5)


def v1(kind: str, params: str, name: str, bottom: str, top: str) -> str:
    return (f'layers {{ name: "{name}" type: {kind} bottom: "{bottom}" top: "{top}" {params} }}\n')


def test_layers_of_version_1(tmp_path):
    """Old files: types are an enum, shapes four numbers, the input is declared before."""
    text = ('name: "old" input: "data" input_dim: 1 input_dim: 6 input_dim: 9 input_dim: 8\n'
            + v1("CONVOLUTION", "convolution_param { num_output: 4 kernel_size: 3 }", "c", "data",
                 "c") + v1("RELU", "", "r", "c", "c")
            + v1("INNER_PRODUCT", "inner_product_param { num_output: 3 }", "f", "c", "f")
            + v1("SOFTMAX", "", "p", "f", "p"))
    blobs = {"c": [array(4, 6, 3, 3), array(4)], "f": [array(3, 168), array(3)]}
    path = write(tmp_path, text, blobs, old=True)
    new = tmp_path / "new"
    new.mkdir()
    same = write(new, head(*X) + layer(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", "c", top="c")
        + layer("ReLU", name="r", bottom="c", top="c")
        + layer("InnerProduct", "inner_product_param { num_output: 3 }", "f", "c", "f")
        + layer("Softmax", name="p", bottom="f", top="p"), blobs)
    x = {"data": array(*X)}
    np.testing.assert_array_equal(compute(path, x)["p"], compute(same, x)["p"])


def test_only_the_test_phase(tmp_path):
    """Layers that train, and what only feeds them, are gone."""
    text = (head(1, 4) + 'layer { name: "d" type: "Data" top: "data" top: "label" '
            'include { phase: TRAIN } data_param { source: "x" } }\n'
            'layer { name: "l" type: "DummyData" top: "label" '
            'dummy_data_param { shape { dim: 1 } } }\n'
            + layer("InnerProduct", "inner_product_param { num_output: 2 }", "f", top="f")
            + 'layer { name: "a" type: "Accuracy" bottom: "f" bottom: "label" top: "a" '
            'include { phase: TEST } }\n'
            + layer("SoftmaxWithLoss", name="loss", bottom="f label", top="loss"))
    path = write(tmp_path, text, {"f": [array(2, 4), array(2)]})
    graph = caffe.load(path)
    assert [b.name for b in graph.inputs] == ["data"] and [b.name for b in graph.outputs] == ["f"]


def test_random_weights_are_reproducible(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(head(1, 3, 8, 8) + layer(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", "c"))
    x = {"data": array(1, 3, 8, 8)}
    first, again = (compute(path, x, random_weights=7)["c"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - compute(path, x, random_weights=8)["c"]).max() > 0.1
    assert 0.3 < first.std() < 6


def test_another_shape(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(head(10, 3, 8, 8) + layer("ReLU"))  # needs no weights
    assert caffe.load(path, {"data": (1, 3, 4, 4)}).outputs[0].shape == (1, 3, 4, 4)


CONV = layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", "c")
BOXES = layer("PriorBox", "prior_box_param { min_size: 2 }", "boxes", "data data")
REFUSED = {
    "no text": ("\0\1", {}, ModelError, "not a readable prototxt"),
    "no network": ("name: 'x'", {}, ModelError, "has no layers"),
    "unknown field only": ("foo: 1", {}, ModelError, 'no field named "foo"'),
    "every unknown layer": (
        head(1, 4) + layer("Warp", top="a") + layer("Warp", name="w2", top="b")
        + layer("Spatial", "spatial_param { x: 1 }", top="c"), {}, UnsupportedError,
        r"Warp \(2 layers, first 'warp'\), Spatial \(1 layer"),
    "other weights": (head(1, 3, 8, 8) + CONV, {"c": [array(4, 2, 3, 3), array(4)]}, ModelError,
                      r"Convolution 'c': has weights of the shape \(4, 2, 3, 3\).*do not match"),
    "too few weights": (head(1, 3, 8, 8) + CONV, {"c": [array(4, 3, 3, 3)]}, ModelError,
                        "has 1 arrays of weights.*needed at least 2"),
    "weights of another network": (head(1, 3, 8, 8) + CONV, {"z": [array(1)]}, ModelError,
                                   "weights of none of the layers"),
    "groups": (head(1, 3, 8, 8) + layer(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"), {},
        ModelError, "2 groups do not divide 3 channels"),
    "no kernel": (head(1, 3, 8, 8) + layer("Pooling"), {}, ModelError, "has the kernel"),
    "stochastic": (head(1, 3, 8, 8) + layer(
        "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), {}, UnsupportedError,
        "STOCHASTIC"),
    "unknown blob": (head(1, 4) + layer("ReLU", bottom="nothing"), {}, ModelError,
                     "reads 'nothing', which no layer before it makes"),
    "crop": (head(1, 3, 8, 8) + head(1, 3, 9, 9, name="big") + layer(
        "Crop", bottom="data big"), {}, ModelError, "which is smaller"),
    "axis": (head(1, 4) + layer("Softmax", "softmax_param { axis: 5 }"), {}, ModelError,
             "axis 5 of 2 dimensions"),
    "slice": (head(1, 4) + layer("Slice", top="a b c"), {}, ModelError, "3 tops do not divide"),
    "unknown parameter": (
        head(1, 4) + layer("TanH", top="a") + layer("ReLU", "relu_param { negative_slop: 0.5 }",
                                                    "r", "a"), {}, ModelError,
        "ReLU 'r': its relu_param has a field 'negative_slop', which is not known"),
    "unknown parameter of version 1": (
        'input: "data" input_dim: 1 input_dim: 4 input_dim: 1 input_dim: 1\n'
        + v1("RELU", "relu_param: { negative_slop: 0.5 }", "r", "data", "r"), {}, ModelError,
        "ReLU 'r': its relu_param has a field 'negative_slop'"),
    "unknown parameter inside": (
        head(1, 4) + layer("Reshape", "reshape_param { shape < dims: 4 > }"), {}, ModelError,
        "its reshape_param.shape has a field 'dims'"),
    "unknown parameters": (
        head(1, 4) + layer("ReLU", "relu_parm { negative_slope: 0.5 }"), {}, ModelError,
        "ReLU 'relu': it has a field 'relu_parm', which is not known"),
    "unknown parameter in a list": (
        head(1, 4) + 'layer: [ { name: "a" type: "TanH" bottom: "data" top: "a" }, { name: "b" '
        'type: "ReLU" bottom: "a" top: "b" relu_param { slope: 1 } } ]', {}, ModelError,
        "ReLU 'b': its relu_param has a field 'slope'"),
    "padding of a pool": (head(1, 3, 8, 8) + layer(
        "Pooling", "pooling_param { kernel_size: 2 pad_h: 0 pad_w: 2 }"), {}, ModelError,
        r"has the padding \(0, 2\), needed less than the kernel \(2, 2\)"),
    "crop of nothing else": (head(1, 3, 8, 8) + layer("Crop"), {}, ModelError,
                             "Crop 'crop': reads 1 blobs, needed 2"),
    "three to scale": (head(1, 3, 8, 8) + layer("Scale", bottom="data data data"), {}, ModelError,
                       "reads 3 blobs, needed 1 to 2"),
    "two to flatten": (head(1, 3, 8, 8) + layer("Flatten", bottom="data data"), {}, ModelError,
                       "reads 2 blobs, needed 1"),
    "boxes of nothing": (head(1, 3, 8, 8) + layer("PriorBox", "prior_box_param { min_size: 2 }"),
                         {}, ModelError, "PriorBox 'priorbox': reads 1 blobs, needed 2"),
    "boxes of rows": (head(1, 3) + layer("PriorBox", "prior_box_param { min_size: 2 }",
                                         bottom="data data"), {}, ModelError,
                      "needed 4 dimensions"),
    "flat boxes": (head(1, 3, 8, 8) + layer(
        "PriorBox", "prior_box_param { min_size: 2 aspect_ratio: 0 }", bottom="data data"), {},
        ModelError, r"aspect_ratio is \[0.0\], needed positive numbers"),
    "boxes below 0": (head(1, 3, 8, 8) + layer(
        "PriorBox", "prior_box_param { min_size: 2 max_size: -3 }", bottom="data data"), {},
        ModelError, r"max_size is \[-3.0\], needed positive numbers"),
    "boxes of another size": (head(1, 3, 8, 8) + BOXES + layer(
        "Reshape", "reshape_param { shape { dim: 5 } }", bottom="boxes"), {}, ModelError,
        r"the shape \(1, 2, 256\) does not fit into \[5\]"),
    "boxes of a shape below 0": (head(1, 3, 8, 8) + BOXES + layer(
        "Reshape", "reshape_param { shape { dim: -1 dim: -1 dim: 512 } }", bottom="boxes"), {},
        ModelError, r"does not fit into \[-1, -1, 512\]"),
    "boxes that do not fit": (head(1, 3, 8, 8) + head(1, 3, 4, 4, name="b") + BOXES + layer(
        "PriorBox", "prior_box_param { min_size: 2 }", "few", "b data") + layer(
        "Concat", "concat_param { axis: 1 }", bottom="boxes few"), {}, ModelError,
        r"joins the shapes \[\(1, 2, 256\), \(1, 2, 64\)\] along axis 1"),
    "slopes of a row": (head(4) + layer("PReLU"), {}, ModelError, "needed at least 2 dimensions"),
    "no shape": ('layer { name: "d" type: "Data" top: "data" }\n' + layer("ReLU"), {}, InputError,
                 "its shape is not in the prototxt.*--shape data="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    text, blobs, kind, message = REFUSED[name]
    path = write(tmp_path, text, blobs)
    with pytest.raises(kind, match=message) as caught:
        caffe.load(path, random_weights=None if blobs else 0)
    assert str(path) in str(caught.value)


def test_weights_are_missing(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(head(1, 3, 8, 8) + CONV)
    with pytest.raises(InputError, match="there is no net.caffemodel beside it"):
        caffe.load(path)
    with pytest.raises(InputError, match="no such file, needed the weights"):
        caffe.load(path, weights=tmp_path / "other.caffemodel")
    (tmp_path / "other.caffemodel").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="not a readable caffemodel"):
        caffe.load(path, weights=tmp_path / "other.caffemodel")


def test_corrupt_weights_give_a_clear_error(tmp_path):
    """Whatever bytes are changed: a network, or one of our errors."""
    data = bytearray(weights({"c": [array(4, 3, 3, 3), array(4)]}))
    path = write(tmp_path, head(1, 3, 8, 8) + CONV, {})
    random = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 3):
            broken[at] = random.integers(256)
        path.with_suffix(".caffemodel").write_bytes(bytes(broken))
        try:
            caffe.load(path)
        except (ModelError, InputError, UnsupportedError):
            pass


def test_command_line(tmp_path, capsys):
    """pack finds the weights beside the prototxt, elsewhere, or makes them up."""
    text = head(1, 3, 8, 8) + CONV
    path = write(tmp_path, text, {"c": [array(4, 3, 3, 3), array(4)]})
    out = tmp_path / "net.edge"
    assert main(["pack", str(path), "-o", str(out)]) == 0
    beside = out.read_bytes()
    moved = path.with_suffix(".caffemodel").rename(tmp_path / "weights.caffemodel")
    assert main(["pack", str(path), "-o", str(out), "--weights", str(moved)]) == 0
    assert out.read_bytes() == beside
    assert main(["pack", str(path), "-o", str(out), "--random-weights", "3"]) == 0
    assert out.read_bytes() != beside
    kept = out.read_bytes()
    assert main(["pack", str(path), "-o", str(out)]) == 1
    assert "--random-weights" in capsys.readouterr().err and out.read_bytes() == kept
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    assert main(["pack", str(model), "-o", str(out), "--weights", str(moved)]) == 1
    assert "holds its weights itself" in capsys.readouterr().err
