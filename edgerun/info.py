"""Describe a model file: header, boundary, ops, tensors, segments, plan. Needs no OpenCL."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgerun import mixture, modes, text, tuning
from edgerun.dtypes import name_of
from edgerun.model import Model, Op, TensorInfo
from edgerun.ops import OPS

LONG = 40  # characters of an op's name that are shown within a line

def describe(model: Model) -> dict[str, Any]:
    """Return everything that `edgerun info` prints, as one dict that JSON can hold."""
    return text.plain({
        "path": model.path, "name": model.name, "source": model.source, "producer": model.producer,
        "precision": model.precision, "target": model.target, "file_bytes": model.file_bytes,
        "graph_bytes": model.graph_bytes, "vectors": len(model.vectors),
        "ranges": len(model.ranges), "observer": model.observer, "samples": model.samples,
        "inputs": _boundary(model, model.inputs), "outputs": _boundary(model, model.outputs),
        "macs": mixture.macs(model),
        "mixtures": mixture.planned(model),
        "ops": [_op(op) for op in model.ops],
        "host_ops": [{"code": op.code, "name": op.name, "options": op.options,
                      "inputs": op.inputs, "outputs": _results(op.outputs)}
                     for op in model.host_ops],
        "results": _results(model.results),
        "tensors": _tensors(model),
        "segments": [{"dtype": s.dtype, "bytes": len(s.data), "file_offset": s.file_offset,
                      "crc32": f"{s.crc32:08x}"} for s in model.segments],
        "modes": modes.described(model), "tuning": tuning.plain(model.tuning),
        "patch": None if model.patch is None else asdict(model.patch),
        "plan": {"arena_bytes": model.plan.arena_bytes,
                 "lower_bound_bytes": model.plan.lower_bound_bytes,
                 "peak_op": model.plan.peak_op, "alignment": model.plan.alignment,
                 "proven": model.plan.proven}})


def _boundary(model: Model, infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [{"name": info.name, "shape": info.shape, "dtype": name_of(info.dtype),
             "perm": info.perm, "device_dtype": model.tensors[info.tensor].dtype,
             "pieces": len(info.pieces)} for info in infos]


def _results(infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [{"name": info.name, "shape": info.shape, "dtype": name_of(info.dtype)}
            for info in infos]


def _op(op: Op) -> dict[str, Any]:
    constants = {(t.segment, t.offset): t.bytes for t in op.inputs if t is not None and t.constant}
    return {"index": op.index, "code": op.code, "name": op.name, "options": op.options,
            "inputs": [None if t is None else t.index for t in op.inputs],
            "outputs": [t.index for t in op.outputs],
            "shape": op.outputs[0].shape, "dtype": op.outputs[0].dtype,
            "weight_bytes": sum(constants.values()), "macs": OPS[op.code].macs(op),
            "scratch_bytes": op.scratch_bytes}


def _tensors(model: Model) -> list[dict[str, Any]]:
    """Count tensors by where they live and by dtype; an alias has no bytes of its own."""
    groups: dict[tuple[str, str], list[int]] = {}
    for tensor in model.tensors:
        place = "constant" if tensor.constant else "alias" if tensor.alias_of >= 0 else "arena"
        group = groups.setdefault((place, tensor.dtype), [0, 0])
        group[0] += 1
        group[1] += 0 if place == "alias" else tensor.bytes
    return [{"place": place, "dtype": dtype, "count": count, "bytes": size}
            for (place, dtype), (count, size) in sorted(groups.items())]


def _patch_pairs(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what runs strip by strip, and what that costs and saves."""
    patch = found["patch"]
    if patch is None:
        return []
    return [("patches", "; ".join(stage_text(stage) for stage in patch["stages"])),
            ("", patch_text(patch["extra_macs"], found["macs"] - patch["extra_macs"],
                            patch["arena_bytes"]))]


def stage_text(stage: dict[str, Any]) -> str:
    """Return one stage of patch execution in words."""
    return (f"{stage['ops']} op{'s' if stage['ops'] > 1 else ''} from {stage['first'][:LONG]!r} in "
            f"{stage['strips']} strips" + (", input streamed" if stage["streamed"] else ""))


def patch_text(extra_macs: int, macs: int, arena_bytes: int) -> str:
    """Return what patch execution costs and saves.

    Args:
        extra_macs, macs: multiply-adds that are done twice, and those of the network.
        arena_bytes: without it.
    """
    return (f"{extra_macs / max(macs, 1):.1%} more multiply-adds; the arena would be "
            f"{text.size(arena_bytes)} without")


def describe_text(found: dict[str, Any]) -> str:
    """Return what describe() found, for a terminal."""
    plan = found["plan"]
    header = text.pairs([
        ("file", found["path"]), ("name", found["name"] or "-"), ("source", found["source"] or "-"),
        ("producer", found["producer"] or "-"), ("precision", found["precision"] or "-"),
        ("size", f"{text.size(found['file_bytes'])}, {text.size(found['graph_bytes'])} of it the "
                 "graph"),
        ("arena", f"{text.size(plan['arena_bytes'])}, lower bound "
                  f"{text.size(plan['lower_bound_bytes'])} at op {plan['peak_op']}, alignment "
                  f"{plan['alignment']}" + (", proven smallest" if plan["proven"] else "")),
        ("multiply-adds", f"{found['macs'] / 1e6:.2f} million"),
        *_patch_pairs(found),
        *(("experts", line.strip()) for line in mixture.lines(found["mixtures"])),
        ("test vectors", found["vectors"]),
        *([("calibrated", f"{found['ranges']} ranges by {found['observer']} of "
                          f"{found['samples']} samples")] if found["ranges"] else [])])
    boundary = text.table(
        ("", "name", "shape", "dtype", "on the device"),
        [(role, entry["name"], text.shape(entry["shape"]), entry["dtype"],
          entry["device_dtype"] + (f", axes {entry['perm']}" if entry["perm"] else "")
          + (f", in {entry['pieces']} pieces" if entry["pieces"] else ""))
         for role in ("input", "output") for entry in found[f"{role}s"]], left=range(5))
    ops = text.table(
        ("op", "code", "name", "output", "dtype", "weights", "macs"),
        [(op["index"], op["code"], op["name"], text.shape(op["shape"]), op["dtype"],
          f"{op['weight_bytes']:,}" if op["weight_bytes"] else "",
          f"{op['macs']:,}" if op["macs"] else "") for op in found["ops"]], left=(1, 2, 3, 4))
    host = text.table(
        ("op on the host", "code", "name", "result", "shape", "dtype"),
        [("NumPy", op["code"], op["name"], out["name"], text.shape(out["shape"]), out["dtype"])
         for op in found["host_ops"] for out in op["outputs"]], left=range(6))
    tensors = text.table(
        ("tensors", "dtype", "count", "bytes"),
        [(t["place"], t["dtype"], t["count"], f"{t['bytes']:,}") for t in found["tensors"]],
        left=(0, 1))
    segments = text.table(
        ("segment", "bytes", "at", "crc32"),
        [(s["dtype"], f"{s['bytes']:,}", f"{s['file_offset']:,}", s["crc32"])
         for s in found["segments"]], left=(0,))
    parts = [header, boundary, ops, host if found["host_ops"] else [], tensors,
             segments if found["segments"] else [], modes.lines(found["modes"]),
             tuning.table_text(found["tuning"])]
    return "\n\n".join("\n".join(part) for part in parts if part)
