"""Files with right checksums and one hostile op: each is a ModelError while the file is read."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import ModelError, loader
from edgerun.model import Model
from edgerun.tools import blob, layout, plan as planner
from edgerun.tools.graph import Graph
from tests import mutate

FAR = 2**31 - 1
IMAGE = (1, 6, 5, 4)


def weights(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


# A valid op of each code: inputs (a shape and dtype, or a constant), options.
OPS = {
    "unary": ([IMAGE], {"kind": "relu"}),
    "binary": ([IMAGE, weights(4)], {"kind": "add"}),
    "conv2d": ([IMAGE, weights(8, 3, 3, 4), weights(8)], {"pad_top": 1, "activation": "relu"}),
    "depthwise_conv2d": ([IMAGE, weights(3, 3, 4), weights(4)], {}),
    "conv_transpose2d": ([IMAGE, weights(8, 3, 3, 4), weights(8)], {"stride_h": 2}),
    "dense": ([(3, 4), weights(8, 4), weights(8)], {}),
    "matmul": ([(3, 4), (4, 5)], {}),
    "pool2d": ([IMAGE], {"kind": "max", "kernel_h": 2}),
    "resize": ([IMAGE], {"kind": "linear", "height": 3, "width": 3, "scale_h": 0.5, "scale_w": 0.6,
                         "coordinate_mode": "half_pixel"}),
    "softmax": ([IMAGE], {}),
    "reduce": ([IMAGE], {"kind": "sum", "axes": (1, 2)}),
    "transpose": ([IMAGE], {"perm": (0, 3, 1, 2)}),
    "reshape": ([IMAGE], {"shape": (30, 4)}),
    "slice": ([(7, 4)], {"starts": (1, 0), "steps": (2, 1), "sizes": (3, 4)}),
    "pad": ([(7, 4)], {"mode": "reflect", "before": (2, 0), "after": (0, 3)}),
    "tile": ([(7, 4)], {"repeats": (2, 3)}),
    "expand": ([(7, 1)], {"shape": (7, 4)}),
    "concat": ([(7, 4), (2, 4)], {"axis": 0}),
    "gather": ([(7, 4), np.int32([0, 3])], {"axis": 0}),
    "where": ([((7, 4), "bool"), (7, 4), (7, 4)], {}),
    "cast": ([(7, 4)], {"dtype": "int32"}),
    "arg": ([(7, 4)], {"kind": "max", "axis": 1}),
    "layer_norm": ([(7, 4), weights(4), weights(4)], {"axis": 1}),
    "instance_norm": ([IMAGE, weights(4), weights(4)], {}),
    "l2_normalize": ([(7, 4)], {}),
    "lrn": ([IMAGE], {"size": 3}),
    "fastfood": ([(2, 5), *[weights(3, 8)] * 3], {"outputs": 20}),
}


def file_of(code: str) -> bytes:
    """Return a model file of one op; its tensors are x0, c1, ... and y."""
    graph, operands = Graph("one"), []
    inputs, options = OPS[code]
    for number, value in enumerate(inputs):
        if isinstance(value, np.ndarray):
            operands.append(graph.constant(value, f"c{number}"))
        else:
            shape, dtype = value if isinstance(value[0], tuple) else (value, "fp32")
            operands.append(graph.input(f"x{number}", shape, dtype))
    graph.output("y", graph.add(code, operands, "y", **options))
    layout.apply(graph)
    return blob.encode(graph, planner.plan(graph, {}), {}, "fp32")


def read(data: bytes) -> Model:
    return loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")


@pytest.mark.parametrize("code", sorted(OPS))
def test_good_file_reads(code):
    """Whatever is refused below is refused for its change."""
    assert read(mutate.changed(file_of(code), lambda root, graph: None)).ops[0].code == code


OPTIONS = [
    ("fastfood", {"outputs": 0}, "has 0 outputs of 3 blocks of 8"),
    ("fastfood", {"outputs": FAR}, "outputs of 3 blocks of 8"),
    ("fastfood", {"outputs": 19}, "its inputs give"),
    ("fastfood", {"activation": "not"}, "unknown activation 'not'"),
    ("unary", {"kind": "not"}, "no kind 'not' for fp32"),
    ("unary", {"kind": "x" * 5000}, "kind has more than 4096 characters"),
    ("unary", {"alpha": float("nan")}, "alpha is not a number"),
    ("binary", {"kind": "and"}, "no kind 'and' for fp32"),
    ("binary", {"activation": "is_nan"}, "unknown activation 'is_nan'"),
    ("conv2d", {"stride_h": 0}, "needed 1 or more"),
    ("conv2d", {"dilation_w": -1}, "needed 1 or more"),
    ("conv2d", {"dilation_w": FAR}, "does not fit into 5 padded"),
    ("conv2d", {"pad_left": FAR, "pad_right": FAR}, "of at most"),
    ("conv2d", {"pad_bottom": FAR - 8}, "is too large"),
    ("conv2d", {"pad_left": -1}, "needed 0 or more"),
    ("conv2d", {"groups": 0}, "in 0 groups"),
    ("conv2d", {"groups": -1}, "in -1 groups"),
    ("conv2d", {"groups": 2**30 + 1}, "groups does not fit"),
    ("depthwise_conv2d", {"stride_w": 0}, "needed 1 or more"),
    ("depthwise_conv2d", {"pad_top": FAR}, "of at most"),
    ("conv_transpose2d", {"stride_h": FAR}, "at most"),
    ("conv_transpose2d", {"stride_w": 0}, "needed 1 or more"),
    ("conv_transpose2d", {"pad_top": FAR}, "leave nothing"),
    ("conv_transpose2d", {"output_pad_h": -1}, "needed 0 or more"),
    ("conv_transpose2d", {"groups": 3}, "in 3 groups"),
    ("pool2d", {"kernel_h": 0}, "needed at least 1"),
    ("pool2d", {"stride_w": -3}, "needed at least 1"),
    ("pool2d", {"dilation_h": FAR}, "at most"),
    ("pool2d", {"pad_left": FAR}, "at most"),
    ("pool2d", {"kernel_h": 7}, "gives no output"),
    ("resize", {"height": 0}, "needed at least 1 x 1"),
    ("resize", {"scale_h": 0.0}, "needed a finite number above 0"),
    ("resize", {"scale_w": float("inf")}, "needed a finite number above 0"),
    ("resize", {"scale_w": 1e-38}, "are allowed"),
    ("resize", {"coordinate_mode": "tf_crop_and_resize"}, "needed 4 finite numbers"),
    ("resize", {"coordinate_mode": "tf_crop_and_resize", "roi": (0, 0, float("inf"), 1)},
     "needed 4 finite numbers"),
    ("resize", {"coordinate_mode": "tf_crop_and_resize", "roi": (0, 0, 3e38, 1)}, "are allowed"),
    ("softmax", {"axis": 4}, "axis 4 of 4"),
    ("softmax", {"axis": -FAR}, "axis -2147483647 of 4"),
    ("reduce", {"axes": (2, 1)}, "needed ascending"),
    ("reduce", {"axes": (1, 1)}, "needed ascending"),
    ("reduce", {"axes": (1, 4)}, "needed ascending"),
    ("reduce", {"axes": (-1,)}, "needed ascending"),
    ("reduce", {"axes": tuple(range(9))}, "axes has 9 values"),
    ("transpose", {"perm": (0, 0, 1, 2)}, "needed a permutation"),
    ("transpose", {"perm": (0, 1, 2, 4)}, "needed a permutation"),
    ("reshape", {"shape": (-30, -4)}, "must be at least 1"),
    ("reshape", {"shape": (FAR, FAR)}, "has 120 elements"),
    ("slice", {"steps": (0, 1)}, "in steps of 0"),
    ("slice", {"starts": (-1, 0)}, "from -1"),
    ("slice", {"starts": (7, 0), "sizes": (1, 4)}, "from 7"),
    ("slice", {"steps": (FAR, 1)}, "which has 7"),
    ("slice", {"steps": (-2, 1)}, "which has 7"),
    ("slice", {"sizes": (0, 4)}, "takes 0 elements"),
    ("slice", {"sizes": (3,)}, "needed 2 of each"),
    ("pad", {"before": (7, 0)}, "at most 6 is possible"),
    ("pad", {"before": (-1, 0)}, "at least 0"),
    ("pad", {"mode": "constant", "before": (FAR, FAR)}, "its inputs give"),
    ("pad", {"after": (0,)}, "needed 2 of each"),
    ("tile", {"repeats": (0, 3)}, "at least 1"),
    ("tile", {"repeats": (FAR, FAR)}, "its inputs give"),
    ("expand", {"shape": (3, 4)}, "do not broadcast"),
    ("expand", {"shape": (FAR,) * 7 + (4,)}, "do not broadcast|its inputs give"),
    ("concat", {"axis": 2}, "axis 2 of 2"),
    ("concat", {"axis": 1}, "except along axis 1"),
    ("gather", {"axis": -3}, "axis -3 of 2"),
    ("cast", {"dtype": "int64"}, "to int64"),
    ("arg", {"axis": 2}, "axis 2 of 2"),
    ("layer_norm", {"axis": 0}, "needed \\(7, 4\\)"),
    ("layer_norm", {"epsilon": -1.0}, "at least 0"),
    ("instance_norm", {"epsilon": float("inf")}, "finite"),
    ("lrn", {"size": 0}, "needed 1 or more"),
    ("lrn", {"alpha": float("inf")}, "needed a finite number"),
]


@pytest.mark.parametrize("code, options, message", OPTIONS,
                         ids=[f"{code} {str(options)[:40]}" for code, options, _ in OPTIONS])
def test_options(code, options, message):
    data = mutate.changed(file_of(code), lambda r, g: g["ops"][0]["options"][1].update(options))
    with pytest.raises(ModelError, match=message):
        read(data)


def tensor(graph: dict, name: str) -> dict:
    return next(t for t in graph["tensors"] if t["name"] == name)


def another(graph: dict, name: str, **changes) -> int:
    """Append a copy of a tensor with some fields changed; returns its index."""
    graph["tensors"].append(dict(tensor(graph, name), name="other", **changes))
    return len(graph["tensors"]) - 1


def operand(graph: dict, number: int, index: int) -> None:
    """Make an input of the op another tensor."""
    inputs = list(graph["ops"][0]["inputs"])
    graph["ops"][0]["inputs"] = inputs[:number] + [index] + inputs[number + 1:]


TENSORS = {
    "blocks read as rows": ("binary", lambda r, g: tensor(g, "c1").update(layout="oc16"),
                            "input 1, 'c1', has the layout oc16, needed rows"),
    "blocks of a depthwise": ("depthwise_conv2d", lambda r, g: tensor(g, "c1").update(
        layout="oc16"), "layout oc16, needed rows"),
    "rows read as blocks": ("conv2d", lambda r, g: tensor(g, "c1.oc16").update(layout="rows"),
                            "layout rows, needed oc16"),
    "rows read as blocks by dense": ("dense", lambda r, g: tensor(g, "c1.oc16").update(
        layout="rows"), "layout rows, needed oc16"),
    "weights in the arena": ("dense", lambda r, g: operand(g, 1, another(
        g, "x0", shape=[8, 4], offset=0)), "before anything has written|overlaps|takes bytes"),
    "bias in blocks": ("conv2d", lambda r, g: tensor(g, "c2").update(layout="oc16"),
                       "input 2, 'c2', has the layout oc16"),
    "bias too short": ("conv2d", lambda r, g: tensor(g, "c2").update(shape=[7]), "needed \\(8,\\)"),
    "padding without zeros": ("conv2d", lambda r, g: g["ops"][0].update(
        inputs=g["ops"][0]["inputs"][:4]), "needed a fifth input of 4 zeros"),
    "zeros too short": ("conv2d", lambda r, g: tensor(g, "zeros").update(shape=[3]),
                        "has 3 zeros, needed 4"),
    "weights of other channels": ("conv2d", lambda r, g: tensor(g, "c1.oc16").update(
        shape=[8, 3, 3, 3]), "does not fit 4 channels"),
    "residual of another shape": ("conv2d", lambda r, g: operand(g, 3, 0), "the residual"),
    "indices that are real": ("gather", lambda r, g: operand(g, 1, 0), "needed int32"),
    "condition that is real": ("where", lambda r, g: operand(g, 0, 1), "needed bool"),
    "operand of another dtype": ("binary", lambda r, g: operand(g, 1, another(
        g, "x0", dtype="fp16", shape=[4])), "mixes the dtypes|before anything"),
    "sum of bools": ("binary", lambda r, g: [tensor(g, n).update(dtype="bool") for n in (
        "x0", "c1", "y")] and (r["segments"][0].update(dtype="bool"),
                               g["inputs"][0].update(dtype="bool"),
                               g["outputs"][0].update(dtype="bool")), "no kind 'add' for bool"),
    "output stored shorter": ("pool2d", lambda r, g: tensor(g, "y").update(dtype="fp16"),
                              "its inputs give"),
    "output stored as an integer": ("unary", lambda r, g: (
        tensor(g, "y").update(dtype="int32"), g["outputs"][0].update(dtype="int32")),
        "its inputs give"),
    "output in the bytes of its input": ("pool2d", lambda r, g: tensor(g, "y").update(
        alias_of=0, offset=tensor(g, "x0")["offset"]),
        "writes 'y' over bytes of 'x0', which it needs meanwhile"),
    "output over its input": ("unary", lambda r, g: tensor(g, "y").update(
        offset=tensor(g, "x0")["offset"]), "overlaps"),
    "two outputs": ("unary", lambda r, g: g["ops"][0].update(
        outputs=list(g["ops"][0]["outputs"]) * 2), "a second time|its inputs give"),
    "no output": ("unary", lambda r, g: (g["ops"][0].update(outputs=[]),
                                         g["outputs"][0].update(tensor=0)), "has 0 outputs"),
    "no output of an op with one type": ("softmax", lambda r, g: (
        g["ops"][0].update(outputs=[]), g["outputs"][0].update(tensor=0)), "has 0 outputs"),
    "scratch too small": ("instance_norm", lambda r, g: g["ops"][0].update(scratch_bytes=63),
                          "63 bytes of scratch, needed 64"),
    "scratch over the output": ("instance_norm", lambda r, g: g["ops"][0].update(
        scratch_offset=tensor(g, "y")["offset"]), "overlaps"),
    "gamma of another dtype": ("layer_norm", lambda r, g: operand(g, 1, another(
        g, "x0", dtype="fp16", shape=[4])), "mixes the dtypes|before anything"),
    "fraction that is quantized": ("unary", lambda r, g: tensor(g, "x0").update(
        quantization={"scale": [1.0], "zero_point": [0], "axis": -1}), "needed an integer dtype"),
    "name of an op": ("unary", lambda r, g: g["ops"][0].update(name="n" * 5000), "characters"),
    "a tensor that indices could leave": ("cast", lambda r, g: (
        g["plan"].update(arena_bytes=2**32 - 1),
        tensor(g, "x0").update(dtype="bool", shape=[2**31 - 1])), "elements, at most 2147418112"),
}


@pytest.mark.parametrize("what", sorted(TENSORS))
def test_tensors(what):
    code, change, message = TENSORS[what]
    data = mutate.changed(file_of(code), change)
    with pytest.raises(ModelError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("m.edge: ")
