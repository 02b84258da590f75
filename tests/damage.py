"""Damage model files, each damage with right checksums, and run what is still accepted.

A module of networks (fuzz_integers, fuzz_systems) runs it in a process of its own, so that a crash
is seen: python -m tests.fuzz_integers DEVICE MODEL COUNT ends with status 0 if every file gave a
result or a ModelError, and no byte outside a tensor was written.
"""
from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgerun import ModelError, arrays, loader
from edgerun.device import Device
from edgerun.session import Session
from tests import mutate
from tests.harness import run_guarded

NUMBERS = (0, 1, -1, 2, 3, 7, 16, 17, 127, 128, 255, 256, 65_536, 2**31 - 1, -2**31)
REALS = (0.0, -1.0, 1.0, 0.5, 1e-45, 1e-30, 3e38, float("inf"), float("nan"))
LARGEST = 1 << 22  # bytes of an arena that is run


def damage_constants(rng: random.Random, root: dict, graph: dict) -> None:
    """Overwrite parts of one type's constants: shifts, multipliers, weights, planes, biases."""
    for segment in root["segments"] and [rng.choice(root["segments"])]:
        data = segment["data"] = segment["data"].copy()
        for _ in range(rng.randrange(1, 40)):
            at = rng.randrange(len(data))
            data[at:at + rng.choice((1, 2, 4, 64))] = rng.choice((0, 1, 127, 128, 255,
                                                                  rng.randrange(256)))


def damage_field(rng: random.Random, root: dict, graph: dict) -> None:
    """Change one number, name or index of a tensor, an op or the boundary."""
    kind, with_options = rng.randrange(5), [op for op in graph["ops"] if op["options"]]
    if kind == 0:
        tensor = rng.choice([t for t in graph["tensors"] if t["quantization"]]
                            or graph["tensors"])
        grid = dict(tensor["quantization"] or {"scale": [1.0], "zero_point": [0], "axis": -1})
        change = rng.choice(("scale", "zero_point", "axis", "rounding", "none"))
        if change == "scale":
            grid["scale"] = [rng.choice(REALS) for _ in grid["scale"]]
        elif change == "zero_point":
            grid["zero_point"] = [rng.choice(NUMBERS) for _ in grid["zero_point"]]
        elif change == "axis":
            grid["axis"] = rng.randrange(-2, 5)
        elif change == "rounding":
            grid["rounding"] = rng.choice(("once", "twice", "short", "upward", "single"))
        tensor["quantization"] = None if change == "none" else grid
    elif kind == 1 and with_options:
        options = rng.choice(with_options)["options"][1]
        key = rng.choice(sorted(options) or [""])
        if isinstance(options.get(key), bool):
            options[key] = not options[key]
        elif isinstance(options.get(key), int):
            options[key] = rng.choice(NUMBERS)
        elif isinstance(options.get(key), float):
            options[key] = rng.choice(REALS)
    elif kind == 2:
        op = rng.choice(graph["ops"])
        inputs = list(op["inputs"])
        inputs[rng.randrange(len(inputs))] = rng.randrange(-1, len(graph["tensors"]))
        op["inputs"] = inputs
    elif kind == 3:
        tensor = rng.choice(graph["tensors"])
        shape = [int(n) for n in tensor["shape"]] or [1]
        at = rng.randrange(len(shape))
        shape[at] = rng.choice((shape[at] + 1, shape[at] - 1, 2 * shape[at], rng.choice(NUMBERS)))
        tensor["shape"] = shape
    else:
        tensor = rng.choice(graph["tensors"])
        tensor["dtype"] = rng.choice(("uint8", "int8", "int16", "int32", "fp32", "fp16", "bool"))
        tensor["layout"] = rng.choice((tensor["layout"], "rows", "oc16", "oc16x2", "oc16x4"))


def damage_system(rng: random.Random, root: dict, graph: dict) -> None:
    """Change one number of a mixture, of its experts' ops, or of a mode."""
    near = (-1, 1, 2, 7)
    if graph["mixtures"] and (not graph["modes"] or rng.random() < 0.5):
        mixture = rng.choice(graph["mixtures"])
        place, key = mixture, rng.choice(("gates", "chosen", "slot", "route", "first", "ops"))
        if key in ("first", "ops"):
            place = rng.choice(mixture["experts"])
        place[key] = rng.choice((place[key] + rng.choice(near), rng.choice(NUMBERS)))
        if rng.random() < 0.2:
            mixture["experts"] = rng.sample(mixture["experts"], rng.randrange(
                len(mixture["experts"]) + 1))
    elif graph["modes"] and rng.random() < 0.9:
        counts = rng.choice(graph["modes"])["planes"] = rng.choice(graph["modes"])["planes"].copy()
        if len(counts):
            counts[rng.randrange(len(counts))] = rng.randrange(12)
    else:
        graph["used"] = rng.randrange(-1, len(graph["tensors"]))


def damage_bytes(rng: random.Random, root: dict, graph: dict) -> bytes:
    """Return the bytes of the graph with some of them overwritten."""
    data = bytearray(mutate.encode_graph(graph))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            at -= at % 4
            data[at:at + 4] = np.array([rng.choice(NUMBERS)], np.int64).astype(np.int32).tobytes()
    return bytes(data)


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Return a file with right checksums and some damage, more often to what is read late."""
    root, graph = mutate.unpack(whole)
    kind = rng.randrange(6)
    if (graph["mixtures"] or graph["modes"]) and rng.random() < 0.25:
        damage_system(rng, root, graph)
        return mutate.repack(root, graph)
    if kind < 2:
        damage_constants(rng, root, graph)
    if kind < 5:
        for _ in range(rng.randrange(1, 3) if kind else 0):
            damage_field(rng, root, graph)
        return mutate.repack(root, graph)
    return mutate.repack(root, damage_bytes(rng, root, graph))


def run(whole: bytes, name: str, words: str, count: int) -> None:
    """Damage a file in `count` ways.

    Args:
        whole: the file.
        name: of the network; the seed, too.
        words: of the device.
        count: of files.
    """
    device, rng = Device(words), random.Random(name)
    ran = refused = 0
    for number in range(count):
        print(f"{name} {number}", flush=True)  # what a crash was due to
        try:
            data = damaged(whole, rng)
        except (KeyError, OverflowError, TypeError, ValueError):
            continue  # the writer refuses it
        try:
            model = loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")
            if model.plan.arena_bytes > LARGEST:
                continue
            with Session(model, device) as session:
                for mode in session.modes or [None]:
                    if mode:
                        session.set_precision(mode)
                    run_guarded(session, arrays.random_inputs(model.inputs))
            ran += 1
        except ModelError:
            refused += 1
    print(f"{ran} ran, {refused} were refused, of {count}")
    assert min(ran, refused) > count // 8, "the damage is too small, or too large"


def main(files: Mapping[str, Callable[[], bytes]]) -> None:
    """Do what the command line says: DEVICE, a key of `files`, COUNT."""
    import tests.conftest  # noqa: F401  makes the loader see all drivers
    words, name, count = sys.argv[1:]
    run(files[name](), name, words, int(count))


def process(module: str, *arguments: str) -> None:
    """Run a module of the tests in a process of its own; fail with the last line if it does."""
    ran = subprocess.run([sys.executable, "-m", f"tests.{module}", *arguments], text=True,
                         capture_output=True, cwd=Path(__file__).parents[1], timeout=600)
    last = ran.stdout.rstrip().rpartition("\n")[2]
    assert ran.returncode == 0, f"status {ran.returncode} after {last!r}: {ran.stderr[-2000:]}"
