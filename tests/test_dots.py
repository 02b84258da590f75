"""The choice among ways to sum products: checked, timed, kept on disk."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import DeviceError, dots
from edgerun.device import Device
from edgerun.programs import source


@pytest.fixture
def cold(device, monkeypatch, tmp_path):
    """A device of which nothing was measured yet, with an empty cache of its own."""
    monkeypatch.setenv("EDGERUN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("EDGERUN_DOT", raising=False)
    monkeypatch.setattr(dots, "_measured", {})
    return device


def timed(monkeypatch, times: dict[str, int | None]) -> list[str]:
    """Let ways take certain times, None for wrong sums; returns those that are asked for."""
    asked = []

    def run(device, name, work):
        asked.append(name)
        return times[name]
    monkeypatch.setattr(dots, "_run", run)
    monkeypatch.setattr(dots, "offers", lambda device, name: name in times)
    return asked


def test_every_way_of_a_device_is_right(device):
    """What is offered builds and gives the sums of NumPy, and takes more than no time."""
    found = {name: dots._measure(device, (name,))[name] for name in dots.NAMES
             if dots.offers(device, name)}
    assert {"float", "plain"} <= found.keys()
    assert all(ns is not None and ns > 1000 for ns in found.values()), found


def test_wrong_sums_are_refused(cold, monkeypatch):
    work = dots._Convolution()
    work.expected[13, 7, 5] ^= 1
    assert dots._run(cold, "plain", work) is None
    monkeypatch.setattr(dots, "_Convolution", lambda: work)
    assert not dots.has(cold, "plain")
    with pytest.raises(DeviceError, match="wrong in every way"):
        dots.choose(cold)


def test_what_does_not_build_is_refused(cold):
    other = next(name for name in ("khr", "vnni") if not dots.offers(cold, name))
    assert dots._run(cold, other, dots._Convolution()) is None


@pytest.mark.parametrize("times, best, tried", [
    ({"vnni": 10, "madd": 5, "float": 20, "plain": 30}, "vnni", ["vnni", "float"]),
    ({"khr": 90, "madd": 15, "float": 20, "plain": 30}, "madd", ["khr", "float", "madd", "plain"]),
    ({"dp4a": None, "khr": 10, "float": 90, "plain": 30}, "khr", ["dp4a", "khr", "float"]),
    ({"vnni": 10, "float": None, "plain": 5}, "plain", ["vnni", "float", "plain"]),
    ({"float": 90, "plain": 30}, "plain", ["float", "plain"]),
])
def test_the_fastest_is_taken(cold, monkeypatch, times, best, tried):
    """Multiply-adds in integers are not even tried where an instruction beats those in fp32."""
    asked = timed(monkeypatch, times)
    assert dots.choose(cold) == best
    assert asked == tried


def test_a_second_start_measures_nothing(cold, monkeypatch, tmp_path):
    times = {"khr": 30, "float": 20, "plain": 25}
    asked = timed(monkeypatch, times)
    assert dots.choose(cold) == "float"
    asked.clear(), dots._measured.clear()
    assert dots.choose(Device(cold.info.platform)) == "float"
    assert asked == []
    entry, = tmp_path.glob("*.dot")
    times["vnni"] = 5  # other ways than before: another driver, or another CPU
    assert dots.choose(cold) == "vnni"
    assert len(list(tmp_path.glob("*.dot"))) == 2 and entry.exists()


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: b"", lambda data: data[:60] + b"?" + data[61:],
    lambda data: data.replace(b"20", b"70"), lambda data: b"X" + data[1:]])
def test_a_damaged_answer_is_measured_again(cold, monkeypatch, tmp_path, damage):
    asked = timed(monkeypatch, {"float": 20, "plain": 25})
    dots.choose(cold)
    entry, = tmp_path.glob("*.dot")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    asked.clear(), dots._measured.clear()
    assert dots.choose(cold) == "float"
    assert asked == ["float", "plain"] and entry.read_bytes() == whole


def test_no_cache_no_file(cold, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGERUN_CACHE_DIR", "0")
    timed(monkeypatch, {"float": 20, "plain": 25})
    assert dots.choose(cold) == "float"
    assert list(tmp_path.iterdir()) == []


# What the instructions of absent devices compute, in OpenCL C 1.2: functions to put in front, and
# statements in the place of assembly.
FUNCTIONS = {"arm": """
uint arm_dot_acc(uchar4 x, uchar4 w, uint acc) {
    return acc + (uint)x.s0 * w.s0 + (uint)x.s1 * w.s1 + (uint)x.s2 * w.s2 + (uint)x.s3 * w.s3;
}
""", "dp4a": """
int __builtin_IB_dp4a_us(int acc, int x, int w) {
    for (int k = 0; k < 32; k += 8) acc += (x >> k & 255) * (w << (24 - k) >> 24);
    return acc;
}
"""}
ASSEMBLY = {
    "udot": ('__asm__("udot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w));',
             "for (int k = 0; k < 32; k += 8) acc += (x >> k & 255) * (w >> k & 255);"),
    "usdot": ('__asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w));',
              "for (int k = 0; k < 32; k += 8) acc += (x >> k & 255) * (w << (24 - k) >> 24);")}
TEST = """
__kernel void sums(__global const int *x, __global const int *w, __global int *y) {
    const int i = get_global_id(0);
    const I sum = mac4((I)(y[i]), x[i], (I)(w[i]));
    int lanes[VEC];
    SPILL(sum, lanes);
    y[i] = lanes[0];
    for (int k = 1; k < VEC; k++) if (lanes[k] != lanes[0]) y[i] = -1;
}"""
EXTREMES = np.array([0x00000000, 0xFFFFFFFF, 0x80808080, 0x7F7F7F7F, 0x01020380, 0xFF7F8001],
                    np.uint32)


@pytest.mark.parametrize("vec", [4, 8, 16])
@pytest.mark.parametrize("name", ["arm", "dp4a", "udot", "usdot", "plain"])
def test_signs(device, name, vec):
    """Unsigned activations and signed weights, by instructions that this device does not have.

    The instruction is described in C here: this shows that the numbers around it are right, not
    that a device has it.
    """
    text = source("dot", {"VEC": vec, f"DOT_{name.upper()}": 1})
    if name in ASSEMBLY:
        assert text.count(ASSEMBLY[name][0]) == 1
        text = text.replace(*ASSEMBLY[name])
    cl, rng = device.cl, np.random.default_rng(0)
    x, w = (np.concatenate([np.repeat(EXTREMES, 6) if first else np.tile(EXTREMES, 6),
                            rng.integers(0, 2**32, 1000, np.uint32)]) for first in (True, False))
    y = rng.integers(-10**6, 10**6, len(x), np.int32)
    expected = y + (x.view(np.uint8).reshape(-1, 4).astype(np.int32)
                    * w.view(np.int8).reshape(-1, 4)).sum(1, dtype=np.int32)
    program = cl.Program(device.context, FUNCTIONS.get(name, "") + text + TEST).build(
        ["-cl-std=CL1.2"], cache_dir=False)
    flags = cl.mem_flags
    buffers = [cl.Buffer(device.context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=array)
               for array in (x, w, y)]
    cl.Kernel(program, "sums")(device.queue, y.shape, None, *buffers)
    cl.enqueue_copy(device.queue, y, buffers[2])
    assert np.array_equal(y, expected)
