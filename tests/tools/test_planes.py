"""Planes: codes, prefixes, the quantizer, and the ONNX ops that carry them."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgerun.errors import ModelError
from edgerun.tools import passes, reference
from edgerun.tools.importers.onnx import import_proto
from edgerun.tools.importers.onnx.planes import check_readers
from edgerun.tools.planes import MOST, SIGNS, Planes, codes, cut, integers, onnx as planes_onnx
from edgerun.tools.planes.prefixes import derive
from edgerun.tools.planes.quantizer import ENOUGH, quantize, spread
from edgerun.tools.recipes.bit_planes import precision_batching
from edgerun.tools.reference.planes import decode, encode
from tests.tools import planes_networks

CASES = [(signs, bits) for signs in SIGNS for bits in (1, 2, 5, MOST[signs])
         if (signs, bits) != ("magnitude", 1)]


def _by_planes(q: int, bits: int, planes: int, signs: str) -> int:
    """Return what the first planes of one integer say, bit by bit."""
    if signs == "twos":
        total = 0
        for k in range(planes):
            bit = (q & (2**bits - 1)) >> (bits - 1 - k) & 1
            total += (-bit if k == 0 else bit) * 2**(planes - 1 - k)
        return total
    numbers, first = (bits, 0) if signs == "pairs" else (bits - 1, 1)
    total = 0
    for k in range(planes - first):
        total = 2 * total + (abs(q) >> (numbers - 1 - k) & 1)
    return total if q > 0 else -total


@pytest.mark.parametrize("signs, bits", CASES)
def test_a_prefix_is_what_its_planes_say(signs, bits):
    low, high = integers.bounds(bits, signs)
    q = np.arange(low, high + 1)
    for planes in range(bits + 1):
        assert cut(q, bits, planes, signs).tolist() == [
            _by_planes(int(n), bits, planes, signs) for n in q]


@pytest.mark.parametrize("signs, bits", CASES)
def test_reals_follow_the_formula(signs, bits):
    rng = np.random.default_rng(0)
    low, high = integers.bounds(bits, signs)
    q = rng.integers(low, high + 1, (7, 3, 2))
    scales, offsets = rng.uniform(0.1, 2, (bits + 1, 3)), rng.normal(size=(bits + 1, 3))
    given = Planes.of(signs, scales, offsets, axis=1)
    for planes in range(1, bits + 1):
        wanted = np.array([[[scales[planes, o] * (_by_planes(int(n), bits, planes, signs)
                                                  + offsets[planes, o])
                             for n in row] for o, row in enumerate(block)] for block in q])
        assert np.array_equal(given.reals(q, planes), wanted.astype(np.float32))
    assert not given.reals(q, 0).any()


@pytest.mark.parametrize("signs, bits", CASES)
def test_prefixes_are_least_squares(signs, bits):
    """No other scale and offset of a prefix are nearer to the weights."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(4, 300))
    q, given = quantize(w, bits, signs)
    for planes in range(1, bits + 1):
        error = np.square(given.reals(q, planes) - w).sum(axis=1)
        for scale, offset in ((1.01, 0), (0.99, 0), (1, 0.01), (1, -0.01)):
            other = given.scales[planes, :, None] * scale * (
                cut(q, bits, planes, signs) + given.offsets[planes, :, None] + offset)
            assert (np.square(other - w).sum(axis=1) >= error * (1 - 1e-5)).all()


def _error(w: np.ndarray, other: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm((other - w) @ x) / np.linalg.norm(w @ x))


def test_smaller_errors_than_precision_batching():
    """Gaussian weights 256 x 1024; their n bits are n + 1 planes.

    Seeds of the research systems, 5.1, have 1.68, 0.272 and 0.0120 for theirs, with weights whose
    spread is not known; errors depend on where it lies between powers of two.
    """
    rng = np.random.default_rng(2)
    w, x = 0.8 * rng.normal(size=(256, 1024)), rng.normal(size=(1024, 50))
    for bits, signs, least, seeds in ((2, "twos", 0.21, 1.68), (4, "twos", 0.063, 0.272),
                                      (8, "magnitude", 0.0043, 0.0120)):
        q, given = quantize(w, bits + 1, signs, [bits + 1])
        found, theirs = _error(w, given.reals(q), x), _error(w, precision_batching(w, bits), x)
        assert theirs == pytest.approx(seeds, rel=0.1)
        assert found < least and found < min(theirs, seeds) / 2
    q, given = quantize(w, 8, "twos", [8])
    assert _error(w, given.reals(q), x) < 0.0085


def test_every_prefix_of_one_file_is_near_its_best():
    """What 8 planes were made for is 4 planes too, nearly as good as 4 planes alone."""
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(64, 512)), rng.normal(size=(512, 50))
    q, given = quantize(w, 8)
    errors = [_error(w, given.reals(q, planes), x) for planes in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    alone, own = quantize(w, 4, "twos", [4])
    assert errors[3] < 1.25 * _error(w, own.reals(alone), x)
    _, floor = derive(q, 8, "twos", given.reals(q))
    assert np.allclose(floor[4], 0.5 - 2**-5, atol=0.05)  # half a step, less half of a fine one


@pytest.mark.parametrize("shape, axis", [((5, 3, 2, 2), 0), ((6, 5), 1), ((1, 40), 0)])
def test_quantized_in_the_shape_of_the_weights(shape, axis):
    w = np.random.default_rng(4).normal(size=shape)
    q, given = quantize(w, 6, axis=axis)
    assert q.shape == shape and q.dtype == np.int8 and given.axis == axis
    assert np.abs(given.reals(q) - w).max() < 0.15
    zero, nothing = quantize(np.zeros(shape), 6, axis=axis)
    assert not nothing.reals(zero).any()


def test_the_search_sees_every_input_channel():
    """512 channels last, 64 taps: with a whole distance of 8 only every 8th would be seen."""
    for channels, taps in ((512, 64), (256, 64), (4096, 3), (64, 9)):
        seen = spread(taps * channels)
        assert len(seen) == min(taps * channels, ENOUGH) == len({*seen})
        assert len({*(seen % channels)}) >= channels / 2
        assert len({*(seen % 2)}) == 2 and seen[0] == 0 and seen[-1] == taps * channels - 1
    w = np.random.default_rng(6).normal(size=(4, 64, 512))
    w[:, :, ::8] = 0  # what a whole distance sees is no weight at all
    q, given = quantize(w, 4)
    assert np.abs(given.reals(q) - w).mean() < 0.08


def test_a_table_of_powers_of_two_keeps_their_exponents():
    """INQ: 5 bits are 0 and 2^0 to 2^7 with a sign."""
    table = [*(-2**n for n in range(7, -1, -1)), 0, *(2**n for n in range(8))]
    q = np.random.default_rng(5).integers(0, 17, (3, 60))
    given = Planes.of("twos", np.full((6, 3), -0.5), np.zeros((6, 3)), table=table)
    plain, planes = given.plain(q)
    assert planes.signs == "powers" and planes.bits == 5
    assert np.array_equal(planes.reals(plain), np.float32(-0.5 * np.array(table)[q]))
    stored = encode(plain, "powers", 5)
    for t in range(1, 6):
        assert np.array_equal(cut(plain, 5, t, "powers"), decode(stored[:t], "powers", 60, 3, 5))


def test_a_table_becomes_the_fewest_plain_planes():
    table = [-4, -3, -1, 0, 1, 3, 4]
    q = np.random.default_rng(5).integers(0, 7, (3, 10))
    given = Planes.of("twos", np.full((4, 3), 0.5), np.full((4, 3), 0.25), table=table)
    plain, planes = given.plain(q)
    assert planes.signs == "magnitude" and planes.bits == 4 and not planes.table
    assert np.array_equal(planes.reals(plain), given.reals(q))
    assert np.array_equal(given.reals(q), np.float32(0.5 * (np.array(table)[q] + 0.25)))
    odd, planes = Planes.of("twos", np.ones((3, 3)), np.zeros((3, 3)),
                            table=[-8, 0, 3]).plain(q % 3)
    assert planes.signs == "twos" and planes.bits == 4 and odd.min() == -8


# --- ONNX -------------------------------------------------------------------------------------

@pytest.mark.parametrize("signs", SIGNS)
def test_passes_keep_planes_and_fold_normalization_into_them(signs):
    """Import is right by the formula, passes change no result, and no weight becomes a float."""
    model = planes_networks.layers(4, signs)
    graph = import_proto(model)
    x = planes_networks.image()
    before = reference.execute(graph, {"image": x})["out"]
    assert np.allclose(before, _computed(model, x), atol=1e-5)
    for _, step in passes.pipeline(integers=True):
        step(graph)
    after = reference.execute(graph, {"image": x})["out"]
    assert np.allclose(before, after, atol=1e-5)
    held = [t for t in graph.tensors() if codes.coded(t)]
    assert [t.shape for t in held] == [(6, 3, 3, 1), (9, 3, 3, 6), (5, 144)]
    assert not any(op.code == "binary" for op in graph.ops)
    assert (held[0].quantization.scales[1:] < 0).any()  # a factor of the normalization is negative


def _computed(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Run the network in torch's way, with the weights of the formula, in ONNX's reference."""
    from onnx.reference import ReferenceEvaluator
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    held = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    nodes = [node for node in plain.graph.node if node.op_type != "BitPlanes"]
    for node in plain.graph.node:
        if node.op_type == "BitPlanes":
            q, scale, offset = (held[name] for name in node.input[:3])
            axis = next(a.i for a in node.attribute if a.name == "axis")
            along = [-1 if k == axis else 1 for k in range(q.ndim)]
            w = scale[-1].reshape(along) * (q + offset[-1].reshape(along))
            plain.graph.initializer.append(numpy_helper.from_array(w, node.output[0]))
            if len(node.output) > 1:
                plain.graph.initializer.append(
                    numpy_helper.from_array(held[node.input[3]][-1], node.output[1]))
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    del plain.opset_import[1:]
    return ReferenceEvaluator(plain).run(None, {"image": x})[0]


def _node(**changes):
    """Return a model with one dense layer of planes, some of it changed."""
    net = planes_networks.Network()
    node, held = planes_onnx.bit_planes("d", np.ones((3, 4)), 2, 0.5, bias=np.zeros(3))
    arrays = {t.name: numpy_helper.to_array(t) for t in held}
    for name, value in changes.items():
        if name in ("codes", "scale", "offset", "bias"):
            arrays[f"d.{name}"] = value(arrays[f"d.{name}"])
        else:
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend(kept)
            if value is not None:
                node.attribute.append(onnx.helper.make_attribute(name, value))
    net.initializers = [numpy_helper.from_array(np.ascontiguousarray(a), n)
                        for n, a in arrays.items()]
    net.nodes.append(node)
    net.node("Gemm", ["image", "d.w", "d.b"], "out", transB=1)
    return net.model("out", (1, 3), (1, 4))


WRONG = {
    "codes are 1 to 2, 2 bits with the signs 'twos' hold -2 to 1":
        {"codes": lambda q: np.where(np.arange(12).reshape(3, 4) == 5, 2, q).astype(np.int8)},
    "its codes are int32": {"codes": lambda q: q.astype(np.int32)},
    "its scale, is float32 of the shape (3,), needed float32 of the shape (3, 3)":
        {"scale": lambda s: s[-1]},
    "its offset, is float64": {"offset": lambda s: s.astype(np.float64)},
    "its bias, holds numbers that are not finite": {"bias": lambda b: b + np.float32(np.nan)},
    "has the scale -1.0, needed numbers above 0": {"scale": lambda s: -s},
    "9 bits with the signs 'twos': needed 0 or 1 to 8 planes": {"bits": 9},
    "1 bits with the signs 'magnitude': needed 0 or 2 to 9 planes": {"bits": 1,
                                                                     "signs": "magnitude"},
    "signs are 'gray'": {"signs": "gray"},
    "needed the attributes bits": {"bits": None},
    "its axis is 2": {"axis": 2},
    "its table has 5 values": {"table": [-2, -1, 0, 1, 2]},
    "its table has 2 values, needed up to 4 ascending": {"table": [1, 0]},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_planes_are_refused(message):
    import_proto(_node())
    with pytest.raises(ModelError) as error:
        import_proto(_node(**WRONG[message]))
    assert message in str(error.value) and "BitPlanes 'd'" in str(error.value)


def test_weights_and_bias_lead_to_one_layer():
    model = _node()
    model.graph.node.append(onnx.helper.make_node("Gemm", ["image", "d.w"], ["z"], transB=1))
    with pytest.raises(ModelError, match="its weights are read by Gemm, Gemm, needed one"):
        import_proto(model)
    model = _node()
    model.graph.node[1].input[2] = "other"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "other"))
    with pytest.raises(ModelError, match="its bias must be that of the Gemm"):
        import_proto(model)
    model = _node()
    model.graph.node[1].op_type = "Add"
    with pytest.raises(ModelError, match="read by Add"):
        import_proto(model)


def test_a_bias_is_not_scaled_by_beta():
    """The rows of a bias are what is added: beta would scale only that of all planes."""
    model = _node()
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("beta", 0.5))
    with pytest.raises(ModelError, match="multiplied by the beta 0.5 of Gemm, needed 1"):
        import_proto(model)
    del model.graph.node[1].attribute[-1]
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("beta", 1.0))
    import_proto(model)


@pytest.mark.parametrize("kind, axis", [("Conv", 1), ("Gemm", 0), ("Gemm transB", 1),
                                        ("MatMul", 0)])
def test_output_channels_are_those_of_the_layer(kind, axis):
    """As many inputs as outputs: no shape tells that the scales are along the wrong axis."""
    def model(axis: int) -> onnx.ModelProto:
        net = planes_networks.Network()
        conv = kind == "Conv"
        net.planes("d", (5, 5, 1, 1) if conv else (5, 5), 3, "twos", axis)
        net.node(kind.split()[0], ["image", "d.w"], "out",
                 **{"transB": 1} if "transB" in kind else {})
        shape = (1, 5, 2, 2) if conv else (1, 5)
        return net.model("out", shape, shape)

    import_proto(model(1 - axis))
    with pytest.raises(ModelError, match=f"its axis is {axis}, but the output channels of "
                                         f"{kind.split()[0]}.* are on axis {1 - axis}"):
        import_proto(model(axis))


@pytest.mark.parametrize("place", ["g", "graphs"])
def test_readers_inside_of_bodies_are_checked(place):
    """A body is a graph too: its planes, and what it reads of the graph around it."""
    def wrapped(inner: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        node = onnx.helper.make_node("Anything", ["image"], ["whole"], name="n", domain="any")
        body = onnx.helper.make_attribute("body", inner if place == "g" else [inner])
        node.attribute.append(body)
        return onnx.helper.make_graph([*nodes, node], "outer", [], [])

    right, wrong = _node(), _node()
    wrong.graph.node.append(onnx.helper.make_node("Gemm", ["image", "d.w"], ["z"], transB=1))
    check_readers(wrapped(right.graph, []))
    for levels in (1, 2):
        graph = wrong.graph
        for _ in range(levels):
            graph = wrapped(graph, [])
        with pytest.raises(ModelError, match="its weights are read by Gemm, Gemm"):
            check_readers(graph)
    reading = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["image", "d.w"], ["y"], transB=1)], "body", [], [])
    with pytest.raises(ModelError, match="its weights are read by Gemm, Anything, needed one"):
        check_readers(wrapped(reading, list(right.graph.node)))
    reading = onnx.helper.make_graph(  # a weight of its own with the same name
        [onnx.helper.make_node("Identity", ["image"], ["d.w"]), *reading.node], "body", [], [])
    check_readers(wrapped(reading, list(right.graph.node)))


def test_writer_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="codes of d are 0 to 8"):
        planes_onnx.bit_planes("d", np.arange(9).reshape(3, 3), 4, 1.0)
    with pytest.raises(ValueError, match="the bias of d has the shape"):
        planes_onnx.bit_planes("d", np.zeros((3, 3)), 4, np.ones((5, 3)), np.zeros((5, 3)),
                               np.zeros((4, 3)))
    with pytest.raises(ModelError, match="needed 0 or 1 to 8"):
        planes_onnx.bit_planes("d", np.zeros((3, 3)), 10, 1.0, signs="pairs")


def test_binarize_is_one_from_zero_on():
    net = planes_networks.Network()
    net.nodes.append(planes_onnx.binarize("image", "out"))
    graph = import_proto(net.model("out", (1, 5), (1, 5)))
    x = np.array([[-1.5, -0.0, 0.0, 1e-30, -1e-30]], np.float32)
    assert reference.execute(graph, {"image": x})["out"].tolist() == [[-1, 1, 1, 1, -1]]
